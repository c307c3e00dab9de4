"""Output protection: what a dataset's owner lets out of it, whatever the function and whoever receives.

It is part of the signed dataset statement. Each limit holds for every table that a task makes of the dataset; of
several datasets all limits hold at once, the strictest of each kind. The worker enforces them in a sandboxed child of
its own, after the function, and the receipt names what was enforced.

>>> small = Protection(min_group=5, max_rows=None, columns=("city", "rows"), digits=None, multiple=None, budget=None)
>>> large = Protection(min_group=10, max_rows=100, columns=("rows",), digits=None, multiple=None, budget=None)
>>> found = merged([small, large])
>>> found.min_group, found.max_rows, found.columns
(10, 100, ('rows',))
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from ..errors import Malformed
from . import limits
from .digests import Hex32
from .model import Column, Model

GROUPED: Final = frozenset(
    {
        "aggregate",
        "chi_square",
        "correlation",
        "crosstab",
        "describe",
        "histogram",
        "log_rank",
        "private_aggregate",
        "t_test",
        "vif",
        "woe",
    }
)
"""Built-in functions whose output rows say, in the column `GROUP_SIZE`, how many input rows each stands for."""
JOINING: Final = frozenset({"aggregate"})
"""Of these, those that join their inputs, by keys that may stand several times if the task says so."""
PRIVATE: Final = frozenset({"private_aggregate"})
"""Built-in functions that are differentially private, and say by the argument `EPSILON` what they spend."""
TRAINING: Final = frozenset({"fine_tune_net", "train_net"})
"""Those that are so if the argument `DP` says what they spend."""
SEEDED: Final = PRIVATE | TRAINING
"""Those that may draw noise, and get a seed for it."""
GROUP_SIZE: Final = "rows"
"""The column of an output that says for how many input rows each of its rows stands."""
EVERYBODY: Final = "everybody"
"""All parties together, among those that have spent of a budget."""
EPSILON: Final = "epsilon"
"""The argument by which a private function is told what it may spend."""
DP: Final = "dp"
"""The argument of functions that train: an object with, among others, `EPSILON` and `DELTA`."""
DELTA: Final = "delta"

Epsilon = Annotated[int, Field(ge=1, le=limits.BUDGET_EPSILON)]
"""In millionths."""
Delta = Annotated[int, Field(ge=1, le=limits.BUDGET_DELTA)]
"""In millionths of millionths."""


class Budget(Model):
    """How much may be learnt of a dataset's rows, over all tasks and all versions of it: pure differential privacy,
    one row added or taken away, what single tasks spend adds up. With a `delta` also training, which has one.
    """

    each: Epsilon
    """By one party."""
    total: Epsilon
    """By all parties together, should they put together what they got."""
    delta: Delta | None = Field(default=None, exclude_if=lambda value: value is None)
    """By all of what `total` pays for; what a single task has of it is in proportion to its epsilon."""

    @model_validator(mode="after")
    def _consistent(self) -> Budget:
        if self.each > self.total:
            raise ValueError("one party may spend no more than all together")
        return self


class Limits(Model):
    """What holds of an output table. None for no limit."""

    min_group: Annotated[int, Field(ge=2, le=limits.PROTECTION_NUMBER)] | None
    """Rows that stand for fewer input rows are left out."""
    max_rows: Annotated[int, Field(ge=1, le=limits.PROTECTION_NUMBER)] | None
    """A table with more is not let out at all."""
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=limits.PROTECTION_COLUMNS)] | None
    """A table with any other column is not let out at all."""
    digits: Annotated[int, Field(ge=1, le=15)] | None
    """Numbers with a fraction keep so many significant decimal digits."""
    multiple: Annotated[int, Field(ge=2, le=limits.PROTECTION_NUMBER)] | None
    """Whole numbers become the nearest multiple of this."""

    @model_validator(mode="after")
    def _columns_once(self) -> Limits:
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise ValueError("each column is named once")
        return self


class Protection(Limits):
    """What an owner asks for, of one dataset."""

    budget: Budget | None
    """Only functions of `PRIVATE` may use the dataset then, and with a delta those of `TRAINING`."""

    @model_validator(mode="after")
    def _something(self) -> Protection:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError("a protection has at least one limit")
        return self


class Enforced(Limits):
    """What holds for one run, over all of its datasets, and what the run costs."""

    charges: dict[Hex32, Epsilon]
    """Dataset -> what its budget pays, in millionths."""


def merged(protections: Iterable[Limits]) -> Limits:
    """The strictest of each kind: the largest group, the fewest rows and digits, columns that all allow, and the least
    common multiple. Raises `Malformed` if nothing could be let out.
    """
    found = list(protections)

    def values(name: str) -> list[Any]:
        return [value for item in found if (value := getattr(item, name)) is not None]

    allowed = values("columns")
    columns = (
        tuple(name for name in allowed[0] if all(name in other for other in allowed)) if allowed else None
    )
    if columns == ():
        raise Malformed(
            "the datasets' owners allow no column in common, so nothing could be let out",
            hint="ask them for the same names of output columns (`mesatee data show`)",
        )
    multiple = math.lcm(*values("multiple")) if values("multiple") else None
    if multiple is not None and multiple > limits.PROTECTION_NUMBER:
        raise Malformed(f"numbers would be rounded to multiples of more than {limits.PROTECTION_NUMBER}")
    return Limits(
        min_group=max(values("min_group"), default=None),
        max_rows=min(values("max_rows"), default=None),
        columns=columns,
        digits=min(values("digits"), default=None),
        multiple=multiple,
    )


def spends(value: object) -> int:
    """An `EPSILON` argument in millionths, exactly. Raises `Malformed`.

    >>> spends(0.1), spends(2)
    (100000, 2000000)
    """
    most = limits.BUDGET_EPSILON // limits.EPSILON_UNIT
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise Malformed(f"{EPSILON} is a number above 0, at most {most}")
    whole = round(value * limits.EPSILON_UNIT)
    # A float is the nearest one to what a person wrote: so many millionths, if these give the same float.
    if whole < 1 or whole / limits.EPSILON_UNIT != value:
        raise Malformed(f"{EPSILON} is above 0, at most {most}, in whole millionths")
    return whole


def training_spends(value: object, budget: Budget) -> int:
    """What training costs that says `value` by its argument `DP`, in millionths of epsilon. Raises `Malformed`.

    Epsilons are added up, and no task has more of the budget's delta than of its epsilon, so that the deltas of all
    tasks that the budget pays for are within it as well.

    >>> training_spends({"epsilon": 1, "delta": 1e-6}, Budget(each=1_000_000, total=4_000_000, delta=4_000_000))
    1000000
    """
    if budget.delta is None:
        raise Malformed("its privacy budget has no delta, and training needs one")
    if not isinstance(value, dict) or not {EPSILON, DELTA} <= set(value):
        raise Malformed(
            f"training needs the argument {DP}, with {EPSILON} and {DELTA}, to be paid by a budget"
        )
    epsilon, delta = spends(value[EPSILON]), value[DELTA]
    most = budget.delta * epsilon // budget.total
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise Malformed(f"{DELTA} is a number above 0 and below 1")
    whole = round(delta * limits.DELTA_UNIT)
    if whole < 1 or whole / limits.DELTA_UNIT != delta or whole > most:
        raise Malformed(
            f"with this {EPSILON} the budget has {most / limits.DELTA_UNIT:g} of its {DELTA} for a task, in whole "
            "millionths of millionths"
        )
    return epsilon


__all__ = [
    "DELTA",
    "DP",
    "EPSILON",
    "EVERYBODY",
    "GROUPED",
    "GROUP_SIZE",
    "JOINING",
    "PRIVATE",
    "SEEDED",
    "TRAINING",
    "Budget",
    "Enforced",
    "Epsilon",
    "Limits",
    "Protection",
    "merged",
    "spends",
    "training_spends",
]
