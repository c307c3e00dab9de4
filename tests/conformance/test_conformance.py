"""The same cases on every executor that can express them: the same results, and the same failures."""

from __future__ import annotations

import threading
import time

import pytest
from tests.support.cases import CASES, ECHO, ENDLESS, LIMITS, Case, contract, module

PAIRS = [
    pytest.param(case, executor, id=f"{case.name}-{executor}")
    for case in CASES
    for executor in case.executors
]


@pytest.mark.parametrize(("case", "executor"), PAIRS)
def test_every_executor_keeps_the_contract(case: Case, executor: str, execute):
    code, entry = case.code(executor)
    format = "json" if case.python and "-> list" in case.python else "bytes"
    ended = execute(executor, code, entry, case.inputs, case.args, case.limits, format)
    assert (ended.failure, ended.result) == (case.failure, case.result or b""), ended.text
    assert "seccomp" in ended.layers


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


@pytest.mark.parametrize("executor", ["builtin", "python", "mesapy", "wasm"])
def test_a_large_input_comes_through_whole(executor, execute):
    data = bytes(range(251)) * 100_000
    code, entry = Case("echo", ECHO, contract=contract("data")).code(executor)
    limits = LIMITS.__class__(seconds=60, cpu_seconds=30, memory_bytes=2**30, output_bytes=2**26)
    ended = execute(executor, code, entry, {"data": data}, {}, limits)
    assert ended.failure is None, ended.text
    assert ended.result == data


DICE = """
def f() -> dict:
    words = {"one", "two", "three", "four"}
    return {"set": list(words), "hash": hash("word"), "id": id([]), "float": 0.1 + 0.2, "big": 2.0 ** 0.5}
"""


@pytest.mark.parametrize("executor", ["mesapy", "wasm"])
def test_two_runs_give_the_same(executor, execute):
    if executor == "wasm":
        code, entry, format = module("chance", contract()), "_start", "bytes"
    else:
        code, entry, format = DICE.encode(), "f", "json"
    first, second = (execute(executor, code, entry, {}, {}, LIMITS, format) for _ in range(2))
    assert first.failure is None, first.text
    assert first.result == second.result


def test_chance_follows_from_module_and_arguments_the_clock_stands_still_and_nan_is_one(execute):
    said = contract(seed='{type = "int", default = 0}')
    code = module("chance", said)
    plain, other = (execute("wasm", code, "_start", {}, args, LIMITS).result for args in ({}, {"seed": 1}))
    assert plain[:64] != other[:64]
    assert plain[64:72] == plain[72:80] == (946_684_800 * 10**9).to_bytes(8, "little")
    assert plain[80:] == bytes.fromhex("000000000000f87f")
