"""Built-in functions in real children."""

from __future__ import annotations

import os

import pytest

from mesatee.enclave.sandbox import OutputSpec

LEFT, RIGHT = b"id,x\n1,a\n2,b\n3,c\n", b"id,y\n2,p\n3,q\n4,r\n"
BOTH = {"left": ("csv", LEFT), "right": ("csv", RIGHT)}


@pytest.mark.parametrize("format", ["bytes", "csv", "parquet", "arrow", "json"])
def test_echo_of_any_format_is_byte_identical(run_builtin, format):
    data = os.urandom(100_000)
    result = run_builtin("echo", {"data": (format, data)}, OutputSpec(format))
    assert (result.failure, result.outputs["result"]) == (None, data)


def test_echo_of_nothing(run_builtin):
    assert run_builtin("echo", {"data": ("bytes", b"")}, OutputSpec("bytes")).outputs["result"] == b""


def test_psi(run_builtin):
    result = run_builtin("psi", BOTH, OutputSpec("csv"), key="id")
    assert result.failure is None, result.text
    assert result.outputs["result"] == b'"id"\n2\n3\n'
    assert "left: 3 rows, 0 with nulls, 3 distinct keys" in result.text


@pytest.mark.parametrize(
    ("name", "inputs", "args", "failure"),
    [
        ("psi", BOTH, {"key": "no"}, "bad_input"),
        ("psi", {**BOTH, "right": ("csv", b"id\nx\n")}, {"key": "id"}, "bad_input"),
        ("psi", {**BOTH, "right": ("parquet", b"PAR1")}, {"key": "id"}, "bad_input"),
        ("psi", BOTH, {"key": 1}, "bad_argument"),
        ("psi", BOTH, {}, "bad_argument"),
        ("psi", BOTH, {"key": "id", "unknown": 1}, "bad_argument"),
        ("nothing", BOTH, {}, "bad_argument"),
        ("describe", BOTH, {"columns": "x"}, "bad_input"),
        ("t_test", {"a": ("csv", LEFT)}, {"column": "x", "kind": "one-sample"}, "bad_input"),
        ("histogram", BOTH, {}, "bad_argument"),
    ],
)
def test_failures(run_builtin, name, inputs, args, failure):
    result = run_builtin(name, inputs, OutputSpec("csv"), **args)
    assert result.failure == failure
    assert "mesatee" in result.text


def test_psi_of_many_rows_uses_no_more_threads_than_the_sandbox_gives(run_builtin):
    rows = b"id\n" + b"".join(b"%d\n" % number for number in range(70_000))
    result = run_builtin(
        "psi",
        {"left": ("csv", rows), "right": ("csv", rows)},
        OutputSpec("csv"),
        key="id",
        mode="cardinality",
    )
    assert result.outputs["result"] == b'"cardinality"\n70000\n'
