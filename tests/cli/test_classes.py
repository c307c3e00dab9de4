"""Names of TEE classes, in options and in policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesatee.attestation.trust import TEES
from mesatee.cli import classes
from mesatee.errors import Malformed


def test_only_known_classes_pass() -> None:
    classes.check(TEES)
    with pytest.raises(Malformed) as caught:
        classes.check(["snp", "sev-snp"])
    assert "'sev-snp'" in caught.value.message
    assert ", ".join(TEES) in caught.value.hint


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ('context.tee == "snpp"', ["snpp"]),
        ('"TDX" != context.tee', ["TDX"]),
        ('["snp", "sev"].contains(context.tee)', ["sev"]),
        ('["snp",\n "tdx"] . contains ( context.tee )', []),
        ('context.tee == "snp" || context.function == "none of ours"', []),
        ('["a", "b"].contains(context.function)', []),
    ],
)
def test_words_of_a_policy_that_are_no_class(condition: str, found: list[str]) -> None:
    assert classes.unknown(f"permit (principal, action, resource) when {{ {condition} }};") == found


def test_the_examples_of_the_page_name_classes_that_exist() -> None:
    page = Path(__file__).parents[2] / "docs" / "policy.md"
    assert classes.unknown(page.read_text("utf-8")) == []
