"""What DP-SGD costs, against dp-accounting's accounts of the same mechanism."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions import _accountant
from mesatee.errors import Malformed

NOISE = st.floats(0.3, 20)
RATE = st.floats(1e-4, 1.0)
STEPS = st.integers(1, 20_000)
DELTA = st.sampled_from([1e-3, 1e-5, 1e-6, 1e-9])


def event(noise: float, rate: float, steps: int) -> dp_accounting.DpEvent:
    return dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps
    )


@settings(deadline=None, max_examples=60)
@given(NOISE, RATE, STEPS, DELTA)
def test_epsilon_is_that_of_the_library_at_the_same_orders(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    theirs = rdp.RdpAccountant(list(_accountant.ORDERS), dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    theirs.compose(event(noise, rate, steps))
    ours = _accountant.epsilon(noise=noise, rate=rate, steps=steps, delta=delta)
    expected = theirs.get_epsilon(delta)
    # Ours is rounded up to a millionth. The library has a second bound, by which very little may be nothing at all.
    assert expected == 0 or ours == pytest.approx(expected, rel=1e-9, abs=1.01e-6)
    assert ours >= expected - 1e-9


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [(0.7, 0.02, 100, 1e-5), (1.1, 0.05, 400, 1e-5), (2.5, 0.3, 50, 1e-4)],
)
def test_a_tighter_account_says_a_little_less(noise: float, rate: float, steps: int, delta: float) -> None:
    """Privacy loss distributions are exact up to their grid: what we say is not less than what is lost."""
    exact = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)
    exact.compose(event(noise, rate, steps))
    ours = _accountant.epsilon(noise=noise, rate=rate, steps=steps, delta=delta)
    assert exact.get_epsilon(delta) <= ours <= 2 * exact.get_epsilon(delta)


def test_errors_of_the_draws_are_added() -> None:
    asked = {"noise": 1.0, "rate": 0.01, "steps": 1000, "delta": 1e-5}
    plain = _accountant.epsilon(**asked)  # type: ignore[arg-type]
    assert _accountant.epsilon(**asked, error=0.01) > plain + 0.02  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 20), st.floats(0.001, 1.0), st.integers(1, 5_000))
def test_the_noise_for_an_epsilon_keeps_to_it_and_wastes_little(most: float, rate: float, steps: int) -> None:
    try:
        noise = _accountant.noise_for(most=most, rate=rate, steps=steps, delta=1e-5)
    except Malformed:
        assert _accountant.epsilon(noise=_accountant.MOST_NOISE, rate=rate, steps=steps, delta=1e-5) > most
        return
    assert _accountant.epsilon(noise=noise, rate=rate, steps=steps, delta=1e-5) <= most
    if noise > _accountant.LEAST_NOISE:
        assert _accountant.epsilon(noise=noise / 1.002, rate=rate, steps=steps, delta=1e-5) > most
