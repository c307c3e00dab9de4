"""One run as the supervisor sees it: from the first descriptor of its job to the outcome.

This process loads no numpy and no Arrow: data passes through it as descriptors only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesatee import _core
from mesatee.enclave.sandbox.compiled import Output
from mesatee.enclave.sandbox.output import Cut
from mesatee.enclave.sandbox.protocol import (
    KILL,
    NEXT,
    Exit,
    Failure,
    Job,
    Report,
    parse_report,
)
from mesatee.enclave.sandbox.scratch import needed, open_in
from mesatee.enclave.sandbox.warm import MODEL, Waiting, Warm
from mesatee.enclave.sandbox.zygote_process import KILL_SECONDS, ZygoteProcess
from mesatee.errors import InputError, SandboxFailed
from mesatee.protocol import limits

SPARE_SECONDS: Final = 20.0
"""After this a zygote that has no child to offer is killed."""

_CPU_SHARE: Final = 0.5
"""RLIMIT_CPU counts clock ticks, the usage is exact: a child ended for it has used about that much. On a machine with
far more to do than it can, ticks have been seen to count a third too much."""
_CPU_GRACE_SECONDS: Final = 1
"""As the sandbox sets it: from SIGXCPU to SIGKILL."""
_END_SECONDS: Final = 20.0
"""After this a zygote that has not ended a child, which may have gigabytes to give back, is killed."""
_READ_BYTES: Final = 64 * limits.KIB
_PIPE_BYTES: Final = limits.MIB
"""As much as the kernel lets a process without privileges put into a pipe."""
_LINES: Final = 2
"""Of a report: the child's layers, and its last word."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time of all threads, largest resident memory, and wall-clock time of a run.

    The first two are what the child read of the kernel for its last word, which a function can forge: nothing depends
    on them. Of a child that did not come to its last word they are what the kernel told the zygote.
    """

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


class Unborn(Exception):
    """The child ended before any foreign code ran, so that another one may take its place."""


class Run:
    """One job from its first descriptor to its outcome."""

    def __init__(
        self,
        job: Job,
        zygote: ZygoteProcess,
        wake: int,
        require: frozenset[str],
        stack: ExitStack,
        start: float,
        scratch: Path | None,
    ) -> None:
        self._scratch = scratch
        self._job = job
        self._zygote = zygote
        self._wake = wake
        self._require = require
        self._stack = stack
        self._text = Cut(limits.DIAGNOSTICS_BYTES)
        self._report = bytearray()
        self._stopped: Failure | None = None
        self._exit: Exit | None = None
        self.child: int | None = None
        self.go: socket.socket | None = None
        self.left = False
        """Whether the child has said its last word, was not waited for, and may still be there. Its outputs are sealed
        against it; `end` must come before another run."""
        self._ports: tuple[int, int, dict[str, int]] = (-1, -1, {})
        self._replaced = False
        self._start = start

    def execute(self, inputs: Mapping[str, int]) -> Outcome:
        """Hand the job over, watch it, judge it. Raises `Unborn` if another child has to be tried."""
        return self._finish(*self._send(inputs))

    def wait_warm(self, warm: Warm, model: int) -> Waiting:
        """Have a child load the model, and wait with it. Raises `SandboxFailed` if there is no child."""
        job = self._job
        self._job = dataclasses.replace(job, warm=MODEL)
        self._start = time.monotonic()
        inputs = {name: self._own(_core.memfd("input")) for name in job.inputs if name != MODEL}
        self._ports = self._send({**inputs, MODEL: model})
        if self.child is None or self.go is None:
            raise SandboxFailed("there was no child to load a model ahead")
        self._replace()
        self._stack.callback(self.go.close)
        return Waiting(job, warm, self, self._zygote, self.go, model, inputs, self._stack.pop_all())

    def resume(self, job: Job, waiting: Waiting, wake: int, start: float) -> Outcome:
        """Go on with the run that the child waited for. Raises `Cold` if it is gone."""
        self._job, self._wake, self._start = job, wake, start
        waiting.go()
        return self._finish(*self._ports)

    def kill(self) -> None:
        """Have the child killed, if there is one."""
        if self.child is not None:
            self._zygote.tell(KILL, self.child)

    def end(self, wake: int | None = None) -> bool:
        """Kill a child that was left before it had ended, and wait until nothing of it is there; False if `wake` says
        that nobody waits any more, and some of it may be."""
        if not self.left:
            return True
        self.kill()
        control = self._zygote.control.fileno()
        waits = [control] if wake is None else [control, wake]
        until = time.monotonic() + _END_SECONDS
        try:
            while self.left and (
                ready := select.select(waits, [], [], max(0.0, until - time.monotonic()))[0]
            ):
                if control not in ready:
                    return False
                exit = self._zygote.hear()
                self.left = exit is None or exit.child != self.child
        except SandboxFailed:
            pass
        if self.left:
            # Its children die with it.
            self._zygote.kill()
            self.left = False
        return True

    def _finish(self, stdio: int, report: int, outputs: dict[str, int]) -> Outcome:
        if self.child is not None:
            try:
                self._watch(stdio, report)
            except BaseException:
                # Interrupted in between: nothing of this run may go on.
                self._zygote.kill()
                raise
            # The child is gone or has said its last word, so that what is left in its pipes is all there will be.
            self._drain_text(stdio)
            if not self.left:
                self._drain_report(report)
            self._replace()
            if not self._report and self._stopped is None:
                raise Unborn
        failure, said = self._judge()
        kept: Mapping[str, Output] = {}
        if failure is None:
            failure, kept = self._take(outputs)
        exit = self._exit or Exit(0, 0, 0.0, 0)
        known = exit if said.outputs is None else said
        usage = Usage(known.cpu_seconds, known.max_rss_bytes, time.monotonic() - self._start)
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
            theirs.append(sealed_memfd("attestation", job.attestation))
            theirs.append(sealed_memfd("compiled", job.compiled))
            # Names of memfds are seen in /proc: they say nothing of the task.
            outputs = {name: self._own(_core.memfd("output")) for name in job.outputs}
            given = [self._own(_reopened(inputs[name])) for name in job.inputs]
            sizes = {name: os.fstat(fd).st_size for name, fd in inputs.items()}
            scratch = open_in(self._scratch) if self._scratch and needed(job, sizes) else None
            last = [] if scratch is None else [self._own(scratch)]
            job = dataclasses.replace(job, scratch_bytes=limits.SCRATCH_BYTES if last else 0)
            self._give(job.encode(), [*theirs, *given, *outputs.values(), *last])
        finally:
            for fd in theirs:
                os.close(fd)
        return stdio, report, outputs

    def _give(self, message: bytes, passed: list[int]) -> None:
        """To the spare, and to no other: nobody else sees the job. When we are stopped before, to none."""
        while (spare := self._await_spare()) is not None:
            child, jobs = spare
            try:
                socket.send_fds(jobs, [message], passed)
                self.child = child
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise SandboxFailed(f"a child did not take the job: {error.strerror}") from None
                # It is gone, which the zygote will say, too.
                self._zygote.tell(NEXT, child)
                continue
            finally:
                if self._job.warm and self.child is not None:
                    self.go, self._zygote.spare = jobs, None
                self._zygote.drop_spare()
            return

    def _await_spare(self) -> tuple[int, socket.socket] | None:
        """The child that waits; None when the run was cancelled or out of time before there was one.

        Raises `SandboxFailed` when the zygote has none to offer, or died.
        """
        control = self._zygote.control.fileno()
        poll = select.poll()
        for fd in (control, self._wake):
            poll.register(fd, select.POLLIN)
        deadline = self._start + self._job.limits.seconds
        patience = time.monotonic() + SPARE_SECONDS
        while True:
            now = time.monotonic()
            left = 0.0 if self._zygote.spare is not None else min(deadline, patience) - now
            ready = {fd for fd, _ in poll.poll(max(0.0, left) * 1000)}
            if self._wake in ready:
                self._stopped = "cancelled"
                return None
            if control in ready:
                # Also when there is a spare: this may say that it is gone.
                self._zygote.hear()
            elif self._zygote.spare is not None:
                return self._zygote.spare
            elif now >= deadline:
                self._stopped = "out_of_time"
                return None
            elif now >= patience:
                self._zygote.kill()
                raise SandboxFailed("the zygote had no child to offer and was killed")

    def _replace(self) -> None:
        """Have the next spare made, once."""
        if not self._replaced and self.child is not None:
            self._replaced = True
            self._zygote.tell(NEXT, self.child)

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
                elif fd == report:
                    more = self._read_report(fd)
                    self._leave()
                    if not more:
                        poll.unregister(fd)
                        if len(self._report) > limits.CHILD_REPORT_BYTES and self._may_stop():
                            deadline = self._stop("crashed")
                elif fd == self._wake:
                    poll.unregister(fd)
                    if self._may_stop():
                        deadline = self._stop("cancelled")
                elif fd == control:
                    exit = self._zygote.hear()
                    if exit is not None and exit.child == self.child:
                        self._exit, self.left = exit, False

    def _leave(self) -> None:
        """Go on without the child once it has said its last word, since the kernel takes long to take one down. What
        it may say after that word counts for nothing."""
        if self._may_stop() and self._report.count(b"\n") >= _LINES:
            self._exit, self.left = Exit(self.child or 0, 0, 0.0, 0), True
            # One with a loaded model lingers, and is killed a little later.
            if self.go is None:
                self.kill()

    def _may_stop(self) -> bool:
        """Whether neither it nor we have ended it."""
        return self._exit is None and self._stopped is None

    def _stop(self, reason: Failure) -> float:
        """Have the child killed; returns until when that must have happened."""
        self._stopped = reason
        assert self.child is not None  # noqa: S101  # there is nothing to watch without one
        self._zygote.tell(KILL, self.child)
        return time.monotonic() + KILL_SECONDS

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
        # The child is locked in and has its function to run: from here on nobody waits for us.
        self._replace()
        return bool(data) and len(self._report) <= limits.CHILD_REPORT_BYTES

    def _drain_text(self, fd: int) -> None:
        """What a child wrote before its last word is in its pipe; one that was left may write on."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PIPE_BYTES // _READ_BYTES + 1):
                data = os.read(fd, _READ_BYTES)
                if not data:
                    return
                self._text.add(data)

    def _drain_report(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._report) <= limits.CHILD_REPORT_BYTES and (data := os.read(fd, _READ_BYTES)):
                self._report += data

    # -- after -------------------------------------------------------------------------------------

    def _judge(self) -> tuple[Failure | None, Report]:
        """1. What we did to it. 2. Its last word, if there is one. 3. What the kernel did to it.

        Raises `SandboxFailed` when no foreign code ran.
        """
        try:
            said = parse_report(_first_lines(bytes(self._report), _LINES))
        except InputError:
            said = None
        if said is not None and said.refused is not None:
            raise SandboxFailed(said.refused)
        layers = said or _layers(bytes(self._report))
        # 1.
        if self._stopped is not None:
            return self._stopped, layers
        # 2.
        if said is not None and said.outputs is not None:
            whole = said.failure is not None or set(said.outputs) == set(self._job.outputs)
            return (said.failure if whole else "crashed"), said
        # 3.
        assert self._exit is not None  # noqa: S101  # `_watch` ends only so
        killed = self._exit.status - 128
        # A child ends by SIGXCPU at its limit, one that took the signal for itself by SIGKILL a little later.
        # SIGKILL alone says nothing: memory may have run out, too.
        grace = {signal.SIGXCPU: 0, signal.SIGKILL: _CPU_GRACE_SECONDS}
        if killed in grace:
            used_up = self._job.limits.cpu_seconds + grace[signal.Signals(killed)]
            if self._exit.cpu_seconds >= _CPU_SHARE * used_up:
                return "out_of_cpu", layers
        if killed == signal.SIGXFSZ:
            return "output_too_large", layers
        return "crashed", layers

    def _take(self, outputs: Mapping[str, int]) -> tuple[Failure | None, Mapping[str, Output]]:
        """Seal each output and measure it ourselves; the child's word counts for nothing here."""
        total = 0
        kept: dict[str, Output] = {}
        for name, fd in outputs.items():
            try:
                self._seal(fd)
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

    def _seal(self, fd: int) -> None:
        """Raises `SandboxFailed` if it is mapped to be written, also after the end of the child."""
        try:
            _core.memfd_seal(fd)
        except SandboxFailed:
            self.end()
            _core.memfd_seal(fd)


def _first_lines(report: bytes, count: int) -> bytes:
    """What a child says after its last word counts for nothing: it is about to be killed."""
    *lines, rest = report.split(b"\n", count)
    return b"".join(line + b"\n" for line in lines) + (rest if len(lines) < count else b"")


def _layers(report: bytes) -> Report:
    """The layers of a report whose end is garbage: its first line was written before foreign code ran."""
    try:
        return parse_report(_first_lines(report, 1))
    except InputError:
        return Report()


def _reopened(fd: int) -> int:
    """The same memory file with an offset and flags of its own, to read only: nobody else sees what the child does
    to them. Raises `SandboxFailed`."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxFailed(f"an input cannot be opened again by /proc/self/fd: {error.strerror}") from None


def _close_quietly(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


__all__ = ["SPARE_SECONDS", "Outcome", "Run", "Unborn", "Usage", "sealed_memfd"]
