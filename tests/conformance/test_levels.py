"""The whole path on levels 1 and 2: register, propose, approve, run, collect and verify, with every executor."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.cases import CASES, Case

from mesatee.cli import up
from mesatee.cli.demo import stage
from mesatee.party import data, functions, results, tasks
from mesatee.protocol.statements import RunLimits

pytestmark = pytest.mark.e2e

OWNERS = ("a", "b", "c", "d")
NAMED = (
    "echo",
    "argument",
    "optional_input_missing",
    "word_count",
    "millionaires",
    "four_parties",
    "exception",
    "endless_out_of_time",
)
CHOSEN = [
    pytest.param(case, executor, id=f"{case.name}-{executor}")
    for case in CASES
    if case.name in NAMED
    for executor in case.executors
]


@pytest.fixture(scope="module", params=[1, 2], ids=["level1", "level2"])
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stage.Stage]:
    home = tmp_path_factory.mktemp("service") / "home"
    with ExitStack() as stack:
        stack.enter_context(up.running(home, level=request.param))
        yield stage.enter(stack, home, (*OWNERS, "scientist"))


def register(people: stage.Stage, case: Case, executor: str, folder: Path) -> str:
    scientist, name = people.of("scientist"), f"f{secrets.token_hex(4)}"
    code, _ = case.code(executor)
    if executor == "builtin":
        return functions.put_builtin(scientist, "echo", name).digest
    path = folder / f"{name}.{'wasm' if executor == 'wasm' else 'py'}"
    path.write_bytes(code)
    return functions.put(scientist, path, name, executor=executor).digest


@pytest.mark.parametrize(("case", "executor"), CHOSEN)
def test_the_whole_path(case: Case, executor: str, people: stage.Stage, tmp_path: Path) -> None:
    scientist = people.of("scientist")
    function = register(people, case, executor, tmp_path)
    inputs, owners = {}, OWNERS[: len(case.inputs)]
    for owner, (name, content) in zip(owners, case.inputs.items(), strict=True):
        path = tmp_path / f"{name}{secrets.token_hex(4)}.bin"
        path.write_bytes(content)
        session = people.of(owner)
        inputs[name] = data.put(session, data.seal(session.identity, path, format="bytes"), path.stem).digest
    posted = tasks.new(
        scientist,
        f"t{secrets.token_hex(4)}",
        function=function,
        inputs=inputs,
        outputs={"result": ("scientist",), "diagnostics": ("scientist",)},
        accept=people.accept,
        environment=people.environment,
        arguments=dict(case.args),
        run_limits=RunLimits(
            seconds=int(case.limits.seconds), memory_bytes=case.limits.memory_bytes, threads=1
        ),
    )
    for owner in owners:
        session = people.of(owner)
        tasks.approve(session, tasks.review(session, session.task(posted.digest)))
    tasks.run(scientist, scientist.task(posted.digest))
    ended = tasks.watch(scientist, posted.digest, seconds=120)
    assert ended.failure == case.failure
    result = results.take(scientist, scientist.task(posted.digest), tmp_path / "result")
    if case.result is not None:
        assert result.outputs["result"].read_bytes() == case.result
