"""Hostile modules in real children: only closed failures, and nothing of one run in another."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.cases import contract, module
from wasmtime import wat2wasm

from mesatee import extras
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.enclave.sandbox.compiled import CompiledCode, Output
from mesatee.enclave.sandbox.executors import wasi
from mesatee.enclave.sandbox.executors import wasm as executor
from mesatee.enclave.sandbox.executors.deadline import Deadline
from mesatee.enclave.sandbox.protocol import COMPILED_OUTPUT
from mesatee.errors import SandboxFailed
from mesatee.protocol import limits, wasm

LIMITS = Limits(seconds=30, cpu_seconds=15, memory_bytes=64 * 2**20, output_bytes=2**20, threads=1)
NOTHING = "[outputs]\n"


def assembled(text: str, said: str = "") -> bytes:
    return wasm.attach(bytes(wat2wasm(text)), (said or contract()).encode())


def run(
    supervisor: Supervisor, code: bytes, inputs: Mapping[str, bytes] | None = None, limits: Limits = LIMITS
) -> tuple[str | None, bytes, str]:
    given = inputs or {}
    job = Job(
        "wasm",
        "_start",
        code=code,
        inputs=dict.fromkeys(given, "bytes"),
        outputs={"result": OutputSpec("bytes")},
        limits=limits,
    )
    fds = {name: sealed_memfd("input", data) for name, data in given.items()}
    try:
        with supervisor.run(job, fds) as outcome:
            found = outcome.outputs.get("result")
            data = os.pread(found.fd, found.size, 0) if found else b""
            return outcome.failure, data, outcome.diagnostics.decode("utf-8", "replace")
    finally:
        for fd in fds.values():
            os.close(fd)


HOSTILE = {
    "imports what is not there": ('(import "env" "system" (func (param i32)))', "function_raised"),
    "imports a memory": ('(import "env" "memory" (memory 1))', "function_raised"),
    "has no entry": ("", "function_raised"),
    "has an entry with parameters": ('(func (export "_start") (param i32))', "function_raised"),
    "reads behind its memory": (
        '(memory 1) (func (export "_start") (drop (i32.load (i32.const -4))))',
        "function_raised",
    ),
    "writes before its memory": (
        '(memory 1) (func (export "_start") (i64.store offset=4294967295 (i32.const -8) (i64.const 1)))',
        "function_raised",
    ),
    "calls what is no function": (
        '(table 4 funcref) (type $f (func)) (func (export "_start") (call_indirect (type $f) (i32.const 9)))',
        "function_raised",
    ),
    "divides by zero": (
        '(func (export "_start") (drop (i32.div_s (i32.const 1) (i32.const 0))))',
        "function_raised",
    ),
    "wants more memory than the run has": ('(memory 2000) (func (export "_start"))', "out_of_memory"),
    "wants a huge table": ('(table 100000000 funcref) (func (export "_start"))', "out_of_memory"),
    "grows a table without end": (
        '(table 1 funcref) (func (export "_start") (loop $more (br_if $more (i32.ne (i32.const -1) '
        "(table.grow (ref.null func) (i32.const 100000))))) unreachable)",
        "function_raised",
    ),
    "has two memories": ('(memory 1) (memory 1) (func (export "_start"))', "function_raised"),
    "calls before it has a memory": (
        '(import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32)))'
        '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
        '(memory (export "memory") 1) (func $s (call $exit (call $r (i32.const 0) (i32.const 8))))'
        '(start $s) (func (export "_start"))',
        "function_raised",
    ),
    "shares memory between threads": ('(memory 1 2 shared) (func (export "_start"))', "function_raised"),
    "waits for ever": (
        '(import "wasi_snapshot_preview1" "sched_yield" (func $y (result i32)))'
        '(memory (export "memory") 1) (func (export "_start") (loop $more (drop (call $y)) (br $more)))',
        "out_of_cpu",
    ),
    "exports something else as memory": (
        '(global (export "memory") i32 (i32.const 1)) (func (export "_start"))',
        "wrong_output",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_module_ends_with_a_code_of_the_closed_list(name, supervisor):
    body, failure = HOSTILE[name]
    tight = Limits(seconds=30, cpu_seconds=1, memory_bytes=64 * 2**20, output_bytes=2**20, threads=1)
    assert run(supervisor, assembled(f"(module {body})"), limits=tight)[0] == failure


COUNTING = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $i i32)
    (loop $more
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))))
"""
ENDLESS = '(module (memory (export "memory") 1) (func (export "_start") (loop $more (br $more))))'


def test_fuel_ends_a_module_long_before_its_time(supervisor):
    failure, _, said = run(supervisor, assembled(ENDLESS, "fuel = 1000000\n" + contract()))
    assert failure == "out_of_cpu"
    assert "fuel of 1000000" in said


def test_enough_fuel_changes_nothing(supervisor):
    plain = module("echo", contract("data"))
    frugal = module("echo", "fuel = 10000000\n" + contract("data"))
    found = [run(supervisor, code, {"data": b"as it was"}) for code in (plain, frugal, plain)]
    assert [item[:2] for item in found] == [(None, b"as it was")] * 3
    assert run(supervisor, module("echo", "fuel = 3\n" + contract("data")), {"data": b"x"})[0] == "out_of_cpu"


def test_fuel_is_the_same_number_whenever_it_is_counted():
    def least() -> int:
        found = executor.Engine(counts=True)
        compiled, low, high = found.compile(bytes(wat2wasm(COUNTING))), 0, 100_000
        while high - low > 1:
            middle = (low + high) // 2
            ended = found.run(
                compiled,
                "_start",
                1 << 20,
                lambda memory: wasi.Wasi(memory, {}, {}, b"{}", bytes(32)),
                middle,
            )
            assert ended.spent == (ended.wrong is not None)
            low, high = (middle, high) if ended.spent else (low, middle)
        return high

    assert 1_000 < least() == least() < 20_000


YIELD = '(import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))'
RANDOM = '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))'
MEMORY = '(memory (export "memory") 900)'
MOST = 900 * 65_536
"""Bytes of that memory."""
TRAP = "wasm trap: interrupt"
HOST = "in a host function"
TAKES_LONG = {
    "a loop": (f'(module {MEMORY} (func (export "_start") (loop $more (br $more))))', TRAP),
    "calls of itself": (
        f"(module {MEMORY} (func $twice (param $n i32) (if (local.get $n) (then "
        "(call $twice (i32.sub (local.get $n) (i32.const 1))) "
        "(call $twice (i32.sub (local.get $n) (i32.const 1))))))"
        ' (func (export "_start") (call $twice (i32.const 64))))',
        TRAP,
    ),
    "before its entry": (
        f'(module {MEMORY} (func $s (loop $more (br $more))) (start $s) (func (export "_start")))',
        TRAP,
    ),
    "host calls": (
        f'(module {YIELD} {MEMORY} (func (export "_start") (loop $more (drop (call $yield)) (br $more))))',
        "",
    ),
    "one long host call": (
        f'(module {RANDOM} {MEMORY} (func (export "_start") '
        f"(drop (call $random (i32.const 0) (i32.const {MOST}))) (loop $more (br $more))))",
        HOST,
    ),
    # Nowhere a loop or a function: what moves memory looks at the epoch in between.
    "a row of fills": (
        f'(module {MEMORY} (func (export "_start") '
        + f"(memory.fill (i32.const 0) (i32.const 1) (i32.const {MOST}))" * 1_000
        + "))",
        TRAP,
    ),
}
"""Code that takes long, and by what it ends."""


@pytest.mark.parametrize("name", TAKES_LONG)
def test_a_module_ends_at_the_time_that_its_contract_says(name, supervisor):
    code, end = TAKES_LONG[name]
    failure, _, said = run(supervisor, assembled(code, "seconds = 0.25\n" + contract()))
    assert failure == "out_of_time"
    # The child's own word: whoever is killed from outside says nothing.
    assert "the module has used its 0.25 seconds" in said
    assert end in said


@pytest.mark.parametrize("name", ["a loop", "host calls"])
def test_the_run_ends_a_module_that_gives_itself_more_time(name, supervisor):
    short = Limits(seconds=1.5, cpu_seconds=15, memory_bytes=64 * 2**20, output_bytes=2**20, threads=1)
    failure, _, said = run(
        supervisor, assembled(TAKES_LONG[name][0], "seconds = 20\n" + contract()), limits=short
    )
    assert failure == "out_of_time"
    assert "used" not in said


def test_the_end_says_where_the_module_was(supervisor):
    body = (
        f'(module {MEMORY} (func $wanders (loop $more (br $more))) (func (export "_start") (call $wanders)))'
    )
    assert "wanders" in run(supervisor, assembled(body, "seconds = 0.1\n" + contract()))[2]


def test_enough_time_changes_nothing(supervisor):
    plain, timed = (module("echo", said + contract("data")) for said in ("", "seconds = 20\n"))
    both = module("echo", "seconds = 20\nfuel = 10000000\n" + contract("data"))
    for code in (plain, timed, both, plain):
        assert run(supervisor, code, {"data": b"as it was"})[:2] == (None, b"as it was")


def test_fuel_and_time_each_end_a_module_that_has_both(supervisor):
    for said, failure, word in (
        ("fuel = 1000000\nseconds = 20\n", "out_of_cpu", "fuel of 1000000"),
        (f"fuel = {limits.FUEL}\nseconds = 0.1\n", "out_of_time", "0.1 seconds"),
    ):
        found = run(supervisor, assembled(ENDLESS, said + contract()))
        assert found[0] == failure
        assert word in found[2]


def test_an_output_that_was_written_too_late_does_not_leave(supervisor):
    """The echo needs more than a nanosecond, though it would end by itself."""
    late = module("echo", "seconds = 1e-9\n" + contract("data"))
    assert run(supervisor, late, {"data": b"x"})[:2] == ("out_of_time", b"")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (COUNTING, ""),
        (f'(module {YIELD} {MEMORY} (func (export "_start") (drop (call $yield)) unreachable))', f", {HOST}"),
    ],
)
def test_who_is_late_has_failed_even_where_no_code_looks_at_the_epoch(text, where, monkeypatch):
    """A host function ends the module when it comes back; what returns by itself has failed alike."""
    monkeypatch.setattr(Deadline, "_wait", lambda self, ended: None)
    found = executor.prepared(timed=True)
    ended = found.run(
        found.compile(bytes(wat2wasm(text))),
        "_start",
        MOST,
        lambda memory: wasi.Wasi(memory, {}, {}, b"{}", bytes(32)),
        seconds=1e-9,
    )
    assert (ended.late, ended.wrong) == (True, f"the module has used its 1e-09 seconds{where}")


def test_who_was_late_ends_no_later_run_of_the_same_engine():
    found = executor.Engine(timed=True)
    # Seconds, and not for ever: nobody would end it here.
    long = COUNTING.replace("1000)", "2000000000)")
    slow, quick = (found.compile(bytes(wat2wasm(text))) for text in (long, COUNTING))

    def ended(compiled: bytes, seconds: float) -> executor.Ended:
        return found.run(
            compiled,
            "_start",
            1 << 20,
            lambda memory: wasi.Wasi(memory, {}, {}, b"{}", bytes(32)),
            None,
            seconds,
        )

    for _ in range(5):
        # The thread may be faster than the module's start.
        for seconds in (0.001, 1e-9):
            late = ended(slow, seconds)
            assert late.late
            assert TRAP in (late.wrong or "")
        assert ended(quick, 60.0).wrong is None


KINDS = [(counts, timed) for counts in (False, True) for timed in (False, True)]


@pytest.mark.parametrize("made", KINDS)
@pytest.mark.parametrize("loaded", KINDS)
def test_code_without_the_checks_that_a_contract_asks_for_is_not_loaded(made, loaded):
    code = executor.prepared(*made).compile(bytes(wat2wasm(COUNTING)))
    other = executor.prepared(*loaded)
    if made == loaded:
        other.wasmtime.Module.deserialize(other.engine, code)
    else:
        with pytest.raises(other.wasmtime.WasmtimeError, match="compiled with"):
            other.wasmtime.Module.deserialize(other.engine, code)


def test_a_contract_with_a_deadline_has_compiled_code_of_its_own(supervisor):
    plain, timed = (module("echo", said + contract("data") + "# both\n") for said in ("", "seconds = 20\n"))
    for code in (plain, timed):
        assert run(supervisor, code, {"data": b"x"})[0] is None
    assert supervisor._compiled.get(plain) != supervisor._compiled.get(timed)
    kept = supervisor._compiled._kept
    without, with_checks = list(kept)[-2:]
    kept[with_checks] = kept[without]
    assert supervisor._compiled.get(timed) is None
    assert run(supervisor, timed, {"data": b"y"})[:2] == (None, b"y")


def test_a_module_reaches_nothing_of_the_machine(supervisor):
    body = """
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 64) "../etc/passwd") (data (i32.const 80) "/etc/passwd") (data (i32.const 96) "proc/self/mem")
    (func $try (param $fd i32) (param $at i32) (param $size i32)
      (if (i32.eqz (call $open (local.get $fd) (i32.const 1) (local.get $at) (local.get $size)
          (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
        (then unreachable)))
    (func (export "_start") (local $fd i32)
      (loop $more
        (call $try (local.get $fd) (i32.const 64) (i32.const 13))
        (call $try (local.get $fd) (i32.const 80) (i32.const 11))
        (call $try (local.get $fd) (i32.const 96) (i32.const 13))
        (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $fd) (i32.const 300))))
      (call $exit (i32.const 77)))
    """
    failure, _, text = run(supervisor, assembled(f"(module {body})"))
    assert failure == "function_raised"
    assert "exited with 77" in text


ECHO = module("echo", contract("data"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(8, len(ECHO) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_broken_module_ends_with_a_code_of_the_closed_list(at, byte, cut, supervisor):
    broken = ECHO[:at] if cut else ECHO[:at] + bytes([byte]) + ECHO[at + 1 :]
    limits = Limits(seconds=20, cpu_seconds=1, memory_bytes=64 * 2**20, output_bytes=2**20, threads=1)
    failure, data, _ = run(supervisor, broken, {"data": b"x"}, limits)
    closed = {
        "function_raised",
        "bad_input",
        "wrong_output",
        "out_of_cpu",
        "out_of_memory",
        "output_too_large",
    }
    assert failure in closed or (failure is None and len(data) <= 2**20)


def test_a_module_is_compiled_once_and_apart(supervisor, monkeypatch):
    jobs: list[str] = []
    once = Supervisor._once
    monkeypatch.setattr(
        Supervisor, "_once", lambda self, job, *rest: jobs.append(job.executor) or once(self, job, *rest)
    )
    code = module("echo", contract("data") + "# another module\n")
    for _ in range(2):
        assert run(supervisor, code, {"data": b"x"})[:2] == (None, b"x")
    assert jobs == ["wasm_compiler", "wasm", "wasm"]


def test_forged_or_swapped_compiled_code_is_refused_and_made_again(supervisor):
    mine = module("echo", contract("data") + "# mine\n")
    other = assembled('(module (func (export "_start") unreachable))', contract("data"))
    assert run(supervisor, mine, {"data": b"x"})[0] is None
    assert run(supervisor, other, {"data": b"x"})[0] == "function_raised"
    kept = supervisor._compiled._kept
    first, second = list(kept)[-2:]
    kept[first] = kept[second]
    assert supervisor._compiled.get(mine) is None
    assert run(supervisor, mine, {"data": b"y"})[:2] == (None, b"y")


def stored(cache: CompiledCode, name: bytes, code: bytes) -> None:
    fd = sealed_memfd(COMPILED_OUTPUT, code)
    cache.keep(name, Output(fd, len(code)))
    os.close(fd)


def test_compiled_code_counts_for_its_module_process_and_settings(monkeypatch):
    cache, other = CompiledCode(), CompiledCode()
    stored(cache, b"module", b"code")
    assert cache.get(b"module") == b"code"
    assert cache.get(b"modulf") is None
    other._kept.update(cache._kept)
    assert other.get(b"module") is None
    monkeypatch.setattr("mesatee.enclave.sandbox.engine.fingerprint", lambda: b"another version")
    assert cache.get(b"module") is None


def test_the_least_used_compiled_code_goes_first():
    cache = CompiledCode(most_bytes=8)
    for name in (b"a", b"b"):
        stored(cache, name, b"code")
    assert cache.get(b"a") == b"code"
    stored(cache, b"c", b"code")
    assert [cache.get(name) for name in (b"a", b"b", b"c")] == [b"code", None, b"code"]


def test_a_worker_without_the_package_names_the_extra(supervisor, monkeypatch):
    monkeypatch.setattr(extras, "PACKAGES", {"wasm": "not-installed"})
    with pytest.raises(SandboxFailed, match=r"mesatee\[wasm\]"):
        run(supervisor, ECHO, {"data": b""})


def test_a_run_that_was_not_compiled_by_the_worker_is_none(supervisor):
    """The child itself never compiles: without compiled code there is nothing to run."""
    supervisor._compiled._kept.clear()
    stored(supervisor._compiled, ECHO, b"no code at all")
    assert run(supervisor, ECHO, {"data": b"x"})[0] == "function_raised"
    supervisor._compiled._kept.clear()
