"""The child that waits with a model: used once, for the same job and model, and holding nothing of a run before."""

from __future__ import annotations

import fcntl
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from tests.enclave.sandbox.test_spare import _writable, children, gone
from tests.support.nets import linear

from mesatee.enclave import functions
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd, warm
from mesatee.enclave.sandbox.supervisor import _SEALS
from mesatee.enclave.sandbox.warm import PREPARING, Cold, Warm
from mesatee.errors import Malformed
from mesatee.protocol import limits
from mesatee.table import Table

MATRIX = np.array([[1, 10], [2, 20]], np.float32)
MODEL = linear(MATRIX)
BOUNDS = Limits(seconds=60, cpu_seconds=30, memory_bytes=512 * 2**20, output_bytes=2**20, threads=2)
JOB = Job(
    "builtin",
    "onnx_predict",
    args={"threads": 2},
    inputs={"model": "bytes", "rows": "arrow"},
    outputs={"result": OutputSpec("arrow")},
    limits=BOUNDS,
)
MANY_SECONDS = 600
WARM = Warm("ab" * 32, MANY_SECONDS)
LOADING_SECONDS = 30


@pytest.fixture
def own():
    with Supervisor() as started:
        yield started


def table(*rows):
    target = io.BytesIO()
    data = np.array(rows, np.float32)
    Table.from_dict({"p": data[:, 0], "q": data[:, 1]}).write(target, "arrow")
    return target.getvalue()


def run(supervisor, rows=((1, 2),), *, job=JOB, model=MODEL, allowed=WARM):
    """As a worker does it; returns the outcome's failure, the first column, and whether the child had waited."""
    data = table(*rows)
    claimed = supervisor.claim(job, allowed, len(data)) if allowed else None
    fds = {}
    if claimed is None:
        fds = {"rows": sealed_memfd("rows", data), "model": sealed_memfd("model", model)}
    else:
        os.write(claimed.inputs["rows"], data)
    try:
        with supervisor.run(job, fds, allowed, claimed) as outcome:
            found = None
            if outcome.failure is None:
                output = outcome.outputs["result"]
                read = Table.from_arrow(os.pread(output.fd, output.size, 0))
                found = read.to_dict()["y_0"]
            return outcome.failure, found, claimed is not None
    finally:
        for fd in fds.values():
            os.close(fd)


def test_a_run_finds_the_model_loaded_and_says_the_same(own):
    assert run(own) == (None, [5.0], False)
    assert own.shelf.waits(LOADING_SECONDS)
    seen = set()
    for number in range(3):
        seen.add(own.shelf.child())
        assert run(own, [(number, 1)] * 2) == (None, [number + 2.0] * 2, True)
        # Used once: another one takes its place.
        assert own.shelf.waits(LOADING_SECONDS)
    assert own.shelf.child() not in seen
    assert len(seen) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"args": {"threads": 2, "batch": 7}},
        {"args": {"threads": 1}},
        {
            "limits": Limits(
                seconds=60, cpu_seconds=30, memory_bytes=513 * 2**20, output_bytes=2**20, threads=2
            )
        },
        {"outputs": {"result": OutputSpec("arrow", max_bytes=10**6)}},
        {"require": frozenset({"seccomp"})},
        {"inputs": {"rows": "arrow", "model": "bytes"}},
    ],
)
def test_another_job_or_model_starts_anew(own, other):
    run(own)
    assert own.shelf.waits(LOADING_SECONDS)
    fields = {name: getattr(JOB, name) for name in ("args", "inputs", "outputs", "limits", "require")} | other
    job = Job("builtin", "onnx_predict", **fields)
    # The order of inputs is no difference to a job, and all else is.
    same = other.keys() == {"inputs"}
    assert (own.claim(job, WARM, 0) is not None) == same


def test_another_model_or_too_much_input_starts_anew(own):
    run(own)
    assert own.shelf.waits(LOADING_SECONDS)
    assert own.claim(JOB, Warm("cd" * 32, MANY_SECONDS), 0) is None
    assert own.claim(JOB, WARM, limits.WARM_INPUT_BYTES + 1) is None
    before = own.shelf.child()
    failure, found, waited = run(own, model=linear(2 * MATRIX), allowed=Warm("cd" * 32, MANY_SECONDS))
    assert (failure, found, waited) == (None, [10.0], False)
    # It takes the place of the first one.
    deadline = time.monotonic() + LOADING_SECONDS
    while own.shelf.child() in (before, None):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert run(own, allowed=WARM)[2] is False


def test_nothing_waits_without_leave_or_after_a_failure(own):
    for job, allowed in ((JOB, None), (JOB, Warm("ab" * 32, 0))):
        assert run(own, job=job, allowed=allowed)[0] is None
    assert run(own, [(1, 2)], model=MODEL[:-3])[0] == "bad_input"
    echo = Job("builtin", "echo", inputs={"model": "bytes"}, outputs={"result": OutputSpec("bytes")})
    fd = sealed_memfd("model", MODEL)
    own.run(echo, {"model": fd}, WARM).close()
    os.close(fd)
    time.sleep(0.5)
    assert own.shelf.child() is None


def waiting(supervisor):
    """Outer and inner process of the one that waits with a model."""
    assert supervisor.shelf.waits(LOADING_SECONDS)
    for outer in children(supervisor.zygote_pid()):
        for inner in children(outer):
            if len(list(Path(f"/proc/{inner}/task").iterdir())) > 1:
                return outer, inner
    raise AssertionError("none has a thread of a session")


def test_is_killed_when_its_time_is_over(own):
    run(own, allowed=Warm("ab" * 32, 3))
    pair = waiting(own)
    assert gone(pair[1])
    assert own.shelf.child() is None
    assert run(own)[2] is False


@pytest.mark.parametrize("how", ["close", "clear", "memory"])
def test_is_killed_at_the_end_and_when_memory_is_short(own, how):
    run(own)
    _, inner = waiting(own)
    match how:
        case "close":
            own.close()
        case "clear":
            own.shelf.clear()
        case "memory":
            own.shelf.spare_memory(1)
            assert own.shelf.child() is not None
            own.shelf.spare_memory(2**60)
    assert gone(inner)


@pytest.mark.parametrize("when", ["before", "claimed"])
def test_a_run_does_not_suffer_when_it_has_died(own, when):
    run(own)
    pair = waiting(own)
    if when == "before":
        os.kill(pair[0], 9)
        assert gone(pair[1])
        assert run(own) == (None, [5.0], False)
        return
    claimed = own.claim(JOB, WARM, 100)
    os.write(claimed.inputs["rows"], table((1, 2)))
    os.kill(pair[0], 9)
    assert gone(pair[1])
    with pytest.raises(Cold):
        own.run(JOB, {}, WARM, claimed)
    assert run(own) == (None, [5.0], False)


def test_dies_with_the_zygote_and_is_not_used_after(own):
    run(own)
    _, inner = waiting(own)
    os.kill(own.zygote_pid(), 9)
    assert gone(inner)
    assert run(own) == (None, [5.0], False)


@pytest.mark.skipif(
    os.getuid() != 0, reason="only root can read the memory of a process that is not dumpable"
)
def test_has_the_model_and_nothing_of_the_run_before(own):
    """Neither rows nor results of the run before, in the form in which they crossed or were computed with."""
    rows = np.frombuffer(os.urandom(64), np.uint8).astype(np.float32).reshape(-1, 2) + np.float32(0.125)
    run(own, rows.tolist())
    _, inner = waiting(own)
    memory = stopped(inner)
    assert MATRIX.tobytes() in memory, "the weights are there, so that finding nothing else means something"
    for array in (rows[:, 0], rows[:, 1], rows @ MATRIX[:, 0]):
        assert np.ascontiguousarray(array, np.float32).tobytes()[:32] not in memory


def stopped(pid):
    os.kill(pid, 19)
    try:
        return _writable(pid)
    finally:
        os.kill(pid, 18)


def test_is_locked_in_before_it_sees_the_model(own):
    """No privilege is left, and every thread of the session is under the filter."""
    run(own)
    outer, inner = waiting(own)
    for task in Path(f"/proc/{inner}/task").iterdir():
        said = dict(
            line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line
        )
        assert said["Seccomp"] == "2"
        assert said["NoNewPrivs"] == "1"
        assert said["CapEff"] == "0" * 16
    bounds = Path(f"/proc/{inner}/limits").read_text()
    assert (
        f"{JOB.limits.cpu_seconds + limits.WARM_CPU_SECONDS} "
        in bounds.partition("Max cpu time")[2].split("\n")[0]
    )
    # Its descriptors are its streams, its report, its inputs and outputs, and where the word comes from.
    assert len(list(Path(f"/proc/{inner}/fd").iterdir())) == 3 + 1 + len(JOB.inputs) + len(JOB.outputs) + 1
    assert outer in children(own.zygote_pid())


def test_neither_inputs_nor_outputs_can_be_changed_once_it_has_run(own):
    run(own)
    assert own.shelf.waits(LOADING_SECONDS)
    _, inner = waiting(own)
    claimed = own.claim(JOB, WARM, 100)
    (target,) = claimed.inputs.values()
    os.write(target, table((1, 2)))
    with own.run(JOB, {}, None, claimed) as outcome:
        assert outcome.failure is None
        # Nobody waited for its end; what it wrote is sealed all the same, and it is killed.
        assert fcntl.fcntl(outcome.outputs["result"].fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    assert gone(inner)
    # Ours is closed, and was sealed before the word was given.
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(target)
    with pytest.raises(Malformed, match="only a built-in"):
        Job("python", "f", inputs={"model": "bytes"}, outputs=JOB.outputs, warm="model")
    with pytest.raises(Malformed, match="only a built-in"):
        Job("builtin", "f", inputs={"rows": "bytes"}, outputs=JOB.outputs, warm="model")


def test_one_that_has_run_is_not_beside_the_child_of_the_next_run(own, monkeypatch):
    """Also one that does not end by itself, and before the next model is loaded ahead."""
    run(own)
    _, inner = waiting(own)
    monkeypatch.setattr(warm, "REST_SECONDS", MANY_SECONDS)
    assert run(own) == (None, [5.0], True)
    os.kill(inner, 19)
    assert not gone(inner, 1)
    other = Job(
        "builtin", "echo", inputs={"data": "bytes"}, outputs={"result": OutputSpec("bytes")}, limits=BOUNDS
    )
    fd = sealed_memfd("data", b"x")
    with own.run(other, {"data": fd}) as outcome:
        assert outcome.failure is None
    os.close(fd)
    assert gone(inner)


def test_the_list_of_functions_that_load_ahead_is_that_of_those_that_can():
    can = {name for name in functions.names() if functions.find(name).load_ahead is not None}
    assert can == PREPARING
    for name in can:
        assert warm.MODEL in {port.name for port in functions.find(name).signature.inputs}
        assert functions.find(name).signature.attestation is None, "it waits without knowing where it runs"


def test_one_that_is_claimed_and_never_run_is_killed(own):
    run(own)
    _, inner = waiting(own)
    claimed = own.claim(JOB, WARM, 100)
    claimed.end()
    assert gone(inner)
    # Once more is nothing, and the next run starts anew.
    claimed.end()
    assert run(own) == (None, [5.0], False)
