"""Prediction with the models of the built-in learners."""

from __future__ import annotations

from typing import Any

from mesatee.enclave.functions._predict import Said, encode, rows_of, say
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.errors import Malformed
from mesatee.protocol import learned
from mesatee.protocol.learned import Label
from mesatee.table import Table


def predict(
    model: bytes,
    rows: Table,
    *,
    keep: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    probabilities: bool = False,
) -> Table:
    """Say of each row what a model says: of linear models, clusters, classes, mixtures and principal components.

    `model` is a document that one of `linear_regression`, `logistic_regression`, `glm`, `k_means`, `naive_bayes`,
    `svm`, `gaussian_mixture` and `pca_model` made (docs/learning.md has its format); what does not fit together in it
    is refused with the reason. `rows` has its columns, by name, among others; of `columns` that came from several
    inputs the name may be ``input.column``. The output has a row for each row, in the same order: the columns that
    `keep` names, such as a key, then ``prediction``. That is the mean of a linear model, the class of a classifier
    (as the training data had it), the number of the cluster or component, or the number that a support vector machine
    gives; of principal components there are ``pc1``, ``pc2`` and so on instead. k-means adds ``distance``, to the
    centre of the cluster in the units of the model, a support vector machine for two classes ``decision``, which is
    above 0 for the second class. With `probabilities` there is a column ``probability.CLASS`` for each class or
    component, which logistic regression, naive Bayes and mixtures have.

    A row has null predictions if it has a null (or NaN) in a column of the model, a level that the model does not
    know, or numbers that are too large; `diagnostics` says how many these are. Infinite values are refused, and a
    column of text where the model has numbers. The same input gives the same bytes on the same kind of processor.

    Reveals to the receivers of the output a number or class of each single row, made of its columns, and all that
    `keep` names; who has the predictions of many rows that are known can compute the model, or one much like it.
    Reveals to the receivers of `diagnostics` the number of rows, and how many have no prediction.
    """
    import numpy as np
    import pyarrow as pa

    document = learned.read(model)
    data = rows_of(rows)
    kept = [keep] if isinstance(keep, str) else list(keep)
    if len(set(kept)) != len(kept):
        raise Malformed("keep names a column twice")
    for name in kept:
        if name not in rows.columns:
            raise Malformed(f"no column {name!r} to keep")
    features = encode(data, document.columns)
    complete, offset = features.complete, None
    if isinstance(document, learned.Linear) and document.offset is not None:
        offset = data.numbers(document.offset)
        complete = complete & ~np.isnan(offset)
        offset = offset[complete]
    if features.unknown:
        data.say(f"{features.unknown} rows have a level that the model does not know, and no prediction")
    with np.errstate(all="ignore"):
        said = say(document, features.matrix[complete], offset)
    if probabilities and said.probabilities is None:
        raise Malformed("this model has no probabilities: leave that argument out")
    found = _columns(said, complete, probabilities)
    first = next(iter(found.values()))
    data.say(f"{data.rows - first.null_count} of {data.rows} rows have a prediction")
    if taken := [name for name in found if name in kept]:
        raise Malformed(f"the column {taken[0]!r} to keep has the name of one of the output: rename it")
    table = rows.to_arrow().select(kept)
    return Table(pa.table({**{name: table.column(name) for name in kept}, **found}))


def _columns(said: Said, complete: Any, probabilities: bool) -> dict[str, Any]:
    """The columns of the output, null where there is nothing to say."""
    import numpy as np

    found: dict[str, Any] = {}
    if said.places is not None:
        places = np.full(len(complete), -1, np.int64)
        places[complete] = said.places
        found["prediction"] = _labels(said.labels).take(_nullable(places))
    chances = said.probabilities if probabilities and said.probabilities is not None else {}
    for name, values in {**said.numbers, **chances}.items():
        if name in found:
            raise Malformed(f"two columns of the output would be named {name!r}")
        whole = np.full(len(complete), np.nan)
        whole[complete] = values
        # Both zeros are one.
        found[name] = numbers((whole + 0.0).tolist())
    return found


def _labels(labels: Any) -> Any:
    import pyarrow as pa

    listed: list[Label] = list(labels)
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.array(listed, kinds[type(listed[0])])


def _nullable(places: Any) -> Any:
    import pyarrow as pa

    return pa.array(places, mask=places < 0)
