"""What came, as endorsements: in one form for each role, and with the time when there will be a newer one.

Nothing is verified here but that an answer is of its kind and not over already; signatures are for the verifier.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from .. import _core
from ..attestation.endorsements import INTEL_TIME, Endorsement
from ..errors import Expired, InputError, Malformed
from ..protocol import limits
from .service import within

_CRL_PEM: Final = re.compile(rb"\s*-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----\s*")
HEADER_CHARS: Final = 16 * limits.KIB
"""A chain of certificates in a header, URL-encoded, in characters: Intel's have 2,600."""


def certificates(what: str, data: bytes, at_least: int = 1) -> list[_core.X509]:
    """One certificate in DER, or some in PEM. Raises `Malformed`."""
    try:
        ders = [data] if data[:1] == b"\x30" else _core.pem_certificates(data)
        found = [_core.X509.parse(der) for der in ders]
    except InputError as error:
        raise within(what, error) from None
    if len(found) < at_least:
        raise Malformed(
            f"{what} has {len(found)} certificates, not {at_least} or more", hint="try again later"
        )
    return found


def first_end(found: Iterable[_core.X509]) -> int:
    """When the first of some certificates ends, Unix seconds."""
    return min(certificate.not_after for certificate in found) + 1


def crl(what: str, data: bytes) -> tuple[bytes, _core.X509Crl]:
    """A revocation list in DER, PEM or hex, as DER. Raises `Malformed`."""
    if data[:1] != b"\x30":
        armoured = _CRL_PEM.fullmatch(data)
        try:
            data = binascii.a2b_base64(armoured[1]) if armoured else bytes.fromhex(data.decode("ascii"))
        except ValueError:
            raise Malformed(
                f"{what} is no revocation list in DER, PEM or hex", hint="try again later"
            ) from None
    try:
        return data, _core.X509Crl.parse(data)
    except InputError as error:
        raise within(what, error) from None


def moment(what: str, text: object) -> int:
    """Unix seconds of a time as Intel writes it. Raises `Malformed`."""
    try:
        if isinstance(text, str):
            return int(datetime.strptime(text, INTEL_TIME).replace(tzinfo=UTC).timestamp())
    except ValueError:
        pass
    raise Malformed(f"{what} does not say when there will be a newer one", hint="try again later")


def current(items: Iterable[Endorsement], at: int) -> tuple[Endorsement, ...]:
    """`items`, if none of them is over at `at` (Unix seconds). Raises `Expired`."""
    found = tuple(items)
    if over := sorted(item.role for item in found if item.is_over(at)):
        raise Expired(
            f"what the service sent is over already: {', '.join(over)}",
            hint="check this machine's clock; a cache may be out of date, ask the vendor's own service",
        )
    return found


__all__ = ["HEADER_CHARS", "certificates", "crl", "current", "first_end", "moment"]
