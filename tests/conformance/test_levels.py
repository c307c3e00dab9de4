"""The whole path on levels 1 to 3: register, propose, approve, run, collect and verify, every case by every executor.

Level 3 is that of a simulated TPM (swtpm): the same path with quotes and sealed keys, and receipts that say so.
The large input takes some seconds by each executor: on levels 1 and 3 the slow tests have it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.enclave.platform.conftest import swtpm_running
from tests.support.cases import CASES, Case

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.errors import MesateeError, NotApproved
from mesatee.party import Session, data, functions, results, tasks
from mesatee.protocol.model import TableFormat
from mesatee.protocol.statements import RunLimits

pytestmark = pytest.mark.e2e

OWNERS = ("a", "b", "c", "d")
PAIRS = [
    pytest.param(case, executor, id=f"{case.name}-{executor}")
    for case in CASES
    for executor in case.executors
]


@pytest.fixture(scope="module", params=[1, 2, 3], ids=["level1", "level2", "level3-simulated"])
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stage.Stage]:
    home = tmp_path_factory.mktemp("service") / "home"
    with ExitStack() as stack:
        # Large inputs and what came of them are not kept beyond the test.
        stack.callback(shutil.rmtree, home)
        options: dict[str, Any] = {"level": request.param}
        if request.param == 3:
            machine = stack.enter_context(swtpm_running())
            options = {"attester": "tpm", "tpm": machine.address}
        stack.enter_context(up.running(home, **options))
        found = stage.enter(stack, home, (*OWNERS, "scientist"))
        appraisal = found.of("scientist").appraisal
        assert (appraisal.level, appraisal.simulated) == (request.param, request.param == 3)
        yield found


def register(people: stage.Stage, case: Case, executor: str, folder: Path) -> str:
    scientist, name = people.of("scientist"), f"f{secrets.token_hex(4)}"
    code, _ = case.code(executor)
    if executor == "builtin":
        return functions.put_builtin(scientist, "echo", name).digest
    path = folder / f"{name}.{'wasm' if executor == 'wasm' else 'py'}"
    path.write_bytes(code)
    return functions.put(scientist, path, name, executor=executor).digest


def sealed(session: Session, name: str, content: bytes, format: TableFormat, folder: Path) -> str:
    """Seal and register; the dataset's digest."""
    target = folder / f"{name}{secrets.token_hex(4)}.age"
    sealed = data.seal(session.identity, content, target, format=format)
    digest = data.put(session, sealed, target.stem).digest
    target.unlink()
    return digest


def propose(case: Case, executor: str, people: stage.Stage, folder: Path) -> str:
    """Register and propose what the case says, and have it approved; the task's digest."""
    scientist = people.of("scientist")
    function = register(people, case, executor, folder)
    inputs, owners = {}, OWNERS[: len(case.inputs)]
    for owner, (name, content) in zip(owners, case.given.items(), strict=True):
        inputs[name] = sealed(people.of(owner), name, content, case.format, folder)
    posted = tasks.new(
        scientist,
        f"t{secrets.token_hex(4)}",
        function=function,
        inputs=inputs,
        outputs={"result": ("scientist",), "diagnostics": ("scientist",)},
        accept=people.accept,
        environment=people.environment,
        arguments=dict(case.args),
        runs=case.runs,
        run_limits=RunLimits(
            seconds=int(case.limits.seconds),
            cpu_seconds=int(case.limits.cpu_seconds),
            memory_bytes=case.limits.memory_bytes,
            output_bytes=case.limits.output_bytes,
            threads=case.limits.threads,
        ),
    )
    approve(people, posted.digest, *owners)
    return posted.digest


@pytest.mark.parametrize(("case", "executor"), PAIRS)
def test_the_whole_path(case: Case, executor: str, people: stage.Stage, tmp_path: Path) -> None:
    if case.refused is not None:
        with pytest.raises(MesateeError, match=f"^{case.refused}$"):
            propose(case, executor, people, tmp_path)
        return
    scientist = people.of("scientist")
    task = propose(case, executor, people, tmp_path)
    found: list[bytes] = []
    for number in range(case.runs):
        run = tasks.run(scientist, scientist.task(task)).digest
        ended = tasks.watch(scientist, task, run, seconds=180)
        assert ended.failure == case.failure
        result = results.take(scientist, scientist.task(task), tmp_path / f"result{number}", run)
        receipt = result.receipt
        assert (receipt.level, receipt.simulated) == (people.accept.min_level, people.accept.allow_simulated)
        if case.failure is None:
            found.append(result.outputs["result"].read_bytes())
        else:
            assert set(result.outputs) <= {"diagnostics"}
        shutil.rmtree(result.folder)
    if case.failure is None:
        case.check(found)


JOIN = """\
from mesatee.table import Table


def join(left: Table, right: Table, *, key: str = "id") -> Table:
    return Table.from_pandas(left.to_pandas().merge(right.to_pandas(), on=key))
"""
TRAIN = """\
def slope(joined: bytes) -> dict:
    rows = [line.split(",") for line in joined.decode().split()[1:]]
    points = [(float(row[1]), float(row[2])) for row in rows]
    mean_x = sum([x for x, _ in points]) / len(points)
    mean_y = sum([y for _, y in points]) / len(points)
    up = sum([(x - mean_x) * (y - mean_y) for x, y in points])
    return {"slope": up / sum([(x - mean_x) ** 2 for x, _ in points]), "rows": len(rows)}
"""


def approve(people: stage.Stage, task: str, *names: str) -> None:
    for name in names:
        session = people.of(name)
        tasks.approve(session, tasks.review(session, session.task(task)))


def test_join_then_train_on_the_joint_output(people: stage.Stage, tmp_path: Path) -> None:
    """Two functions of two executors in a line; the joint output's second use needs the yes of each receiver again."""
    scientist, mark = people.of("scientist"), secrets.token_hex(3)
    given = {}
    for who, name, slope in (("a", "left", 1), ("b", "right", 3)):
        text = f"id,{name}\n" + "".join(f"{n},{slope * n + 1}\n" for n in range(20))
        given[name] = sealed(people.of(who), name, text.encode(), "csv", tmp_path)
    made = {}
    for name, source, executor in (("join", JOIN, "python"), ("slope", TRAIN, "mesapy")):
        path = tmp_path / f"{name}{mark}.py"
        path.write_text(source)
        made[name] = functions.put(scientist, path, f"{name}{mark}", executor=executor).digest
    common: dict[str, Any] = {"accept": people.accept, "environment": people.environment, "runs": 3}
    receivers = ("a", "b", "scientist")
    joined = tasks.new(
        scientist,
        f"joined{mark}",
        function=made["join"],
        inputs=given,
        outputs={"result": receivers},
        **common,
    )
    train = tasks.new(
        scientist,
        f"train{mark}",
        function=made["slope"],
        inputs={"joined": f"output:joined{mark}/result"},
        outputs={"result": ("scientist",)},
        **common,
    )
    approve(people, joined.digest, *receivers)
    tasks.run(scientist, scientist.task(joined.digest))
    assert tasks.watch(scientist, joined.digest, seconds=120).status == "finished"
    # That they agreed to the first use says nothing of the second one.
    approve(people, train.digest, "a", "scientist")
    with pytest.raises(NotApproved):
        tasks.run(scientist, scientist.task(train.digest))
    approve(people, train.digest, "b")
    tasks.run(scientist, scientist.task(train.digest))
    ended = tasks.watch(scientist, train.digest, seconds=120)
    assert ended.status == "finished", ended
    result = results.take(scientist, scientist.task(train.digest), tmp_path / "trained")
    assert json.loads(result.outputs["result"].read_bytes()) == {"slope": pytest.approx(3.0), "rows": 20}


@pytest.mark.parametrize("executor", ["python", "mesapy", "wasm"])
def test_a_run_that_goes_on_for_ever_is_cancelled(executor: str, people: stage.Stage, tmp_path: Path) -> None:
    scientist = people.of("scientist")
    case = next(case for case in CASES if case.name == "endless_out_of_time")
    posted = tasks.new(
        scientist,
        f"t{secrets.token_hex(4)}",
        function=register(people, case, executor, tmp_path),
        inputs={},
        outputs={"result": ("scientist",)},
        accept=people.accept,
        environment=people.environment,
        run_limits=RunLimits(seconds=100, threads=1),
    )
    tasks.run(scientist, scientist.task(posted.digest))
    deadline = time.monotonic() + 60
    while scientist.task(posted.digest).runs[-1].status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tasks.cancel(scientist, scientist.task(posted.digest))
    assert tasks.watch(scientist, posted.digest, seconds=60).status == "cancelled"
