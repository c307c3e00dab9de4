"""Attempts to get out of Monty and out of WASI, each alone in a real child: `escapes.toml` is for Python.

The interpreters are a fence inside of the sandbox. What gets past one of them finds itself where a Python function is.
"""

from __future__ import annotations

import os

import pytest
from tests.support.cases import contract
from wasmtime import wat2wasm

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.errors import Malformed
from mesatee.protocol import limits, mesapy, wasm

BOUNDS = Limits(seconds=4, cpu_seconds=1, memory_bytes=128 * limits.MIB, output_bytes=limits.MIB, threads=1)


def run(supervisor: Supervisor, executor: str, code: bytes, entry: str) -> tuple[str | None, bytes, str]:
    job = Job(
        executor,
        entry,
        code=code,
        inputs={"data": "bytes"},
        outputs={"result": OutputSpec("bytes")},
        limits=BOUNDS,
    )
    fd = sealed_memfd("input", b"original")
    try:
        with supervisor.run(job, {"data": fd}) as outcome:
            found = outcome.outputs.get("result")
            data = os.pread(found.fd, found.size, 0) if found else b""
            assert os.pread(fd, 16, 0) == b"original"
            return outcome.failure, data, outcome.diagnostics.decode("utf-8", "replace")
    finally:
        os.close(fd)


# -- mesapy ------------------------------------------------------------------------------------------

SNAKE = {
    "open a file": "open('/etc/passwd').read()",
    "import by name": "__import__('os').listdir('/')",
    "evaluate": "eval('1 + 1')",
    "execute": "exec('x = 1')",
    "compile": "compile('1', 'f', 'eval')",
    "global names": "globals()['__builtins__']",
    "local names": "locals()",
    "names of an object": "vars(data)",
    "the type above": "().__class__.__bases__[0].__subclasses__()",
    "the type above by type()": "type(data).__mro__",
    "subclasses by getattr": "getattr(getattr((), '__class__'), '__base__')",
    "globals of a function": "f.__globals__",
    "code of a function": "f.__code__.co_consts",
    "builtins of a function": "print.__self__",
    "attributes by format": "'{0.__class__.__init__}'.format(data)",
    "a frame": "(lambda: 0).__closure__",
    "loaded modules": "__import__('sys').modules",
    "a breakpoint": "breakpoint()",
    "input of the terminal": "input()",
    "memory": "memoryview(data).obj",
    "set an attribute": "setattr(f, 'x', 1)",
    "delete an attribute": "delattr(f, 'x')",
    "leave the process": "quit()",
    "who is who": "id.__self__",
}


@pytest.mark.parametrize("name", SNAKE)
def test_a_mesapy_function_reaches_nothing_of_its_interpreter(name, supervisor):
    """Either it is not there, or it is a plain value of the language that says nothing of Python."""
    code = f"def f(data: bytes) -> bytes:\n    return ('got ' + str({SNAKE[name]})).encode()\n"
    failure, data, text = run(supervisor, "mesapy", code.encode(), "f")
    assert (failure, data) == ("function_raised", b""), (data, text)


@pytest.mark.parametrize(
    "module",
    ["os", "ctypes", "subprocess", "socket", "builtins", "importlib", "mesatee.table", "pathlib", "io", "gc"],
)
def test_a_mesapy_function_imports_nothing_of_the_machine(module, supervisor):
    code = f"def f(data: bytes) -> bytes:\n    import {module}\n    return b'got'\n".encode()
    with pytest.raises(Malformed, match="has no module"):
        mesapy.derive(code, "f")
    # Nor does the child, to whom a registered one could come in another way.
    assert run(supervisor, "mesapy", code, "f")[:2] == ("function_raised", b"")


ENDLESS = {
    "a huge number": "return str(10 ** 10 ** 8).encode()",
    "a huge power": "x = 7\n    while True:\n        x = x * x\n    return b''",
    "a huge text": "x = 'a'\n    while True:\n        x = x + x\n    return b''",
    "a huge list": "x = [0]\n    while True:\n        x = x + x\n    return b''",
    "text by repeating": "return b'x' * (1 << 40)",
    "a list in itself": "x = []\n    x.append(x)\n    return str(x == x).encode()",
    "a deep list": "x = []\n    for _ in range(1000000):\n        x = [x]\n    return str(x).encode()",
    "an expression that backtracks": "import re\n    return str(re.match('(a+)+$', 'a' * 60 + 'b')).encode()",
    "printing without end": "while True:\n        print('x' * 10000)\n    return b''",
    "sorting by an error": "return str(sorted([1, 'a', None])).encode()",
    "a range without end": "return str(sum(range(1 << 60))).encode()",
    "padding": "return format(1, '1000000000d').encode()",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_mesapy_function_that_takes_too_much_ends_with_a_code(name, supervisor):
    code = f"def f(data: bytes) -> bytes:\n    {ENDLESS[name]}\n"
    failure, data, text = run(supervisor, "mesapy", code.encode(), "f")
    # What fills the pipe of diagnostics waits for us more than it computes.
    ended = {"out_of_time", "out_of_memory", "out_of_cpu", "function_raised", "crashed", "output_too_large"}
    # Some of it is no harm at all: a list that equals itself, an expression that is found not to match.
    assert failure in ended or (failure is None and len(data) < 100), (failure, text)
    assert (
        run(supervisor, "mesapy", b"def f(data: bytes) -> bytes:\n    return data\n", "f")[1] == b"original"
    )


# -- wasm --------------------------------------------------------------------------------------------

IMPORTS = {
    name: f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param '
    f"{' '.join({'i': 'i32', 'I': 'i64'}[letter] for letter in kinds)}) (result i32)))"
    for name, kinds in wasm.WASI_FUNCTIONS.items()
    if name != "proc_exit"
}
TEXT = (
    '(data (i32.const 64) "in/data") (data (i32.const 80) "out/result") (data (i32.const 96) "../etc/passwd")'
    '(data (i32.const 112) "/etc/passwd") (data (i32.const 128) "out/other") (data (i32.const 144) "args.json")'
    '(data (i32.const 160) "in/../../x") (data (i32.const 176) "out/result\\00/x") (data (i32.const 192) "..")'
)
OPENED = (
    "(call $path_open (i32.const 3) (i32.const 0) (i32.const {at}) (i32.const {size}) (i32.const {flags})"
    " (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 32))"
)
READ, WRITE, CREATE = 2, 64, 9


def opened(at: int, size: int, flags: int = 0, rights: int = READ) -> str:
    return OPENED.format(at=at, size=size, flags=flags, rights=rights)


def call(name: str, *arguments: int) -> str:
    kinds = wasm.WASI_FUNCTIONS[name]
    assert len(kinds) == len(arguments)
    values = [
        f"({'i32' if kind == 'i' else 'i64'}.const {value})"
        for kind, value in zip(kinds, arguments, strict=True)
    ]
    return f"(call ${name} {' '.join(values)})"


WASI = {
    "open above the root": opened(96, 13),
    "open an absolute path": opened(112, 11),
    "open above by an input": opened(160, 10),
    "open a name with a NUL": opened(176, 13, CREATE, WRITE),
    "open the folder above": opened(192, 2),
    "open an input to write": opened(64, 7, 0, WRITE),
    "truncate an input": opened(64, 7, 8),
    "make an output that is none": opened(128, 9, CREATE, WRITE),
    "write the arguments": opened(144, 9, 0, WRITE),
    "read an output before it is made": opened(80, 10),
    "a path outside of the memory": opened(65_530, 100),
    "a path of four gigabytes": opened(64, -1),
    "link an input": call("path_link", 3, 0, 64, 7, 3, 128, 9),
    "link symbolically": call("path_symlink", 112, 11, 3, 128, 9),
    "rename an input": call("path_rename", 3, 64, 7, 3, 128, 9),
    "remove an input": call("path_unlink_file", 3, 64, 7),
    "make a folder": call("path_create_directory", 3, 128, 9),
    "another preopened folder": call("fd_prestat_get", 4, 0),
    "a descriptor of the child": call("fd_fdstat_get", 5, 0),
    "the last descriptor": call("fd_fdstat_get", -1, 0),
    "take a descriptor of the child": call("fd_renumber", 6, 1),
    "write to a descriptor of the child": call("fd_write", 5, 64, 1, 0),
    "allocate": call("fd_allocate", 3, 0, 1 << 40),
    "times of a file": call("path_filestat_set_times", 3, 0, 64, 7, 0, 0, 0),
    "a signal": call("proc_raise", 9),
    "accept": call("sock_accept", 3, 0, 0),
    "send": call("sock_send", 1, 64, 1, 0, 0),
    "receive": call("sock_recv", 0, 64, 1, 0, 0, 0),
    "shut down": call("sock_shutdown", 1, 3),
    "read a folder as a file": call("fd_read", 3, 64, 1, 0),
    "buffers without end": call("fd_write", 1, 0, -1, 0),
    "a buffer outside of the memory": call("fd_write", 1, 65_530, 1, 0),
    "random numbers outside of the memory": call("random_get", 65_530, 100),
    "random numbers without end": call("random_get", 0, -1),
    "events without end": call("poll_oneoff", 0, 0, -1, 0),
    "no event": call("poll_oneoff", 0, 0, 0, 0),
    "a folder outside of the memory": call("fd_readdir", 3, 65_530, 100, 0, 0),
    "arguments outside of the memory": call("args_get", 65_535, 65_535),
}


@pytest.mark.parametrize("name", WASI)
def test_a_module_is_refused_and_goes_on(name, supervisor):
    """The call answers an error number; the module then writes its output, as if nothing had been."""
    body = f"""
    (memory (export "memory") 1) {TEXT}
    (func (export "_start")
      (if (i32.eqz {WASI[name]}) (then unreachable))
      (i32.store (i32.const 40) (i32.const 64)) (i32.store (i32.const 44) (i32.const 7))
      (if {opened(80, 10, CREATE, WRITE)} (then unreachable))
      (if (call $fd_write (i32.load (i32.const 32)) (i32.const 40) (i32.const 1) (i32.const 48)) (then unreachable)))
    """
    code = wasm.attach(
        bytes(wat2wasm(f"(module {' '.join(IMPORTS.values())} {body})")), contract("data").encode()
    )
    failure, data, text = run(supervisor, "wasm", code, "_start")
    assert (failure, data) == (None, b"in/data"), text


def test_what_is_refused_would_be_done_if_it_were_allowed(supervisor):
    """The control: with names and numbers that are allowed the same calls succeed, and the module traps."""
    for allowed in (opened(64, 7), opened(144, 9), call("fd_fdstat_get", 1, 0), call("random_get", 0, 8)):
        start = f'(func (export "_start") (if (i32.eqz {allowed}) (then unreachable)))'
        body = f'(memory (export "memory") 1) {TEXT} {start}'
        code = wasm.attach(
            bytes(wat2wasm(f"(module {' '.join(IMPORTS.values())} {body})")), contract("data").encode()
        )
        assert run(supervisor, "wasm", code, "_start")[0] == "function_raised"
