"""From the fork to the function: the outer child makes namespaces, the inner one locks itself in, waits for
its only job and runs it.

The outer child runs no foreign code; it waits for the inner one, which is process 1 of its own PID namespace.
Everything that does not depend on the job is done before it comes, because nobody waits for it then.
"""

from __future__ import annotations

import dataclasses
import linecache
import mmap
import os
import random
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mesatee import _core, function
from mesatee.enclave import functions
from mesatee.enclave.sandbox import engine, environment
from mesatee.enclave.sandbox.executors import EXECUTORS, execute, flush, mesapy, wasm
from mesatee.enclave.sandbox.executors.python import FILE, MODULE
from mesatee.enclave.sandbox.protocol import (
    COMPILES,
    GO,
    LOADED,
    Failure,
    Job,
    OutputSpec,
    SpareKind,
    last_line,
    ready_line,
    refused_line,
    spare_kind,
)
from mesatee.errors import InputError, Malformed, MesateeError
from mesatee.protocol import limits

_SEED_BYTES: Final = 32
_ARROW_THREADS: Final = 2
"""Arrow has one helper when it reads in the caller's thread, and two beside its pool."""
_POLARS_THREADS: Final = 1
"""Polars computes in a thread of its own, also where the function may have one only."""
_STREAMS: Final = 3
"""Descriptors 0, 1 and 2."""
_FIXED_FDS: Final = 5
"""A job's first descriptors: stdout and stderr, the report, the code, the attestation, the compiled code."""
_MOST_FDS: Final = _FIXED_FDS + 2 * limits.INPUTS + 1
_REPORT_INDEX: Final = 1
_LINGER_SECONDS: Final = 0.2
"""A child with a loaded model ends so much later than its last word, and is killed before as a rule: to take it down
keeps a processor busy, which whoever waits for its outputs needs."""
_WARM: Final = Job(
    "python",
    "warm",
    code=(
        b"import numpy as np\n"
        b"def warm(*, count: int = 8) -> dict:\n"
        b"    assert np.ones(count).sum() == count\n"
        b"    return {'count': count}\n"
    ),
    outputs={"result": OutputSpec("json")},
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """A job and its descriptors."""

    job: Job
    stdio: int
    report: int
    code: int
    attestation: int
    compiled: int
    inputs: dict[str, int]
    outputs: dict[str, int]
    scratch: int | None
    go: int | None
    """Where a child that loads its model ahead waits for its word."""
    maps: int
    """Tells where its memory is."""


def outer(jobs: int, base_paths: list[str], kind: SpareKind, environments: str | None = None) -> int:
    """Enter the namespaces, fork the inner child, wait for it; returns its code, or 128 and its signal.

    `jobs` is the socket from which the one job comes; no other descriptor of the zygote is kept. Of the folder
    `environments` the job's own stays readable once it is known.
    """
    read_paths = base_paths if environments is None else [*base_paths, environments]
    os.setpgid(0, 0)
    try:
        # The zygote's is one open file for all of its children: what a function does to its flags or its
        # offset would be seen by the next one. Descriptors 1 and 2 are those of the job before any foreign
        # code runs.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(1, 2)
        os.closerange(_STREAMS, jobs)
        os.closerange(jobs + 1, os.sysconf("SC_OPEN_MAX"))
        space = _address_space()
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        layers, late = _core.enter_namespaces(read_paths, function.FILE)
        alive, held = os.pipe()
        pid = os.fork()
    except (MesateeError, OSError) as error:
        return _refuse(jobs, f"namespaces: {error}")
    if pid == 0:
        code = 1
        try:
            os.close(held)
            code = inner(jobs, base_paths, kind, environments, layers, space, alive, late, proc)
        finally:
            # Never back into the code of the outer child.
            os._exit(code)
    for fd in (alive, jobs, proc, *_present(late)):
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def inner(
    jobs: int,
    base_paths: list[str],
    kind: SpareKind,
    environments: str | None,
    layers: list[str],
    space: int,
    alive: int,
    late: int | None,
    proc: int,
) -> int:
    """Lock this process in as far as possible, take one job, lock it in for good, run the job, report.

    1. A clean environment, and the part of the sandbox that no job can change.
    2. Leave if the outer child went away before our parent-death signal was set.
    3. Touch the memory that a run uses.
    4. Wait for the job, which is one of this kind; no job comes when the supervisor goes.
    5. Fresh seeds, the file that says where it runs, its environment, its limits, seccomp; the descriptors of
       this job are the only ones that stay.
    6. Refuse when a required layer is missing.
    7. Load the model ahead, and wait, if that is what the job says.
    8. Run, report.

    `late` is the descriptor that fills `function.FILE` in the private root; None without one. `proc` is the folder of
    processes outside, of which only one file of this process is kept.
    """
    # 1.
    os.environ.clear()
    try:
        maps = os.open("self/maps", os.O_RDONLY, dir_fd=proc)
        os.close(proc)
        # Without a private root the machine's own file of this name is none of the function's business.
        readable = base_paths if late is None else [*base_paths, function.FILE]
        kept = [*range(_STREAMS), jobs, alive, maps, *_present(late)]
        layers += _core.prepare_sandbox([*readable, environments] if environments else readable, kept)
    except (MesateeError, OSError) as error:
        return _refuse(jobs, f"sandbox: {error}")
    # 2.
    if select.select([alive], [], [], 0)[0]:
        return 1
    # 3.
    warm_up(kind)
    _seed()
    # 4.
    task = _take(jobs, kind, maps)
    if task is None:
        return 1
    # 5.
    _seed()
    try:
        where = _read_whole(task.attestation, limits.ATTESTATION_BYTES)
        if late is not None:
            _fill(late, where)
        environment.enter(task.job.environment, environments, readable)
        layers += _lock_in(task, space)
    except (MesateeError, OSError) as error:
        _say(task.report, refused_line(f"sandbox: {error}"))
        return 1
    # 6.
    missing = task.job.require - set(layers)
    if missing:
        _say(task.report, refused_line(f"missing isolation layers: {', '.join(sorted(missing))}"))
        return 1
    _say(task.report, ready_line(layers))
    source = _read_whole(task.code, limits.CODE_BYTES)
    compiled = _read_whole(task.compiled, limits.COMPILED_BYTES)
    job = dataclasses.replace(task.job, code=source, attestation=where, compiled=compiled)
    if task.scratch is not None:
        functions.give_scratch(task.scratch, job.scratch_bytes, job.limits.memory_bytes)
    # 7.
    if task.go is not None and not _wait_warm(task, task.go):
        return 1
    # 8.
    failure = _run(job, task.inputs, task.outputs)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu, rss = used.ru_utime + used.ru_stime, used.ru_maxrss * limits.KIB
    _say(task.report, last_line(failure, () if failure else task.outputs, cpu, rss))
    if task.go is not None:
        time.sleep(_LINGER_SECONDS)
    return 0


def warm_up(kind: SpareKind) -> None:
    """Run a function of our own in the way of any other of this kind, and leave nothing of it.

    A forked process pays for each page that it writes first; now is the time. Starts no thread.
    """
    ready_line(_WARM.inputs)
    last_line(None, _WARM.outputs)
    if kind == "wasm":
        wasm.warm_up()
        return
    result = _core.memfd("warm")
    job = dataclasses.replace(Job.decode(_WARM.encode()), code=_WARM.code)
    execute(job, EXECUTORS["python"], {}, {"result": result})
    os.close(result)
    sys.modules.pop(MODULE, None)
    linecache.cache.pop(FILE, None)
    # Never wasm: its library leaves a page that is writable and executable, and no child of this kind has one.
    mesapy.warm_up()


def _take(jobs: int, kind: SpareKind, maps: int) -> _Task | None:
    """The one job; None when there is none, or one that makes no sense, which is refused."""
    with socket.socket(fileno=jobs) as source:
        message, fds, flags, _ = socket.recv_fds(source, limits.JOB_BYTES, _MOST_FDS)
        go = os.dup(jobs)
    if not message:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("the job is cut off")
        job = Job.decode(message)
        if spare_kind(job.executor) != kind:
            raise Malformed(f"{job.executor} does not run in a child of the kind {kind}")
        if not job.warm:
            os.close(go)
        return _task(job, fds, go if job.warm else None, maps)
    except InputError as error:
        if len(fds) > _REPORT_INDEX:
            _say(fds[_REPORT_INDEX], refused_line(f"the job makes no sense: {error.message}"))
        return None


def _task(job: Job, fds: Sequence[int], go: int | None, maps: int) -> _Task:
    first = _FIXED_FDS + len(job.inputs)
    last = first + len(job.outputs)
    if len(fds) != last + bool(job.scratch_bytes):
        raise Malformed("the descriptors are not those of the job")
    stdio, report, code, attestation, compiled = fds[:_FIXED_FDS]
    inputs = dict(zip(job.inputs, fds[_FIXED_FDS:first], strict=True))
    outputs = dict(zip(job.outputs, fds[first:last], strict=True))
    scratch = fds[last] if job.scratch_bytes else None
    return _Task(job, stdio, report, code, attestation, compiled, inputs, outputs, scratch, go, maps)


def _wait_warm(task: _Task, go: int) -> bool:
    """Load the model, say so, wait for the word; False when none comes. All of it is locked in already.

    The word has no descriptor with it: the files of the run are there, and its inputs are filled by now.
    """
    found = functions.find(task.job.entry)
    if found.load_ahead is None:
        return False
    _give_threads(task.job.limits.threads)
    model = task.inputs[task.job.warm]
    with mmap.mmap(model, os.fstat(model).st_size, prot=mmap.PROT_READ) as data, memoryview(data) as view:
        found.load_ahead(view, found.signature.bind(task.job.args))
    # A model is read from end to end by each run.
    _core.collapse_memory(task.maps)
    os.close(task.maps)
    # For the run, as no other code comes between; and now, as nobody waits.
    _seed()
    os.write(go, LOADED)
    word = os.read(go, len(GO) + 1)
    os.close(go)
    return word == GO


def _present(fd: int | None) -> list[int]:
    return [] if fd is None else [fd]


def _read_whole(fd: int, most: int) -> bytes:
    """A small memory file, which is closed."""
    data = os.pread(fd, most, 0)
    os.close(fd)
    return data


def _fill(late: int, data: bytes) -> None:
    """Write the file of the private root, and let go of the only way to write it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(late, rest) :]
    os.close(late)


def _lock_in(task: _Task, space: int) -> list[str]:
    """What depends on the job. Raises `SandboxFailed`."""
    os.dup2(task.stdio, 1)
    os.dup2(task.stdio, 2)
    bounds = task.job.limits
    space += bounds.memory_bytes + sum(os.fstat(fd).st_size for fd in task.inputs.values())
    cpu_seconds = bounds.cpu_seconds
    if task.go is not None:
        # Nothing can be changed any more when the run comes.
        space += limits.WARM_INPUT_BYTES
        cpu_seconds += limits.WARM_CPU_SECONDS
    keep = [
        *range(_STREAMS),
        task.report,
        task.code,
        task.compiled,
        *task.inputs.values(),
        *task.outputs.values(),
        *_present(task.scratch),
        *([] if task.go is None else [task.go, task.maps]),
    ]
    threads = bounds.threads + _ARROW_THREADS + _POLARS_THREADS
    compiled = engine.SPACE_BYTES if task.job.executor in COMPILES else None
    # Outputs are measured by themselves, too.
    file_bytes = max(task.job.file_bytes, task.job.scratch_bytes)
    return _core.enter_sandbox(space, compiled, cpu_seconds, file_bytes, threads, keep)


def _refuse(jobs: int, reason: str) -> int:
    """Without a sandbox: tell whoever sends a job, so that it is not taken for the fault of the function."""
    with socket.socket(fileno=jobs) as source:
        _, fds, _, _ = socket.recv_fds(source, limits.JOB_BYTES, _MOST_FDS)
    if len(fds) > _REPORT_INDEX:
        _say(fds[_REPORT_INDEX], refused_line(reason))
    return 1


def _run(job: Job, inputs: dict[str, int], outputs: dict[str, int]) -> Failure | None:
    _give_threads(job.limits.threads)
    failure = execute(job, EXECUTORS[job.executor], inputs, outputs)
    flush()
    return failure


def _give_threads(threads: int) -> None:
    _allow_threads(threads)
    functions.give_threads(threads)


def _allow_threads(threads: int) -> None:
    """Arrow and polars size their pools by the machine, not by our limit. Nothing to do where it is not loaded."""
    if "pyarrow" not in sys.modules:
        return
    import pyarrow as pa

    arrow = max(1, min(threads - 1, os.cpu_count() or 1))
    pa.set_cpu_count(arrow)
    pa.set_io_thread_count(1)
    # Read when the first query starts the pool. Not by os.environ: the function's environment is empty.
    os.putenv("POLARS_MAX_THREADS", str(max(_POLARS_THREADS, threads - 1 - arrow)))


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
