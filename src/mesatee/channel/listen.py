"""Take verified connections from a `Listener` into an asyncio loop.

Handshakes, appraisal and freshness run on threads of the Rust core (ADR 1, "The channel"); what arrives here
has passed all of them. One thread waits in `Listener.accept`, so that the loop never does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from mesatee._core import Connection, Listener
from mesatee.errors import Unavailable

ACCEPT_SLICE_SECONDS: Final = 0.5
"""How long the accepting thread waits before it looks whether `serve` has ended, in seconds."""

Handler = Callable[[Connection, socket.socket], Awaitable[None]]
"""Serves one connection. It owns the socket, and the connection ends when it closes that."""

_log = logging.getLogger(__name__)


def adopt(connection: Connection) -> socket.socket:
    """The plaintext end of `connection` as a non-blocking socket, which the caller now owns.

    Raises `StateError` if it was taken before.
    """
    end = socket.socket(fileno=connection.detach())
    end.setblocking(False)
    return end


def _accept(
    listener: Listener,
    loop: asyncio.AbstractEventLoop,
    queue: asyncio.Queue[Connection | None],
    stopped: threading.Event,
) -> None:
    connection: Connection | None = None
    try:
        while not stopped.is_set():
            connection = listener.accept(ACCEPT_SLICE_SECONDS)
            if connection is not None and not stopped.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, connection)
                connection = None
    except Unavailable:
        # The listener was closed. If the loop is closed too, nobody waits for the news.
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, None)
    except RuntimeError:
        # The loop was closed under us without `serve` being cancelled.
        _log.warning("the event loop ended before its listener")
    finally:
        if connection is not None:
            connection.close()


async def _handle(connection: Connection, on_connection: Handler) -> None:
    end = adopt(connection)
    try:
        await on_connection(connection, end)
    # One connection's failure, whatever it is, must not end the others. Only the class is logged: a message
    # may carry what was sent.
    except Exception as error:  # noqa: BLE001
        _log.error("a connection handler failed with %s", type(error).__name__)
    finally:
        end.close()


async def serve(listener: Listener, on_connection: Handler) -> None:
    """Run `on_connection` in a task of its own for each verified connection, until the listener is closed.

    Returns when the handlers under way have ended. Being cancelled cancels them; the listener stays open.
    """
    queue: asyncio.Queue[Connection | None] = asyncio.Queue()
    stopped = threading.Event()
    tasks: set[asyncio.Task[None]] = set()
    arguments = (listener, asyncio.get_running_loop(), queue, stopped)
    threading.Thread(target=_accept, args=arguments, name="mesatee-accept", daemon=True).start()
    try:
        while (connection := await queue.get()) is not None:
            task = asyncio.create_task(_handle(connection, on_connection))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)
    finally:
        stopped.set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        while not queue.empty():
            waiting = queue.get_nowait()
            if waiting is not None:
                waiting.close()


__all__ = ["ACCEPT_SLICE_SECONDS", "Handler", "adopt", "serve"]
