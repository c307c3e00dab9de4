"""Two children at once: a file that both may read is no way from one to the other."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import pytest
from tests.enclave.sandbox.conftest import QUICK, run_job

from mesatee.enclave.sandbox import Job, OutputSpec, Supervisor

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls have x86-64 numbers")

SECONDS = 1.0
"""How long the one waits, in seconds; the other tries to wake it all the while."""
PRELUDE = """
import ctypes, errno, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
FUTEX, WAIT, WAKE, PRIVATE = 202, 0, 1, 128

class Span(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

def shared_word():
    fd = os.open(os.__file__, os.O_RDONLY)
    return ctypes.c_void_p(libc.mmap(None, 4096, 1, 1, fd, 0))

def futex(word, operation, value, span=None):
    answer = libc.syscall(ctypes.c_long(FUTEX), word, operation, value, span)
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]

def wait(seconds):
    word = shared_word()
    value = ctypes.c_int.from_address(word.value).value
    return futex(word, WAIT, value, ctypes.byref(Span(int(seconds), int(seconds % 1 * 1e9))))

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
    assert found == (b'["ETIMEDOUT"]', b'["EPERM"]')


def test_outside_of_the_sandbox_they_can():
    def run(body):
        done = subprocess.run(
            [sys.executable, "-c", f"{PRELUDE}\nprint({body})"], capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    assert both(lambda: run(f"wait({SECONDS})"), lambda: run(f"wake({SECONDS + 1})")) == ("0", "1")


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
