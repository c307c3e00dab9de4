"""NVIDIA GPUs in confidential mode: SPDM 1.1 measurements under the device's certificate chain.

Spec: DMTF DSP0274 1.1 (`spdm`); TCG DICE attestation architecture 1.1 section 6.1 (the firmware id that the
certificate carries); NVIDIA's attestation SDK for the opaque data. The root is pinned; measurements mean
something only against NVIDIA's reference integrity manifests (RIM), and revocation is known to an online
service (OCSP) alone. Without both, a good signature is all that is proven: tier ``none``.

A GPU adds claims to the appraisal of the machine around it, never a level of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.chains import verify_chain
from mesatee.attestation.tee import keys, spdm
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, TrustError
from mesatee.protocol import jsonstrict, limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

ROOT: Final = bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")
"""SHA-256 of the root certificate "NVIDIA Device Identity CA"."""
LEVEL: Final = 1
"""A device has no level of its own."""
_SIGNATURE_BYTES: Final = 96
_TCB_INFO: Final = "2.23.133.5.4.1"
"""Extension DiceTcbInfo (TCG DICE attestation architecture section 6.1.1)."""
_DRIVER: Final = 3
_FIRMWARE_ID: Final = 20


@dataclass(frozen=True, slots=True)
class Device:
    """The parsed evidence of one GPU; nothing of it is verified yet."""

    measurements: spdm.Measurements
    certificates: tuple[bytes, ...]
    """Leaf first."""
    nonce: bytes | None
    """What the verifier says that it sent; None when it does not say."""
    arch: str
    opaque: Mapping[int, bytes]


def parse_device(exchange: bytes, chain: bytes, nonce: bytes | None = None, arch: str = "") -> Device:
    """Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    measurements = spdm.parse(exchange, _SIGNATURE_BYTES)
    certificates = tuple(_core.pem_certificates(chain))
    if not certificates:
        raise Malformed("a GPU's evidence has no certificate")
    return Device(measurements, certificates, nonce, arch, _opaque(measurements.opaque))


def _opaque(data: bytes) -> Mapping[int, bytes]:
    """NVIDIA's opaque data: type u16, size u16, value, little-endian. The first of a type counts."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        kind, size = (int.from_bytes(data[position + at : position + at + 2], "little") for at in (0, 2))
        value = data[position + 4 : position + 4 + size]
        if len(data) < position + 4 or len(value) != size:
            raise Malformed("the opaque data of a GPU end too early")
        found.setdefault(kind, value)
        position += 4 + size
    return found


def parse_json(data: bytes) -> tuple[Device, ...]:
    """The list that NVIDIA's SDK writes: ``[{"arch", "certificate", "evidence", "nonce"}, ...]``.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    value = jsonstrict.parse(data, limit=limits.GPU_EVIDENCE_BYTES)
    if not isinstance(value, list) or not value:
        raise Malformed("GPU evidence is not a list of devices")
    if len(value) > limits.GPUS:
        raise TooLarge(f"GPU evidence of more than {limits.GPUS} devices")
    return tuple(_json_device(item) for item in value)


def _json_device(item: Any) -> Device:
    if not isinstance(item, dict):
        raise Malformed("GPU evidence is not a list of objects")
    text = {name: item.get(name, "") for name in ("arch", "certificate", "evidence", "nonce")}
    if not all(isinstance(field, str) for field in text.values()) or not text["arch"].isprintable():
        raise Malformed("GPU evidence has a field that is not text")
    try:
        exchange, chain = (
            base64.b64decode(text[name], validate=True) for name in ("evidence", "certificate")
        )
        nonce = bytes.fromhex(text["nonce"]) if text["nonce"] else None
    except (binascii.Error, ValueError):
        raise Malformed("GPU evidence has a field that is neither base64 nor hexadecimal") from None
    return parse_device(exchange, chain, nonce, text["arch"][: limits.NAME_CHARS])


def verify(devices: Sequence[Device], at: int | None, root: bytes = ROOT) -> Answers:
    """Answer what is proven of all `devices` at `at` (Unix seconds): one bad GPU spoils the machine.

    1. The signature over request and response is ECDSA P-384 by the key of the leaf (DSP0274 10.11.2.1).
    2. The chain ends in the root certificate with SHA-256 `root`. Revocation is OCSP's: not established.
    3. The request's nonce is the one that the verifier says it sent.
    4. The firmware id that the GPU reports is the one for which its leaf was issued (DICE): else the chain is
       another device's or another firmware's.
    """
    answers = Answers()
    results = [_verify(device, at, root, answers.reasons) for device in devices]
    answers.signature, answers.chain, answers.binding = (
        _worst(column) for column in zip(*results, strict=True)
    )
    answers.reasons.append(
        "no RIM and no OCSP answer: only signatures are proven, not that the firmware is good"
    )
    return answers


def _worst(answers: Sequence[Answer]) -> Answer:
    for worst in (Answer.REFUSED, Answer.NOT_ESTABLISHED):
        if worst in answers:
            return worst
    return Answer.AFFIRMED


def _verify(device: Device, at: int | None, root: bytes, reasons: list[str]) -> tuple[Answer, Answer, Answer]:
    signature = chain = binding = Answer.NOT_ESTABLISHED
    # 1. Signature.
    try:
        leaf = _core.X509.parse(device.certificates[0])
        found = device.measurements
        if keys.from_spki(leaf.spki).kind != "p384":
            raise Malformed("the key of the leaf is not P-384")
        _core.verify_signature("ecdsa-p384-sha384", leaf.spki, found.signature, found.signed)
    except (InputError, TrustError) as error:
        reasons.append(f"signature of the measurements: {error.message}")
        return Answer.REFUSED, chain, binding
    signature = Answer.AFFIRMED
    # 2. Chain.
    if at is None:
        reasons.append("no time was given: the chain is not established")
    else:
        result = verify_chain(device.certificates, (root,), at)
        chain = result.chain
        reasons += result.reasons
    # 3. Nonce.
    if device.nonce is not None:
        binding = Answer.AFFIRMED
        if not hmac.compare_digest(device.nonce, device.measurements.nonce):
            binding = Answer.REFUSED
            reasons.append("the measurements answer another nonce")
    # 4. Firmware id.
    firmware, info = device.opaque.get(_FIRMWARE_ID), leaf.extensions.get(_TCB_INFO)
    if firmware is not None and info is not None and firmware not in info[1]:
        binding = Answer.REFUSED
        reasons.append("the GPU reports another firmware id than its certificate")
    return signature, chain, binding


def claims(devices: Sequence[Device]) -> dict[str, Scalar]:
    """Claims of each GPU."""
    found: dict[str, Scalar] = {"gpus": len(devices)}
    for index, device in enumerate(devices):
        driver = device.opaque.get(_DRIVER, b"").rstrip(b"\0").decode("ascii", "replace")
        found |= {
            f"gpu{index}.arch": device.arch,
            f"gpu{index}.certificate": hashlib.sha256(device.certificates[0]).hexdigest(),
            f"gpu{index}.driver": driver[: limits.NAME_CHARS],
            f"gpu{index}.firmware": device.opaque.get(_FIRMWARE_ID, b"").hex(),
            f"gpu{index}.measurements": hashlib.sha384(device.measurements.record).hexdigest(),
            f"gpu{index}.nonce": device.measurements.nonce.hex(),
        }
    return found


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: the role ``evidence_json``, or ``spdm`` with ``cert_chain``, or both, and then all of
    it counts. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    devices: tuple[Device, ...] = ()
    if "spdm" in files and "cert_chain" in files:
        devices += (parse_device(files["spdm"], files["cert_chain"]),)
    if "evidence_json" in files:
        devices += parse_json(files["evidence_json"])
    if not devices:
        raise Malformed("a GPU case has neither 'evidence_json' nor 'spdm' with 'cert_chain'")
    return settle(
        verify(devices, at),
        (),
        level=LEVEL,
        measurement=hashlib.sha384(devices[0].measurements.record).hexdigest(),
        claims=claims(devices),
        best=Status.NONE,
    )


__all__ = ["LEVEL", "ROOT", "Device", "check", "claims", "parse_device", "parse_json", "verify"]
