"""How `bench psi` says that time grows."""

from __future__ import annotations

import random

import pytest

from mesatee.cli.bench.psi import growth, slope

POWERS = range(16, 23)


def work(power: int) -> float:
    return float((1 << power) * power**2)


@pytest.mark.parametrize("exponent", [0.5, 0.87, 1.0, 1.2])
@pytest.mark.parametrize("start", [0.0, 0.02])
def test_the_exponent_beside_a_start_is_found(exponent, start):
    times = {power: start + (work(power) / work(22)) ** exponent for power in POWERS}
    found, took = growth(times)
    assert found == pytest.approx(exponent, abs=0.005)
    assert took == pytest.approx(start, abs=0.001)


def test_a_start_is_never_negative_and_noise_moves_little():
    rng = random.Random(7)
    for _ in range(50):
        times = {power: work(power) / work(22) * rng.uniform(0.95, 1.05) for power in POWERS}
        found, took = growth(times)
        assert took >= 0
        assert found == pytest.approx(1, abs=0.15)


def test_what_is_quadratic_or_hardly_grows_is_not_taken_for_it():
    assert growth({power: 0.01 + float(1 << power) ** 2 * 1e-12 for power in POWERS})[0] > 1.15
    assert growth({power: 0.01 + float(1 << power) ** 0.5 * 1e-3 for power in POWERS})[0] < 0.85


def test_a_slope_takes_the_start_in():
    assert slope({power: 3 * work(power) for power in POWERS}) == pytest.approx(1)
    assert slope({power: 0.02 + work(power) / work(22) for power in POWERS}) < 0.9
