"""Futures of another thread, awaited: of all that end together the event loop is told once."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiters(Generic[T]):
    """For one event loop at a time.

    `asyncio.wrap_future` wakes the loop by a system call for each future, and the thread that writes the log ends a
    batch of them one after the other.
    """

    def __init__(self) -> None:
        self._ended: deque[tuple[asyncio.Future[T], Future[T]]] = deque()
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, future: Future[T]) -> asyncio.Future[T]:
        """What `future` will give, to be awaited in the running loop. To cancel it cancels nothing else."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # What ended for the one before is not awaited any more.
            self._ended, self._told, self._loop = deque(), False, loop
        waiter: asyncio.Future[T] = loop.create_future()

        def ended(future: Future[T]) -> None:
            if loop is not self._loop or loop.is_closed():
                return
            self._ended.append((waiter, future))
            if not self._told:
                self._told = True
                loop.call_soon_threadsafe(self._pass_on)

        future.add_done_callback(ended)
        return waiter

    def _pass_on(self) -> None:
        # Before the first is taken: whoever ends later tells again.
        self._told = False
        while self._ended:
            waiter, future = self._ended.popleft()
            if waiter.done():
                continue
            error = future.exception()
            if error is None:
                waiter.set_result(future.result())
            else:
                waiter.set_exception(error)


__all__ = ["Waiters"]
