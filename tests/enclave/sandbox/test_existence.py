"""Whether there is another task at all: what a child can observe is the same with and without a neighbour.

The neighbour is a run of another supervisor that holds data, arguments and outputs and works all the while. The
observer writes down everything of the machine that it can see or ask for. What it cannot be kept from, as it shares
processor and memory, stands in SECURITY.md: how long things take.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.enclave.sandbox.conftest import QUICK, run_job
from tests.enclave.sandbox.test_spare import children

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd

MARK = "neighbour" + os.urandom(8).hex()
OBSERVE = """
import ctypes, errno, fcntl, os, resource, socket, sys, threading, time
from pathlib import Path

LIBRARY = os.path.dirname(os.__file__)

def tried(attempt):
    try:
        return repr(attempt())
    except BaseException as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}"

def tree(top, depth):
    found = []
    for folder, folders, files in os.walk(top):
        level = folder.count("/")
        if level >= depth:
            folders.clear()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            found.append([path, seen.st_mode, seen.st_size, seen.st_nlink, seen.st_mtime_ns])
    return sorted(found)

def f(data: bytes) -> dict:
    libc = ctypes.CDLL(None, use_errno=True)
    pids = range(1, 400)
    return {
        "pid": [os.getpid(), os.getppid(), os.getuid()],
        "alive": [tried(lambda pid=pid: os.kill(pid, 0)) for pid in pids],
        "groups": [tried(lambda pid=pid: os.getpgid(pid)) for pid in pids],
        "sessions": [tried(lambda pid=pid: os.getsid(pid)) for pid in pids],
        "schedulers": [tried(lambda pid=pid: os.sched_getscheduler(pid)) for pid in pids],
        "affinities": [tried(lambda pid=pid: sorted(os.sched_getaffinity(pid))) for pid in pids],
        "limits": [tried(lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_NOFILE)) for pid in range(2, 400)],
        # When it was last read: the neighbour reads it all the while, in a private root that writes no such time.
        "read": os.stat(os.__file__).st_atime_ns,
        "root": tree("/", 3),
        "tree": tree(LIBRARY, LIBRARY.count("/") + 1) + tree("/usr/share/zoneinfo", 4),
        "proc": [tried(lambda path=path: os.listdir(path)) for path in (
            "/proc", "/dev", "/dev/shm", "/sys", "/tmp", "/run")],
        "names": [tried(lambda path=path: open(path).read()) for path in (
            "/proc/net/unix", "/proc/locks", "/proc/keys", "/proc/meminfo", "/proc/stat", "/proc/sysvipc/shm",
            "/proc/self/mountinfo", "/proc/self/maps", "/proc/self/cgroup", "/proc/1/cmdline", "/etc/hostname")],
        "abstract": tried(lambda: socket.socket(socket.AF_UNIX).connect("\\0neighbour")),
        "shared": [tried(lambda n=n: libc.shmat(n, None, 0)) + str(ctypes.get_errno()) for n in range(8)],
        "keys": tried(lambda: libc.syscall(250, 0, -3)) + str(ctypes.get_errno()),
        "load": tried(os.getloadavg),
        "machine": list(os.uname()),
        "descriptors": [
            [fd, os.fstat(fd).st_mode, os.fstat(fd).st_size, tried(lambda fd=fd: os.readlink(f"/proc/self/fd/{fd}"))]
            for fd in range(200) if tried(lambda fd=fd: os.fstat(fd)).startswith("os.")
        ],
        "space": tried(lambda: os.statvfs("/").f_bavail),
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "threads": threading.active_count(),
    }
"""
NEIGHBOUR = """
import fcntl, os, time

def f(secret: bytes, *, word: str, seconds: float) -> bytes:
    # Busy with everything that it may do.
    print(word)
    end = time.monotonic() + seconds
    kept = []
    while time.monotonic() < end:
        open(os.__file__, "rb").read()
        os.listdir(os.path.dirname(os.__file__))
        kept.append(os.dup(0)) if len(kept) < 50 else None
        time.sleep(0.01)
    return secret
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Supervisor, Supervisor]]:
    with Supervisor() as one, Supervisor() as other:
        yield one, other


def families(supervisor: Supervisor) -> dict[int, list[int]]:
    """Outer children, and their inner ones."""
    return {outer: children(outer) for outer in children(supervisor.zygote_pid())}


@contextmanager
def neighbour(supervisor: Supervisor) -> Iterator[None]:
    """A run that goes on until the block ends."""
    job = Job(
        "python",
        "f",
        code=NEIGHBOUR.encode(),
        args={"word": MARK, "seconds": 60.0},
        inputs={"secret": "bytes"},
        outputs={MARK: OutputSpec("bytes")},
        limits=Limits(seconds=90),
    )
    fd = sealed_memfd("input", MARK.encode() * 1000)
    ended: list[str | None] = []

    def run() -> None:
        with supervisor.run(job, {"secret": fd}) as outcome:
            ended.append(outcome.failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        # The run and the next spare: two families of two, and the child of the last run is not one of them.
        last, now = None, families(supervisor)
        while now != last or [len(inner) for inner in now.values()] != [1, 1]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            last, now = now, families(supervisor)
        yield
        assert not ended, "the neighbour ended too early"
    finally:
        supervisor.cancel()
        thread.join(10)
        os.close(fd)
    assert ended == ["cancelled"]


def observe(supervisor: Supervisor) -> dict[str, object]:
    job = Job(
        "python",
        "f",
        code=OBSERVE.encode(),
        inputs={"data": "bytes"},
        outputs={"result": OutputSpec("json")},
        limits=Limits(seconds=30, cpu_seconds=20, output_bytes=QUICK.output_bytes * 8),
    )
    result = run_job(supervisor, job, {"data": b"mine"})
    assert result.failure is None, result.text
    found: dict[str, object] = json.loads(result.outputs["result"])
    return found


def test_nothing_that_a_child_observes_tells_of_a_neighbour(pair):
    observer, other = pair
    alone = observe(observer)
    with neighbour(other):
        beside = observe(observer)
    assert set(alone) == set(beside)
    for name, seen in alone.items():
        assert beside[name] == seen, name
    assert MARK not in json.dumps(beside)
    # It did look: at itself, and at more than a few files.
    assert len(alone["tree"]) > 100
    assert any("0" in str(item) for item in alone["affinities"])


def test_nor_of_a_run_before_in_the_same_place(pair):
    observer, _ = pair
    first = observe(observer)
    job = Job(
        "python",
        "f",
        code=NEIGHBOUR.encode(),
        args={"word": MARK, "seconds": 0.05},
        inputs={"secret": "bytes"},
        outputs={"result": OutputSpec("bytes")},
        limits=QUICK,
    )
    assert run_job(observer, job, {"secret": MARK.encode()}).failure is None
    second = observe(observer)
    assert second == first
    assert MARK not in json.dumps(second)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can look at processes that are not dumpable")
def test_nothing_of_a_task_stands_in_what_others_on_the_machine_may_list(pair):
    """Names of processes, of memory files and arguments: of another user only the names of processes are seen."""
    _, other = pair
    with neighbour(other):
        zygote = other.zygote_pid()
        outer = children(zygote)
        family = [os.getpid(), zygote, *outer, *(pid for parent in outer for pid in children(parent))]
        assert len(family) >= 6
        for pid in family:
            for name in ("cmdline", "comm", "environ", "mountinfo"):
                assert MARK.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
            links = []
            for link in Path(f"/proc/{pid}/fd").iterdir():
                # The neighbour opens and closes files meanwhile.
                with suppress(FileNotFoundError):
                    links.append(str(link.readlink()))
            assert links
            assert not [link for link in links if MARK in link]
