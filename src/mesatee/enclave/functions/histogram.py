"""How many rows fall into which bin or category."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from mesatee.enclave.functions._parties import CATEGORIES, Combined, combine, text_of
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
BINS: Final = 10_000
"""Bins of one histogram."""


def histogram(
    inputs: dict[str, Table],
    *,
    column: str,
    edges: list[float] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    bins: int | None = None,
    low: float | None = None,
    high: float | None = None,
    categories: list[str | int | float | bool] | None = None,
    how: str = "rows",
    key: str | list[str] | dict[str, str | list[str]] | None = None,
) -> Table:
    """Count the rows of one column by bins of numbers, or by categories.

    Bins are given by their `edges`, in rising order, or as so many equal `bins` from `low` to `high`. A bin
    holds its lower edge and not its upper one; the last bin holds both. Bounds are never taken from the
    data, whose extremes they would tell. The output has ``kind``, ``low``, ``high`` and ``rows``: a row of
    kind ``bin`` for each bin, empty ones too, then ``below``, ``above`` and ``null`` (NaN among it).

    Without edges and bins the column is taken as categories: text, whole numbers, truth values, dates or
    times. `categories` names them; those that it leaves out are counted as ``other``. If it is left out,
    all categories that occur are there, sorted, at most 1,000. The output has ``kind`` (``category``,
    ``other`` or ``null``), ``value`` and ``rows``.

    `how` is ``rows`` (the inputs are parts of one table; a column is there if all have it, and ``input`` says
    which input a row is from) or ``columns`` (the inputs are different columns of the same people, joined on
    the `key` column or columns: those people that all inputs have, once in each; a null matches nothing, and
    a column that several inputs have is named ``input.column``).

    Reveals to the receivers of the output how many rows of all inputs together fall into each bin or
    category, and, unless `categories` names them, which categories there are; a count of 1 is a person.
    Reveals to the receivers of `diagnostics`: the numbers of rows of each input, and with ``columns`` how
    many people all of them have.
    """
    bounds = _bounds(edges, bins, low, high)
    if bounds and categories is not None:
        raise Malformed("categories and bins exclude each other: name one of them")
    data = combine("histogram", inputs, how, key)
    if bounds:
        return _binned(data.numbers(column), bounds)
    if categories is None and any(map(_has_fractions, data.kinds(column))):
        raise Malformed(f"{column!r} has numbers: name edges, or bins with low and high")
    return _counted(data, column, categories)


def _has_fractions(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _bounds(edges: list[float], bins: int | None, low: float | None, high: float | None) -> list[float]:
    """The edges of the bins; none for categories. Raises `Malformed`."""
    if edges:
        if bins is not None or low is not None or high is not None:
            raise Malformed("edges say everything: leave bins, low and high out")
        if not 2 <= len(edges) <= BINS + 1 or any(b <= a for a, b in pairwise(edges)):
            raise Malformed(f"edges are 2 to {BINS + 1} numbers in rising order, none twice")
        return list(edges)
    if bins is None and low is None and high is None:
        return []
    if bins is None or low is None or high is None:
        raise Malformed("bins, low and high are given together: bounds are not taken from the data")
    if not 1 <= bins <= BINS:
        raise Malformed(f"bins is from 1 to {BINS}")
    found = [low + (high - low) * number / bins for number in range(bins)] + [high]
    if not (low < high < low + 1e308 and all(a < b for a, b in pairwise(found))):
        raise Malformed("low is below high, by enough for that many bins")
    return found


def _binned(values: Any, bounds: list[float]) -> Table:
    import numpy as np
    import pyarrow as pa

    edges = np.array(bounds)
    present = values[~np.isnan(values)]
    # Place 0 is below all bins, place len(edges) above; the last edge belongs to the last bin.
    places = np.searchsorted(edges, present, side="right")
    places[present == edges[-1]] = len(edges) - 1
    counts = np.bincount(places, minlength=len(edges) + 1)
    size = len(edges) - 1
    return Table(
        pa.table(
            {
                "kind": pa.array(["bin"] * size + ["below", "above", "null"]),
                "low": pa.array([*bounds[:-1], None, bounds[-1], None], pa.float64()),
                "high": pa.array([*bounds[1:], bounds[0], None, None], pa.float64()),
                "rows": pa.array(
                    [*counts[1:-1], counts[0], counts[-1], len(values) - len(present)], pa.int64()
                ),
            }
        )
    )


def _counted(data: Combined, name: str, wanted: list[str | int | float | bool] | None) -> Table:
    import numpy as np
    import pyarrow as pa

    if wanted is not None and not 1 <= len(wanted) <= CATEGORIES:
        raise Malformed(f"categories names 1 to {CATEGORIES} of them")
    found = data.categories(name, most=None if wanted else CATEGORIES)
    counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.labels))
    nulls = data.rows - int(counts.sum())
    labels, others = found.labels, 0
    if wanted is not None:
        texts = [text_of(value) for value in wanted]
        if len(set(texts)) != len(texts):
            raise Malformed("categories names one twice")
        places = {text: place for place, text in enumerate(found.texts)}
        chosen = [places.get(text, -1) for text in texts]
        kept = [int(counts[place]) if place >= 0 else 0 for place in chosen]
        # Text, so that a category which no row has is named too.
        labels, others, counts = pa.array(texts), int(counts.sum()) - sum(kept), np.array(kept, np.int64)
    more = ["null"] if wanted is None else ["other", "null"]
    nothing = pa.nulls(len(more), labels.type)
    return Table(
        pa.table(
            {
                "kind": pa.array(["category"] * len(labels) + more),
                "value": pa.chunked_array([labels, nothing]).combine_chunks(),
                "rows": pa.array([*counts, *([] if wanted is None else [others]), nulls], pa.int64()),
            }
        )
    )
