"""docs/local-development.md names verbs and options that there are, and its option examples are taken."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

from mesatee.cli import data, function
from mesatee.party.marginals import Plan
from mesatee.protocol import limits

GROUPS = {"data": data.app, "function": function.app}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "local-development.md").read_text("utf-8")


def commands(page: str) -> list[list[str]]:
    """The commands in indented blocks, without what is said beside them."""
    text = page.replace("\\\n", " ")
    lines = re.findall(r"^    (mesatee .*)$", text, re.M)
    return [shlex.split(re.split(r"\s{3,}(?=\w)", line)[0]) for line in lines]


def test_every_command_that_is_shown_is_one(page: str) -> None:
    found = commands(page)
    assert len(found) >= 8
    for _, group, verb, *words in found:
        command = typer.main.get_group(GROUPS[group]).commands[verb]
        known = {option for item in command.params for option in item.opts}
        assert {word for word in words if word.startswith("-")} <= known, (group, verb)


def test_every_option_that_is_named_is_one(page: str) -> None:
    known = {
        option
        for app in GROUPS.values()
        for command in typer.main.get_group(app).commands.values()
        for item in command.params
        for option in item.opts
    }
    named = set(re.findall(r"`(--[a-z-]+)", page))
    assert named
    assert named <= known


def test_the_ranges_that_are_shown_are_taken(page: str) -> None:
    (put,) = (words for words in commands(page) if "--mock-epsilon" in words)
    options = dict(itertools.pairwise(put))
    plan = Plan.parse(
        options["--mock-epsilon"],
        ranges=[options["--mock-range"], "t=" + re.findall(r"`(2024-\S+)`", page)[0]],
        values=[options["--mock-values"]],
        missing=[options["--mock-missing"]],
    )
    assert plan.epsilon == limits.EPSILON_UNIT
    assert [item.bins for item in plan.ranges.values()] == [12, 12]
