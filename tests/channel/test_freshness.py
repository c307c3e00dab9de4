"""Real evidence over real channels: what is relayed, replayed or of age does not count.

The signature over nonces and exporter has its own tests beside the Rust code, with two sessions between which an
exchange is relayed, and in `rust/channel/tests/hostile.rs`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from tests.channel.conftest import DEADLINE, HOST, accept_anyone, stream, wait_for

from mesatee import _core, errors
from mesatee.attestation import (
    Appraisal,
    AppraisalCache,
    Claims,
    GatewayTrust,
    RoleTrust,
    TrustPolicy,
    appraise,
    report_data,
)
from mesatee.attestation.tee import software
from mesatee.channel import (
    AttestedTransport,
    Listener,
    PeerCertificate,
    SigningKey,
    connect,
    make_certificate,
)

COMPONENTS = software.Components("0a" * 32, "0b" * 32, "0c" * 32)


class Machine:
    """An installation that makes software evidence, as a gateway."""

    def __init__(self) -> None:
        self.installation = SigningKey.generate()
        self.now = int(time.time())

    def evidence(self, key: SigningKey, issued: int = -60, expires: int = 3_600) -> bytes:
        claims = Claims.of_key(_core.spki(key.public), "gateway").encode()
        payload = software.payload(
            COMPONENTS, report_data(claims), self.now + issued, self.now + expires, "6.1", "x86_64"
        )
        signature = self.installation.sign(software.to_be_signed(payload))
        return software.build(payload, self.installation.public, signature, claims)

    def certificate(self, key: SigningKey, evidence: bytes) -> bytes:
        return make_certificate(key, "gateway", self.now - 60, self.now + 3_600, evidence)

    def trust(self, seconds: int = 3_600) -> TrustPolicy:
        pins: dict[str, Any] = {
            "tees": ("software",),
            "minimum_level": 2,
            "measurements": (COMPONENTS.measurement,),
            "installation_keys": (software.fingerprint(self.installation.public),),
            "max_age_seconds": seconds,
        }
        return TrustPolicy(GatewayTrust(service="any", **pins), RoleTrust(**pins))

    def judge(self) -> Callable[[PeerCertificate], Appraisal]:
        def judge(peer: PeerCertificate) -> Appraisal:
            return appraise(peer.evidence, peer.spki, self.trust(), int(time.time()), "gateway")

        return judge


@pytest.fixture
def machine() -> Machine:
    return Machine()


def dial(machine: Machine, listener: Listener, client_identity: Any) -> Any:
    return connect(HOST, listener.port, *client_identity.pair, machine.judge())


def opened(certificate: bytes, key: SigningKey) -> Listener:
    return Listener(HOST, 0, certificate, key, accept_anyone)


def test_fresh_evidence_is_accepted(machine, client_identity):
    key = SigningKey.generate()
    listener = opened(machine.certificate(key, machine.evidence(key)), key)
    connection = dial(machine, listener, client_identity)
    assert (connection.appraisal.level, connection.appraisal.tee) == (2, "software")
    connection.close()
    listener.close()


def test_relayed_evidence_is_refused(machine, client_identity):
    """A man in the middle shows the evidence of the real machine under a key of his own."""
    genuine, eve = SigningKey.generate(), SigningKey.generate()
    listener = opened(machine.certificate(eve, machine.evidence(genuine)), eve)
    with pytest.raises(errors.EvidenceRefused, match="another channel key"):
        dial(machine, listener, client_identity)
    assert listener.accept(0.1) is None
    listener.close()


def test_a_relayed_certificate_without_its_key_cannot_even_be_shown(machine):
    genuine, eve = SigningKey.generate(), SigningKey.generate()
    with pytest.raises(errors.MesateeError):
        opened(machine.certificate(genuine, machine.evidence(genuine)), eve)


def test_replayed_evidence_of_an_earlier_start_is_refused(machine, client_identity):
    """The machine's own evidence of yesterday's channel key says nothing of today's."""
    before, today = SigningKey.generate(), SigningKey.generate()
    listener = opened(machine.certificate(today, machine.evidence(before, issued=-86_400)), today)
    with pytest.raises(errors.EvidenceRefused, match="another channel key"):
        dial(machine, listener, client_identity)
    listener.close()


def test_replayed_evidence_that_has_expired_is_refused(machine, client_identity):
    """With the channel key at hand, too: whoever stole it has it until the evidence ends."""
    key = SigningKey.generate()
    listener = opened(machine.certificate(key, machine.evidence(key, issued=-7_200, expires=-3_600)), key)
    with pytest.raises(errors.EvidenceRefused, match="expired"):
        dial(machine, listener, client_identity)
    listener.close()


def test_a_replayed_session_is_refused(listen, refused, client_identity):
    """Every byte that a client once sent, sent again: no connection comes of it."""
    listener = listen()
    sent: list[bytes] = []
    with socket.create_server((HOST, 0)) as relay:

        def copy(a: socket.socket, b: socket.socket, tap: list[bytes]) -> None:
            with suppress(OSError):
                while part := a.recv(1 << 16):
                    tap.append(part)
                    b.sendall(part)

        def run() -> None:
            near = relay.accept()[0]
            with near, socket.create_connection((HOST, listener.port)) as far:
                back = threading.Thread(target=copy, args=(far, near, []))
                back.start()
                copy(near, far, sent)
                with suppress(OSError):
                    far.shutdown(socket.SHUT_WR)
                back.join(DEADLINE)

        thread = threading.Thread(target=run)
        thread.start()
        connection = connect(HOST, relay.getsockname()[1], *client_identity.pair, accept_anyone)
        accepted = listener.accept(DEADLINE)
        with stream(connection) as a, stream(accepted) as b:
            a.sendall(b"pay once")
            assert b.recv(99) == b"pay once"
        thread.join(DEADLINE)
    with socket.create_connection((HOST, listener.port)) as again:
        again.settimeout(DEADLINE)
        with suppress(OSError):
            again.sendall(b"".join(sent))
            while again.recv(1 << 16):
                pass
    wait_for(lambda: refused)
    assert listener.accept(0.1) is None


def test_a_cached_appraisal_is_made_again_at_its_age_limit(machine):
    key, cache, trust = SigningKey.generate(), AppraisalCache(), machine.trust(60)
    evidence, spki = machine.evidence(key), _core.spki(key.public)
    first = cache.appraise(evidence, spki, trust, machine.now, "gateway")
    assert cache.appraise(evidence, spki, trust, machine.now + 59, "gateway") is first
    assert cache.appraise(evidence, spki, trust, machine.now + 60, "gateway").at == machine.now + 60


def test_a_cached_appraisal_counts_for_one_policy(machine):
    key, cache = SigningKey.generate(), AppraisalCache()
    evidence, spki = machine.evidence(key), _core.spki(key.public)
    cache.appraise(evidence, spki, machine.trust(), machine.now, "gateway")
    with pytest.raises(errors.MesateeError):
        cache.appraise(evidence, spki, TrustPolicy(), machine.now, "gateway")


def test_a_request_starts_on_no_cached_appraisal_that_is_of_age(machine, client_identity):
    """The appraisal of a new connection comes from the cache and has a second left: the next request asks again."""
    key, cache = SigningKey.generate(), AppraisalCache()
    listener = opened(machine.certificate(key, machine.evidence(key)), key)
    trust, shift = machine.trust(60), [-58]
    asked: list[Appraisal] = []

    def judge(peer: PeerCertificate) -> Appraisal:
        at = int(time.time()) + shift[0]
        asked.append(cache.appraise(peer.evidence, peer.spki, trust, at, "gateway"))
        return asked[-1]

    def answer() -> None:
        with suppress(errors.Unavailable):
            while (accepted := listener.accept(DEADLINE)) is not None:
                threading.Thread(target=echo_http, args=(stream(accepted),), daemon=True).start()

    threading.Thread(target=answer, daemon=True).start()
    transport = AttestedTransport(HOST, listener.port, *client_identity.pair, judge)
    with httpx.Client(transport=transport, base_url="http://gateway") as http:
        http.get("/")
        assert len(asked) == 1
        shift[0] = 0
        http.get("/")
        assert len(asked) == 1, "two seconds are left"
        time.sleep(max(0.0, asked[0].expires - time.time()) + 0.1)
        http.get("/")
        assert len(asked) == 2
        assert asked[1].at >= asked[0].expires
    listener.close()


def echo_http(end: socket.socket) -> None:
    """Answers each request on a kept connection."""
    with end, suppress(OSError):
        while end.recv(1 << 16):
            end.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
