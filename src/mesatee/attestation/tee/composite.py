"""Evidence of several parts of one machine: a processor's, and beside it that of a TPM around it or of its GPUs.

A composite is a `bundle.Bundle` whose class names its parts, ``HEAD+PART+PART``, the others in alphabetical order;
each piece stands under ``CLASS.ROLE``. The head is the processor's evidence, in whose memory the channel key lives.

What holds the parts together, so that no part of another machine or another time, and no composite without one of
its parts, passes:

- *the head names the others*: the claims that its report vouches for hold the name of the TPM's attestation key, the
  digest of the GPUs' certificates (`evidence.LINKS`), and the channel key. Claims that name a part are refused beside
  evidence without that part, also where the rest alone would do (`stripped`).
- *the others name the head*: each signs, as its nonce, the digest of its class, of these claims and of the head's
  very report (`evidence.part_data`). A quote that was made for anything else does not fit.
- *the processor and the TPM are one machine*: nothing that either signs can show that. An attacker may run the enclave
  on his machine and ask the TPM of an honest one (the cuckoo attack). Whoever has seen the machine enrols both
  together: the claim ``machine`` is a digest of the processor's own identity and the attestation key's name, and the
  policy pins it (`trust.RoleTrust.pins`).

Steps:

1. parse      the class, and the pieces of each part; none is left over
2. judge      each part by its own verifier, under the same policy; every answer is the worst of the parts'
3. nonces     of the other parts
4. level      that of the head. 5 if the head's memory is encrypted, the TPM's key is trusted, ``machine`` is pinned
              and so is the TPM's boot, by the measurement of the whole or by the claim ``tpm.measurement``
5. links      the claims beside the evidence name these parts (`validate`)

The measurement is SHA-256 over the deterministic CBOR of ``{CLASS: measurement}``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mesatee.attestation import _cbor
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import Answer, Scalar, Status, tier
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import Endorsements
from mesatee.attestation.tee import _tpm_parse, platform
from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import ANY, RoleTrust
from mesatee.errors import Malformed, UnsupportedVersion

MACHINE: Final = "machine"
"""The claim that names processor and TPM together."""
LEVEL: Final = 5
_TPM: Final = "tpm"
_GPU: Final = "nvidia-gpu"
_ENCRYPTED: Final = 4
_AK_AREA: Final = "ak_public_tpmt"
"""The piece with the TPM's attestation key as the TPM knows it: with the attributes that its name covers."""
_NAME_HASHES: Final[Mapping[bytes, str]] = {b"\x00\x0b": "sha256", b"\x00\x0c": "sha384"}
"""Name algorithms (TPM 2.0 Part 2, 6.3)."""
_PROCESSOR: Final[Mapping[str, str]] = {
    "cca": "platform.instance",
    "sgx": "platform.ppid",
    "snp": "platform.chip_id",
    "tdx": "platform.ppid",
}
"""The claim by which a processor's own evidence says which one it is."""
_WORST: Final = (Answer.REFUSED, Answer.NOT_ESTABLISHED, Answer.AFFIRMED)


@dataclass(frozen=True, slots=True)
class Composite:
    """The parts, none of them believed."""

    tee: str
    head: Bundle
    report: bytes
    """The head's report as it came, before endorsements are added: what the nonces of the others are made of."""
    others: tuple[Bundle, ...]


def parse(body: bytes) -> Composite:
    """Step 1. Raises `Malformed`, `TooLarge`, or `UnsupportedVersion` for a class that is no composite."""
    bundle = Bundle.parse(body)
    if bundle.tee not in ev.COMPOSITES:
        raise UnsupportedVersion(f"evidence of TEE class {bundle.tee!r} is no composite that is known")
    classes = bundle.tee.split("+")
    files: dict[str, dict[str, bytes]] = {name: {} for name in classes}
    for piece, data in bundle.files.items():
        name, dot, role = piece.partition(".")
        if name not in files or not dot:
            raise Malformed(f"piece {piece!r} belongs to no part of evidence of class {bundle.tee}")
        files[name][role] = data
    for name in classes:
        if not files[name]:
            raise Malformed(f"evidence of class {bundle.tee} has no pieces of its part {name}")
    head, *others = (Bundle(name, files[name]) for name in classes)
    role = ev.HEADS[head.tee]
    if role not in head.files:
        raise Malformed(f"evidence of class {bundle.tee} lacks its piece {head.tee}.{role}")
    return Composite(bundle.tee, head, head.files[role], tuple(others))


def complete(parsed: Composite, endorsements: Endorsements) -> Composite:
    """Each part with what was collected about its machine."""
    return replace(
        parsed,
        head=platform.complete(parsed.head, endorsements),
        others=tuple(platform.complete(part, endorsements) for part in parsed.others),
    )


def verify(parsed: Composite, trust: RoleTrust, at: int) -> Proof:
    """Steps 2 to 4 at `at` (Unix seconds). Raises `Malformed` if the head vouches for no report data."""
    # 2. Judge.
    head = platform.verify(parsed.head, trust, at)
    proofs = {parsed.head.tee: head}
    against: list[str] = []
    if head.report_data[: ev.PART_NONCE_BYTES] not in parsed.report:
        against.append(f"{parsed.head.tee}: the report that was judged is not the one that the others name")
    claims: dict[str, Scalar] = dict(head.claims)
    for part in parsed.others:
        proof = proofs[part.tee] = platform.judge(part, trust, at)[1]
        # 3. Nonces.
        wanted = ev.part_data(part.tee, head.report_data, parsed.report)[: ev.PART_NONCE_BYTES].hex()
        against += _nonces(part.tee, proof.claims, wanted)
        claims |= _named(part.tee, proof)
        claims[f"{part.tee}.link"] = _link(part, proof, against).hex()
    if _TPM in proofs:
        claims[MACHINE] = _machine(parsed, head, bytes.fromhex(str(claims[f"{_TPM}.link"])))
    # 4. Level. What the policy has against a part does not change what is proven.
    level, reason = _level(parsed, proofs, not against, claims, trust)
    against += [f"{name}: {text}" for name, proof in proofs.items() for text in proof.objections]
    return Proof(
        level=level,
        level_reason=reason,
        simulated=any(proof.simulated for proof in proofs.values()),
        hardware=all(proof.hardware for proof in proofs.values()),
        measurement=_measurement(proofs),
        report_data=head.report_data,
        signature=_worst(proof.signature for proof in proofs.values()),
        chain=_worst(proof.chain for proof in proofs.values()),
        # Vendors of TPMs and GPUs publish no levels of TCB: theirs is never more than not refused.
        tcb=Answer.REFUSED if any(p.tcb is Answer.REFUSED for p in proofs.values()) else head.tcb,
        freshness=_worst(proof.freshness for proof in proofs.values()),
        expires=min((p.expires for p in proofs.values() if p.expires is not None), default=None),
        reasons=tuple(f"{name}: {text}" for name, proof in proofs.items() for text in proof.reasons),
        objections=tuple(against),
        claims=claims,
        vector=_vector(proofs),
    )


def validate(proof: Proof, claims: ev.Claims, trust: RoleTrust) -> tuple[str, ...]:
    """Step 5: the claims that the head vouches for name the very parts that stand beside it."""
    del trust
    found = list(proof.objections)
    for part, name in ev.LINKS.items():
        said, shown = claims.extra.get(name), proof.claims.get(f"{part}.link")
        if shown is not None and (not isinstance(said, bytes) or said.hex() != shown):
            found.append(f"the head does not name this {part}: it may be another machine's")
    return tuple(found)


def stripped(tee: str, claims: ev.Claims) -> tuple[str, ...]:
    """What speaks against evidence of class `tee`, of any kind, whose claims name parts that were not shown."""
    shown = tee.split("+")
    return tuple(
        f"the evidence was made together with that of a {part}, which was taken away"
        for part, name in ev.LINKS.items()
        if name in claims.extra and part not in shown
    )


# -- parts -----------------------------------------------------------------------------------------


def _named(part: str, proof: Proof) -> dict[str, Scalar]:
    """The claims of a part beside the head: each begins with its class, so that none hides one of the head's."""
    found: dict[str, Scalar] = {
        name if name.startswith(f"{part}.") else f"{part}.{name}": value
        for name, value in proof.claims.items()
    }
    return {**found, f"{part}.measurement": proof.measurement}


def _nonces(part: str, claims: Mapping[str, Scalar], wanted: str) -> list[str]:
    if part == _GPU:
        devices = range(_devices(claims))
        signed = [claims.get(f"gpu{index}.nonce") for index in devices]
    else:
        signed = [claims.get("tpm.nonce")]
    if signed and all(nonce == wanted for nonce in signed):
        return []
    return [f"{part}: it does not answer this evidence of the processor: it is old, or another machine's"]


def _link(part: Bundle, proof: Proof, against: list[str]) -> bytes:
    """By what the claims must name this part. Raises `Malformed` if it does not show its key."""
    if part.tee == _TPM:
        if _AK_AREA not in part.files:
            raise Malformed(f"the TPM's part of a composite lacks its piece {_AK_AREA}")
        return ak_name(part.files[_AK_AREA])
    said = [proof.claims.get(f"gpu{index}.certificate") for index in range(_devices(proof.claims))]
    certificates = [item for item in said if isinstance(item, str)]
    if not certificates or len(certificates) != len(said):
        raise Malformed("the GPUs' part of a composite lacks the certificate of a device")
    if len(set(certificates)) != len(certificates):
        against.append(f"{part.tee}: the same device stands in the evidence twice")
    return gpu_link(certificates)


def _devices(claims: Mapping[str, Scalar]) -> int:
    count = claims.get("gpus")
    return count if isinstance(count, int) else 0


def ak_name(area: bytes) -> bytes:
    """The name of a TPM's key (Part 1, 16): the hash algorithm that its public area says, and the area's hash.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    bare = _tpm_parse.unprefixed(area)
    _tpm_parse.parse_public(bare)
    algorithm = bare[2:4]
    if algorithm not in _NAME_HASHES:
        raise UnsupportedVersion("the TPM's key has a name of another hash than SHA-256 and SHA-384")
    return algorithm + hashlib.new(_NAME_HASHES[algorithm], bare).digest()


def gpu_link(certificates: Iterable[str]) -> bytes:
    """By what claims name all GPUs of a machine: SHA-256 over the sorted SHA-256 of their certificates (hex)."""
    return hashlib.sha256(b"".join(sorted(map(bytes.fromhex, certificates)))).digest()


def _machine(parsed: Composite, head: Proof, name: bytes) -> str | None:
    """None where the processor does not say which one it is, e.g. because its chip id is masked."""
    processor = head.claims.get(_PROCESSOR.get(parsed.head.tee, ""))
    if not isinstance(processor, str) or not processor.strip("0"):
        return None
    return machine(parsed.head.tee, processor, name)


def machine(head: str, processor: str, name: bytes) -> str:
    """What a policy pins of an enrolled machine, hex. `processor`: its identity as its evidence says it, hex.

    >>> machine("snp", "00" * 63 + "01", b"\\x00\\x0b" + bytes(32))[:8]
    'b8f7f4a8'
    """
    return hashlib.sha256(
        _cbor.encode(["mesatee machine 1", head, bytes.fromhex(processor), name])
    ).hexdigest()


# -- together --------------------------------------------------------------------------------------


def _worst(answers: Iterable[Answer]) -> Answer:
    return min(answers, key=_WORST.index)


def _measurement(proofs: Mapping[str, Proof]) -> str:
    """Empty unless every part was measured."""
    if not all(proof.measurement for proof in proofs.values()):
        return ""
    value = {name: bytes.fromhex(proof.measurement) for name, proof in proofs.items()}
    return hashlib.sha256(_cbor.encode(value)).hexdigest()


def _vector(proofs: Mapping[str, Proof]) -> dict[str, int]:
    """Of each claim the worst value; what only one part speaks of is its own to say."""
    order = (Status.CONTRAINDICATED, Status.WARNING, Status.NONE, Status.AFFIRMING)
    found: dict[str, int] = {}
    for proof in proofs.values():
        for name, value in proof.vector.items():
            found[name] = min(found.get(name, value), value, key=lambda item: order.index(tier(item)))
    return found


def _level(
    parsed: Composite,
    proofs: Mapping[str, Proof],
    linked: bool,
    claims: Mapping[str, Scalar],
    trust: RoleTrust,
) -> tuple[int, str]:
    """Step 4. A device has no level of its own; every other part must have proven its own."""
    head = proofs[parsed.head.tee]
    proven = all(
        proof.signature is Answer.AFFIRMED
        and proof.chain is Answer.AFFIRMED
        and (name == _GPU or proof.level > 1)
        for name, proof in proofs.items()
    )
    if not linked or not proven:
        return 1, "a part of it is refused or not proven, and no other part makes up for that"
    if _TPM not in proofs or head.level != _ENCRYPTED:
        return head.level, head.level_reason
    pins = trust.pins.get(parsed.tee, {})
    lacking = []
    if claims.get(MACHINE) is None or MACHINE not in pins:
        lacking.append("the policy does not say that this processor and this TPM are one machine (machine)")
    if trust.measurements == ANY and "tpm.measurement" not in pins:
        lacking.append("the policy does not pin the boot of the system around it (tpm.measurement)")
    if lacking:
        return head.level, f"{head.level_reason}; not level {LEVEL}: {' and '.join(lacking)}"
    return LEVEL, platform.LEVEL_REASONS[LEVEL]


TEE: Final = Tee("composite", parse, verify, validate, complete)

__all__ = [
    "LEVEL",
    "MACHINE",
    "TEE",
    "Composite",
    "ak_name",
    "complete",
    "gpu_link",
    "machine",
    "parse",
    "stripped",
    "validate",
    "verify",
]
