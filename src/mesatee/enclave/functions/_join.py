"""Rows of several tables that belong together by their keys: what `join` gives and `aggregate` counts on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._keys import Keys, key_columns, prepare
from mesatee.enclave.functions._order import dense, ordered, plain, ranks
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.table import Table

HOWS: Final = ("inner", "left")
MANYS: Final = ("refuse", "unique", "multiply")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is joined: the inputs by name, their keys in common types, and where each column of the result is from.

    `names` are those of the key columns; `columns` is name -> (input, column) of all others, in order.
    """

    inputs: dict[str, Table]
    keys: dict[str, Keys]
    names: list[str]
    columns: dict[str, tuple[str, str]]


def plan(
    inputs: dict[str, Table],
    key: str | list[str] | dict[str, str | list[str]],
    normalise: str | list[str],
    columns: dict[str, list[str]] | None = None,
) -> Plan:
    """Check keys and columns. `inputs` are sorted by name. Raises `Malformed`."""
    wanted = key_columns(inputs, key)
    names = next(iter(wanted.values()))
    chosen = _chosen(inputs, wanted, columns)
    return Plan(inputs, prepare(inputs, wanted, normalise), names, named(chosen, names))


def _chosen(
    inputs: dict[str, Table], wanted: dict[str, list[str]], columns: dict[str, list[str]] | None
) -> list[tuple[str, str]]:
    if columns is not None and (unknown := sorted(set(columns) - set(inputs))):
        raise Malformed(f"columns names {unknown[0]!r}, which is no input")
    found = []
    for name, table in inputs.items():
        if columns is None:
            picked = [column for column in table.columns if column not in wanted[name]]
        else:
            picked = columns.get(name, [])
        for column in picked:
            if table.columns.count(column) != 1:
                count = table.columns.count(column) or "no"
                raise Malformed(f"the input {name} has {count} columns {column!r}")
            found.append((name, column))
    if len(set(found)) != len(found):
        raise Malformed("columns names a column of an input twice")
    return found


def named(chosen: list[tuple[str, str]], keys: list[str]) -> dict[str, tuple[str, str]]:
    """Name of the result -> (input, column): the column's own, or with the input's in front where two would be equal.

    Raises `Malformed`.
    """
    times = Counter(keys) + Counter(column for _, column in chosen)
    found: dict[str, tuple[str, str]] = {}
    for name, column in chosen:
        said = column if times[column] == 1 else f"{name}_{column}"
        if said in found or said in keys:
            raise Malformed(f"two columns of the result would be called {said!r}: choose fewer by columns")
        found[said] = (name, column)
    return found


def rows(plan: Plan, how: str, many: str) -> tuple[dict[str, Any], bool]:
    """For each input which of its rows stands in each row of the result, -1 where none does, by ascending key.

    With ``left`` the rows of the first input without a whole key are the last. Also whether the keys alone say the
    order of the rows. Raises `Malformed` for keys that are
    not unique where they must be, `TooLarge` for a result of over `limits.JOIN_ROWS` rows.
    """
    import numpy as np

    codes, count = _codes(plan.keys)
    complete = {name: keys.complete.to_numpy(zero_copy_only=False) for name, keys in plan.keys.items()}
    counts = [np.bincount(codes[name][complete[name]], minlength=count) for name in codes]
    first = next(iter(codes))
    there = counts[0] > 0 if how == "left" else np.all([found > 0 for found in counts], axis=0)
    if many == "unique" and any((found > 1).any() for found in counts):
        raise Malformed(
            "a key stands several times in an input: make keys unique in all inputs, or set many to 'refuse'"
        )
    if many == "refuse" and (np.sum([found > 1 for found in counts], axis=0)[there] > 1).any():
        raise Malformed(
            "a key stands several times in more than one input, so that rows would multiply: "
            "make keys unique in all inputs but one, or set many to 'multiply'"
        )
    alone = np.flatnonzero(~complete[first]) if how == "left" else np.zeros(0, np.int64)
    times = [np.maximum(found, 1)[there] for found in counts]
    # Not in integers, which wrap.
    total = float(np.sum(np.prod([found.astype(float) for found in times], axis=0))) + len(alone)
    if total > limits.JOIN_ROWS:
        raise TooLarge(
            f"the join would have over {limits.JOIN_ROWS} rows",
            hint="filter the inputs first, or join by a key that stands less often",
        )
    found: dict[str, Any] = {}
    each = np.prod(times, axis=0)
    place = np.arange(int(each.sum())) - np.repeat(np.cumsum(each) - each, each)
    # Within a key the rows of all inputs are gone through like the digits of a number.
    for name, all_of, wide in list(zip(codes, counts, times, strict=True))[::-1]:
        width = np.repeat(wide, each)
        by_key = np.flatnonzero(complete[name])
        by_key = np.append(by_key[np.argsort(codes[name][by_key], kind="stable")], -1)
        start = np.repeat((np.cumsum(all_of) - all_of)[there], each)
        here = np.where(np.repeat(all_of[there], each) > 0, start + place % width, -1)
        rest = alone if name == first else np.full(len(alone), -1)
        found[name] = np.concatenate([by_key[here], rest])
        place //= width
    return {name: found[name] for name in codes}, not len(alone) and bool((each == 1).all())


def _codes(parties: dict[str, Keys]) -> tuple[dict[str, Any], int]:
    """One number for each row of each input: the same for equal keys, in the order of the keys."""
    import numpy as np
    import pyarrow as pa

    positions = zip(*(keys.arrays for keys in parties.values()), strict=True)
    together, count = dense([ranks(pa.concat_arrays(arrays)) for arrays in positions])
    ends = np.cumsum([keys.rows for keys in parties.values()])
    return dict(zip(parties, np.split(together, ends[:-1]), strict=True)), count


def table(plan: Plan, found: dict[str, Any], wanted: list[str] | None = None) -> Table:
    """The columns `wanted` (all, if None) of the result's rows, as `rows` gave them."""
    import pyarrow as pa

    taken = {name: pa.array(where, mask=where < 0) for name, where in found.items()}
    first = next(iter(taken))
    columns = {}
    for name, values in zip(plan.names, plan.keys[first].arrays, strict=True):
        if wanted is None or name in wanted:
            columns[name] = values.take(taken[first])
    for name, (owner, column) in plan.columns.items():
        if wanted is None or name in wanted:
            columns[name] = plain(plan.inputs[owner].to_arrow().column(column)).take(taken[owner])
    return Table(pa.table(columns)) if columns else Table(pa.table({"": taken[first]}))


def joined(plan: Plan, how: str, many: str) -> Table:
    """All columns of the result, its rows sorted by the keys and then by all other columns."""
    found, sure = rows(plan, how, many)
    return table(plan, found) if sure else ordered(table(plan, found))


def check(how: str, many: str) -> None:
    """Raises `Malformed` if there is no such join."""
    if how not in HOWS:
        raise Malformed(f"how is one of {', '.join(HOWS)}")
    if many not in MANYS:
        raise Malformed(f"many is one of {', '.join(MANYS)}")


__all__ = ["HOWS", "MANYS", "Plan", "check", "joined", "named", "plan", "rows", "table"]
