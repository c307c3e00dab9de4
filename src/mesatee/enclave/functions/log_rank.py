"""The log-rank test of two or more groups, and its weighted relatives.

Mantel 1966; weights of Gehan 1965, Tarone and Ware 1977, Peto and Peto 1972, Fleming and Harrington 1982.
"""

from __future__ import annotations

import math
from typing import Any, Final

from mesatee.enclave.functions._parties import Combined, combine
from mesatee.enclave.functions._statistics import chi_square_tail, one_of
from mesatee.enclave.functions._statistics import column as numbers
from mesatee.enclave.functions._survival import Course, course, subjects
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
TABLES: Final = ("test", "groups")
WEIGHTS: Final = ("log-rank", "wilcoxon", "tarone-ware", "peto", "fleming-harrington")
_SINGULAR: Final = 1e12


def log_rank(
    inputs: dict[str, Table],
    *,
    duration: str,
    event: str | None = None,
    group: str,
    weights: str = "log-rank",
    p: float = 1.0,
    q: float = 0.0,
    table: str = "test",
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Test by the log-rank test whether groups survive equally long.

    `duration` is the column of times, in any unit, from 0 on; `event` the column that says whether the event
    happened then (true or 1), or whether the person was only seen until then (false or 0: censored). Without
    it, it happened to all. `group` is the column of groups, 2 to 50. Rows with a null in one of them (NaN
    among it) are left out.

    `weights` says how much a time with events counts: ``log-rank`` (all the same), ``wilcoxon`` (people at
    risk, by Gehan and Breslow), ``tarone-ware`` (their square root), ``peto`` (survival as modified by Peto
    and Peto) or ``fleming-harrington`` (S^p (1 - S)^q of survival S just before, with `p` and `q` from 0 on).

    With ``table=test`` the output has one row: ``rows`` (people of the smallest group), ``groups``,
    ``statistic`` (chi-square), ``degrees`` (of freedom), ``p_value`` and ``log_p_value`` (its natural
    logarithm, also where the p value is too small for a number). With ``table=groups`` it has a row for each
    group: ``group``, ``rows``, ``observed`` and ``expected`` (events, without weights). The test is undefined,
    and null, with fewer than two groups, and if groups are never at risk together when something happens; a
    group that is never at risk then is left out of ``degrees``.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output the result of the test, of all inputs together, and with
    ``table=groups`` how many people and events each group has. Reveals to the receivers of `diagnostics`: the
    numbers of rows of each input, how many have nulls, and with ``columns`` how many people all of them have.
    """
    import numpy as np
    import pyarrow as pa

    one_of("weights", weights, WEIGHTS)
    one_of("table", table, TABLES)
    if not (0 <= p < math.inf and 0 <= q < math.inf):
        raise Malformed("p and q are 0 or more")
    data = combine("log_rank", inputs, how, key)
    people = subjects(data, duration, event, group)
    whole = course(people.times, people.happened)
    at_risk, events = _by_group(whole, people.times, people.happened, people.codes, len(people.places))
    if table == "groups":
        expected = at_risk * (whole.events / whole.at_risk)[:, None]
        return Table(
            pa.table(
                {
                    "group": people.labels,
                    "rows": pa.array(np.bincount(people.codes, minlength=len(people.places)), pa.int64()),
                    "observed": pa.array(events.sum(axis=0), pa.int64()),
                    "expected": numbers(expected.sum(axis=0).tolist()),
                }
            )
        )
    sizes = np.bincount(people.codes, minlength=len(people.places)).tolist()
    statistic, degrees = _tested(data, whole, at_risk, events, _weights(whole, weights, p, q))
    p_value, log_p_value = chi_square_tail(statistic, degrees or 0)
    return Table(
        pa.table(
            {
                "rows": pa.array([min(sizes, default=0)], pa.int64()),
                "groups": pa.array([len(sizes)], pa.int64()),
                "statistic": numbers([statistic]),
                "degrees": pa.array([degrees], pa.int64()),
                "p_value": numbers([p_value]),
                "log_p_value": numbers([log_p_value]),
            }
        )
    )


def _by_group(whole: Course, times: Any, happened: Any, codes: Any, groups: int) -> tuple[Any, Any]:
    """People at risk and events, of shape (times, groups)."""
    import numpy as np

    size = len(whole.times)
    places = np.searchsorted(whole.times, times) * groups + codes
    ended = np.bincount(places, minlength=size * groups).reshape(size, groups)
    events = np.bincount(places[happened], minlength=size * groups).reshape(size, groups)
    return ended.sum(axis=0) - np.cumsum(ended, axis=0) + ended, events


def _weights(whole: Course, name: str, p: float, q: float) -> Any:
    import numpy as np

    match name:
        case "wilcoxon":
            return whole.at_risk.astype(np.float64)
        case "tarone-ware":
            return np.sqrt(whole.at_risk)
        case "peto":
            return np.cumprod(1 - whole.events / (whole.at_risk + 1))
        case "fleming-harrington":
            before = np.r_[1.0, np.cumprod(1 - whole.events / whole.at_risk)][: len(whole.times)]
            return before**p * (1 - before) ** q
    return np.ones(len(whole.times))


def _tested(
    data: Combined, whole: Course, at_risk: Any, events: Any, weights: Any
) -> tuple[float, int | None]:
    """Statistic and degrees of freedom; NaN and None where there are none."""
    import numpy as np

    kept = whole.events > 0
    n, d, weights = whole.at_risk[kept].astype(np.float64), whole.events[kept], weights[kept]
    share = at_risk[kept] / n[:, None]
    present = share.any(axis=0)
    if present.sum() < 2:
        data.say("the test is undefined: fewer than two groups are at risk when something happens")
        return math.nan, None
    if not present.all():
        data.say("a group is left out of the test: nobody of it is at risk when something happens")
    share, away = share[:, present], events[kept][:, present] - share[:, present] * d[:, None]
    score = (weights[:, None] * away).sum(axis=0)
    # One person at risk is no choice; the variance is 0 then.
    factor = weights**2 * d * np.where(n > 1, (n - d) / np.maximum(n - 1, 1), 0.0)
    variance = np.diag((factor[:, None] * share).sum(axis=0))
    for place in range(share.shape[1]):
        variance[place] -= (factor[:, None] * share[:, [place]] * share).sum(axis=0)
    # The scores sum to 0, so that the last one says nothing new.
    variance, score = variance[:-1, :-1], score[:-1]
    scale = np.sqrt(np.diagonal(variance))
    if not (scale > 0).all() or np.linalg.cond(variance / np.outer(scale, scale)) > _SINGULAR:
        data.say("the test is undefined: there are no times at which every group could have the event")
        return math.nan, None
    score = score / scale
    return float(score @ np.linalg.solve(variance / np.outer(scale, scale), score)), len(score)
