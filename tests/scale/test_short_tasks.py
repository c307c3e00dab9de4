"""Ten thousand short tasks in a row, by all executors: what each leaves behind is nothing.

Once through the whole service, and once through a supervisor alone, which is most of a worker and much faster: memory
and open files of every process that lives on are flat, and no process is left over.

``MESATEE_SHORT_TASKS`` says how many (10,000 for all of them; below 400 the start is not over by half-time).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import pytest
from tests.scale.test_load import Watched, settled, tickets, zombies
from tests.support.cases import contract, module
from tests.support.town import Town, children, stored

from mesatee.cli import up
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.enclave.sandbox.protocol import Executor
from mesatee.party import data, functions, results, tasks
from mesatee.protocol import limits

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COUNT = int(os.environ.get("MESATEE_SHORT_TASKS", "10000"))
SAMPLES = 200
"""Looks at the processes, in all."""
RUNS_EACH = 50
"""Of one task: what it shows of its runs grows with them."""
LOOK_AT = 20
"""Every so many runs the result is taken and verified."""
SLACK_BYTES = 4 * limits.MIB
"""Flat: the last quarter's median is at most this above the second quarter's (the first one fills caches), what a
collector and an allocator have not yet given back ..."""
RUN_BYTES = 256
"""... and this for each run in between, which 10,000 runs would show to be a leak of anything that matters."""
PYTHON = b"def f(data: bytes) -> bytes:\n    return data\n"
EXECUTORS: tuple[Executor, ...] = ("builtin", "python", "mesapy", "wasm")


def check(watched: list[Watched], runs: int) -> None:
    """Memory and open files, by quarters of the time."""
    print("\n" + "\n".join(item.said() for item in watched))
    for item in watched:
        second, last = item.quarter(2, "resident"), item.quarter(4, "resident")
        allowed = second + SLACK_BYTES + RUN_BYTES * runs / 2
        assert last <= allowed, (item.name, second, last)
        assert item.quarter(4, "files") <= item.quarter(2, "files") + 2, item.name


# -- a supervisor alone ------------------------------------------------------------------------------


def jobs() -> Iterator[Job]:
    code = {"builtin": b"", "python": PYTHON, "mesapy": PYTHON, "wasm": module("echo", contract("data"))}
    entries = {"builtin": "echo", "python": "f", "mesapy": "f", "wasm": "_start"}
    made = [
        Job(
            executor,
            entries[executor],
            code=code[executor],
            inputs={"data": "bytes"},
            outputs={"result": OutputSpec("bytes")},
            limits=Limits(threads=1),
        )
        for executor in EXECUTORS
    ]
    return cycle(made)


def test_short_runs_of_one_supervisor() -> None:
    with Supervisor() as supervisor:
        fd = sealed_memfd("data", b"short")

        def run(job: Job) -> None:
            with supervisor.run(job, {"data": fd}) as outcome:
                assert outcome.failure is None, outcome.diagnostics
                assert os.pread(outcome.outputs["result"].fd, 64, 0) == b"short"

        for job in islice(jobs(), 2 * len(EXECUTORS)):
            run(job)
        zygotes = {kind: supervisor.zygote_pid(kind) for kind in ("general", "wasm")}
        watched = [Watched("supervisor", os.getpid())]
        watched += [Watched(f"{kind} zygote", pid) for kind, pid in zygotes.items() if pid is not None]
        assert len(watched) == 3
        for number, job in enumerate(islice(jobs(), COUNT)):
            run(job)
            if number % max(1, COUNT // SAMPLES) == 0:
                for item in watched:
                    item.look(number)
        # The zygotes live on, each with its spare and nothing else.
        assert {kind: supervisor.zygote_pid(kind) for kind in ("general", "wasm")} == zygotes
        pids = {item.pid for item in watched}
        settled(lambda: all(len(children(item.pid)) == 1 for item in watched[1:]))
        settled(lambda: zombies(pids) == [])
        check(watched, COUNT)
        os.close(fd)
    assert not any(Path(f"/proc/{pid}").exists() for pid in zygotes.values())


# -- the service -------------------------------------------------------------------------------------


def register(town: Town, executor: Executor) -> str:
    scientist, name = town["scientist"], f"f{secrets.token_hex(4)}"
    if executor == "builtin":
        return functions.put_builtin(scientist, "echo", name).digest
    path = town.home / f"{name}.{'wasm' if executor == 'wasm' else 'py'}"
    path.write_bytes(module("echo", contract("data")) if executor == "wasm" else PYTHON)
    return functions.put(scientist, path, name, executor=executor).digest


def test_short_tasks_through_the_service(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        service = stack.enter_context(up.running(home))
        town = Town(home, stack)
        town.enter("owner", "scientist")
        owner, scientist = town["owner"], town["scientist"]
        path = home / "short.bin"
        path.write_bytes(b"short")
        dataset = data.put(owner, data.seal(owner.identity, path, format="bytes"), "short").digest
        made = cycle([register(town, executor) for executor in EXECUTORS])

        def task() -> str:
            posted = tasks.new(
                scientist,
                f"t{secrets.token_hex(5)}",
                function=next(made),
                inputs={"data": dataset},
                outputs={"result": ("scientist",)},
                accept=town.accept,
                environment=town.environment,
                runs=RUNS_EACH,
            )
            tasks.approve(owner, tasks.review(owner, owner.task(posted.digest)))
            return posted.digest

        def run(digest: str, number: int) -> None:
            tasks.run(scientist, scientist.task(digest))
            ended = tasks.watch(scientist, digest, seconds=300)
            assert (ended.status, ended.failure) == ("finished", None)
            if number % LOOK_AT == 0:
                found = results.take(scientist, scientist.task(digest), tmp_path / f"result{number}")
                assert found.outputs["result"].read_bytes() == b"short"

        # Each executor once: caches, compiled code, and both zygotes are there.
        for number in range(len(EXECUTORS)):
            run(task(), -LOOK_AT * (number + 1))
        pids = {
            name: child.pid
            for name in ("gateway", "host", "worker")
            if (child := service.process(name).child)
        }
        zygotes = children(pids["worker"])
        assert len(zygotes) == 2
        watched = [Watched(name, pid) for name, pid in pids.items()]
        watched += [Watched(f"zygote {number}", pid) for number, pid in enumerate(zygotes)]
        digest = ""
        for number in range(COUNT):
            if number % RUNS_EACH == 0:
                digest = task()
            run(digest, number)
            if number % max(1, COUNT // SAMPLES) == 0:
                size = scientist.checkpoint.size
                for item in watched:
                    item.look(size)
        # The same processes as at the start, and nothing beside them.
        assert all(not item.ends for item in service.processes)
        assert children(pids["worker"]) == zygotes
        settled(lambda: all(len(children(pid)) == 1 for pid in zygotes))
        settled(lambda: zombies({*pids.values(), *zygotes}) == [])
        settled(lambda: tickets(home) == 0)
        assert list((home / "service" / "host" / "blobs" / "tmp").iterdir()) == []
        check(watched, COUNT)
    # What was written is the log of as many runs, each with one receipt.
    found = stored(home)
    assert found.kinds["receipt"] == COUNT + len(EXECUTORS)
    assert not found.state.runs.open
