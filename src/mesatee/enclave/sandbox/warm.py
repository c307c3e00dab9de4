"""A child that has loaded a model and waits for one more run of the same job on it (ADR 24).

Loading a large model takes longer than running it, and a child serves one run. So after a run whose model's owner
allows it (`warm` in the model's card), the supervisor may have the next child load that model ahead. Such a child is
locked in like any other before it sees the model; it has the model, the arguments that it shares with the run that it
will serve, and empty files for inputs and outputs. It is used for one run of exactly that job on exactly that model,
and is killed when its time is over, when another is made, when memory is short, and with the supervisor. There is one
at most.
"""

from __future__ import annotations

import dataclasses
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.enclave.sandbox.protocol import GO, KILL, LOADED, Job
from mesatee.enclave.sandbox.zygote_process import ZygoteProcess
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.enclave.sandbox.run import Run

PREPARING: Final = frozenset({"onnx_predict", "onnx_run"})
"""Built-in functions that can load a model ahead, by `load_ahead` in their modules."""
MODEL: Final = "model"
"""The input of these that holds the model."""
WAIT_SECONDS: Final = 2.0
"""For a child that is still loading: one that starts anew would have to load, too."""
REST_SECONDS: Final = 0.1
"""From the end of a run until the next model is loaded ahead: its outputs are sealed and sent meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Warm:
    """A model that may stay loaded: the digest of its sealed file, whose key this run was given, and for how many
    seconds after the run."""

    digest: str
    seconds: int


class Cold(Exception):
    """The child that waited is gone: the run has to start anew, with its model."""


def allowed(job: Job) -> bool:
    """Whether this is a job whose model can be loaded ahead."""
    return (
        job.executor == "builtin"
        and job.entry in PREPARING
        and MODEL in job.inputs
        and not job.environment
        and not job.scratch_bytes
    )


def same(job: Job) -> Job:
    """What two jobs have in common that one child may serve either of: all but where they run."""
    return dataclasses.replace(job, attestation=b"", warm="")


class Waiting:
    """One child that waits, and what belongs to it."""

    def __init__(
        self,
        job: Job,
        warm: Warm,
        run: Run,
        zygote: ZygoteProcess,
        go: socket.socket,
        model: int,
        inputs: Mapping[str, int],
        stack: ExitStack,
    ) -> None:
        """`inputs` are the empty memory files in which the child will find its inputs, but for the model. Who has
        claimed it fills them before the run. `stack` closes all that is the supervisor's."""
        self.job, self.warm, self.run, self.zygote = same(job), warm, run, zygote
        self.model, self.stack = model, stack
        self._go = go
        self.inputs = inputs
        self._ready = False

    def ready(self, seconds: float) -> bool | None:
        """Whether it has loaded its model, waiting for that; None when it is gone."""
        if not self._ready:
            if not select.select([self._go], [], [], seconds)[0]:
                return False
            with suppress(OSError):
                self._ready = self._go.recv(len(LOADED)) == LOADED
            if not self._ready:
                return None
        # What has ended has hung up.
        return None if select.select([self._go], [], [], 0)[0] else True

    def go(self) -> None:
        """Seal the inputs of its run, and give it the word. Raises `Cold`."""
        for target in self.inputs.values():
            _core.memfd_seal(target)
        try:
            self._go.send(GO)
        except OSError:
            raise Cold from None

    def end(self) -> None:
        """Kill it, if it still waits, and let go of its model."""
        if self.run.child is not None:
            self.zygote.tell(KILL, self.run.child)
        self.stack.close()


class Shelf:
    """Where the one that waits is kept. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: Waiting | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    def put(self, waiting: Waiting, seconds: float) -> None:
        """Keep it for so long, instead of another."""
        with self._lock:
            self._drop()
            if self._closed or seconds <= 0:
                waiting.end()
                return
            self._kept = waiting
            self._timer = threading.Timer(seconds, self._expire, (waiting,))
            self._timer.daemon = True
            self._timer.start()

    def take(self, job: Job, warm: Warm, size: int) -> Waiting | None:
        """The one for this job and model, ready to go, which from now on is the caller's; None without one. `size`: of
        the inputs beside the model, in bytes."""
        with self._lock:
            kept = self._kept
            if (
                kept is None
                or kept.warm.digest != warm.digest
                or kept.job != same(job)
                or size > limits.WARM_INPUT_BYTES
            ):
                return None
            ready = kept.ready(WAIT_SECONDS)
            if ready:
                self._kept = None
                self._stop_timer()
                return kept
            if ready is None:
                self._drop()
            return None

    def waits(self, seconds: float) -> bool:
        """Whether there is one that has loaded its model, waiting so long for it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                ready = self._kept.ready(0) if self._kept is not None else False
                if ready is None:
                    self._drop()
            if ready:
                return True
            time.sleep(0.005)
        return False

    def spare_memory(self, wanted: int) -> None:
        """Give its memory up if the machine has less than `wanted` bytes."""
        with self._lock:
            if self._kept is not None and _free() < wanted:
                self._drop()

    def clear(self) -> None:
        """Kill it."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Kill it, and keep no other."""
        with self._lock:
            self._closed = True
            self._drop()

    def child(self) -> int | None:
        """The number of the one that waits; None without one."""
        with self._lock:
            return self._kept.run.child if self._kept is not None else None

    def _expire(self, waiting: Waiting) -> None:
        with self._lock:
            if self._kept is waiting:
                self._drop()

    def _drop(self) -> None:
        self._stop_timer()
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Background:
    """Does what nobody waits for, a while after it was asked for: the outputs of the run before come first.

    One thread for all, since to start one takes as long as many a run.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[float, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, work: Callable[[], None]) -> None:
        """From one thread at a time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
            self._thread.start()
        self._asked.put((time.monotonic() + REST_SECONDS, work))

    def close(self) -> None:
        """Do no more, but for what was asked for."""
        self._asked.put(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            when, work = asked
            time.sleep(max(0.0, when - time.monotonic()))
            work()


def _free() -> int:
    """What the machine has left without swapping, in bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * limits.KIB
    return 0


__all__ = [
    "MODEL",
    "PREPARING",
    "WAIT_SECONDS",
    "Background",
    "Cold",
    "Shelf",
    "Waiting",
    "Warm",
    "allowed",
    "same",
]
