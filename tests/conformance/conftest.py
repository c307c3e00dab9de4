"""One supervisor for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.cases import Case

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    failure: str | None
    result: bytes
    text: str
    layers: tuple[str, ...]


@pytest.fixture(scope="session")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The large input takes seconds by each executor: of the three levels the ordinary suite has it on the second."""
    for item in items:
        said = getattr(item, "callspec", None)
        case, level = (said.params.get(name) for name in ("case", "people")) if said else (None, None)
        if isinstance(case, Case) and case.large and level in (1, 3):
            item.add_marker(pytest.mark.slow)


Execute = Callable[..., Ended]


@pytest.fixture(scope="session")
def execute(supervisor: Supervisor) -> Execute:
    """Run code on one executor, in a real child."""

    def run(
        executor: str,
        code: bytes,
        entry: str,
        inputs: Mapping[str, bytes],
        args: Mapping[str, Any],
        limits: Limits,
        format: str = "bytes",
    ) -> Ended:
        job = Job(
            executor,
            entry,
            code=code,
            args=args,
            inputs=dict.fromkeys(inputs, "bytes"),
            outputs={"result": OutputSpec(format)},
            limits=limits,
        )
        fds = {name: sealed_memfd("input", data) for name, data in inputs.items()}
        try:
            with supervisor.run(job, fds) as outcome:
                found = outcome.outputs.get("result")
                data = os.pread(found.fd, found.size, 0) if found else b""
                return Ended(
                    outcome.failure, data, outcome.diagnostics.decode("utf-8", "replace"), outcome.layers
                )
        finally:
            for fd in fds.values():
                os.close(fd)

    return run
