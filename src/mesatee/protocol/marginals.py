"""Marginals of a dataset: what its owner says of single columns, with noise, so that mock data look like it.

They are part of the signed dataset statement. All that shapes a histogram is public: the columns, from the schema, and
the bounds or values, which the owner names. The bins follow from these alone, for all are equal, and no statement can
carry bins of its own. What comes from the rows are counts, and each has noise on it (`mesatee.noise`).

The privacy unit is one row: two tables are neighbours if one row was replaced by another; their number of rows, which
the statement says exactly, is the same. A replaced row takes one from one count and adds one to another, so the counts
of a column, `missing` among them, differ by 2 in all. Discrete Laplace noise of scale 2 / epsilon on each makes a
column's histogram epsilon-differentially private, and the columns together spend the sum.

>>> kind_of("int64"), kind_of("timestamp[us, tz=UTC]"), kind_of("list<item: int64>")
('whole', 'whole', None)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from . import limits
from .jsonstrict import canonical
from .model import Column, Model

SENSITIVITY: Final = 2
"""How far the counts of a column move in all when one row is replaced by another."""
TIMES: Final = ("date", "timestamp")
"""How the types begin whose bounds count days or seconds since 1970-01-01."""

Count = Annotated[int, Field(ge=0)]
Epsilon = Annotated[int, Field(ge=1, le=limits.MOCK_EPSILON)]
"""In millionths."""
Value = Annotated[str, StringConstraints(max_length=limits.MARGINAL_VALUE_CHARS)]
Whole = Annotated[int, Field(ge=-limits.MARGINAL_BOUND, le=limits.MARGINAL_BOUND)]
Real = Annotated[float, Field(ge=-limits.MARGINAL_BOUND, le=limits.MARGINAL_BOUND)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=limits.MARGINAL_BINS)]


class _Marginal(Model):
    column: Column
    epsilon: Epsilon
    missing: Count
    """Rows without a value, with noise."""


class WholeMarginal(_Marginal):
    """Integers, days or seconds from `low` to `high`, both included. Those beyond count in the outer bins."""

    kind: Literal["whole"]
    low: Whole
    high: Whole
    counts: Counts

    @model_validator(mode="after")
    def _consistent(self) -> WholeMarginal:
        if not len(self.counts) <= self.high - self.low + 1:
            raise ValueError("from low to high there are at least as many integers as bins")
        return self


class RealMarginal(_Marginal):
    """Numbers from `low` to `high`. Those beyond count in the outer bins."""

    kind: Literal["real"]
    low: Real
    high: Real
    counts: Counts

    @model_validator(mode="after")
    def _consistent(self) -> RealMarginal:
        if not self.low < self.high:
            raise ValueError("low is below high")
        return self


class ChoiceMarginal(_Marginal):
    """Texts: a count for each named value, and the last one for all others."""

    kind: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=limits.MARGINAL_BINS)]
    counts: Annotated[tuple[Count, ...], Field(max_length=limits.MARGINAL_BINS + 1)]

    @model_validator(mode="after")
    def _consistent(self) -> ChoiceMarginal:
        if len(set(self.values)) != len(self.values):
            raise ValueError("each value is named once")
        if len(self.counts) != len(self.values) + 1:
            raise ValueError("there is one count for each value, and one for all others")
        return self


class TruthMarginal(_Marginal):
    """False and true."""

    kind: Literal["truth"]
    counts: Annotated[tuple[Count, ...], Field(min_length=2, max_length=2)]


class PresenceMarginal(_Marginal):
    """How many rows have a value at all, and nothing of what it is."""

    kind: Literal["presence"]
    counts: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1)]


Marginal: TypeAlias = WholeMarginal | RealMarginal | ChoiceMarginal | TruthMarginal | PresenceMarginal


class Marginals(Model):
    """Noisy histograms of single columns, in the order of the columns. Nothing is said of two columns together."""

    mechanism: Literal["discrete_laplace"]
    unit: Literal["row_replaced"]
    columns: Annotated[
        tuple[Annotated[Marginal, Field(discriminator="kind")], ...],
        Field(min_length=1, max_length=limits.COLUMNS),
    ]

    @property
    def epsilon(self) -> int:
        """All that is spent, in millionths: what single columns spend adds up."""
        return sum(item.epsilon for item in self.columns)

    @model_validator(mode="after")
    def _consistent(self) -> Marginals:
        if self.epsilon > limits.MOCK_EPSILON:
            spent = self.epsilon / limits.EPSILON_UNIT
            most = limits.MOCK_EPSILON // limits.EPSILON_UNIT
            raise ValueError(f"the marginals spend an epsilon of {spent:g}, the limit is {most}")
        if len(canonical(self.model_dump(mode="json"))) > limits.MARGINALS_BYTES:
            raise ValueError(
                f"marginals have at most {limits.MARGINALS_BYTES} bytes: name fewer columns or fewer bins"
            )
        return self

    def check(self, types: Mapping[str, str], rows: int | None) -> None:
        """Whether they can be those of a table with columns of these types. Raises `ValueError`.

        1. The number of rows is known, and no count is above it.
        2. Each is of a column that is there, once, in the order of the columns.
        3. Its kind fits the column's type.
        """
        # 1.
        if rows is None:
            raise ValueError("marginals are of a table with a known number of rows")
        for item in self.columns:
            if max(item.missing, *item.counts) > rows:
                raise ValueError(f"a count of column {item.column[:32]!r} is above the number of rows")
        # 2.
        places = {name: place for place, name in enumerate(types)}
        found = [places.get(item.column, -1) for item in self.columns]
        if -1 in found or found != sorted(set(found)):
            raise ValueError("marginals are of columns of the table, each once and in their order")
        # 3.
        for item in self.columns:
            if item.kind != "presence" and item.kind != kind_of(types[item.column]):
                raise ValueError(
                    f"a histogram of kind {item.kind} is of no column of type {types[item.column][:32]}"
                )


def kind_of(type: str) -> Literal["whole", "real", "choice", "truth"] | None:
    """The kind of histogram that a column of this Arrow type can have; None where only presence can be said."""
    if type == "bool":
        return "truth"
    if type in ("halffloat", "float", "double"):
        return "real"
    if type.startswith(("int", "uint")) and type.lstrip("uint").isdigit():
        return "whole"
    if type.startswith(TIMES):
        return "whole"
    if type in ("string", "large_string") or type.startswith("dictionary<values=string"):
        return "choice"
    return None


__all__ = [
    "SENSITIVITY",
    "TIMES",
    "ChoiceMarginal",
    "Count",
    "Counts",
    "Epsilon",
    "Marginal",
    "Marginals",
    "PresenceMarginal",
    "RealMarginal",
    "TruthMarginal",
    "WholeMarginal",
    "kind_of",
]
