"""The second child: what a function made passes it before it is sealed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mesatee.enclave.sandbox import Limits, Supervisor, sealed_memfd
from mesatee.enclave.worker.guard import Guarded, arguments, guard
from mesatee.protocol.protection import Enforced
from mesatee.table import Table

QUICK = Limits(seconds=20, cpu_seconds=10)


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


def enforced(**given: Any) -> Enforced:
    return Enforced(
        **{
            **dict.fromkeys(("min_group", "max_rows", "columns", "digits", "multiple")),
            "charges": {},
            **given,
        }
    )


def table(kind: str = "csv", **columns: Any) -> bytes:
    target = io.BytesIO()
    Table.from_dict(columns).write(target, kind)  # type: ignore[arg-type]
    return target.getvalue()


def through(
    supervisor: Supervisor, protection: Enforced, outputs: dict[str, tuple[str, bytes]]
) -> tuple[Guarded, dict[str, bytes]]:
    with ExitStack() as stack:
        given = {}
        for name, (kind, content) in outputs.items():
            fd = sealed_memfd("output", content)
            stack.callback(os.close, fd)
            given[name] = (fd, kind)
        found = guard(supervisor.run, stack, protection, given, QUICK)
        return found, {name: os.pread(fd, 1 << 20, 0) for name, fd in found.outputs.items()}


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_what_is_too_small_a_group_is_left_out(supervisor: Supervisor, kind: str) -> None:
    content = table(kind, city=["Bern", "Genf"], rows=[3, 40])
    found, left = through(supervisor, enforced(min_group=5), {"result": (kind, content)})
    assert found.failure is None
    assert Table.read(left["result"], kind).to_dict() == {"city": ["Genf"], "rows": [40]}  # type: ignore[arg-type]


def test_all_outputs_or_none(supervisor: Supervisor) -> None:
    outputs = {"a": ("csv", table(x=[1, 2])), "b": ("csv", table(x=[1, 2, 3]))}
    found, left = through(supervisor, enforced(max_rows=2), outputs)
    assert (found.failure, left) == ("withheld", {})
    assert b"output b: " in found.why
    assert b"more rows than may leave" in found.why


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"PAR1", b"a,a\n1,2\n", b"x" * 100_000])
def test_what_is_no_table_is_withheld(supervisor: Supervisor, content: bytes) -> None:
    for kind in ("csv", "parquet", "arrow"):
        if kind == "csv" and content == b"x" * 100_000:
            continue
        found, left = through(supervisor, enforced(max_rows=5, columns=("x",)), {"result": (kind, content)})
        assert (found.failure, left) == ("withheld", {})


def test_bytes_behind_a_table_do_not_leave_with_it(supervisor: Supervisor) -> None:
    """An Arrow file may have anything after its end, or between its parts: what leaves is written anew."""
    canary = b"canary-93"
    for kind in ("arrow", "parquet"):
        plain = table(kind, x=[1])
        head = plain[:8] + canary + plain[8:] if kind == "arrow" else plain[:4] + canary + plain[4:]
        for content in (plain + canary, head):
            _, left = through(supervisor, enforced(max_rows=5), {"result": (kind, content)})
            assert all(canary not in data for data in left.values())


def test_a_child_that_cannot_cope_says_how(supervisor: Supervisor) -> None:
    content = table(x=["y" * 1000] * 2000)
    with ExitStack() as stack:
        fd = sealed_memfd("output", content)
        stack.callback(os.close, fd)
        bounds = Limits(seconds=20, cpu_seconds=10, output_bytes=1000)
        found = guard(supervisor.run, stack, enforced(max_rows=5000), {"result": (fd, "csv")}, bounds)
        assert found.failure == "output_too_large"


def test_every_limit_reaches_the_function() -> None:
    assert arguments(enforced()) == {"min_group": 0, "max_rows": 0, "columns": [], "digits": 0, "multiple": 0}
    said = {"min_group": 2, "max_rows": 3, "columns": ("a",), "digits": 4, "multiple": 5}
    assert arguments(enforced(**said)) == {**said, "columns": ["a"]}


def test_a_model_passes_where_a_budget_is_all_that_is_asked_for(supervisor: Supervisor) -> None:
    outputs = {"model": ("bytes", b"\x08\x08 any bytes"), "history": ("csv", table(epoch=[1, 2]))}
    found, left = through(supervisor, enforced(charges={"ab" * 32: 5}), outputs)
    assert found.failure is None
    assert left["model"] == b"\x08\x08 any bytes"
    assert Table.from_csv(left["history"]).to_dict() == {"epoch": [1, 2]}
    for limit in ({"max_rows": 2}, {"digits": 3}, {"multiple": 2}, {"min_group": 2}, {"columns": ("epoch",)}):
        found, left = through(supervisor, enforced(**limit), outputs)
        assert found.failure is not None
        assert left == {}
