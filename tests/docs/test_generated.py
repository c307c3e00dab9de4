"""Pages that follow from the code are what the code says, and their examples work."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from mesatee.enclave.gateway.policy import PolicySet
from mesatee.protocol import limits, statements


def test_pages_are_current(generate: ModuleType):
    assert generate.stale() == [], "run `make docs`"


def test_a_changed_page_is_noticed(generate: ModuleType, tmp_path: Path):
    for name, make in generate.PAGES.items():
        (tmp_path / name).write_text(make(), "utf-8")
    assert generate.stale(tmp_path) == []
    (tmp_path / "limits.md").write_text("# Limits\n")
    (tmp_path / "errors.md").unlink()
    assert generate.stale(tmp_path) == ["errors.md", "limits.md"]


def test_every_limit_is_on_its_page(root: Path):
    page = (root / "docs" / "limits.md").read_text("utf-8")
    units = {"KIB", "MIB", "GIB"}
    named = {name for name in vars(limits) if name.isupper()} - units
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_every_failure_code_is_explained(generate: ModuleType):
    assert set(generate.FAILURES) == set(statements.FAILURES)


def examples(root: Path) -> list[str]:
    return re.findall(r"^```cedar\n(.*?)^```", (root / "docs" / "policy.md").read_text("utf-8"), re.M | re.S)


def test_policy_examples_are_registered(root: Path):
    found = examples(root)
    assert len(found) >= 5
    for text in found:
        kind = "platform" if "is Platform" in text else "dataset"
        assert PolicySet.register(text, kind).digest


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "SECURITY.md", "LIMITATIONS.md", "CONTRIBUTING.md", "README.md"])
def test_links_lead_somewhere(root: Path, name: str):
    text = (root / name).read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if "://" not in link and not (root / link).exists()]
    assert missing == []


def test_links_of_the_pages_in_docs_lead_somewhere(root: Path):
    missing = []
    for page in (root / "docs").rglob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                missing.append(f"{page.name}: {link}")
    assert missing == []
