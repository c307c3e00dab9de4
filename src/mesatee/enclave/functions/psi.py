"""Private set intersection: which keys do all parties have?

The parties' tables meet in one sandboxed child; what each of them learns is what the docstring of `psi` says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from mesatee._core import oblivious_match, oblivious_sets
from mesatee.batches import Batches
from mesatee.enclave.functions._keys import Keys, distinct, from_rows, key_columns, prepare, to_rows, widest
from mesatee.enclave.functions._spill import Sizes, Spilled
from mesatee.enclave.functions._threads import useful
from mesatee.errors import Malformed
from mesatee.table import Table

MODES: Final = ("intersection", "difference", "cardinality", "union", "bitmap")
LISTING: Final = ("intersection", "difference")
"""Modes whose output is keys."""
LEAKAGES: Final = ("oblivious", "access-pattern")


def psi(
    inputs: dict[str, Table],
    *,
    key: str | list[str] | dict[str, str | list[str]],
    mode: str = "intersection",
    leakage: str = "oblivious",
    normalise: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
) -> Table:
    """Intersect the key columns of two or more tables, as sets.

    `key` names the key column or columns of all inputs, or maps each input to its own. Rows with a null in
    a key column never match; a key that stands several times counts once. `normalise` names rules for
    columns of text: ``trim``, ``case``, ``email`` (both), ``phone`` (digits, and + for a leading 00).

    `mode` is ``intersection`` (the keys that all inputs have, sorted, in columns named as in the first
    input), ``difference`` (those of the first input that no other has), ``cardinality`` or ``union`` (one
    column and row: how many keys all have, or anybody has), or ``bitmap`` (columns ``input``, ``row`` and
    ``common`` for every row of every input). Inputs are taken in the order of their names.

    `leakage` is what one may learn who watches the processor's memory: with ``oblivious`` the numbers of
    rows, lengths of text as the files show them, and the size of the result; with ``access-pattern`` also
    which rows match. Keys take at most 256 bytes for ``oblivious``, text with 8 more for its length. Inputs
    that do not fit into the task's memory are matched in a scratch file, where keys take at most 32 bytes.

    Reveals to the receivers of the output: with ``intersection`` the keys that all inputs have, and nothing
    of the other columns; with ``difference`` keys of the first input, and that the others lack them; with
    ``cardinality`` and ``union`` only how many they are; with ``bitmap`` which rows of each input are
    common. Reveals to the receivers of `diagnostics`: of each input the numbers of rows, of rows with nulls
    and of distinct keys. A receiver who owns one of the inputs can tell which of its own keys the others
    have; from repeated runs on chosen inputs one can learn single keys even by ``cardinality``: the number
    of runs that a task allows is the bound.
    """
    if mode not in MODES:
        raise Malformed(f"mode is one of {', '.join(MODES)}")
    if leakage not in LEAKAGES:
        raise Malformed(f"leakage is one of {', '.join(LEAKAGES)}")
    if len(inputs) < 2:
        raise Malformed("psi needs two or more inputs")
    inputs = dict(sorted(inputs.items()))
    wanted = key_columns(inputs, key)
    # The contract knows tables alone; inputs that do not fit into memory come in pieces, all of them.
    pieces: dict[str, Any] = dict(inputs)
    if any(isinstance(values, Batches) for values in pieces.values()):
        found: Table = _spilled(pieces, wanted, normalise, mode, leakage)
        return found
    parties = prepare(inputs, wanted, normalise)
    columns = next(iter(wanted.values()))
    engine = _oblivious if leakage == "oblivious" else _hashed
    return engine(parties, columns, mode)


def _say(parties: Mapping[str, Keys | Sizes], counts: list[int], common: int) -> None:
    for (name, keys), count in zip(parties.items(), counts, strict=True):
        print(
            f"psi: {name}: {keys.rows} rows, {keys.nulls} with nulls, {count} distinct keys", file=sys.stderr
        )
    print(f"psi: {common} common keys", file=sys.stderr)


def _oblivious(parties: dict[str, Keys], columns: list[str], mode: str) -> Table:
    given = list(parties.values())
    widths = widest(given)
    rows = [to_rows(keys, widths) for keys in given]
    threads = useful()
    if mode == "bitmap":
        marks, _, counts, found, _ = oblivious_match(rows, threads=threads)
        _say(parties, counts, found)
        return _bitmap(parties, marks)
    chosen, counts, found, union = oblivious_sets(
        rows, only_first=mode == "difference", listed=mode in LISTING, threads=threads
    )
    _say(parties, counts, found)
    if chosen is None:
        return Table.from_dict({mode: [found if mode == "cardinality" else union]})
    return from_rows(chosen, [values.type for values in given[0].arrays], columns)


def _spilled(
    pieces: dict[str, Batches],
    wanted: dict[str, list[str]],
    normalise: str | list[str],
    mode: str,
    leakage: str,
) -> Any:
    if mode == "bitmap" or leakage != "oblivious":
        raise Malformed("bitmaps and access patterns are made in memory: allow the task more of it")
    found = Spilled(pieces, wanted, normalise, only_first=mode == "difference", listed=mode in LISTING)
    print("psi: the inputs do not fit into memory and were matched in a sealed scratch file", file=sys.stderr)
    _say(found.sizes, [sizes.distinct for sizes in found.sizes.values()], found.wanted)
    if mode in LISTING:
        return found.keys(next(iter(wanted.values())))
    return Table.from_dict({mode: [found.wanted if mode == "cardinality" else found.union]})


def _bitmap(parties: dict[str, Keys], marks: list[bytes]) -> Table:
    import numpy as np
    import pyarrow as pa

    tables = [
        pa.table(
            {
                "input": pa.array([name], pa.large_string()).take(pa.array(np.zeros(keys.rows, np.int32))),
                "row": pa.array(np.arange(keys.rows)),
                "common": pa.array(np.frombuffer(found, np.uint8).astype(bool)),
            }
        )
        for (name, keys), found in zip(parties.items(), marks, strict=True)
    ]
    return Table(pa.concat_tables(tables))


def _hashed(parties: dict[str, Keys], columns: list[str], mode: str) -> Table:
    import pyarrow as pa

    sets = [distinct(keys) for keys in parties.values()]
    names = sets[0].column_names
    common = sets[0]
    for other in sets[1:]:
        how = "left anti" if mode == "difference" else "inner"
        common = common.join(other, keys=names, join_type=how, use_threads=False)
    _say(parties, [found.num_rows for found in sets], common.num_rows)
    match mode:
        case "cardinality":
            return Table.from_dict({mode: [common.num_rows]})
        case "union":
            everything = pa.concat_tables(sets).group_by(names, use_threads=False).aggregate([])
            return Table.from_dict({mode: [everything.num_rows]})
        case "bitmap":
            return _bitmap(parties, [_members(keys, common) for keys in parties.values()])
    found = common.sort_by([(name, "ascending") for name in names])
    return Table(found.rename_columns(columns))


def _members(keys: Keys, common: Any) -> bytes:
    """A byte for each row: 1 if its key is among the common ones."""
    import numpy as np
    import pyarrow as pa

    names = common.column_names
    rows = pa.table(dict(zip(names, keys.arrays, strict=True)))
    rows = rows.append_column("row", pa.array(np.arange(keys.rows))).drop_null()
    found = rows.join(common, keys=names, join_type="left semi", use_threads=False)
    marks = np.zeros(keys.rows, np.uint8)
    marks[found.column("row").to_numpy()] = 1
    return marks.tobytes()
