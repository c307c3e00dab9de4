"""The small built-in functions in real children."""

from __future__ import annotations

import pytest

from mesatee.enclave.sandbox import OutputSpec

ONE, TWO = b"id,x\n1,a\n3,b\n", b"x,id\nc,2\n"


def test_concat(run_builtin):
    done = run_builtin(
        "concat", {"b": ("bytes", b"2"), "a": ("csv", ONE)}, OutputSpec("bytes"), separator="--"
    )
    assert (done.failure, done.outputs["result"]) == (None, ONE + b"--2"), done.text


def test_concat_rows(run_builtin):
    done = run_builtin("concat_rows", {"b": ("csv", ONE), "a": ("csv", TWO)}, OutputSpec("csv"))
    assert done.failure is None, done.text
    assert done.outputs["result"] == b'"x","id"\n"c",2\n"a",1\n"b",3\n'


def test_word_count(run_builtin):
    done = run_builtin("word_count", {"text": ("bytes", "B á b".encode())}, OutputSpec("csv"))
    assert done.failure is None, done.text
    assert done.outputs["result"] == '"word","count"\n"b",2\n"á",1\n'.encode()


@pytest.mark.parametrize(
    ("name", "inputs", "args"),
    [
        ("concat_rows", {"a": ("csv", ONE), "b": ("csv", b"id\n1\n")}, {}),
        ("word_count", {"text": ("bytes", b"\xff")}, {}),
        ("word_count", {"text": ("bytes", b"a")}, {"least": 0}),
    ],
)
def test_refusals_are_bad_input_and_say_why_in_diagnostics_alone(run_builtin, name, inputs, args):
    done = run_builtin(name, inputs, OutputSpec("csv"), **args)
    assert done.failure == "bad_input"
    assert "Malformed: " in done.text
