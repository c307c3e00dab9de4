"""docs/trees.md: its commands are run in the sandbox on its files, and give what it shows."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee import trees
from mesatee.cli.main import app
from mesatee.enclave import functions
from mesatee.enclave.sandbox import Supervisor

pytest.importorskip("xgboost")
FILE = re.compile(r"^<!-- file: (\S+) -->\n```csv\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^    mesatee (function test (?:.*\\\n)*.*)\n", re.M)
SHOWN = re.compile(r"\n\n```csv\n(person,prediction.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "trees.md").read_text("utf-8")


def test_the_example_gives_what_is_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(page):
        (tmp_path / name).write_text(text, "utf-8")
    with Supervisor() as started:
        monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(started))
        for command in COMMAND.findall(page):
            words = shlex.split(command.replace("\\\n", ""))
            done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
            assert done.exit_code == 0, done.output
    (shown,) = SHOWN.findall(page)
    assert json.loads(done.stdout)["outputs"]["result"]["text"].replace('"', "") == shown


def test_every_function_of_the_table_is_a_builtin(page: str) -> None:
    named = set(re.findall(r"^\| `([a-z_]+)` \| (?:predicts|trains)", page, re.M))
    assert named == {"gbdt_predict", "gbdt_train"}
    assert named <= set(functions.names())


def test_the_converter_of_the_docstring_works() -> None:
    import doctest

    assert doctest.testmod(trees).failed == 0
