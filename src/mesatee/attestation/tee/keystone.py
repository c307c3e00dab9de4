"""RISC-V Keystone: the report that the security monitor signs for an enclave.

Spec: keystone/sdk/include/verifier/report.h (``struct report_t``) and sm/src/attest.c. Little-endian, packed::

    enclave   hash 64 | data_len u64 | data 1024 | signature 64    by the SM's key, over hash..data[:data_len]
    sm        hash 64 | public key 32 | signature 64               by the device's key, over hash || public key
    device    public key 32

The signatures are Ed25519 with SHA3-512 in place of SHA-512 (sm/src/ed25519), which no standard verifier takes.

The device's key inside the report proves nothing (keystone issue 387): whoever makes a report can put his
own there. It only selects one of the keys that the policy names. The published test key, which every build
without a hardware root uses, is never a real root: what it signed is simulated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.tee import _files, keys
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TrustError
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

LEVEL: Final = 4
"""An enclave whose surrounding system is not attested."""
TEST_DEVICE: Final = bytes.fromhex("0faad4ff01178583baa588966f7c1ff32564dd17d7dc2b46cb50a84a69270b4c")
"""Public half of bootrom/test_dev_key.h, whose private half is published."""
_DATA_BYTES: Final = 1024
REPORT_BYTES: Final = 64 + 8 + _DATA_BYTES + 64 + 64 + 32 + 64 + 32
_ALGORITHM: Final = "ed25519-sha3-512"


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report; nothing of it is verified yet."""

    enclave_hash: bytes
    data: bytes
    """What the enclave had attested: its first `data_len` bytes, for only those are signed."""
    enclave_signed: bytes
    enclave_signature: bytes
    sm_hash: bytes
    sm_key: bytes
    sm_signature: bytes
    device: bytes


def parse(data: bytes) -> Report:
    """The report, or the buffer of up to 2048 bytes that begins with it and ends in zeros.

    Raises `Malformed`.
    """
    if not REPORT_BYTES <= len(data) <= limits.KEYSTONE_BUFFER_BYTES:
        raise Malformed(f"a Keystone report has {REPORT_BYTES} bytes, not {len(data)}")
    if any(data[REPORT_BYTES:]):
        raise Malformed("bytes follow the Keystone report")
    enclave, sm = 64 + 8 + _DATA_BYTES, 64 + 8 + _DATA_BYTES + 64
    size = int.from_bytes(data[64:72], "little")
    if size > _DATA_BYTES:
        raise Malformed(f"a Keystone report says that its {_DATA_BYTES} bytes of data are {size}")
    return Report(
        enclave_hash=data[:64],
        data=data[72 : 72 + size],
        enclave_signed=data[: 72 + size],
        enclave_signature=data[enclave:sm],
        sm_hash=data[sm : sm + 64],
        sm_key=data[sm + 64 : sm + 96],
        sm_signature=data[sm + 96 : sm + 160],
        device=data[sm + 160 : sm + 192],
    )


def verify(report: Report, devices: frozenset[bytes]) -> Answers:
    """Answer what is proven, under the public keys of `devices` that the policy names.

    1. No key is zero: boards without secure boot print such reports (keystone issue 361).
    2. The device's signature over the security monitor's hash and key verifies.
    3. The security monitor's signature over the enclave's hash and data verifies.
    4. The device is one that the policy names. There is no other root.
    """
    answers = Answers()
    # 1. Zero keys. As points they have small order, so that anybody could sign for them.
    if not any(report.sm_key) or not any(report.device):
        answers.signature = answers.chain = Answer.REFUSED
        answers.reasons.append("the security monitor or the device has no key: the board booted without one")
        return answers
    # 2. and 3. Signatures.
    answers.signature = Answer.AFFIRMED
    for what, key, signature, message in (
        ("device", report.device, report.sm_signature, report.sm_hash + report.sm_key),
        ("security monitor", report.sm_key, report.enclave_signature, report.enclave_signed),
    ):
        try:
            _core.verify_signature(_ALGORITHM, keys.ed25519_spki(key), signature, message)
        except (InputError, TrustError) as error:
            answers.signature = Answer.REFUSED
            answers.reasons.append(f"signature of the {what}: {error.message}")
    # 4. Root.
    if report.device in devices:
        answers.chain, answers.anchor = Answer.AFFIRMED, _fingerprint(report.device)
    else:
        answers.chain = Answer.REFUSED
        answers.reasons.append(f"device key {report.device.hex()} is not one that the policy names")
    if report.device == TEST_DEVICE:
        answers.reasons.append("the device key is Keystone's published test key: anybody can sign with it")
    return answers


def claims(report: Report) -> dict[str, Scalar]:
    """The report's claims, in one vocabulary."""
    return {
        "data": report.data.hex(),
        "device": report.device.hex(),
        "measurement.enclave": report.enclave_hash.hex(),
        "measurement.sm": report.sm_hash.hex(),
        "sm.key": report.sm_key.hex(),
    }


def appraise(report: Report, devices: frozenset[bytes]) -> Verdict:
    """The verdict on a report, under the device keys that a policy names. The test key, even if named, earns no more
    than a warning: its private half is public.
    """
    simulated = report.device == TEST_DEVICE
    return settle(
        verify(report, devices),
        (),
        level=LEVEL,
        measurement=report.enclave_hash.hex(),
        claims=claims(report),
        best=Status.WARNING if simulated else Status.AFFIRMING,
        simulated=simulated,
    )


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: role ``report``. Keystone has no vendor whose root could be pinned, and the device key
    that a case brings is no anchor: under the corpus policy no report is affirmed. Raises `Malformed`.
    """
    report = parse(_files.evidence(files, "keystone", "report"))
    named = frozenset({report.device}) if _fingerprint(report.device) in policy.devices else frozenset()
    return appraise(report, named)


def _fingerprint(device: bytes) -> str:
    return hashlib.sha256(keys.ed25519_spki(device)).hexdigest()


__all__ = [
    "LEVEL",
    "REPORT_BYTES",
    "TEST_DEVICE",
    "Report",
    "appraise",
    "check",
    "claims",
    "parse",
    "verify",
]
