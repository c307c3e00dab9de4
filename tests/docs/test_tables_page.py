"""docs/tables.md shows what its commands give, and names the functions that a query may call."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave.functions._statement import FUNCTIONS
from mesatee.enclave.sandbox import Supervisor

FENCE = re.compile(
    r"^<!-- (?P<what>file|run|result): (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```", re.M | re.S
)
NAMES = ("join", "aggregate", "sql")


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "tables.md").read_text("utf-8")


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


def blocks(page: str) -> dict[tuple[str, str], str]:
    return {(item["what"], item["name"]): item["text"] for item in FENCE.finditer(page)}


@pytest.mark.parametrize("name", NAMES)
def test_a_command_gives_what_stands_below_it(
    page: str, name: str, supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = blocks(page)
    assert {found for what, found in marked if what == "run"} == set(NAMES)
    monkeypatch.chdir(tmp_path)
    # The command's own supervisor, started once for all.
    monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))
    for (what, file), text in marked.items():
        if what == "file":
            Path(file).write_text(text, "utf-8")
    program, *words = shlex.split(marked["run", name].replace("\\\n", " "))
    assert (program, words[:3]) == ("mesatee", ["function", "test", name])
    done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outputs"]["result"]["text"] == marked["result", name]


def test_the_list_of_functions_is_that_of_the_check(page: str) -> None:
    (listed,) = re.findall(r"<!-- functions -->(.*?)<!-- /functions -->", page, re.S)
    assert set(re.findall(r"`(\w+)`", listed)) == FUNCTIONS
