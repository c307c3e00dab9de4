"""docs/nets.md shows what its programs and commands give."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesatee.cli.main import app

FENCE = re.compile(
    r"^<!-- (?P<what>file|python|run|result): (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```", re.M | re.S
)


def test_programs_and_commands_give_what_stands_below_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = {
        (item["what"], item["name"]): item["text"]
        for item in FENCE.finditer((root / "docs" / "nets.md").read_text("utf-8"))
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for (what, name), text in marked.items():
        match what:
            case "file":
                Path(name).write_text(text, "utf-8")
            case "python":
                exec(compile(text, name, "exec"), names)
    program, *words = shlex.split(marked["run", "onnx_predict"].replace("\\\n", " "))
    assert program == "mesatee"
    done = CliRunner().invoke(app, ["--home", "home", *words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outputs"]["result"]["text"] == marked["result", "onnx_predict"]
    assert "found" in names
