"""Linear regression by least squares, or with a squared penalty."""

from __future__ import annotations

import math
from typing import NamedTuple

from mesatee.enclave.functions import _linear
from mesatee.enclave.functions._design import Asked, gather
from mesatee.enclave.functions._glm import Model
from mesatee.enclave.functions._irls import fit as fitted
from mesatee.table import Table


class Learned(NamedTuple):
    """What comes out."""

    coefficients: Table
    fit: Table
    model: bytes


def linear_regression(
    inputs: dict[str, Table],
    *,
    target: str,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    categorical: str | list[str] = [],  # noqa: B006  as above
    reference: dict[str, str | int | float | bool] | None = None,
    penalty: float = 0.0,
    scale: bool = False,
    intercept: bool = True,
    weights: str | None = None,
    confidence: float = 0.95,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Learned:
    """Explain a number, `target`, by a weighted sum of columns: least squares, or ridge regression.

    `columns` explain it; all other columns of numbers and truth values if it is left out. Columns of text, dates or
    times, and those that `categorical` names, are categories: each level but one has a coefficient, which tells it
    from the reference level. That is the first one in order, or what `reference` says: ``{"arm": "old"}``. Rows with
    a null in any of these columns (NaN among it) are left out and counted in `diagnostics`; infinite values are
    refused.

    `weights` is a column of numbers of 0 or more: what a row's square counts, in inverse proportion to its variance
    (a row of weight 2 is one row that is known better, not two). With `penalty` above 0 it is ridge regression: the
    sum of squares grows by `penalty` times the square of each coefficient but the intercept's, of columns as they are
    or, with `scale`, divided by their standard deviation. `intercept` false leaves that out.

    Three outputs. ``coefficients`` has a row for each: ``term`` (the column, or ``(intercept)``), ``level`` and
    ``reference`` of categories, ``rows`` (those of this level, or all), ``estimate``, ``standard_error``,
    ``statistic`` (t), ``p_value`` and ``log_p_value`` (its natural logarithm) for a coefficient of 0, and ``low`` and
    ``high``, the interval of this `confidence`. With a penalty errors are those of the shrunk estimates, whose bias
    no interval covers. ``fit`` has one row: ``rows``, ``degrees`` (rows less coefficients; with a penalty less the
    effective number of these), ``standard_deviation`` of what is left, ``r_squared`` (without an intercept that of
    squares around 0), ``adjusted_r_squared``, ``f_statistic`` and ``f_p_value`` for all coefficients together (null
    with a penalty), ``log_likelihood`` and ``aic``. ``model`` is a document for `predict`. What does not exist, such
    as tests of a perfect fit, is null.

    Refused are columns that are constant or follow from others (a part of less than 1e-14 is not explained; with a
    penalty they may), and fewer rows than coefficients. Results are the same, bit by bit, for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs how the target goes with the columns, of all inputs together, which levels
    there are and how many rows have each. With as many coefficients as rows, or a level or a combination that few
    rows have, that is the target of single people. Reveals to the receivers of `diagnostics`: the numbers of rows of
    each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    from scipy import special

    asked = Asked(columns, target, "numbers", weights, None, categorical, reference)
    design = gather("linear_regression", inputs, asked, how, key, least=0)
    model = Model("gaussian", "identity")
    found = fitted(model, design, intercept=intercept, penalty=penalty, scale=scale)
    whole, left, rows = found.null_deviance, found.deviance, design.rows
    if not found.dispersion:
        left = 0.0
    r_squared = 1 - left / whole if whole > 0 else math.nan
    around = rows - int(intercept)
    effective = around - found.degrees
    f_statistic = f_p_value = math.nan
    if not penalty and effective > 0 and left > 0:
        f_statistic = max(whole - left, 0.0) / effective / (left / found.degrees)
        f_p_value = float(special.fdtrc(effective, found.degrees, f_statistic))
    log_likelihood = math.nan
    if left > 0:
        log_weights = 0.0 if design.weights is None else math.fsum(map(math.log, design.weights.tolist()))
        log_likelihood = -rows / 2 * (math.log(2 * math.pi * left / rows) + 1) + log_weights / 2
    return Learned(
        _linear.coefficients(design, model, found, intercept, confidence),
        _linear.one_row(
            rows,
            degrees=found.degrees,
            standard_deviation=math.sqrt(found.dispersion),
            r_squared=r_squared,
            adjusted_r_squared=1 - (1 - r_squared) * around / found.degrees,
            f_statistic=f_statistic,
            f_p_value=f_p_value,
            log_likelihood=log_likelihood,
            aic=2 * (rows - found.degrees) - 2 * log_likelihood,
        ),
        _linear.document(design, model, found, intercept),
    )
