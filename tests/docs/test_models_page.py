"""docs/models.md: its commands run, its card is one, and its lists are those of the code."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee.cli import models
from mesatee.cli.convert import caffe_onnx, importing
from mesatee.cli.main import app
from mesatee.cli.model import _card
from mesatee.enclave.sandbox import Supervisor

FENCE = re.compile(r"^<!-- (?P<what>file|run): (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "models.md").read_text("utf-8")


def test_its_commands_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = {(item["what"], item["name"]): item["text"] for item in FENCE.finditer(page)}
    assert [name for what, name in marked if what == "run"] == ["import", "inspect", "test"]
    monkeypatch.chdir(tmp_path)
    for (what, name), text in marked.items():
        if what == "file":
            Path(name).write_text(text, "utf-8")
    subprocess.run([sys.executable, "train.py"], check=True)
    said = {}
    with Supervisor() as supervisor:
        monkeypatch.setattr(
            "mesatee.cli.convert.comparing.Supervisor", lambda: contextlib.nullcontext(supervisor)
        )
        for (what, name), text in marked.items():
            if what == "run":
                words = shlex.split(text)[1:]
                done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
                assert done.exit_code == 0, done.output
                said[name] = json.loads(done.stdout)
    assert max(item["relative"] for item in said["import"]["deviations"]) < 1e-9
    assert (said["inspect"]["kind"], said["inspect"]["columns"]) == ("trees", ["age", "bmi", "bp"])
    assert said["test"]["function"] == "gbdt_predict"
    assert len(said["test"]["output"]) == 3
    seen = models.look(Path("progress.json").read_bytes())
    (text,) = re.findall(r"<!-- card -->\n```toml\n(.*?)^```", page, re.M | re.S)
    Path("card.toml").write_text(text, "utf-8")
    card = _card(seen, Path("card.toml"), None, [], [], None, None)
    assert (card.runs, card.warm, card.metrics) == (100, 60, {"r2": 0.51})


def test_its_lists_are_those_of_the_code(page: str) -> None:
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(importing.FRAMEWORKS)
    (layers,) = re.findall(r"these layers are converted, and no others: (.*?)\.\n", page)
    assert {name.split(" ")[0] for name in layers.split(", ") if name[0].isupper() and name != "AVE)"} == set(
        caffe_onnx.KINDS
    )
