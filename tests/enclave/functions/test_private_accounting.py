"""The sum of millionths that a budget keeps, against dp-accounting's account of the same noise."""

from __future__ import annotations

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions import private_aggregate as module
from mesatee.enclave.functions.private_aggregate import private_aggregate
from mesatee.protocol import limits
from mesatee.protocol.protection import spends
from mesatee.table import Table


def account(scale: float, sensitivity: int) -> object:
    """The privacy loss of discrete Laplace noise of this scale on a count that moves by so much."""
    return pld.from_discrete_laplace_mechanism(
        1 / scale, sensitivity=sensitivity, value_discretization_interval=1e-3
    )


def answers(epsilon: float, sums: int) -> list[object]:
    """The losses of all figures of one answer to which one row can add, as they are really drawn."""
    drawn: list[float] = []

    def draw(scale: object, below: object) -> int:
        drawn.append(float(scale))  # type: ignore[arg-type]
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "discrete_laplace", draw)
        named = {f"x{number}": [0, 3 + number] for number in range(sums)}
        rows = Table.from_dict({name: [1] for name in named} or {"y": [1]})
        private_aggregate({"t": rows}, epsilon=epsilon, sums=named, where={})  # type: ignore[arg-type]
    return [account(scale, most) for scale, most in zip(drawn, [1, *range(3, 3 + sums)], strict=True)]


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from([0.05, 0.1, 0.25, 1.0]), st.integers(0, 2)), min_size=1, max_size=4)
)
def test_what_a_budget_paid_is_no_less_than_what_was_lost(asked: list[tuple[float, int]]) -> None:
    paid = sum(spends(epsilon) for epsilon, _ in asked) / limits.EPSILON_UNIT
    losses = [loss for epsilon, sums in asked for loss in answers(epsilon, sums)]
    total = losses[0]
    for loss in losses[1:]:
        total = total.compose(loss)  # type: ignore[attr-defined]
    # The library rounds each loss up to its grid.
    assert total.get_epsilon_for_delta(0.0) <= paid + 1e-3 * len(losses)  # type: ignore[attr-defined]


def test_an_answer_costs_all_that_was_paid_for_it() -> None:
    """The oracle would notice noise that is too small: a single count spends its epsilon, no less."""
    (loss,) = answers(0.5, 0)
    assert loss.get_epsilon_for_delta(0.0) == pytest.approx(0.5, abs=2e-3)  # type: ignore[attr-defined]
    assert account(1.9, 1).get_epsilon_for_delta(0.0) > 0.52  # type: ignore[attr-defined]
