"""The wall-clock time that a module gives itself, and the thread that holds it to it (ADR 12).

The thread sleeps until the time is over, then it rings: it advances the epoch of the module's engine, which compiled
code looks at wherever it loops or enters a function, and wasmtime in the middle of what moves much memory. A host
function looks by itself when it comes back. The module can do nothing about either.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from mesatee.protocol import limits

STACK_BYTES: Final = 256 * limits.KIB
"""Of the thread: it does next to nothing, and the stack counts as the run's memory."""


class Late(Exception):
    """A host function came back when the time was over."""


class Deadline:
    """So many seconds from ``with`` on; None for no end, and then no thread.

    When it is over, `ring` is called once, in another thread, and never after ``with`` has ended. Raises `MemoryError`
    if the thread cannot be started.

    >>> rung = threading.Event()
    >>> with Deadline(0.01, rung.set) as deadline:
    ...     rung.wait(60), deadline.over()
    (True, True)
    >>> with Deadline(None, rung.set) as deadline:
    ...     deadline.check()
    """

    def __init__(self, seconds: float | None, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._seconds = seconds
        self._until = math.inf
        self._running: tuple[threading.Thread, threading.Event] | None = None

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._until = time.monotonic() + self._seconds
            self._running = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            thread, ended = self._running
            ended.set()
            # A late ring would end the next run of this engine.
            thread.join()

    def _start(self) -> tuple[threading.Thread, threading.Event]:
        ended = threading.Event()
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=self._wait, args=(ended,), name="deadline", daemon=True)
            thread.start()
        except RuntimeError:
            raise MemoryError("there is no memory for the thread that ends the module in time") from None
        finally:
            threading.stack_size(before)
        return thread, ended

    def over(self) -> bool:
        """Whether the time is over; from then on it stays so. True before the ring."""
        return time.monotonic() >= self._until

    def check(self) -> None:
        """Raises `Late` when the time is over."""
        if self.over():
            raise Late

    def _wait(self, ended: threading.Event) -> None:
        while not self.over():
            if ended.wait(self._until - time.monotonic()):
                return
        self._ring()


__all__ = ["STACK_BYTES", "Deadline", "Late"]
