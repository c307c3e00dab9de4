"""Clusters of any shape, by density."""

from __future__ import annotations

from typing import Any, Final

from mesatee.enclave.functions._design import Asked, Design, gather, one_thread, scaling, within
from mesatee.enclave.functions._keys import key_columns
from mesatee.errors import Malformed
from mesatee.table import Table

ROWS: Final = 200_000
"""All neighbours of all rows are held at once."""


def dbscan(
    inputs: dict[str, Table],
    *,
    distance: float,
    neighbours: int = 5,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    keep: str | list[str] = [],  # noqa: B006  as above
    scale: bool = False,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Find clusters of any shape: rows that are close to each other, and close to others that are (DBSCAN).

    A row is a ``core`` if at least `neighbours` rows, itself among them, are no farther than `distance`. Cores that
    near are of one cluster; other rows that near to a core are its ``border`` (of one of the clusters if there are
    several, always the same); the rest is ``noise``. `columns` are of numbers or truth values; all of these that
    `keep` does not name if it is left out. With `scale` each is centred and divided by its standard deviation (with n)
    before, so that units do not matter; constant columns are refused then. At most 200,000 rows are looked at.

    The output has a row for each row: the key, or, with `how` ``rows``, the columns that `keep` names, one at least;
    ``cluster``, a number from 1, the cluster of most rows first, which is null for noise; and ``role``, which is null
    for a row that has a null (or NaN) in one of the columns. Infinite values are refused. Rows stand in the order of
    the key or of what is kept, and results do not depend on the order of the inputs'.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output of each single row whether it lies near to others, and to which, and the
    keys, or what `keep` names. Reveals to the receivers of `diagnostics`: the numbers of rows of each input, how many
    have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa

    within("distance", distance, 1e100, 1e-100)
    within("neighbours", neighbours, ROWS)
    kept = [keep] if isinstance(keep, str) else list(keep)
    if key is None and not kept:
        raise Malformed("keep names no column: nothing would tell which row is of which cluster")
    design = gather("dbscan", inputs, Asked(columns, text=False, keep=kept), how, key)
    if design.rows > ROWS:
        raise Malformed(f"{design.rows} rows are too many: at most {ROWS}")
    clusters, cores = _clusters(design, scale, distance, neighbours)
    total_rows = design.data.rows
    numbers = np.zeros(total_rows, np.int64)
    numbers[design.places] = clusters
    kinds = np.full(total_rows, 3)
    kinds[design.places] = np.where(cores, 0, np.where(clusters > 0, 1, 2))
    shown = _kept(design, inputs, key, kept)
    if taken := sorted({"cluster", "role"} & set(shown)):
        raise Malformed(f"the column {taken[0]!r} to keep has a name of the output's: rename it")
    names = list(shown)
    shown["cluster"] = pa.array(numbers, mask=numbers == 0)
    shown["role"] = pa.array(["core", "border", "noise", None]).take(pa.array(kinds))
    order = [(name, "ascending") for name in [*names, "cluster", "role"]]
    try:
        return Table(pa.table(shown).sort_by(order))
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        raise Malformed("a column to keep has no order: name one of text, numbers or times") from None


def _clusters(design: Design, scale: bool, distance: float, neighbours: int) -> tuple[Any, Any]:
    """The cluster of each row of the matrix, 0 for noise, and which rows are cores."""
    import numpy as np
    from sklearn.cluster import DBSCAN

    if not design.rows:
        return np.zeros(0, np.int64), np.zeros(0, bool)
    _, _, ready = scaling(design, scale)
    one_thread()
    found = DBSCAN(eps=distance, min_samples=neighbours, algorithm="kd_tree").fit(ready)
    cores = np.zeros(design.rows, bool)
    cores[found.core_sample_indices_] = True
    labels = found.labels_
    if not cores.any():
        return np.zeros(design.rows, np.int64), cores
    # Rows stand in order of their values, so the first row of a cluster is its smallest one.
    names, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort([first, -sizes])
    number = np.zeros(len(names) + 1, np.int64)
    number[names[order]] = np.arange(1, len(names) + 1)
    return number[labels], cores


def _kept(design: Design, inputs: dict[str, Table], key: Any, kept: list[str]) -> dict[str, Any]:
    import pyarrow as pa

    data = design.data
    shown: dict[str, Any] = {}
    if data.picked is not None:
        first = min(inputs)
        for name in key_columns(inputs, key)[first]:
            shown[name] = data.tables[first].column(name).take(data.picked[first]).combine_chunks()
    for name in kept:
        if name in shown:
            raise Malformed(f"keep names {name!r}, which is there already")
        if not data.source(name):
            raise Malformed(f"keep names {name!r}, which is no column of the tables")
        pieces = [piece for _, piece in data.values(name)]
        kinds = {piece.type for piece in pieces if not pa.types.is_null(piece.type)}
        if len(kinds) > 1:
            raise Malformed(f"the column {name!r} has different types in the inputs")
        kind = kinds.pop() if kinds else pa.null()
        chunks = [chunk for piece in pieces for chunk in getattr(piece, "chunks", [piece])]
        shown[name] = pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
    return shown
