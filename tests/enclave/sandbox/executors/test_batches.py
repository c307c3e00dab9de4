"""Inputs and outputs in batches and as views, and inputs that are left out, in real children."""

from __future__ import annotations

import io
import json

import pytest

from mesatee.enclave.sandbox import Limits, OutputSpec
from mesatee.table import FORMATS, Table

ONE_THREAD = Limits(seconds=30, cpu_seconds=15, memory_bytes=256 * 2**20, output_bytes=2**24, threads=1)
JSON = {"result": OutputSpec("json")}
HEAD = "from __future__ import annotations\nfrom mesatee.batches import Batches\nfrom mesatee.table import Table\n"
SUMS = (
    HEAD
    + """
def f(table: Batches) -> dict:
    sums = [sum(part['x'].to_pylist()) for _ in range(2) for part in table]
    return {'parts': len(sums), 'sum': sum(sums), 'columns': table.columns}
"""
)


def encoded(table: Table, format: str) -> bytes:
    target = io.BytesIO()
    table.write(target, format)
    return target.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_a_table_comes_piece_by_piece_with_one_thread(format, run_python):
    table = Table.from_dict({"x": list(range(900_000))})
    result = run_python(SUMS, {"table": (format, encoded(table, format))}, JSON, ONE_THREAD)
    assert result.failure is None, result.text
    found = json.loads(result.outputs["result"])
    assert found["sum"] == 900_000 * 899_999
    assert found["columns"] == ["x"]
    assert found["parts"] > 2


@pytest.mark.parametrize("format", FORMATS)
def test_a_generator_writes_piece_by_piece(format, run_python):
    code = HEAD + "def f(table: Batches) -> Batches:\n    for part in table:\n        yield part\n"
    table = Table.from_dict({"x": list(range(200_000))})
    given = {"table": ("arrow", encoded(table, "arrow"))}
    result = run_python(code, given, {"result": OutputSpec(format)}, ONE_THREAD)
    assert result.failure is None, result.text
    assert Table.read(result.outputs["result"], format).to_arrow().equals(table.to_arrow())


def test_a_list_of_tables_is_written_too_and_beside_other_outputs(run_python):
    code = (
        HEAD + "from typing import NamedTuple\n"
        "class Two(NamedTuple):\n    rows: Batches\n    count: dict\n"
        "def f() -> Two:\n"
        "    return Two([Table.from_dict({'x': [1]}), Table.from_dict({'x': [2]})], {'parts': 2})\n"
    )
    result = run_python(code, None, {"rows": OutputSpec("csv"), "count": OutputSpec("json")})
    assert result.outputs == {"rows": b'"x"\n1\n2\n', "count": b'{"parts":2}'}, result.text


@pytest.mark.parametrize(
    ("body", "failure", "said"),
    [
        ("yield Table.from_dict({'x': [1]})\n    raise ValueError('later')", "function_raised", "later"),
        (
            "yield Table.from_dict({'x': [1]})\n    yield Table.from_dict({'y': [1]})",
            "wrong_output",
            "y: int64",
        ),
        ("yield 5", "wrong_output", "TypeError"),
        ("return []", "wrong_output", "no batch"),
        ("return 5", "wrong_output", "not iterable"),
        ("while True:\n        yield Table.from_dict({'x': [0] * 100_000})", "output_too_large", "larger"),
    ],
)
def test_batches_that_are_wrong(body, failure, said, run_python):
    code = HEAD + f"def f() -> Batches:\n    {body}\n"
    result = run_python(code, None, {"result": OutputSpec("csv")})
    assert result.failure == failure
    assert said in result.text


def test_batches_are_a_table(run_python):
    code = HEAD + "def f() -> Batches:\n    return [Table.from_dict({'x': [1]})]\n"
    assert run_python(code, None, {"result": OutputSpec("json")}).failure == "wrong_output"
    result = run_python(SUMS, {"table": ("json", b"[]")}, JSON)
    assert (result.failure, result.outputs) == ("bad_input", {})


def test_an_input_that_is_broken_late_is_a_bad_input(run_python):
    data = b"x\n" + b"1\n" * 3_000_000 + b"1,2\n"
    assert run_python(SUMS, {"table": ("csv", data)}, JSON).failure == "bad_input"


def test_a_view_is_the_file_itself(run_python):
    code = (
        "def f(data: memoryview) -> memoryview:\n"
        "    assert isinstance(data, memoryview) and data.readonly\n"
        "    return data[1:3]\n"
    )
    assert run_python(code, {"data": ("csv", b"abcd")}).outputs == {"result": b"bc"}
    assert run_python(code, {"data": ("bytes", b"")}).outputs == {"result": b""}


OPTIONAL = (
    HEAD
    + "from typing import Optional\n"
    + "def f(left: Table, right: Table | None, more: Optional[bytes] = None) -> dict:\n"
    + "    return {'left': len(left), 'right': right and len(right), 'more': more and len(more)}\n"
)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("left",), {"left": 1, "right": None, "more": None}),
        (("left", "right"), {"left": 1, "right": 1, "more": None}),
        (("left", "more"), {"left": 1, "right": None, "more": 4}),
        (("left", "right", "more"), {"left": 1, "right": 1, "more": 4}),
    ],
)
def test_an_input_that_is_left_out_is_none(given, found, run_python):
    result = run_python(OPTIONAL, dict.fromkeys(given, ("csv", b"x\n1\n")), JSON)
    assert result.failure is None, result.text
    assert json.loads(result.outputs["result"]) == found


@pytest.mark.parametrize("given", [(), ("right",), ("left", "other")])
def test_what_is_needed_must_be_there_and_nothing_unknown(given, run_python):
    result = run_python(OPTIONAL, dict.fromkeys(given, ("csv", b"x\n1\n")), JSON)
    assert result.failure == "bad_input"
    assert "may do without more, right" in result.text
