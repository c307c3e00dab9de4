"""docs/learning.md: its commands are run in the sandbox on its files, and give what it shows."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.docs.test_statistics_page import cells
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave import functions
from mesatee.enclave.sandbox import Supervisor
from mesatee.protocol import learned

FILE = re.compile(r"^<!-- file: (\S+) -->\n```csv\n(.*?)^```", re.M | re.S)
STEP = re.compile(
    r"^    mesatee function test (?P<command>.*?)\n\n"
    r"|^<!-- output: (?P<output>\w+) -->\n```(?P<format>csv|json)\n(?P<shown>.*?)^```",
    re.M | re.S,
)
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "learning.md").read_text("utf-8")


def alike(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == pytest.approx(theirs, rel=TOLERANCE, abs=TOLERANCE)
    return bool(ours == theirs)


def test_every_example_gives_what_is_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(page):
        (tmp_path / name).write_text(text, "utf-8")
    ran: set[str] = set()
    shown = 0
    outputs: dict[str, Any] = {}
    with Supervisor() as started:
        monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(started))
        for step in STEP.finditer(page):
            if step["command"]:
                words = shlex.split(step["command"].replace("\\\n", ""))
                done = CliRunner().invoke(app, ["--home", "home", "function", "test", *words, "--json"])
                assert done.exit_code == 0, done.output
                outputs = json.loads(done.stdout)["outputs"]
                ran.add(words[0])
            elif step["format"] == "json":
                document = learned.read(step["shown"].encode())
                kept = learned.read((tmp_path / "relapse" / "model.bin").read_bytes())
                assert isinstance(document, learned.Linear)
                assert isinstance(kept, learned.Linear)
                assert alike([*document.coefficients], [*kept.coefficients])
                assert document.columns == kept.columns
            else:
                assert alike(cells(outputs[step["output"]]["text"]), cells(step["shown"])), step["output"]
                shown += 1
    assert ran == in_the_table(page)
    assert shown > len(ran)


def in_the_table(page: str) -> set[str]:
    table = page[: page.index("\n## ")]
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.M))


def test_the_table_names_builtins_and_their_outputs(page: str) -> None:
    for name, said in re.findall(r"^\| `([a-z_]+)` \| .*? \| (.*?) \|$", page[: page.index("\n## ")], re.M):
        outputs = re.findall(r"`(\w+)`", said) or ["result"]
        assert [port.name for port in functions.find(name).signature.outputs] == outputs


def test_every_field_of_a_document_is_explained(page: str) -> None:
    part = page[page.index("## The model document") :]
    named = {
        name for line in re.findall(r"^\| (`.*?) \|", part, re.M) for name in re.findall(r"`(\w+)`", line)
    }
    kinds = (
        learned.Linear,
        learned.KMeans,
        learned.NaiveBayes,
        learned.Svm,
        learned.GaussianMixture,
        learned.Pca,
    )
    assert named == {field for kind in kinds for field in kind.model_fields}
