"""The sampler's distribution: exactly, branch by branch, and by counting draws."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from mesatee.errors import Malformed
from mesatee.noise import Below, bernoulli_exp, discrete_laplace


class _Open(Exception):
    """A draw that the script does not have: this branch goes on."""

    def __init__(self, sides: int) -> None:
        self.sides = sides


def tree(draw: object, least: Fraction) -> tuple[dict[int, Fraction], Fraction]:
    """Run `draw` on every outcome of every coin, except in branches less probable than `least`.

    Returns the exact probability of each result that was reached, and that of the branches that were cut off.
    """
    found: dict[int, Fraction] = {}
    cut = Fraction(0)
    branches: list[tuple[list[int], Fraction]] = [([], Fraction(1))]
    while branches:
        script, weight = branches.pop()
        rest = iter(script)

        def below(sides: int, rest: object = rest) -> int:
            if sides == 1:
                return 0
            taken = next(rest, None)  # type: ignore[call-overload]
            if taken is None:
                raise _Open(sides)
            return int(taken)

        try:
            result = int(draw(below))  # type: ignore[operator]
        except _Open as reached:
            if weight < least:
                cut += weight
            else:
                branches += [([*script, side], weight / reached.sides) for side in range(reached.sides)]
        else:
            found[result] = found.get(result, Fraction(0)) + weight
    return found, cut


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1), Fraction(3, 2)])
def test_a_coin_of_probability_exp(gamma: Fraction) -> None:
    found, cut = tree(lambda below: bernoulli_exp(gamma, below), Fraction(1, 4_000))
    exact = math.exp(-gamma)
    assert float(found.get(1, Fraction(0))) <= exact <= float(found.get(1, Fraction(0)) + cut)
    assert cut < Fraction(1, 20)
    assert sum(found.values()) + cut == 1


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(1, 2), Fraction(2)])
def test_every_branch_together_is_the_discrete_laplace_distribution(scale: Fraction) -> None:
    found, cut = tree(lambda below: discrete_laplace(scale, below), Fraction(1, 3_000))
    for value in range(-3, 4):
        low = found.get(value, Fraction(0))
        assert float(low) <= mass(value, scale) <= float(low + cut), value
        # Exactly symmetric, also where branches were cut.
        assert found.get(value) == found.get(-value)
    assert cut < Fraction(3, 10)


def mass(value: int, scale: Fraction) -> float:
    """The probability of `value`: (e^(1/scale) - 1) / (e^(1/scale) + 1) * e^(-|value| / scale)."""
    step = math.exp(1 / scale)
    return (step - 1) / (step + 1) * math.exp(-abs(value) / scale)


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(20, 3), Fraction(1, 3)])
def test_many_draws_have_the_distribution(scale: Fraction) -> None:
    draws, source = 20_000, random.Random(2020).randrange
    found = Counter(discrete_laplace(scale, source) for _ in range(draws))
    wide = 4 * math.ceil(scale)
    expected = {value: draws * mass(value, scale) for value in range(-wide, wide + 1)}
    inner = {value: count for value, count in expected.items() if count >= 5}
    outer = draws - sum(inner.values())
    square = sum((found[value] - count) ** 2 / count for value, count in inner.items())
    square += (draws - sum(found[value] for value in inner) - outer) ** 2 / outer if outer >= 5 else 0
    # Five standard deviations of chi-square above its mean.
    assert square < len(inner) + 5 * math.sqrt(2 * len(inner))


def test_a_wrong_distribution_is_noticed() -> None:
    """The same comparison refuses twice the scale, so it can fail."""
    source = random.Random(2020).randrange
    found = Counter(discrete_laplace(Fraction(4), source) for _ in range(20_000))
    assert abs(found[0] - 20_000 * mass(0, Fraction(2))) > 1_000


def test_the_system_s_randomness_is_the_default() -> None:
    assert len({discrete_laplace(Fraction(10**12)) for _ in range(20)}) == 20


def test_only_integers_are_asked_for() -> None:
    asked: list[int] = []
    source = random.Random(1)

    def below(sides: int) -> int:
        asked.append(sides)
        return source.randrange(sides)

    draw: Below = below
    assert isinstance(discrete_laplace(Fraction(2_000_000, 123_457), draw), int)
    assert all(type(sides) is int for sides in asked)


@pytest.mark.parametrize("scale", [Fraction(0), Fraction(-1)])
def test_a_scale_that_hides_nothing_is_refused(scale: Fraction) -> None:
    with pytest.raises(Malformed, match="above 0"):
        discrete_laplace(scale)
    with pytest.raises(Malformed, match="below 0"):
        bernoulli_exp(Fraction(-1))
