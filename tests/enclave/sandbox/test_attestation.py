"""A function asks where it runs: by a parameter, and by a file in its private root."""

from __future__ import annotations

import json
import os

import pytest
from tests.enclave.sandbox.conftest import QUICK, run_job

from mesatee.enclave.sandbox import Job, OutputSpec
from mesatee.errors import TooLarge
from mesatee.function import FILE
from mesatee.protocol import limits

SAID = {"version": 1, "level": 2, "evidence": "x" * 10}
OUTPUTS = {"result": OutputSpec("json")}
ASKS = "from mesatee.function import Attestation\ndef f(*, where: Attestation, n: int = 1) -> dict:\n"
READS = (
    "def f(*, n: int = 1) -> dict:\n"
    f"    with open('{FILE}', 'rb') as file:\n        text = file.read()\n"
    "    return {'text': text.decode()}\n"
)


def job(code: str, attestation: bytes, **args: object) -> Job:
    return Job(
        "python", "f", code=code.encode(), args=args, outputs=OUTPUTS, limits=QUICK, attestation=attestation
    )


def test_a_parameter_is_filled_by_the_worker(supervisor):
    result = run_job(
        supervisor, job(f"{ASKS}    return where | {{'n': n}}\n", json.dumps(SAID).encode(), n=7), {}
    )
    assert json.loads(result.outputs["result"]) == SAID | {"n": 7}


def test_no_task_can_fill_it(supervisor):
    asked = job(f"{ASKS}    return where\n", json.dumps(SAID).encode(), where={"level": 5})
    assert run_job(supervisor, asked, {}).failure == "bad_argument"


def test_where_nobody_says_it_is_a_failure(supervisor):
    result = run_job(supervisor, job(f"{ASKS}    return where\n", b""), {})
    assert result.failure == "bad_argument"
    assert "does not say" in result.text


@pytest.mark.parametrize("size", [1, limits.ATTESTATION_BYTES])
def test_the_file_holds_the_same_to_the_last_byte(supervisor, size):
    said = os.urandom(size // 2).hex().encode() + b"x" * (size % 2)
    result = run_job(supervisor, job(READS, said), {})
    if "private_root" not in result.layers:
        pytest.skip("without a private root there is no file")
    assert result.failure is None, result.text
    assert json.loads(result.outputs["result"])["text"].encode() == said


def test_each_run_has_its_own(supervisor):
    found = [run_job(supervisor, job(READS, text), {}) for text in (b"first and longer", b"second")]
    if "private_root" not in found[0].layers:
        pytest.skip("without a private root there is no file")
    assert [json.loads(item.outputs["result"])["text"] for item in found] == ["first and longer", "second"]


def test_size_one_above():
    with pytest.raises(TooLarge):
        job(READS, b"x" * (limits.ATTESTATION_BYTES + 1))


def test_the_machines_own_file_is_not_readable_without_a_private_root(supervisor):
    # The child never gets a rule for the path when no root of its own stands there; with one, it sees its own.
    result = run_job(supervisor, job(READS, b"ours"), {})
    if "private_root" in result.layers:
        assert json.loads(result.outputs["result"])["text"] == "ours"
    else:
        assert result.failure == "function_raised"
