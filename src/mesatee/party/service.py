"""Which service an owner trusts: the service statement against the trust policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..attestation.trust import ANY, TrustPolicy
from ..errors import KeyRefused
from ..protocol import envelope as dsse
from ..protocol import statements


@dataclass(frozen=True, slots=True)
class Service:
    """A verified service statement."""

    digest: str
    said: statements.ServiceStatement
    envelope: dsse.Envelope

    @property
    def log_key(self) -> bytes:
        """The log's Ed25519 public key, 32 bytes."""
        return bytes.fromhex(self.said.log_key)


def check_service(envelope: Mapping[str, Any], trust: TrustPolicy) -> Service:
    """The service statement, if the trust policy accepts it.

    1. It is one, and signed by the log key that it names.
    2. Its digest is one that the policy lists, unless the policy says ``any``.
    3. Log origin and log key are those of the policy.
    4. Something of it is pinned: a policy of ``any`` service must name the log key and the origin.

    Raises `Malformed`, `UnsupportedVersion`, `SignatureInvalid` or `KeyRefused`.
    """
    # 1. Signature.
    statement = statements.verify(dsse.from_dict(dict(envelope)), "service")
    said = statement.predicate
    if not isinstance(said, statements.ServiceStatement):
        raise KeyRefused("this is no service statement")
    pins = trust.gateway
    # 2. Digest.
    if pins.service != ANY and statement.digest not in pins.service:
        raise KeyRefused(
            f"the service statement {statement.digest[:16]} is not one that the trust policy names",
            hint="the service has other rules or was set up anew: ask its operator, then pin the digest",
        )
    # 3. Origin and key.
    if pins.log_origin and said.origin != pins.log_origin:
        raise KeyRefused(f"the log is {said.origin}; the trust policy names {pins.log_origin}")
    if pins.log_key and said.log_key != pins.log_key:
        raise KeyRefused("the log's key is not the one that the trust policy names")
    # 4. Something is pinned.
    if pins.service == ANY and not (pins.log_origin and pins.log_key):
        raise KeyRefused(
            "the trust policy accepts any service statement and names no log",
            hint="pin `service`, or `log_origin` and `log_key`, in the trust file",
        )
    return Service(statement.digest, said, statement.envelope)


__all__ = ["Service", "check_service"]
