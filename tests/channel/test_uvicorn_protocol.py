"""What the protocol adds to uvicorn's, without a connection around it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mesatee.channel import uvicorn_protocol


def test_an_answer_leaves_in_one_piece():
    """uvicorn writes head and body apart; on the socket, and so in TLS, they are one record."""

    async def run():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        corked = uvicorn_protocol._Corked(transport, loop)
        corked.write(b"head ")
        corked.write(b"body")
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert theirs.recv(100) == b"head body"
        corked.write(b"last")
        corked.close()
        assert theirs.recv(100) == b"last"
        theirs.close()

    asyncio.run(run())
