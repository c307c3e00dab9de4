"""Join the tables of two or more parties by key."""

from __future__ import annotations

import sys
from typing import Final

from mesatee.enclave.functions import _join, _oblivious
from mesatee.errors import Malformed
from mesatee.table import Table

LEAKAGES: Final = ("access-pattern", "oblivious")


def join(
    inputs: dict[str, Table],
    *,
    key: str | list[str] | dict[str, str | list[str]],
    how: str = "inner",
    columns: dict[str, list[str]] | None = None,
    many: str = "refuse",
    leakage: str = "access-pattern",
    normalise: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
) -> Table:
    """Join two or more tables by equal keys.

    `key` names the key column or columns of all inputs, or maps each input to its own. Inputs are taken in
    the order of their names. `how` is ``inner`` (rows whose key all inputs have) or ``left`` (all rows of the
    first input, with nulls where another has no such key). A row with a null or NaN in its key matches
    nothing. `normalise` names rules for key columns of text, as in `psi`: ``trim``, ``case``, ``email``,
    ``phone``.

    `columns` maps inputs to those of their columns that come out; an input that it leaves out gives none.
    Without it all columns come out. The key columns come first, once, named as in the first input, in their
    normal form and in the type that all inputs share. Where two columns would have one name, the input's is
    put in front of both: ``left_age`` and ``right_age``.

    A key may stand several times in one input: each of its rows comes out, with the same partner. If it does
    so in several inputs, the rows multiply. That is mostly a mistake, and counts people twice in whatever is
    computed next, so it is refused unless `many` is ``multiply``; with ``unique`` a key stands once in every
    input. Over `JOIN_ROWS` rows (docs/limits.md) are refused in any case. Rows come out sorted by key and then
    by all other columns but lists and structs; null is the last.

    `leakage` is what one may learn who watches the processor's memory: with ``access-pattern`` which rows match;
    with ``oblivious`` the numbers of rows, lengths of text, and the size of the result. That takes ``inner`` joins
    of keys that are unique in every input, rows of at most 256 bytes (a column takes 16, text its longest value
    and 16 more), and no lists or structs.

    Reveals to the receivers of the output: the rows that match with all chosen columns, and with ``left``
    also all others of the first input, and that they match nothing. A receiver who owns an input learns for
    each of its own keys whether the others have it. Reveals to the receivers of `diagnostics`: of each input
    the numbers of rows and of rows with nulls in the key, and the number of rows that come out.
    """
    _join.check(how, many)
    if leakage not in LEAKAGES:
        raise Malformed(f"leakage is one of {', '.join(LEAKAGES)}")
    if leakage == "oblivious" and how != "inner":
        raise Malformed("an oblivious join is inner: set leakage to 'access-pattern' for others")
    if len(inputs) < 2:
        raise Malformed("join needs two or more inputs")
    plan = _join.plan(dict(sorted(inputs.items())), key, normalise, columns)
    found = _oblivious.joined(plan) if leakage == "oblivious" else _join.joined(plan, how, many)
    for name, keys in plan.keys.items():
        print(f"join: {name}: {keys.rows} rows, {keys.nulls} with nulls in the key", file=sys.stderr)
    print(f"join: {found.num_rows} rows come out", file=sys.stderr)
    return found
