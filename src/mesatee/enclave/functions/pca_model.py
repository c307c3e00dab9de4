"""Principal components of columns that several parties hold, with the model that projects onto them."""

from __future__ import annotations

from typing import NamedTuple

from mesatee.enclave.functions._components import Components
from mesatee.enclave.functions._design import Asked, enough, gather, matrix_of, within
from mesatee.enclave.functions._statistics import column
from mesatee.errors import Malformed
from mesatee.protocol import learned
from mesatee.table import Table


class Learned(NamedTuple):
    """What comes out."""

    loadings: Table
    variance: Table
    model: bytes


def pca_model(
    inputs: dict[str, Table],
    *,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    components: int = 2,
    scale: bool = False,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Find the directions in which rows of all inputs differ most, and the model that projects other rows onto them.

    It is what `pca` does with the table of one party. `columns` are of numbers or truth values; all of these if it is
    left out. They are centred; with `scale` each is also divided by its standard deviation (with n - 1), so that units
    do not matter; a column that is constant is refused then. Rows with a null in one of them (NaN among it) are left
    out and counted in `diagnostics`; infinite values are refused. `components` is at most the number of columns and of
    rows; there are two rows at least.

    Three outputs. ``loadings``: for each column its ``mean``, its ``scale``, which is 1 without scaling, and its
    loading in each component, ``pc1``, ``pc2`` and so on. ``variance``: for each component its ``variance``, with
    n - 1, its ``ratio`` of the whole and the ``cumulative`` ratio. ``rows`` in both is the number of rows. ``model``
    is a document for `predict`, which gives the scores of rows. A component has length 1, and such a sign that its
    largest loading is positive (the first of equally large ones). Results are the same, bit by bit, for any order of
    rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs sums over all rows of all inputs: with few rows, or one that is far from
    the others, they say much of single ones. Reveals to the receivers of `diagnostics`: the numbers of rows of each
    input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import pyarrow as pa

    design = gather("pca_model", inputs, Asked(columns, text=False), how, key)
    enough(design, 2, "components")
    names = [feature.name for feature in design.columns]
    within("components", components, min(len(names), design.rows))
    found = Components(design.matrix, names, components, scale)
    labels = [f"pc{number + 1}" for number in range(components)]
    loadings = {
        "column": pa.array(names),
        "rows": pa.array([design.rows] * len(names), pa.int64()),
        "mean": column(found.means),
        "scale": column(found.scales),
        **{label: column(row + 0.0) for label, row in zip(labels, found.directions, strict=True)},
    }
    ratios = found.variances / found.whole if found.whole > 0 else found.variances
    variance = {
        "component": pa.array(labels),
        "rows": pa.array([design.rows] * components, pa.int64()),
        "variance": column(found.variances),
        "ratio": column(ratios),
        "cumulative": column(ratios.cumsum()),
    }
    if not (found.scales > 0).all():
        raise Malformed("a column has no scale: leave it out")
    document = learned.Pca(
        kind="pca",
        version=1,
        columns=design.columns,
        centre=tuple(found.means.tolist()),
        scale=tuple(found.scales.tolist()),
        directions=matrix_of(found.directions + 0.0),
    )
    return Learned(Table(pa.table(loadings)), Table(pa.table(variance)), learned.write(document))
