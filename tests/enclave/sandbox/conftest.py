"""One zygote for all tests of the sandbox: each test forks its own children from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd

QUICK = Limits(seconds=20, cpu_seconds=15, memory_bytes=512 * 2**20, output_bytes=2**20)


@dataclass(frozen=True)
class Result:
    """An outcome with its outputs read and closed."""

    failure: str | None
    outputs: Mapping[str, bytes]
    text: str
    layers: tuple[str, ...]
    cpu_seconds: float


Runner = Callable[..., Result]


def run_job(supervisor: Supervisor, job: Job, data: Mapping[str, bytes]) -> Result:
    """Seal the inputs, run, read the outputs, close everything."""
    fds = {name: sealed_memfd(name, value) for name, value in data.items()}
    try:
        with supervisor.run(job, fds) as outcome:
            read = {name: os.pread(item.fd, item.size + 1, 0) for name, item in outcome.outputs.items()}
            return Result(
                outcome.failure,
                read,
                outcome.diagnostics.decode("utf-8", "replace"),
                outcome.layers,
                outcome.usage.cpu_seconds,
            )
    finally:
        for fd in fds.values():
            os.close(fd)


def settled(supervisor: Supervisor) -> int:
    """Our descriptors, once the child of the last run is gone and the next one is there: its socket is one of them."""
    supervisor._end_left()
    zygote = supervisor._zygotes["general"]
    while zygote.spare is None:
        zygote.hear()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="session")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


@pytest.fixture(scope="session")
def run_python(supervisor: Supervisor) -> Runner:
    """Run a Python function ``f`` given by its source."""

    def run(
        code: str,
        inputs: Mapping[str, tuple[str, bytes]] | None = None,
        outputs: Mapping[str, OutputSpec] | None = None,
        limits: Limits = QUICK,
        **args: Any,
    ) -> Result:
        given = inputs or {}
        job = Job(
            "python",
            "f",
            code=code.encode(),
            args=args,
            inputs={name: format for name, (format, _) in given.items()},
            outputs=outputs or {"result": OutputSpec("bytes")},
            limits=limits,
        )
        return run_job(supervisor, job, {name: data for name, (_, data) in given.items()})

    return run


@pytest.fixture(scope="session")
def run_builtin(supervisor: Supervisor) -> Runner:
    """Run a built-in function, with the output `result` or those that are named."""

    def run(
        name: str,
        inputs: Mapping[str, tuple[str, bytes]],
        output: OutputSpec | Mapping[str, OutputSpec],
        limits: Limits = QUICK,
        /,
        **args: Any,
    ) -> Result:
        job = Job(
            "builtin",
            name,
            args=args,
            inputs={key: format for key, (format, _) in inputs.items()},
            outputs={"result": output} if isinstance(output, OutputSpec) else output,
            limits=limits,
        )
        return run_job(supervisor, job, {key: data for key, (_, data) in inputs.items()})

    return run
