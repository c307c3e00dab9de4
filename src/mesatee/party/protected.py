"""Output protection in the owner's words: made of what the command line or a caller gives, and said again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from pydantic import ValidationError

from ..errors import Malformed
from ..protocol import limits
from ..protocol.model import malformed
from ..protocol.protection import EVERYBODY, Budget, Limits, Protection
from .http import visible


def make(
    *,
    min_group: int | None = None,
    max_rows: int | None = None,
    columns: Sequence[str] = (),
    digits: int | None = None,
    multiple: int | None = None,
    budget: str | None = None,
) -> Protection | None:
    """What may leave of a dataset, or None where nothing is limited.

    `budget` is an epsilon for each party, or ``EACH:TOTAL`` with one for all together, or ``EACH:TOTAL:DELTA`` for
    training too. Raises `Malformed`.
    """
    found = {
        "min_group": min_group,
        "max_rows": max_rows,
        "columns": tuple(columns) or None,
        "digits": digits,
        "multiple": multiple,
        "budget": None if budget is None else _budget(budget),
    }
    if all(value is None for value in found.values()):
        return None
    try:
        return Protection.model_validate(found)
    except ValidationError as error:
        raise malformed("what may leave", error) from None


def _budget(text: str) -> Budget:
    each, _, rest = text.partition(":")
    total, _, delta = rest.partition(":")
    try:
        return Budget(
            each=_parts(each, limits.EPSILON_UNIT, "millionths"),
            total=_parts(total or each, limits.EPSILON_UNIT, "millionths"),
            delta=_parts(delta, limits.DELTA_UNIT, "millionths of millionths") if delta else None,
        )
    except ValidationError as error:
        raise malformed("budget", error) from None


def _parts(text: str, unit: int, what: str) -> int:
    try:
        exact = Decimal(text) * unit
        whole = int(exact)
    except (InvalidOperation, OverflowError, ValueError):
        raise Malformed(
            f"a budget is EACH, EACH:TOTAL or EACH:TOTAL:DELTA, numbers, not {visible(text)[:32]!r}",
            hint="for example 1 or 1:4",
        ) from None
    if whole != exact:
        raise Malformed(f"a budget has whole {what}")
    return whole


def explain(found: Limits) -> list[str]:
    """A line for each limit."""
    said = []
    if found.columns is not None:
        said.append(f"only the columns {', '.join(visible(name) for name in found.columns)}")
    if found.min_group is not None:
        said.append(f"only rows that stand for at least {found.min_group} rows")
    if found.max_rows is not None:
        said.append(f"at most {found.max_rows} rows")
    if found.multiple is not None:
        said.append(f"whole numbers as multiples of {found.multiple}")
    if found.digits is not None:
        said.append(f"other numbers with {found.digits} significant digits")
    if isinstance(found, Protection) and found.budget is not None:
        each, total = (epsilon(value) for value in (found.budget.each, found.budget.total))
        said.append(
            f"with differential privacy alone: epsilon {each} for each party, {total} for all together"
            + ("" if found.budget.delta is None else f", delta {found.budget.delta / limits.DELTA_UNIT:g}")
        )
    return said


def epsilon(millionths: int) -> str:
    """As a person writes it."""
    return f"{millionths / limits.EPSILON_UNIT:g}"


def left(found: Protection | None, spent: Mapping[str, int], names: Mapping[str, str]) -> list[str]:
    """Who has spent what of a budget, a line each."""
    if found is None or found.budget is None:
        return []
    lines = []
    for who, amount in sorted(spent.items(), key=lambda item: (item[0] != EVERYBODY, item[0])):
        most = found.budget.total if who == EVERYBODY else found.budget.each
        title = "all together" if who == EVERYBODY else names.get(who, who[:16])
        lines.append(f"{title}: epsilon {epsilon(amount)} of {epsilon(most)} spent")
    return lines or ["nothing of the budget is spent"]


__all__ = ["epsilon", "explain", "left", "make"]
