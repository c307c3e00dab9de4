"""docs/training.md: its commands run in the sandbox, in order, and give what it shows; its table has all layers."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave.functions._architecture import KINDS, LAYERS
from mesatee.enclave.sandbox import Supervisor
from mesatee.inference import Model
from mesatee.table import Table

FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", re.M | re.S)
RUN = re.compile(r"^<!-- run -->\n```sh\nmesatee (.*?)\n```(?:\n\n```text\n(.*?)^```)?", re.M | re.S)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "training.md").read_text("utf-8")


def test_every_command_gives_what_the_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(page):
        (tmp_path / name).write_text(text, "utf-8")
    runpy.run_path("digits.py")
    runpy.run_path("even.py")
    commands = RUN.findall(page)
    assert [shlex.split(command.replace("\\\n", ""))[2] for command, _ in commands] == [
        "train_net",
        "score.py",
        "train_net",
        "fine_tune_net",
        "train_net",
    ]
    with Supervisor() as supervisor:
        monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))
        for command, shown in commands:
            words = shlex.split(command.replace("\\\n", ""))
            done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
            assert done.exit_code == 0, done.output
            if shown:
                assert json.loads(done.stdout)["outputs"]["result"]["text"] == shown
    accuracy = {name: history(name)["accuracy"][-1] for name in ("first", "digits", "even")}
    assert min(accuracy.values()) > 0.9, accuracy
    assert Model(Path("even/model.bin").read_bytes()).outputs[0].shape == (None, 2)
    assert 7.9 < history("private")["epsilon"][-1] <= 8


def history(folder: str) -> dict[str, list[float]]:
    return Table.from_csv(f"{folder}/history.csv").to_dict()


def test_the_table_has_every_layer_and_setting(page: str) -> None:
    found: dict[str, set[str]] = {}
    part = page.split("## Layers")[1].split("\n## ")[0]
    for names, settings in re.findall(r"^\| (`.*?) \| (.*?) \|", part, re.M):
        for name in re.findall(r"`(\w+)`", names):
            found[name] = set(re.findall(r"`(\w+)`", settings))
    assert found == {name: set(fields) for name, fields in KINDS.items()}
    assert f"At most {LAYERS}" in part
