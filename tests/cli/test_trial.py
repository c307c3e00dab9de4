"""`mesatee function test`: every executor in the real sandbox, on files and made-up data, with all that it says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.cases import contract, module
from typer.testing import CliRunner

from mesatee.cli.main import app
from mesatee.enclave.sandbox import Supervisor

MEAN = b"""\
from mesatee.table import Table


def mean_age(people: Table, *, column: str = "age") -> dict:
    print("looked at", people.num_rows)
    return {"mean": float(people.to_pandas()[column].mean())}
"""
WORDS = b"""\
def count(text: bytes, *, least: int = 1) -> dict:
    return {"words": len(text.decode().split()), "least": least}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean.py").write_bytes(MEAN)
    (tmp_path / "words.py").write_bytes(WORDS)
    (tmp_path / "people.csv").write_text("id,age\n1,30\n2,41\n")
    return tmp_path


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


@pytest.fixture
def warm(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own supervisor, started once for all tests."""
    monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["--home", "home", "function", "test", *words])


def outcome(*words: str, fails: bool = False) -> dict[str, Any]:
    done = invoke(*words, "--json")
    assert done.exit_code == int(fails), done.output
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(*words: str) -> dict[str, str]:
    error: dict[str, str] = outcome(*words, fails=True)["error"]
    assert error["hint"]
    return error


def test_a_python_function_on_a_file_of_one_s_own(place: Path) -> None:
    found = outcome("mean.py", "--in", "people=people.csv", "--out", "out")
    assert found["failure"] is None
    assert found["outputs"]["result"]["text"] == '{"mean":35.5}'
    assert found["diagnostics"] == "looked at 2\n"
    assert found["inputs"]["people"] == {"format": "csv", "origin": "file people.csv", "mock": False}
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 10 * 2**20
    assert {"seccomp", "resource_limits"} <= set(found["layers"])
    assert (place / "out" / "result.json").read_text() == '{"mean":35.5}'
    assert "exists already" in refused("mean.py", "--in", "people=people.csv", "--out", "out")["message"]


def test_a_failure_is_shown_whole_with_the_code_that_others_see(place: Path, warm: None) -> None:
    done = invoke("mean.py", "--in", "people=people.csv", "--arg", "column=height")
    assert done.exit_code == 1
    assert "KeyError: 'height'" in done.stdout
    assert "failed          function_raised" in done.stdout
    assert "others see      function_raised, and nothing else" in done.stdout


def test_a_mesapy_function(place: Path, warm: None) -> None:
    found = outcome("words.py", "--executor", "mesapy", "--mock", "--rows", "4", "--arg", "least=2")
    assert (found["executor"], found["failure"]) == ("mesapy", None)
    assert json.loads(found["outputs"]["result"]["text"]) == {"words": 4, "least": 2}
    assert found["inputs"]["text"]["mock"] is True


def test_a_wasm_module(place: Path, warm: None) -> None:
    (place / "echo.wasm").write_bytes(module("echo", contract("data")))
    (place / "data.bin").write_bytes(b"\xff\x00")
    found = outcome("echo.wasm", "--in", "data=data.bin")
    assert (found["executor"], found["failure"]) == ("wasm", None)
    assert (found["outputs"]["result"]["size"], found["outputs"]["result"]["text"]) == (2, None)


def test_a_builtin(place: Path, warm: None) -> None:
    found = outcome("psi", "--in", "left=people.csv", "--in", "right=people.csv", "--arg", "key=id")
    assert (found["executor"], found["failure"]) == ("builtin", None)
    assert found["outputs"]["result"]["text"].splitlines()[1:] == ["1", "2"]


def test_the_sandbox_is_that_of_a_worker(place: Path, warm: None) -> None:
    """What escapes a worker's sandbox must not, escapes none here: no network, no files, no processes, its limits."""
    (place / "escape.py").write_text(
        "import os, socket\n"
        "def escape(data: bytes) -> dict:\n"
        "    found = {}\n"
        "    for name, way in {\n"
        "        'file': lambda: open('/etc/passwd').read(),\n"
        f"        'home': lambda: os.listdir({str(place)!r}),\n"
        "        'network': lambda: socket.create_connection(('127.0.0.1', 9), 1),\n"
        "        'process': os.fork,\n"
        "    }.items():\n"
        "        try:\n"
        "            way()\n"
        "        except ConnectionRefusedError:\n"
        "            found[name] = 'reached'\n"
        "        except OSError:\n"
        "            found[name] = 'stopped'\n"
        "        else:\n"
        "            found[name] = 'reached'\n"
        "    return found\n"
    )
    found = outcome("escape.py", "--mock")
    assert json.loads(found["outputs"]["result"]["text"]) == dict.fromkeys(
        ("file", "home", "network", "process"), "stopped"
    )


def test_limits_are_those_that_a_task_would_have(place: Path, warm: None) -> None:
    (place / "endless.py").write_text("def endless(data: bytes) -> dict:\n    while True: pass\n")
    assert outcome("endless.py", "--mock", "--seconds", "1", fails=True)["failure"] in (
        "out_of_time",
        "out_of_cpu",
    )
    (place / "large.py").write_text(
        "def large(data: bytes) -> dict:\n    return {'n': len(bytearray(1 << 30))}\n"
    )
    found = outcome("large.py", "--mock", "--memory-mib", "128", fails=True)
    assert (found["failure"], found["meaning"]) == ("out_of_memory", "over the memory that the task allows")


def test_a_function_that_asks_where_it_runs_is_told_that_nothing_is_proven(place: Path, warm: None) -> None:
    (place / "where.py").write_text(
        "from mesatee.function import Attestation\n"
        "def where(data: bytes, *, here: Attestation) -> dict:\n    return here\n"
    )
    told = json.loads(outcome("where.py", "--mock")["outputs"]["result"]["text"])
    assert (told["tee"], told["level"], told["simulated"], told["evidence"]) == ("none", 1, True, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["no.py"], "not_found", "no file no.py"),
        (["mean.py"], "malformed", "missing input people"),
        (["mean.py", "--in", "people=no.csv"], "not_found", "no file no.csv"),
        (["mean.py", "--in", "people=people.csv", "--in", "more=people.csv"], "malformed", "no input more"),
        (["mean.py", "--in", "people=people.csv", "--arg", "x=1"], "malformed", "no argument x"),
        (["words.py", "--mock", "--arg", "least=many"], "malformed", "least must be of type int"),
        (["mean.py", "--in", "people"], "malformed", "NAME=VALUE"),
        (
            ["mean.py", "--in", "people=people.csv", "--dataset", "people=d"],
            "malformed",
            "given as a file and",
        ),
        (["mean.py", "--mock"], "not_found", "needs a service"),
        (["mean.py", "--entry", "median"], "malformed", "median"),
        (["psi", "--arg", "key=id"], "malformed", "none is given"),
        (["psi", "--executor", "wasm"], "not_found", "no file psi"),
        (["mean.py", "--executor", "fortran"], "malformed", "no executor 'fortran'"),
        (["unknown-function"], "not_found", "needs a service"),
        (["people.csv"], "malformed", ""),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    place: Path, words: list[str], code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the sandbox was started")

    monkeypatch.setattr("mesatee.cli.trial.Supervisor", never)
    error = refused(*words)
    assert error["code"] == code
    assert message in error["message"]
