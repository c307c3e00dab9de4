"""WebAssembly: what a run costs inside a warm child, and compiled code beside the same algorithm in C.

*Round trip* is loading the compiled code, making an instance with its memory and its world, calling a function
that draws eight random bytes, and judging how it ended: all that the executor does in a child that is ready, the
child itself not included (`bench invoke` shows that). It is measured in this process, by the executor's own code.
Freeing the instance is left out: a child runs one module and ends with it.

*cpu loop* and *fib* are computed by a module and by a program that the C compiler of this machine makes on the
spot, in turns; both give the same number. Each measures its own computing, without start.

*with seconds* is the same for a module whose contract says how many seconds it takes. Its code looks at the time at
each loop and each function, so that there is no goal: what it costs is paid by who asks for it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from ...enclave.sandbox.engine import RESERVED_BYTES
from ...enclave.sandbox.executors import wasi
from ...enclave.sandbox.executors import wasm as executor
from ...errors import SandboxFailed, Unavailable
from ...extras import missing
from .rows import Goal, Row, Say, compare

TRIPS, QUICK_TRIPS = 2_000, 200
ROUNDS, QUICK_ROUNDS = 15, 3
TRIP_GOAL: Final = Goal("at most 200 us", ours_at_most=200.0)
SPEED_GOAL: Final = Goal("at most 2 times native", ratio_at_most=2.0)
PEER: Final = "native"
TIMED: Final = ", with seconds"
SECONDS: Final = 60.0
"""Of a module that is timed: more than it takes."""
LOOPS: Final = 50_000_000
"""Of `cpu loop`."""
FIB: Final = 32
US: Final = 1e6
MS: Final = 1e3

SMALL: Final = """
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $random (i32.const 0) (i32.const 8)))))
"""
COMPUTING: Final = f"""
(module
  (memory (export "memory") 1)
  (func $fib (param $n i32) (result i32) (local $sum i32)
    (block $done (loop $more
      (br_if $done (i32.lt_u (local.get $n) (i32.const 2)))
      (local.set $sum (i32.add (local.get $sum) (call $fib (i32.sub (local.get $n) (i32.const 1)))))
      (local.set $n (i32.sub (local.get $n) (i32.const 2)))
      (br $more)))
    (i32.add (local.get $sum) (local.get $n)))
  (func (export "fib") (i64.store (i32.const 0) (i64.extend_i32_u (call $fib (i32.const {FIB})))))
  (func (export "loop") (local $x i64) (local $left i32)
    (local.set $x (i64.const 1))
    (local.set $left (i32.const {LOOPS}))
    (loop $more
      (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005))
        (i64.const 1442695040888963407)))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 33))))
      (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 0) (local.get $x))))
"""
NATIVE: Final = f"""
#include <stdint.h>
#include <stdio.h>
#include <time.h>
static __attribute__((noinline)) uint32_t fib(uint32_t n) {{
  uint32_t sum = 0;
  for (; n >= 2; n -= 2) sum += fib(n - 1);
  return sum + n;
}}
static __attribute__((noinline)) uint64_t loop(uint32_t left) {{
  uint64_t x = 1;
  do {{ x = x * 6364136223846793005u + 1442695040888963407u; x ^= x >> 33; }} while (--left);
  return x;
}}
int main(int count, char **names) {{
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  uint64_t found = count > 1 && names[1][0] == 'f' ? fib({FIB}) : loop({LOOPS});
  clock_gettime(CLOCK_MONOTONIC, &b);
  printf("%llu %lld", (unsigned long long)found, (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
}}
"""


def round_trips(samples: int, seconds: float | None = None) -> list[float]:
    """Microseconds of each round trip, of a module that gives itself so many seconds."""
    engine = executor.prepared(timed=seconds is not None)
    compiled = engine.compile(bytes(engine.wasmtime.wat2wasm(SMALL)))
    found = []
    for _ in range(samples):
        start = time.perf_counter()
        ended = engine.run(
            compiled,
            "_start",
            1 << 20,
            lambda memory: wasi.Wasi(memory, {}, {}, b"{}", bytes(32)),
            seconds=seconds,
        )
        found.append((time.perf_counter() - start) * US)
        wrong = ended.wrong
        # Not within the next one's time.
        del ended
        if wrong is not None:
            raise SandboxFailed(f"the bench's module failed: {wrong}")
    return found


class _Computing:
    """An instance whose functions leave a number at address 0."""

    def __init__(self, timed: bool) -> None:
        found = executor.prepared(timed=timed).wasmtime
        engine = executor.prepared(timed=timed).engine
        self._store = found.Store(engine)
        if timed:
            # Nobody advances it.
            self._store.set_epoch_deadline(1)
        module = found.Module(engine, found.wat2wasm(COMPUTING))
        self._exports = found.Instance(self._store, module, []).exports(self._store)

    def __call__(self, name: str) -> tuple[int, float]:
        """The number, and milliseconds."""
        start = time.perf_counter()
        self._exports[name](self._store)
        seconds = time.perf_counter() - start
        return int.from_bytes(self._exports["memory"].read(self._store, 0, 8), "little"), seconds * MS


def native(folder: Path) -> Path:
    """The program in C. Raises `Unavailable` without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler to make the peer with")
    source, program = folder / "native.c", folder / "native"
    source.write_text(NATIVE)
    subprocess.run([compiler, "-O2", "-o", program, source], check=True, capture_output=True)
    return program


def _native(program: Path, name: str) -> tuple[int, float]:
    said = subprocess.run([program, name], check=True, capture_output=True, text=True).stdout.split()
    return int(said[0]), int(said[1]) / 1e6


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench wasm``. Raises `Unavailable` without wasmtime."""
    reason = missing("wasm")
    if reason is not None:
        raise Unavailable(reason)
    say("round trips")
    trips = QUICK_TRIPS if quick else TRIPS
    note = "load compiled code, instantiate, call once, judge; in a process that is warm, without the child"
    slower = "and start and join the thread that ends it in time"
    rows = [
        compare("round trip", "us", round_trips(trips), goal=TRIP_GOAL, note=note),
        compare(f"round trip{TIMED}", "us", round_trips(trips, SECONDS), note=slower),
    ]
    rounds = QUICK_ROUNDS if quick else ROUNDS
    computing, timing = _Computing(False), _Computing(True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            program, absent = native(Path(folder)), ""
        except Unavailable as error:
            program, absent = None, f"; no peer: {error.message}"
        for name, metric in (("loop", "cpu loop"), ("fib", "fib")):
            say(metric)
            mine, timed, peer = [], [], []
            computing(name)
            timing(name)
            for _ in range(rounds):
                number, milliseconds = computing(name)
                mine.append(milliseconds)
                timed.append(timing(name)[1])
                if program is not None:
                    other, milliseconds = _native(program, name)
                    peer.append(milliseconds)
                    if number != other:
                        raise SandboxFailed(f"{metric}: the module computes {number}, the peer {other}")
            what = (
                f"{LOOPS:,} steps of a generator"
                if name == "loop"
                else f"fib({FIB}), the second of its two calls being a loop, as compilers make of it"
            )
            note = f"{what}; the peer is C by cc -O2; {RESERVED_BYTES >> 30} GiB reserved{absent}"
            rows.append(compare(metric, "ms", mine, peer, peer_name=PEER, goal=SPEED_GOAL, note=note))
            slower = "the same, and looks at the time at each loop and each function"
            rows.append(compare(metric + TIMED, "ms", timed, peer, peer_name=PEER, note=slower))
    return tuple(rows)


__all__ = ["measure", "native", "round_trips"]
