"""The wall-clock time that a module gives itself, and the thread that holds it to it (ADR 12).

The thread sleeps until the time is over, then it rings: it advances the epoch of the module's engine, which compiled
code looks at wherever it loops or enters a function, and wasmtime in the middle of what moves much memory. A host
function looks by itself when it comes back. The module can do nothing about either.
"""

from __future__ import annotations

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
        self.seconds = seconds
        self._ring = ring
        self._until = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.seconds is None:
            return self
        self._until = time.monotonic() + self.seconds
        before = threading.stack_size(STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._wait, name="deadline", daemon=True)
            self._thread.start()
        except RuntimeError:
            raise MemoryError("there is no memory for the thread that ends the module in time") from None
        finally:
            threading.stack_size(before)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            # A late ring would end the next run of this engine.
            self._thread.join()

    def over(self) -> bool:
        """Whether the time is over; from then on it stays so. True before the ring."""
        return self.seconds is not None and time.monotonic() >= self._until

    def check(self) -> None:
        """Raises `Late` when the time is over."""
        if self.over():
            raise Late

    def _wait(self) -> None:
        while not self.over():
            if self._ended.wait(self._until - time.monotonic()):
                return
        self._ring()


__all__ = ["STACK_BYTES", "Deadline", "Late"]
