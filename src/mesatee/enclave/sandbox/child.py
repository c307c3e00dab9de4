"""From the fork to the function: the outer child makes namespaces, the inner one locks itself in and runs
the job.

The outer child runs no foreign code; it waits for the inner one, which is process 1 of its own PID namespace.
"""

from __future__ import annotations

import dataclasses
import os
import random
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mesatee import _core
from mesatee.enclave.sandbox.executors import EXECUTORS, execute, flush
from mesatee.enclave.sandbox.protocol import Failure, Job, last_line, ready_line, refused_line
from mesatee.errors import MesateeError
from mesatee.protocol import limits

_SEED_BYTES: Final = 32
_ARROW_THREADS: Final = 2
"""Arrow has one helper when it reads in the caller's thread, and two beside its pool."""


def outer(job: Job, fds: Sequence[int], read_paths: list[str]) -> int:
    """Enter the namespaces, fork the inner child, wait for it; returns its code, or 128 and its signal."""
    stdio, report = fds[:2]
    try:
        space = _address_space() + job.limits.memory_bytes
        layers = _core.enter_namespaces(read_paths)
        alive, held = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(held)
                code = inner(job, fds, read_paths, layers, space, alive)
            finally:
                # Never back into the code of the outer child.
                os._exit(code)
        os.close(alive)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
    except (MesateeError, OSError) as error:
        _say(report, refused_line(f"namespaces: {error}"))
        os.close(stdio)
        return 1
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def inner(
    job: Job, fds: Sequence[int], read_paths: list[str], layers: list[str], space: int, alive: int
) -> int:
    """Lock this process in, say so, run the function and report.

    1. Standard streams, a clean environment, fresh seeds.
    2. The sandbox; the descriptors of this job are the only ones that stay.
    3. Leave if the outer child went away before our parent-death signal was set.
    4. Refuse when a required layer is missing.
    5. Run, report.
    """
    stdio, report, code = fds[:3]
    inputs = dict(zip(job.inputs, fds[3 : 3 + len(job.inputs)], strict=True))
    outputs = dict(zip(job.outputs, fds[3 + len(job.inputs) :], strict=True))
    # 1.
    os.dup2(stdio, 1)
    os.dup2(stdio, 2)
    os.environ.clear()
    _seed()
    space += sum(os.fstat(fd).st_size for fd in inputs.values())
    # 2.
    keep = [0, 1, 2, report, code, alive, *inputs.values(), *outputs.values()]
    bounds = job.limits
    try:
        layers += _core.enter_sandbox(
            read_paths, space, bounds.cpu_seconds, job.file_bytes, bounds.threads + _ARROW_THREADS, keep
        )
    except MesateeError as error:
        _say(report, refused_line(f"sandbox: {error}"))
        return 1
    # 3.
    if select.select([alive], [], [], 0)[0]:
        return 1
    os.close(alive)
    # 4.
    missing = job.require - set(layers)
    if missing:
        _say(report, refused_line(f"missing isolation layers: {', '.join(sorted(missing))}"))
        return 1
    _say(report, ready_line(layers))
    # 5.
    source = os.pread(code, limits.CODE_BYTES, 0)
    os.close(code)
    failure = _run(dataclasses.replace(job, code=source), inputs, outputs)
    _say(report, last_line(failure, () if failure else outputs))
    return 0


def _run(job: Job, inputs: dict[str, int], outputs: dict[str, int]) -> Failure | None:
    _allow_threads(job.limits.threads)
    failure = execute(job, EXECUTORS[job.executor], inputs, outputs)
    flush()
    return failure


def _allow_threads(threads: int) -> None:
    """Arrow sizes its pool by the machine, not by our limit."""
    import pyarrow as pa

    pa.set_cpu_count(max(1, min(threads - 1, os.cpu_count() or 1)))
    pa.set_io_thread_count(1)


def _seed() -> None:
    """All children share the zygote's generators: each starts from seeds of its own."""
    random.seed(os.urandom(_SEED_BYTES))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(list(os.urandom(_SEED_BYTES)))


def _address_space() -> int:
    """The address space of the warm interpreter, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(report: int, line: bytes) -> None:
    try:
        os.write(report, line)
    except OSError:
        # The supervisor has gone, or foreign code closed the descriptor: without a last word the run has
        # crashed.
        return
