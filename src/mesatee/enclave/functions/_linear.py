"""What linear models give: a table of coefficients, a table of how well they fit, and the model document."""

from __future__ import annotations

import math
from typing import Any, Final

from mesatee.enclave.functions._design import Design
from mesatee.enclave.functions._glm import ESTIMATED, Model
from mesatee.enclave.functions._irls import Fit
from mesatee.enclave.functions._statistics import column, normal_tail, share, t_tail
from mesatee.protocol import learned
from mesatee.table import Table

INTERCEPT: Final = "(intercept)"
"""How the table names it."""


def coefficients(design: Design, model: Model, fit: Fit, intercept: bool, confidence: float) -> Table:
    """A row for each term: estimate, standard error, test against 0, interval."""
    import numpy as np
    import pyarrow as pa
    from scipy import special

    share("confidence", confidence)
    estimated = model.family in ESTIMATED
    upper = (1 + confidence) / 2
    far = float(special.stdtrit(fit.degrees, upper) if estimated else special.ndtri(upper))
    # What rounding leaves below 0 is 0.
    errors = np.sqrt(np.maximum(np.diag(fit.covariance), 0.0))
    tests = []
    for estimate, error in zip(fit.estimates.tolist(), errors.tolist(), strict=True):
        statistic = estimate / error if error > 0 else math.nan
        tail = t_tail(statistic, fit.degrees, "two-sided") if estimated else normal_tail(statistic)
        tests.append((statistic, *tail))
    if not (errors > 0).all():
        design.data.say("statistics and p values are null: the model is perfect but for rounding")
    features = [(INTERCEPT, None, None)] * intercept + design.features
    return Table(
        pa.table(
            {
                "term": pa.array([name for name, _, _ in features], pa.string()),
                "level": pa.array([level for _, level, _ in features], pa.string()),
                "reference": pa.array([reference for _, _, reference in features], pa.string()),
                "rows": pa.array([design.rows] * intercept + design.present, pa.int64()),
                "estimate": column(fit.estimates),
                "standard_error": column(errors),
                "statistic": column(test[0] for test in tests),
                "p_value": column(test[1] for test in tests),
                "log_p_value": column(test[2] for test in tests),
                "low": column(fit.estimates - far * errors),
                "high": column(fit.estimates + far * errors),
            }
        )
    )


def one_row(rows: int, **values: float | int | None) -> Table:
    """A table of figures of the whole model; None and NaN are null."""
    import pyarrow as pa

    found: dict[str, Any] = {"rows": pa.array([rows], pa.int64())}
    for name, value in values.items():
        found[name] = pa.array([value], pa.int64()) if isinstance(value, int) else column([value])
    return Table(pa.table(found))


def document(
    design: Design,
    model: Model,
    fit: Fit,
    intercept: bool,
    offset: str | None = None,
) -> bytes:
    """The model, for `predict`."""
    estimates = [float(value) for value in fit.estimates]
    classes = None if design.classes is None else (design.classes[0], design.classes[1])
    return learned.write(
        learned.Linear(
            kind="linear",
            version=1,
            columns=design.columns,
            family=model.family,  # type: ignore[arg-type]  # one of FAMILIES
            link=model.link,  # type: ignore[arg-type]  # one of LINKS
            intercept=estimates[0] if intercept else 0.0,
            coefficients=tuple(estimates[int(intercept) :]),
            offset=offset,
            classes=classes,
        )
    )


__all__ = ["INTERCEPT", "coefficients", "document", "one_row"]
