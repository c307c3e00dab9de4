"""Output protection as part of statements: its form, the strictest of several, and what epsilon is exactly."""

from __future__ import annotations

import importlib
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesatee.enclave import functions
from mesatee.enclave.functions import private_aggregate
from mesatee.errors import Malformed
from mesatee.protocol import limits, protection
from mesatee.protocol.model import validate
from mesatee.protocol.protection import Budget, Limits, Protection, merged, spends, training_spends

NAMES = ("a", "b", "rows")
LIMITS = st.builds(
    Limits,
    min_group=st.none() | st.integers(2, 50),
    max_rows=st.none() | st.integers(1, 50),
    columns=st.none() | st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple),
    digits=st.none() | st.integers(1, 15),
    multiple=st.none() | st.integers(2, 50),
)


def given_(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(Protection.model_fields), **values}


@given(st.lists(LIMITS, min_size=1, max_size=4))
def test_the_strictest_of_each_kind_holds(several: list[Limits]) -> None:
    try:
        found = merged(several)
    except Malformed as error:
        allowed = [set(item.columns) for item in several if item.columns]
        assert not set.intersection(*allowed), error  # noqa: PT017
        return
    for item in several:
        if item.min_group is not None:
            assert found.min_group is not None
            assert found.min_group >= item.min_group
        if item.max_rows is not None:
            assert found.max_rows is not None
            assert found.max_rows <= item.max_rows
        if item.columns is not None:
            assert found.columns is not None
            assert set(found.columns) <= set(item.columns)
        if item.digits is not None:
            assert found.digits is not None
            assert found.digits <= item.digits
        if item.multiple is not None:
            assert found.multiple is not None
            assert found.multiple % item.multiple == 0
    for name in Limits.model_fields:
        if all(getattr(item, name) is None for item in several):
            assert getattr(found, name) is None
    # Each value is one that somebody asked for, or the least multiple; nothing is stricter for no reason.
    assert merged([found]) == found


@given(st.lists(LIMITS, min_size=2, max_size=3), st.randoms())
def test_the_order_of_datasets_does_not_matter(several: list[Limits], random: Any) -> None:
    other = list(several)
    random.shuffle(other)

    def facts(items: list[Limits]) -> Any:
        try:
            found = merged(items)
        except Malformed as error:
            return error.message
        return {**found.model_dump(), "columns": found.columns and sorted(found.columns)}

    assert facts(several) == facts(other)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"min_group": 1},
        {"min_group": limits.PROTECTION_NUMBER + 1},
        {"max_rows": 0},
        {"columns": ()},
        {"columns": ("a", "a")},
        {"columns": ("",)},
        {"columns": tuple(f"c{number}" for number in range(limits.PROTECTION_COLUMNS + 1))},
        {"digits": 0},
        {"digits": 16},
        {"multiple": 1},
        {"min_group": True},
        {"min_group": "5"},
        {"other": 5},
        {"budget": {"each": 2, "total": 1}},
        {"budget": {"each": 0, "total": 1}},
        {"budget": {"each": 1, "total": limits.BUDGET_EPSILON + 1}},
        {"budget": {"each": 1, "total": 1, "delta": 0}},
        {"budget": {"each": 1, "total": 1, "delta": limits.BUDGET_DELTA + 1}},
        {"budget": {"each": 1, "total": 1, "delta": 1e-6}},
    ],
)
def test_what_is_no_protection_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        validate(Protection, given_(**values), "protection")


def test_a_protection_names_every_field() -> None:
    """A field that is left out must not be a second form of the same statement."""
    for name in Protection.model_fields:
        values = given_(max_rows=5)
        del values[name]
        with pytest.raises(Malformed):
            validate(Protection, values, "protection")
    assert validate(Protection, json.loads(json.dumps(given_(max_rows=5))), "protection").max_rows == 5
    with pytest.raises(ValidationError):
        Budget(each=1, total=1, more=1)  # type: ignore[call-arg]


@given(st.integers(1, limits.BUDGET_EPSILON))
def test_what_a_person_writes_is_what_is_paid(millionths: int) -> None:
    text = str(Fraction(millionths, limits.EPSILON_UNIT).limit_denominator(limits.EPSILON_UNIT))
    assert text
    assert spends(millionths / limits.EPSILON_UNIT) == millionths


@pytest.mark.parametrize(
    "value", [0, -1, 0.0000001, 1.0000001, float("nan"), float("inf"), True, None, "1", [1], 1001, 10**400]
)
def test_what_is_no_epsilon_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        spends(value)


@given(
    st.integers(1, limits.BUDGET_EPSILON),
    st.integers(1, limits.BUDGET_DELTA),
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, limits.BUDGET_DELTA)), max_size=20),
)
def test_deltas_of_all_that_a_budget_pays_for_are_within_its_own(
    total: int, delta: int, asked: list[tuple[int, int]]
) -> None:
    budget = Budget(each=total, total=total, delta=delta)
    spent, lost = 0, Fraction(0)
    for epsilon, share in asked:
        value = {"epsilon": epsilon / limits.EPSILON_UNIT, "delta": share / limits.DELTA_UNIT, "clip": 1.0}
        if spent + epsilon > total:
            continue
        try:
            paid = training_spends(value, budget)
        except Malformed:
            assert share * total > delta * epsilon
            continue
        assert paid == epsilon
        spent, lost = spent + paid, lost + Fraction(value["delta"])
    assert lost <= Fraction(delta, limits.DELTA_UNIT) * (1 + Fraction(1, 10**12))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "x",
        {"epsilon": 1},
        {"delta": 1e-7},
        {"noise": 1.0, "delta": 1e-7},
        {"epsilon": 0, "delta": 1e-7},
        {"epsilon": 1, "delta": 0},
        {"epsilon": 1, "delta": -1e-7},
        {"epsilon": 1, "delta": True},
        {"epsilon": 1, "delta": "1e-7"},
        {"epsilon": 1, "delta": float("nan")},
        {"epsilon": 1, "delta": 1e-13},
        {"epsilon": 1, "delta": 1.0000001e-7},
        {"epsilon": 1, "delta": 2.51e-7},
        {"epsilon": 1, "delta": 1.5},
    ],
)
def test_training_that_a_budget_cannot_pay_is_refused(value: Any) -> None:
    budget = Budget(each=4_000_000, total=4_000_000, delta=1_000_000)
    with pytest.raises(Malformed):
        training_spends(value, budget)
    assert training_spends({"epsilon": 1, "delta": 2.5e-7}, budget) == 1_000_000
    with pytest.raises(Malformed, match="no delta"):
        training_spends({"epsilon": 1, "delta": 2.5e-7}, Budget(each=1, total=1))


def test_a_budget_without_delta_is_written_as_before() -> None:
    assert Budget(each=1, total=2).model_dump() == {"each": 1, "total": 2}
    assert Budget(each=1, total=2, delta=3).model_dump() == {"each": 1, "total": 2, "delta": 3}


def test_the_names_are_those_of_built_in_functions() -> None:
    """What the gateway knows of them by name is what they say of themselves."""
    modules = {name: importlib.import_module(f"{functions.__name__}.{name}") for name in functions.names()}
    sized = {name: getattr(module, "GROUP_SIZE", None) for name, module in modules.items()}
    # `protect` reads the column, and makes no groups of its own. In a survival curve it counts people at risk, while
    # two rows differ by a single one; scores of components are of single people; a query may
    # call anything `rows`.
    beside = {"protect", "kaplan_meier", "pca", "sql"}
    assert {name for name, column in sized.items() if column} - beside == protection.GROUPED
    assert set(sized.values()) == {None, protection.GROUP_SIZE}
    joining = {
        name
        for name in protection.GROUPED
        if any(a.name == "many" for a in functions.find(name).signature.arguments)
    }
    assert joining == protection.JOINING
    assert {private_aggregate.__name__.rpartition(".")[2]} == protection.PRIVATE
    # Those that ask where they run do so for the seed of their noise.
    asking = {name for name in functions.names() if functions.find(name).signature.attestation}
    assert asking == protection.SEEDED
    for name in protection.TRAINING:
        dp = next(item for item in functions.find(name).signature.arguments if item.name == protection.DP)
        assert dp.default == {}
    for name in protection.PRIVATE:
        said = functions.find(name).signature
        assert protection.EPSILON in {argument.name for argument in said.arguments}
        assert said.attestation is not None
