"""The same cases on every executor that can express them: the same results, and the same failures."""

from __future__ import annotations

import threading
import time

import pytest
from tests.support.cases import CASES, ENDLESS, LIMITS, Case, contract, module

PAIRS = [
    pytest.param(case, executor, id=f"{case.name}-{executor}")
    for case in CASES
    for executor in case.executors
]


@pytest.mark.parametrize(("case", "executor"), PAIRS)
def test_every_executor_keeps_the_contract(case: Case, executor: str, execute):
    code, entry = case.code(executor)
    results = []
    for _ in range(case.runs):
        # What a module writes is bytes, whatever it means by them.
        format = "bytes" if executor == "wasm" else case.format
        ended = execute(executor, code, entry, case.given, case.args, case.limits, format)
        assert ended.failure == case.failure, ended.text
        assert "seccomp" in ended.layers
        results.append(ended.result)
    if case.failure is None:
        case.check(results)
    else:
        assert results == [b""]


@pytest.mark.parametrize("executor", ["python", "mesapy", "wasm"])
def test_a_run_that_goes_on_for_ever_is_cancelled_within_a_second(executor, supervisor, execute):
    code, entry = Case("endless", ENDLESS).code(executor)
    if executor == "wasm":
        # Compiled before, so that it is the run that is cancelled.
        execute(executor, code, entry, {}, {}, LIMITS.__class__(seconds=1, cpu_seconds=5))
    cancelled: list[float] = []

    def cancel() -> None:
        time.sleep(1)
        cancelled.append(time.monotonic())
        supervisor.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    ended = execute(executor, code, entry, {}, {}, LIMITS)
    assert time.monotonic() - cancelled[0] < 1
    thread.join()
    assert ended.failure == "cancelled"


@pytest.mark.parametrize("executor", ["python", "mesapy", "wasm"])
def test_what_the_function_says_stands_in_diagnostics_alone(executor, execute):
    case = next(case for case in CASES if case.name == "exception")
    code, entry = case.code(executor)
    ended = execute(executor, code, entry, {}, {}, LIMITS)
    assert ended.failure == "function_raised"
    assert "a word of the data" in ended.text


def test_chance_follows_from_module_and_arguments_the_clock_stands_still_and_nan_is_one(execute):
    said = contract(seed='{type = "int", default = 0}')
    code = module("chance", said)
    plain, other = (execute("wasm", code, "_start", {}, args, LIMITS).result for args in ({}, {"seed": 1}))
    assert plain[:64] != other[:64]
    assert plain[64:72] == plain[72:80] == (946_684_800 * 10**9).to_bytes(8, "little")
    assert plain[80:] == bytes.fromhex("000000000000f87f")
