"""HTTP over the attested channel: httpx clients, asyncio adoption and the uvicorn server, all real."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mesatee import errors
from mesatee.channel import AsyncAttestedTransport, AttestedTransport, connect, serve
from mesatee.channel import uvicorn_protocol as up

from .conftest import DEADLINE, HOST, accept_anyone, pin, read_all, running, stream, wait_for

URL = "http://mesatee"


class App:
    """A small ASGI app that remembers who came."""

    def __init__(self):
        self.peers = []
        self.inner = Starlette(
            routes=[
                Route("/who", self.who),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/slow", self.slow),
                Route("/stream", self.stream),
            ]
        )

    async def __call__(self, scope, receive, send):
        self.peers.append(scope["mesatee.connection"].peer.public)
        await self.inner(scope, receive, send)

    async def who(self, request: Request) -> Response:
        connection = request.scope["mesatee.connection"]
        return JSONResponse(
            {
                "public": connection.peer.public.hex(),
                "appraisal": connection.appraisal,
                "client": list(request.scope["client"]),
                "scheme": request.scope["scheme"],
                "forwarded": request.headers.get("x-forwarded-for"),
            }
        )

    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def slow(self, request: Request) -> Response:
        await asyncio.sleep(0.4)
        return Response(b"done")

    async def stream(self, request: Request) -> Response:
        async def parts():
            for _ in range(20):
                yield os.urandom(1 << 20)

        return StreamingResponse(parts())


@contextmanager
def serving(listener, app, **options) -> Iterator[up.AttestedServer]:
    server = up.AttestedServer(app, listener, **options)
    with running(server.serve, lambda: server.shutdown(1.0)):
        yield server


@pytest.fixture
def app():
    return App()


@pytest.fixture
def transport(client_identity, server_identity):
    made = []

    def make(listener, appraise=None, kind=AttestedTransport, **options):
        appraise = appraise or pin(server_identity)
        made.append(kind(HOST, listener.port, *client_identity.pair, appraise, **options))
        return made[-1]

    yield make
    for one in made:
        if isinstance(one, AttestedTransport):
            one.close()


def client(transport, timeout=DEADLINE):
    return httpx.Client(transport=transport, base_url=URL, timeout=timeout)


def test_the_app_sees_the_verified_peer(listen, app, transport, client_identity, server_identity):
    listener = listen(lambda peer: "level 2")
    attested = transport(listener)
    with serving(listener, app), client(attested) as http:
        answer = http.get("/who", headers={"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4"})
        said = answer.json()
        assert said["public"] == client_identity.key.public.hex()
        assert said["appraisal"] == "level 2"
        assert said["client"][0] == HOST
        assert said["scheme"] == "https"
        assert "server" not in answer.headers
        assert attested.last.peer.der == server_identity.certificate
        assert attested.last.appraisal == server_identity.key.public
        assert answer.extensions["mesatee.connection"] is attested.last
        assert attested.connections == (attested.last,)
    assert attested.connections == ()


def test_keep_alive_and_concurrency(listen, app, transport):
    listener = listen()
    with serving(listener, app), client(transport(listener)) as http:
        connections = {http.get("/who").extensions["mesatee.connection"] for _ in range(10)}
        assert len(connections) == 1
        with ThreadPoolExecutor(32) as pool:
            bodies = [os.urandom(1000) for _ in range(64)]
            answers = list(pool.map(lambda body: http.post("/echo", content=body).content, bodies))
        assert answers == bodies


def test_a_connection_of_age_is_replaced(listen, app, transport):
    listener = listen()
    appraised = []
    attested = transport(listener, appraised.append, max_age_seconds=0.3)
    with serving(listener, app), client(attested) as http:
        http.get("/who")
        http.get("/who")
        assert len(appraised) == 1
        time.sleep(0.35)
        http.get("/who")
        assert len(appraised) == 2
        assert len(attested.connections) == 1


def test_the_server_retires_connections_too(listen, app, transport):
    listener = listen()
    appraised = []
    attested = transport(listener, appraised.append)
    with serving(listener, app, max_age_seconds=0.2), client(attested) as http:
        last = http.get("/slow")
        assert last.content == b"done"
        assert last.headers["connection"] == "close"
        http.get("/who")
        time.sleep(0.4)
        http.get("/who")
        assert len(appraised) == 3


def test_refusals_surface_as_ours_and_the_app_sees_nothing(listen, app, transport):
    def refuse(peer):
        raise errors.EvidenceRefused("mine")

    listener = listen()
    with (
        serving(listener, app),
        client(transport(listener, refuse)) as http,
        pytest.raises(errors.EvidenceRefused, match="mine"),
    ):
        http.get("/who")
    strict = listen(refuse)
    with (
        serving(strict, app),
        client(transport(strict)) as http,
        pytest.raises(errors.EvidenceRefused, match="refused us"),
    ):
        http.get("/who")
    with client(transport(strict)) as http, pytest.raises(errors.HostFailed):
        http.get("/who")
    assert app.peers == []


def test_timeouts_and_breaks_surface_as_ours(listen, app, transport):
    listener = listen()
    with serving(listener, app) as server, client(transport(listener)) as http:
        with pytest.raises(errors.TimedOut):
            http.get("/slow", timeout=0.1)
        with pytest.raises(errors.Malformed, match="http://"):
            http.get("https://mesatee/who")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(http.get, "/slow")
            time.sleep(0.2)
            for protocol in list(server.state.connections):
                protocol.loop.call_soon_threadsafe(protocol.transport.abort)
            with pytest.raises(errors.Unavailable, match="broke"):
                waiting.result(DEADLINE)


def test_big_bodies(listen, app, transport):
    listener = listen()
    body = os.urandom(20 << 20)
    with serving(listener, app), client(transport(listener)) as http:
        assert http.post("/echo", content=body).content == body
        assert len(http.get("/stream").content) == 20 << 20


def test_busy(listen, app, transport):
    listener = listen()
    with serving(listener, app, concurrent_requests=1), client(transport(listener)) as http:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(http.get, "/slow")
            time.sleep(0.2)
            answer = http.get("/who")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "unavailable"
            assert first.result(DEADLINE).status_code == 200
        assert http.get("/who").status_code == 200


def raw(listener, client_identity):
    return stream(connect(HOST, listener.port, *client_identity.pair, accept_anyone))


def test_header_limits(listen, app, client_identity):
    listener = listen()
    start, end = b"GET /who? HTTP/1.1\r\nHost: a\r\nX: ", b"\r\nConnection: close\r\n\r\n"
    exact = up.HEAD_BYTES - len(start) - len(end)
    with serving(listener, app):
        for size, status in ((exact, b"200"), (exact + 1, b"413"), (up.HEAD_BYTES + 500_000, b"400")):
            with raw(listener, client_identity) as near:
                with suppress(OSError):
                    near.sendall(start + b"x" * size + end)
                assert near.recv(12).endswith(status)
    assert len(app.peers) == 1


ONE = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    ("requests", "answers", "end"),
    [
        (b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n", 1, b"}"),
        (b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n", 1, b"done"),
        (ONE, 1, b"abc"),
        (ONE * 3, 3, b"abc"),
        (ONE + ONE[:-1], 1, b"abc"),
    ],
)
def test_a_client_that_half_closes_gets_its_answer(listen, app, client_identity, requests, answers, end):
    """One to each request that it sent whole; then the connection closes."""
    listener = listen()
    with serving(listener, app):
        for _ in range(5):
            with raw(listener, client_identity) as near:
                near.sendall(requests)
                near.shutdown(socket.SHUT_WR)
                got = read_all(near)
            assert got.count(b"HTTP/1.1 200") == answers
            assert got.endswith(end)


@pytest.mark.parametrize("cut", [b"", b"GET /who HT", ONE[:-1]])
def test_a_client_that_half_closes_before_its_request_is_whole_gets_none(listen, app, client_identity, cut):
    listener = listen()
    with serving(listener, app) as server, raw(listener, client_identity) as near:
        near.sendall(cut)
        near.shutdown(socket.SHUT_WR)
        assert read_all(near) == b""
        wait_for(lambda: not server.state.connections)
        wait_for(lambda: not server.state.tasks)


@pytest.mark.parametrize("first", [b"", b"GET /who HT"])
def test_slow_headers_are_cut_off(listen, app, client_identity, monkeypatch, first):
    monkeypatch.setattr(up, "HEAD_SECONDS", 0.3)
    listener = listen()
    with serving(listener, app), raw(listener, client_identity) as near:
        near.sendall(first)
        assert read_all(near) == b""
    with serving(listen(), app):
        pass


def test_slow_headers_of_a_second_request_are_cut_off(listen, app, client_identity, monkeypatch):
    monkeypatch.setattr(up, "HEAD_SECONDS", 0.3)
    listener = listen()
    with serving(listener, app), raw(listener, client_identity) as near:
        near.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        got = b""
        while not got.endswith(b"}"):
            got += near.recv(1 << 16)
        assert got.startswith(b"HTTP/1.1 200")
        # An idle connection lives longer than that; one that has begun a request does not.
        time.sleep(0.4)
        near.sendall(b"GET /who HT")
        start = time.monotonic()
        assert read_all(near) == b""
        assert time.monotonic() - start < 5


def test_no_websocket(listen, app, client_identity):
    listener = listen()
    request = (
        b"GET /who HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with serving(listener, app), raw(listener, client_identity) as near:
        near.sendall(request)
        assert near.recv(12) == b"HTTP/1.1 200"


def test_shutdown_lets_requests_finish(listen, app, transport):
    listener = listen()
    attested = transport(listener)
    http = client(attested)
    with ThreadPoolExecutor(1) as pool, serving(listener, app):
        first = pool.submit(http.get, "/slow")
        time.sleep(0.2)
    assert first.result(DEADLINE).content == b"done"
    with pytest.raises(errors.HostFailed):
        http.get("/who")
    http.close()


def test_async_client(listen, app, transport, server_identity, client_identity):
    async def main():
        attested = transport(listener, kind=AsyncAttestedTransport, max_age_seconds=0.5)
        async with httpx.AsyncClient(transport=attested, base_url=URL, timeout=DEADLINE) as http:
            said = (await http.get("/who")).json()
            assert said["public"] == client_identity.key.public.hex()
            first = attested.last
            assert first.peer.der == server_identity.certificate
            bodies = [os.urandom(1000) for _ in range(32)]
            answers = await asyncio.gather(*(http.post("/echo", content=body) for body in bodies))
            assert [answer.content for answer in answers] == bodies
            big = os.urandom(5 << 20)
            assert (await http.post("/echo", content=big)).content == big
            await asyncio.sleep(0.6)
            answer = await http.get("/who")
            assert answer.extensions["mesatee.connection"] is attested.last
            assert attested.last is not first
            with pytest.raises(errors.TimedOut):
                await http.get("/slow", timeout=0.1)
        assert attested.connections == ()

        def refuse(peer):
            raise errors.LevelTooLow("mine")

        attested = transport(listener, refuse, kind=AsyncAttestedTransport)
        async with httpx.AsyncClient(transport=attested, base_url=URL) as http:
            with pytest.raises(errors.LevelTooLow, match="mine"):
                await http.get("/who")

    listener = listen()
    with serving(listener, app):
        asyncio.run(main())


def test_nothing_leaks(listen, app, transport):
    def descriptors():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    listener = listen()
    with serving(listener, app):
        with client(transport(listener)) as http:
            http.get("/who")
        time.sleep(0.2)
        before = descriptors()
        for _ in range(20):
            with client(transport(listener)) as http:
                http.get("/who")
        wait_for(lambda: descriptors() <= before)


def test_serve_runs_handlers_and_survives_their_failures(listen, dial):
    listener = listen()
    seen = []

    async def handler(connection, end: socket.socket):
        seen.append(connection)
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(end, 100)
        if data == b"fail":
            raise ValueError("secret")
        await loop.sock_sendall(end, data.upper())

    async def stop():
        listener.close()

    with running(lambda: serve(listener, handler), stop):
        for sent, received in ((b"a", b"A"), (b"fail", b""), (b"b", b"B")):
            with stream(dial(listener)) as near:
                near.sendall(sent)
                assert read_all(near) == received
    assert len(seen) == 3


def test_serve_can_be_cancelled(listen, dial):
    listener = listen()

    async def handler(connection, end):
        await asyncio.sleep(DEADLINE)

    async def main():
        task = asyncio.create_task(serve(listener, handler))
        near = await asyncio.to_thread(lambda: stream(dial(listener)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(near.recv, 1) == b""
        near.close()

    asyncio.run(main())
    # The listener is still open.
    dial(listener).close()
