"""Discrete Gaussian noise against its probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mesatee.enclave.functions._gaussian import (
    DRAW_ERROR,
    Stream,
    _exponential_coins,
    _laplace,
    discrete_gaussian,
)
from mesatee.errors import Malformed

SEED = bytes(range(32))


def fits(drawn: np.ndarray, weight: object, reach: int) -> float:
    """The p-value of a chi-square test of integers from -reach to reach, others together."""
    values = np.arange(-reach, reach + 1)
    chances = np.array([weight(int(value)) for value in values])  # type: ignore[operator]
    far = np.arange(reach + 1, reach * 20)
    tail = 2 * sum(weight(int(value)) for value in far)  # type: ignore[operator]
    chances = np.append(chances, tail) / (chances.sum() + tail)
    inside = drawn[np.abs(drawn) <= reach]
    counts = np.append(np.bincount(inside + reach, minlength=2 * reach + 1), len(drawn) - len(inside))
    return float(stats.chisquare(counts, chances * len(drawn)).pvalue)


@pytest.mark.parametrize("sigma", [1.0, 1.7, 3.25, 12.0])
def test_its_probabilities_are_those_of_the_discrete_gaussian(sigma: float) -> None:
    drawn = discrete_gaussian(Stream(SEED), sigma, 200_000)
    assert len(drawn) == 200_000
    assert fits(drawn, lambda x: math.exp(-x * x / (2 * sigma * sigma)), math.ceil(2.5 * sigma)) > 1e-3


def test_the_test_of_probabilities_sees_a_sigma_that_is_one_percent_too_small() -> None:
    drawn = discrete_gaussian(Stream(SEED), 3.25 * 0.99, 200_000)
    assert fits(drawn, lambda x: math.exp(-x * x / (2 * 3.25**2)), 9) < 1e-3


@pytest.mark.parametrize("scale", [1, 2, 7])
def test_laplace_has_its_probabilities(scale: int) -> None:
    drawn = _laplace(Stream(SEED), scale, 200_000)
    assert fits(drawn, lambda x: math.exp(-abs(x) / scale), 3 * scale) > 1e-3


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 1.5, 4.0])
def test_coins_fall_with_the_probability_exp_minus_gamma(gamma: float) -> None:
    fell = _exponential_coins(Stream(SEED), np.full(200_000, gamma)).mean()
    chance = math.exp(-gamma)
    assert abs(fell - chance) <= 4.5 * math.sqrt(chance * (1 - chance) / 200_000)


def test_noise_of_a_large_sigma_is_normal_and_uses_every_low_bit() -> None:
    """On the grid of DP-SGD, where low bits of floating point would tell what was added to the noise."""
    sigma = 1.3 * 2**20
    drawn = discrete_gaussian(Stream(SEED), sigma, 100_000)
    assert stats.kstest(drawn / sigma, "norm").pvalue > 1e-3
    low = np.bincount(drawn & 15, minlength=16)
    assert stats.chisquare(low).pvalue > 1e-3
    assert len(np.unique(drawn)) > 95_000


def test_the_same_seed_gives_the_same_noise_and_another_one_other_noise() -> None:
    first = discrete_gaussian(Stream(SEED), 100.0, 50)
    assert (first == discrete_gaussian(Stream(SEED), 100.0, 50)).all()
    assert (first != discrete_gaussian(Stream(bytes(32)), 100.0, 50)).any()
    stream = Stream(SEED)
    assert (discrete_gaussian(stream, 100.0, 50) == first).all()
    assert (discrete_gaussian(stream, 100.0, 50) != first).any()


def test_words_are_the_same_however_they_are_asked_for() -> None:
    whole = Stream(SEED).words(300_000)
    stream = Stream(SEED)
    parts = np.concatenate([stream.words(count) for count in (1, 99_999, 150_000, 50_000)])
    assert (whole == parts).all()
    assert abs(np.unpackbits(whole.view(np.uint8)).mean() - 0.5) < 1e-3


def test_integers_below_a_bound_are_fair() -> None:
    counts = np.bincount(Stream(SEED).below(7, 70_000), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_each_row_takes_part_with_the_rate(rate: float) -> None:
    stream = Stream(SEED)
    sizes = [len(stream.chosen(rate, 1000)) for _ in range(200)]
    expected = stats.binom(1000, rate)
    assert abs(np.mean(sizes) - expected.mean()) <= 4.5 * expected.std() / math.sqrt(200)
    # A coin for each: were it a fixed number of rows, none would differ.
    assert rate == 1 or np.std(sizes) > 0.5 * expected.std()


def test_a_short_seed_is_refused_and_none_is_shown() -> None:
    with pytest.raises(Malformed):
        Stream(bytes(31))
    assert repr(Stream(SEED)) == "<Stream>"


def test_chances_are_as_exact_as_is_said() -> None:
    """An exponent computed in double precision, against one in rational numbers."""
    import mpmath

    mpmath.mp.prec = 200
    sigma = 1.37 * 2**20
    scale = math.floor(sigma) + 1
    for deviations in (0.0, 0.5, 1.0, 3.0, 10.0, 30.0, 50.0):
        value = round(deviations * sigma)
        away = abs(value) - sigma * sigma / scale
        gamma = away * away / (2 * sigma * sigma)
        exact = (mpmath.mpf(value) - mpmath.mpf(sigma) ** 2 / scale) ** 2 / (2 * mpmath.mpf(sigma) ** 2)
        assert abs(gamma - exact) <= DRAW_ERROR / 4
