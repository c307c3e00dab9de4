"""Messages between supervisor, zygote and child; the child's report is hostile."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.sandbox.output import Cut
from mesatee.enclave.sandbox.protocol import (
    CHILD_FAILURES,
    COMMAND_BYTES,
    KILL,
    LAYERS,
    NEXT,
    Exit,
    Failure,
    Job,
    Limits,
    OutputSpec,
    Refused,
    Report,
    Spare,
    command,
    last_line,
    parse_answer,
    parse_command,
    parse_report,
    ready_line,
    refused_line,
)
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

READY = ready_line(["seccomp"])


def test_a_report_in_three_stages():
    assert parse_report(b"") == Report()
    assert parse_report(READY) == Report(("seccomp",))
    assert parse_report(READY + last_line(None, ["out"])) == Report(("seccomp",), outputs=("out",))
    assert parse_report(READY + last_line("bad_input", [])).failure == "bad_input"
    used = parse_report(READY + last_line(None, [], 1.5, 7))
    assert (used.cpu_seconds, used.max_rss_bytes) == (1.5, 7)
    assert parse_report(refused_line("no\x1bway")).refused == "no?way"


@pytest.mark.parametrize(
    "report",
    [
        b"garbage\n",
        b"{}\n",
        READY[:-1],
        READY * 2,
        READY + last_line(None, ["out"]) + b"\n",
        READY + last_line(None, ["out"]) * 2,
        READY + refused_line("late"),
        refused_line("x") + last_line(None, []),
        READY + b'{"failure":"cancelled","outputs":[],"cpu":0,"rss":0}\n',
        READY + b'{"failure":["function_raised"],"outputs":[],"cpu":0,"rss":0}\n',
        READY + b'{"failure":null,"failure":null,"outputs":[],"cpu":0,"rss":0}\n',
        READY + b'{"failure":null,"outputs":[1],"cpu":0,"rss":0}\n',
        READY + b'{"failure":null,"outputs":["../x"],"cpu":0,"rss":0}\n',
        READY + b'{"failure":null,"outputs":{},"cpu":0,"rss":0}\n',
        READY + b'{"failure":NaN,"outputs":[],"cpu":0,"rss":0}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":0,"rss":0,"text":"leak"}\n',
        READY + b'{"failure":null,"outputs":[]}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":-0.1,"rss":0}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":1e999,"rss":0}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":true,"rss":0}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":0,"rss":0.5}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":0,"rss":-1}\n',
        READY + b'{"failure":null,"outputs":[],"cpu":' + b"9" * 400 + b',"rss":0}\n',
        READY + b"[" * 30_000 + b"\n",
        b"\xff\n",
        b'{"refused":1}\n',
        b'{"refused":"' + b"x" * 301 + b'"}\n',
        ready_line(["l"] * (LAYERS + 1)),
    ],
)
def test_other_reports_are_malformed(report):
    with pytest.raises(InputError):
        parse_report(report)


def test_report_size_one_above_and_one_below():
    room = limits.CHILD_REPORT_BYTES - len(READY)
    padded = last_line(None, ["out"])[:-1]
    assert parse_report(READY + padded + b" " * (room - len(padded) - 1) + b"\n").outputs == ("out",)
    with pytest.raises(TooLarge):
        parse_report(READY + padded + b" " * (room - len(padded)) + b"\n")


@given(st.binary(max_size=300))
def test_random_reports_raise_only_our_errors(data):
    for report in (data, READY + data, READY + data + b"\n"):
        try:
            parse_report(report)
        except InputError:
            continue


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_in_place_of_a_line_raises_only_our_errors(value):
    line = json.dumps(value).encode() + b"\n"
    for report in (line, READY + line):
        try:
            parse_report(report)
        except InputError:
            continue


names = st.text("abcdefgh_", min_size=1, max_size=12)
jobs = st.builds(
    Job,
    executor=st.sampled_from(["builtin", "python"]),
    entry=names,
    args=st.dictionaries(names, json_values, max_size=3),
    inputs=st.dictionaries(names, st.sampled_from(["csv", "parquet", "arrow", "bytes", "json"]), max_size=4),
    outputs=st.dictionaries(
        names,
        st.builds(OutputSpec, st.sampled_from(["csv", "json"]), st.none() | st.integers(1, 2**36)),
        max_size=4,
    ),
    require=st.frozensets(names, max_size=3),
)


@given(jobs)
def test_a_job_comes_back_as_it_was(job):
    again = Job.decode(job.encode())
    assert again == job
    assert list(again.inputs) == list(job.inputs)


@given(st.binary(max_size=200))
def test_random_jobs_answers_and_commands_raise_only_our_errors(data):
    for parse in (Job.decode, parse_answer, parse_command):
        try:
            parse(data)
        except InputError:
            continue


@pytest.mark.parametrize("answer", [Spare(7), Exit(7, 137, 0.5, 2**20), Refused("why")])
def test_answers_of_the_zygote_come_back_as_they_were(answer):
    assert parse_answer(answer.encode()) == answer


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"spare": -1},
        {"spare": True},
        {"spare": 1, "refused": "x"},
        {"refused": 1},
        {"refused": "x" * 301},
        {"child": 1, "status": 0, "cpu": 0.0},
        {"child": 1, "status": 256, "cpu": 0.0, "rss": 0},
        {"child": 1, "status": 0, "cpu": "0", "rss": 0},
        {"child": "1", "status": 0, "cpu": 0.0, "rss": 0},
        {"child": 1, "status": 0, "cpu": 0.0, "rss": 0, "more": 0},
    ],
)
def test_other_answers_are_refused(answer):
    with pytest.raises(Malformed):
        parse_answer(json.dumps(answer).encode())


def test_commands():
    for word in (NEXT, KILL):
        assert parse_command(command(word, 12)) == (word, 12)
    for message in (b"", b"next", b"kill ", b"kill -1", b"kill x", b"stop 1", b"next 1 2", b"next \xb2"):
        with pytest.raises(Malformed):
            parse_command(message)
    longest = b"kill " + b"1" * (COMMAND_BYTES - 5)
    assert parse_command(longest)[0] == KILL
    with pytest.raises(TooLarge):
        parse_command(longest + b"1")


@pytest.mark.parametrize("name", ["executor", "entry", "args", "inputs", "outputs", "limits", "require"])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [[1]], {"a": 1}])
def test_a_job_with_one_field_of_another_kind(name, value):
    fields = json.loads(
        Job("builtin", "echo", inputs={"a": "csv"}, outputs={"b": OutputSpec("csv")}).encode()
    )
    if (name, value) in [
        ("entry", "x"),
        ("args", {}),
        ("args", {"a": 1}),
        ("inputs", []),
        ("outputs", []),
        ("require", []),
    ]:
        return
    with pytest.raises(InputError):
        Job.decode(json.dumps({**fields, name: value}).encode())


def test_limits_one_above_and_one_below():
    Limits(seconds=limits.RUN_SECONDS)
    Limits(threads=256, memory_bytes=limits.MIB, output_bytes=limits.BLOB_BYTES)
    for bad in (
        {"seconds": limits.RUN_SECONDS + 1},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"threads": 257},
        {"threads": 0},
        {"threads": True},
        {"memory_bytes": limits.MIB - 1},
        {"output_bytes": limits.BLOB_BYTES + 1},
        {"cpu_seconds": 0},
        {"cpu_seconds": 1.5},
    ):
        with pytest.raises(Malformed):
            Limits(**bad)


def test_job_bounds_one_above_and_one_below():
    Job("python", "f", code=bytes(limits.CODE_BYTES), inputs={f"i{n}": "csv" for n in range(limits.INPUTS)})
    with pytest.raises(TooLarge):
        Job("python", "f", code=bytes(limits.CODE_BYTES + 1))
    with pytest.raises(TooLarge):
        Job("python", "f", inputs={f"i{n}": "csv" for n in range(limits.INPUTS + 1)})
    overhead = len(b'{"a":""}')
    Job("python", "f", args={"a": "x" * (limits.ARGUMENTS_BYTES - overhead)})
    with pytest.raises(TooLarge):
        Job("python", "f", args={"a": "x" * (limits.ARGUMENTS_BYTES - overhead + 1)})


def test_the_largest_job_fits_its_message():
    long = "n" * (limits.NAME_CHARS - 2)
    job = Job(
        "python",
        long,
        args={"a": "x" * (limits.ARGUMENTS_BYTES - 8)},
        inputs={f"{long}{n:02}": "parquet" for n in range(limits.INPUTS)},
        outputs={f"{long}{n:02}": OutputSpec("parquet", limits.BLOB_BYTES) for n in range(limits.INPUTS)},
    )
    assert Job.decode(job.encode()) == job
    with pytest.raises(TooLarge):
        Job("python", "f", require=frozenset(f"layer_{n}" for n in range(limits.JOB_BYTES // 8))).encode()


@pytest.mark.parametrize(
    "bad",
    [
        {"outputs": {"diagnostics": OutputSpec("bytes")}},
        {"inputs": {"a b": "csv"}},
        {"args": {"a": float("nan")}},
        {"args": {"a": b"x"}},
    ],
)
def test_what_a_job_may_not_name(bad):
    with pytest.raises(Malformed):
        Job("python", "f", **bad)


def test_changing_the_dictionary_later_changes_no_job():
    args = {"a": 1}
    job = Job("python", "f", args=args)
    args["a"] = 2
    assert job.args["a"] == 1


def test_child_failures_are_in_the_closed_list():
    assert CHILD_FAILURES.issubset(get_args(Failure))
    assert "cancelled" not in CHILD_FAILURES
    assert "crashed" not in CHILD_FAILURES


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(100, 1000))
def test_cut_keeps_both_ends_within_the_limit(pieces, limit):
    cut = Cut(limit)
    for piece in pieces:
        cut.add(piece)
    whole, kept = b"".join(pieces), cut.value()
    assert len(kept) <= limit
    if len(whole) <= (limit - Cut.NOTE_BYTES):
        assert kept == whole
    else:
        assert b"bytes left out" in kept
        assert whole.startswith(kept[: (limit - Cut.NOTE_BYTES) // 2])
        assert whole.endswith(kept[-((limit - Cut.NOTE_BYTES) // 4) :])
