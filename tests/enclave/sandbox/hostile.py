"""Turns the attempts of `escapes.toml` into functions, and runs them all when started as a program.

As a program it makes a supervisor of its own and prints one JSON object: the layers, and per attempt what
came of it. So the tests can run it as another user, or where namespaces are forbidden.
"""

from __future__ import annotations

import json
import os
import textwrap
import tomllib
from pathlib import Path

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd

ATTEMPTS = {
    entry["name"]: entry
    for entry in tomllib.loads(Path(__file__).with_name("escapes.toml").read_text(encoding="utf-8"))[
        "attempt"
    ]
}

PRELUDE = """
import ctypes, errno, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def syscall(number, *args):
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    answer = libc.syscall(ctypes.c_long(number), *given)
    if answer < 0:
        code = ctypes.get_errno()
        if code not in (errno.EPERM, errno.ENOSYS):
            raise AssertionError(f"the call reached the kernel: {os.strerror(code)}")
        raise OSError(code, os.strerror(code))
    return answer

def everywhere(*names):
    for name in names:
        try:
            return open(name, "rb").read(64)
        except OSError:
            pass
    return "refused all"
"""


def source(name: str) -> str:
    """The function that makes the attempt and returns what came of it."""
    inner = textwrap.indent(ATTEMPTS[name]["body"].strip(), "    ")
    return f"""{PRELUDE}
PARENT = {os.getpid()}

def attempt():
{inner}

def f(data: bytes) -> bytes:
    try:
        return repr(attempt()).encode()
    except OSError as error:
        return b"refused: " + str(error).encode()
"""


def attempt(supervisor: Supervisor, name: str) -> tuple[str, tuple[str, ...]]:
    """What came of it (``refused...`` is what it should be), and the layers that were active."""
    job = Job(
        "python",
        "f",
        code=source(name).encode(),
        inputs={"data": "bytes"},
        outputs={"result": OutputSpec("bytes")},
        limits=Limits(seconds=20, cpu_seconds=10, memory_bytes=2**28),
    )
    fd = sealed_memfd("data", b"original")
    try:
        with supervisor.run(job, {"data": fd}) as outcome:
            if outcome.failure:
                return f"{outcome.failure}: {outcome.diagnostics.decode()}", outcome.layers
            output = outcome.outputs["result"]
            return os.pread(output.fd, output.size, 0).decode().lstrip("'"), outcome.layers
    finally:
        os.close(fd)


if __name__ == "__main__":
    results = {}
    with Supervisor() as supervisor:
        for name, entry in ATTEMPTS.items():
            said, layers = attempt(supervisor, name)
            if set(entry.get("needs", ())) <= set(layers):
                results[name] = said
    print(json.dumps({"uid": os.getuid(), "layers": layers, "results": results}))
