"""SECURITY.md names tests that exist, files and functions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NAMED = re.compile(r"`(tests/[\w/.]+)(?:::(\w+))?`")


def missing(root: Path, text: str) -> list[str]:
    """Named tests that are not there."""
    found = []
    for name, function in NAMED.findall(text):
        path = root / name
        if not path.exists():
            found.append(name)
        elif function and not re.search(rf"^(?:async )?def {function}\(", path.read_text("utf-8"), re.M):
            found.append(f"{name}::{function}")
    return found


@pytest.mark.parametrize("page", ["SECURITY.md", "LIMITATIONS.md", "ARCHITECTURE.md"])
def test_named_tests_exist(root: Path, page: str):
    text = (root / page).read_text("utf-8")
    assert missing(root, text) == []


def test_tests_are_named(root: Path):
    assert len(NAMED.findall((root / "SECURITY.md").read_text("utf-8"))) >= 60


def test_every_promise_names_a_test(root: Path):
    text = (root / "SECURITY.md").read_text("utf-8")
    table = text.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("| ---")]
    assert rows
    assert [row for row in rows if not NAMED.search(row)] == []


def test_a_name_that_is_not_there_is_found(root: Path):
    here = "tests/docs/test_security.py"
    text = f"`{here}`, `{here}::missing`, `{here}::gone`, `tests/docs/gone.py`"
    assert missing(root, text) == [f"{here}::gone", "tests/docs/gone.py"]
