"""AWS Nitro Enclaves: the attestation document of the Nitro Security Module.

Spec: "Nitro Enclaves attestation process" (aws-nitro-enclaves-nsm-api, docs/attestation_process.md): section
3.1 the document's CDDL and limits, section 3.2 its validation. The document is an untagged COSE_Sign1 by a
key that lives for three hours; its certificate and the chain to AWS's root are inside the signed payload.

What it proves: code and configuration of an enclave (PCR0 to PCR2), its parent's role (PCR3) and instance
(PCR4), on hardware that AWS operates. AWS itself is trusted: its hypervisor is the root of the measurement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.attestation import _cbor
from mesatee.attestation.appraisal import Answer, Scalar
from mesatee.attestation.chains import verify_chain
from mesatee.attestation.tee import _files, cose, keys
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, TrustError
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

ROOT_G1: Final = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
"""SHA-256 of the root certificate "aws.nitro-enclaves" (published with the validation procedure)."""
LEVEL: Final = 4
"""An enclave whose surrounding system is not attested."""
_ES384: Final = -35
_PCR_BYTES: Final = 48
_PCRS: Final = 32
_MEASURED: Final = (0, 1, 2)
"""Image, kernel with bootstrap, and application: the PCRs that a debug enclave leaves zero."""
_DOCUMENT_BYTES: Final = limits.NITRO_PAYLOAD_BYTES + 256
"""The payload, and the COSE message around it: header, heads and a signature of 96 bytes."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document; nothing of it is verified yet."""

    message: cose.Message
    module_id: str
    timestamp: int
    """Milliseconds since the Unix epoch, by the NSM's clock."""
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    """Root first."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def debug(self) -> bool:
        """Whether a measured PCR is zero: no digest of anything is."""
        return any(not any(self.pcrs[index]) for index in _MEASURED)


def parse(data: bytes) -> Document:
    """The document.

    1. COSE_Sign1 with an attached payload (section 3.1).
    2. The payload's mandatory fields, with their types and sizes.
    3. Its optional ones.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    # 1. Envelope.
    message = cose.parse(data, _DOCUMENT_BYTES)
    # 2. Mandatory fields.
    payload = _cbor.ForeignClaims.of(
        "a Nitro document", _cbor.decode_foreign(message.payload, limits.NITRO_PAYLOAD_BYTES)
    )
    if payload.text("digest") != "SHA384":
        raise Malformed("the digest of a Nitro document is not SHA384")
    bundle = payload.items("cabundle")
    if len(bundle) > limits.NITRO_CHAIN:
        raise TooLarge(f"a Nitro document has more than {limits.NITRO_CHAIN} certificates above its own")
    return Document(
        message=message,
        module_id=payload.text("module_id"),
        timestamp=payload.number("timestamp", 1, (1 << 53) - 1),
        pcrs=_pcrs(payload.values.get("pcrs")),
        certificate=_field(payload.values.get("certificate"), "certificate"),
        cabundle=tuple(_field(item, "cabundle") for item in bundle),
        # 3. Optional fields.
        public_key=_optional(payload, "public_key"),
        user_data=_optional(payload, "user_data"),
        nonce=_optional(payload, "nonce"),
    )


def _pcrs(value: _cbor.Foreign) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= _PCRS:
        raise Malformed(f"'pcrs' of a Nitro document is not a map of 1 to {_PCRS} entries")
    found: dict[int, bytes] = {}
    for index, digest in value.items():
        if not isinstance(index, int) or not 0 <= index < _PCRS:
            raise Malformed("a PCR of a Nitro document has an index out of range")
        if not isinstance(digest, bytes) or len(digest) != _PCR_BYTES:
            raise Malformed(f"PCR{index} of a Nitro document is not {_PCR_BYTES} bytes")
        found[index] = digest
    if not all(index in found for index in _MEASURED):
        raise Malformed("a Nitro document lacks one of PCR0 to PCR2")
    return MappingProxyType(dict(sorted(found.items())))


def _field(value: _cbor.Foreign, name: str) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= limits.NITRO_FIELD_BYTES:
        raise Malformed(f"{name!r} of a Nitro document is not 1 to {limits.NITRO_FIELD_BYTES} bytes")
    return value


def _optional(payload: _cbor.ForeignClaims, name: str) -> bytes | None:
    if not payload.has(name):
        return None
    value = payload.bytes(name)
    if len(value) > limits.NITRO_FIELD_BYTES:
        raise Malformed(f"{name!r} of a Nitro document is over {limits.NITRO_FIELD_BYTES} bytes")
    return value


def verify(document: Document, at: int | None, root: bytes = ROOT_G1) -> Answers:
    """Answer what is proven at `at` (Unix seconds), under the root certificate with SHA-256 `root`.

    1. The signature is ES384 by the key of the document's certificate (section 3.2.1).
    2. The chain from that certificate through the bundle ends in the pinned root (section 3.2.3). It is valid
       at `at`; without `at`, when the document says it was made, which then bounds no age.
    3. The document was made within its certificate's life, and not in the future.
    """
    answers = Answers()
    when = document.timestamp // 1000
    # 1. Signature.
    try:
        leaf = _core.X509.parse(document.certificate)
        if document.message.algorithm != _ES384:
            raise Malformed("a Nitro document is not signed with ES384")
        cose.verify(document.message, keys.from_spki(leaf.spki))
    except (InputError, TrustError) as error:
        answers.signature = Answer.REFUSED
        answers.reasons.append(f"signature of the document: {error.message}")
        return answers
    answers.signature = Answer.AFFIRMED
    # 2. Chain.
    chain = verify_chain(
        (document.certificate, *reversed(document.cabundle)), (root,), when if at is None else at
    )
    answers.chain, answers.revocation = chain.chain, chain.revocation
    answers.reasons += chain.reasons
    answers.expires = chain.expires
    # 3. Time.
    if not leaf.not_before <= when <= leaf.not_after:
        answers.chain = Answer.REFUSED
        answers.reasons.append("the document was not made while its certificate was valid")
    if at is None:
        answers.reasons.append("no time was given: the document's age is not bounded")
    elif when > at + limits.CLOCK_SKEW_SECONDS:
        answers.chain = Answer.REFUSED
        answers.reasons.append("the document was made in the future")
    return answers


def validate(document: Document) -> tuple[str, ...]:
    """What the corpus policy has against the values: a debug enclave shows its memory to its parent."""
    if document.debug:
        return ("the enclave runs in debug mode: a PCR of PCR0 to PCR2 is zero",)
    return ()


def claims(document: Document) -> dict[str, Scalar]:
    """The document's claims; caller's data as hex."""
    found: dict[str, Scalar] = {
        "debug": document.debug,
        "module_id": document.module_id,
        "timestamp": document.timestamp,
        "certificate": hashlib.sha256(document.certificate).hexdigest(),
    }
    for index, digest in document.pcrs.items():
        found[f"measurement.pcr{index}"] = digest.hex()
    for name in ("public_key", "user_data", "nonce"):
        value: bytes | None = getattr(document, name)
        if value is not None:
            found[name] = value.hex()
    return found


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: `files` has the role ``document``. The root is the pinned one, whatever the case
    brings. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    document = parse(_files.evidence(files, "nitro", "document"))
    answers = verify(document, at)
    return settle(
        answers,
        validate(document),
        level=LEVEL,
        measurement=document.pcrs[0].hex(),
        claims=claims(document),
    )


__all__ = ["LEVEL", "ROOT_G1", "Document", "check", "claims", "parse", "validate", "verify"]
