"""The gateway: authorised and logged requests a second over kept attested connections.

One authorised request is a party's signed statement that registers a function: the gateway checks that the
peer of the channel signed it, verifies signature, checkpoint and form, asks the platform's policy, and
answers once the entry is durable in the log (group commit). The statements are signed before the clock
starts; each is sent once. The service is the embedded one: gateway, host and an idle worker as processes.

The peer is a Starlette app with the same h11 parser in uvicorn behind Python's TLS, one process, which
takes the same bodies and answers as much, and checks, decides and stores nothing. Both are driven by the
same native load generator with as many connections, in turns.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ... import _core
from ...attestation.verify import appraise
from ...errors import Denied, Unavailable
from ...party.config import endpoint, read_trust
from ...party.identity import Identity
from ...party.session import Session
from ...protocol import statements
from ...protocol.author import Author
from .. import up
from . import loadgen, peers
from .rows import Goal, Row, Say, compare

ROUNDS, EACH = 5, 4_000
QUICK_ROUNDS, QUICK_EACH = 2, 400
CONNECTIONS: Final = 64
"""Kept connections: enough that a batch of the log is worth its commit."""
RATIO_GOAL: Final = Goal("ratio at least 0.15, aim 0.35; aim 5,000 a second", ratio_at_least=0.15)
PEER: Final = "bare Starlette + h11 + Python ssl"
MS: Final = 1_000.0


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the load generator: requests a second, and two percentiles of their time in milliseconds."""

    rate: float
    p50: float
    p95: float

    @classmethod
    def of(cls, said: dict[str, Any]) -> Load:
        """Raises `Denied` when a request was not answered with 200: then something else was measured."""
        if said["refused"]:
            raise Denied(f"{said['refused']} of {said['requests']} requests of the load were refused")
        return cls(said["requests"] / said["seconds"], said["p50"] * MS, said["p95"] * MS)


def request(body: bytes) -> bytes:
    """One HTTP/1.1 request with its length before it."""
    head = (
        "POST /v1/statements HTTP/1.1\r\nHost: mesatee\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    whole = head.encode() + body
    return len(whole).to_bytes(4, "big") + whole


def author(session: Session) -> Author:
    """Signs for a session's identity over the checkpoint that it has verified."""
    said = session.service
    return Author(
        signer=session.identity.signing,
        origin=said.said.origin,
        service=said.digest,
        checkpoint=session.checkpoint.note,
        time=int(time.time()),
        nonce=lambda: secrets.token_hex(16),
    )


def registrations(session: Session, count: int) -> list[bytes]:
    """Signed statements that each register a built-in function under a name of its own."""
    by = author(session)
    port = statements.Port(name="data", format="bytes")
    return [
        by.write(
            statements.FunctionStatement,
            name=f"bench-{secrets.token_hex(8)}",
            executor="builtin",
            entry="echo",
            private=False,
            code=None,
            inputs=(port,),
            variadic=False,
            callers=None,
            quota=None,
            arguments=(),
            outputs=(port,),
        ).envelope.to_bytes()
        for _ in range(count)
    ]


def presences(session: Session, count: int) -> list[bytes]:
    """Signed statements that say which checkpoint was verified, and about which no policy is asked."""
    by = author(session)
    return [by.write(statements.PresenceStatement).envelope.to_bytes() for _ in range(count)]


class Attested:
    """The load on a running service."""

    def __init__(self, program: Path, folder: Path, session: Session, url: str) -> None:
        self._program, self._folder, self._session = program, folder, session
        self._at = endpoint(url)
        identity = session.identity
        certificate = identity.certificate(int(time.time()))
        (folder / "client.der").write_bytes(certificate)

        def judge(peer: _core.PeerCertificate) -> object:
            return appraise(peer.evidence, peer.spki, session.trust, int(time.time()), "gateway")

        # The load generator accepts the key alone that is appraised here.
        connection = _core.connect(self._at.host, self._at.port, certificate, identity.signing, judge)
        (folder / "server.public").write_bytes(connection.peer.public)
        connection.close()

    def __call__(self, bodies: Sequence[bytes]) -> Load:
        """Send each body once."""
        path = self._folder / "requests"
        path.write_bytes(b"".join(map(request, bodies)))
        at, folder = self._at, self._folder
        key = self._session.identity.folder / "signing.key"
        arguments = (
            at.host,
            at.port,
            CONNECTIONS,
            path,
            folder / "client.der",
            key,
            folder / "server.public",
        )
        return Load.of(loadgen.run(self._program, "attested", *arguments))


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench gateway``. Raises `Unavailable` without the native load generator."""
    rounds, each = (QUICK_ROUNDS, QUICK_EACH) if quick else (ROUNDS, EACH)
    program = loadgen.binary(say)
    found: dict[str, list[Load]] = {"registered": [], "presence": [], "peer": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(up.running(folder / "home", say=say))
        identity = Identity.create(folder / "home", "bench")
        trust = read_trust(folder / "home" / "trust.toml")
        session = stack.enter_context(Session(service.url, identity, trust))
        attested = Attested(program, folder, session, service.url)
        bare, missing = _bare(stack, program, folder, session)
        attested(registrations(session, CONNECTIONS))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: signing")
            session.refresh()
            bodies = registrations(session, each)
            say(f"round {number + 1} of {rounds}: measuring")
            found["registered"].append(attested(bodies))
            if bare:
                found["peer"].append(bare(bodies))
            found["presence"].append(attested(presences(session, each)))
        entries = session.refresh().size
    return _rows(found, each, missing, entries)


def _bare(
    stack: contextlib.ExitStack, program: Path, folder: Path, session: Session
) -> tuple[Callable[[Sequence[bytes]], Load] | None, str]:
    try:
        files = peers.certificates(folder)
    except Unavailable as error:
        return None, error.message
    # As long as the gateway's answer: digest, index and checkpoint.
    posted = session.post(statements.PresenceStatement)
    answer = (
        f'{{"already":false,"checkpoint":"{"x" * len(session.checkpoint.note)}",'
        f'"digest":"{posted.digest}","index":{posted.index},"result":null}}'
    )
    (folder / "answer.json").write_text(answer)
    port = stack.enter_context(peers.server("app", folder))["port"]

    def bare(bodies: Sequence[bytes]) -> Load:
        path = folder / "requests"
        path.write_bytes(b"".join(map(request, bodies)))
        return Load.of(loadgen.run(program, "tls", "127.0.0.1", port, CONNECTIONS, path, files.ca_der))

    return bare, ""


def _rows(found: dict[str, list[Load]], each: int, missing: str, entries: int) -> tuple[Row, ...]:
    registered, presence, peer = found["registered"], found["presence"], found["peer"]
    absent = f"; no peer: {missing}" if missing else ""
    n = each * len(registered)
    how = f"{CONNECTIONS} connections, each request signed apart"
    return (
        compare(
            "authorised and logged requests",
            "1/s",
            [load.rate for load in registered],
            [load.rate for load in peer],
            peer_name=PEER,
            goal=RATIO_GOAL,
            note=f"{how}: identity check, policy, durable entry; {entries} entries at the end{absent}",
            n=n,
        ),
        compare(
            "logged requests without a policy decision",
            "1/s",
            [load.rate for load in presence],
            [load.rate for load in peer],
            peer_name=PEER,
            note=f"{how}: presence statements{absent}",
            n=n,
        ),
        compare(
            "time of an authorised request, p50",
            "ms",
            [load.p50 for load in registered],
            [load.p50 for load in peer],
            peer_name=PEER,
            note=f"at full load of {CONNECTIONS} connections{absent}",
            n=n,
        ),
        compare(
            "time of an authorised request, p95",
            "ms",
            [load.p95 for load in registered],
            [load.p95 for load in peer],
            peer_name=PEER,
            note=f"at full load of {CONNECTIONS} connections{absent}",
            n=n,
        ),
    )


__all__ = ["measure"]
