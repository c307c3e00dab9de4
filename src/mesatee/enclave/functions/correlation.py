"""How columns go together, pair by pair."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, Final

from mesatee.enclave.functions._parties import combine
from mesatee.enclave.functions._statistics import column, moments, normal_tail, one_of, t_tail, total
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
ROUNDING: Final = 1e-30
"""Points that are no farther than this from a line, in squared length, are on it."""
METHODS: Final = ("pearson", "spearman", "kendall")
EXACT_ROWS: Final = 33
"""Up to so many rows without ties the p value of Kendall's tau is that of all orders, as in scipy."""


def correlation(
    inputs: dict[str, Table],
    *,
    columns: str | list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    method: str = "pearson",
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Correlate columns of numbers, each pair of them.

    `columns` are the columns, two or more; all columns of numbers and truth values if it is left out.
    `method` is ``pearson``, ``spearman`` (ranks; ties get their mean rank) or ``kendall`` (tau-b). The output
    has a row for each pair: ``x``, ``y``, ``rows`` (those that have both values: NaN counts as null, infinite
    values are refused), ``correlation``, ``p_value`` (two-sided, for no correlation) and ``log_p_value``, its
    natural logarithm, which stays a number where the p value is too small for one. p values go by Student's
    distribution with two degrees less than rows, for ``kendall`` by the exact distribution up to 33 rows
    without ties and by the normal one beyond. A pair with a constant column, or with fewer than two rows, has
    none of these: they are null, and so is the p value of two rows (but for ``kendall``). Of points that lie on
    a line the p value is 0, and its logarithm null.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output how strongly each two columns go together, of all inputs together,
    and how many rows have both values. Of two or three rows a correlation tells their order. Reveals to the
    receivers of `diagnostics`: the numbers of rows of each input, and with ``columns`` how many people all of
    them have.
    """
    import numpy as np
    import pyarrow as pa

    one_of("method", method, METHODS)
    data = combine("correlation", inputs, how, key)
    names = data.chosen(columns or [name for name in data.names if data.is_number(name)], least=2)
    values = {name: data.numbers(name) for name in names}
    pairs = list(combinations(names, 2))
    sizes, found = [], []
    for first, second in pairs:
        both = ~(np.isnan(values[first]) | np.isnan(values[second]))
        x, y = values[first][both], values[second][both]
        sizes.append(len(x))
        found.append(_correlated(x, y, method))
        if math.isnan(found[-1][0]):
            why = "one is constant, or too large" if len(x) > 1 else "it takes two rows with both values"
            data.say(f"correlation of {first!r} and {second!r} is null: {why}")
    return Table(
        pa.table(
            {
                "x": pa.array([first for first, _ in pairs]),
                "y": pa.array([second for _, second in pairs]),
                "rows": pa.array(sizes, pa.int64()),
                "correlation": column(item[0] for item in found),
                "p_value": column(item[1] for item in found),
                "log_p_value": column(item[2] for item in found),
            }
        )
    )


def _correlated(x: Any, y: Any, method: str) -> tuple[float, float, float]:
    """Coefficient, p value and its logarithm; NaN where there is none."""
    nothing = (math.nan, math.nan, math.nan)
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return nothing
    if method == "kendall":
        return _kendall(x, y)
    if method == "spearman":
        x, y = _ranks(x), _ranks(y)
    coefficient, rest = _pearson(x, y)
    if len(x) < 3 or not math.isfinite(coefficient):
        return coefficient, math.nan, math.nan
    degrees = len(x) - 2
    if rest == 0:
        # Points on a line: the p value is 0, and has no logarithm.
        return coefficient, 0.0, math.nan
    return coefficient, *t_tail(coefficient * math.sqrt(degrees / rest), degrees, "two-sided")


def _pearson(x: Any, y: Any) -> tuple[float, float]:
    """The coefficient r, and 1 - r * r without the digits that the difference would lose."""
    import numpy as np

    x, y = _scaled(x), _scaled(y)
    r = min(max(total(x * y), -1.0), 1.0)
    # For two unit vectors |x - y|^2 = 2 - 2 r, which is exact where r is near 1.
    sign = 1.0 if r >= 0 else -1.0
    with np.errstate(over="ignore", invalid="ignore"):
        apart = total((x - sign * y) ** 2) / 2
    if apart < ROUNDING:
        return sign, 0.0
    return (sign * (1 - apart) if apart < 0.5 else r), max(0.0, apart * (2 - apart))


def _scaled(values: Any) -> Any:
    """Distances from the mean, of length 1. Division first, so that squares neither overflow nor vanish."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        mean, _ = moments(values)
        away = values - mean
        away = away / np.abs(away).max()
        return away / math.sqrt(total(away * away))


def _ranks(values: Any) -> Any:
    """Ranks from 1; equal values share the mean of theirs."""
    import numpy as np

    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def _kendall(x: Any, y: Any) -> tuple[float, float, float]:
    """Kendall's tau-b (Kendall 1945; ties in the variance by Kendall 1970), by counting inversions."""
    import numpy as np

    rows = len(x)
    x, y = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (x, y))
    discordant = _inversions(y[np.lexsort((y, x))])
    ties_x, ties_y = (_ties(values) for values in (x, y))
    both = _ties(x * (int(y.max()) + 1) + y)[0]
    pairs = rows * (rows - 1) // 2
    balance = pairs - ties_x[0] - ties_y[0] + both - 2 * discordant
    tau = balance / math.sqrt(pairs - ties_x[0]) / math.sqrt(pairs - ties_y[0])
    tau = max(-1.0, min(1.0, tau))
    tied = bool(ties_x[0] or ties_y[0])
    fewest = min(discordant, pairs - discordant)
    if not tied and (rows <= EXACT_ROWS or fewest <= 1):
        return tau, *_exact(rows, fewest)
    variance = (
        (rows * (rows - 1) * (2 * rows + 5) - ties_x[1] - ties_y[1]) / 18
        + 2 * ties_x[0] * ties_y[0] / (rows * (rows - 1))
        + (ties_x[2] * ties_y[2] / (9 * rows * (rows - 1) * (rows - 2)) if rows > 2 else 0)
    )
    return tau, *normal_tail(balance / math.sqrt(variance) if variance > 0 else math.nan)


def _ties(values: Any) -> tuple[int, int, int]:
    """Tied pairs, and the two sums over groups of ties t that the variance takes."""
    import numpy as np

    sizes = np.unique(values, return_counts=True)[1]
    groups = [int(size) for size in sizes[sizes > 1]]
    return (
        sum(t * (t - 1) // 2 for t in groups),
        sum(t * (t - 1) * (2 * t + 5) for t in groups),
        sum(t * (t - 1) * (t - 2) for t in groups),
    )


def _inversions(values: Any) -> int:
    """Pairs of which the first is larger; one pass for each bit, from the highest."""
    import numpy as np

    found = 0
    for bit in reversed(range(int(values.max()).bit_length())):
        ones = (values >> bit) & 1
        before = np.cumsum(ones) - ones
        # Values that agree in the higher bits stand together: count within each such group.
        group = values >> (bit + 1)
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        base = np.repeat(before[starts], np.diff(np.r_[starts, len(values)]))
        found += int((before - base)[ones == 0].sum())
        values = values[np.argsort(values >> bit, kind="stable")]
    return found


def _exact(rows: int, fewest: int) -> tuple[float, float]:
    """The share of orders with so few inversions, in either direction, and its logarithm."""
    pairs = rows * (rows - 1) // 2
    if 2 * fewest == pairs:
        return 1.0, 0.0
    if fewest <= 1:
        log_orders = math.log(2 * (1 if fewest == 0 else rows)) - math.lgamma(rows + 1)
        return min(1.0, math.exp(log_orders)), min(0.0, log_orders)
    # Orders by their number of inversions: the newest item goes behind 0 to size - 1 of the others.
    counts = [1]
    for size in range(2, rows + 1):
        length = min(fewest, size * (size - 1) // 2) + 1
        counts = [sum(counts[max(0, place - size + 1) : place + 1]) for place in range(length)]
    share = min(1.0, 2 * sum(counts) / math.factorial(rows))
    return share, math.log(share)
