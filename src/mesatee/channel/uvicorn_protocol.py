"""Serve an ASGI app over verified connections, each by one of uvicorn's HTTP/1.1 protocols (h11).

uvicorn neither listens nor speaks TLS here, and it reads no identity from headers: the app finds the verified
peer as the `mesatee._core.Connection` in ``scope["mesatee.connection"]``. No WebSocket, no lifespan, no proxy
headers, no server header.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mesatee._core import Connection, Listener
from mesatee.channel.listen import serve
from mesatee.errors import MesateeError, TooLarge, Unavailable
from mesatee.protocol import limits

HEAD_BYTES: Final = 32 * limits.KIB
"""Request line and headers of one request, in bytes."""
HEAD_SECONDS: Final = 10.0
"""From a request's first byte, or a new connection, to the end of its headers, in seconds."""
KEEP_ALIVE_SECONDS: Final = 75
"""An idle connection is kept this long, in seconds; longer than the client's, so that the client closes."""
CONCURRENT_REQUESTS: Final = 256
"""Requests that the app works on at once; more are answered with 503."""
CONNECTION_AGE_SECONDS: Final = 660.0
"""A connection takes no new request after this time, in seconds: the peer must be appraised anew. A minute
more than our own clients' limit, so that it is the client who closes."""
CORKED_BYTES: Final = 64 * limits.KIB
"""What is joined before it is handed over, in bytes: a stream must feel its reader's back-pressure."""
GRACE_SECONDS: Final = 10.0
"""How long `shutdown` waits for requests under way, in seconds."""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class _Corked:
    """A transport that writes what one turn of the loop gave it at once.

    uvicorn writes an answer's head and body apart, which would be two TLS records and two wake-ups of the
    thread that seals them. Whoever closes the connection closes this one, or calls `flush` first.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= CORKED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what was written; nobody gets it from a transport that is closed already."""
        parts, self._parts, self._size = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Close after what was written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(H11Protocol):
    """uvicorn's protocol for one verified connection, with a deadline for headers and an age limit."""

    def __init__(self, server: AttestedServer, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server.config, server.state, {}, loop)
        self._connection = connection
        self._server = server
        self._retiring = False
        self._ended = False
        """Whether the client has said that it sends no more."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.closed: asyncio.Future[None] = loop.create_future()
        self.app = self._with_connection

    async def _with_connection(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_and_say_last(message: Any) -> None:
            if message["type"] == "http.response.start" and self._retiring:
                # The client must know, or its next request crosses our close.
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        scope["mesatee.connection"] = self._connection
        await self._server.answer(scope, receive, send_and_say_last)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Corked(transport, self.loop)))
        self.client = _address(self._connection.address)
        self.scheme = "https"
        if self._server.stopping:
            # It was verified, but not yet here, when `shutdown` went through the connections.
            self.transport.close()
            return
        self._arm("head", HEAD_SECONDS, self.transport.close)
        self._arm("age", self._server.max_age, self.retire)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._disarm("head")
        elif "head" not in self._timers:
            # Bytes came and yet no request has begun: its headers are incomplete.
            self._arm("head", HEAD_SECONDS, self.transport.close)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it; uvicorn never keeps a connection open
        """The client sends no more: it still gets the answers to what it sent whole, then the connection closes."""
        self._ended = True
        if not self._answering():
            self.transport.close()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._ended and not self._answering():
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for name in list(self._timers):
            self._disarm(name)
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm("stall", limits.STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm("stall")

    def retire(self) -> None:
        """Close after the request under way, or now."""
        self._retiring = True
        if self.transport is not None and not self.transport.is_closing():
            self.shutdown()

    def _arm(self, name: str, seconds: float, action: Any) -> None:
        self._timers[name] = self.loop.call_later(seconds, action)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class AttestedServer:
    """An ASGI app behind a `Listener`.

    `knows` says of a peer's appraisal whether it may take any free place; strangers share a few.
    `max_age_seconds` is the age after which a connection takes no new request.
    """

    def __init__(
        self,
        app: Any,
        listener: Listener,
        knows: Callable[[object], bool] = lambda peer: True,
        *,
        max_age_seconds: float = CONNECTION_AGE_SECONDS,
        concurrent_requests: int = CONCURRENT_REQUESTS,
    ) -> None:
        self._app = app
        self._listener = listener
        self._limit = concurrent_requests
        self._knows = knows
        self._running = self._strangers = 0
        self.stopping = False
        self.max_age: Final = max_age_seconds
        self.state: Final = ServerState()
        self.config: Final = Config(
            self._nothing,
            http="h11",
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self.config.load()

    async def _nothing(self, scope: Any, receive: Any, send: Any) -> None:
        # uvicorn's configuration wants an app; each protocol has its own, which knows its connection.
        raise Unavailable("no connection")

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app, or answer 413 to a head over `HEAD_BYTES` and 503 when too many others run."""
        if _head_size(scope) > HEAD_BYTES:
            await _refuse(send, TooLarge(f"request line and headers are over {HEAD_BYTES} bytes"))
            return
        stranger = not self._knows(scope["mesatee.connection"].appraisal)
        if self._running >= self._limit or (stranger and self._strangers >= limits.STRANGERS):
            await _refuse(send, Unavailable("the server is busy with as many requests as it may"))
            return
        self._running += 1
        self._strangers += stranger
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
            self._strangers -= stranger

    async def serve(self) -> None:
        """Serve until `shutdown`, or until the listener is closed and its last connection has ended."""
        await serve(self._listener, self._serve_one)

    async def _serve_one(self, connection: Connection, end: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # asyncio sets no socket option on a socketpair and TCP_NODELAY is set in Rust: small answers leave at
        # once.
        transport, protocol = await loop.connect_accepted_socket(lambda: _Protocol(self, connection), end)
        try:
            await protocol.closed
        finally:
            transport.abort()

    async def shutdown(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Close the listener and idle connections now, others after their request, all after
        `grace_seconds`."""
        self.stopping = True
        self._listener.close()
        protocols = [cast(_Protocol, protocol) for protocol in self.state.connections]
        for protocol in protocols:
            protocol.retire()
        closed = [protocol.closed for protocol in protocols]
        if closed:
            await asyncio.wait(closed, timeout=grace_seconds)
        for task in list(self.state.tasks):
            task.cancel()
        for protocol in protocols:
            if not protocol.closed.done():
                protocol.transport.abort()


def _head_size(scope: Any) -> int:
    # h11's own limit is on heads that are incomplete after a read. One that came in a single read passes it.
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) + len(" ? HTTP/1.1\r\n")
    fields = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return line + fields + len("\r\n")


async def _refuse(send: Any, error: MesateeError) -> None:
    body = json.dumps({"error": error.as_dict()}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


__all__ = [
    "CONCURRENT_REQUESTS",
    "CONNECTION_AGE_SECONDS",
    "CORKED_BYTES",
    "GRACE_SECONDS",
    "HEAD_BYTES",
    "HEAD_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "AttestedServer",
]
