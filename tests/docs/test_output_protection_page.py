"""docs/output-protection.md: its second program runs as it stands there, and the options that it names are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mesatee.cli import data, up
from mesatee.table import Table


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "output-protection.md").read_text("utf-8")


def commands(page: str) -> list[list[str]]:
    return [
        shlex.split(line)[1:] for line in re.findall(r"^    (mesatee .*)$", page.replace("\\\n", " "), re.M)
    ]


def test_every_option_of_the_table_is_one(page: str) -> None:
    put = typer.main.get_group(data.app).commands["put"]
    known = {option for item in put.params for option in item.opts}
    named = set(re.findall(r"^\| `(--[a-z-]+)", page, re.M))
    assert len(named) == 6
    assert named <= known


@pytest.mark.e2e
def test_the_scientist_gets_an_answer_and_the_owner_sees_what_it_cost(page: str, tmp_path: Path) -> None:
    rows = "".join(f"{'Bern' if n % 3 else 'Genève'},{n % 90}\n" for n in range(900))
    (tmp_path / "visits.csv").write_text("city,age\n" + rows)
    home = tmp_path / "home"

    def mesatee(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from mesatee.cli.main import main; main()", "--home", str(home), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, *shown = commands(page)
    assert "--min-group" in first
    with up.running(home):
        for name in ("hospital", "ann"):
            mesatee("id", "new", name)
        said = [mesatee(*words) for words in shown]
    answer = Table.from_csv((tmp_path / "ages" / "result.csv").read_bytes()).to_dict()
    assert answer["city"] == ["Bern", "Genève"]
    assert all(abs(count - wanted) < 200 for count, wanted in zip(answer["rows"], (600, 300), strict=True))
    assert "epsilon 1 for each party, 4 for all together" in said[-1]
    assert "ann: epsilon 0.5 of 1 spent" in said[-1]
