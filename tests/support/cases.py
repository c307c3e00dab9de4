"""The cases of the conformance suite: one function, in as many languages as can express it, and what must come of it.

A Python source serves `python` and `mesapy`; a program in WebAssembly text serves `wasm`, with its contract.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesatee.enclave.sandbox import Limits
from mesatee.protocol import wasm
from mesatee.protocol.model import TableFormat

PROGRAMS = Path(__file__).parents[1] / "conformance" / "programs"
LIMITS = Limits(seconds=60, cpu_seconds=30, memory_bytes=512 * 2**20, output_bytes=4 * 2**20, threads=1)
SHORT = Limits(seconds=2, cpu_seconds=30, memory_bytes=512 * 2**20, output_bytes=4 * 2**20, threads=1)
FRUGAL = Limits(seconds=60, cpu_seconds=1, memory_bytes=512 * 2**20, output_bytes=4 * 2**20, threads=1)
TIGHT = Limits(seconds=60, cpu_seconds=30, memory_bytes=128 * 2**20, output_bytes=4 * 2**20, threads=1)
BROAD = Limits(seconds=120, cpu_seconds=60, memory_bytes=512 * 2**20, output_bytes=256 * 2**20, threads=1)
LARGE = 200_000_000
"""Bytes of the large input."""


def module(name: str, contract: str) -> bytes:
    """A program of the suite, assembled, with its contract."""
    from wasmtime import wat2wasm

    texts = [PROGRAMS.joinpath(f"{part}.wat").read_text() for part in ("prelude", name)]
    return wasm.attach(bytes(wat2wasm(f"(module {' '.join(texts)})")), contract.encode())


def contract(*inputs: str, **arguments: str) -> str:
    """TOML for inputs of bytes, these arguments, and one output of bytes, `result`."""
    ports = "\n".join(f'{name} = "bytes"' for name in inputs)
    typed = "\n".join(f"{name} = {said}" for name, said in arguments.items())
    return f'[inputs]\n{ports}\n[arguments]\n{typed}\n[outputs]\nresult = "bytes"\n'


@dataclass(frozen=True)
class Filled:
    """So many bytes, made when they are asked for: the list of cases needs no memory for them."""

    size: int

    def __bytes__(self) -> bytes:
        return (bytes(range(251)) * (self.size // 251 + 1))[: self.size]


@dataclass(frozen=True)
class Case:
    """One function and what must come of it: `result`, or `failure`; neither if all of its runs give the same.

    `refused` is what is said on the whole path, where a party or the gateway sees the mistake before anything runs.
    """

    name: str
    python: str | None = None
    executors: tuple[str, ...] = ("python", "mesapy", "wasm")
    wat: str | None = None
    contract: str = contract()
    inputs: Mapping[str, bytes | Filled] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    result: bytes | Filled | None = None
    failure: str | None = None
    limits: Limits = LIMITS
    entry: str = "f"
    format: TableFormat = "bytes"
    runs: int = 1
    refused: str | None = None

    @property
    def large(self) -> bool:
        return any(isinstance(data, Filled) for data in self.inputs.values())

    @property
    def given(self) -> dict[str, bytes]:
        """The inputs' bytes."""
        return {name: bytes(data) for name, data in self.inputs.items()}

    def check(self, results: list[bytes]) -> None:
        """The results of all runs are what they must be."""
        assert len(results) == self.runs
        expected = results[0] if self.result is None else bytes(self.result)
        assert expected or self.result is not None
        # Not by a comparison that pytest would explain: of large results it would write hundreds of megabytes.
        same = all(found == expected for found in results)
        assert same, [found[:256] for found in results]

    def code(self, executor: str) -> tuple[bytes, str]:
        """Code and entry for an executor."""
        if executor == "wasm":
            return module(self.wat or self.name, self.contract), "_start"
        if executor == "builtin":
            return b"", "echo"
        assert self.python is not None
        return self.python.encode(), self.entry


DATA = bytes(range(256)) * 40
TEXT = b"the quick brown fox\njumps over  the lazy dog\n" * 100
ECHO = "def f(data: bytes) -> bytes:\n    return data\n"
EITHER = "def f(data: bytes | None) -> bytes:\n    return b'neither' if data is None else data\n"
ENDLESS = "def f() -> bytes:\n    while True:\n        pass\n    return b''\n"
CHANCE = """
def f() -> dict:
    words = {"one", "two", "three", "four"}
    return {"set": list(words), "hash": hash("word"), "id": id([]), "float": 0.1 + 0.2, "big": 2.0 ** 0.5}
"""


def matrix(n: int, seed: int) -> list[list[float]]:
    return [[float((seed * 31 + i * 7 + j * 3) % 11) for j in range(n)] for i in range(n)]


def packed(rows: list[list[float]]) -> bytes:
    return b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows)


def product(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    columns = list(zip(*right, strict=True))
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in left]


LEFT, RIGHT = matrix(12, 1), matrix(12, 2)
WIDTH, HEIGHT = 64, 48
PIXELS = bytes((3 * x + 5 * y + x * y) % 256 for y in range(HEIGHT) for x in range(WIDTH))


def halved(pixels: bytes, width: int, height: int) -> bytes:
    """Half the width and height; each pixel is the mean of four."""
    return bytes(
        (
            pixels[y * width + x]
            + pixels[y * width + x + 1]
            + pixels[(y + 1) * width + x]
            + pixels[(y + 1) * width + x + 1]
        )
        // 4
        for y in range(0, height, 2)
        for x in range(0, width, 2)
    )


HALVE = """
def f(image: bytes) -> bytes:
    parts = image.split(b"\\n", 3)
    sides = parts[1].decode().split()
    width, height, pixels = int(sides[0]), int(sides[1]), parts[3]
    found = []
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            at = y * width + x
            four = pixels[at] + pixels[at + 1] + pixels[at + width] + pixels[at + width + 1]
            found.append(f"{four // 4:02x}")
    return f"P5\\n{width // 2} {height // 2}\\n255\\n".encode() + bytes.fromhex("".join(found))
"""
MATMUL = """
def f(left: list, right: list) -> list:
    return [[sum([row[k] * right[k][j] for k in range(len(right))]) for j in range(len(right[0]))] for row in left]
"""

CASES = (
    Case(
        "echo",
        ECHO,
        ("builtin", "python", "mesapy", "wasm"),
        contract=contract("data"),
        inputs={"data": DATA},
        result=DATA,
        runs=2,
    ),
    Case(
        "large_input",
        ECHO,
        ("builtin", "python", "mesapy", "wasm"),
        "echo",
        contract("data"),
        {"data": Filled(LARGE)},
        result=Filled(LARGE),
        limits=BROAD,
    ),
    Case(
        "determinism",
        CHANCE,
        ("mesapy", "wasm"),
        "chance",
        format="json",
        runs=2,
    ),
    Case(
        "empty_input",
        ECHO,
        ("builtin", "python", "mesapy", "wasm"),
        "echo",
        contract("data"),
        {"data": b""},
        result=b"",
        refused="the file is empty",
    ),
    Case(
        "argument",
        "import json\n"
        "def f(*, factor: int = 2, word: str) -> bytes:\n"
        "    return json.dumps({'factor': factor, 'word': word}).replace(' ', '').encode()\n",
        contract=contract(factor='{type = "int", default = 2}', word='"str"'),
        args={"word": "x"},
        result=b'{"factor":2,"word":"x"}',
    ),
    Case(
        "optional_input_missing",
        EITHER,
        wat="optional",
        contract='[inputs]\ndata = {format = "bytes", optional = true}\n[outputs]\nresult = "bytes"\n',
        result=b"neither",
    ),
    Case(
        "optional_input_given",
        EITHER,
        wat="optional",
        contract='[inputs]\ndata = {format = "bytes", optional = true}\n[outputs]\nresult = "bytes"\n',
        inputs={"data": b"here"},
        result=b"here",
    ),
    Case(
        "input_missing",
        ECHO,
        wat="echo",
        contract=contract("data"),
        failure="bad_input",
        refused="missing input data",
    ),
    Case(
        "input_unknown",
        ECHO,
        wat="echo",
        contract=contract("data"),
        inputs={"data": b"x", "more": b"y"},
        failure="bad_input",
        refused="the function has no input more",
    ),
    Case(
        "bad_argument",
        "def f(*, word: str) -> bytes:\n    return word.encode()\n",
        wat="argument",
        contract=contract(word='"str"'),
        args={"word": 5},
        failure="bad_argument",
        refused="argument word must be of type str",
    ),
    Case(
        "argument_unknown",
        "def f(*, word: str = '') -> bytes:\n    return word.encode()\n",
        wat="argument",
        contract=contract(word='{type = "str", default = ""}'),
        args={"word": "x", "more": 1},
        failure="bad_argument",
        refused="the function has no argument more",
    ),
    Case(
        "wrong_type",
        # Of a type that mesapy's checker does not know: what it sees to be wrong is never registered.
        "import json\ndef f() -> bytes:\n    return json.loads('5')\n",
        wat="nothing",
        failure="wrong_output",
    ),
    Case(
        "exception",
        "def f() -> bytes:\n    raise ValueError('a word of the data')\n",
        wat="raise",
        failure="function_raised",
    ),
    Case("endless_out_of_time", ENDLESS, wat="endless", limits=SHORT, failure="out_of_time"),
    # Of its own accord, long before the minute that the run may take.
    Case(
        "endless_by_its_contract",
        executors=("wasm",),
        wat="endless",
        contract="seconds = 0.2\n" + contract(),
        failure="out_of_time",
    ),
    Case("endless_out_of_cpu", ENDLESS, wat="endless", limits=FRUGAL, failure="out_of_cpu"),
    Case(
        "memory_bomb",
        "def f() -> bytes:\n"
        "    kept = []\n"
        "    while True:\n"
        "        kept.append(b'x' * 1000000 + str(len(kept)).encode())\n"
        "    return b''\n",
        wat="memory_bomb",
        limits=TIGHT,
        failure="out_of_memory",
    ),
    Case(
        "output_bomb",
        "def f() -> bytes:\n    return b'x' * 8000000\n",
        wat="output_bomb",
        failure="output_too_large",
    ),
    Case(
        "fork_bomb",
        "import os\ndef f() -> bytes:\n    while True:\n        os.fork()\n",
        ("python",),
        failure="function_raised",
    ),
    Case(
        "recursion",
        "def _g(n: int) -> int:\n    return _g(n + 1) + 1\n\ndef f() -> bytes:\n    return str(_g(0)).encode()\n",
        wat="recursion",
        failure="function_raised",
    ),
    Case(
        "word_count",
        "def f(text: bytes) -> bytes:\n    return str(len(text.decode().split())).encode()\n",
        wat="words",
        contract=contract("text"),
        inputs={"text": TEXT},
        result=str(len(TEXT.split())).encode(),
    ),
    Case(
        "millionaires",
        "def f(alice: bytes, bob: bytes) -> bytes:\n"
        "    a, b = int(alice.decode()), int(bob.decode())\n"
        "    return b'alice' if a > b else b'bob' if b > a else b'equal'\n",
        contract=contract("alice", "bob"),
        inputs={"alice": b"1200000", "bob": b"990000"},
        result=b"alice",
    ),
    Case(
        "four_parties",
        "def f(a: bytes, b: bytes, c: bytes, d: bytes) -> bytes:\n"
        "    return str(sum([int(x.decode()) for x in (a, b, c, d)])).encode()\n",
        wat="four",
        contract=contract("a", "b", "c", "d"),
        inputs={"a": b"17", "b": b"4", "c": b"1000000", "d": b"0"},
        result=b"1000021",
    ),
    Case(
        "image_resize",
        HALVE,
        wat="image",
        contract=contract("image"),
        inputs={"image": b"P5\n%d %d\n255\n" % (WIDTH, HEIGHT) + PIXELS},
        result=b"P5\n%d %d\n255\n" % (WIDTH // 2, HEIGHT // 2) + halved(PIXELS, WIDTH, HEIGHT),
    ),
    Case(
        "matrix_multiply",
        MATMUL,
        ("python", "mesapy"),
        format="json",
        inputs={"left": json.dumps(LEFT).encode(), "right": json.dumps(RIGHT).encode()},
        result=json.dumps(product(LEFT, RIGHT), separators=(",", ":")).encode(),
    ),
    Case(
        "matrix_multiply_packed",
        executors=("wasm",),
        wat="matmul",
        contract=contract("left", "right"),
        inputs={"left": packed(LEFT), "right": packed(RIGHT)},
        result=packed(product(LEFT, RIGHT)),
    ),
)
