"""Two kinds of children: those that run modules have wasmtime, all others have none of the memory that it makes."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.enclave.sandbox.test_spare import kill, said, spare
from tests.support.cases import contract, module

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.enclave.sandbox.protocol import SpareKind, spare_kind
from mesatee.enclave.sandbox.zygote_process import ZygoteProcess

MODULE = Job(
    "wasm",
    "_start",
    code=module("echo", contract("data")),
    inputs={"data": "bytes"},
    outputs={"result": OutputSpec("bytes")},
)
PYTHON = Job(
    "python",
    "f",
    code=b"def f(data: bytes) -> bytes:\n    return data\n",
    inputs={"data": "bytes"},
    outputs={"result": OutputSpec("bytes")},
)


@pytest.fixture(scope="module")
def own():
    with Supervisor() as started:
        yield started


def echo(supervisor: Supervisor, job: Job) -> bytes:
    fd = sealed_memfd("data", b"data")
    try:
        with supervisor.run(job, {"data": fd}) as outcome:
            assert outcome.failure is None, outcome.diagnostics
            found = outcome.outputs["result"]
            return os.pread(found.fd, found.size, 0)
    finally:
        os.close(fd)


def test_the_zygote_for_modules_comes_with_the_first_module(own):
    with Supervisor() as fresh:
        assert echo(fresh, PYTHON) == b"data"
        assert fresh.zygote_pid("wasm") is None
        assert echo(fresh, MODULE) == b"data"
        assert fresh.zygote_pid("wasm") not in (None, fresh.zygote_pid())
        both = [fresh.zygote_pid(), fresh.zygote_pid("wasm")]
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can read the maps of a process that is not dumpable")
def test_only_children_for_modules_have_what_wasmtime_makes(own):
    assert (echo(own, PYTHON), echo(own, MODULE)) == (b"data", b"data")
    for kind, expected in (("general", False), ("wasm", True)):
        for pid in (own.zygote_pid(kind), *spare(own, kind=kind)):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert ("wasmtime" in maps) is expected
            assert ("libarrow" in maps) is not expected
            spans = [line.split() for line in maps.splitlines()]
            made = [span for span in spans if "x" in span[1] and len(span) == 5]
            assert bool(made) is expected


@pytest.mark.parametrize(("kind", "job"), [("general", MODULE), ("wasm", PYTHON)])
def test_a_child_takes_no_job_of_the_other_kind(own, kind: SpareKind, job: Job):
    assert spare_kind(job.executor) != kind
    echo(own, PYTHON)
    echo(own, MODULE)
    zygote = own._zygotes[kind]
    while zygote.spare is None:
        zygote.hear()
    read, write = os.pipe()
    # Streams, report, code, attestation, compiled code, input, output: as many as this job has.
    socket.send_fds(zygote.spare[1], [job.encode()], [write] * 7)
    os.close(write)
    assert b"does not run in a child of the kind" in said(read)
    assert (echo(own, PYTHON), echo(own, MODULE)) == (b"data", b"data")


def test_the_start_of_a_zygote_is_no_part_of_a_run(monkeypatch):
    made = ZygoteProcess.__init__

    def slow(zygote, *arguments):
        time.sleep(2.5)
        made(zygote, *arguments)

    monkeypatch.setattr(ZygoteProcess, "__init__", slow)
    with Supervisor() as fresh:
        assert echo(fresh, dataclasses.replace(MODULE, limits=Limits(seconds=2))) == b"data"


def test_one_dead_zygote_leaves_the_other_alone(own):
    echo(own, MODULE)
    general, wasm = own.zygote_pid(), own.zygote_pid("wasm")
    os.kill(wasm, signal.SIGKILL)
    time.sleep(0.1)
    assert (echo(own, PYTHON), echo(own, MODULE)) == (b"data", b"data")
    assert own.zygote_pid() == general
    assert own.zygote_pid("wasm") not in (None, wasm)


def test_a_spare_for_modules_that_was_killed_is_replaced(own):
    echo(own, MODULE)
    kill(spare(own, kind="wasm"), 0)
    assert echo(own, MODULE) == b"data"
