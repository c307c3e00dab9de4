"""Weight of evidence and information value: how well each column tells events from the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from mesatee.enclave.functions._parties import Categories, Combined, combine
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
BINS: Final = 1_000
"""Bins of one column."""


@dataclass(frozen=True, slots=True)
class _Bin:
    column: str
    kind: str
    low: float | None
    high: float | None
    value: str | None
    rows: int
    events: int


def woe(
    inputs: dict[str, Table],
    *,
    target: str,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    event: str | int | float | bool = 1,
    bins: int = 10,
    edges: dict[str, list[float]] = {},  # noqa: B006  as above
    smoothing: float = 0.5,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Give the weight of evidence of each bin or category of columns, and the columns' information value.

    `target` is the column that says what happened: where it has the value `event` (``1`` is also ``true``)
    there was an event, where it has another one there was none; rows with a null there are left out.
    `columns` are the columns to look at, all others if it is left out. Columns of numbers are cut into so
    many `bins` of about equally many rows at their quantiles, fewer where values are equal, or at the inner
    `edges` that you name for a column; a bin holds its lower edge and not its upper one, and the outer ones
    have no end. Text, truth values, dates and times are taken as categories, at most 1,000. Nulls (NaN among
    it) are a bin of their own.

    The output has a row for each bin: ``column``, ``kind`` (``bin``, ``category`` or ``null``), ``low``,
    ``high``, ``value``, ``rows``, ``events``, ``woe``, ``iv`` (its part of the information value) and
    ``information_value`` of the column. With `smoothing` s, k bins that have rows, and e of all E events in a
    bin, the share of events is (e + s) / (E + s k), that of the others likewise; ``woe`` is the natural
    logarithm of the first over the second, so that a positive one means more events, and ``iv`` their
    difference times ``woe``. Without smoothing a bin without events, or with nothing else, has none: it is
    null, and so is the information value of its column. An empty bin has none either, and counts for nothing.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output how many rows and events of all inputs together fall into each
    bin, which categories there are, and, unless you name `edges`, the quantiles of the columns, which are
    values of single people or lie between those of two. Reveals to the receivers of `diagnostics`: the
    numbers of rows of each input, how many have no target, and with ``columns`` how many people all of them
    have.
    """
    import numpy as np

    if not 2 <= bins <= BINS:
        raise Malformed(f"bins is from 2 to {BINS}")
    if not 0 <= smoothing < math.inf:
        raise Malformed("smoothing is 0 or more")
    data = combine("woe", inputs, how, key)
    names = data.chosen(columns or [name for name in data.names if name != target])
    if target in names:
        raise Malformed("the target is no column to look at")
    _check(edges, names)
    outcome = data.categories(target)
    known = data.complete(outcome)
    happened = np.isin(outcome.codes[known], _events(outcome, event))
    if not 0 < happened.sum() < len(happened):
        data.say(f"{int(happened.sum())} of {len(happened)} rows are events: no weight can be told")
    found = []
    for name in names:
        found += _weighed(data, _binned(data, name, known, happened, bins, edges.get(name)), smoothing)
    return _table(found)


def _events(outcome: Categories, event: str | int | float | bool) -> list[int]:
    """The places of the labels that mean an event."""
    same = [event]
    if isinstance(event, int | float) and event in (0, 1):
        same = [bool(event), int(event)]
    return [place for place in map(outcome.place, same) if place >= 0]


def _check(edges: dict[str, list[float]], names: list[str]) -> None:
    for name, given in edges.items():
        if name not in names:
            raise Malformed(f"edges names {name!r}, which is none of the columns")
        if not 1 <= len(given) < BINS or any(b <= a for a, b in pairwise(given)):
            raise Malformed(f"the edges of {name!r} are 1 to {BINS - 1} numbers in rising order, none twice")


def _binned(
    data: Combined, name: str, known: Any, happened: Any, bins: int, given: list[float] | None
) -> list[_Bin]:
    """The bins of one column, in order; one for nulls if there are any."""
    import numpy as np
    import pyarrow as pa

    if given is None and (not data.is_number(name) or all(map(pa.types.is_boolean, data.kinds(name)))):
        found = data.categories(name)
        codes = found.codes[known]
        places: list[tuple[str, float | None, float | None, str | None]] = [
            ("category", None, None, text) for text in found.texts
        ]
    else:
        values = data.numbers(name)[known]
        present = np.sort(values[~np.isnan(values)])
        inner = given if given is not None else _quantiles(present, bins)
        codes = np.where(np.isnan(values), -1, np.searchsorted(inner, values, side="right"))
        ends = [None, *inner, None]
        places = [("bin", low, high, None) for low, high in pairwise(ends)]
    # Nulls are the last bin.
    codes = np.where(codes < 0, len(places), codes)
    places.append(("null", None, None, None))
    rows = np.bincount(codes, minlength=len(places))
    events = np.bincount(codes[happened], minlength=len(places))
    return [
        _Bin(name, *place, int(count), int(hits))
        for place, count, hits in zip(places, rows, events, strict=True)
        if place[0] == "bin" or count
    ]


def _quantiles(present: Any, bins: int) -> list[float]:
    """Inner edges; none at the smallest value, below which there is nothing."""
    import numpy as np

    if not len(present):
        return []
    found = np.unique(np.quantile(present, np.arange(1, bins) / bins))
    return [float(edge) for edge in found[found > present[0]]]


def _weighed(data: Combined, bins: list[_Bin], smoothing: float) -> list[tuple[_Bin, float, float, float]]:
    """Each bin with its weight, its part of the information value, and that of the column; NaN where there is none."""
    events = sum(item.events for item in bins)
    others = sum(item.rows for item in bins) - events
    filled = sum(item.rows > 0 for item in bins)
    weights, parts = [], []
    for item in bins:
        hits, misses = item.events + smoothing, item.rows - item.events + smoothing
        if not item.rows or not hits or not misses or not events or not others:
            weights.append(math.nan)
            parts.append(math.nan)
            continue
        hit_share, miss_share = hits / (events + smoothing * filled), misses / (others + smoothing * filled)
        weights.append(math.log(hit_share / miss_share))
        parts.append((hit_share - miss_share) * weights[-1])
    value = math.fsum(part for part, item in zip(parts, bins, strict=True) if item.rows)
    if bins and not filled:
        value = math.nan
    if math.isnan(value):
        data.say(f"the information value of {bins[0].column!r} is null: a bin has events alone, or none")
    return [(item, weight, part, value) for item, weight, part in zip(bins, weights, parts, strict=True)]


def _table(found: list[tuple[_Bin, float, float, float]]) -> Table:
    import pyarrow as pa

    bins = [item for item, *_ in found]
    return Table(
        pa.table(
            {
                "column": pa.array([item.column for item in bins], pa.string()),
                "kind": pa.array([item.kind for item in bins], pa.string()),
                "low": numbers(item.low for item in bins),
                "high": numbers(item.high for item in bins),
                "value": pa.array([item.value for item in bins], pa.string()),
                "rows": pa.array([item.rows for item in bins], pa.int64()),
                "events": pa.array([item.events for item in bins], pa.int64()),
                "woe": numbers(weight for _, weight, _, _ in found),
                "iv": numbers(part for _, _, part, _ in found),
                "information_value": numbers(value for *_, value in found),
            }
        )
    )
