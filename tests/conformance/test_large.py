"""An input of 200 MB in a run that may use 256 MiB: by every executor in the way that it has for that.

The suite's case `large_input` gives every executor 512 MiB and has it give such an input back.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pytest
from tests.support.cases import contract, module

from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.protocol import limits
from mesatee.table import Table

ROWS = 25_000_000
FRUGAL = Limits(
    seconds=120, cpu_seconds=60, memory_bytes=256 * limits.MIB, output_bytes=256 * limits.MIB, threads=1
)
HEAD = "from __future__ import annotations\nfrom mesatee.batches import Batches\nfrom mesatee.table import Table\n"
BATCHES = (
    HEAD
    + "import pyarrow.compute as pc\n"
    + "def f(data: Batches) -> bytes:\n"
    + "    return str(sum(pc.sum(part.to_arrow()['x']).as_py() for part in data)).encode()\n"
)
COPY = HEAD + "def f(data: Batches) -> Batches:\n    yield from data\n"
VIEW = (
    "import numpy as np\n"
    "def f(data: memoryview) -> bytes:\n"
    "    words = np.frombuffer(data[: len(data) // 8 * 8], dtype=np.int64)\n"
    "    return str(int((words >= 0).size * 8 + len(data) % 8)).encode()\n"
)
WHOLE = "def f(data: bytes) -> bytes:\n    return str(len(data)).encode()\n"
HOLDS_THREE = "def f(data: bytes) -> bytes:\n    return b''.join([data, data + b'x'])\n"


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[int, int]]:
    """A sealed memory file with an Arrow table of 200 MB, and its size."""
    sink = io.BytesIO()
    chunk = pa.table({"x": pa.array(range(ROWS // 100), pa.int64())})
    Table(pa.concat_tables([chunk] * 100)).write(sink, "arrow")
    data = sink.getvalue()
    fd = sealed_memfd("data", data)
    yield fd, len(data)
    os.close(fd)


def ended(
    supervisor: Supervisor,
    executor: str,
    code: bytes,
    entry: str,
    fd: int,
    output: str,
    format: str = "bytes",
) -> tuple[str | None, int, bytes, Mapping[str, int], str]:
    """Failure, size and first bytes of the output, and what the run used."""
    job = Job(
        executor,
        entry,
        code=code,
        inputs={"data": format},
        outputs={"result": OutputSpec(output)},
        limits=FRUGAL,
    )
    with supervisor.run(job, {"data": fd}) as outcome:
        found = outcome.outputs.get("result")
        size = found.size if found else 0
        first = os.pread(found.fd, 64, 0) if found else b""
        text = outcome.diagnostics.decode("utf-8", "replace")
        return outcome.failure, size, first, {"rss": outcome.usage.max_rss_bytes}, text


def test_it_is_as_large_as_said(large):
    assert large[1] >= 200_000_000


def test_python_goes_through_it_in_batches(supervisor, large):
    failure, _, first, _, text = ended(
        supervisor, "python", BATCHES.encode(), "f", large[0], "bytes", "arrow"
    )
    assert failure is None, text
    count = ROWS // 100
    assert int(first) == 100 * (count * (count - 1) // 2)


def test_python_gives_it_back_in_batches(supervisor, large):
    failure, size, _, _, text = ended(supervisor, "python", COPY.encode(), "f", large[0], "arrow", "arrow")
    assert failure is None, text
    assert size > 200_000_000


def test_python_looks_at_the_file_itself(supervisor, large):
    failure, _, first, _, text = ended(supervisor, "python", VIEW.encode(), "f", large[0], "bytes")
    assert failure is None, text
    assert int(first) == large[1]


def test_a_builtin_gives_it_back(supervisor, large):
    failure, size, first, _, text = ended(supervisor, "builtin", b"", "echo", large[0], "bytes")
    assert failure is None, text
    assert (size, first) == (large[1], os.pread(large[0], 64, 0))


def test_a_module_reads_it_piece_by_piece(supervisor, large):
    code = module("length", contract("data"))
    failure, _, first, _, text = ended(supervisor, "wasm", code, "_start", large[0], "bytes")
    assert failure is None, text
    assert int(first) == large[1]


@pytest.mark.parametrize(("executor", "code"), [("python", HOLDS_THREE), ("mesapy", WHOLE)])
def test_whoever_takes_all_of_it_at_once_runs_out_of_memory(executor, code, supervisor, large):
    """So the others did not: mesapy has nothing but values, which it copies, and needs twice as much as they take."""
    failure, size, _, _, text = ended(supervisor, executor, code.encode(), "f", large[0], "bytes")
    assert (failure, size) == ("out_of_memory", 0), text
