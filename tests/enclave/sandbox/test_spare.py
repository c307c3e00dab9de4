"""The child that is kept ready: used once, replaced, and holding nothing of any job before."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.enclave.sandbox import run as sandbox_run
from mesatee.enclave.sandbox.protocol import KILL, NEXT, Exit, Refused, last_line, parse_answer
from mesatee.enclave.sandbox.run import Run as _Run
from mesatee.enclave.sandbox.supervisor import _TRIES
from mesatee.errors import SandboxFailed
from mesatee.protocol import limits

ECHO = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"copy": OutputSpec("bytes")})
PROMPT_SECONDS = 2.0
"""Long before a run waits in vain, and long enough for a busy machine."""
SLEEP = Job(
    "python",
    "f",
    code=b"import time\ndef f() -> bytes:\n    time.sleep(60)",
    outputs={"r": OutputSpec("bytes")},
)


@pytest.fixture
def own():
    with Supervisor() as started:
        yield started


@pytest.fixture
def data():
    fd = sealed_memfd("data", b"data")
    yield fd
    os.close(fd)


def children(pid):
    """Processes whose parent is `pid`, but for those that have ended."""
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [int(pid) for pid, state in rows if not state.startswith("Z")]


def spare(supervisor, *, besides=(), kind="general"):
    """Outer and inner process of the spare, once both are there and the child of the last run is not."""
    deadline, before = time.monotonic() + 10, []
    while time.monotonic() < deadline:
        outers = [outer for outer in children(supervisor.zygote_pid(kind)) if outer not in besides]
        found = [(outer, inner[0]) for outer in outers if (inner := children(outer))]
        if len(found) == 1 and found == before:
            return found[0]
        before = found
        time.sleep(0.03)
    raise AssertionError("there is no spare")


def kill(pair, which):
    """Kill one of the two, and wait until the inner one has ended, too: until then it would take a job."""
    os.kill(pair[which], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = subprocess.run(["ps", "-p", str(pair[1]), "-o", "stat="], capture_output=True, text=True)
        if found.stdout.strip()[:1] in ("", "Z"):
            return
    raise AssertionError("the spare did not end")


def gone(pid, seconds=10):
    """Whether there is nothing left of a process, after a while."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def echo(supervisor, fd):
    with supervisor.run(ECHO, {"data": fd}) as outcome:
        return outcome.failure


def start(supervisor, job, inputs):
    """Run in a thread; returns it and the list that gets failure or error, and the time."""
    ended = []

    def run():
        try:
            with supervisor.run(job, inputs) as outcome:
                ended.append((outcome.failure, time.monotonic()))
        except SandboxFailed as error:
            ended.append((error, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def test_is_used_once_and_replaced(own, data):
    seen = set()
    for _ in range(3):
        outer, inner = spare(own)
        assert not {outer, inner} & seen
        assert echo(own, data) is None
        # The outcome does not wait for that, the next run does.
        assert gone(inner)
        assert gone(outer)
        seen |= {outer, inner}


def test_an_outcome_does_not_wait_for_the_end_of_its_child(own, data):
    """A stopped zygote buries nobody, so that the next run has to wait."""
    spare(own)
    os.kill(own.zygote_pid(), signal.SIGSTOP)
    assert echo(own, data) is None
    thread, ended = start(own, ECHO, {"data": data})
    time.sleep(0.3)
    assert not ended
    os.kill(own.zygote_pid(), signal.SIGCONT)
    thread.join(10)
    assert ended[0][0] is None


def test_a_child_that_stays_after_its_last_word_is_gone_before_the_next_job(own):
    stays = Job(
        "python",
        "f",
        code=(
            b"import os, stat, time\n"
            b"def f() -> bytes:\n"
            b"    for fd in range(3, 64):\n"
            b"        try:\n"
            b"            if stat.S_ISFIFO(os.fstat(fd).st_mode):\n"
            b"                os.write(fd, b'" + last_line(None, ["r"]).replace(b"\n", b"\\n") + b"')\n"
            b"        except OSError:\n"
            b"            continue\n"
            b"    time.sleep(60)\n"
        ),
        outputs={"r": OutputSpec("bytes")},
    )
    outer, _ = spare(own)
    begun = time.monotonic()
    with own.run(stays, {}) as outcome:
        assert outcome.failure is None
    assert time.monotonic() - begun < PROMPT_SECONDS
    sleeper, _ = spare(own, besides=(outer,))
    thread, ended = start(own, SLEEP, {})
    after, _ = spare(own, besides=(outer, sleeper))
    assert set(children(own.zygote_pid())) == {sleeper, after}
    own.cancel()
    thread.join(10)
    assert ended[0][0] == "cancelled"


def test_a_cancel_does_not_wait_for_the_child_of_the_run_before(own, data):
    spare(own)
    os.kill(own.zygote_pid(), signal.SIGSTOP)
    assert echo(own, data) is None
    thread, ended = start(own, ECHO, {"data": data})
    time.sleep(0.2)
    asked = time.monotonic()
    own.cancel()
    thread.join(10)
    assert ended[0][0] == "cancelled"
    assert ended[0][1] - asked < 1
    # It is waited for later.
    thread, ended = start(own, ECHO, {"data": data})
    time.sleep(0.2)
    assert not ended
    os.kill(own.zygote_pid(), signal.SIGCONT)
    thread.join(10)
    assert ended[0][0] is None


def test_a_zygote_that_does_not_end_a_child_is_killed_before_the_next_job(own, data, monkeypatch):
    monkeypatch.setattr(sandbox_run, "_END_SECONDS", 0.2)
    spare(own)
    first = own.zygote_pid()
    os.kill(first, signal.SIGSTOP)
    assert echo(own, data) is None
    assert own.zygote_pid() == first
    assert echo(own, data) is None
    assert own.zygote_pid() != first
    assert gone(first)


def test_is_replaced_while_its_job_runs(own):
    before, _ = spare(own)
    thread, ended = start(own, SLEEP, {})
    after, _ = spare(own, besides=(before,))
    assert set(children(own.zygote_pid())) == {before, after}
    own.cancel()
    thread.join(10)
    assert ended[0][0] == "cancelled"
    # The other one was not touched.
    assert spare(own)[0] == after


@pytest.mark.parametrize("which", [0, 1])
def test_is_replaced_when_it_is_killed(own, data, which):
    before = spare(own)
    os.kill(before[which], signal.SIGKILL)
    after = spare(own, besides=(before[0],))
    assert not set(after) & set(before)
    assert echo(own, data) is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_does_not_notice_that_it_was_killed_just_before(own, data, which):
    kill(spare(own), which)
    assert echo(own, data) is None


def test_a_run_does_not_notice_that_it_was_killed_with_the_job_unread(own, data):
    before = spare(own)
    os.kill(before[1], signal.SIGSTOP)
    thread, ended = start(own, ECHO, {"data": data})
    time.sleep(0.3)
    assert not ended
    os.kill(before[1], signal.SIGKILL)
    thread.join(10)
    assert ended[0][0] is None


def test_whatever_kills_every_child_ends_the_run_too(own, data, monkeypatch):
    """A run takes the place of one that was lost with its job unread, not of any number of them."""
    give, lost = _Run._give, []

    def lose(run, message, passed):
        assert len(lost) < _TRIES, "a run tries forever"
        pair = spare(own, besides=lost)
        # It is stopped before there is a job, so that it cannot take it.
        os.kill(pair[1], signal.SIGSTOP)
        give(run, message, passed)
        os.kill(pair[1], signal.SIGKILL)
        lost.append(pair[0])

    zygote = own.zygote_pid()
    monkeypatch.setattr(_Run, "_give", lose)
    with pytest.raises(SandboxFailed, match=f"{_TRIES} children ended before"):
        own.run(ECHO, {"data": data})
    assert len(lost) == _TRIES
    monkeypatch.undo()
    assert echo(own, data) is None
    assert own.zygote_pid() == zygote


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [(Limits(), "cancelled"), (Limits(seconds=0.4, cpu_seconds=1), "out_of_time")],
)
def test_a_run_that_waits_for_one_can_be_stopped(own, data, bounds, expected):
    before = spare(own)
    os.kill(own.zygote_pid(), signal.SIGSTOP)
    kill(before, 0)
    job = Job("builtin", "echo", inputs=ECHO.inputs, outputs=ECHO.outputs, limits=bounds)
    asked = time.monotonic()
    thread, ended = start(own, job, {"data": data})
    if expected == "cancelled":
        time.sleep(0.2)
        assert not ended
        asked = time.monotonic()
        own.cancel()
    thread.join(10)
    assert ended[0][0] == expected
    # Out of time is no sooner than that, and neither waits until there is a child again.
    assert (0 if expected == "cancelled" else bounds.seconds) <= ended[0][1] - asked < PROMPT_SECONDS
    os.kill(own.zygote_pid(), signal.SIGCONT)
    assert echo(own, data) is None


def test_its_waiting_is_not_billed(own, data):
    job = Job("builtin", "echo", inputs=ECHO.inputs, outputs=ECHO.outputs, limits=Limits(seconds=5))
    spare(own)
    time.sleep(PROMPT_SECONDS)
    start = time.monotonic()
    with own.run(job, {"data": data}) as outcome:
        assert outcome.failure is None
        # At most what the run took, and not the time before it.
        assert 0 < outcome.usage.seconds <= time.monotonic() - start


def test_a_run_has_its_own_descriptors_only(run_python):
    code = (
        "import os\n"
        "def f(data: bytes) -> list:\n"
        "    found = []\n"
        "    for fd in range(512):\n"
        "        try:\n            os.fstat(fd)\n        except OSError:\n            continue\n"
        "        found.append(fd)\n"
        "    return found\n"
    )
    result = run_python(code, {"data": ("bytes", b"x")}, {"result": OutputSpec("json")})
    # Three streams, the report, an input, an output.
    assert len(result.outputs["result"].split(b",")) == 6


MARK = (
    "import fcntl, os\n"
    "def f(data: bytes) -> list:\n"
    "    for fd in range(512):\n"
    "        try:\n"
    "            flags = fcntl.fcntl(fd, fcntl.F_GETFL)\n"
    "            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)\n"
    "            os.lseek(fd, 3, os.SEEK_SET)\n"
    "        except OSError:\n            continue\n"
    "    return []\n"
)
LOOK = (
    "import fcntl, os\n"
    "def f(data: bytes) -> list:\n"
    "    found = []\n"
    "    for fd in range(512):\n"
    "        try:\n            flags = fcntl.fcntl(fd, fcntl.F_GETFL)\n        except OSError:\n            continue\n"
    "        try:\n            at = os.lseek(fd, 0, os.SEEK_CUR)\n        except OSError:\n            at = 0\n"
    "        found.append([fd, flags & (os.O_APPEND | os.O_NONBLOCK), at])\n"
    "    return found\n"
)


def test_no_flag_of_a_descriptor_outlives_a_run(own, data):
    """Not even through standard input, or an input that two runs are given: no two runs share an open file."""

    def run(code):
        job = Job("python", "f", code=code.encode(), inputs=ECHO.inputs, outputs={"r": OutputSpec("json")})
        with own.run(job, {"data": data}) as outcome:
            assert outcome.failure is None, outcome.diagnostics
            output = outcome.outputs["r"]
            return json.loads(os.pread(output.fd, output.size, 0))

    run(MARK)
    found = run(LOOK)
    assert len(found) == 6
    assert [item for item in found if item[1:] != [0, 0]] == []
    # Nor does the caller's own descriptor carry any.
    assert os.lseek(data, 0, os.SEEK_CUR) == len(b"data")
    assert os.get_blocking(data)


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can read the memory of a process that is not dumpable"
)
def test_nothing_of_a_job_is_in_the_memory_of_zygote_and_spare(own):
    """Arguments, code, input and output of earlier jobs, in the form in which they crossed."""
    mark = "mark" + os.urandom(8).hex()
    code = f"def f(data: bytes, *, word: str) -> bytes:\n    print('{mark}')\n    return data + word.encode()"
    job = Job(
        "python",
        "f",
        code=code.encode(),
        args={"word": mark},
        inputs={"data": "bytes"},
        outputs={mark: OutputSpec("bytes")},
    )
    fd = sealed_memfd("data", mark.encode())
    for _ in range(3):
        with own.run(job, {"data": fd}) as outcome:
            assert outcome.failure is None
    os.close(fd)
    for pid in (own.zygote_pid(), *spare(own)):
        memory = writable(pid)
        # What is surely there is found, so that finding nothing means something.
        assert b"mesatee.enclave.sandbox" in memory
        assert mark.encode() not in memory


def writable(pid):
    """The writable memory of a process, which stands still meanwhile: a new spare maps and unmaps a lot."""
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
        return _writable(pid)
    finally:
        os.kill(pid, signal.SIGCONT)


def _writable(pid):
    found = bytearray()
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in lines:
            span, access = line.split()[:2]
            if access.startswith("rw"):
                first, last = (int(text, 16) for text in span.split("-"))
                memory.seek(first)
                found += memory.read(last - first)
    return bytes(found)


def test_seeds_are_of_the_job_not_of_the_fork(own):
    """Two spares forked in the same state give other numbers; so does what a library drew before."""
    code = b"import random, numpy\ndef f() -> list:\n    return [random.random(), numpy.random.rand()]"
    job = Job("python", "f", code=code, outputs={"r": OutputSpec("json")})
    seen = set()
    for _ in range(4):
        with own.run(job, {}) as outcome:
            seen.add(os.pread(outcome.outputs["r"].fd, 100, 0))
    assert len(seen) == 4


# -- hostile messages --------------------------------------------------------------------------------


def offered(supervisor):
    """The socket of a spare, as the supervisor holds it."""
    zygote = supervisor._zygotes["general"]
    while zygote.spare is None:
        zygote.hear()
    return zygote.spare


def said(fd):
    with os.fdopen(fd, "rb") as report:
        return report.read()


@pytest.mark.parametrize("message", [b"\xff" * 100, b"{}", b"[" * 10_000, ECHO.encode(), b"x" * 70_000])
@pytest.mark.parametrize("descriptors", [0, 1, 3, 67, 80])
def test_a_job_that_makes_no_sense_is_refused_and_the_zygote_lives_on(own, data, message, descriptors):
    zygote = own.zygote_pid()
    child, jobs = offered(own)
    read, write = os.pipe()
    socket.send_fds(jobs, [message], [write] * descriptors)
    os.close(write)
    answer = said(read)
    assert (b"refused" in answer) == (descriptors > 1)
    own._zygotes["general"].tell(NEXT, child)
    assert echo(own, data) is None
    assert own.zygote_pid() == zygote


@pytest.mark.parametrize(
    "message", [b"\xff", b"next", b"kill all", b"kill " + b"9" * 60, ECHO.encode(), b"x" * limits.JOB_BYTES]
)
@pytest.mark.parametrize("descriptors", [0, 1, 20])
def test_a_command_that_makes_no_sense_is_refused_and_the_zygote_lives_on(own, data, message, descriptors):
    offered(own)
    control = own._zygotes["general"].control
    socket.send_fds(control, [message], [data] * descriptors)
    assert isinstance(parse_answer(control.recv(limits.JOB_BYTES)), Refused)
    zygote = own.zygote_pid()
    assert echo(own, data) is None
    assert own.zygote_pid() == zygote


def test_commands_about_other_children_change_nothing(own, data):
    before = spare(own)
    child, _ = offered(own)
    control = own._zygotes["general"].control
    for number in (0, child + 1, 10**18):
        for word in (KILL, NEXT):
            own._zygotes["general"].tell(word, number)
    # This one is refused, which is all that is heard: no child ended, and none was made.
    own._zygotes["general"].tell(b"what", child)
    assert isinstance(parse_answer(control.recv(limits.JOB_BYTES)), Refused)
    assert children(own.zygote_pid()) == [before[0]]
    assert select.select([control], [], [], 0.3)[0] == []
    # The same words about this child do change something.
    own._zygotes["general"].tell(KILL, child)
    assert isinstance(parse_answer(control.recv(limits.JOB_BYTES)), Exit)
    assert echo(own, data) is None
