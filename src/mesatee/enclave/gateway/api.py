"""The HTTP API. It parses and answers; it decides nothing, holds no key, and reaches state only through the monitor."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import (
    HostFailed,
    InputError,
    KeyRefused,
    Malformed,
    MesateeError,
    NotFound,
    TimedOut,
    TooLarge,
)
from ...protocol import envelope as dsse
from ...protocol import limits, merkle, wire
from ...protocol.digests import b64decode, is_hex, sha256
from ...protocol.jsonstrict import canonical, parse_object
from ...protocol.model import validate
from . import openapi, transfers
from .decided import LOGGED
from .keyring import attempt_key
from .peer import Peer
from .routing import Routes
from .views import Views

if TYPE_CHECKING:
    from .gateway import Gateway

Handler = Callable[["Call"], Awaitable[Response]]


class Call:
    """One request with its verified peer."""

    def __init__(self, gateway: Gateway, request: Request, peer: Peer) -> None:
        self.gateway = gateway
        self.request = request
        self.peer = peer
        self.subject = ""

    async def body(self, limit: int = limits.REQUEST_BYTES) -> bytes:
        """The body, refused as soon as it is over `limit` bytes or `BODY_SECONDS`."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.BODY_SECONDS):
                async for part in self.request.stream():
                    size += len(part)
                    if size > limit:
                        raise TooLarge(f"the request body has more than {limit} bytes")
                    parts.append(part)
        except TimeoutError:
            raise TimedOut(f"the request body did not arrive within {limits.BODY_SECONDS} seconds") from None
        return b"".join(parts)

    def path(self, name: str) -> str:
        """A path parameter that is a digest. Raises `Malformed`."""
        value = str(self.request.path_params[name])
        if not is_hex(value, 32):
            raise Malformed(f"{name} is a SHA-256 in lower-case hex")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """A decimal number from path or query. Raises `Malformed`."""
        value = self.request.path_params.get(name, self.request.query_params.get(name))
        if value is None and default is not None:
            return default
        text = str(value)
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise Malformed(f"{name} is a decimal number")
        return int(text)

    def registered(self) -> None:
        """Metadata is for registered parties."""
        if self.peer.role != "party":
            raise KeyRefused("this is for parties")
        self.gateway.monitor.state.party(self.peer.key)


def reply(model: BaseModel, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(canonical(model.model_dump(mode="json")), status, media_type="application/json")


# -- service and log --------------------------------------------------------------------------------


async def service(call: Call) -> Response:
    """Who this is."""
    return reply(call.gateway.describe(call.peer))


async def checkpoint(call: Call) -> Response:
    """tlog-tiles: the signed head."""
    return PlainTextResponse(call.gateway.monitor.checkpoint().note)


async def consistency(call: Call) -> Response:
    """A consistency proof between two sizes."""
    first, second = call.number("first"), call.number("second")
    path = call.gateway.log.consistency(first, second)
    return reply(wire.ProofReply(first=first, second=second, path=tuple(item.hex() for item in path)))


async def entry(call: Call) -> Response:
    """One log record with salt and inclusion proof, for the parties concerned; ``size`` names an earlier tree."""
    call.registered()
    index, size = call.number("index"), call.number("size", 0)
    proof = await asyncio.to_thread(call.gateway.log.prove, index, size or None)
    audience = call.gateway.monitor.state.audience(proof.read())
    if audience is not None and call.peer.key not in audience:
        raise NotFound(f"log entry {index} does not concern you")
    return reply(proof)


_TILE = re.compile(r"(?P<index>(?!x000/)(x[0-9]{3}/){0,4}[0-9]{3})(\.p/(?P<width>[1-9][0-9]{0,2}))?")


def _tile_path(text: str) -> tuple[int, int]:
    """tlog-tiles: groups of three digits, all but the last with x; an optional .p/W suffix."""
    match = _TILE.fullmatch(text)
    if match is None:
        raise Malformed(
            "a tile's index is written in groups of three digits, as in x001/234, with .p/1 to .p/255 for a part"
        )
    width = int(match["width"] or merkle.TILE)
    if width > merkle.TILE or (match["width"] and width == merkle.TILE):
        raise Malformed("a partial tile has a width of 1 to 255")
    return int(re.sub("[x/]", "", match["index"])), width


async def tile(call: Call) -> Response:
    """tlog-tiles: hashes, or entry bundles at level ``entries``."""
    level = str(call.request.path_params["level"])
    index, width = _tile_path(str(call.request.path_params["index"]))
    if level == "entries":
        rows = await asyncio.to_thread(call.gateway.log.entries, index * merkle.TILE, width)
        data = b"".join(len(row).to_bytes(2, "big") + row for row in rows)
    elif level.isascii() and level.isdigit() and len(level) == 1:
        data = call.gateway.log.tile(int(level), index, width)
    else:
        raise Malformed("a tile's level is 0 to 7, or entries")
    return Response(data, media_type="application/octet-stream")


# -- statements and views ----------------------------------------------------------------------------


async def post_statement(call: Call) -> Response:
    """Post any statement of a party; for ``collect`` the answer carries the released keys."""
    envelope = dsse.from_bytes(await call.body(limits.STATEMENT_BYTES))
    call.subject = envelope.digest
    return reply(await call.gateway.post(call.peer, envelope))


async def invoke(call: Call) -> Response:
    """Run a task and wait for its end; the answer carries the released keys and the small ones of the outputs."""
    body = validate(wire.InvokeRequest, parse_object(await call.body(2 * limits.STATEMENT_BYTES)), "request")
    run, collect = dsse.from_dict(body.run), dsse.from_dict(body.collect)
    call.subject = run.digest
    return reply(await call.gateway.invoke(call.peer, run, collect, body.wait))


async def parties(call: Call) -> Response:
    """All registered parties with their keys; a page from log index ``after`` on, as with every list."""
    call.registered()
    return reply(await asyncio.to_thread(Views(call.gateway).parties, call.number("after", 0)))


async def datasets(call: Call) -> Response:
    """All datasets in use, without their wraps."""
    call.registered()
    return reply(Views(call.gateway).datasets(call.peer.key, call.number("after", 0)))


async def functions(call: Call) -> Response:
    """All functions that the party may see."""
    call.registered()
    return reply(Views(call.gateway).functions(call.peer.key, call.number("after", 0)))


async def tasks(call: Call) -> Response:
    """The tasks that concern the party."""
    call.registered()
    return reply(Views(call.gateway).tasks(call.peer.key, call.number("after", 0)))


async def task(call: Call) -> Response:
    """One task; with ``after`` waits until the log has grown beyond that size and the task may have changed."""
    call.registered()
    digest = call.path("digest")
    held = call.gateway.monitor.state.task(digest)
    if call.peer.key not in call.gateway.monitor.state.concerned(held):
        raise NotFound(f"there is no task {digest[:16]}")
    after = call.number("after", 0)
    wait = min(call.number("wait", 0), wire.WATCH_SECONDS)
    if wait:
        await call.gateway.changed(digest, after, wait)
    return reply(Views(call.gateway).task(held))


# -- blobs --------------------------------------------------------------------------------------------


async def put_blob(call: Call) -> Response:
    """Store a sealed file under its digest. Ciphertext needs no permit: without one it stays ciphertext."""
    if call.peer.role != "worker":
        call.registered()
    digest = call.path("digest")
    length = call.request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise Malformed("a blob is sent with its Content-Length")
    size = int(length)
    if not 1 <= size <= limits.BLOB_BYTES:
        raise TooLarge(f"a blob has 1 to {limits.BLOB_BYTES} bytes")
    await transfers.store(
        _lively(call.request.stream()), lambda chunks: call.gateway.blobs.put(digest, chunks, size)
    )
    return reply(wire.ListReply(items=()), 201)


async def _lively(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, from a sender that goes on sending. Raises `TimedOut`."""
    while True:
        try:
            async with asyncio.timeout(limits.STALL_SECONDS):
                part = await anext(parts, None)
        except TimeoutError:
            raise TimedOut(
                f"the blob's next bytes did not come within {limits.STALL_SECONDS} seconds"
            ) from None
        if part is None:
            return
        yield part


async def get_blob(call: Call) -> Response:
    """Stream a sealed file, whole or from ``start``."""
    if call.peer.role != "worker":
        call.registered()
    digest, start = call.path("digest"), call.number("start", 0)
    size = await asyncio.to_thread(call.gateway.blobs.size, digest)
    if start > size:
        raise Malformed(f"the blob has {size} bytes")
    downloads, who = call.gateway.downloads, call.peer.key
    downloads.check(who)

    async def stream() -> AsyncIterator[bytes]:
        with downloads.running(who):
            source = call.gateway.blobs.get(digest, start)
            while (piece := await asyncio.to_thread(next, source, b"")) != b"":
                yield piece

    headers = {"content-length": str(size - start)}
    return StreamingResponse(stream(), headers=headers, media_type="application/octet-stream")


# -- workers ------------------------------------------------------------------------------------------


async def post_attempt(call: Call) -> Response:
    """A worker asks for the keys of the run that its ticket stands for."""
    facts = call.peer.facts("worker", call.gateway.service_digest)
    body = validate(wire.GrantRequest, parse_object(await call.body()), "request")
    ticket = b64decode(body.ticket, max_bytes=limits.TICKET_BYTES)
    return reply(await call.gateway.grant(call.peer, facts, ticket, attempt_key(body.attempt_key)))


async def renew(call: Call) -> Response:
    """A worker says that it is still running."""
    call.peer.facts("worker", call.gateway.service_digest)
    return reply(call.gateway.renew(call.peer, call.number("fence")))


async def finish(call: Call) -> Response:
    """A worker hands in its receipt."""
    call.peer.facts("worker", call.gateway.service_digest)
    body = validate(wire.FinishRequest, parse_object(await call.body()), "request")
    index = await call.gateway.finish(
        call.peer, call.number("fence"), dsse.from_dict(body.receipt), dict(body.wraps)
    )
    return reply(wire.FinishReply(index=index))


# -- other gateways -----------------------------------------------------------------------------------


async def hand_over(call: Call) -> Response:
    """A peer gateway asks for the service's keys, as the service statement allows it."""
    if call.peer.role != "gateway":
        raise KeyRefused("only an attested gateway may receive a service's keys")
    body = validate(wire.HandOverRequest, parse_object(await call.body()), "request")
    call.subject = sha256(to := attempt_key(body.key))
    return reply(await call.gateway.hand_over(call.peer, to))


# -- the app ------------------------------------------------------------------------------------------


async def describe_api(call: Call) -> Response:
    """This API as OpenAPI 3.1."""
    return JSONResponse(openapi.document(ROUTES))


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v1/service", service),
    ("GET", "/v1/log/checkpoint", checkpoint),
    ("GET", "/v1/log/consistency", consistency),
    ("GET", "/v1/log/entry/{index}", entry),
    ("GET", "/v1/log/tile/{level}/{index:path}", tile),
    ("POST", "/v1/statements", post_statement),
    ("POST", "/v1/invoke", invoke),
    ("GET", "/v1/parties", parties),
    ("GET", "/v1/datasets", datasets),
    ("GET", "/v1/functions", functions),
    ("GET", "/v1/tasks", tasks),
    ("GET", "/v1/tasks/{digest}", task),
    ("PUT", "/v1/blobs/{digest}", put_blob),
    ("GET", "/v1/blobs/{digest}", get_blob),
    ("POST", "/v1/attempts", post_attempt),
    ("POST", "/v1/attempts/{fence}/renew", renew),
    ("POST", "/v1/attempts/{fence}/receipt", finish),
    ("POST", "/v1/service/handover", hand_over),
    ("GET", "/v1/openapi.json", describe_api),
)
"""Every route there is. A test walks this table."""

CHANGES_STATE = frozenset({post_statement, invoke, post_attempt, finish, hand_over})
"""Handlers whose refusals are logged before the caller is told."""

SHOWS_STATE = frozenset({service, parties, datasets, functions, tasks, task})
"""Handlers whose answers wait until all that they show is durable."""


AFTER_THE_END = frozenset({hand_over})
"""Handlers that the monitor may answer when it serves nobody else: the successor that lost its keys on the way."""


def build(gateway: Gateway) -> ASGIApp:
    """The ASGI app: one layer, for each request passes it. What it does not expect is for the server to answer."""
    routes = Routes(ROUTES)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        found = routes.find(method, path)
        if found is None:
            response = no_route(405 if routes.knows(path) else 404)
        else:
            handler, scope["path_params"] = found
            response = await run(handler, Request(scope, receive, send))
        await response(scope, receive, send)

    async def run(handler: Handler, request: Request) -> Response:
        peer = request.scope["mesatee.connection"].appraisal
        if not isinstance(peer, Peer):
            raise KeyRefused("this connection has no verified peer")
        call = Call(gateway, request, peer)
        try:
            call.peer = gateway.current(peer)
            if handler not in AFTER_THE_END or gateway.monitor.halted:
                gateway.monitor.serving()
            if handler in SHOWS_STATE:
                return await gateway.settled(lambda: handler(call))
            return await handler(call)
        except MesateeError as error:
            return await refuse(call, handler, error)
        except ClientDisconnect:
            # Nobody reads it; to say so in the log of the server would let peers fill that.
            return Response(status_code=400)

    async def refuse(call: Call, handler: Handler, error: MesateeError) -> Response:
        gateway.note_refusal(call.peer, handler.__name__, error)
        if handler in CHANGES_STATE and isinstance(error, (*LOGGED, InputError)):
            try:
                await gateway.monitor.denied(call.peer, handler.__name__, call.subject, error)
            except MesateeError as failure:
                error = failure
        if isinstance(error, HostFailed):
            gateway.host_failed(error)
        return said(error, error.status)

    def no_route(status: int) -> Response:
        hint = "GET /v1/openapi.json lists all of them"
        return said(NotFound("there is no such route or method", hint=hint), status)

    def said(error: MesateeError, status: int) -> Response:
        return Response(canonical({"error": error.as_dict()}), status, media_type="application/json")

    return app


__all__ = ["ROUTES", "build"]
