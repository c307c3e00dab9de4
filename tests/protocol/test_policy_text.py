from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.gateway.policy import PolicySet
from mesatee.errors import Malformed, MesateeError, TooLarge
from mesatee.protocol import policy_text

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"min_level": 1},
        {"min_level": 5, "tees": ("software", "sev-snp"), "functions": (DIGEST,), "not_after": 1_800_000_000},
        {"refuse_simulated": True},
        {"functions": (DIGEST,), "approve_automatically": True},
    ],
)
def test_what_is_built_is_accepted_by_the_gateway(conditions: dict[str, Any]) -> None:
    PolicySet.register(policy_text.dataset(**conditions), "dataset")


def test_the_platform_s_default_is_accepted() -> None:
    PolicySet.register(policy_text.DEFAULT_PLATFORM_POLICY, "platform")


def test_an_automatic_yes_needs_functions() -> None:
    with pytest.raises(Malformed, match="must name functions"):
        policy_text.dataset(approve_automatically=True, min_level=5)


@pytest.mark.parametrize(
    "conditions",
    [
        {"min_level": 0},
        {"min_level": 6},
        {"min_level": True},
        {"tees": ('"] || true //',)},
        {"tees": ("",)},
        {"functions": ("ab",)},
        {"functions": (DIGEST.upper(),)},
        {"not_after": 0},
        {"not_after": True},
    ],
)
def test_wrong_conditions(conditions: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        policy_text.dataset(**conditions)


def test_choices_are_bounded() -> None:
    policy_text.dataset(functions=(DIGEST,) * policy_text.CHOICES)
    with pytest.raises(TooLarge):
        policy_text.dataset(functions=(DIGEST,) * (policy_text.CHOICES + 1))


@given(st.lists(st.text(max_size=20), max_size=4), st.lists(st.text(max_size=70), max_size=2))
def test_no_text_gets_out_of_its_string(tees: list[str], functions: list[str]) -> None:
    try:
        text = policy_text.dataset(tees=tees, functions=functions)
    except MesateeError:
        return
    assert text.count('"') == 6 + 2 * (len(tees) + len(functions))
