"""Blobs on their way: how many, and from the event loop to the one thread that stores them.

Each holds a connection to the host. The log needs one too, so there are never as many blobs as connections.

The loop never waits on a thread of the pool that the storing itself runs on: with as many uploads as threads nobody
would get any further. So uploads have threads of their own, and whoever has to wait for room waits on the loop.
"""

from __future__ import annotations

import asyncio
import queue
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ...errors import Unavailable
from ...protocol import limits

UPLOADS = limits.HOST_CONNECTIONS // 2
"""Uploads that are stored at once, a thread and a connection to the host each; the others wait their turn."""
CHUNKS = 4
"""Chunks of BLOB_CHUNK_BYTES that may wait between network and host."""
_THREADS = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")


class _Pipe:
    """Chunks from the loop to a thread, at most `CHUNKS` ahead."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(CHUNKS)
        self._deaf = False

    async def put(self, chunk: bytes) -> None:
        """Returns when there was room, or when nobody reads any more."""
        if not self._deaf:
            await self._room.acquire()
            self._chunks.put(chunk)

    def end(self) -> None:
        """No more chunks."""
        self._chunks.put(None)

    def read(self) -> Iterator[bytes]:
        """On the storing thread."""
        while (chunk := self._chunks.get()) is not None:
            self._loop.call_soon_threadsafe(self._room.release)
            yield chunk

    def close(self) -> None:
        """On the storing thread: whatever still comes is not wanted."""
        self._loop.call_soon_threadsafe(self._ignore)

    def _ignore(self) -> None:
        self._deaf = True
        self._room.release()


async def store(parts: AsyncIterator[bytes], put: Callable[[Iterator[bytes]], None]) -> None:
    """Hand `parts` to `put` in full chunks, while they arrive. Raises what either of them raises."""
    pipe = _Pipe()

    def run() -> None:
        try:
            put(pipe.read())
        finally:
            pipe.close()

    storing = asyncio.get_running_loop().run_in_executor(_THREADS, run)
    try:
        buffer = bytearray()
        async for part in parts:
            buffer += part
            if len(buffer) >= limits.BLOB_CHUNK_BYTES:
                await pipe.put(bytes(buffer))
                buffer.clear()
        if buffer:
            await pipe.put(bytes(buffer))
    finally:
        # Also when the sender is gone: the store finds the bytes too few and keeps nothing.
        pipe.end()
        await storing


class Downloads:
    """Counts the blobs that are being streamed, in all and to each peer. For one event loop."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    def check(self, peer: str) -> None:
        """Raises `Unavailable` when there are too many already."""
        if self._running[peer] >= limits.DOWNLOADS_EACH:
            raise Unavailable(f"you read {limits.DOWNLOADS_EACH} blobs already: finish one first")
        if self._running.total() >= limits.DOWNLOADS:
            raise Unavailable("the gateway streams as many blobs as it may")

    @contextmanager
    def running(self, peer: str) -> Iterator[None]:
        """While one is streamed."""
        self._running[peer] += 1
        try:
            yield
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]


__all__ = ["CHUNKS", "UPLOADS", "Downloads", "store"]
