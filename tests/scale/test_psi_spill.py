"""An intersection of more rows than fit into the memory of its run, from CSV to CSV in a worker's sandbox.

``MESATEE_SPILL_IDS`` says how many ids each side has (100,000,000 need 3 GB of memory for the files, 4 GB of disk and
some minutes); memory of the run is the same for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from mesatee import _core
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor
from mesatee.enclave.sandbox.scratch import needed
from mesatee.protocol import limits

pytestmark = pytest.mark.slow

IDS = int(os.environ.get("MESATEE_SPILL_IDS", "2000000"))
MEMORY_BYTES = 256 * limits.MIB
"""Address space beyond the interpreter and the inputs, which the kernel holds the child to."""
PIECE = 1 << 20
RUN = Limits(seconds=7200, cpu_seconds=7200, memory_bytes=MEMORY_BYTES, output_bytes=4 * limits.GIB)


def ids(numbers: np.ndarray) -> np.ndarray:
    """One to one on 40 bits, so that neighbours are none."""
    return numbers * 0x9E3779B1 % (1 << 40)


def side(first: int) -> Iterator[np.ndarray]:
    """Ids of as many numbers, not in their order: a stride that has no divisor in common with how many there are."""
    stride = next(step for step in range(IDS * 5 // 8, IDS * 2) if np.gcd(step, IDS) == 1)
    for begin in range(0, IDS, PIECE):
        yield ids(first + np.arange(begin, min(begin + PIECE, IDS)) * stride % IDS)


def written(first: int) -> int:
    """A sealed memory file; the caller owns the descriptor."""
    fd = _core.memfd("ids")
    with os.fdopen(os.dup(fd), "wb") as file:
        for number, piece in enumerate(side(first)):
            options = csv.WriteOptions(include_header=number == 0)
            csv.write_csv(pa.table({"id": piece}), file, options)
    _core.memfd_seal(fd)
    return fd


def test_more_ids_than_memory_holds() -> None:
    job = Job(
        "builtin",
        "psi",
        args={"key": "id"},
        inputs={"a": "csv", "b": "csv"},
        outputs={"result": OutputSpec("csv")},
        limits=RUN,
    )
    inputs = {"a": written(0), "b": written(IDS // 2)}
    sizes = {name: os.fstat(fd).st_size for name, fd in inputs.items()}
    assert needed(job, sizes), "so few ids fit into memory"
    begun = time.monotonic()
    with Supervisor() as supervisor, supervisor.run(job, inputs) as outcome:
        print(
            f"\n{IDS} ids a side: {time.monotonic() - begun:.1f} s, {outcome.usage.cpu_seconds:.1f} s of processors, "
            f"{(outcome.usage.max_rss_bytes - sum(sizes.values())) / limits.MIB:.0f} MiB beside the mapped inputs"
        )
        assert outcome.failure is None, outcome.diagnostics
        assert b"scratch file" in outcome.diagnostics
        found = outcome.outputs["result"]
        with os.fdopen(os.dup(found.fd), "rb") as file:
            file.seek(0)
            common = csv.read_csv(file)["id"].to_numpy()
    for fd in inputs.values():
        os.close(fd)
    assert np.array_equal(common, np.sort(ids(np.arange(IDS // 2, IDS))))
