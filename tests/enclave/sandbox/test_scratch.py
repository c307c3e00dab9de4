"""The scratch file of a job: who gets one, and that a child can use it from within its sandbox."""

from __future__ import annotations

import os

import pytest

from mesatee.enclave.sandbox import Job, OutputSpec, Supervisor, sealed_memfd
from mesatee.enclave.sandbox import scratch as module
from mesatee.enclave.sandbox.protocol import Limits
from mesatee.errors import Malformed
from mesatee.protocol import limits


def job(**changes):
    given = {
        "executor": "builtin",
        "entry": "psi",
        "args": {"key": "id"},
        "inputs": {"a": "csv", "b": "csv"},
        "outputs": {"result": OutputSpec("csv")},
    }
    return Job(**given | changes)


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [
        ({}, limits.GIB, True),
        ({}, 100 * limits.MIB, False),
        ({"limits": Limits(memory_bytes=100 * limits.MIB)}, 100 * limits.MIB, True),
        ({"inputs": {"a": "parquet", "b": "parquet"}}, 100 * limits.MIB, True),
        ({"args": {"key": "id", "mode": "bitmap"}}, limits.GIB, False),
        ({"args": {"key": "id", "leakage": "access-pattern"}}, limits.GIB, False),
        ({"entry": "echo"}, limits.GIB, False),
        ({"executor": "python"}, limits.GIB, False),
    ],
)
def test_who_gets_one(changes, size, expected):
    assert module.needed(job(**changes), {"a": size, "b": size}) is expected


def test_the_file_has_no_name(tmp_path):
    fd = module.open_in(tmp_path)
    assert os.fstat(fd).st_nlink == 0
    assert not list(tmp_path.iterdir())
    os.close(fd)
    assert module.open_in(tmp_path / "missing") is None


def test_its_size_is_bounded():
    assert Job.decode(job(scratch_bytes=limits.SCRATCH_BYTES).encode()).scratch_bytes == limits.SCRATCH_BYTES
    for wrong in (-1, limits.SCRATCH_BYTES + 1):
        with pytest.raises(Malformed, match="scratch_bytes"):
            job(scratch_bytes=wrong)


def run(supervisor, rows, **changes):
    """The output and the diagnostics of an intersection of two inputs of which half of the rows meet."""
    sides = [range(rows), range(rows // 2, rows + rows // 2)]
    fds = {
        name: sealed_memfd(name, b"id\n" + b"".join(b"%d\n" % number for number in side))
        for name, side in zip("ab", sides, strict=True)
    }
    with supervisor.run(job(**changes), fds) as outcome:
        assert outcome.failure is None, outcome.diagnostics
        result = outcome.outputs["result"]
        data = os.pread(result.fd, result.size, 0)
    for fd in fds.values():
        os.close(fd)
    return data, outcome.diagnostics.decode()


def test_a_child_spills_and_finds_the_same(monkeypatch, tmp_path):
    with Supervisor(scratch=tmp_path) as supervisor:
        in_memory, said = run(supervisor, 3000)
        assert "scratch" not in said
        monkeypatch.setattr(module, "_MEMORY_TIMES", {"csv": 1_000_000})
        for mode in ("intersection", "difference"):
            args = {"key": "id", "mode": mode}
            spilled, said = run(supervisor, 3000, args=args)
            assert "matched in a sealed scratch file" in said
            assert spilled.split() == (in_memory.split() if mode == "intersection" else EXPECTED)
        counted, said = run(
            supervisor,
            3000,
            args={"key": "id", "mode": "cardinality"},
            outputs={"result": OutputSpec("parquet")},
        )
        assert "scratch" in said
        assert counted.startswith(b"PAR1")
    # Where there can be no file, the run stays in memory.
    with Supervisor(scratch=None) as supervisor:
        assert run(supervisor, 300)[1].count("scratch") == 0


EXPECTED = [b'"id"', *(b"%d" % number for number in range(1500))]
