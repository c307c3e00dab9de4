"""Generalised linear models."""

from __future__ import annotations

import math
from typing import NamedTuple

from mesatee.enclave.functions import _linear
from mesatee.enclave.functions._design import Asked, gather
from mesatee.enclave.functions._glm import model as named
from mesatee.enclave.functions._irls import fit as fitted
from mesatee.table import Table


class Learned(NamedTuple):
    """What comes out."""

    coefficients: Table
    fit: Table
    model: bytes


def glm(
    inputs: dict[str, Table],
    *,
    target: str,
    family: str,
    link: str | None = None,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    categorical: str | list[str] = [],  # noqa: B006  as above
    reference: dict[str, str | int | float | bool] | None = None,
    offset: str | None = None,
    weights: str | None = None,
    alpha: float = 1.0,
    penalty: float = 0.0,
    scale: bool = False,
    intercept: bool = True,
    confidence: float = 0.95,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Explain a number, `target`, by a generalised linear model: the link of its mean is a weighted sum of columns.

    `family` and `link` (the first one if it is left out): ``gaussian`` (identity, log, inverse), ``binomial`` (logit,
    probit, cloglog, log, identity), ``poisson`` (log, identity), ``gamma`` (inverse, log, identity),
    ``inverse_gaussian`` (inverse_squared, inverse, log, identity), ``negative_binomial`` (log, identity), whose
    variance is mean + `alpha` * mean^2. A binomial target is 0, 1 or a share between them, of as many trials as
    `weights` says; those of poisson and negative_binomial are 0 or more, of gamma and inverse_gaussian above 0.

    `columns` explain it; all other columns of numbers and truth values if it is left out. Columns of text, dates or
    times, and those that `categorical` names, are categories: each level but one has a coefficient, which tells it
    from the reference level. That is the first one in order, or what `reference` says: ``{"arm": "old"}``. Rows with
    a null in any of these columns (NaN among it) are left out and counted in `diagnostics`; infinite values are
    refused. `offset` is a column that is added to the sum as it is, such as the log of an exposure. `weights` is a
    column of numbers of 0 or more, by which a row's log-likelihood is multiplied.

    With `penalty` above 0 half the deviance grows by `penalty` / 2 times the square of each coefficient but the
    intercept's, of columns as they are or, with `scale`, divided by their standard deviation. `intercept` false
    leaves that out. It is fitted by scoring (iteratively reweighted least squares) to the last digits.

    Three outputs. ``coefficients`` has a row for each: ``term`` (the column, or ``(intercept)``), ``level`` and
    ``reference`` of categories, ``rows`` (those of this level, or all), ``estimate``, ``standard_error`` (by the
    expected information), ``statistic``, ``p_value`` and ``log_p_value`` (its natural logarithm) for a coefficient of
    0, and ``low`` and ``high``, the interval of this `confidence`: by Student's distribution where the dispersion is
    estimated (gaussian, gamma, inverse_gaussian), else by the normal one. With a penalty errors are those of the
    shrunk estimates, whose bias no interval covers. ``fit`` has one row: ``rows``, ``degrees`` (rows less
    coefficients; with a penalty less the effective number of these), ``dispersion`` (Pearson's statistic over the
    degrees, or 1), ``deviance``, ``null_deviance`` (with the intercept and the offset alone), ``pearson`` and
    ``steps``. ``model`` is a document for `predict`.

    Refused are columns that are constant or follow from others (with a penalty they may), fewer rows than
    coefficients, and, without a penalty, models that have no finite optimum: classes that the columns tell perfectly,
    or a level in which all counts are 0. Results are the same, bit by bit, for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs how the target goes with the columns, of all inputs together, which levels
    there are and how many rows have each. With as many coefficients as rows, or a level or a combination that few
    rows have, that is the target of single people. Reveals to the receivers of `diagnostics`: the numbers of rows of
    each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    model = named(family, link, alpha)
    asked = Asked(columns, target, "numbers", weights, offset, categorical, reference)
    design = gather("glm", inputs, asked, how, key, least=0)
    found = fitted(model, design, intercept=intercept, penalty=penalty, scale=scale)
    if not math.isfinite(found.null_deviance):
        design.data.say("null_deviance is null: no model without columns fits this family")
    return Learned(
        _linear.coefficients(design, model, found, intercept, confidence),
        _linear.one_row(
            design.rows,
            degrees=found.degrees,
            dispersion=found.dispersion,
            deviance=found.deviance,
            null_deviance=found.null_deviance,
            pearson=found.pearson,
            steps=found.steps,
        ),
        _linear.document(design, model, found, intercept, offset),
    )
