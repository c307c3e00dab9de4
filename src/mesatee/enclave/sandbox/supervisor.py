"""The worker's side of the sandbox: starts the zygote, hands jobs to it and judges what comes back.

This process loads no numpy and no Arrow: data passes through it as descriptors only.

>>> from mesatee.enclave.sandbox import Job, OutputSpec, Supervisor, sealed_memfd
>>> import os
>>> job = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"copy": OutputSpec("bytes")})
>>> with Supervisor() as supervisor:
...     fd = sealed_memfd("data", b"hello")
...     with supervisor.run(job, {"data": fd}) as outcome:
...         outcome.failure, os.pread(outcome.outputs["copy"].fd, outcome.outputs["copy"].size, 0)
...     os.close(fd)
(None, b'hello')
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mesatee import _core
from mesatee.enclave.sandbox.output import Cut
from mesatee.enclave.sandbox.protocol import Exit, Failure, Job, Report, parse_report
from mesatee.errors import InputError, Malformed, SandboxFailed
from mesatee.protocol import limits

START_SECONDS: Final = 60.0
"""For the zygote's imports, from a cold disk."""
KILL_SECONDS: Final = 1.0
"""After this a zygote that does not report a killed child is killed itself, and its children die with it."""

_CONTROL_FD: Final = 3
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_CPU_SHARE: Final = 0.8
"""RLIMIT_CPU counts clock ticks, the usage is exact: a child killed for it has used about that much."""
_READ_BYTES: Final = 64 * limits.KIB
_ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    # One thread in the zygote: none of the libraries may start any when it is loaded.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # Allocators that reserve address space far ahead would run into RLIMIT_AS.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
}
"""All that the zygote's environment holds; the child clears it."""


class Output(NamedTuple):
    """A sealed memory file, and its size in bytes."""

    fd: int
    size: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time of all threads, largest resident memory, and wall-clock time of a run."""

    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. The caller owns the descriptors in `outputs`; `close` or ``with`` closes them.

    `failure` is None when the function succeeded; only then there are outputs. `diagnostics` is the only
    place where text of the child stands. `layers` are the isolation layers that were active, said before
    foreign code ran.
    """

    failure: Failure | None
    outputs: Mapping[str, Output] = field(default_factory=dict)
    diagnostics: bytes = b""
    layers: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)

    def close(self) -> None:
        """Close the outputs. Once only."""
        for output in self.outputs.values():
            os.close(output.fd)

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sealed_memfd(name: str, data: bytes) -> int:
    """A sealed memory file with `data`; the caller owns the descriptor.

    For small data: a worker streams into one.
    """
    fd = _core.memfd(name)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        _core.memfd_seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Supervisor:
    """Runs one job at a time; a second `run` waits for the first.

    All methods may be called from any thread. `require` names isolation layers without which no foreign
    code is run.
    """

    def __init__(self, *, require: Iterable[str] = (), python: str = sys.executable) -> None:
        self._require = frozenset(require)
        self._python = python
        self._running = threading.Lock()
        self._state = threading.Lock()
        self._zygote: _Zygote | None = None
        self._wake: int | None = None
        self._closed = False

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the zygote, if it is not running. Raises `SandboxFailed`."""
        with self._running:
            self._ready()

    def run(self, job: Job, inputs: Mapping[str, int]) -> Outcome:
        """Run `job` on sealed memory files, which stay the caller's.

        Raises `Malformed` when the inputs are not those of the job or not sealed, and `SandboxFailed` when no
        function ran: the sandbox could not be set up, a required layer is missing, or the zygote died.
        """
        if set(inputs) != set(job.inputs):
            raise Malformed("the inputs are not those that the job names")
        for name, fd in inputs.items():
            _check_sealed(name, fd)
        with self._running, ExitStack() as stack:
            zygote = self._ready()
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, wake)
            with self._state:
                self._wake = wake
            stack.callback(self._no_wake)
            run = _Run(job, zygote, wake, self._require | job.require, stack)
            return run.execute(inputs)

    def cancel(self) -> None:
        """End the run that is going on, within a second; its outcome is `cancelled`.

        Without one, nothing happens.
        """
        with self._state:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Cancel what is running and end the zygote."""
        with self._state:
            self._closed = True
        self.cancel()
        with self._running:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    @property
    def zygote_pid(self) -> int | None:
        """The process id of the zygote, for inventories."""
        return self._zygote.pid if self._zygote is not None else None

    def _no_wake(self) -> None:
        with self._state:
            self._wake = None

    def _ready(self) -> _Zygote:
        with self._state:
            if self._closed:
                raise SandboxFailed("the supervisor is closed")
        if self._zygote is not None and not self._zygote.alive():
            self._zygote.close()
            self._zygote = None
        if self._zygote is None:
            self._zygote = _Zygote(self._python)
        return self._zygote


class _Zygote:
    """The zygote process and the socket to it."""

    def __init__(self, python: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("zygote-stderr")
        self.control = ours
        self._reaped = False
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, errors, 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CONTROL_FD),
            ]
            command = [python, "-I", "-B", "-m", "mesatee.enclave.sandbox.zygote"]
            self.pid = os.posix_spawn(python, command, _ENVIRONMENT, file_actions=actions)
            theirs.close()
            self._await_ready(errors)
        finally:
            theirs.close()
            os.close(errors)

    def _await_ready(self, errors: int) -> None:
        self.control.settimeout(START_SECONDS)
        try:
            answer = self.control.recv(limits.JOB_BYTES)
        except OSError:
            answer = b""
        if answer == b"ready":
            self.control.settimeout(None)
            return
        self.close()
        # Nothing but our own start-up code and the libraries' imports has run: this is no text of a function.
        said = (
            os.pread(errors, limits.DIAGNOSTICS_BYTES, 0)
            .decode("utf-8", "replace")
            .strip()
            .rpartition("\n")[2]
        )
        raise SandboxFailed(f"the zygote did not start: {said or 'no answer'}")

    def alive(self) -> bool:
        """Whether the process is still there; reaps it if not."""
        if not self._reaped:
            self._reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return not self._reaped

    def kill(self) -> None:
        """End it at once; its children die with it."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._reaped = True

    def close(self) -> None:
        """Hang up, and kill it if it does not go by itself."""
        self.control.close()
        end = time.monotonic() + KILL_SECONDS
        while self.alive() and time.monotonic() < end:
            time.sleep(0.005)
        self.kill()


class _Run:
    """One job from its first descriptor to its outcome."""

    def __init__(
        self, job: Job, zygote: _Zygote, wake: int, require: frozenset[str], stack: ExitStack
    ) -> None:
        self._job = job
        self._zygote = zygote
        self._wake = wake
        self._require = require
        self._stack = stack
        self._text = Cut(limits.DIAGNOSTICS_BYTES)
        self._report = bytearray()
        self._stopped: Failure | None = None
        self._exit: Exit | None = None
        self._start = time.monotonic()

    def execute(self, inputs: Mapping[str, int]) -> Outcome:
        """Hand the job over, watch it, judge it."""
        stdio, report, outputs = self._send(inputs)
        try:
            self._watch(stdio, report)
        except BaseException:
            # Interrupted in between, the next run would take this child's end for its own.
            self._zygote.kill()
            raise
        # The child is gone, so that what is left in its pipes is all there will be.
        self._drain_text(stdio)
        self._drain_report(report)
        failure, said = self._judge()
        kept: Mapping[str, Output] = {}
        if failure is None:
            failure, kept = self._take(outputs)
        exit = self._exit or Exit(0, 0.0, 0)
        usage = Usage(exit.cpu_seconds, exit.max_rss_bytes, time.monotonic() - self._start)
        return Outcome(failure, kept, self._text.value(), said.layers, usage)

    # -- before ------------------------------------------------------------------------------------

    def _send(self, inputs: Mapping[str, int]) -> tuple[int, int, dict[str, int]]:
        job = dataclasses.replace(self._job, require=self._require)
        theirs: list[int] = []
        try:
            stdio, stdio_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._own(stdio)
            theirs.append(stdio_end)
            os.set_blocking(stdio_end, True)
            report, report_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._own(report)
            theirs.append(report_end)
            os.set_blocking(report_end, True)
            theirs.append(sealed_memfd("code", job.code))
            outputs = {name: self._own(_core.memfd(name)) for name in job.outputs}
            passed = [*theirs, *(inputs[name] for name in job.inputs), *outputs.values()]
            try:
                socket.send_fds(self._zygote.control, [job.encode()], passed)
            except OSError as error:
                raise SandboxFailed(f"the zygote did not take the job: {error.strerror}") from None
        finally:
            for fd in theirs:
                os.close(fd)
        return stdio, report, outputs

    def _own(self, fd: int) -> int:
        self._stack.callback(_close_quietly, fd)
        return fd

    # -- during ------------------------------------------------------------------------------------

    def _watch(self, stdio: int, report: int) -> None:
        """Until the zygote says that the child is gone; kills it at the deadline, on cancel, and for a
        flooded report.

        Raises `SandboxFailed` if the zygote dies or does not obey.
        """
        control = self._zygote.control.fileno()
        poll = select.poll()
        for fd in (stdio, report, control, self._wake):
            poll.register(fd, select.POLLIN)
        deadline = self._start + self._job.limits.seconds
        while self._exit is None:
            left = deadline - time.monotonic()
            if left <= 0:
                if self._stopped is not None:
                    raise SandboxFailed("the zygote did not end a child in time and was killed")
                deadline = self._stop("out_of_time")
                continue
            for fd, _ in poll.poll(left * 1000):
                if fd == stdio and not self._read_text(fd):
                    poll.unregister(fd)
                elif fd == report and not self._read_report(fd):
                    poll.unregister(fd)
                    if len(self._report) > limits.CHILD_REPORT_BYTES and self._stopped is None:
                        deadline = self._stop("crashed")
                elif fd == self._wake:
                    poll.unregister(fd)
                    if self._stopped is None:
                        deadline = self._stop("cancelled")
                elif fd == control:
                    self._hear()

    def _stop(self, reason: Failure) -> float:
        """Have the child killed; returns until when that must have happened."""
        self._stopped = reason
        with contextlib.suppress(OSError):
            # A dead zygote shows itself by the end of the socket.
            self._zygote.control.send(b"kill")
        return time.monotonic() + KILL_SECONDS

    def _hear(self) -> None:
        try:
            message = self._zygote.control.recv(limits.JOB_BYTES)
        except OSError:
            message = b""
        if not message:
            raise SandboxFailed("the zygote died during a run")
        try:
            self._exit = Exit.decode(message)
        except InputError as error:
            raise SandboxFailed(f"the zygote broke the protocol: {error.message}") from None

    def _read_text(self, fd: int) -> bool:
        """One piece of stdout and stderr; False at the end."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._text.add(data)
        return bool(data)

    def _read_report(self, fd: int) -> bool:
        """One piece of the report; False at the end, and when it is larger than any report."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        self._report += data
        return bool(data) and len(self._report) <= limits.CHILD_REPORT_BYTES

    def _drain_text(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(fd, _READ_BYTES):
                self._text.add(data)

    def _drain_report(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._report) <= limits.CHILD_REPORT_BYTES and (data := os.read(fd, _READ_BYTES)):
                self._report += data

    # -- after -------------------------------------------------------------------------------------

    def _judge(self) -> tuple[Failure | None, Report]:
        """1. What we did to it. 2. What the kernel did to it. 3. What it says of itself.

        Raises `SandboxFailed` when no foreign code ran.
        """
        try:
            said = parse_report(bytes(self._report))
        except InputError:
            said = None
        if said is not None and said.refused is not None:
            raise SandboxFailed(said.refused)
        layers = said or _first_line(bytes(self._report))
        # 1.
        if self._stopped is not None:
            return self._stopped, layers
        # 2.
        assert self._exit is not None  # noqa: S101  # `_watch` ends only so
        killed = self._exit.status - 128
        if (
            killed in (signal.SIGKILL, signal.SIGXCPU)
            and self._exit.cpu_seconds >= _CPU_SHARE * self._job.limits.cpu_seconds
        ):
            return "out_of_cpu", layers
        if killed == signal.SIGXFSZ:
            return "output_too_large", layers
        # 3.
        if self._exit.status != 0 or said is None or said.outputs is None:
            return "crashed", layers
        if said.failure is None and set(said.outputs) != set(self._job.outputs):
            return "crashed", layers
        return said.failure, layers

    def _take(self, outputs: Mapping[str, int]) -> tuple[Failure | None, Mapping[str, Output]]:
        """Seal each output and measure it ourselves; the child's word counts for nothing here."""
        total = 0
        kept: dict[str, Output] = {}
        for name, fd in outputs.items():
            try:
                _core.memfd_seal(fd)
            except SandboxFailed:
                # Something still holds it writable, which nothing of a child that is gone should.
                return "crashed", {}
            size = os.fstat(fd).st_size
            total += size
            most = self._job.outputs[name].max_bytes or self._job.limits.output_bytes
            if size > most or total > self._job.limits.output_bytes:
                return "output_too_large", {}
            kept[name] = Output(fd, size)
        # The caller gets descriptors of its own; ours are closed with the rest of the run.
        return None, {name: Output(os.dup(output.fd), output.size) for name, output in kept.items()}


def _first_line(report: bytes) -> Report:
    """The layers of a report whose end is garbage: its first line was written before foreign code ran."""
    try:
        return parse_report(report.partition(b"\n")[0] + b"\n")
    except InputError:
        return Report()


def _check_sealed(name: str, fd: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise Malformed(f"the input {name} is not a memory file") from None
    if seals & _SEALS != _SEALS:
        raise Malformed(f"the input {name} is not sealed: the child could change it")


def _close_quietly(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


__all__ = ["KILL_SECONDS", "START_SECONDS", "Outcome", "Output", "Supervisor", "Usage", "sealed_memfd"]
