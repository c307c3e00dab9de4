"""docs/attestation.md says what the code does: classes, keys, roots and examples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.support import captured
from typer.testing import CliRunner

from mesatee import function
from mesatee.attestation import corpus, trust
from mesatee.attestation.tee import dcap_verify, nitro, nvidia, snp, tpm
from mesatee.cli.main import app

FENCE = r"^```{language}\n(?P<text>.*?)^```"
SHOWN = re.compile(r"^<!-- shown: (?P<command>.+?) -->\n```console\n(?P<text>.*?)^```", re.M | re.S)
OTHERS = {"dice", "eventlog", "ratls", "nvidia-gpu"}
"""Classes that no trust policy can name."""


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "attestation.md").read_text("utf-8")


def table(page: str, heading: str) -> set[str]:
    """First column of the table after `heading`."""
    rows = page.partition(heading)[2].strip().partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` ", rows, re.M))


def test_every_class_is_described(page: str):
    described = page.partition("## What each class")[2].partition("## The trust policy")[0]
    named = set(re.findall(r"`([a-z][\w+-]*)`", described))
    assert {*trust.TEES, *corpus.CHECKS, *OTHERS} - named == set()


def test_every_class_says_what_it_does_not_prove(page: str):
    described = page.partition("## What each class")[2].partition("### Composites")[0]
    for section in described.split("\n### ")[1:]:
        for row in ("it proves", "it does not prove", "specification"):
            assert f"\n| {row} | " in section, section.splitlines()[0]


def test_built_in_roots_are_those_of_the_code(page: str):
    roots = {dcap_verify.INTEL_SGX_ROOT, nitro.ROOT_G1, nvidia.ROOT, tpm.GOOGLE_ROOT, *snp.ROOTS}
    tables = page.partition("## What each class")[2].partition("## The trust policy")[0]
    assert set(re.findall(r"\b[0-9a-f]{64}\b", tables)) == {value.hex() for value in roots}


def test_every_key_of_the_policy_is_explained(page: str):
    both, alone = table(page, "Keys of both tables:"), table(page, "Keys of `[gateway]` alone:")
    written = trust.TrustPolicy().as_dict()
    assert both == set(written["worker"])
    assert both | alone == set(written["gateway"])
    listed = re.search(r"^\| `tees` .*", page, re.M)
    assert listed
    assert set(re.findall(r"`([\w+-]+)`", listed[0])) == {"tees", *trust.TEES}


def test_the_example_of_a_policy_is_one(page: str):
    example = re.search(FENCE.format(language="toml"), page, re.M | re.S)
    assert example
    policy = trust.TrustPolicy.from_toml(example["text"])
    assert policy.worker.auditors_needed == 2
    assert policy.gateway.minimum_level == 4


def test_the_examples_in_python_run(page: str):
    examples = list(re.finditer(FENCE.format(language="python"), page, re.M | re.S))
    assert len(examples) == 2
    for example in examples:
        exec(compile(example["text"], "docs/attestation.md", "exec"), {})


def test_what_a_function_is_told_is_described(page: str):
    section = page.partition("## Evidence of where a function ran")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M))))
    said = function.__doc__ or ""
    assert described == set(
        re.findall(r"``(\w+)``", said.partition("The keys:")[2].partition("What it proves")[0])
    ) - {
        "pubkey_hash",
        "role",
        "environments",
    }


def test_what_is_shown_is_what_is_printed(root: Path, page: str, monkeypatch: pytest.MonkeyPatch):
    captured.need()
    monkeypatch.chdir(captured.FOLDER)
    monkeypatch.setenv("COLUMNS", "200")
    shown = list(SHOWN.finditer(page))
    assert len(shown) >= 4
    for example in shown:
        printed = CliRunner().invoke(app, ["attestation", *shlex.split(example["command"])]).output
        lines = [line.rstrip() for line in printed.splitlines()]
        for line in example["text"].splitlines()[1:]:
            assert line == "..." or line in lines, f"{example['command']}: {line}"
