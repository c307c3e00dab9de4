"""Evidence made with keys of our own, and captured cases: what attackers and honest machines would send."""

from __future__ import annotations

import base64
import datetime
import random
from collections.abc import Iterator, Mapping
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from tests.support import captured

from mesatee.attestation.appraisal import Status
from mesatee.attestation.corpus import CHECKS, CorpusPolicy, check_folder
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, TrustError

POLICY = CorpusPolicy()
FLIPS = 400
"""Bits of one file that the ordinary suite flips."""
_HASHES = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}


# -- captured cases ---------------------------------------------------------------------------------


def agree(tee: str) -> None:
    """Every captured case of a TEE gets the tier that it expects."""
    captured.need()
    for folder in captured.folders(tee):
        meta, files = captured.load(folder)
        question = {name: meta[name] for name in ("tee", "at")}
        verdict = check_folder(question, files)
        assert verdict.tier == meta["expected"]["tier"], (meta["id"], verdict.reasons)


# -- mutation ---------------------------------------------------------------------------------------


def flipped(data: bytes, every: bool) -> Iterator[bytes]:
    """`data` with one bit wrong: every bit, or some of them, the same in each run."""
    bits = range(8 * len(data))
    for bit in bits if every or len(bits) <= FLIPS else random.Random(1).sample(bits, FLIPS):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def appraise(tee: str, files: Mapping[str, bytes], at: int | None) -> Verdict | None:
    """The verdict of a check; None for evidence that it cannot read. Any other error fails the test."""
    try:
        return CHECKS[tee](files, at, POLICY)
    except (InputError, TrustError):
        return None


def never_affirmed(
    tee: str, files: Mapping[str, bytes], at: int | None, roles: list[str], every: bool
) -> None:
    """No flipped bit of these files gives an affirming verdict with other claims than the whole evidence."""
    whole = appraise(tee, files, at)
    assert whole is not None
    assert whole.tier is not Status.CONTRAINDICATED
    for role in roles:
        for changed in flipped(files[role], every):
            verdict = appraise(tee, {**files, role: changed}, at)
            if verdict is not None and verdict.tier in (Status.AFFIRMING, Status.WARNING):
                assert verdict.tier is whole.tier
                assert verdict.claims == whole.claims


# -- COSE -------------------------------------------------------------------------------------------


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.UncompressedPoint
    return key.public_key().public_bytes(serialization.Encoding.X962, form)


def spki(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def raw_sign(key: ec.EllipticCurvePrivateKey, algorithm: int, message: bytes) -> bytes:
    size = (key.key_size + 7) // 8
    signature = key.sign(message, ec.ECDSA(_HASHES[algorithm]))
    return b"".join(number.to_bytes(size) for number in decode_dss_signature(signature))


def sign1(
    key: ec.EllipticCurvePrivateKey,
    payload: bytes,
    algorithm: int = -35,
    says: int | None = None,
    tag: int = 18,
) -> bytes:
    """A COSE_Sign1. `says` is the algorithm in its header, where that is another than the one used."""
    protected = cbor2.dumps({1: algorithm if says is None else says})
    signature = raw_sign(key, algorithm, cbor2.dumps(["Signature1", protected, b"", payload]))
    message = [protected, {}, payload, signature]
    return cbor2.dumps(cbor2.CBORTag(tag, message) if tag else message)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# -- certificates -----------------------------------------------------------------------------------

START = 1_700_000_000
"""When our certificates begin to be valid, Unix seconds."""


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    signer: Any,
    *,
    ca: bool = True,
    seconds: int = 86_400,
    extensions: Mapping[str, bytes] | None = None,
) -> bytes:
    """DER of a certificate, signed with SHA-384."""
    start = datetime.datetime.fromtimestamp(START, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(seconds=seconds))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for identifier, value in (extensions or {}).items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(identifier), value)
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def pem_chain(chain: list[bytes]) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in chain
    )
