"""A child, or a zygote, that somebody has taken over: what it says counts for nothing that it may not say.

It holds the descriptors of its run and says through them what it likes: garbage, too much, half of it, or nothing.
The run ends with a code of the closed list, in time, and leaves nothing behind.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator

import pytest
from tests.enclave.sandbox.conftest import Result, run_job, settled
from tests.support.town import children

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor
from mesatee.enclave.sandbox.protocol import Exit, Spare
from mesatee.errors import SandboxFailed
from mesatee.protocol import limits

PROMPT_SECONDS = 10.0
BOUNDS = Limits(seconds=20, cpu_seconds=10, memory_bytes=256 * limits.MIB, output_bytes=limits.MIB, threads=1)
PRELUDE = """
import fcntl, os, stat, time

def find(kind, writable):
    found = []
    for fd in range(3, 64):
        try:
            mode, flags = os.fstat(fd).st_mode, fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            continue
        if kind(mode) and (flags & os.O_ACCMODE != os.O_RDONLY) == writable:
            found.append(fd)
    return found

[REPORT] = find(stat.S_ISFIFO, True)
[OUTPUT] = find(stat.S_ISREG, True)
[INPUT] = find(stat.S_ISREG, False)
SAID = b'{"failure":null,"outputs":["result"],"cpu":0.1,"rss":1}\\n'

def say(data):
    while data:
        data = data[os.write(REPORT, data):]

def f(data: bytes) -> bytes:
"""

ATTACKS = {
    "leaves without a word": ("os._exit(0)", "crashed"),
    "leaves with an error": ("os._exit(7)", "crashed"),
    "says garbage": ("say(os.urandom(4096)); os._exit(0)", "crashed"),
    "says garbage and goes on": ("say(os.urandom(4096)); return b'x'", "crashed"),
    "says half of its last word": ("say(SAID[:-9]); os._exit(0)", "crashed"),
    "says its last word without its end": ("say(SAID[:-1]); os._exit(0)", "crashed"),
    "says that it could not be locked in": ('say(b\'{"refused":"no sandbox"}\\n\'); os._exit(0)', "crashed"),
    "says its layers again": ('say(b\'{"layers":["tee"]}\\n\'); os._exit(0)', "crashed"),
    "says a failure that only we say": (
        'say(b\'{"failure":"cancelled","outputs":[],"cpu":0,"rss":0}\\n\'); os._exit(0)',
        "crashed",
    ),
    "says a failure of its own": (
        'say(b\'{"failure":"a word of the data","outputs":[],"cpu":0,"rss":0}\\n\'); os._exit(0)',
        "crashed",
    ),
    "says other outputs": (
        'say(b\'{"failure":null,"outputs":["other"],"cpu":0,"rss":0}\\n\'); os._exit(0)',
        "crashed",
    ),
    "says no outputs": ('say(b\'{"failure":null,"outputs":[],"cpu":0,"rss":0}\\n\'); os._exit(0)', "crashed"),
    "says a name twice": (
        'say(b\'{"failure":null,"failure":null,"outputs":["result"],"cpu":0,"rss":0}\\n\'); os._exit(0)',
        "crashed",
    ),
    "says it too deep": ("say(b'[' * 2000 + b'\\n'); os._exit(0)", "crashed"),
    "says what is no text": ("say(b'\\xff\\xfe{}\\n'); os._exit(0)", "crashed"),
    "says to have used less than nothing": (
        'say(SAID.replace(b"0.1", b"-1")); os._exit(0)',
        "crashed",
    ),
    "says to have used no number": ('say(SAID.replace(b"0.1", b"1e999")); os._exit(0)', "crashed"),
    "says far too much": ("while True:\n        say(b'x' * 65536)", "crashed"),
    "closes everything and waits": ("os.closerange(0, 64)\n    time.sleep(60)", "out_of_time"),
    "says half and waits": ("say(SAID[:5])\n    time.sleep(60)", "out_of_time"),
    "drips": ("while True:\n        os.write(REPORT, b' ')\n        time.sleep(0.2)", "out_of_time"),
    "floods what it prints and never stops": ("while True:\n        os.write(1, b'x' * 65536)", "out_of"),
    "makes its report hold more": (
        "fcntl.fcntl(REPORT, 1031, 1 << 20)\n    say(b'x' * (1 << 20))\n    os._exit(0)",
        "function_raised",
    ),
    "writes the output beyond its limit": (
        "os.pwrite(OUTPUT, b'x', 64 << 20)",
        "function_raised",
    ),
    "makes the output a huge hole": ("os.ftruncate(OUTPUT, 1 << 40)", "function_raised"),
    "seals the output itself": ("fcntl.fcntl(OUTPUT, 1033, 15)", "function_raised"),
    "writes its input": ("os.pwrite(INPUT, b'x', 0)", "function_raised"),
    "opens more descriptors than it may": (
        "kept = []\n    while True:\n        kept.append(os.dup(OUTPUT))",
        "function_raised",
    ),
}


@pytest.fixture(scope="module")
def own() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


def attack(supervisor: Supervisor, body: str, bounds: Limits = BOUNDS) -> Result:
    job = Job(
        "python",
        "f",
        code=f"{PRELUDE}    {body}\n".encode(),
        inputs={"data": "bytes"},
        outputs={"result": OutputSpec("bytes")},
        limits=bounds,
    )
    return run_job(supervisor, job, {"data": b"data"})


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_child_says_counts_for_nothing_that_it_may_not_say(name, own):
    body, failure = ATTACKS[name]
    own.start()
    before, zygote = settled(own), own.zygote_pid()
    bounds = Limits(
        seconds=1, cpu_seconds=10, memory_bytes=256 * limits.MIB, output_bytes=limits.MIB, threads=1
    )
    start = time.monotonic()
    result = attack(own, body, bounds if failure.startswith("out_of") else BOUNDS)
    assert time.monotonic() - start < PROMPT_SECONDS
    assert result.failure is not None
    assert result.failure.startswith(failure), (result.failure, result.text)
    assert result.outputs == {}
    assert len(result.text) <= limits.DIAGNOSTICS_BYTES
    # Layers are what our own code said before.
    assert "seccomp" in result.layers
    assert "tee" not in result.layers
    assert settled(own) == before
    assert own.zygote_pid() == zygote


@pytest.mark.parametrize(
    "after",
    [
        "os._exit(0)",
        "os._exit(7)",
        "return b'x'",
        "raise SystemExit",
        "say(SAID); os._exit(0)",
        "say(b'garbage'); os._exit(0)",
        "say(SAID * 100)\n    while True:\n        say(SAID * 1000)",
        "time.sleep(60)",
        "pass\n    while True:\n        os.write(1, b'x' * 65536)",
        "os.write(1, b'x' * (1 << 20)); os.pwrite(OUTPUT, b'changed', 0); time.sleep(60)",
    ],
)
def test_its_own_output_is_all_that_it_can_lie_about(own, after):
    """The function's result is whatever the function says, and nobody else's. What follows its last word is nothing."""
    result = attack(own, f"os.pwrite(OUTPUT, b'forged', 0); say(SAID); {after}")
    assert result.failure is None
    assert result.outputs["result"] in (b"forged", b"changed", b"xorged")
    # It is not beside the next one.
    assert attack(own, "return data[::-1]").outputs == {"result": b"atad"}
    settled(own)
    assert len(children(own.zygote_pid())) <= 2


def test_a_child_that_was_attacked_leaves_a_good_one(own):
    for body in ("say(b'x' * 100_000)", "os._exit(1)"):
        attack(own, body)
        assert attack(own, "return data[::-1]").outputs == {"result": b"atad"}


# -- the zygote --------------------------------------------------------------------------------------


FORGED = {
    "garbage": (b"\xff" * 100, 0),
    "an empty object": (b"{}", 0),
    "a spare without its socket": (Spare(9).encode(), 0),
    "a spare with two sockets": (Spare(9).encode(), 2),
    "an end with a socket": (Exit(1, 0, 0.0, 0).encode(), 1),
    "many descriptors": (b"{}", 50),
    "a huge message": (b"x" * (2 * limits.JOB_BYTES), 0),
    "half an end": (Exit(1, 0, 0.0, 0).encode()[:-3], 0),
    "a negative child": (b'{"spare":-1}', 1),
    "numbers that are none": (b'{"child":1,"status":0,"cpu":1e999,"rss":0}', 0),
    "nothing": (b"", 0),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_zygote_that_breaks_the_protocol_is_given_up(name, own):
    message, descriptors = FORGED[name]
    own.start()
    before = settled(own)
    zygote = own._zygotes["general"]
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * limits.JOB_BYTES)
    kept, zygote.control = zygote.control, ours
    zygote.drop_spare()
    passed = [os.dup(theirs.fileno()) for _ in range(descriptors)]
    if message:
        socket.send_fds(theirs, [message], passed)
    else:
        theirs.close()
    for fd in passed:
        os.close(fd)
    with pytest.raises(SandboxFailed):
        attack(own, "return data")
    # What it passed was closed: nothing else of the pair is left to hear of.
    ours.close()
    if message:
        assert select.select([theirs], [], [], 1)[0] == [theirs]
        assert theirs.recv(1) == b""
        theirs.close()
    # What the real one says goes on: that its child went when we let go of its socket, and that there is another.
    zygote.control = kept
    assert attack(own, "return data").outputs == {"result": b"data"}
    assert settled(own) == before


def test_a_zygote_that_does_not_say_that_a_child_has_ended_is_replaced():
    with Supervisor() as own:
        attack(own, "return data")
        zygote = own._zygotes["general"]
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept, zygote.control = zygote.control, ours
        theirs.send(b"garbage")
        assert attack(own, "return data").outputs == {"result": b"data"}
        assert own.zygote_pid() not in (None, zygote.pid)
        for end in (theirs, kept):
            end.close()
