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
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from mesatee.enclave.sandbox.compiled import CompiledCode, Output, compiler
from mesatee.enclave.sandbox.protocol import (
    COMPILED_OUTPUT,
    Job,
    SpareKind,
    spare_kind,
)
from mesatee.enclave.sandbox.run import SPARE_SECONDS, Outcome, Run, Unborn, Usage, sealed_memfd
from mesatee.enclave.sandbox.scratch import FOLDER
from mesatee.enclave.sandbox.warm import MODEL, Background, Shelf, Waiting, Warm, allowed, same
from mesatee.enclave.sandbox.zygote_process import ZygoteProcess
from mesatee.errors import Malformed, SandboxFailed
from mesatee.extras import missing

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_TRIES: Final = 2
"""Children that a run may have: the second one when the first was killed while it waited."""


class Supervisor:
    """Runs one job at a time; a second `run` waits for the first.

    One child is always kept ready, and used for one job only. It is replaced while that job runs; the next job
    waits if it comes sooner. A second one is kept for modules from the first of them on: it comes from a zygote
    of its own, since wasmtime makes memory executable, which no child of another executor has.

    All methods may be called from any thread. `require` names isolation layers without which no foreign
    code is run.
    """

    def __init__(
        self,
        *,
        require: Iterable[str] = (),
        python: str = sys.executable,
        environments: Path | None = None,
        scratch: Path | None = FOLDER,
    ) -> None:
        """`environments`: the folder of those that jobs may name; `scratch`: where jobs whose inputs do not fit into
        memory have a file without a name, if there can be one."""
        self._require = frozenset(require)
        self._python = python
        self._environments = environments
        self._scratch = scratch
        self._running = threading.Lock()
        self._state = threading.Lock()
        self._zygotes: dict[SpareKind, ZygoteProcess] = {}
        self._wake: int | None = None
        self._closed = False
        self._compiled = CompiledCode()
        self.shelf = Shelf()
        self._background = Background()
        self._left: Run | None = None
        """Whose child has said its last word and was not waited for."""

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the general zygote, if it is not running. Raises `SandboxFailed`."""
        with self._running:
            self._ready("general")

    def claim(self, job: Job, warm: Warm, size: int) -> Waiting | None:
        """The child that waits for a run of this job on this model, for `run`, which must follow; None without one.

        `size`: of the inputs beside the model, in bytes. The caller has been given the model's key for this run.
        """
        return self.shelf.take(job, warm, size) if allowed(job) else None

    def run(
        self,
        job: Job,
        inputs: Mapping[str, int],
        warm: Warm | None = None,
        claimed: Waiting | None = None,
    ) -> Outcome:
        """Run `job` on sealed memory files, which stay the caller's.

        With `warm` the model may be loaded ahead for the next run like this one. `claimed` is from `claim`: it has the
        model, the other inputs are in its files, and `inputs` is empty. Raises `Cold` when it is gone.

        Raises `Malformed` when the inputs are not those of the job or not sealed, and `SandboxFailed` when no
        function ran: the sandbox could not be set up, a required layer is missing, or the zygote died.
        """
        if set(inputs) != (set() if claimed else set(job.inputs)):
            raise Malformed("the inputs are not those that the job names")
        for name, fd in inputs.items():
            _check_sealed(name, fd)
        reason = missing(job.executor)
        if reason is not None:
            raise SandboxFailed(reason)
        start = time.monotonic()
        with self._running, ExitStack() as stack:
            wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, wake)
            with self._state:
                self._wake = wake
            stack.callback(self._no_wake)
            # No part of the run's time: the end of the run before, and a zygote that has to be started.
            before = time.monotonic()
            if claimed is not None:
                stack.callback(claimed.stack.close)
            if not self._end_left(wake):
                if claimed is not None:
                    claimed.run.kill()
                return Outcome("cancelled")
            self._ready(spare_kind(job.executor))
            start += time.monotonic() - before
            if claimed is not None:
                self._left = claimed.run
                outcome: Outcome | None = None
                try:
                    outcome = claimed.run.resume(job, claimed, wake, start)
                finally:
                    if warm is None or outcome is None or outcome.failure is not None:
                        claimed.run.kill()
                if warm is not None and outcome.failure is None:
                    self._load_ahead(job, warm, claimed.model)
                return outcome
            self.shelf.spare_memory(job.limits.memory_bytes)
            if job.executor == "wasm":
                compiled = self._compiled.get(job.code)
                if compiled is None:
                    with self._once(compiler(job), {}, wake, start) as outcome:
                        if outcome.failure is not None:
                            return outcome
                        compiled = self._compiled.keep(job.code, outcome.outputs[COMPILED_OUTPUT])
                job = dataclasses.replace(job, compiled=compiled)
            outcome = self._once(job, inputs, wake, start)
            if warm is not None and warm.seconds and outcome.failure is None and allowed(job):
                self._load_ahead(job, warm, inputs[MODEL])
            return outcome

    def _end_left(self, wake: int | None = None) -> bool:
        """What the child of the run before may do is over, but it is not to be beside another one. False if `wake` came
        first: then the next run has to ask again."""
        if self._left is not None and not self._left.end(wake):
            return False
        self._left = None
        return True

    def _load_ahead(self, job: Job, warm: Warm, model: int) -> None:
        """Have the next child load this model, once this run is over. Nobody waits for it, and nothing fails by it."""
        own, until = os.dup(model), time.monotonic() + warm.seconds

        def load() -> None:
            with ExitStack() as stack:
                stack.callback(os.close, own)
                with contextlib.suppress(SandboxFailed, OSError), self._running:
                    self._end_left()
                    self.shelf.clear()
                    wake = os.eventfd(0, os.EFD_CLOEXEC)
                    stack.callback(os.close, wake)
                    zygote = self._ready("general")
                    run = Run(same(job), zygote, wake, self._require | job.require, stack, 0.0, None)
                    self.shelf.put(run.wait_warm(warm, own), until - time.monotonic())

        self._background(load)

    def _once(self, job: Job, inputs: Mapping[str, int], wake: int, start: float) -> Outcome:
        """One child, or another if that was killed while it waited."""
        for _ in range(_TRIES):
            with ExitStack() as own, contextlib.suppress(Unborn):
                # That of a compiler, for the same run.
                if not self._end_left(wake):
                    return Outcome("cancelled")
                zygote = self._ready(spare_kind(job.executor))
                run = Run(job, zygote, wake, self._require | job.require, own, start, self._scratch)
                self._left = run
                return run.execute(inputs)
        raise SandboxFailed(f"{_TRIES} children ended before they ran the function")

    def cancel(self) -> None:
        """End the run that is going on, within a second; its outcome is `cancelled`.

        Without one, nothing happens.
        """
        with self._state:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Cancel what is running and end the zygotes."""
        with self._state:
            self._closed = True
        self.shelf.close()
        self._background.close()
        self.cancel()
        with self._running:
            self._left = None
            while self._zygotes:
                self._zygotes.popitem()[1].close()

    def zygote_pid(self, kind: SpareKind = "general") -> int | None:
        """The process id of a zygote; None while there is none of this kind."""
        zygote = self._zygotes.get(kind)
        return zygote.pid if zygote is not None else None

    def _no_wake(self) -> None:
        with self._state:
            self._wake = None

    def _ready(self, kind: SpareKind) -> ZygoteProcess:
        with self._state:
            if self._closed:
                raise SandboxFailed("the supervisor is closed")
        zygote = self._zygotes.get(kind)
        if zygote is not None and not zygote.alive():
            del self._zygotes[kind]
            zygote.close()
            zygote = None
        if zygote is None:
            zygote = self._zygotes[kind] = ZygoteProcess(
                self._python, kind, self._environments if kind == "general" else None
            )
        return zygote


def _check_sealed(name: str, fd: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise Malformed(f"the input {name} is not a memory file") from None
    if seals & _SEALS != _SEALS:
        raise Malformed(f"the input {name} is not sealed: the child could change it")


__all__ = [
    "SPARE_SECONDS",
    "Outcome",
    "Output",
    "Supervisor",
    "Usage",
    "sealed_memfd",
]
