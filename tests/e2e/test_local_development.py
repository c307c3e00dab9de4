"""Mock data and local tests of functions, on the command line, with a real service."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab
from typer.testing import CliRunner

from mesatee.cli import up
from mesatee.cli.main import app
from mesatee.enclave.sandbox import Supervisor
from mesatee.protocol.digests import sha256

Say = Callable[..., dict[str, Any]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


@pytest.fixture
def warm(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own supervisor, started once for all tests."""
    monkeypatch.setattr("mesatee.cli.trial.Supervisor", lambda: contextlib.nullcontext(supervisor))


@pytest.fixture
def owner() -> str:
    return f"owner-{secrets.token_hex(4)}"


@pytest.fixture
def scientist() -> str:
    return f"scientist-{secrets.token_hex(4)}"


@pytest.fixture
def say(service: up.Service, owner: str, scientist: str) -> Say:
    def run(who: str, *words: str, fails: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["--home", str(service.home), "-i", who, *words, "--json"])
        assert done.exit_code == fails, done.output
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    for name in (owner, scientist):
        run(name, "id", "new", name)
    return run


def patients(place: Path) -> Path:
    path = place / "patients.csv"
    lines = [f"{770_000 + n},{30 + n},CANARY-{n}" for n in range(40)]
    path.write_text("\n".join(["id,age,name", *lines]) + "\n")
    return path


def test_a_scientist_gets_mock_data_and_never_a_row(
    say: Say, place: Path, owner: str, scientist: str, warm: None
) -> None:
    source = str(patients(place))
    put = say(owner, "data", "put", source, "--mock-epsilon", "2", "--mock-range", "age=0:120:6")
    assert put["marginals"]["columns"][0]["epsilon"] == 2_000_000
    assert put["epsilon_of_all_versions"] == 2.0
    shown = say(scientist, "data", "show", f"{owner}/patients")
    assert shown["marginals"] == put["marginals"]
    assert "CANARY" not in json.dumps(shown)
    made = say(scientist, "data", "mock", f"{owner}/patients", "--rows", "500", "--seed", "4")
    assert (made["mock"], made["measured"], made["epsilon"]) == (True, ["age"], 2.0)
    text = (place / "patients.mock.csv").read_text()
    assert text.count("\n") == 501
    assert "CANARY" not in text
    assert not any(str(770_000 + n) in text for n in range(40))
    again = ("data", "mock", f"{owner}/patients", "--rows", "500", "--seed", "4", "--out", "again.csv")
    say(scientist, *again)
    assert (place / "again.csv").read_text() == text
    assert say(scientist, *again, fails=1)["error"]["code"] == "conflict"
    # The next version of the same rows spends more, and the owner is told how much by now.
    more = ("--new-version", "--mock-epsilon", "0.5", "--mock-missing", "age")
    assert say(owner, "data", "put", source, *more)["epsilon_of_all_versions"] == 2.5


def test_people_are_told_what_it_costs_and_what_is_not_hidden(
    say: Say, service: up.Service, place: Path, owner: str
) -> None:
    def text(*words: str) -> str:
        done = CliRunner().invoke(app, ["--home", str(service.home), "-i", owner, *words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    source = str(patients(place))
    told = text(
        "data", "put", source, "--mock-epsilon", "0.6", "--mock-range", "age=0:120", "--mock-missing", "name"
    )
    assert "epsilon 0.6 in all, for one row, split evenly: age 0.3, name 0.3" in told
    assert "not hidden: names and types of columns, the number of rows" in told
    assert "nothing was counted of id" in told
    assert "all datasets that you named patients have spent 0.6" in told
    assert "no row of it is real" in text("data", "mock", f"{owner}/patients")
    assert "from types and marginals, epsilon 0.6" in text("data", "show", f"{owner}/patients")


def test_what_makes_no_sense_is_said(say: Say, place: Path, owner: str) -> None:
    source = str(patients(place))
    for words in (
        ("--mock-range", "age=0:120"),
        ("--mock-epsilon", "1"),
        ("--mock-epsilon", "11", "--mock-range", "age=0:120"),
        ("--mock-epsilon", "1", "--mock-range", "age=low:high"),
    ):
        error = say(owner, "data", "put", source, *words, fails=1)["error"]
        assert error["code"] == "malformed"
        assert error["hint"]
    (place / "notes.json").write_text("[]")
    say(owner, "data", "put", str(place / "notes.json"))
    error = say(owner, "data", "mock", "notes", fails=1)["error"]
    assert "without columns" in error["message"]
    assert say(owner, "data", "mock", "nothing", fails=1)["error"]["code"] == "not_found"
    assert say(owner, "data", "mock", "notes", "--missing", "2", fails=1)["error"]["code"] == "malformed"


def test_a_function_is_tested_on_mock_data_of_the_dataset_of_its_input(
    say: Say, place: Path, owner: str, scientist: str, warm: None
) -> None:
    name = f"d_{secrets.token_hex(4)}"
    say(owner, "data", "put", str(patients(place)), "--name", name)
    (place / "mean.py").write_text(
        "from mesatee.table import Table\n"
        f"def mean({name}: Table) -> dict:\n"
        f"    frame = {name}.to_pandas()\n"
        "    return {'rows': len(frame), 'names': ' '.join(frame['name'])}\n"
    )
    found = say(scientist, "function", "test", "mean.py", "--mock", "--rows", "30")
    said = json.loads(found["outputs"]["result"]["text"])
    assert said["rows"] == 30
    assert "CANARY" not in json.dumps(found)
    assert found["inputs"][name]["mock"] is True
    # As registered, on a dataset that is named.
    say(owner, "function", "put", "mean.py")
    named = f"{name}={owner}/{name}"
    again = say(scientist, "function", "test", f"{owner}/mean", "--dataset", named, "--rows", "30")
    assert again["outputs"] == found["outputs"]
    assert say(scientist, "function", "test", f"{owner}/mean", fails=1)["error"]["code"] == "malformed"
    # Signed examples: anybody can repeat them, without data of anybody.
    say(owner, "function", "test", "mean.py", "--in", f"{name}=patients.csv", "--save-example", "e.json")
    put = say(owner, "function", "put", "mean.py", "--new-version", "--example", "e.json")
    assert say(scientist, "function", "show", put["digest"])["examples"][0]["name"] == "e"
    repeated = say(scientist, "function", "test", put["digest"])
    assert [(item["name"], item["state"]) for item in repeated["examples"]] == [("e", "same")]
    say(owner, "function", "put", "mean.py", "--name", "hidden", "--private")
    assert say(scientist, "function", "test", f"{owner}/hidden", fails=1)["error"]["code"] == "not_found"


def test_a_local_test_gives_what_a_worker_gives(
    lab: Lab, say: Say, place: Path, owner: str, warm: None
) -> None:
    text = "id,age\n1,30\n2,41\n3,52\n"
    source = (
        "from mesatee.table import Table\n"
        "def work(people: Table) -> Table:\n"
        "    return Table.from_pandas(people.to_pandas().groupby('age', as_index=False).sum())\n"
    )
    view = lab.task(source, {"people": lab.table(text)})
    assert lab.run(view).status == "finished"
    result = lab.result(view).outputs["result"].read_bytes()
    (place / "work.py").write_text(source)
    (place / "people.csv").write_text(text)
    found = say(owner, "function", "test", "work.py", "--in", "people=people.csv")
    assert found["outputs"]["result"]["sha256"] == sha256(result)
