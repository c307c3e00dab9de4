"""Hostile functions for the memory-safe Python, in real children: only closed failures, and nothing of the machine."""

from __future__ import annotations

import os

import pytest

from mesatee import extras
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor
from mesatee.errors import SandboxFailed

LIMITS = Limits(seconds=30, cpu_seconds=2, memory_bytes=128 * 2**20, output_bytes=2**20, threads=1)


def run(supervisor: Supervisor, body: str, *, before: str = "") -> tuple[str | None, bytes, str]:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"{before}\ndef f() -> bytes:\n{lines}\n    return b'got through'\n"
    job = Job("mesapy", "f", code=code.encode(), outputs={"result": OutputSpec("bytes")}, limits=LIMITS)
    with supervisor.run(job, {}) as outcome:
        found = outcome.outputs.get("result")
        data = os.pread(found.fd, found.size, 0) if found else b""
        return outcome.failure, data, outcome.diagnostics.decode("utf-8", "replace")


HOSTILE = {
    "open a file": "open('/etc/passwd').read()",
    "write a file": "open('/out', 'w').write('x')",
    "import os": "import os",
    "import ctypes": "import ctypes",
    "import by name": "__import__('os')",
    "evaluate": "eval('1')",
    "execute": "exec('1')",
    "reach the interpreter": "().__class__.__base__.__subclasses__()",
    "reach globals": "f.__globals__",
    "reach code": "f.__code__",
    "ask for the time": "import datetime\ndatetime.datetime.now()",
    "recurse": "def g(n):\n    return g(n + 1)\ng(0)",
    "nest deeply": "x = []\nfor i in range(1000000):\n    x = [x]\nstr(x)",
    "divide by zero": "1 // 0",
    "exit": "import sys\nsys.exit(0)",
}
BOMBS = {
    "multiply a text": "'x' * 10 ** 10",
    "multiply a list": "[0] * 10 ** 10",
    "shift a number": "1 << 10 ** 11",
    "raise a number": "9 ** 10 ** 9",
    "grow a dict": "d = {}\nwhile True:\n    d[len(d)] = str(len(d)) * 100",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_function_fails(name, supervisor):
    failure, data, text = run(supervisor, HOSTILE[name])
    # The interpreter counts small values too low, so that the kernel may end it before it ends the function.
    assert failure in {"function_raised", "out_of_memory", "out_of_cpu", "crashed"}, (data, text)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_at_its_limit(name, supervisor):
    assert run(supervisor, BOMBS[name])[0] in {"out_of_memory", "out_of_cpu"}


def test_a_global_of_the_function_does_not_stand_for_its_input(supervisor):
    code = b"data = b'mine'\ndef f(data: bytes) -> bytes:\n    return data\nmesatee_value_1 = b'mine'\n"
    job = Job("mesapy", "f", code=code, inputs={"data": "bytes"}, outputs={"result": OutputSpec("bytes")})
    from mesatee.enclave.sandbox import sealed_memfd

    fd = sealed_memfd("input", b"theirs")
    try:
        with supervisor.run(job, {"data": fd}) as outcome:
            assert os.pread(outcome.outputs["result"].fd, 64, 0) == b"theirs"
    finally:
        os.close(fd)


def test_what_is_lacking_is_refused_by_the_child_too(supervisor):
    assert run(supervisor, "pass", before="class A:\n    pass\n")[0] == "function_raised"


def test_a_worker_without_the_package_names_the_extra(supervisor, monkeypatch):
    monkeypatch.setattr(extras, "PACKAGES", {"mesapy": "not-installed"})
    with pytest.raises(SandboxFailed, match=r"mesatee\[mesapy\]"):
        run(supervisor, "pass")
