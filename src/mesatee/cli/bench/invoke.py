"""Invoking a function by a worker's supervisor: what a run costs by executor, and what handing over data costs.

*Round trip* is from `Supervisor.run` to its outcome, the child gone, on a function that gives its 1 KiB input back; a
child is ready, by a pause before each. *In this process* is what of it the executor itself takes: load the function,
read the input, call, write the output. The peer is CPython, started bare for each call, with the same input and output
by pipes: what a worker without a zygote and without any isolation could do at best.

*Hand over* is from `run` on a filled, sealed memory file with an Arrow table until the function has read that
table's last value, start of the child included; the peer is a pipe to a process that is already running, until
it has read all bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import time
from typing import Final

from ... import _core
from ...enclave.sandbox.executors import EXECUTORS, execute
from ...enclave.sandbox.protocol import Executor, Job, Limits, OutputSpec
from ...enclave.sandbox.supervisor import Supervisor, sealed_memfd
from ...errors import SandboxFailed
from ...extras import missing
from ...protocol import wasm
from .rows import Goal, Row, Say, compare
from .spawn import MS, PAUSE_SECONDS, ours

TRIPS, QUICK_TRIPS = 100, 10
ALONE, QUICK_ALONE = 500, 50
INPUT: Final = bytes(range(256)) * 4
HAND_OVERS, QUICK_HAND_OVERS = 30, 5
HAND_OVER_BYTES: Final = 100_000_000
HAND_OVER_GOAL: Final = Goal("at most 0.3 of the peer", ratio_at_most=0.3)
PEER: Final = "bare python, started for the call"
PYTHON: Final = b"def echo(data: bytes) -> bytes:\n    return data\n"
MODULE: Final = """
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "in/data") (data (i32.const 80) "out/result")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7)
      (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)) (then unreachable))
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 10)
      (i32.const 9) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 4)) (then unreachable))
    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 32768))
    (if (call $read (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 20)) (then unreachable))
    (if (call $write (i32.load (i32.const 4)) (i32.const 16) (i32.const 1) (i32.const 8)) (then unreachable))))
"""
CONTRACT: Final = b'[inputs]\ndata = "bytes"\n[outputs]\nresult = "bytes"\n'
BARE: Final = "import posix; posix.write(1, posix.read(0, 4096))"
TAKE: Final = b"""\
import time
from mesatee.table import Table

def take(table: Table) -> dict:
    assert table.to_arrow()["x"][-1].as_py() == table.num_rows - 1
    return {"at": time.monotonic_ns()}
"""
READER: Final = """\
import posix, sys, time
left = int(sys.argv[1])
posix.write(1, b"r")
while left:
    left -= len(posix.read(0, 1 << 20))
posix.write(1, str(time.monotonic_ns()).encode())
"""


def echoes() -> dict[Executor, Job]:
    """By executor, a job whose output is its input; without those that are not installed."""
    found: dict[Executor, tuple[str, bytes]] = {
        "builtin": ("echo", b""),
        "python": ("echo", PYTHON),
        "mesapy": ("echo", PYTHON),
    }
    if missing("mesapy") is not None:
        del found["mesapy"]
    if missing("wasm") is None:
        from wasmtime import wat2wasm

        found["wasm"] = (wasm.ENTRY, wasm.attach(bytes(wat2wasm(MODULE)), CONTRACT))
    return {
        executor: Job(
            executor,
            entry,
            code=code,
            inputs={"data": "bytes"},
            outputs={"result": OutputSpec("bytes")},
            limits=Limits(threads=1),
        )
        for executor, (entry, code) in found.items()
    }


def trip(supervisor: Supervisor, job: Job, fd: int) -> float:
    """Milliseconds from `run` to the outcome."""
    start = time.perf_counter()
    with supervisor.run(job, {"data": fd}) as outcome:
        took = (time.perf_counter() - start) * MS
        if outcome.failure is not None:
            raise SandboxFailed(f"the bench's function failed: {outcome.failure}")
        output = outcome.outputs["result"]
        if os.pread(output.fd, len(INPUT) + 1, 0) != INPUT:
            raise SandboxFailed("the bench's function gave something else back")
    return took


def alone(job: Job, fd: int) -> float:
    """Milliseconds that the executor itself takes, in this process, which is warm."""
    output = _core.memfd("output")
    try:
        start = time.perf_counter()
        failure = execute(job, EXECUTORS[job.executor], {"data": fd}, {"result": output})
        took = (time.perf_counter() - start) * MS
        if failure is not None or os.fstat(output).st_size != len(INPUT):
            raise SandboxFailed(f"the bench's function failed: {failure}")
    finally:
        os.close(output)
    return took


def bare() -> float:
    """Milliseconds of the peer."""
    start = time.perf_counter()
    command = [sys.executable, "-I", "-S", "-c", BARE]
    done = subprocess.run(command, input=INPUT, capture_output=True, check=True)
    took = (time.perf_counter() - start) * MS
    if done.stdout != INPUT:
        raise SandboxFailed("the peer gave something else back")
    return took


def pipe(data: bytes) -> float:
    """Seconds until a running process has read `data` from a pipe."""
    command = [sys.executable, "-I", "-S", "-c", READER, str(len(data))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as reader:
        if reader.stdin is None or reader.stdout is None:
            raise SandboxFailed("the peer has no pipes")
        reader.stdout.read(1)
        start = time.monotonic_ns()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(reader.stdin.fileno(), rest) :]
        return (int(reader.stdout.read(32)) - start) / 1e9


def hand_over(supervisor: Supervisor, samples: int) -> tuple[list[float], list[float]]:
    """Milliseconds by memory file and by pipe, taking turns."""
    data = _table(HAND_OVER_BYTES)
    job = Job("python", "take", code=TAKE, inputs={"table": "arrow"}, outputs={"result": OutputSpec("json")})
    by_file: list[float] = []
    by_pipe: list[float] = []
    with contextlib.ExitStack() as stack:
        fd = sealed_memfd("table", data)
        stack.callback(os.close, fd)
        ours(supervisor, job, {"table": fd})
        for _ in range(samples):
            time.sleep(PAUSE_SECONDS)
            by_file.append(ours(supervisor, job, {"table": fd})[0] * MS)
            time.sleep(PAUSE_SECONDS)
            by_pipe.append(pipe(data) * MS)
    return by_file, by_pipe


def _table(size: int) -> bytes:
    """An Arrow file with one column of consecutive numbers, of about `size` bytes."""
    # Not at the top: `mesatee bench` is imported by the command line, which starts without Arrow.
    import pyarrow as pa

    from ...table import Table

    sink = io.BytesIO()
    Table(pa.table({"x": pa.array(range(size // 8), pa.int64())})).write(sink, "arrow")
    return sink.getvalue()


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench invoke``."""
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(Supervisor())
        fd = sealed_memfd("data", INPUT)
        stack.callback(os.close, fd)
        for executor, job in echoes().items():
            say(f"round trips of {executor}")
            trip(supervisor, job, fd)
            mine, peer = [], []
            for _ in range(QUICK_TRIPS if quick else TRIPS):
                time.sleep(PAUSE_SECONDS)
                mine.append(trip(supervisor, job, fd))
                time.sleep(PAUSE_SECONDS)
                peer.append(bare())
            rows.append(
                compare(
                    f"round trip of {executor}",
                    "ms",
                    mine,
                    peer,
                    peer_name=PEER,
                    note="from Supervisor.run to the outcome, a child being ready and fully isolated; the peer has no "
                    "isolation",
                )
            )
        for executor, job in echoes().items():
            say(f"{executor} in this process")
            if executor == "wasm":
                job = compiled(job)
            samples = [alone(job, fd) for _ in range(QUICK_ALONE if quick else ALONE)]
            rows.append(
                compare(
                    f"{executor} in this process",
                    "ms",
                    samples,
                    note="the executor alone: load, read, call, write; what the round trip has beyond it is isolation",
                )
            )
        say("handing over")
        by_file, by_pipe = hand_over(supervisor, QUICK_HAND_OVERS if quick else HAND_OVERS)
    rows.append(
        compare(
            f"hand over {HAND_OVER_BYTES // 1_000_000} MB",
            "ms",
            by_file,
            by_pipe,
            peer_name="pipe to a running process",
            goal=HAND_OVER_GOAL,
            note="from Supervisor.run on a filled sealed memory file, a child being ready, until the function "
            "has read the last value of the Arrow table in it; pages are mapped as they are touched; the peer "
            "until all bytes have been read, without the start of its process",
        )
    )
    return tuple(rows)


def compiled(job: Job) -> Job:
    """With its compiled code, which the worker would keep."""
    from ...enclave.sandbox.executors.wasm import prepared

    return dataclasses.replace(job, compiled=prepared().compile(job.code))


__all__ = ["alone", "bare", "echoes", "hand_over", "measure", "pipe", "trip"]
