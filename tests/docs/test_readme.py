"""README.md's first program and its commands do what they say, against a real service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mesatee.cli.up import running

FENCE = re.compile(r"^<!-- (?P<what>file|run): (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```", re.M | re.S)
WRAPPER = '#!/bin/sh\nexec "{python}" -c "from mesatee.cli.main import main; main()" "$@"\n'


def blocks(root: Path) -> dict[tuple[str, str], str]:
    found = FENCE.finditer((root / "README.md").read_text("utf-8"))
    return {(item["what"], item["name"]): item["text"] for item in found}


@pytest.mark.e2e
def test_the_first_program_runs(root: Path, tmp_path: Path):
    marked = blocks(root)
    assert set(marked) == {
        ("file", "people.csv"),
        ("file", "mean_age.py"),
        ("file", "first.py"),
        ("run", "sh"),
    }
    home, place, bin = tmp_path / "home", tmp_path / "place", tmp_path / "bin"
    for folder in (place, bin):
        folder.mkdir()
    for (what, name), text in marked.items():
        if what == "file":
            (place / name).write_text(text, "utf-8")
    command = bin / "mesatee"
    command.write_text(WRAPPER.format(python=sys.executable))
    command.chmod(0o755)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MESATEE_")},
        "MESATEE_HOME": str(home),
        "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=place, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with running(home):
        said = run(sys.executable, "first.py")
        assert "mean_age" in said
        assert "41" in said
        # Whoever runs it twice finds everything in its place.
        assert "41" in run(sys.executable, "first.py")
        said = run("sh", "-euc", marked["run", "sh"])
        assert '"mean_age"\n41' in said
    assert len(list(place.glob("first-*/receipt.json"))) == 2
    assert (place / "second" / "receipt.json").exists()


def test_the_commands_of_the_readme_are_those_of_ci(root: Path):
    readme, ci = (root / "README.md").read_text("utf-8"), (root / ".ci" / "run").read_text("utf-8")
    assert "\n    make test " in readme
    assert re.search(r"^step test make test$", ci, re.M)
    makefile = (root / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", readme, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_no_figures_of_speed(root: Path):
    text = (root / "README.md").read_text("utf-8")
    assert re.findall(r"\d+\s*(?:ms|µs|us|GB/s|MB/s|req/s|times faster|x faster)\b", text) == []
