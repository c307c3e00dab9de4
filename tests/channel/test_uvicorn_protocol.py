"""What the protocol adds to uvicorn's, without a connection around it."""

from __future__ import annotations

import asyncio

import pytest

from mesatee.channel import uvicorn_protocol as up


class Wire:
    """A transport that keeps what it is given. asyncio's drops what comes after `close`; this one tells."""

    def __init__(self, on_write=lambda: None):
        self.got = []
        self.closed = False
        self.on_write = on_write

    def write(self, data):
        assert not self.closed
        self.got.append(data)
        self.on_write()

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def run(steps):
    """Run `steps(wire, corked)` in a loop, and then the loop's next turn; returns the transport."""

    async def main():
        wire = Wire()
        await steps(wire, up._Corked(wire, asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return wire

    return asyncio.run(main())


def test_an_answer_leaves_in_one_piece():
    """uvicorn writes head and body apart; on the socket, and so in TLS, they are one record."""

    async def steps(wire, corked):
        corked.write(b"head ")
        corked.write(b"body")
        assert wire.got == []

    assert run(steps).got == [b"head body"]


def test_each_turn_of_the_loop_has_its_own_piece():
    async def steps(wire, corked):
        for part in (b"first", b"second"):
            corked.write(part)
            await asyncio.sleep(0)

    assert run(steps).got == [b"first", b"second"]


def test_what_was_written_leaves_before_the_connection_closes():
    async def steps(wire, corked):
        corked.write(b"last")
        corked.close()
        assert (wire.got, wire.closed) == ([b"last"], True)

    assert run(steps).got == [b"last"]


def test_nothing_is_written_to_a_transport_that_was_closed_underneath():
    async def steps(wire, corked):
        corked.write(b"late")
        wire.close()

    assert run(steps).got == []


@pytest.mark.parametrize(("size", "pieces"), [(up.CORKED_BYTES - 1, 0), (up.CORKED_BYTES, 1)])
def test_what_is_held_back_is_bounded_by_bytes(size, pieces):
    """However many pieces they come in."""

    async def steps(wire, corked):
        for _ in range(100):
            corked.write(b"")
        corked.write(bytes(size))
        assert len(wire.got) == pieces

    assert run(steps).got == [bytes(size)]


def test_the_bound_counts_anew_after_each_piece():
    async def steps(wire, corked):
        for _ in range(3):
            corked.write(bytes(up.CORKED_BYTES))
        corked.write(b"rest")
        assert len(wire.got) == 3

    assert run(steps).got[3:] == [b"rest"]


def test_what_is_written_meanwhile_is_neither_lost_nor_sent_twice():
    """A transport may tell its protocol of a full buffer while it takes data."""

    async def steps(wire, corked):
        def again():
            wire.on_write = lambda: None
            corked.write(b"second")

        wire.on_write = again
        corked.write(b"first")
        await asyncio.sleep(0)

    assert run(steps).got == [b"first", b"second"]


def test_what_a_failed_write_took_is_not_sent_again():
    async def steps(wire, corked):
        def fail():
            wire.on_write = lambda: None
            raise OSError("broken")

        wire.on_write = fail
        corked.write(b"first")
        with pytest.raises(OSError, match="broken"):
            corked.flush()
        corked.write(b"second")

    assert run(steps).got == [b"first", b"second"]


def test_everything_else_is_the_transports():
    async def steps(wire, corked):
        assert corked.is_closing() is False

    run(steps)
