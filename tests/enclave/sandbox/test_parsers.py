"""Hostile files for the parsers in the child: the function fails with a closed code, and nothing else happens.

Arrow and pandas are C++ and C: it is the sandbox that is tested here, not they. Files that are flipped, cut, spliced or
made to grow go through `Table`, `Batches` and pandas; whatever the parser does, the run ends with a code that says how,
the supervisor goes on, and the next run is as good as any.
"""

from __future__ import annotations

import io
import json
import random
import struct
from functools import cache

import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet
from tests.enclave.sandbox.conftest import Result

from mesatee.enclave.sandbox import Limits, OutputSpec
from mesatee.protocol import limits
from mesatee.table import FORMATS, Table

BOUNDS = Limits(seconds=20, cpu_seconds=3, memory_bytes=256 * limits.MIB, output_bytes=limits.MIB, threads=1)
CLOSED = {None, "bad_input", "function_raised", "out_of_memory", "out_of_cpu", "out_of_time", "crashed"}
JSON = {"result": OutputSpec("json")}
SEED = 20_261_130
FLIPS = 12
"""Mutations of one file in one run: a run reads them all, one after the other, until one ends it."""
ROUNDS = 6
HEAD = (
    "from mesatee.batches import Batches\nfrom mesatee.table import Table\nimport io\nimport pandas as pd\n"
)
READERS = {
    "table": HEAD
    + "def f(data: Table) -> dict:\n    return {'rows': len(data), 'sum': str(data.to_pandas().shape)}\n",
    "batches": HEAD + "def f(data: Batches) -> dict:\n    return {'rows': sum(len(part) for part in data)}\n",
    "pandas": HEAD
    + "def f(data: memoryview, *, format: str) -> dict:\n"
    + "    reader = {'csv': pd.read_csv, 'parquet': pd.read_parquet, 'arrow': pd.read_feather}[format]\n"
    + "    return {'rows': len(reader(io.BytesIO(data)))}\n",
}
MANY = (
    HEAD
    + """
import random
from pyarrow import parquet

def f(data: memoryview, *, format: str, seed: int, count: int) -> dict:
    chance = random.Random(seed)
    ended = []
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(len(broken))
            match chance.randrange(3):
                case 0:
                    broken[at] ^= 1 << chance.randrange(8)
                case 1:
                    broken[at : at + 4] = chance.choice([b'\\xff\\xff\\xff\\x7f', b'\\xff' * 4, bytes(4)])
                case 2:
                    del broken[at : at + chance.randrange(1, 64)]
        for read in (lambda x: Table.read(x, format), lambda x: list(Batches.read(x, format))):
            try:
                read(bytes(broken))
                ended.append('read')
            except MemoryError:
                raise
            except Exception:
                # Which class Arrow raises is its own affair; what counts is that this process is still here.
                ended.append('refused')
    return {'refused': ended.count('refused'), 'all': len(ended)}
"""
)


def encoded(table: pa.Table, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    if format == "parquet":
        parquet.write_table(table, target, **options)
    elif format == "arrow":
        feather.write_feather(table, target, **options)
    else:
        csv.write_csv(table, target)
    return target.getvalue()


GOOD = pa.table(
    {
        "id": pa.array(range(300), pa.int64()),
        "name": pa.array([f"name {n}" for n in range(300)]),
        "kind": pa.array([["a", "b"][n % 2] for n in range(300)]).dictionary_encode(),
        "list": pa.array([[n, n + 1] for n in range(300)]),
        "when": pa.array([n * 10**9 for n in range(300)], pa.timestamp("ns")),
    }
)
FLAT = GOOD.drop_columns(["list", "kind"])


def good(format: str) -> bytes:
    return encoded(FLAT if format == "csv" else GOOD, format)


def deep(levels: int) -> bytes:
    kind: pa.DataType = pa.int8()
    for _ in range(levels):
        kind = pa.list_(kind)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("x", kind)])):
        pass
    return sink.getvalue()


@cache
def bomb(format: str, compression: str) -> bytes:
    """Little that becomes 768 MiB."""
    zeros = pa.table({"x": pa.array([b"\0" * limits.MIB] * 64, pa.binary())})
    whole = pa.concat_tables([zeros] * 12)
    options = {"use_dictionary": False} if format == "parquet" else {"version": 2}
    return encoded(whole, format, compression=compression, **options)


def footer(said: int) -> bytes:
    """A Parquet file whose footer says that it has this many bytes."""
    data = good("parquet")
    return data[:-8] + struct.pack("<I", said) + data[-4:]


CRAFTED = {
    "nothing": ("parquet", b""),
    "only a magic number": ("parquet", b"PAR1"),
    "two magic numbers": ("parquet", b"PAR1PAR1"),
    "a footer longer than the file": ("parquet", footer(2**31 - 1)),
    "a footer of negative length": ("parquet", footer(2**32 - 1)),
    "a footer of nothing": ("parquet", footer(0)),
    "a parquet file as arrow": ("arrow", good("parquet")),
    "an arrow file as parquet": ("parquet", good("arrow")),
    "an arrow stream without end": ("arrow", b"\xff\xff\xff\xff" + struct.pack("<i", 2**31 - 1)),
    "an arrow stream of negative length": ("arrow", b"\xff\xff\xff\xff" + struct.pack("<i", -5) + bytes(64)),
    "an arrow magic number and nothing": ("arrow", b"ARROW1\0\0" * 2),
    "an arrow schema of sixty levels": ("arrow", deep(60)),
    "a csv of very many columns": ("csv", b",".join(b"c" for _ in range(20_000)) + b"\n"),
    "a csv of one endless field": ("csv", b'x\n"' + b"a" * 9_000_000),
    "a csv of rows of other lengths": ("csv", b"a,b\n1,2\n1,2,3\n1\n"),
    "a csv of NUL": ("csv", b"\0" * 100_000),
    "a csv that is no text": ("csv", bytes(range(256)) * 100),
    "a csv of a huge number": ("csv", b"x\n" + b"9" * 100_000 + b"\n"),
    "a gzip as csv": ("csv", b"\x1f\x8b\x08" + bytes(1000)),
}


def run(run_python, reader: str, format: str, data: bytes) -> Result:
    args = {"format": format} if reader == "pandas" else {}
    return run_python(READERS[reader], {"data": (format, data)}, JSON, BOUNDS, **args)


def check(result: Result, run_python) -> None:
    assert result.failure in CLOSED, result.failure
    assert (result.outputs == {}) == (result.failure is not None)
    assert "seccomp" in result.layers
    after = run(run_python, "table", "csv", b"x\n1\n2\n")
    assert json.loads(after.outputs["result"])["rows"] == 2


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("format", FORMATS)
def test_the_good_file_is_read(format, reader, run_python):
    result = run(run_python, reader, format, good(format))
    assert json.loads(result.outputs["result"])["rows"] == 300, result.text


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_ends_a_run_with_a_code(name, reader, run_python):
    format, data = CRAFTED[name]
    check(run(run_python, reader, format, data), run_python)


@pytest.mark.parametrize("reader", ["table", "pandas"])
@pytest.mark.parametrize(("format", "compression"), [("parquet", "zstd"), ("arrow", "zstd")])
def test_a_bomb_runs_out_of_memory(format, compression, reader, run_python):
    data = bomb(format, compression)
    assert len(data) < limits.MIB
    result = run(run_python, reader, format, data)
    # Arrow says so by an error of its own in places, which is the input's fault or the function's.
    assert result.failure in {"out_of_memory", "bad_input", "function_raised", "crashed"}
    check(result, run_python)


@pytest.mark.parametrize("round", range(ROUNDS))
@pytest.mark.parametrize("format", FORMATS)
def test_flipped_cut_and_spliced_files_end_a_run_with_a_code(format, round, run_python):
    args = {"format": format, "seed": SEED + round, "count": FLIPS}
    result = run_python(MANY, {"data": (format, good(format))}, JSON, BOUNDS, **args)
    if result.failure is None:
        found = json.loads(result.outputs["result"])
        assert found["all"] == 2 * FLIPS
        # Most of Parquet and Arrow is structure: a mutation that nothing notices is rare.
        assert format == "csv" or found["refused"] > 0
    check(result, run_python)


def test_one_flip_at_a_time_as_an_input(run_python):
    """By the contract's own way in, not inside of a function: what is unreadable is `bad_input`."""
    chance, seen = random.Random(SEED), set()
    for format in ("parquet", "arrow"):
        data = good(format)
        for _ in range(10):
            broken = bytearray(data)
            broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            result = run(run_python, chance.choice(["table", "batches"]), format, bytes(broken))
            assert result.failure in CLOSED, result.failure
            seen.add(result.failure)
    assert seen & {"bad_input", "crashed", None}


def test_a_parser_that_crashes_takes_only_its_child_with_it(run_python):
    """As wrong as a parser can be: memory that is not there."""
    code = "import ctypes\ndef f(data: bytes) -> bytes:\n    ctypes.string_at(8)\n    return data\n"
    result = run_python(code, {"data": ("bytes", b"x")})
    assert result.failure == "crashed"
    check(result, run_python)


def test_pickled_metadata_of_pandas_is_not_run(run_python):
    """pandas' own metadata in a Parquet file is JSON; what stands there is read and never obeyed."""
    table = Table(FLAT).to_arrow()
    said = json.dumps(
        {"index_columns": ["__import__('os')._exit(3)"], "columns": [], "pandas_version": "2.0"}
    )
    evil = table.replace_schema_metadata({"pandas": said, "ARROW:schema": "AAAA"})
    check(run(run_python, "pandas", "parquet", encoded(evil, "parquet")), run_python)
