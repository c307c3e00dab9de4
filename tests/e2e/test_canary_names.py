"""Names, private code, arguments, printed text, values and outputs of a task: none of it is in the service's folders,
in what other processes see, in the queue or in logs. Not while it runs, and not after gateway and worker were killed;
and there are no core files.

A party's own folder is its own: what is searched is the service's part of the disk.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.e2e.processes import below
from tests.e2e.test_canary import contains, everything_on_disk
from tests.support.town import LEASE_SECONDS, Town, stored

from mesatee.cli import up
from mesatee.errors import MesateeError
from mesatee.party import functions, tasks
from mesatee.protocol import statements, wire

SOURCE = """
import time
from mesatee.table import Table

# {comment}


def {entry}({port}: Table, *, {argument}: str, seconds: int = 0) -> Table:
    frame = {port}.to_pandas()
    print("{printed}", {argument}, frame.to_csv())
    time.sleep(seconds)
    frame["{result}"] = "{tupuo}"[::-1]
    return Table.from_pandas(frame)
"""
SECRET = (
    "owner",
    "receiver",
    "dataset",
    "column",
    "value",
    "function",
    "comment",
    "entry",
    "port",
    "argument",
    "printed",
    "text",
    "result",
    "output",
    "task",
)
"""What is planted; each is a word that turns up by chance nowhere."""


class Planted:
    """A service that knows all of the secrets, and tasks that use them."""

    def __init__(self, home: Path, service: up.Service, stack: ExitStack) -> None:
        self.home, self.service, self.close = home, service, stack.close
        self.words = {what: f"c{secrets.token_hex(10)}" for what in SECRET}
        self.town = Town(home, stack)
        self.owner, self.receiver = self.words["owner"], self.words["receiver"]
        self.town.enter(self.owner, self.receiver)
        text = f"id,{self.words['column']}\n1,{self.words['value']}\n"
        self.dataset = self.town.dataset(self.owner, self.words["dataset"], text.encode())
        source = self.home / f"{secrets.token_hex(4)}.py"
        source.write_text(SOURCE.format(**self.words, tupuo=self.words["output"][::-1]))
        self.function = functions.put(
            self.town[self.receiver], source, self.words["function"], private=True
        ).digest

    def task(self, seconds: int) -> str:
        return self.town.task(
            self.receiver,
            self.function,
            {self.words["port"]: self.dataset},
            {"result": (self.receiver,), "diagnostics": (self.receiver,)},
            approvers=(self.owner, self.receiver),
            arguments={self.words["argument"]: self.words["text"], "seconds": seconds},
            name=self.words["task"] if seconds else None,
        )

    def found(self, places: Iterator[tuple[str, bytes]]) -> list[str]:
        return [
            f"{what} in {where}"
            for where, data in places
            for what, word in self.words.items()
            if contains(data, word)
        ]

    def on_disk(self) -> list[str]:
        shared = ((str(path), path.read_bytes()) for path in Path("/dev/shm").glob("*") if path.is_file())
        return self.found(everything_on_disk(self.service)) + self.found(shared)

    def in_processes(self) -> list[str]:
        return self.found(everything_of(self.service))

    def wait(self, task: str, status: str, seconds: float = 60) -> wire.RunView:
        deadline = time.monotonic() + seconds
        while (view := self.town[self.receiver].task(task).runs[-1]).status != status:
            assert time.monotonic() < deadline, view.status
            self.town.present()
            time.sleep(0.1)
        return view


def everything_of(service: up.Service) -> Iterator[tuple[str, bytes]]:
    """What other processes of this user see of those of the service and their descendants."""
    for process in service.processes:
        assert process.child is not None
        roots = {process.child.pid, *(item.pid for item in below(process.child.pid))}
        for pid in roots:
            place = Path(f"/proc/{pid}")
            for name in ("cmdline", "environ", "comm", "maps", "status", "mountinfo", "wchan"):
                with suppress(OSError):
                    yield f"{process.name} {name}", (place / name).read_bytes()
            for folder in ("fd", "task"):
                with suppress(OSError):
                    for path in list((place / folder).iterdir()):
                        yield from _link_or_name(process.name, path)


def _link_or_name(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    with suppress(OSError):
        yield (
            f"{name} {path.name}",
            os.fsencode(path.readlink()) if path.is_symlink() else (path / "comm").read_bytes(),
        )


def children_of(service: up.Service) -> int:
    worker = service.process("worker").child
    assert worker is not None
    return len(below(worker.pid))


def cores(home: Path) -> list[Path]:
    folders = {home, Path.cwd(), Path("/tmp"), Path("/")}
    return [path for folder in folders for path in folder.glob("core*") if path.is_file()] + list(
        home.rglob("core.*")
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    home = tmp_path_factory.mktemp("planted") / "home"
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # The launcher allows core files: what forbids them is the service.
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with ExitStack() as stack:
            service = stack.enter_context(up.running(home, lease_seconds=LEASE_SECONDS))
            yield Planted(home, service, stack)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def run_well(planted: Planted) -> str:
    """Run a task to its end and fetch what it made; returns the task."""
    town = planted.town
    done = planted.task(0)
    run = town.run(planted.receiver, done)
    assert town.ended(planted.receiver, done, run).status == "finished"
    result = town.result(planted.receiver, done, run)
    assert planted.words["output"] in result.outputs["result"].read_text()
    assert planted.words["printed"] in result.outputs["diagnostics"].read_text()
    assert planted.words["value"] in result.outputs["diagnostics"].read_text()
    return done


def test_nothing_is_found_from_the_first_run_to_after_the_crash(planted: Planted) -> None:
    service, town = planted.service, planted.town
    quiet = children_of(service)
    task = planted.task(600)
    town.run(planted.receiver, task)
    # 1. While the function runs, with everything open in it.
    planted.wait(task, "running")
    deadline = time.monotonic() + 30
    while children_of(service) <= quiet and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children_of(service) > quiet
    time.sleep(1)
    assert planted.in_processes() == []
    assert planted.on_disk() == []
    # 2. After both were killed with the plaintext open. The owner has not come back: the worker is told so.
    for name in ("gateway", "worker"):
        child = service.process(name).child
        assert child is not None
        child.kill()
    log = service.process("worker").log
    deadline = time.monotonic() + 60
    while "recovering" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert planted.in_processes() == []
    assert planted.on_disk() == []
    # 3. And when they have come back.
    town.present()
    view = town[planted.receiver].task(task)
    with suppress(MesateeError):
        tasks.cancel(town[planted.receiver], view)
    planted.wait(task, "cancelled")
    # 4. After a run that ends well, whose results were fetched.
    done = run_well(planted)
    assert planted.in_processes() == []
    assert planted.on_disk() == []
    # 5. After refusals: what a client did wrong is told to the client alone.
    with pytest.raises(MesateeError):
        town.run(planted.receiver, done)
    with pytest.raises(MesateeError):
        town[planted.owner].post(statements.RunStatement, task=task)
    assert planted.on_disk() == []
    assert cores(planted.home) == []


def test_they_would_be_found(planted: Planted) -> None:
    """Control: in the parties' own folder they are, and the same search finds them in the service's when put there."""
    mine = b"".join(path.read_bytes() for path in planted.home.glob("*.py"))
    assert contains(mine, planted.words["comment"])
    path = planted.home / "service" / "log" / planted.words["task"]
    path.write_text(planted.words["dataset"])
    try:
        assert {line.split(" in ")[0] for line in planted.on_disk()} == {"task", "dataset"}
    finally:
        path.unlink()


def ended_with_core(pid: int) -> bool:
    """Whether a child of ours that has ended left a core file; it stays waitable."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_code == os.CLD_DUMPED


@pytest.mark.parametrize("name", ["gateway", "worker", "zygote", "child"])
def test_no_process_with_secrets_may_leave_a_core_file(planted: Planted, name: str) -> None:
    service = planted.service
    process = service.process("gateway" if name == "gateway" else "worker")
    assert process.child is not None
    pids = {process.child.pid}
    if name in ("zygote", "child"):
        pids = {item.pid for item in below(process.child.pid)}
    for pid in pids:
        (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in x]
        assert line.split()[4:6] == ["0", "0"], line


def test_a_crash_leaves_no_core_file(planted: Planted, tmp_path: Path) -> None:
    """The gateway dies of a fault of its own, as native code would: the kernel writes no core file of it."""
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with subprocess.Popen([sys.executable, "-c", crash], cwd=tmp_path) as control:
        possible = ended_with_core(control.pid)
    if not possible:
        pytest.skip("not applicable: this kernel writes no core files at all")
    # Not one that the keeper starts again, so that its end can be looked at.
    own = up.start(tmp_path / "home", with_worker=True)
    try:
        for name in ("gateway", "worker"):
            child = own.process(name).child
            assert child is not None
            child.send_signal(signal.SIGSEGV)
            assert not ended_with_core(child.pid), name
    finally:
        own.stop()
    assert cores(tmp_path / "home") == []


def test_the_snapshot_is_sealed_too(planted: Planted) -> None:
    """Last, with the service stopped: its end has left one. Others of these tests may have run in another process."""
    run_well(planted)
    planted.close()
    assert planted.on_disk() == []
    found = stored(planted.home)
    assert found.kinds["receipt"] >= 1
    assert found.snapshot is not None
