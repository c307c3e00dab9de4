"""Sums and tails, against exact arithmetic, closed forms and scipy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mesatee.enclave.functions import _statistics as module
from mesatee.errors import Malformed

NUMBERS = st.floats(-1e6, 1e6)
QUICK = settings(deadline=None, max_examples=60)


@QUICK
@given(st.lists(NUMBERS, max_size=40), st.randoms())
def test_moments_are_right_and_do_not_depend_on_the_order(values, random):
    mean, squares = module.moments(np.array(values))
    shuffled = random.sample(values, len(values))
    assert not values or module.moments(np.array(shuffled)) == (mean, squares)
    if not values:
        assert math.isnan(mean)
        assert math.isnan(squares)
        return
    exact = [Fraction(value) for value in values]
    middle = sum(exact) / len(exact)
    spread = sum((value - middle) ** 2 for value in exact)
    assert mean == pytest.approx(float(middle), rel=1e-14, abs=1e-300)
    size = max(abs(value) for value in values)
    assert squares == pytest.approx(float(spread), rel=1e-9, abs=len(values) * (size * 1e-15) ** 2)


ANY = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [5e-324, -5e-324, 1e308, -1e308, 2.0**-1022]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(ANY | NUMBERS, max_size=60), st.integers(1, 5))
def test_the_sum_is_exact(values, times):
    exact = sum(map(Fraction, values * times), Fraction(0))
    found = module.total(np.array(values * times))
    try:
        # Beside numbers near the largest, the smallest ones are lost, and may have decided how the sum is rounded.
        large = max(map(abs, values), default=0) > 1e300
        assert found == (pytest.approx(float(exact), rel=1e-15, abs=1e-300) if large else float(exact))
    except OverflowError:
        assert math.isnan(found)


def test_a_constant_has_no_spread():
    assert module.moments(np.array([0.1] * 3)) == (0.1, 0.0)
    assert module.deviation(0.0, 3) == 0.0
    assert math.isnan(module.deviation(0.0, 1))


def test_what_is_too_large_is_no_number():
    assert math.isnan(module.total(np.array([1e308, 1e308])))
    assert math.isnan(module.total(np.array([math.inf, -math.inf])))
    for order in ([1e308, 1e308, -1e308], [1e308, -1e308, 1e308]):
        assert module.total(np.array(order)) == 1e308
    assert module.finite(math.inf) is None
    assert module.finite(None) is None
    assert module.column([1, math.nan, None]).to_pylist() == [1.0, None, None]


@QUICK
@given(st.floats(0, 400), st.integers(1, 500))
def test_chi_square_tails_are_those_of_scipy(statistic, degrees):
    value, log_value = module.chi_square_tail(statistic, degrees)
    theirs = stats.chi2.sf(statistic, degrees)
    assert value == pytest.approx(theirs, rel=1e-10)
    assert log_value == pytest.approx(math.log(theirs), rel=1e-10, abs=1e-12)


@QUICK
@given(st.floats(-60, 60), st.floats(0.5, 500), st.sampled_from(module.ALTERNATIVES))
def test_tails_of_students_distribution_are_those_of_scipy(statistic, degrees, alternative):
    value, log_value = module.t_tail(statistic, degrees, alternative)
    theirs = {
        "two-sided": 2 * stats.t.sf(abs(statistic), degrees),
        "less": stats.t.cdf(statistic, degrees),
        "greater": stats.t.sf(statistic, degrees),
    }[alternative]
    assert value == pytest.approx(theirs, rel=1e-9)
    assert log_value == pytest.approx(math.log(theirs), rel=1e-9, abs=1e-12)


@QUICK
@given(st.floats(20, 400), st.integers(1, 50))
def test_the_fractions_meet_the_tails_where_both_are_numbers(statistic, degrees):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SMALL", math.inf)
        x = statistic + 2 * degrees
        assert module.chi_square_tail(x, degrees)[1] == pytest.approx(stats.chi2.logsf(x, degrees), rel=1e-10)
        t = 2 + statistic / 20
        assert module.t_tail(t, degrees, "greater")[1] == pytest.approx(stats.t.logsf(t, degrees), rel=1e-10)


@pytest.mark.parametrize("x", [2e3, 1e5, 1e9])
def test_tails_too_small_for_a_number_have_their_logarithm(x):
    # Closed forms: two degrees of freedom, one degree (a squared normal), and Student with one and two degrees.
    assert module.chi_square_tail(x, 2) == (0.0, pytest.approx(-x / 2, rel=1e-12))
    squared = math.log(2) + special.log_ndtr(-math.sqrt(x))
    assert module.chi_square_tail(x, 1) == (0.0, pytest.approx(squared, rel=1e-12))
    assert module.normal_tail(math.sqrt(x)) == (0.0, pytest.approx(squared, rel=1e-12))
    far = 1e300
    assert module.t_tail(far, 1, "greater")[1] == pytest.approx(-math.log(math.pi) - math.log(far), rel=1e-12)
    assert module.t_tail(far, 2, "two-sided")[1] == pytest.approx(-2 * math.log(far), rel=1e-12)


def test_a_tail_of_nothing_is_nothing():
    for found in (
        module.chi_square_tail(math.nan, 1),
        module.chi_square_tail(1, 0),
        module.t_tail(math.inf, 5, "less"),
        module.t_tail(1, math.nan, "less"),
        module.normal_tail(math.nan),
    ):
        assert all(math.isnan(value) for value in found)
    assert module.normal_tail(0.0) == (1.0, 0.0)


def test_what_arguments_may_be():
    assert module.share("confidence", 0.5) == 0.5
    for wrong in (0, 1, -1, 2):
        with pytest.raises(Malformed, match="confidence lies between"):
            module.share("confidence", wrong)
    with pytest.raises(Malformed, match="kind is one of a, b"):
        module.one_of("kind", "c", ("a", "b"))
