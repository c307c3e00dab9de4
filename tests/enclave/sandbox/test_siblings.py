"""Two children at once: a file that both may read is no way from one to the other."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
import threading

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.enclave.sandbox.conftest import QUICK, run_job

from mesatee.enclave.sandbox import Job, OutputSpec, Supervisor

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls have x86-64 numbers")

SECONDS = 1.0
"""How long the one waits, in seconds; the other tries to wake it all the while."""
PRELUDE = """
import ctypes, errno, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
FUTEX, WAIT, WAKE, WAIT_BITSET, PRIVATE = 202, 0, 1, 9, 128

class Span(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

def shared_word():
    fd = os.open(os.__file__, os.O_RDONLY)
    return ctypes.c_void_p(libc.mmap(None, 4096, 1, 1, fd, 0))

def futex(word, operation, value, span=None):
    answer = libc.syscall(ctypes.c_long(FUTEX), word, operation, value, span, None, ctypes.c_uint(0xFFFFFFFF))
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]

def wait(seconds):
    # As a thread waits for the end of another one.
    word = shared_word()
    value, said = ctypes.c_int.from_address(word.value).value, []
    thread = threading.Thread(target=lambda: said.append(futex(word, WAIT_BITSET, value)), daemon=True)
    thread.start()
    thread.join(seconds)
    return said[0] if said else "waits"

def wake(seconds):
    word, end = shared_word(), time.monotonic() + seconds
    while time.monotonic() < end:
        answer = futex(word, WAKE, 1)
        if answer != 0:
            return answer
        time.sleep(0.005)
    return 0
"""


def program(body: str) -> Job:
    code = f"{PRELUDE}\ndef f() -> list:\n    return [{body}]\n"
    return Job("python", "f", code=code.encode(), outputs={"r": OutputSpec("json")}, limits=QUICK)


def both(one, other):
    """What came of the one that waits, and of the one that wakes."""
    said = {}

    def note(name, run):
        said[name] = run()

    threads = [threading.Thread(target=note, args=item) for item in (("waited", one), ("woke", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return said["waited"], said["woke"]


def test_two_children_cannot_wake_each_other(supervisor):
    """A futex in a page of a file is one for all that map the file."""
    with Supervisor() as second:

        def run(by, body):
            result = run_job(by, program(body), {})
            assert result.failure is None, result.text
            return result.outputs["r"]

        found = both(lambda: run(supervisor, f"wait({SECONDS})"), lambda: run(second, f"wake({SECONDS + 1})"))
    assert found == (b'["waits"]', b'["EPERM"]')


def test_outside_of_the_sandbox_they_can():
    def run(body):
        done = subprocess.run(
            [sys.executable, "-c", f"{PRELUDE}\nprint({body})"], capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    assert both(lambda: run(f"wait({SECONDS})"), lambda: run(f"wake({SECONDS + 1})")) == ("0", "1")


def test_a_wait_that_nobody_may_end_is_answered_at_once(supervisor):
    """As if the word had changed, so that whoever waits looks again: the run-time of C++ wakes by calls that are not
    private, so a thread that slept would sleep for good."""
    a_second = "ctypes.byref(Span(30, 0))"
    calls = [
        "WAIT, 7",
        f"WAIT, 7, {a_second}",
        f"WAIT_BITSET, 7, {a_second}",
        f"WAIT_BITSET | 256, 7, {a_second}",
    ]
    word = "ctypes.byref(ctypes.c_int(7))"
    result = run_job(supervisor, program(", ".join(f"futex({word}, {call})" for call in calls)), {})
    assert result.outputs["r"] == json.dumps(["EAGAIN"] * len(calls), separators=(",", ":")).encode(), (
        result.text
    )


def test_two_threads_that_need_a_variable_of_a_library_first_both_go_on(supervisor, tmp_path):
    """Arrow makes such variables when it first reads columns in several threads: one of ten runs used to hang."""
    path = tmp_path / "columns.parquet"
    parquet.write_table(pa.table({f"c{number}": list(range(50)) for number in range(12)}), path)
    code = b"from mesatee.table import Table\ndef f(rows: Table) -> list:\n    return [rows.num_rows]\n"
    job = Job(
        "python",
        "f",
        code=code,
        inputs={"rows": "parquet"},
        outputs={"r": OutputSpec("json")},
        limits=dataclasses.replace(QUICK, threads=4),
    )
    for _ in range(60):
        result = run_job(supervisor, job, {"rows": path.read_bytes()})
        assert result.outputs.get("r") == b"[50]", (result.failure, result.text)


def test_threads_of_one_child_wake_and_join_each_other(supervisor):
    """What libraries need: private words, and the wait for a thread's end, whose word is not private."""
    body = "futex(shared_word(), WAKE | PRIVATE, 1), joined()"
    job = program(body)
    code = job.code + (
        b"def joined():\n"
        b"    thread = ctypes.c_ulong()\n"
        b"    made = libc.pthread_create(ctypes.byref(thread), None, libc.usleep, ctypes.c_void_p(200_000))\n"
        b"    start = time.monotonic()\n"
        b"    return [made, libc.pthread_join(thread, None), time.monotonic() - start > 0.1]\n"
    )
    result = run_job(supervisor, Job("python", "f", code=code, outputs=job.outputs, limits=QUICK), {})
    assert result.outputs["r"] == b"[0,[0,0,true]]", result.text


def test_the_hash_seed_is_one_for_the_runs_of_a_zygote_only(supervisor):
    """It is drawn when an interpreter starts and cannot be changed later: SECURITY.md says what follows."""
    job = program("hash('of a text')")
    with Supervisor() as second:
        first, again, other = (run_job(by, job, {}).outputs["r"] for by in (supervisor, supervisor, second))
    assert first == again
    assert first != other
