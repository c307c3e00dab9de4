"""Functions that misbehave, and inputs that are not what they should be, through the whole platform."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab

from mesatee.cli import up
from mesatee.errors import (
    Conflict,
    InputError,
    Malformed,
    MesateeError,
    NotApproved,
    QuotaExceeded,
    TaskFailed,
)
from mesatee.party import data, functions, results, tasks
from mesatee.protocol import limits
from mesatee.protocol.statements import RunLimits

HEAD = "import os, sys, time\nfrom mesatee.table import Table\n"
WORK = f"{HEAD}def work(people: Table) -> Table:\n"
QUICK = RunLimits(
    seconds=20, cpu_seconds=10, memory_bytes=1024 * limits.MIB, output_bytes=1 * limits.MIB, threads=2
)
SECRET = "canary-7f3a9c"

MISBEHAVING = {
    "raises": ("function_raised", f"raise ValueError('{SECRET}')"),
    "wrong type": ("wrong_output", "return 7"),
    "loops": ("out_of_time", "while True: pass"),
    "sleeps": ("out_of_time", "time.sleep(60)"),
    "eats memory": ("out_of_memory", "x = bytearray(8 << 30); return Table.from_dict({'a': [len(x)]})"),
    "writes too much": ("output_too_large", "return Table.from_dict({'a': ['x' * 1000] * 5000})"),
    "ends the process": ("crashed", "os._exit(0)"),
}


@pytest.mark.parametrize("name", MISBEHAVING)
def test_everybody_gets_a_code_and_nothing_else(lab: Lab, service: up.Service, name: str) -> None:
    code, body = MISBEHAVING[name]
    bounds = QUICK.model_copy(update={"seconds": 2}) if code == "out_of_time" else QUICK
    people = lab.table(f"id,note\n1,{SECRET}\n2,b\n")
    source = f"{WORK}    print('{SECRET}', people.to_pandas().to_string())\n    {body}\n"
    view = lab.task(source, {"people": people}, limits=bounds)
    ended = lab.run(view)
    assert (ended.status, ended.failure) == ("failed", code)
    # Her approved diagnostics are all that she gets.
    result = lab.result(view)
    assert set(result.outputs) == {"diagnostics"}
    assert result.receipt.failure == code
    if name == "raises":
        assert SECRET in result.outputs["diagnostics"].read_text()
    # The owner of the data is no receiver: a code, and no way to the text.
    shown = lab.owner.task(view.digest).model_dump_json()
    assert SECRET not in shown
    with pytest.raises(MesateeError) as caught:
        results.take(lab.owner, lab.owner.task(view.digest), lab.folder / "owner")
    assert SECRET not in str(caught.value)
    logs = service.home / "service" / "log"
    assert all(SECRET.encode() not in path.read_bytes() for path in logs.iterdir())


def test_without_approved_diagnostics_there_are_none(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(
        f"{WORK}    raise ValueError('x')\n",
        {"people": people},
        diagnostics=(),
    )
    assert lab.run(view).failure == "function_raised"
    with pytest.raises(TaskFailed):
        lab.result(view)
    assert not list(lab.folder.glob("r*"))


def test_a_flood_on_stdout_is_cut(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    source = f"{WORK}    for i in range(200_000): print('flood', i)\n    return people\n"
    view = lab.task(source, {"people": people}, limits=QUICK)
    assert lab.run(view).status == "finished"
    result = lab.result(view)
    assert len(result.outputs["diagnostics"].read_bytes()) <= limits.DIAGNOSTICS_BYTES + 200
    assert "1" in result.outputs["result"].read_text()


def test_a_private_function_needs_its_owner_and_shows_nobody_its_code(lab: Lab) -> None:
    people = lab.table("id\n1\n2\n")
    source = f"{WORK}    # {SECRET}\n    return people\n"
    view = lab.task(source, {"people": people}, private=True)
    with pytest.raises(NotApproved, match="private function"):
        tasks.run(lab.scientist, view)
    tasks.approve(lab.scientist, tasks.review(lab.scientist, lab.scientist.task(view.digest)))
    assert lab.run(view).status == "finished"
    reviewed = tasks.review(lab.owner, lab.owner.task(view.digest))
    assert reviewed.function is None


def test_arguments_are_those_of_the_signature(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    source = f"{HEAD}def work(people: Table, *, factor: int, name: str = 'x') -> Table:\n    return people\n"
    for arguments, problem in (
        ({}, "missing argument factor"),
        ({"factor": "1"}, "factor must be of type int"),
        ({"factor": True}, "factor must be of type int"),
        ({"factor": 1, "other": 2}, "no argument other"),
    ):
        with pytest.raises(Malformed, match=problem):
            lab.task(source, {"people": people}, arguments=arguments)
    view = lab.task(source, {"people": people}, arguments={"factor": 3})
    assert lab.run(view).status == "finished"


def test_inputs_are_those_of_the_signature(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    source = f"{WORK}    return people\n"
    with pytest.raises(Malformed, match="missing input people"):
        lab.task(source, {})
    with pytest.raises(Malformed, match="no input more"):
        lab.task(source, {"people": people, "more": people})


def test_runs_are_counted(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(f"{WORK}    return people\n", {"people": people})
    assert lab.run(view).status == "finished"
    with pytest.raises(QuotaExceeded):
        tasks.run(lab.scientist, view)


def test_an_endless_run_is_cancelled_at_once(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(f"{WORK}    while True: pass\n", {"people": people})
    tasks.run(lab.scientist, view)
    deadline = time.monotonic() + 20
    while lab.scientist.task(view.digest).runs[0].status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tasks.cancel(lab.owner, lab.owner.task(view.digest))
    assert tasks.watch(lab.scientist, view.digest, seconds=5).status == "cancelled"
    # The worker is free again at once.
    other = lab.task(f"{WORK}    return people\n", {"people": people})
    assert lab.run(other, seconds=15).status == "finished"


def test_a_withdrawal_stops_a_running_run(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(
        f"{WORK}    time.sleep(30)\n    return people\n",
        {"people": people},
    )
    tasks.run(lab.scientist, view)
    deadline = time.monotonic() + 20
    while lab.scientist.task(view.digest).runs[0].status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tasks.withdraw(lab.owner, lab.owner.task(view.digest))
    assert tasks.watch(lab.scientist, view.digest, seconds=5).status == "cancelled"
    with pytest.raises(MesateeError):
        lab.result(view)


def test_a_withdrawal_blocks_the_result_of_a_finished_run(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(f"{WORK}    return people\n", {"people": people})
    assert lab.run(view).status == "finished"
    tasks.withdraw(lab.owner, lab.owner.task(view.digest))
    with pytest.raises(NotApproved, match="withdrawn"):
        lab.result(view)


# -- data that is not as it should be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", []), ("id,x\n1,2\n", ["patient"]), ("a,a\n1,2\n", []), ("a,b\n1\n1,2,3\n", [])],
    ids=["empty", "missing key column", "two columns of one name", "ragged rows"],
)
def test_bad_tables_are_refused_on_the_owners_machine(lab: Lab, text: str, keys: list[str]) -> None:
    path = lab.folder / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        data.seal(lab.owner.identity, path, keys=keys)
    assert caught.value.hint
    assert not path.with_suffix(".csv.age").exists()


def psi(lab: Lab, left: str, right: str, key: str = "id") -> tuple[str | None, list[str], str]:
    builtin = functions.find(lab.scientist, "psi").digest
    posted = tasks.new(
        lab.scientist,
        f"psi{secrets.token_hex(4)}",
        function=builtin,
        inputs={"left": left, "right": right},
        outputs={"result": ("scientist",), "diagnostics": ("scientist",)},
        accept=lab.people.accept,
        environment=lab.people.environment,
        arguments={"key": key},
    )
    view = lab.scientist.task(posted.digest)
    tasks.approve(lab.owner, tasks.review(lab.owner, lab.owner.task(posted.digest)))
    ended = lab.run(view)
    result = lab.result(view)
    rows = result.outputs["result"].read_text().split()[1:] if "result" in result.outputs else []
    return ended.failure, rows, result.outputs["diagnostics"].read_text()


def test_duplicate_ids_count_once_and_are_said(lab: Lab, scene: object) -> None:
    failure, rows, said = psi(lab, lab.table("id\n1\n1\n2\n3\n"), lab.table("id\n2\n2\n1\n9\n"))
    assert failure is None
    assert rows == ["1", "2"]
    assert "2 common keys" in said


def test_a_missing_key_column_is_bad_input(lab: Lab, scene: object) -> None:
    failure, rows, said = psi(lab, lab.table("id\n1\n"), lab.table("other\n1\n"))
    assert (failure, rows) == ("bad_input", [])
    assert "id" in said


# -- names --------------------------------------------------------------------------------------------

PATHS = ("../../etc/passwd", "/etc/passwd", "a/b", ".hidden", "a\nb", "a\0b", "", "x" * 65, "name with space")


@pytest.mark.parametrize("name", PATHS)
def test_path_tricks_in_names_are_refused(lab: Lab, name: str) -> None:
    path = lab.folder / "good.csv"
    path.write_text("id\n1\n")
    sealed = data.seal(lab.owner.identity, path)
    first = lab.owner.refresh().size
    with pytest.raises(InputError):
        data.put(lab.owner, sealed, name)
    source = lab.folder / "f.py"
    source.write_text("def f(a: bytes) -> bytes:\n    return a\n")
    with pytest.raises(InputError):
        functions.put(lab.scientist, source, name)
    assert lab.owner.refresh().size == first


def test_a_sealed_file_cannot_be_registered_twice_under_other_bytes(lab: Lab) -> None:
    path = lab.folder / "good.csv"
    path.write_text("id\n1\n")
    sealed = data.seal(lab.owner.identity, path)
    data.put(lab.owner, sealed, "first")
    other = Path(sealed.path)
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    with pytest.raises(MesateeError):
        data.put(lab.owner, sealed, "second")


def test_a_result_folder_is_never_overwritten(lab: Lab) -> None:
    people = lab.table("id\n1\n")
    view = lab.task(
        f"{HEAD}def work(people: Table) -> dict:\n    return {{'rows': len(people.to_pandas())}}\n",
        {"people": people},
    )
    lab.run(view)
    target = lab.folder / "taken"
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(Conflict):
        results.take(lab.scientist, lab.scientist.task(view.digest), target)
    assert [item.name for item in target.iterdir()] == ["mine"]
    assert json.loads(lab.result(view).outputs["result"].read_text()) == {"rows": 1}
