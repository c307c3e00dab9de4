"""The attested channel: connect, handshake with mutual attestation, one small request and its answer.

Beside it in every round: plain TCP, and mutual TLS 1.3 by Python's ssl with a CA of its own and no
resumption. Each server is a process of its own with the same loop; each client is the same code around
another connection. Both attested ends appraise the other through an `AppraisalCache`, as gateway, worker
and party do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ... import _core
from ...errors import Unavailable
from . import peers
from .rows import Goal, Row, Say, compare
from .servers import MESSAGE_BYTES, Attested

ROUNDS, EACH = 30, 8
"""Rounds, and connections of each kind in a round."""
QUICK_ROUNDS, QUICK_EACH = 6, 5
REQUESTS_PER_ROUND: Final = 50
"""Requests on a kept connection in a round."""
EXTRA_GOAL: Final = Goal("at most 2 ms and at most 0.8 of the peer", ours_at_most=2.0, ratio_at_most=0.8)
PEER: Final = "Python ssl mutual"
MS: Final = 1_000.0

Open = Callable[[], socket.socket]
"""Connects, verifies and returns the application's end."""


def plain(port: int) -> socket.socket:
    """A TCP connection without delay."""
    end = socket.create_connection(("127.0.0.1", port))
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def exchange(end: socket.socket, message: bytes) -> None:
    """One request and its answer. Raises `Unavailable` for another answer."""
    end.sendall(message)
    found = b""
    while len(found) < len(message):
        part = end.recv(len(message) - len(found))
        if not part:
            break
        found += part
    if found != message:
        raise Unavailable("the bench's server gave another answer")


def connecting(open_: Open) -> float:
    """Seconds from connect to answer."""
    message = os.urandom(MESSAGE_BYTES)
    start = time.perf_counter()
    end = open_()
    exchange(end, message)
    taken = time.perf_counter() - start
    end.close()
    return taken


def kept(end: socket.socket, count: int) -> float:
    """Seconds of one request, the median of `count` on one connection."""
    message = os.urandom(MESSAGE_BYTES)
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        exchange(end, message)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def attested_opener(port: int, mine: Attested) -> Open:
    """Opens the attested channel."""

    def open_() -> socket.socket:
        connection = _core.connect("127.0.0.1", port, mine.certificate, mine.key, mine.appraise)
        return socket.socket(fileno=connection.detach())

    return open_


def tls_opener(port: int, files: peers.Files) -> Open:
    """Opens mutual TLS 1.3 by Python's ssl."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.certificate("client"), files.key("client"))

    def open_() -> socket.socket:
        return context.wrap_socket(plain(port), server_hostname="127.0.0.1")

    return open_


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench channel``."""
    rounds, each = (QUICK_ROUNDS, QUICK_EACH) if quick else (ROUNDS, EACH)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # Made before the server starts, which reads the same installation key.
        mine = Attested(folder, "worker")
        say("starting the servers")
        tcp_port = stack.enter_context(peers.server("tcp", folder))["port"]
        openers: dict[str, Open] = {
            "tcp": lambda: plain(tcp_port),
            "attested": attested_opener(stack.enter_context(peers.server("attested", folder))["port"], mine),
        }
        missing = ""
        try:
            files = peers.certificates(folder)
            openers["tls"] = tls_opener(stack.enter_context(peers.server("tls", folder))["port"], files)
        except Unavailable as error:
            missing = error.message
        connects, requests = _samples(openers, rounds, each, say)
    return _rows(connects, requests, rounds * each, rounds * REQUESTS_PER_ROUND, missing)


def _samples(
    openers: dict[str, Open], rounds: int, each: int, say: Say
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Per kind: the median of each round, in milliseconds, of connecting and of a request on a kept
    connection."""
    for open_ in openers.values():
        connecting(open_)
    connects: dict[str, list[float]] = {kind: [] for kind in openers}
    requests: dict[str, list[float]] = {kind: [] for kind in openers}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        found: dict[str, list[float]] = {kind: [] for kind in openers}
        for _ in range(each):
            for kind, open_ in openers.items():
                found[kind].append(connecting(open_))
        for kind, open_ in openers.items():
            connects[kind].append(statistics.median(found[kind]) * MS)
            # One at a time, because a server serves one connection at a time.
            with open_() as end:
                requests[kind].append(kept(end, REQUESTS_PER_ROUND) * MS)
    return connects, requests


def _rows(
    connects: dict[str, list[float]], requests: dict[str, list[float]], n: int, kept_n: int, missing: str
) -> tuple[Row, ...]:
    def extra(kind: str) -> list[float]:
        return [full - bare for full, bare in zip(connects.get(kind, ()), connects["tcp"], strict=False)]

    def note(text: str) -> str:
        return f"{text}; no peer: {missing}" if missing else text

    tls = (
        "ours: X25519MLKEM768, Ed25519, evidence appraised and freshness proven at both ends; the peer: P-256"
    )
    return (
        compare(
            "attested mutual, extra over TCP",
            "ms",
            extra("attested"),
            extra("tls"),
            peer_name=PEER,
            goal=EXTRA_GOAL,
            note=note(f"connect to first answer, minus plain TCP in the same round; {tls}"),
            n=n,
        ),
        compare(
            "connect to first answer",
            "ms",
            connects["attested"],
            connects.get("tls", ()),
            peer_name=PEER,
            note=note("the same samples, with what TCP takes"),
            n=n,
        ),
        compare(
            "connect to first answer over TCP",
            "ms",
            connects["tcp"],
            note="what is subtracted: nothing is encrypted or verified",
            n=n,
        ),
        compare(
            "request on a kept connection",
            "ms",
            requests["attested"],
            requests.get("tls", ()),
            peer_name=PEER,
            note=note("no handshake; ours passes a socketpair and a thread at both ends"),
            n=kept_n,
        ),
    )


__all__ = ["measure"]
