"""The command line as a whole: what it imports, and what it says of wrong usage. By the real program."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from mesatee.cli import main

PROGRAM = [sys.executable, "-c", "from mesatee.cli.main import main; main()"]
HELP = """
import sys
from importlib import metadata
from mesatee.cli.main import main
try:
    main()
except SystemExit:
    print(sorted(set(sys.modules) & {"pyarrow", "cedarpy", "httpx", "rich.table", "mesatee.party",
                                     "mesatee.enclave.gateway", "mesatee.enclave.gateway.gateway"}))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=120, check=False)


def test_help_imports_neither_tables_nor_the_gateway() -> None:
    """Every verb paid for the imports of all others, before anything else."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_partys_verb_imports_no_gateway() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, "data", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "pyarrow" not in done.stdout.splitlines()[-1]
    assert "gateway" not in done.stdout.splitlines()[-1]


def test_help_says_whole_sentences() -> None:
    """Click cut them at the width of the line."""
    for words in ((), ("data",), ("task",), ("attestation",)):
        commands = run(*words, "--help").stdout.partition("Commands:\n")[2]
        assert commands
        assert "..." not in commands


@pytest.mark.parametrize("name", [*main.SINGLE, *main.GROUPS])
def test_every_verb_that_is_listed_is_there(name: str) -> None:
    assert main._command(name).name == name


def test_wrong_usage_is_json_for_who_asks_for_json() -> None:
    done = run("data", "nothing", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    assert run("data", "nothing").stdout == ""


def test_an_option_behind_the_verb_is_told_its_place() -> None:
    done = run("data", "list", "-i", "bob")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "hint: write -i before the verb: `mesatee -i ... data ...`"
    # Without words there is help, and nothing to put right.
    assert "hint:" not in run().stderr


def test_it_says_its_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"mesatee {metadata.version('mesatee')}\n")
