"""The Kaplan-Meier estimate of survival, by group.

Kaplan and Meier 1958; variance by Greenwood 1926; intervals on the scale of log(-log S), as Kalbfleisch and Prentice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._parties import combine
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.enclave.functions._statistics import one_of, share
from mesatee.enclave.functions._survival import Course, Subjects, course, subjects
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
TABLES: Final = ("curve", "median")
TIMES: Final = 10_000
"""Times at which a curve is asked for."""
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class _Curve:
    """Survival just after each time of a course, its standard error and bounds; NaN where there is none."""

    course: Course
    survival: Any
    error: Any
    low: Any
    high: Any


def kaplan_meier(
    inputs: dict[str, Table],
    *,
    duration: str,
    event: str | None = None,
    group: str | None = None,
    table: str = "curve",
    times: list[float] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    confidence: float = 0.95,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Estimate by Kaplan and Meier how many survive for how long, for all or for each group.

    `duration` is the column of times, in any unit, from 0 on; `event` the column that says whether the event
    happened then (true or 1), or whether the person was only seen until then (false or 0: censored). Without
    it, it happened to all. `group` is a column of groups, at most 50. Rows with a null in one of them (NaN
    among it) are left out.

    With ``table=curve`` the output has a row for each time at which somebody's observation ends, or for each
    of the `times` that you name: ``group`` (if there are groups), ``time``, ``rows`` (people at risk just
    before that time), ``events`` and ``censored`` (since the row before, with the time itself), ``survival``,
    ``std_error`` (Greenwood), ``low`` and ``high`` (bounds at this `confidence`, by log(-log)). Bounds are
    null where survival is 0 or 1, the error too where it is 0; behind the last time of a group all are null,
    unless nobody was left. With ``table=median`` it has a row for each group: ``group``, ``rows``,
    ``events``, ``censored``, ``median`` (the first time with a survival of at most a half) and its bounds
    ``low`` and ``high``; null if they are not reached.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output the estimate of all inputs together. A curve without `times` has
    the duration of every person, and how it ended; towards its end single people are behind each row. With
    `times` it has counts between them. The median is a duration of somebody. Reveals to the receivers of
    `diagnostics`: the numbers of rows of each input, how many have nulls, and with ``columns`` how many
    people all of them have.
    """
    one_of("table", table, TABLES)
    share("confidence", confidence)
    if len(times) > TIMES or any(time < 0 for time in times) or len(set(times)) != len(times):
        raise Malformed(f"times are at most {TIMES} different ones, from 0 on")
    if times and table != "curve":
        raise Malformed("times are for table=curve")
    data = combine("kaplan_meier", inputs, how, key)
    people = subjects(data, duration, event, group)
    curves = [_estimated(people, code, confidence) for code in range(len(people.places))]
    if table == "median":
        return _medians(people, curves, data.say)
    parts = [_at(curve, times) if times else _everywhere(curve) for curve in curves]
    return _curves(people, parts)


def _estimated(people: Subjects, code: int, confidence: float) -> _Curve:
    import numpy as np
    from scipy import special

    mine = people.codes == code
    found = course(people.times[mine], people.happened[mine])
    survival = np.cumprod(1 - found.events / found.at_risk)
    z = float(special.ndtri(0.5 + confidence / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        left = found.at_risk - found.events
        relative = np.sqrt(np.cumsum(found.events / (found.at_risk * left.astype(np.float64))))
        inside = (survival > 0) & (survival < 1)
        spread = np.where(inside, z * relative / -np.log(survival), np.nan)
        low, high = (np.where(inside, survival ** np.exp(side * spread), np.nan) for side in (1, -1))
        return _Curve(found, survival, np.where(survival > 0, survival * relative, np.nan), low, high)


def _everywhere(curve: _Curve) -> dict[str, Any]:
    found = curve.course
    return {
        "time": found.times,
        "rows": found.at_risk,
        "events": found.events,
        "censored": found.censored,
        "survival": curve.survival,
        "std_error": curve.error,
        "low": curve.low,
        "high": curve.high,
    }


def _at(curve: _Curve, times: list[float]) -> dict[str, Any]:
    """The curve at some times, in rising order."""
    import numpy as np

    found = curve.course
    wanted = np.sort(np.asarray(times, np.float64))
    passed = np.searchsorted(found.times, wanted, side="right")
    before = np.searchsorted(found.times, wanted, side="left")
    # Behind the last time nothing is known, unless nobody is left.
    known = (wanted <= found.times[-1]) | (curve.survival[-1] == 0)

    def since(counts: Any) -> Any:
        return np.diff(np.r_[0, np.cumsum(counts)][passed], prepend=0)

    def then(values: Any, first: float) -> Any:
        return np.where(known, np.r_[first, values][passed], np.nan)

    return {
        "time": wanted,
        "rows": np.r_[found.at_risk, 0][before],
        "events": since(found.events),
        "censored": since(found.censored),
        "survival": then(curve.survival, 1.0),
        "std_error": then(curve.error, 0.0),
        "low": then(curve.low, math.nan),
        "high": then(curve.high, math.nan),
    }


def _curves(people: Subjects, parts: list[dict[str, Any]]) -> Table:
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {}
    if people.groups is not None:
        places = np.repeat(np.asarray(people.places, np.int64), [len(part["time"]) for part in parts])
        columns["group"] = people.groups.take(places)
    for name in ("time", "rows", "events", "censored", "survival", "std_error", "low", "high"):
        values = np.concatenate([part[name] for part in parts]) if parts else np.empty(0)
        whole = name in ("rows", "events", "censored")
        columns[name] = pa.array(values.astype(np.int64)) if whole else numbers(values.tolist())
    return Table(pa.table(columns))


def _first(times: Any, reached: Any) -> float:
    """The first time at which something is reached; NaN if it never is."""
    return float(times[int(reached.argmax())]) if reached.any() else math.nan


def _medians(people: Subjects, curves: list[_Curve], say: Callable[[str], None]) -> Table:
    import pyarrow as pa

    half = 0.5 * (1 + _ROUNDING)
    medians = [_first(curve.course.times, curve.survival <= half) for curve in curves]
    # A lower bound is below the estimate, also where it is not known how far.
    lows = [_first(c.course.times, (c.low <= half) | (c.survival == 0)) for c in curves]
    highs = [_first(curve.course.times, curve.high <= half) for curve in curves]
    for number, median in enumerate(medians):
        if math.isnan(median):
            say(f"median of group {number + 1} of {len(medians)} is null: more than half survive to the end")
    columns: dict[str, Any] = {} if people.groups is None else {"group": people.labels}
    columns |= {
        "rows": pa.array([int(curve.course.at_risk[0]) for curve in curves], pa.int64()),
        "events": pa.array([int(curve.course.events.sum()) for curve in curves], pa.int64()),
        "censored": pa.array([int(curve.course.censored.sum()) for curve in curves], pa.int64()),
        "median": numbers(medians),
        "low": numbers(lows),
        "high": numbers(highs),
    }
    return Table(pa.table(columns))
