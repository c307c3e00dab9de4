"""Principal component analysis of numeric columns."""

from __future__ import annotations

from typing import Any, Final

from mesatee.enclave.functions._components import Components
from mesatee.errors import Malformed
from mesatee.table import Table

OUTPUTS: Final = ("scores", "loadings", "variance")
COLUMNS: Final = 2048
"""That are analysed together: work grows with their square."""
GROUP_SIZE: Final = "rows"


def pca(
    table: Table,
    *,
    columns: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    components: int = 2,
    scale: bool = False,
    output: str = "scores",
    keep: list[str] = [],  # noqa: B006  as above
) -> Table:
    """Find the directions in which the rows of a table differ most, and where the rows lie along them.

    `columns` are analysed, by default all that `keep` does not name: at most 2048 columns of numbers or truth values,
    without nulls, NaN or infinity. They are centred; with `scale` each is also divided by its standard deviation
    (with n - 1), so that units do not matter; a column that is constant is refused then. `components` is at most the
    number of columns and of rows; there are two rows at least.

    `output` is one of three. ``scores``: for each row, in the input's order, the columns that `keep` names, then
    ``pc1``, ``pc2`` and so on. ``loadings``: for each column its ``mean``, its ``scale``, which is 1 without scaling,
    and its loading in each component; a row's score is the sum of (value - mean) / scale * loading. ``variance``: for
    each component its ``variance``, with n - 1, its ``ratio`` of the whole and the ``cumulative`` ratio. ``rows`` in
    the latter two is the number of rows of the input.

    A component has length 1, and such a sign that its largest loading is positive (the first of equally large ones).
    Components of equal variance are not determined, nor is one without any. Numbers are those of LAPACK in double
    precision: the same input gives the same bytes on the same kind of processor; another order of rows may change
    the last digits. For several parties, and for a model that projects other rows, there is `pca_model`.

    Reveals to the output's receivers with ``loadings`` and ``variance`` sums over all rows: with few rows, or one that
    is far from the others, they say much of single ones. With ``scores`` it reveals numbers of each single row, and
    with as many components as columns these are the columns themselves, turned; and all that `keep` names.
    """
    if output not in OUTPUTS:
        raise Malformed(f"output is one of {', '.join(OUTPUTS)}")
    if keep and output != "scores":
        raise Malformed("keep is for scores: the other outputs have no row for each row")
    chosen = _chosen(table, columns, keep)
    values = _values(table, chosen)
    rows = len(values)
    if not 1 <= components <= min(len(chosen), rows):
        raise Malformed(f"components is from 1 to {min(len(chosen), rows)}, the number of columns or rows")
    names = [f"pc{number + 1}" for number in range(components)]
    if taken := sorted(set(names) & set(keep)):
        raise Malformed(f"the column {taken[0]!r} to keep has the name of a component: rename it")
    fitted = Components(values, chosen, components, scale)
    match output:
        case "scores":
            kept = table.to_arrow().select(keep)
            for number, name in enumerate(names):
                kept = kept.append_column(name, _numbers(fitted.scores[:, number]))
            return Table(kept)
        case "loadings":
            found = {"column": chosen, "mean": _numbers(fitted.means), "scale": _numbers(fitted.scales)}
            found |= {name: _numbers(row) for name, row in zip(names, fitted.directions, strict=True)}
            return Table.from_dict({**found, GROUP_SIZE: [rows] * len(chosen)})
    ratios = fitted.variances / fitted.whole if fitted.whole > 0 else fitted.variances
    return Table.from_dict(
        {
            "component": names,
            "variance": _numbers(fitted.variances),
            "ratio": _numbers(ratios),
            "cumulative": _numbers(ratios.cumsum()),
            GROUP_SIZE: [rows] * components,
        }
    )


def _chosen(table: Table, columns: list[str], keep: list[str]) -> list[str]:
    for name in [*columns, *keep]:
        count = table.columns.count(name)
        if count != 1:
            raise Malformed(f"the table has {count or 'no'} columns {name!r}")
    for what, names in (("columns", columns), ("keep", keep)):
        if len(set(names)) != len(names):
            raise Malformed(f"{what} names a column twice")
    chosen = columns or [name for name in table.columns if name not in keep]
    if len(set(chosen)) != len(chosen):
        raise Malformed("the table has two columns of one name: rename one")
    if not 1 <= len(chosen) <= COLUMNS:
        raise Malformed(f"{len(chosen)} columns to analyse: from 1 to {COLUMNS} are needed")
    return chosen


def _values(table: Table, chosen: list[str]) -> Any:
    """Shape (rows, columns), all finite. Raises `Malformed`."""
    import numpy as np
    import pyarrow as pa

    arrow = table.to_arrow()
    if arrow.num_rows < 2:  # one row does not differ from any other
        raise Malformed("two rows at least are needed")
    values = np.empty((arrow.num_rows, len(chosen)))
    for position, name in enumerate(chosen):
        column = arrow.column(name)
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise Malformed(f"the column {name!r} is {kind}: name numeric ones by columns, or others by keep")
        if column.null_count:
            raise Malformed(f"the column {name!r} has nulls: fill them or leave these rows out")
        # A truth value becomes no floating number in one step.
        plain = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
        values[:, position] = plain.to_numpy()
    finite = np.isfinite(values).all(axis=0)
    if not finite.all():
        raise Malformed(
            f"the column {chosen[int(np.argmin(finite))]!r} has NaN or infinity: leave these rows out"
        )
    return values


def _numbers(values: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    # Both zeros are one.
    return pa.array(np.ascontiguousarray(values, dtype=np.float64) + 0.0)
