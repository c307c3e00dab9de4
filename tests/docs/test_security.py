"""SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_named_tests_exist(root: Path):
    text = (root / "SECURITY.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(named) >= 10
    assert [name for name in named if not (root / name).exists()] == []


def test_every_promise_names_a_test(root: Path):
    text = (root / "SECURITY.md").read_text("utf-8")
    table = text.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith("| ---")]
    assert rows
    assert [row for row in rows if "`tests/" not in row] == []
