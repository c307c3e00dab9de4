"""A real service for the tests: host, gateway, worker and sandboxed children as processes, over the real channel."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesatee.cli import up
from mesatee.cli.demo import refusals, stage
from mesatee.errors import NotFound, Unavailable
from mesatee.party import Session, data, functions, results, tasks
from mesatee.protocol import records, wire
from mesatee.protocol.statements import RunLimits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[up.Service]:
    with up.running(tmp_path_factory.mktemp("service") / "home") as running:
        yield running


@pytest.fixture(scope="session")
def people(service: up.Service) -> Iterator[stage.Stage]:
    with ExitStack() as stack:
        yield stage.enter(stack, service.home, ("hospital-a", "hospital-b", "scientist", "stranger"))


@pytest.fixture(scope="session")
def scene(service: up.Service, people: stage.Stage) -> refusals.Scene:
    """The demo's scene: two hospitals' data, sealed, and the two functions."""
    tables = stage.tables()
    digest_a, sealed_a = stage.seal_and_put(people.of("hospital-a"), tables.a, "measurements-a", service.home)
    digest_b, _ = stage.seal_and_put(people.of("hospital-b"), tables.b, "measurements-b", service.home)
    scientist = people.of("scientist")
    source = Path(refusals.__file__).parent / "train.py"
    code = functions.put(scientist, source, "train", entry="train").digest
    psi = functions.put_builtin(scientist, "psi").digest
    return refusals.Scene(people, service, digest_a, digest_b, sealed_a, code, psi)


def entries(session: Session, first: int) -> list[records.LogRecord]:
    """The log records from `first` on that this party may read."""
    found = []
    for index in range(first, session.refresh().size):
        try:
            found.append(session.record(index))
        except NotFound:
            # Entries of others are not shown.
            continue
    return found


def denials(session: Session, first: int) -> list[records.DeniedOutcome]:
    outcomes = [item.outcome() for item in entries(session, first) if item.kind == "denied"]
    return [item for item in outcomes if isinstance(item, records.DeniedOutcome)]


def kinds(people: stage.Stage, first: int) -> set[str]:
    """The kinds of all log records from `first` on: every record concerns somebody."""
    return {item.kind for session in people.people.values() for item in entries(session, first)}


def gateway_log(service: up.Service) -> list[dict[str, Any]]:
    """The lines that the gateway wrote for its operator."""
    lines = service.process("gateway").log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something holds; what is `Unavailable` meanwhile holds not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Unavailable):
            if holds():
                return
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


class Lab:
    """One owner, one scientist, small tables: for functions that misbehave."""

    def __init__(self, people: stage.Stage, folder: Path) -> None:
        self.people = people
        self.folder = folder
        self.owner = people.of("hospital-a")
        self.scientist = people.of("scientist")

    def table(self, text: str | bytes, **options: Any) -> str:
        """Seal and register a CSV; returns its digest."""
        path = self.folder / f"{secrets.token_hex(4)}.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        sealed = data.seal(self.owner.identity, path, **options)
        return data.put(self.owner, sealed, path.stem).digest

    def task(
        self,
        source: str,
        inputs: dict[str, str],
        *,
        limits: RunLimits | None = None,
        diagnostics: tuple[str, ...] = ("scientist",),
        arguments: dict[str, Any] | None = None,
        private: bool = False,
        approve: bool = True,
    ) -> wire.TaskView:
        """Register a function and propose a task on it; the owner approves."""
        path = self.folder / f"f{secrets.token_hex(4)}.py"
        path.write_text(source)
        function = functions.put(self.scientist, path, path.stem, private=private).digest
        outputs: dict[str, tuple[str, ...]] = {"result": ("scientist",)}
        if diagnostics:
            outputs["diagnostics"] = diagnostics
        posted = tasks.new(
            self.scientist,
            f"t{secrets.token_hex(4)}",
            function=function,
            inputs=inputs,
            outputs=outputs,
            accept=self.people.accept,
            environment=self.people.environment,
            arguments=arguments,
            run_limits=limits,
        )
        view = self.scientist.task(posted.digest)
        if approve:
            tasks.approve(self.owner, tasks.review(self.owner, self.owner.task(posted.digest)))
        return view

    def run(self, view: wire.TaskView, seconds: float = 60) -> wire.RunView:
        """Run it once and wait for the end."""
        tasks.run(self.scientist, view)
        return tasks.watch(self.scientist, view.digest, seconds=seconds)

    def result(self, view: wire.TaskView) -> results.Result:
        """What the scientist gets."""
        target = self.folder / f"r{secrets.token_hex(4)}"
        return results.take(self.scientist, self.scientist.task(view.digest), target)


@pytest.fixture
def lab(people: stage.Stage, tmp_path: Path) -> Lab:
    return Lab(people, tmp_path)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., up.Service]]:
    """Services of one's own, for tests that break them; stopped at the end."""
    started: list[up.Service] = []

    def start(home: Path | None = None, **options: Any) -> up.Service:
        service = up.start(home or tmp_path / "own", **options)
        started.append(service)
        return service

    yield start
    for service in started:
        for process in reversed(service.processes):
            process.stop()
