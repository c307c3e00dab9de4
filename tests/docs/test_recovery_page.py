"""docs/recovery.md shows rules that the service takes, and verbs that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mesatee.cli import recover
from mesatee.protocol.model import validate
from mesatee.protocol.service import HandOver, ShareRule, SuccessionRules


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "recovery.md").read_text("utf-8")


def test_the_rules_that_are_shown_are_rules(page: str) -> None:
    example = re.search(r"^```json\n(.*?)^```", page, re.M | re.S)
    assert example
    rules = validate(SuccessionRules, json.loads(example[1]), "rules")
    assert isinstance(rules.hand_over, HandOver)
    assert isinstance(rules.share_holders, ShareRule)
    for name in ("share_holders", "hand_over"):
        assert validate(SuccessionRules, {name: json.loads(example[1])[name]}, "rules")


def test_every_verb_is_explained(page: str) -> None:
    verbs = {command.name for command in recover.app.registered_commands}
    assert set(re.findall(r"`mesatee recover (\w+)`", page)) == verbs
