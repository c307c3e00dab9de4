"""Blobs on their way: uploads of many parties at once, of slow ones, and of those that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from mesatee.enclave.gateway import transfers
from mesatee.errors import DigestMismatch, Unavailable
from mesatee.protocol import limits


async def slow(count: int, gate: asyncio.Event) -> AsyncIterator[bytes]:
    """`count` full chunks; the last one only when the gate is open."""
    for number in range(count):
        if number == count - 1:
            await gate.wait()
        yield bytes([number]) * limits.BLOB_CHUNK_BYTES


def taker(into: list[int]) -> object:
    def put(chunks: Iterator[bytes]) -> None:
        into.append(sum(len(chunk) for chunk in chunks))

    return put


def test_all_threads_storing_do_not_stop_the_others() -> None:
    """Regression: more uploads at once than threads of the loop's pool, and nobody ever got any further."""

    async def scene() -> list[int]:
        gate, stored = asyncio.Event(), []
        many = [transfers.store(slow(2, gate), taker(stored)) for _ in range(transfers.UPLOADS + 8)]
        going = [asyncio.create_task(one) for one in many]
        await asyncio.sleep(0.05)
        # Everything else that needs a thread still gets one.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5) == 7
        gate.set()
        await asyncio.wait_for(asyncio.gather(*going), 30)
        return stored

    assert asyncio.run(scene()) == [2 * limits.BLOB_CHUNK_BYTES] * (transfers.UPLOADS + 8)


def test_a_sender_runs_at_most_a_few_chunks_ahead() -> None:
    async def scene() -> int:
        gate, sent = asyncio.Event(), 0
        loop = asyncio.get_running_loop()

        async def parts() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(50):
                sent += 1
                yield bytes(limits.BLOB_CHUNK_BYTES)

        def put(chunks: Iterator[bytes]) -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
            assert sum(1 for _ in chunks) == 50

        going = asyncio.create_task(transfers.store(parts(), put))
        await asyncio.sleep(0.1)
        ahead = sent
        gate.set()
        await asyncio.wait_for(going, 30)
        return ahead

    assert asyncio.run(scene()) == transfers.CHUNKS + 1


def test_a_store_that_refuses_early_ends_the_upload() -> None:
    def refuse(chunks: Iterator[bytes]) -> None:
        next(chunks)
        raise DigestMismatch("no")

    async def scene() -> None:
        gate = asyncio.Event()
        gate.set()
        await asyncio.wait_for(transfers.store(slow(40, gate), refuse), 30)

    with pytest.raises(DigestMismatch):
        asyncio.run(scene())


def test_a_sender_that_goes_away_leaves_no_thread_waiting() -> None:
    got: list[int] = []

    async def gone() -> AsyncIterator[bytes]:
        yield bytes(limits.BLOB_CHUNK_BYTES)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(transfers.store(gone(), taker(got)))
    assert got == [limits.BLOB_CHUNK_BYTES]


# -- downloads ----------------------------------------------------------------------------------------


def test_slow_downloads_leave_the_log_its_connection() -> None:
    """All blobs together never have as many connections to the host as it serves."""
    assert transfers.UPLOADS + limits.DOWNLOADS < limits.HOST_CONNECTIONS


def test_a_peer_reads_few_blobs_at_once() -> None:
    downloads = transfers.Downloads()
    with ExitStack() as stack:
        for _ in range(limits.DOWNLOADS_EACH):
            downloads.check("alice")
            stack.enter_context(downloads.running("alice"))
        with pytest.raises(Unavailable, match="finish one first"):
            downloads.check("alice")
        downloads.check("bob")
    downloads.check("alice")


def test_all_peers_together_read_a_bounded_number() -> None:
    downloads = transfers.Downloads()
    with ExitStack() as stack:
        for number in range(limits.DOWNLOADS):
            stack.enter_context(downloads.running(f"party {number}"))
        with pytest.raises(Unavailable, match="as many blobs"):
            downloads.check("alice")
    downloads.check("alice")
