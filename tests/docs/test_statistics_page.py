"""docs/statistics.md: its commands are run in the sandbox on its files, and give what it shows."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave import functions
from mesatee.enclave.sandbox import Supervisor

FILE = re.compile(r"^<!-- file: (\S+) -->\n```csv\n(.*?)^```", re.M | re.S)
EXAMPLE = re.compile(r"^    mesatee function test (.*?)\n\n```csv\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "statistics.md").read_text("utf-8")


def cells(text: str) -> list[list[str | float]]:
    """The cells of CSV; numbers with the digits that no processor rounds differently."""

    def cell(value: str) -> str | float:
        try:
            return float(f"{float(value):.12g}")
        except ValueError:
            return value

    return [[cell(value) for value in row] for row in csv.reader(io.StringIO(text))]


def test_every_example_gives_what_is_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(page):
        (tmp_path / name).write_text(text, "utf-8")
    found = EXAMPLE.findall(page)
    with Supervisor() as started:
        monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(started))
        for command, shown in found:
            words = shlex.split(command.replace("\\\n", ""))
            done = CliRunner().invoke(app, ["--home", "home", "function", "test", *words, "--json"])
            assert done.exit_code == 0, done.output
            outcome = json.loads(done.stdout)
            assert outcome["executor"] == "builtin"
            assert cells(outcome["outputs"]["result"]["text"]) == cells(shown), words[0]
    assert {command.split()[0] for command, _ in found} == in_the_table(page)


def in_the_table(page: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", page, re.M))


def test_every_function_of_the_table_is_a_builtin(page: str) -> None:
    named = in_the_table(page)
    assert len(named) == 10
    assert named <= set(functions.names())


def test_its_outputs_say_how_many_people_are_behind_a_row(page: str) -> None:
    for _, shown in EXAMPLE.findall(page):
        assert "rows" in next(csv.reader(io.StringIO(shown)))
