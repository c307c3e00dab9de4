"""Logistic regression for two classes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from mesatee.enclave.functions import _linear
from mesatee.enclave.functions._design import Asked, gather, text_of
from mesatee.enclave.functions._glm import Model
from mesatee.enclave.functions._irls import fit as fitted
from mesatee.enclave.functions._statistics import chi_square_tail
from mesatee.errors import Malformed
from mesatee.table import Table


class Learned(NamedTuple):
    """What comes out."""

    coefficients: Table
    fit: Table
    model: bytes


def logistic_regression(
    inputs: dict[str, Table],
    *,
    target: str,
    event: str | int | float | bool | None = None,
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
    """Explain which of two classes, `target`, a row has: the log of the odds of `event` is a weighted sum of columns.

    `target` has two values, of any kind; `event` is the one whose probability is modelled, by default the last one in
    order (1, true). `columns` explain it; all other columns of numbers and truth values if it is left out. Columns of
    text, dates or times, and those that `categorical` names, are categories: each level but one has a coefficient,
    which tells it from the reference level. That is the first one in order, or what `reference` says:
    ``{"arm": "old"}``. Rows with a null in any of these columns (NaN among it) are left out and counted in
    `diagnostics`; infinite values are refused.

    `weights` is a column of numbers of 0 or more, by which a row's log-likelihood is multiplied. With `penalty` above
    0 (L2; the C of scikit-learn is 1 / penalty) the log-likelihood is lowered by `penalty` / 2 times the square of
    each coefficient but the intercept's, of columns as they are or, with `scale`, divided by their standard
    deviation. `intercept` false leaves that out. It is maximised by Newton's method to the last digits.

    Three outputs. ``coefficients`` has a row for each: ``term`` (the column, or ``(intercept)``), ``level`` and
    ``reference`` of categories, ``rows`` (those of this level, or all), ``estimate``, ``standard_error``,
    ``statistic`` (Wald's z), ``p_value`` and ``log_p_value`` (its natural logarithm) for a coefficient of 0, and
    ``low`` and ``high``, the interval of this `confidence`. With a penalty errors are those of the shrunk estimates,
    whose bias no interval covers. ``fit`` has one row: ``rows``, ``events``, ``degrees`` (rows less coefficients;
    with a penalty less the effective number of these), ``log_likelihood``, ``null_log_likelihood`` (of the intercept
    alone), ``pseudo_r_squared`` (McFadden's), ``statistic`` and ``p_value`` of the likelihood ratio (null with a
    penalty), ``aic`` and ``steps``. ``model`` is a document for `predict`.

    Refused are columns that are constant or follow from others (with a penalty they may), fewer rows than
    coefficients, and, without a penalty, outcomes that the columns tell perfectly (separation): no finite
    coefficients are best then. Results are the same, bit by bit, for any order of rows.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the outputs how the target goes with the columns, of all inputs together, which levels
    and classes there are and how many rows have each. With as many coefficients as rows, or a level or a combination
    that few rows have, that is the target of single people. Reveals to the receivers of `diagnostics`: the numbers of
    rows of each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    asked = Asked(columns, target, "classes", weights, None, categorical, reference)
    design = gather("logistic_regression", inputs, asked, how, key, least=0)
    classes = design.classes or ()
    if len(classes) != 2:
        raise Malformed(
            f"the target {target!r} has {len(classes)} different values in complete rows, not two"
        )
    if event is not None:
        texts = [text_of(label) for label in classes]
        if text_of(event) not in texts:
            raise Malformed(f"event is no value of the target {target!r}")
        if text_of(event) == texts[0]:
            design = replace(design, classes=classes[::-1], target=1 - design.target)
    model = Model("binomial", "logit")
    found = fitted(model, design, intercept=intercept, penalty=penalty, scale=scale)
    rows, gain = design.rows, max(found.null_deviance - found.deviance, 0.0)
    taken = rows - found.degrees - int(intercept)
    p_value = chi_square_tail(gain, taken)[0] if not penalty and taken > 0 else math.nan
    return Learned(
        _linear.coefficients(design, model, found, intercept, confidence),
        _linear.one_row(
            rows,
            events=int(design.target.sum()),
            degrees=found.degrees,
            log_likelihood=-found.deviance / 2,
            null_log_likelihood=-found.null_deviance / 2,
            pseudo_r_squared=1 - found.deviance / found.null_deviance,
            statistic=gain if not penalty and taken > 0 else math.nan,
            p_value=p_value,
            aic=found.deviance + 2 * (rows - found.degrees),
            steps=found.steps,
        ),
        _linear.document(design, model, found, intercept),
    )
