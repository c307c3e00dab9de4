"""ARCHITECTURE.md names every module, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PLACES = [
    "attestation",
    "channel",
    "enclave",
    "enclave/functions",
    "enclave/gateway",
    "enclave/platform",
    "enclave/sandbox",
    "enclave/worker",
    "endorse",
    "host",
    "party",
    "protocol",
]


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "ARCHITECTURE.md").read_text("utf-8")


@pytest.fixture(scope="module")
def folder_map(page: str) -> str:
    return page.partition("## Folder map")[2].partition("### Who may import whom")[0]


@pytest.mark.parametrize("place", PLACES)
def test_every_module_is_on_the_map(root: Path, folder_map: str, place: str):
    modules = {path.stem for path in (root / "src" / "mesatee" / place).glob("*.py")}
    # Of the built-in functions their own page has the list.
    shown = (root / "docs" / "functions.md").read_text("utf-8") if place == "enclave/functions" else ""
    words = set(re.findall(r"\w+", folder_map + shown))
    assert {name for name in modules if not name.startswith("_")} - words == set()


def test_every_crate_is_on_the_map(root: Path, folder_map: str):
    crates = {path.parent.name for path in (root / "rust").glob("*/Cargo.toml")}
    assert crates
    assert crates - set(re.findall(r"\w+", folder_map)) == set()


def test_named_files_and_members_exist(root: Path, page: str):
    """`protocol/wraps.py`, `enclave/functions`, and `cli/processes.attester`."""
    named = [item for item in re.findall(r"`((?:[\w.]+/)+[\w.]*)`", page) if item != "mesatee/1"]
    assert len(named) > 20
    places = (root, root / "src" / "mesatee", root / "src" / "mesatee" / "enclave")
    missing = []
    for name in named:
        if any((place / name).exists() for place in places):
            continue
        module, _, member = name.rpartition(".")
        path = root / "src" / "mesatee" / f"{module}.py"
        if not path.exists() or not re.search(rf"\b{member}\b", path.read_text("utf-8")):
            missing.append(name)
    assert missing == ["attestation/tee/NAME.py", "enclave/platform/NAME.py", "enclave/functions/NAME.py"]
