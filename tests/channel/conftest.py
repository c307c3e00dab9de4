"""Real listeners, clients and servers over loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from mesatee import errors
from mesatee.channel import Connection, Listener, PeerCertificate, SigningKey, connect, make_certificate

HOST = "127.0.0.1"
DEADLINE = 10.0


@dataclass(frozen=True)
class Identity:
    """A key with its certificate."""

    key: SigningKey
    certificate: bytes

    @property
    def pair(self) -> tuple[bytes, SigningKey]:
        return self.certificate, self.key


def make_identity(name: str, evidence: bytes | None = None, start: int = -60, end: int = 3600) -> Identity:
    key, now = SigningKey.generate(), int(time.time())
    return Identity(key, make_certificate(key, name, now + start, now + end, evidence))


def pin(identity: Identity) -> Callable[[PeerCertificate], bytes]:
    """An appraiser that accepts one key only."""

    def appraise(peer: PeerCertificate) -> bytes:
        if peer.public != identity.key.public:
            raise errors.KeyRefused("not the pinned key")
        return peer.public

    return appraise


def accept_anyone(peer: PeerCertificate) -> str:
    return "anyone"


def wait_for(condition: Callable[[], Any], seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def stream(connection: Connection) -> socket.socket:
    end = socket.socket(fileno=connection.detach())
    end.settimeout(DEADLINE)
    return end


def read_all(end: socket.socket) -> bytes:
    parts = []
    while part := end.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


class Refused(list[tuple[str, str]]):
    """What a listener reported."""

    def __call__(self, address: str, reason: str) -> None:
        self.append((address, reason))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self]


@pytest.fixture(scope="session")
def server_identity() -> Identity:
    return make_identity("gateway", b"evidence of the gateway")


@pytest.fixture(scope="session")
def client_identity() -> Identity:
    return make_identity("alice")


@pytest.fixture
def refused() -> Refused:
    return Refused()


@pytest.fixture
def listen(server_identity: Identity, refused: Refused) -> Iterator[Callable[..., Listener]]:
    opened: list[Listener] = []

    def start(appraise: Any = accept_anyone, **options: Any) -> Listener:
        listener = Listener(HOST, 0, *server_identity.pair, appraise, refused, **options)
        opened.append(listener)
        return listener

    yield start
    for listener in opened:
        listener.close()


@pytest.fixture
def dial(client_identity: Identity) -> Callable[..., Connection]:
    def start(listener: Listener, appraise: Any = accept_anyone, timeout: float = DEADLINE) -> Connection:
        return connect(HOST, listener.port, *client_identity.pair, appraise, timeout)

    return start


@contextmanager
def echo(listener: Listener) -> Iterator[list[Connection]]:
    """Echo each connection's bytes on a thread of its own until the listener is closed."""
    seen: list[Connection] = []

    def one(end: socket.socket) -> None:
        with end:
            while part := end.recv(1 << 16):
                end.sendall(part)

    def loop() -> None:
        while True:
            try:
                connection = listener.accept(1)
            except errors.Unavailable:
                return
            if connection is not None:
                seen.append(connection)
                threading.Thread(target=one, args=(stream(connection),), daemon=True).start()

    thread = threading.Thread(target=loop)
    thread.start()
    yield seen
    listener.close()
    thread.join(DEADLINE)


@contextmanager
def running(main: Callable[[], Any], stop: Callable[[], Any]) -> Iterator[asyncio.AbstractEventLoop]:
    """Run the coroutine `main()` in a loop on a thread; at the end run `stop()` there and wait for both."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(DEADLINE)
        thread.join(DEADLINE)
        assert not thread.is_alive()
        loop.close()
