"""Predictions of tree ensembles: XGBoost, LightGBM and scikit-learn, in an engine of our own (rust/trees)."""

from __future__ import annotations

import sys
from typing import Final

from mesatee._core import TreeModel
from mesatee.enclave.functions._threads import useful
from mesatee.enclave.functions._trees import features, names_of
from mesatee.errors import Malformed
from mesatee.table import Table

OUTPUTS: Final = {"probability": "response", "margin": "margin", "class": "class"}
ROWS_A_THREAD: Final = 2_048
"""With fewer rows for each, another thread costs more than it saves."""


def gbdt_predict(
    model: bytes,
    rows: Table,
    *,
    output: str = "probability",
    columns: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    keep: list[str] = [],  # noqa: B006
    missing: float | None = None,
    oblivious: bool = False,
    threads: int = 0,
) -> Table:
    """Predict with a model of XGBoost (JSON or UBJ), LightGBM (text) or scikit-learn (JSON of the kind `trees`,
    docs/trees.md).

    Columns are the model's features, by their names; a model without names takes the columns in their order. `columns`
    names the features instead, in the model's order. Null and NaN are missing values, which go where training sent
    them; `missing` is one more number that counts as such. Numbers are compared in the precision of the model's
    library, and added up in its order, so predictions are equal to the library's, to the last bit or two of what exp
    gives. Categories are the numbers that the model was trained with; text is refused.

    `output` is ``probability``: what the library's objective makes of the sums (probabilities, rates, or the sums
    themselves for regression and ranking), ``margin``: the sums, or ``class``: the most probable class, by its number
    or name (for a single probability, whether it is over one half). The result has a row for each row, in the same
    order, with the columns that `keep` names first, and ``prediction``, or for several classes or targets
    ``prediction_0`` and so on.

    With `oblivious` no access to memory and no branch depends on a value of a row, on any processor; with AVX-512 that
    is so without it. The sizes show, and of the model the shape of its trees, the features at their nodes and, where a
    feature has over 255 thresholds, among which of them a node's is.
    `threads` is 0 for as many as the processor has and the rows are worth.

    Reveals to the receivers of the output: a prediction for each row and the columns in `keep`. Whoever sees many
    predictions on rows of his own choice can rebuild the model, and whoever has rows of the same people learns of the
    rows what the model says of them: the number of runs that a task allows is the bound. Nothing of the model's file
    is given out. Reveals to the receivers of `diagnostics`: the kind of the model, the numbers of its trees, features
    and outputs, and the number of rows; if columns are missing, their names.
    """
    import numpy as np
    import pyarrow as pa

    if output not in OUTPUTS:
        raise Malformed(f"output is one of {', '.join(OUTPUTS)}")
    if threads < 0:
        raise Malformed("threads is 0 or more")
    if missing is not None and missing != missing:
        raise Malformed("NaN is missing in any case: leave missing out")
    arrow = rows.to_arrow()
    unknown = [name for name in keep if arrow.column_names.count(name) != 1]
    if unknown:
        raise Malformed(f"keep names {unknown[0]!r}, which is no column, or several")
    forest = TreeModel(model)
    print(
        f"gbdt_predict: {forest.kind}, {forest.trees} trees, {forest.features} features, {forest.outputs} outputs; "
        f"{rows.num_rows} rows",
        file=sys.stderr,
    )
    given = features(forest, arrow, keep, columns)
    if missing is not None:
        given = [
            np.where(column == column.dtype.type(missing), column.dtype.type("nan"), column)
            for column in given
        ]
    if not threads:
        threads = max(1, min(useful(), rows.num_rows // ROWS_A_THREAD))
    found = np.frombuffer(
        forest.predict(given, rows.num_rows, output=OUTPUTS[output], oblivious=oblivious, threads=threads)
    )
    names = names_of(forest, output)
    found = found.reshape(rows.num_rows, len(names))
    if set(names) & set(keep):
        raise Malformed(f"keep names {names[0]!r}, which the predictions are called")
    made = {name: arrow.column(name) for name in keep}
    for number, name in enumerate(names):
        column = np.ascontiguousarray(found[:, number])
        if output == "class":
            places = pa.array(column.astype(np.int64))
            made[name] = pa.array(forest.classes).take(places) if forest.classes else places
        else:
            made[name] = pa.array(column.astype(np.float32) if forest.single_sums else column)
    return Table(pa.table(made))
