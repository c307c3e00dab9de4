"""Classes by columns that are taken for independent within each class."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from mesatee.enclave.functions._design import Asked, Design, gather, matrix_of, text_of, within
from mesatee.enclave.functions._statistics import column, moments, one_of, total
from mesatee.errors import Malformed
from mesatee.protocol import learned, limits
from mesatee.protocol.learned import Label
from mesatee.table import Table

DISTRIBUTIONS: Final = ("gaussian", "multinomial", "categorical")
WIDENED: Final = 1e-9
"""Of the largest variance of all columns: so much is added to each, as scikit-learn does."""


class Learned(NamedTuple):
    """What comes out."""

    features: Table
    model: bytes


def naive_bayes(
    inputs: dict[str, Table],
    *,
    target: str,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    distribution: str = "gaussian",
    alpha: float = 1.0,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Learn which class, `target`, a row has, from columns that are taken for independent within each class.

    `target` has two values or more, of any kind. `columns` tell it, by `distribution`: ``gaussian``, columns of
    numbers; ``multinomial``, counts of 0 or more, such as those of words; ``categorical``, categories of any kind,
    which have to be named. Without names all other columns of numbers and truth values are taken. `alpha` is added to
    every count (Laplace and Lidstone), so that nothing is impossible; for ``gaussian`` it is of no use. Rows with a
    null in one of the columns (NaN among it) are left out and counted in `diagnostics`; infinite values are refused.

    Two outputs. ``features`` has a row for each class and column, or level of it: ``class`` (as text), ``rows`` (of
    this class), ``prior`` (its share of all), ``column``, ``level``, and ``mean`` and ``variance`` (with n) or the
    ``share`` that the level, or the column's count, has within the class. ``model`` is a document for `predict`,
    which gives classes and their probabilities. Results are the same, bit by bit, for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs means and variances, or counts, of each column within each class, of all
    inputs together: of a class or a level of one row that row itself. Reveals to the receivers of `diagnostics`: the
    numbers of rows of each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa

    one_of("distribution", distribution, DISTRIBUTIONS)
    within("alpha", alpha, 1e6, 1e-10)
    whole = distribution == "categorical"
    if whole and not columns:
        raise Malformed("name the columns that are categories by columns")
    categorical = columns if whole else ()
    asked = Asked(columns, target, "classes", categorical=categorical, whole=True, text=False)
    design = gather("naive_bayes", inputs, asked, how, key)
    classes = design.classes or ()
    if not 2 <= len(classes) <= limits.LEARNED_GROUPS:
        raise Malformed(
            f"the target {target!r} has {len(classes)} different values in complete rows: 2 to 1000 are needed"
        )
    sizes = np.bincount(design.target.astype(np.int64), minlength=len(classes))
    found = (
        _gaussian(design, classes) if distribution == "gaussian" else _counted(design, classes, alpha, whole)
    )
    features = [(name, level) for name, level, _ in design.features]
    groups = range(len(classes))
    table = pa.table(
        {
            "class": pa.array([text_of(classes[at]) for at in groups for _ in features]),
            "rows": pa.array([int(sizes[at]) for at in groups for _ in features], pa.int64()),
            "prior": column(sizes[at] / design.rows for at in groups for _ in features),
            "column": pa.array([name for _ in groups for name, _ in features]),
            "level": pa.array([level for _ in groups for _, level in features], pa.string()),
            **{name: column(values.ravel()) for name, values in found.items()},
        }
    )
    shares = found.get("share")
    with np.errstate(divide="ignore"):
        log_shares = None if shares is None else np.log(shares)
    if log_shares is not None and not np.isfinite(log_shares).all():
        raise Malformed("a share is too small for a number: raise alpha")
    document = learned.NaiveBayes(
        kind="naive_bayes",
        version=1,
        columns=design.columns,
        distribution=distribution,  # type: ignore[arg-type]  # one of DISTRIBUTIONS
        classes=classes,
        log_priors=tuple(math.log(size / design.rows) for size in sizes.tolist()),
        means=matrix_of(found["mean"]) if "mean" in found else None,
        variances=matrix_of(found["variance"]) if "variance" in found else None,
        log_shares=None if log_shares is None else matrix_of(log_shares),
    )
    return Learned(Table(table), learned.write(document))


def _gaussian(design: Design, classes: tuple[Label, ...]) -> dict[str, Any]:
    """Means and variances, each of shape (classes, features)."""
    import numpy as np

    width = design.matrix.shape[1]
    widest = max(moments(design.matrix[:, at])[1] / design.rows for at in range(width))
    if not widest > 0:
        raise Malformed("all columns are constant: they tell no class")
    means, variances = np.empty((2, len(classes), width))
    for number in range(len(classes)):
        mine = design.matrix[design.target == number]
        for at in range(width):
            means[number, at], squares = moments(mine[:, at])
            variances[number, at] = squares / len(mine) + WIDENED * widest
    return {"mean": means, "variance": variances}


def _counted(design: Design, classes: tuple[Label, ...], alpha: float, whole: bool) -> dict[str, Any]:
    """Shares of shape (classes, features): within a column's levels if it has any, else among all columns."""
    import numpy as np

    if (design.matrix < 0).any():
        raise Malformed("multinomial counts are 0 or more, and a column has less")
    width = design.matrix.shape[1]
    counts = np.array(
        [
            [total(design.matrix[design.target == number, at]) for at in range(width)]
            for number in range(len(classes))
        ]
    )
    counts = counts.reshape(len(classes), width) + alpha
    if not whole:
        return {"share": counts / counts.sum(axis=1, keepdims=True)}
    at = 0
    for feature in design.columns:
        counts[:, at : at + feature.width] /= counts[:, at : at + feature.width].sum(axis=1, keepdims=True)
        at += feature.width
    return {"share": counts}
