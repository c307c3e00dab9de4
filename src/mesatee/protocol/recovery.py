"""What passes between a gateway that recovers a service and the holders of its shares.

Files, carried by people. Neither is a secret: the request is public, and a share is wrapped to the key of the request.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from . import limits
from .digests import Hex32, HpkePublic
from .jsonstrict import canonical, parse_object
from .model import Model, validate

SUCCESSOR = "successor-key"
"""The claim of a gateway's evidence that vouches for the key under which it receives keys: its SHA-256, 32 bytes."""
M = TypeVar("M", bound="_Message")

_Evidence = Annotated[str, StringConstraints(min_length=4, max_length=2 * limits.CERTIFICATE_BYTES)]


class _Message(Model):
    v: Literal[1] = 1

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical(self.model_dump(mode="json"))


class RecoveryRequest(_Message):
    """A fresh gateway asks the holders for their shares.

    `evidence` (base64) is about the key `spki` and vouches for the X-Wing key `key`, to which shares are wrapped.
    """

    kind: Literal["recovery-request"] = "recovery-request"
    service: Hex32
    spki: Annotated[str, StringConstraints(min_length=4, max_length=1_024)]
    evidence: _Evidence
    key: HpkePublic


class RecoveryShare(_Message):
    """One holder's share, wrapped to the gateway that asked for it."""

    kind: Literal["recovery-share"] = "recovery-share"
    service: Hex32
    set: Hex32
    holder: Hex32
    index: Annotated[int, Field(ge=1, le=limits.SHARE_HOLDERS)]
    wrap: Annotated[str, StringConstraints(min_length=4, max_length=2_048)]


def parse(model: type[M], data: bytes) -> M:
    """Read a message. Raises `Malformed` or `TooLarge`."""
    return validate(model, parse_object(data, limit=limits.RECOVERY_MESSAGE_BYTES), "recovery message")


__all__ = ["SUCCESSOR", "RecoveryRequest", "RecoveryShare", "parse"]
