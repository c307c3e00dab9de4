"""httpx over the attested channel, for sync and async clients.

httpcore pools connections and speaks HTTP/1.1; a network backend of our own gives it the plaintext end of a
verified connection. The URL's scheme is therefore ``http`` and its host only a name: where the bytes go is
fixed by the transport, TLS and verification happen in the Rust core, and no redirect can leave the verified
peer.

All failures surface as `mesatee.errors`: what `appraise` raised as it is, those of `mesatee._core.connect`,
`TimedOut`, and `Unavailable` for a connection that broke.
"""

from __future__ import annotations

import abc
import contextlib
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread
import httpcore
import httpx

from mesatee._core import Connection, PeerCertificate, SigningKey, connect
from mesatee.attestation.appraisal import Appraisal
from mesatee.errors import HostFailed, Malformed, TimedOut, Unavailable
from mesatee.protocol import limits

CONNECTION_AGE_SECONDS: Final = 600.0
"""A request starts only on a connection that was appraised at most this long ago, in seconds."""
KEEP_ALIVE_SECONDS: Final = 60.0
"""An idle connection is kept this long, in seconds; less than the server's, so that it is the client who
closes."""
POOL_CONNECTIONS: Final = 16
"""Connections that one transport holds at once; more requests wait."""

_NO_CONNECTION: Final = "no connection"
"""How the Rust core begins to say that there was no TCP connection."""
Appraise = Callable[[PeerCertificate], Any]
"""Returns an appraisal of the peer, or raises."""


@dataclass(frozen=True)
class Endpoint:
    """Where to connect, as whom, and who judges the peer. `timeout` and `max_age` are in seconds."""

    host: str
    port: int
    certificate: bytes
    key: SigningKey
    appraise: Appraise
    timeout: float
    max_age: float

    def open(self, timeout: float | None) -> Connection:
        """A verified connection. Raises as `reach`."""
        within = self.timeout if timeout is None else min(timeout, self.timeout)
        return reach(self.host, self.port, self.certificate, self.key, self.appraise, within)


def reach(
    host: str,
    port: int,
    certificate: bytes,
    key: SigningKey,
    appraise: Appraise,
    timeout: float | None = None,
) -> Connection:
    """`mesatee._core.connect`, and a next step where nothing listens. Raises what it raises."""
    try:
        return connect(host, port, certificate, key, appraise, *(() if timeout is None else (timeout,)))
    except HostFailed as error:
        if not error.message.startswith(_NO_CONNECTION):
            raise
        raise HostFailed(
            f"nothing answers at https://{host}:{port}: {error.message}",
            hint="is the service up (`mesatee up`)? is the address right?",
        ) from None


class _Book:
    """The connections that a transport has open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Connection] = []
        self.last: Connection | None = None

    def add(self, connection: Connection) -> None:
        with self._lock:
            self._open.append(connection)
            self.last = connection

    def remove(self, connection: Connection) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._open.remove(connection)

    def open(self) -> tuple[Connection, ...]:
        with self._lock:
            return tuple(self._open)


def _readable(end: socket.socket) -> bool:
    if end.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(0))


class _End:
    """What the sync and the async stream have in common."""

    def __init__(self, connection: Connection, end: socket.socket, book: _Book, max_age: float) -> None:
        self._connection = connection
        self._end = end
        self._book = book
        appraisal = connection.appraisal
        if isinstance(appraisal, Appraisal):
            # It may have come from a cache, and be older than the connection.
            max_age = min(max_age, appraisal.expires - time.time())
        self._old_at = time.monotonic() + max_age
        book.add(connection)

    def get_extra_info(self, info: str) -> Any:
        if info == "mesatee.connection":
            return self._connection
        if info == "socket":
            return self._end
        if info == "is_readable":
            # httpcore asks this of idle connections only, and replaces those that are: the server closed
            # them. An appraisal that has come of age is answered likewise, so that the next request is sent
            # to a peer appraised anew.
            return time.monotonic() >= self._old_at or _readable(self._end)
        return None


class _SyncStream(_End, httpcore.NetworkStream):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            self._end.settimeout(timeout)
            return self._end.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            self._end.settimeout(timeout)
            self._end.sendall(buffer)

    def close(self) -> None:
        self._book.remove(self._connection)
        self._end.close()


class _AsyncStream(_End, httpcore.AsyncNetworkStream):
    def __init__(
        self,
        connection: Connection,
        end: socket.socket,
        stream: anyio.abc.ByteStream,
        book: _Book,
        max_age: float,
    ) -> None:
        super().__init__(connection, end, book, max_age)
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError), anyio.fail_after(timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError), anyio.fail_after(timeout):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        self._book.remove(self._connection)
        await self._stream.aclose()


@contextlib.contextmanager
def _as_httpcore(timeout: type[Exception], broken: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error)) from error
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise broken(str(error)) from error


class _SyncBackend(httpcore.NetworkBackend):
    def __init__(self, endpoint: Endpoint, book: _Book) -> None:
        self._endpoint = endpoint
        self._book = book

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        connection = self._endpoint.open(timeout)
        end = socket.socket(fileno=connection.detach())
        return _SyncStream(connection, end, self._book, self._endpoint.max_age)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, endpoint: Endpoint, book: _Book) -> None:
        self._endpoint = endpoint
        self._book = book

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        # If the request is cancelled meanwhile, the thread ends by itself and its connection closes when it
        # is dropped.
        connection = await anyio.to_thread.run_sync(
            partial(self._endpoint.open, timeout), abandon_on_cancel=True
        )
        end = socket.socket(fileno=connection.detach())
        end.setblocking(False)
        stream = await anyio.abc.UNIXSocketStream.from_socket(end)
        return _AsyncStream(connection, end, stream, self._book, self._endpoint.max_age)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        raise TimedOut("the peer did not answer in time") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Unavailable(f"the connection to the peer broke: {type(error).__name__}") from error


def _core_request(request: httpx.Request) -> httpcore.Request:
    if request.url.scheme != "http":
        raise Malformed("use an http:// URL with this transport: TLS is below it, in the attested channel")
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _extensions(response: httpcore.Response) -> dict[str, Any]:
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("mesatee.connection")
    return {**response.extensions, "mesatee.connection": connection}


class _Shared(abc.ABC):
    """Constructor and properties of both transports.

    `timeout` bounds connecting and verification and `max_age_seconds` the age of an appraisal that a request
    starts on, both in seconds. The server's certificate is given to `appraise` inside the handshake.
    """

    def __init__(
        self,
        host: str,
        port: int,
        certificate: bytes,
        key: SigningKey,
        appraise: Appraise,
        *,
        max_age_seconds: float = CONNECTION_AGE_SECONDS,
        timeout: float = limits.HANDSHAKE_SECONDS,
        max_connections: int = POOL_CONNECTIONS,
    ) -> None:
        self._endpoint = Endpoint(host, port, certificate, key, appraise, timeout, max_age_seconds)
        self._book = _Book()
        self._max_connections = max_connections
        self._start()

    @abc.abstractmethod
    def _start(self) -> None:
        """Make the pool."""

    @property
    def last(self) -> Connection | None:
        """The connection that was verified last, with its peer and appraisal; it may be closed by now."""
        return self._book.last

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that are open now, oldest first."""
        return self._book.open()


class _SyncBody(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_ours():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


class AttestedTransport(_Shared, httpx.BaseTransport):
    """For `httpx.Client`. A response's connection is in ``response.extensions["mesatee.connection"]``."""

    def _start(self) -> None:
        self._pool = httpcore.ConnectionPool(
            max_connections=self._max_connections,
            max_keepalive_connections=self._max_connections,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_SyncBackend(self._endpoint, self._book),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises classes of `mesatee.errors`, or what `appraise` raised."""
        with _as_ours():
            response = self._pool.handle_request(_core_request(request))
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_SyncBody(response.stream),
            extensions=_extensions(response),
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_ours():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class AsyncAttestedTransport(_Shared, httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`; a response's connection is in
    ``response.extensions["mesatee.connection"]``."""

    def _start(self) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=self._max_connections,
            max_keepalive_connections=self._max_connections,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_AsyncBackend(self._endpoint, self._book),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises classes of `mesatee.errors`, or what `appraise` raised."""
        with _as_ours():
            response = await self._pool.handle_async_request(_core_request(request))
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_AsyncBody(response.stream),
            extensions=_extensions(response),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


__all__ = [
    "CONNECTION_AGE_SECONDS",
    "KEEP_ALIVE_SECONDS",
    "POOL_CONNECTIONS",
    "Appraise",
    "AsyncAttestedTransport",
    "AttestedTransport",
    "Endpoint",
]
