"""NVIDIA GPUs in confidential mode: SPDM 1.1 measurements under the device's certificate chain.

Spec: DMTF DSP0274 1.1 (`spdm`); TCG DICE attestation architecture 1.1 section 6.1 (the firmware id that the
certificate carries); NVIDIA's attestation SDK for the opaque data. The root is pinned; measurements mean
something only against NVIDIA's reference integrity manifests (RIM), and revocation is known to an online
service (OCSP) alone. Without both, a good signature is all that is proven: tier ``none``.

A GPU adds claims to the appraisal of the machine around it, never a level of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mesatee import _core
from mesatee.attestation import foreign
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.chains import verify_chain
from mesatee.attestation.tee import _files, dice, keys, spdm
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, TrustError
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import parse_foreign

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

ROOT: Final = bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")
"""SHA-256 of the root certificate "NVIDIA Device Identity CA"."""
LEVEL: Final = 1
"""A device has no level of its own."""
_SIGNATURE_BYTES: Final = 96
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
    """An SPDM exchange and the certificates of its signer, in any order; without any, nothing can be proven.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    measurements = spdm.parse(exchange, _SIGNATURE_BYTES)
    certificates = tuple(_files.leaf_first(_files.certificates(chain)))
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
    """The JSON that attesters and verifiers exchange: objects ``{"arch", "certificate", "evidence", "nonce"}``, alone,
    in a list, or in a list inside of an object (NVIDIA's SDK and remote service, Confidential Containers). An
    object without a nonce has that of the object around it.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    found = tuple(_objects(data, "", limits.WRAPPINGS))
    if not found:
        raise Malformed("GPU evidence has no object with 'evidence' and 'certificate'")
    if len(found) > limits.GPUS:
        raise TooLarge(f"GPU evidence of more than {limits.GPUS} devices")
    return tuple(_json_device(item, nonce) for item, nonce in found)


def _objects(data: bytes, nonce: str, wrappings: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Objects of GPUs in a JSON text, also in texts inside of its strings and arrays of bytes."""
    text = foreign.json_in(data)
    if text is not None and wrappings:
        yield from _walk(parse_foreign(text, limit=limits.GPU_EVIDENCE_BYTES), nonce, wrappings - 1)


def _walk(value: Any, nonce: str, wrappings: int) -> Iterator[tuple[dict[str, Any], str]]:
    # The parser bounds the depth.
    match value:
        case list():
            if (data := foreign.byte_array(value)) is not None:
                yield from _objects(data, nonce, wrappings)
                return
            for item in value:
                yield from _walk(item, nonce, wrappings)
        case dict():
            own = value.get("nonce") or nonce
            if not isinstance(own, str):
                raise Malformed("a nonce of GPU evidence is not text")
            exchange = _bytes(value.get("evidence"))
            if exchange is not None and foreign.json_in(exchange) is None:
                yield value, own
                return
            for item in value.values():
                yield from _walk(item, own, wrappings)
        case str() if len(value) >= limits.DETECT_CHARS:
            yield from _objects(value.encode("utf-8", "replace"), nonce, wrappings)


def _bytes(value: Any) -> bytes | None:
    """What a string or an array of bytes stands for; None for another value."""
    if isinstance(value, str):
        return _files.plain(value.encode("utf-8", "replace"))
    return foreign.byte_array(value) if isinstance(value, list) else None


def _json_device(item: dict[str, Any], nonce: str) -> Device:
    chain, arch = item.get("certificate", ""), item.get("arch", "")
    if not isinstance(chain, str) or not isinstance(arch, str) or not arch.isprintable():
        raise Malformed("GPU evidence has a field that is not text")
    exchange = _bytes(item["evidence"]) or b""
    sent = _bytes(nonce) if nonce else None
    return parse_device(exchange, chain.encode("utf-8", "replace"), sent, arch[: limits.NAME_CHARS])


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
    if not device.certificates:
        reasons.append("the device's certificates are missing")
        return signature, chain, binding
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
    result = verify_chain(device.certificates, (root,), at)
    chain = result.chain
    reasons += result.reasons
    # 3. Nonce.
    if device.nonce is not None:
        binding = Answer.AFFIRMED
        if device.nonce != device.measurements.nonce:
            binding = Answer.REFUSED
            reasons.append("the measurements answer another nonce")
    # 4. Firmware id.
    firmware = device.opaque.get(_FIRMWARE_ID)
    issued_for = [fwid.digest for layer in dice.layers(leaf) for fwid in layer.fwids]
    if firmware is not None and issued_for and firmware not in issued_for:
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
            f"gpu{index}.certificate": hashlib.sha256(device.certificates[0]).hexdigest()
            if device.certificates
            else None,
            f"gpu{index}.driver": driver[: limits.NAME_CHARS],
            f"gpu{index}.firmware": device.opaque.get(_FIRMWARE_ID, b"").hex(),
            f"gpu{index}.measurements": hashlib.sha384(device.measurements.record).hexdigest(),
            f"gpu{index}.nonce": device.measurements.nonce.hex(),
        }
    return found


def _devices(files: Mapping[str, bytes]) -> tuple[Device, ...]:
    found: tuple[Device, ...] = ()
    if "evidence_json" in files:
        found = parse_json(files["evidence_json"])
    elif "spdm" not in files:
        for _, data in sorted(files.items()):
            if foreign.json_in(data) is not None:
                try:
                    return parse_json(data)
                # Another JSON file, of claims or the like.
                except InputError:
                    continue
    if "spdm" in files or not found:
        nonce = files.get("nonce")
        if nonce is not None and len(nonce) != spdm.NONCE_BYTES:
            nonce = _files.plain(nonce)
        exchange = _files.evidence(files, "nvidia-gpu", "spdm")
        alone = parse_device(exchange, files.get("cert_chain", b""), nonce)
        # Detection finds the first exchange of the JSON once more, without its certificates.
        if alone.certificates or alone.measurements not in [device.measurements for device in found]:
            found += (alone,)
    return found


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: the role ``evidence_json``, or ``spdm`` with ``cert_chain``, or both, and then all of
    it counts; a ``nonce``, if there is one, is what the verifier sent. Raises `Malformed`, `TooLarge` or
    `UnsupportedVersion`.
    """
    devices = _devices(files)
    return settle(
        verify(devices, at),
        (),
        level=LEVEL,
        measurement=hashlib.sha384(devices[0].measurements.record).hexdigest(),
        claims=claims(devices),
        best=Status.NONE,
    )


__all__ = ["LEVEL", "ROOT", "Device", "check", "claims", "parse_device", "parse_json", "verify"]
