"""A gateway as the client of its predecessor: the one request of a hand-over, over the attested channel."""

from __future__ import annotations

import time

import httpx

from .._core import PeerCertificate, SigningKey, make_certificate
from ..attestation.appraisal import Appraisal
from ..attestation.trust import TrustPolicy
from ..attestation.verify import appraise
from ..channel import AttestedTransport
from ..errors import HostFailed, TooLarge, from_dict
from ..protocol import limits, wire
from ..protocol.digests import b64encode
from ..protocol.jsonstrict import canonical, parse_object
from ..protocol.model import validate
from .gateway.succession import claims_of
from .platform.base import Attester

TIMEOUT_SECONDS = 30.0
"""For the request and its answer."""
CERTIFICATE_SECONDS = 3_600
"""Life of the channel certificate."""


def ask(
    attester: Attester, where: tuple[str, int], trust: TrustPolicy, service: str, to: bytes
) -> wire.HandOverReply:
    """Ask the gateway at `where`, judged by `trust`, for the keys of `service`, wrapped to `to`.

    Raises what that gateway refuses with, what its appraisal raises, and `HostFailed` if it does not answer.
    """
    now, key = int(time.time()), SigningKey.generate()
    evidence = attester.evidence(claims_of(key, service, to))
    certificate = make_certificate(key, "mesatee gateway", now - 60, now + CERTIFICATE_SECONDS, evidence)

    def judge(found: PeerCertificate) -> Appraisal:
        return appraise(found.evidence, found.spki, trust, int(time.time()), "gateway")

    transport = AttestedTransport(*where, certificate, key, judge)
    try:
        with httpx.Client(transport=transport, base_url="http://mesatee", timeout=TIMEOUT_SECONDS) as http:
            body = canonical({"key": b64encode(to)})
            with http.stream("POST", "/v1/service/handover", content=body) as response:
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
    return validate(wire.HandOverReply, value, "answer")


__all__ = ["ask"]
