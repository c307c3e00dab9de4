"""The worker's side of the gateway's API, over the attested channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx

from ..._core import PeerCertificate, SigningKey, make_certificate, spki
from ...attestation.appraisal import Appraisal
from ...attestation.endorsements import Source, nothing
from ...attestation.evidence import Claims
from ...attestation.trust import TrustPolicy
from ...attestation.verify import appraise
from ...channel import CONNECTION_AGE_SECONDS, AttestedTransport
from ...errors import EvidenceRefused, HostFailed, KeyRefused, TooLarge, Unavailable, from_dict
from ...protocol import envelope as dsse
from ...protocol import limits, wire
from ...protocol.digests import b64encode, sha256
from ...protocol.jsonstrict import canonical, parse_object
from ...protocol.model import Model, validate
from ..platform.base import Attester

CERTIFICATE_SECONDS = 86_400
"""Life of a worker's channel certificate."""
TIMEOUT_SECONDS = 30.0
"""For one request to the gateway."""

M = TypeVar("M", bound=Model)
Offered = Callable[[], Mapping[str, str]]
"""Environments that a worker offers: name -> digest, hex."""


class GatewayClient:
    """Mutually attested. Thread-safe."""

    def __init__(
        self,
        host: str,
        port: int,
        attester: Attester,
        trust: TrustPolicy,
        environments: Offered,
        endorsements: Source = nothing,
    ) -> None:
        """`environments`: name -> digest of what this worker offers now; asked again before each attempt."""
        self._endorsements = endorsements
        self._where = (host, port)
        self._attester = attester
        self._environments = environments
        self._trust = trust
        self._service = _only(trust)
        self._open()

    def _open(self) -> None:
        """A fresh channel key with evidence bound to it."""
        now = int(time.time())
        self.key = SigningKey.generate()
        self._offered = dict(self._environments())
        claims = Claims.of_key(
            spki(self.key.public), "worker", service=self._service, environments=self._offered
        )
        self.evidence = self._attester.evidence(claims)
        certificate = make_certificate(
            self.key, "mesatee worker", now - 60, now + CERTIFICATE_SECONDS, self.evidence
        )
        age = min(CONNECTION_AGE_SECONDS, self._trust.gateway.max_age_seconds)
        self._transport = AttestedTransport(
            *self._where, certificate, self.key, self._appraise, max_age_seconds=age
        )
        self._http = httpx.Client(
            transport=self._transport, base_url="http://mesatee", timeout=TIMEOUT_SECONDS
        )
        self._renew_at = time.monotonic() + CERTIFICATE_SECONDS / 2

    def refresh(self) -> None:
        """Between two attempts: replace key and evidence long before they expire, and when the worker has other
        environments than the evidence names.
        """
        if time.monotonic() >= self._renew_at or dict(self._environments()) != self._offered:
            self._http.close()
            self._open()

    def _appraise(self, certificate: PeerCertificate) -> Appraisal:
        now, endorsements = int(time.time()), self._endorsements()
        return appraise(certificate.evidence, certificate.spki, self._trust, now, "gateway", endorsements)

    def seen(self) -> tuple[str, Appraisal]:
        """SHA-256 of the certificate of the gateway of the newest connection, and the appraisal that let it in.

        Raises `Unavailable` before there was a connection.
        """
        last = self._transport.last
        if last is None:
            raise Unavailable("there was no connection to the gateway yet")
        return sha256(last.peer.der), last.appraisal

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def service(self) -> wire.ServiceReply:
        """Who the gateway is. Raises `KeyRefused` if it is not of the service that this worker's evidence names."""
        found = self._call("GET", "/v1/service", wire.ServiceReply)
        if found.digest != self._service:
            raise KeyRefused("the gateway answers for another service than the one that this worker serves")
        return found

    def attempt(self, ticket: bytes, attempt_key: bytes) -> wire.GrantReply:
        """Ask for the keys of the run that the ticket stands for."""
        body = {"ticket": b64encode(ticket), "attempt_key": b64encode(attempt_key)}
        return self._call("POST", "/v1/attempts", wire.GrantReply, body)

    def renew(self, fence: int) -> wire.RenewReply:
        """Keep the lease. Raises `Conflict` when the attempt no longer counts."""
        return self._call("POST", f"/v1/attempts/{fence}/renew", wire.RenewReply, {})

    def finish(self, fence: int, receipt: dsse.Envelope, wraps: Mapping[str, str]) -> wire.FinishReply:
        """Hand in the receipt."""
        body = {"receipt": receipt.as_dict(), "wraps": dict(wraps)}
        return self._call("POST", f"/v1/attempts/{fence}/receipt", wire.FinishReply, body)

    def _call(self, method: str, path: str, model: type[M], body: object | None = None) -> M:
        content = canonical(body) if body is not None else None
        try:
            with self._http.stream(method, path, content=content) as response:
                data = bytearray()
                for part in response.iter_bytes():
                    data += part
                    if len(data) > limits.RESPONSE_BYTES:
                        raise TooLarge(f"the gateway's answer has more than {limits.RESPONSE_BYTES} bytes")
        except httpx.HTTPError as error:
            raise HostFailed(f"the gateway does not answer: {type(error).__name__}") from None
        value = parse_object(bytes(data), limit=limits.RESPONSE_BYTES)
        if response.status_code >= 400:
            failure = value.get("error")
            raise from_dict(failure if isinstance(failure, dict) else {})
        return validate(model, value, "answer")


def _only(trust: TrustPolicy) -> str:
    """The one service that a worker serves. Its evidence names it, because outputs are wrapped to that service's key:
    what the launcher says to this process must not decide that alone.
    """
    named = trust.gateway.service
    if isinstance(named, str) or len(named) != 1:
        raise EvidenceRefused(
            "a worker serves exactly one service",
            hint="name its statement's digest, and no other, in `gateway.service` of the worker's trust policy",
        )
    return named[0]


__all__ = ["GatewayClient"]
