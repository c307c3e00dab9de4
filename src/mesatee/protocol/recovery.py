"""What passes between a gateway that recovers a service and the holders of its shares.

Files, carried by people. None is a secret: the request is public, and a share is wrapped to the key of the request. A
holder consents to one request: its digest is in the share's wrap, so the share counts for no other one.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from ..errors import Denied, KeyRefused
from . import limits, statements
from .digests import Hex32, HpkePublic, sha256
from .jsonstrict import canonical, parse_object
from .model import Model, Time, validate
from .service import ShareRule

SUCCESSOR = "successor-key"
"""The claim of a gateway's evidence that vouches for the key under which it receives keys: its SHA-256, 32 bytes."""
_CONTEXT = b"mesatee recovery v1"
M = TypeVar("M", bound="_Message")

_Evidence = Annotated[str, StringConstraints(min_length=4, max_length=2 * limits.CERTIFICATE_BYTES)]


class _Message(Model):
    v: Literal[2] = 2

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.model_dump(mode="json"))


class RecoveryRequest(_Message):
    """A fresh gateway asks the holders for their shares, until `expires` (Unix seconds).

    `evidence` (base64) is about the key `spki` and vouches for the X-Wing key `key`, to which shares are wrapped. Both
    keys are of this request alone.
    """

    kind: Literal["recovery-request"] = "recovery-request"
    service: Hex32
    spki: Annotated[str, StringConstraints(min_length=4, max_length=1_024)]
    evidence: _Evidence
    key: HpkePublic
    expires: Time

    @property
    def digest(self) -> str:
        """What a holder consents to."""
        return sha256(self.to_bytes())


class RecoveryShare(_Message):
    """One holder's share, wrapped to the gateway that asked for it, for the request with the digest `request`."""

    kind: Literal["recovery-share"] = "recovery-share"
    service: Hex32
    set: Hex32
    request: Hex32
    holder: Hex32
    index: Annotated[int, Field(ge=1, le=limits.SHARE_HOLDERS)]
    wrap: Annotated[str, StringConstraints(min_length=4, max_length=2_048)]


def parse(model: type[M], data: bytes) -> M:
    """Read a message. Raises `Malformed` or `TooLarge`."""
    return validate(model, parse_object(data, limit=limits.RECOVERY_MESSAGE_BYTES), "recovery message")


def check_set(recovery: statements.Statement, service: statements.Statement) -> statements.RecoveryStatement:
    """The set of shares is the service's own and has the holders that its statement names.

    Raises `KeyRefused` or `Denied`.
    """
    said = statements.expect(service.predicate, statements.ServiceStatement)
    found = statements.expect(recovery.predicate, statements.RecoveryStatement)
    if recovery.signer != said.log_key or found.service != service.digest or found.origin != said.origin:
        raise KeyRefused("these shares are of another service")
    rule = said.share_holders
    if not isinstance(rule, ShareRule):
        raise Denied("this service has no share holders: its service statement says so")
    if found.k != rule.k or [share.holder for share in found.shares] != [one.key for one in rule.holders]:
        raise KeyRefused("these shares have other holders than the service statement names")
    return found


def key_context(service: str, set_: str, name: str) -> bytes:
    """What one of the service's keys under a recovery key is bound to."""
    return _CONTEXT + canonical({"service": service, "set": set_, "key": name})


__all__ = ["SUCCESSOR", "RecoveryRequest", "RecoveryShare", "check_set", "key_context", "parse"]
