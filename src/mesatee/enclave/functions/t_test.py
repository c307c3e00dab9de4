"""Student's and Welch's t-test, of one sample, of two, and of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._parties import Combined, combine
from mesatee.enclave.functions._statistics import (
    ALTERNATIVES,
    deviation,
    moments,
    one_of,
    share,
    t_tail,
)
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
KINDS: Final = ("welch", "student", "paired", "one-sample")


@dataclass(frozen=True, slots=True)
class _Sample:
    rows: int
    mean: float
    std: float


def t_test(
    inputs: dict[str, Table],
    *,
    column: str,
    kind: str = "welch",
    group: str | None = None,
    groups: list[str | int | float | bool] = [],  # noqa: B006  a contract shows its defaults
    other: str | None = None,
    mean: float = 0.0,
    alternative: str = "two-sided",
    confidence: float = 0.95,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Test by a t-test whether two means differ, or one from a given one.

    `kind` is ``welch`` (two samples whose variances may differ), ``student`` (two samples of one variance),
    ``paired`` (two columns of the same rows) or ``one-sample``. Two samples are the values of `column` in the
    two groups of the column `group` (the two that `groups` names, in this order, or the only two, sorted), or
    the values of `column` and of `other`, which ``paired`` needs. Values that are null (NaN among it) are left
    out, for ``paired`` the whole pair; infinite values are refused. `mean` is the difference, or for
    ``one-sample`` the mean, that is tested against. `alternative` is ``two-sided``, ``less`` or ``greater``
    (of the first than of the second).

    The output has one row: ``rows`` (of the smaller sample), ``rows_first``, ``rows_second``, ``mean_first``,
    ``mean_second``, ``difference`` (of the means; for ``one-sample`` the mean itself), ``low`` and ``high``
    (its bounds at this `confidence`; an alternative of one side has one bound), ``statistic``, ``degrees``
    (of freedom), ``p_value``, ``log_p_value`` (its natural logarithm, also where the p value is too small for
    a number) and ``effect``, Cohen's d: the difference less `mean`, over the standard deviation (ddof 1) of
    the one sample or of the pairs' differences, over the pooled one for ``student``, and for ``welch`` over
    the root of the mean of both variances. With fewer than two values in a sample, or without any spread, the
    test is undefined: what does not exist is null.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output the means and sizes of the samples, of all inputs together, and by
    the test how far values spread. Of one or two rows these are as good as the values. Reveals to the
    receivers of `diagnostics`: the numbers of rows of each input, and with ``columns`` how many people all of
    them have.
    """
    one_of("kind", kind, KINDS)
    one_of("alternative", alternative, ALTERNATIVES)
    share("confidence", confidence)
    _check(kind, group, groups, other)
    data = combine("t_test", inputs, how, key)
    samples = _samples(data, column, kind, group, groups, other)
    result = _tested(data, samples, kind, mean, alternative, confidence)
    return _table(samples, result)


def _check(kind: str, group: str | None, groups: list[Any], other: str | None) -> None:
    if kind in ("welch", "student") and (group is None) == (other is None):
        raise Malformed(f"kind={kind} needs two samples: name either group or other")
    if kind == "paired" and (group is not None or other is None):
        raise Malformed("kind=paired needs two columns of the same rows: name other, and no group")
    if kind == "one-sample" and not (group is None and other is None):
        raise Malformed("kind=one-sample is of one column: leave group and other out")
    if groups and group is None:
        raise Malformed("groups are for a group column: name group too")
    if groups and len(groups) != 2:
        raise Malformed("groups names two groups")


def _samples(
    data: Combined, column: str, kind: str, group: str | None, groups: list[Any], other: str | None
) -> list[Any]:
    """One or two arrays of values without nulls; for pairs of the same length."""
    import numpy as np

    values = data.numbers(column)
    if group is not None:
        found = data.categories(group)
        places = [found.place(name) for name in groups] or list(range(len(found.labels)))
        if len(places) != 2:
            raise Malformed(f"the column {group!r} has {len(places)} groups: name two of them by groups")
        if places[0] == places[1] >= 0:
            raise Malformed("groups names one twice")
        return [_present(values[found.codes == place] if place >= 0 else values[:0]) for place in places]
    if other is None:
        return [_present(values)]
    if other == column:
        raise Malformed("column and other are different columns")
    second = data.numbers(other)
    if kind == "paired":
        both = ~(np.isnan(values) | np.isnan(second))
        return [values[both], second[both]]
    return [_present(values), _present(second)]


def _present(values: Any) -> Any:
    import numpy as np

    return values[~np.isnan(values)]


def _sample(values: Any) -> _Sample:
    mean, squares = moments(values)
    return _Sample(len(values), mean, deviation(squares, len(values)))


def _tested(
    data: Combined, samples: list[Any], kind: str, mean: float, alternative: str, confidence: float
) -> dict[str, float]:
    import numpy as np
    from scipy import special

    first = _sample(samples[0])
    if kind in ("paired", "one-sample"):
        with np.errstate(over="ignore"):
            one = first if kind == "one-sample" else _sample(samples[0] - samples[1])
        difference, spread, degrees = one.mean, one.std, one.rows - 1.0
        error = spread / math.sqrt(one.rows) if one.rows else math.nan
    else:
        second = _sample(samples[1])
        difference = first.mean - second.mean
        spread, error, degrees = _two(first, second, kind)
    found = {"difference": difference, "degrees": degrees if degrees > 0 else math.nan}
    if not (degrees > 0 and 0 < error < math.inf):
        data.say("the test is undefined: values are too few, do not vary, or are too large or small")
        return found
    statistic = (difference - mean) / error
    p_value, log_p_value = t_tail(statistic, degrees, alternative)
    tail = (1 - confidence) / (2 if alternative == "two-sided" else 1)
    reach = -float(special.stdtrit(degrees, tail)) * error
    return {
        **found,
        "low": math.nan if alternative == "less" else difference - reach,
        "high": math.nan if alternative == "greater" else difference + reach,
        "statistic": statistic,
        "p_value": p_value,
        "log_p_value": log_p_value,
        "effect": (difference - mean) / spread if spread else math.nan,
    }


def _two(first: _Sample, second: _Sample, kind: str) -> tuple[float, float, float]:
    """Standard deviation for the effect, standard error of the difference, and degrees of freedom."""
    nothing = (math.nan, math.nan, math.nan)
    if first.rows < 2 or second.rows < 2:
        return nothing
    # Over the larger of both, so that squares neither overflow nor vanish.
    scale = max(first.std, second.std)
    if not 0 < scale < math.inf:
        return nothing
    a, b = (first.std / scale) ** 2, (second.std / scale) ** 2
    if kind == "student":
        degrees = float(first.rows + second.rows - 2)
        pooled = ((first.rows - 1) * a + (second.rows - 1) * b) / degrees
        return (
            scale * math.sqrt(pooled),
            scale * math.sqrt(pooled * (1 / first.rows + 1 / second.rows)),
            degrees,
        )
    x, y = a / first.rows, b / second.rows
    degrees = (x + y) ** 2 / (x**2 / (first.rows - 1) + y**2 / (second.rows - 1))
    return scale * math.sqrt((a + b) / 2), scale * math.sqrt(x + y), degrees


def _table(samples: list[Any], result: dict[str, float]) -> Table:
    import pyarrow as pa

    sizes = [len(values) for values in samples]
    means = [moments(values)[0] for values in samples]
    columns: dict[str, Any] = {
        "rows": pa.array([min(sizes)], pa.int64()),
        "rows_first": pa.array(sizes[:1], pa.int64()),
        "rows_second": pa.array(sizes[1:2] if len(sizes) > 1 else [None], pa.int64()),
        "mean_first": numbers(means[:1]),
        "mean_second": numbers(means[1:] or [None]),
    }
    for name in ("difference", "low", "high", "statistic", "degrees", "p_value", "log_p_value", "effect"):
        columns[name] = numbers([result.get(name)])
    return Table(pa.table(columns))
