"""What owners write about what may leave, and how it is said again."""

from __future__ import annotations

import pytest

from mesatee.errors import Malformed
from mesatee.party import protected


@pytest.mark.parametrize(
    ("text", "each", "total", "delta"),
    [
        ("1", 1_000_000, 1_000_000, None),
        ("1:4", 1_000_000, 4_000_000, None),
        ("0.5:4:0.00001", 500_000, 4_000_000, 10_000_000),
        ("1:1:1e-12", 1_000_000, 1_000_000, 1),
    ],
)
def test_a_budget_is_what_was_written(text: str, each: int, total: int, delta: int | None) -> None:
    found = protected.make(budget=text)
    assert found is not None
    assert found.budget is not None
    assert (found.budget.each, found.budget.total, found.budget.delta) == (each, total, delta)


@pytest.mark.parametrize("text", ["", "x", "4:1", "1:4:x", "1:4:0", "1:4:0.02", "1:4:1e-13", "1:4:1:1", "0"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        protected.make(budget=text)


def test_a_delta_is_said_where_there_is_one() -> None:
    plain, with_delta = protected.make(budget="1:4"), protected.make(budget="1:4:0.00001")
    assert plain is not None
    assert with_delta is not None
    assert protected.explain(plain) == [
        "with differential privacy alone: epsilon 1 for each party, 4 for all together"
    ]
    assert protected.explain(with_delta)[0].endswith("4 for all together, delta 1e-05")
