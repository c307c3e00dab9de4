"""Files of a case, out of the wrappings in which tools hand them around.

A verifier takes the bytes that were signed; a case may hold them as hex, base64 or inside of JSON, and under a
name of its own. Being liberal here concludes nothing: whatever is found still has to verify.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesatee import _core
from mesatee.attestation import foreign
from mesatee.attestation.detect import detect, differ
from mesatee.errors import EvidenceRefused, InputError, Malformed, TooLarge
from mesatee.protocol import limits

_PEM: Final = b"-----BEGIN "


def plain(data: bytes) -> bytes:
    """What hex or base64 text stands for; `data` itself if it is neither."""
    inner = foreign.plain(data)
    return data if inner is None else inner


def evidence(files: Mapping[str, bytes], tee: str, role: str) -> bytes:
    """The evidence of `tee`: the file with `role` if there is one, or else the one that looks like it.

    Raises `Malformed` if there is none, and `EvidenceRefused` if there are two that differ.
    """
    pieces: list[bytes] = []
    for name in [role] if role in files else sorted(files):
        try:
            found = detect(files[name])
        except InputError:
            continue
        if found.tee == tee and role in found.files:
            pieces.append(found.files[role])
    if differ(pieces):
        raise EvidenceRefused(f"the case has two pieces of evidence of {tee} that differ: name one {role!r}")
    if pieces:
        return pieces[0]
    if role not in files:
        raise Malformed(f"the case has no file with the role {role!r}, nor one that is evidence of {tee}")
    # Damaged evidence is not recognised; its verifier says what is wrong with it.
    return plain(files[role])


def certificates(data: bytes) -> list[bytes]:
    """DER of all certificates in `data`: PEM, or DER one after the other, or the base64 or hex of these.

    Raises `Malformed` or `TooLarge`.
    """
    if len(data) > limits.PEM_BYTES:
        raise TooLarge(f"certificates have {len(data)} bytes, the limit is {limits.PEM_BYTES}")
    if _PEM not in data:
        data = plain(data)
    if _PEM in data:
        return _core.pem_certificates(data)
    found: list[bytes] = []
    while data[:1] == b"\x30":
        if len(found) == limits.CHAIN_CERTIFICATES:
            raise TooLarge(f"more than {limits.CHAIN_CERTIFICATES} certificates")
        # X.690 section 8.1.3: a certificate is longer than 127 bytes, so that the long form counts its length.
        octets = data[1] & 0x7F if len(data) > 1 else 0
        end = 2 + octets + int.from_bytes(data[2 : 2 + octets])
        found.append(data[:end])
        data = data[end:]
    if data.strip(b"\0\r\n"):
        raise Malformed("certificates are neither PEM nor DER")
    return found


def leaf_first(chain: list[bytes]) -> list[bytes]:
    """The same certificates, with the one first that issued none of the others. Raises what `X509.parse` raises."""
    read = [_core.X509.parse(der) for der in chain]
    issuers = {one.issuer_der for one in read if one.issuer_der != one.subject_der}
    leaves = [one.der for one in read if one.subject_der not in issuers]
    if len(leaves) != 1:
        return chain
    return leaves + [der for der in chain if der != leaves[0]]


__all__ = ["certificates", "evidence", "leaf_first", "plain"]
