"""kill -9 at every step: nothing acknowledged is missing, every run ends once, its one receipt verifies offline, and no
process, socket, folder or mount is left.

`own` kills the process that has reached a fault point. `other` stops it there, kills another process of the service,
and lets it go on. The launcher's death takes everything with it, and a new one starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.town import LEASE_SECONDS, PATIENCE_SECONDS, Town, children, stored

from mesatee.cli import up
from mesatee.enclave import faults
from mesatee.errors import Denied, Unavailable
from mesatee.party import tasks, verify_bundle
from mesatee.protocol import limits, statements, wire
from mesatee.protocol.jsonstrict import parse_object
from mesatee.protocol.model import validate

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left")]
PEOPLE = ("alice", "bob", "scientist")
# Party statements are 1 to 3, datasets 4 and 5, function 6, task 7, approvals 8 to 10, run 11, collects 12 and 13.
STATEMENTS = 13
RUN = 11
PR_SET_CHILD_SUBREAPER = 36
ENDED_SECONDS = 15.0
"""How long a zygote that is importing may take to see that its worker is gone."""
FAST = (
    f"statement.logged:{RUN}",
    "records.append.sent:13",
    "grant.wrapped",
    "function.ran",
    "receipt.logged",
)
SLOW = (
    *(f"statement.decided:{number}" for number in (1, 4, 7, RUN, 12)),
    *(f"statement.logged:{number}" for number in range(1, STATEMENTS + 1) if number != RUN),
    *(f"records.append.before:{number}" for number in (3, 12, 14)),
    *(f"records.append.sent:{number}" for number in (5, 13, 15)),
    *(f"records.append.after:{number}" for number in (12, 13, 14)),
    *("denial.logged", "ticket.made", "ticket.queued", "grant.decided", "grant.logged", "grant.wrapped"),
    *("receipt.decided", "release.logged:1", "release.logged:2", "release.wrapped:1", "release.wrapped:2"),
    *("ticket.leased", "keys.received", "inputs.opened", "outputs.stored"),
    *("receipt.signed", "receipt.accepted", "ticket.done"),
)
TRIGGERED = ("trigger.decided", "trigger.logged")
ELSEWHERE = ("epoch.logged", "snapshot.stored", "closed.logged", *TRIGGERED)
"""Points that this scenario does not pass; tests of their own are below."""
SUCCESSION = {name for name in faults.POINTS if name.startswith(("handover.", "succession."))}
"""Those of a service that passes to another machine are in test_succession.py."""


def test_every_fault_point_is_tested() -> None:
    tested = {name.partition(":")[0] for name in (*FAST, *SLOW)} | {*ELSEWHERE, *SUCCESSION}
    assert tested == set(faults.POINTS)


def descendants() -> set[int]:
    """All living processes below this one."""
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        below = set(children(todo.pop())) - found
        found |= below
        todo.extend(below)
    return found


def mounts() -> list[str]:
    """The mount points of this machine, as this process sees them."""
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """After the test no process of it is alive, whoever died above it, and nothing lies in the temporary folder.

    This process adopts the orphans of what it starts, so that none can hide. `tmp_path` comes first: pytest makes the
    folder of all of them in the temporary folder of the moment.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before, mounted = descendants(), mounts()
    # Of a short name, since a socket's path is bounded.
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    deadline = time.monotonic() + ENDED_SECONDS
    while (left := descendants() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in left]
    assert list(folder.iterdir()) == []
    assert mounts() == mounted
    folder.rmdir()


def play(town: Town) -> tuple[str, str]:
    """The whole life cycle, with one refusal in it; returns the task and the run."""
    town.enter(*PEOPLE)
    task = town.prepare()
    with pytest.raises(Denied):
        town["bob"].post(statements.RunStatement, task=task)
    run = town.run("scientist", task)
    town.ended("scientist", task, run)
    return task, run


def collect(town: Town, task: str, run: str, status: str = "finished") -> None:
    """Receivers open what they are given, of a failed run the diagnostics; the bundle verifies again, offline."""
    for who in ("alice", "scientist") if status == "finished" else ("scientist",):
        result = town.result(who, task, run)
        if status == "finished":
            assert result.outputs["result"].read_text() == '"id","x"\n1,6\n3,12\n'
        bundle = validate(
            wire.Bundle, parse_object(result.receipt_file.read_bytes(), limit=limits.RESPONSE_BYTES), "bundle"
        )
        assert verify_bundle(bundle, town.trust, int(time.time())).run == run


def check_stored(town: Town, *, receipts: int = 1, released: int = 2) -> None:
    """With the service stopped: replay all of what the host has kept."""
    found = stored(town.home)
    assert found.kinds.get("receipt", 0) == receipts
    if released:
        assert found.kinds["release"] >= released
    # The replay refuses a second end of a run, so as many ends as runs is one for each.
    assert receipts + found.kinds.get("closed", 0) == len(found.state.runs) == 1
    for session in town.people.values():
        for kind, digest, index in session.acknowledged:
            assert found.state.seen.get(digest) == index, f"an acknowledged {kind} is missing"
    for run in found.state.runs.values():
        assert run.status in tasks.ENDED
        assert (run.receipt is not None) == (receipts == 1)
    assert not found.state.runs.open


def restarted(service: up.Service) -> list[str]:
    return [item.name for item in service.processes if item.ends]


def own(home: Path, point: str) -> None:
    with ExitStack() as stack:
        options = {"environ": {faults.VARIABLE: point}, "lease_seconds": LEASE_SECONDS}
        service = stack.enter_context(up.running(home, **options))
        town = Town(home, stack)
        collect(town, *play(town))
        deadline = time.monotonic() + 20
        while not restarted(service) and time.monotonic() < deadline:
            # The last points of a life cycle are passed after everybody has been answered.
            time.sleep(0.1)
        assert restarted(service) in (["gateway"], ["worker"])
    check_stored(town)


@pytest.mark.parametrize("point", FAST)
def test_a_killed_process_loses_nothing(tmp_path: Path, point: str) -> None:
    own(tmp_path / "home", point)


@pytest.mark.slow
@pytest.mark.parametrize("point", SLOW)
def test_a_killed_process_loses_nothing_at_any_point(tmp_path: Path, point: str) -> None:
    own(tmp_path / "home", point)


# -- another process dies -----------------------------------------------------------------------------


def stopped(pid: int) -> bool:
    """Whether a process stands at its fault point."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def wait_stopped(pids: Callable[[], list[int]], seconds: float = 2 * PATIENCE_SECONDS) -> int:
    """The process that has come to its fault point."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in pids():
            if stopped(pid):
                return pid
        time.sleep(0.02)
    pytest.fail("no process came to its fault point")


def pids(service: up.Service) -> list[int]:
    return [item.child.pid for item in service.processes if item.child is not None]


def victims(service: up.Service, name: str) -> list[int]:
    """A process by name; of the sandbox the zygote, or with `child` what runs below it."""
    if name not in ("zygote", "child"):
        process = service.process(name).child
        return [] if process is None else [process.pid]
    worker = service.process("worker").child
    zygotes = children(worker.pid) if worker is not None else []
    return zygotes if name == "zygote" else [pid for zygote in zygotes for pid in children(zygote)]


def other(home: Path, point: str, victim: str) -> None:
    with ExitStack() as stack:
        options = {"environ": {faults.VARIABLE: f"{point}:pause"}, "lease_seconds": LEASE_SECONDS}
        service = stack.enter_context(up.running(home, **options))
        town = Town(home, stack)
        killed: list[int] = []

        def strike() -> None:
            pid = wait_stopped(lambda: pids(service))
            killed.extend(victims(service, victim))
            for found in killed:
                os.kill(found, signal.SIGKILL)
            time.sleep(0.3)
            os.kill(pid, signal.SIGCONT)

        striker = threading.Thread(target=strike)
        striker.start()
        task, run = play(town)
        view = town["scientist"].task(task).runs[0]
        collect(town, task, run, view.status)
        striker.join()
        assert killed
        # A sandbox that was killed is a failure of this run; anything else is made good by another attempt.
        assert view.status == "finished" or (victim == "zygote" and view.failure == "crashed")
        if victim not in ("zygote", "child"):
            assert victim in restarted(service)
    check_stored(town, released=2 if view.status == "finished" else 1)


GATEWAY_POINTS = (
    f"statement.decided:{RUN}",
    f"statement.logged:{RUN}",
    *("records.append.before:12", "records.append.sent:13", "records.append.after:13"),
    *("denial.logged", "ticket.made", "ticket.queued", "grant.decided", "grant.logged", "grant.wrapped"),
    *("receipt.decided", "receipt.logged", "release.logged", "release.wrapped"),
)
WORKER_POINTS = (
    *("ticket.leased", "keys.received", "inputs.opened", "function.ran", "outputs.stored", "receipt.signed"),
    *("receipt.accepted", "ticket.done"),
)
OTHER_FAST = (("grant.logged", "host"), ("inputs.opened", "zygote"))
OTHER_SLOW = tuple(
    pair
    for pair in (
        *((point, victim) for point in GATEWAY_POINTS for victim in ("host", "worker", "zygote")),
        *((point, victim) for point in WORKER_POINTS for victim in ("host", "gateway", "zygote")),
    )
    if pair not in OTHER_FAST
)
LAUNCHER_FAST = ("keys.received",)
LAUNCHER_SLOW = tuple(point for point in (*GATEWAY_POINTS, *WORKER_POINTS) if point not in LAUNCHER_FAST)


def test_at_every_fault_point_everything_else_is_killed_too() -> None:
    tested = {name.partition(":")[0] for name in (*GATEWAY_POINTS, *WORKER_POINTS)} | {
        *ELSEWHERE,
        *SUCCESSION,
    }
    assert tested == set(faults.POINTS)


@pytest.mark.parametrize(("point", "victim"), OTHER_FAST)
def test_another_process_dies_meanwhile(tmp_path: Path, point: str, victim: str) -> None:
    other(tmp_path / "home", point, victim)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "victim"), OTHER_SLOW)
def test_another_process_dies_meanwhile_at_any_point(tmp_path: Path, point: str, victim: str) -> None:
    other(tmp_path / "home", point, victim)


SLEEPER = """
import time

from mesatee.table import Table


def total(a: Table, b: Table) -> Table:
    time.sleep(60)
    return a
"""


def sleeping(town: Town) -> str:
    """A task that runs for a minute, approved."""
    town.enter(*PEOPLE)
    inputs = {"a": town.dataset("alice", "left"), "b": town.dataset("bob", "right")}
    function = town.function("scientist", SLEEPER, private=False)
    return town.task(
        "scientist",
        function,
        inputs,
        {"result": ("scientist",), "diagnostics": ("scientist",)},
        approvers=("alice", "bob"),
    )


def until_running(town: Town, task: str, attempts: int = 1) -> wire.RunView:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view = town["scientist"].task(task).runs[0]
        if view.attempts >= attempts or view.status in tasks.ENDED:
            return view
        time.sleep(0.1)
    pytest.fail("the run does not start")


@pytest.mark.slow
def test_a_killed_child_ends_the_run_with_a_receipt(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        service = stack.enter_context(up.running(home, lease_seconds=LEASE_SECONDS))
        town = Town(home, stack)
        task = sleeping(town)
        run = town.run("scientist", task)
        until_running(town, task)
        deadline = time.monotonic() + 30
        while not victims(service, "child"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for pid in victims(service, "child"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        view = town.ended("scientist", task, run)
        assert (view.status, view.failure) == ("failed", "crashed")
        assert not restarted(service)
        collect(town, task, run, view.status)
    check_stored(town, released=1)


@pytest.mark.slow
def test_a_run_whose_workers_all_die_ends_once_without_a_receipt(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        options = {"environ": {faults.VARIABLE: "closed.logged"}, "lease_seconds": LEASE_SECONDS}
        service = stack.enter_context(up.running(home, **options))
        town = Town(home, stack)
        task = sleeping(town)
        run = town.run("scientist", task)
        for attempt in range(1, limits.ATTEMPTS + 1):
            assert until_running(town, task, attempt).status == "running"
            worker = service.process("worker").child
            assert worker is not None
            worker.kill()
        view = town.ended("scientist", task, run)
        assert (view.status, view.failure, view.attempts) == ("failed", "worker_lost", limits.ATTEMPTS)
        assert sorted(restarted(service)) == ["gateway", "worker"]
    check_stored(town, receipts=0, released=0)


@pytest.mark.slow
@pytest.mark.parametrize("point", TRIGGERED)
def test_a_trigger_fires_once_for_each_time_that_it_is_due(tmp_path: Path, point: str) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        options = {"environ": {faults.VARIABLE: point}, "lease_seconds": LEASE_SECONDS}
        service = stack.enter_context(up.running(home, **options))
        town = Town(home, stack)
        town.enter(*PEOPLE)
        task = town.prepare(runs=9)
        scientist = town["scientist"]
        tasks.trigger(scientist, scientist.task(task), limits.TRIGGER_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (runs := scientist.task(task).runs):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tasks.stop_triggers(scientist, scientist.task(task))
        assert town.ended("scientist", task, runs[0].digest).status == "finished"
        collect(town, task, runs[0].digest)
        for run in scientist.task(task).runs:
            town.ended("scientist", task, run.digest)
        assert restarted(service) == ["gateway"]
    found = stored(home)
    (trigger,) = found.state.triggers.values()
    assert found.kinds["fired"] == trigger.number == len(found.state.runs) == found.kinds["receipt"]


# -- starting, stopping, and the launcher -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("point", ["epoch.logged", "records.append.before", "records.append.sent"])
def test_a_gateway_that_dies_while_it_starts_can_be_started_again(tmp_path: Path, point: str) -> None:
    home = tmp_path / "home"
    with pytest.raises(Unavailable):
        up.start(home, environ={faults.VARIABLE: point}, with_worker=False)
    with ExitStack() as stack:
        stack.enter_context(up.running(home, lease_seconds=LEASE_SECONDS))
        town = Town(home, stack)
        collect(town, *play(town))
    check_stored(town)


@pytest.mark.slow
def test_a_gateway_that_dies_while_it_stores_a_snapshot_loses_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ExitStack() as stack:
        options = {"environ": {faults.VARIABLE: "snapshot.stored"}, "lease_seconds": LEASE_SECONDS}
        service = stack.enter_context(up.running(home, **options))
        town = Town(home, stack)
        collect(town, *play(town))
        child = service.process("gateway").child
    assert child is not None
    assert child.returncode == -signal.SIGKILL
    check_stored(town)
    with ExitStack() as stack:
        stack.enter_context(up.running(home))
        again = Town(home, stack)
        again.enter(*PEOPLE)
        assert again["scientist"].tasks()[0].state == "finished"


LAUNCHER = f"""
import sys, time
from pathlib import Path
from mesatee.cli import up

service = up.start(Path(sys.argv[1]), lease_seconds={LEASE_SECONDS})
print("[" + ", ".join(str(item.child.pid) for item in service.processes) + "]", flush=True)
while True:
    time.sleep(0.2)
    service.tend()
"""


def life(town: Town) -> None:
    """The whole life cycle, to the opened results."""
    task, run = play(town)
    collect(town, task, run)


def launcher(home: Path, point: str) -> None:
    environ: dict[str, Any] = {**os.environ, faults.VARIABLE: f"{point}:pause"}
    command = [sys.executable, "-c", LAUNCHER, str(home)]
    with ExitStack() as stack:
        first = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE)
        assert first.stdout is not None
        line = first.stdout.readline()
        old: list[int] = json.loads(line)
        town = Town(home, stack)
        playing = stack.enter_context(ThreadPoolExecutor(1)).submit(life, town)
        pid = wait_stopped(lambda: old)
        first.kill()
        first.wait()
        first.stdout.close()
        os.kill(pid, signal.SIGCONT)
        # At once, as a user would: what is left of the old service ends by itself.
        stack.enter_context(up.running(home, lease_seconds=LEASE_SECONDS))
        assert not descendants() & set(old), "a process outlives its launcher"
        playing.result(PATIENCE_SECONDS * 4)
    check_stored(town)


@pytest.mark.parametrize("point", LAUNCHER_FAST)
def test_the_launcher_dies(tmp_path: Path, point: str) -> None:
    launcher(tmp_path / "home", point)


@pytest.mark.slow
@pytest.mark.parametrize("point", LAUNCHER_SLOW)
def test_the_launcher_dies_at_any_point(tmp_path: Path, point: str) -> None:
    launcher(tmp_path / "home", point)


def test_the_point_is_not_passed_on_to_a_process_that_starts_again(tmp_path: Path) -> None:
    script = (
        "import json, os, sys; print(json.dumps({'event': 'ready', 'fault': os.environ.get('MESATEE_FAULT')}),"
        " flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    process = up.Process("sample", command, tmp_path / "log", {faults.VARIABLE: "ticket.done"})
    process.start()
    assert process.facts["fault"] == "ticket.done"
    process.kill()
    process.start()
    assert process.facts["fault"] is None
    process.stop()
