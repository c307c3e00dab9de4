"""The parsers of evidence, collateral and trust, as targets: bytes in, our errors or nothing out.

Most targets go on to the TEE's whole check, which reads what the first parser let through. Seeds are the captured
cases, where they are here, and evidence with keys of our own.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from tests.support import captured, tokens

from mesatee import _core
from mesatee.attestation import _cbor, corpus, detect, ear, endorsements, evidence, reference
from mesatee.attestation.appraisal import Answer, Appraisal, Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.tee import (
    _files,
    _tpm_files,
    _tpm_parse,
    anchors,
    azure,
    cca,
    cose,
    dcap_collateral,
    dcap_events,
    dcap_pck,
    dcap_quote,
    dcap_tcb,
    dice,
    eventlog,
    keys,
    keystone,
    nitro,
    nvidia,
    optee,
    psa,
    ratls,
    sgx,
    snp_files,
    snp_report,
    software,
    spdm,
    tdx,
    tpm,
)
from mesatee.attestation.trust import TrustPolicy
from mesatee.errors import MesateeError
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.digests import b64encode

Parse = Callable[[bytes], object]
POLICY = corpus.CorpusPolicy()
AT = 1_700_000_000
KEY = _core.SigningKey.generate()
CERTIFICATE_BYTES = 64 * limits.KIB
PARTS = 64
"""Pieces of one kind that are kept as seeds."""


@dataclass(frozen=True)
class Target:
    parse: Parse
    seeds: Callable[[], Iterable[bytes]]
    limit: int
    """The parser's own, in bytes."""


def every(*steps: Parse) -> Parse:
    """All steps on the same bytes: that one refuses them says nothing of the next."""

    def parse(data: bytes) -> None:
        for step in steps:
            with contextlib.suppress(MesateeError):
                step(data)

    return parse


def checked(tee: str, role: str, beside: Callable[[], Mapping[str, bytes]] = dict) -> Parse:
    """The whole check of a TEE with the bytes in this role."""

    def parse(data: bytes) -> None:
        verdict = corpus.CHECKS[tee]({**beside(), role: data}, AT, POLICY)
        json.dumps(verdict.as_dict())

    return parse


# -- seeds ------------------------------------------------------------------------------------------


def case_files(pattern: str, *tees: str) -> list[bytes]:
    """Different files of captured cases whose role is like the pattern."""
    found: dict[bytes, None] = {}
    # Not every class has a captured case.
    for folder in [item for tee in tees or ("*",) for item in captured.folders(tee)]:
        for role, data in captured.load(folder)[1].items():
            if re.fullmatch(pattern, role):
                found[data] = None
    return sorted(found, key=len)[:PARTS]


def certificates() -> list[bytes]:
    found: dict[bytes, None] = {}
    for data in case_files(r".*(cert|vcek|vlek|chain|ask|ark|root|quote).*"):
        with contextlib.suppress(MesateeError):
            for der in _files.certificates(data):
                found[der] = None
        for block in re.findall(rb"-----BEGIN CERT.*?-----END CERTIFICATE-----", data, re.S):
            with contextlib.suppress(MesateeError):
                for der in _core.pem_certificates(block):
                    found[der] = None
    key = ec.generate_private_key(ec.SECP384R1())
    made = tokens.certificate("a", key, "a", key, extensions={dice.TCB_INFO: dice_value()})
    return [made, *list(found)[:PARTS]]


def crls() -> list[bytes]:
    found = [der for data in collateral() for der in dcap_collateral.gather({"collateral": data}).crls]
    return list(dict.fromkeys(found))


def collateral() -> list[bytes]:
    return case_files("collateral", "sgx", "tdx")


def statements(kind: str) -> list[bytes]:
    found: list[bytes] = []
    for data in collateral():
        value = json.loads(data)
        text = value.get(kind) if isinstance(value, dict) else None
        if isinstance(text, str):
            found.append(text.encode())
    return found


def pck_extensions() -> list[bytes]:
    found: list[bytes] = []
    for der in certificates():
        with contextlib.suppress(MesateeError):
            read = _core.X509.parse(der).extensions.get(dcap_pck.SGX_EXTENSION)
            if read:
                found.append(read[1])
    return found


def dice_value() -> bytes:
    digest = bytes.fromhex("302d0609608648016503040201") + b"\x04\x20" + b"\x01" * 32
    inner = b"\x80\x04ACME\x81\x04FPGA\x83\x01\x07\x84\x01\x01" + b"\xa6\x2f" + digest
    return b"\x30" + bytes([len(inner)]) + inner


def appraisal() -> Appraisal:
    return Appraisal(
        status=Status.AFFIRMING,
        level=4,
        level_reason="memory is encrypted",
        tee="snp",
        simulated=False,
        hardware=True,
        measurement="11" * 48,
        signature=Answer.AFFIRMED,
        chain=Answer.AFFIRMED,
        tcb=Answer.NOT_ESTABLISHED,
        policy=Answer.AFFIRMED,
        freshness=Answer.NOT_ESTABLISHED,
        reasons=("a reason",),
        role="worker",
        service=None,
        evidence_digest="22" * 32,
        policy_digest="33" * 32,
        spki_hash="44" * 32,
        at=AT,
        expires=AT + 60,
        environments={"base": "55" * 32},
        claims={"smt": False},
        vector={"hardware": 2},
    )


def software_body() -> bytes:
    parts = software.Components("0a" * 32, "0b" * 32, "0c" * 32)
    signed = software.payload(parts, bytes(64), AT, AT + 60, "6.1", "x86_64")
    # `parse` is given the body of evidence, without the head around it.
    claims = evidence.Claims.of_key(b"key", "worker").encode()
    signature = KEY.sign(software.to_be_signed(signed))
    return evidence.decode(software.build(signed, KEY.public, signature, claims)).body


def keystone_report() -> bytes:
    size = (32).to_bytes(8, "little")
    return random.Random(1).randbytes(64) + size + random.Random(2).randbytes(keystone.REPORT_BYTES - 72)


def reference_values() -> bytes:
    made = reference.ReferenceValues("snp", {"11" * 32: "worker 1.0"}, AT - 10, AT + 10)
    return reference.sign(made, [KEY]).to_bytes()


def collection() -> bytes:
    item = endorsements.Endorsement("snp", "ab", "vcek", b"bytes", 10, 20)
    bundle = dsse.from_bytes(reference_values())
    return endorsements.Endorsements((item,)).with_reference(bundle).encode()


# -- parsers that need more than bytes ---------------------------------------------------------------


def resigned_jwt(data: bytes) -> None:
    """What lies behind the signature: these bytes as the payload of a token by the key that is asked for."""
    signed = ear.to_jwt(appraisal(), KEY).split(".")[0] + "." + b64url(data)
    ear.from_jwt(f"{signed}.{b64url(KEY.sign(signed.encode()))}", KEY.public, AT, "33" * 32)


def b64url(data: bytes) -> str:
    return b64encode(data).rstrip("=").translate(str.maketrans("+/", "-_"))


def resigned_cwt(data: bytes) -> None:
    message = cose.Message(False, -8, b"\xa1\x01\x27", data, b"")
    signature = KEY.sign(message.to_be_signed())
    ear.from_cwt(_cbor.encode([message.protected, {}, data, signature]), KEY.public, AT, "33" * 32)


def reference_parse(data: bytes) -> None:
    reference.parse(dsse.from_bytes(data))
    endorsements.Endorsements().with_reference(dsse.from_bytes(data))


def optee_key(data: bytes) -> None:
    optee.check({"response": bytes(288), "nonce": data[:9], "public_key": data}, AT, POLICY)


def optee_numbers(data: bytes) -> None:
    optee.check({"response": data, "nonce": data[:9], "exponent": data[:3], "modulus": data[32:]}, AT, POLICY)


def event_log(data: bytes) -> None:
    log = eventlog.parse(data)
    eventlog.compare(log, {"sha256": {0: bytes(32), 7: bytes(32)}})


def bundle_check(data: bytes) -> None:
    found = Bundle.parse(data)
    with contextlib.suppress(MesateeError):
        corpus.CHECKS.get(found.tee, corpus.CHECKS["snp"])(found.files, AT, POLICY)


def replay_json(data: bytes) -> None:
    dcap_events.replay_json(data, [bytes(48)] * 4)


def spki(data: bytes) -> None:
    keys.from_spki(data)


def meta(data: bytes) -> None:
    corpus.expectation(data)
    corpus.question(data)


def quoted(data: bytes) -> None:
    dcap_quote.parse(data)
    for module in (sgx, tdx):
        with contextlib.suppress(MesateeError):
            module.check({"quote": data}, AT, POLICY)


def jwt(data: bytes) -> None:
    ear.from_jwt(data.decode("utf-8", "replace"), KEY.public, AT, "33" * 32)


TARGETS: Mapping[str, Target] = {
    "x509": Target(
        every(_core.X509.parse, lambda data: _core.X509.parse(data, lenient=True), spki),
        certificates,
        CERTIFICATE_BYTES,
    ),
    "crl": Target(_core.X509Crl.parse, crls, limits.CRL_BYTES),
    "pem": Target(
        every(_core.pem_certificates, _files.certificates, keys.from_pem),
        lambda: [tokens.pem_chain(certificates()[:1]), *case_files(".*pem.*")],
        limits.PEM_BYTES,
    ),
    "quote": Target(quoted, lambda: case_files("quote", "sgx", "tdx"), limits.EVIDENCE_BYTES),
    "sgx": Target(
        checked("sgx", "evidence"), lambda: case_files(r"quote|evidence.*", "sgx"), limits.COLLATERAL_BYTES
    ),
    "tdx": Target(checked("tdx", "evidence"), lambda: case_files(r"quote.*", "tdx"), limits.COLLATERAL_BYTES),
    "pck": Target(dcap_pck.parse, pck_extensions, limits.KIB),
    "tcb-info": Target(dcap_tcb.parse_tcb_info, lambda: statements("tcb_info"), limits.COLLATERAL_BYTES),
    "qe-identity": Target(
        dcap_tcb.parse_qe_identity, lambda: statements("qe_identity"), limits.COLLATERAL_BYTES
    ),
    "collateral": Target(
        lambda data: dcap_collateral.gather({"collateral": data}), collateral, limits.COLLATERAL_BYTES
    ),
    "snp-report": Target(
        every(snp_report.parse, checked("snp", "report")),
        lambda: case_files(r"report.*", "snp"),
        8 * limits.KIB,
    ),
    "snp-table": Target(
        snp_files.table, lambda: [snp_table(), *case_files(r"cert.*|aux.*", "snp")], 64 * limits.KIB
    ),
    "snp": Target(
        checked("snp", "evidence"),
        lambda: [*case_files(r".*json", "azure-vtpm"), *case_files(r".*", "snp")],
        limits.MIB,
    ),
    "nitro": Target(
        every(nitro.parse, checked("nitro", "document")),
        lambda: case_files("document", "nitro"),
        limits.NITRO_PAYLOAD_BYTES + 512,
    ),
    "cose": Target(
        every(cose.parse, keys.from_cose_key),
        lambda: case_files("document|token", "nitro", "psa"),
        limits.COSE_BYTES,
    ),
    "cbor": Target(
        every(
            lambda data: _cbor.decode_foreign(data, limits.COSE_BYTES),
            lambda data: _cbor.decode(data, limits.COSE_BYTES),
            evidence.decode,
        ),
        lambda: case_files("document|token", "nitro", "psa", "cca"),
        limits.COSE_BYTES,
    ),
    "cca": Target(
        every(cca.parse, checked("cca", "token")), lambda: case_files("token", "cca"), limits.COSE_BYTES
    ),
    "psa": Target(
        every(psa.parse, checked("psa", "token")), lambda: case_files("token", "psa"), limits.COSE_BYTES
    ),
    "anchors": Target(
        anchors.parse,
        lambda: case_files(r"trust_anchor.*|cpak|iak.*", "cca", "psa"),
        limits.TRUST_ANCHOR_BYTES,
    ),
    "tpm-quote": Target(
        tpm.parse_attest, lambda: case_files(r"quote(_sha\d+)?", "tpm", "azure-vtpm"), limits.TPM_BYTES
    ),
    "tpm-public": Target(
        tpm.parse_public, lambda: case_files(r".*tpmt", "tpm") or [bytes(64)], limits.TPM_BYTES
    ),
    "tpm-signature": Target(tpm.parse_signature, lambda: case_files(r"sig.*", "tpm"), limits.TPM_BYTES),
    "tpm": Target(
        every(checked("tpm", "evidence"), checked("tpm", "pcrs"), checked("tpm", "nonce")),
        lambda: case_files(r".*json|.*pb|pcrs", "tpm"),
        limits.TPM_TEXT_BYTES,
    ),
    "eventlog": Target(
        every(event_log, eventlog.replay_ccel, checked("eventlog", "eventlog")),
        lambda: case_files(r"eventlog|ccel", "eventlog", "tpm"),
        limits.EVENT_LOG_BYTES,
    ),
    "runtime-events": Target(
        replay_json, lambda: case_files(r".*log.*|quote_report", "tdx"), limits.CASE_FILE_BYTES
    ),
    "hcl": Target(
        every(azure.parse, checked("azure-vtpm", "hcl_report")),
        lambda: case_files("hcl_report", "azure-vtpm"),
        limits.HCL_BYTES,
    ),
    "azure": Target(
        checked("azure-vtpm", "evidence"), lambda: case_files(r".*json", "azure-vtpm"), limits.TPM_TEXT_BYTES
    ),
    "spdm": Target(
        every(lambda data: spdm.parse(data, 96), checked("nvidia-gpu", "evidence")),
        lambda: case_files(r".*spdm.*|.*evidence.*|.*report.*", "nvidia-gpu"),
        limits.SPDM_BYTES,
    ),
    "gpus": Target(
        every(nvidia.parse_json, checked("nvidia-gpu", "evidence")),
        lambda: case_files(r".*json.*|.*evidence.*", "nvidia-gpu"),
        limits.GPU_EVIDENCE_BYTES,
    ),
    "keystone": Target(
        every(keystone.parse, checked("keystone", "report")),
        lambda: [keystone_report(), *case_files("report", "keystone")],
        limits.KEYSTONE_BUFFER_BYTES,
    ),
    "ratls": Target(
        checked("ratls", "certificate"),
        lambda: [*case_files(r".*cert.*", "ratls"), certificates()[0]],
        CERTIFICATE_BYTES,
    ),
    "dice": Target(
        every(dice.parse, dice.parse_tcb_info, lambda data: dice.check({"chain": data}, AT, POLICY)),
        lambda: [certificates()[0], dice_value()],
        limits.PEM_BYTES,
    ),
    "optee": Target(
        every(lambda data: optee.parse(data, data[:32]), optee_key, optee_numbers),
        lambda: [*(random.Random(3).randbytes(32 + size) for size in (256, 512)), *case_files("cpak|iak.*")],
        2 * limits.KIB,
    ),
    "software": Target(
        software.parse,
        lambda: [software_body()],
        limits.EVIDENCE_BYTES,
    ),
    "detect": Target(
        every(detect.detect, lambda data: detect.detect_case({"evidence": data})),
        lambda: [*case_files(r".*(json|pb|quote|report|token|document|log|cert).*")],
        limits.CASE_FILE_BYTES,
    ),
    "bundle": Target(
        bundle_check, lambda: [Bundle("snp", {"report": bytes(1_184)}).encode()], limits.EVIDENCE_BYTES
    ),
    "ear-jwt": Target(
        every(jwt, resigned_jwt),
        lambda: [ear.to_jwt(appraisal(), KEY).encode(), json.dumps(appraisal().as_ear()).encode()],
        limits.EAR_BYTES,
    ),
    "ear-cwt": Target(
        every(lambda data: ear.from_cwt(data, KEY.public, AT, "33" * 32), resigned_cwt),
        lambda: [ear.to_cwt(appraisal(), KEY), cose.parse(ear.to_cwt(appraisal(), KEY)).payload],
        limits.EAR_BYTES,
    ),
    "trust-policy": Target(
        every(TrustPolicy.from_toml, corpus.CorpusPolicy.from_toml),
        lambda: [TrustPolicy().to_toml().encode()],
        limits.TRUST_POLICY_BYTES,
    ),
    "endorsements": Target(
        endorsements.Endorsements.parse, lambda: [collection()], limits.ENDORSEMENTS_BYTES
    ),
    "reference": Target(reference_parse, lambda: [reference_values()], limits.STATEMENT_BYTES),
    "meta": Target(
        meta,
        lambda: [b'{"tee":"snp","files":{"report":"report.bin"},"at":"2024-01-01T00:00:00Z","id":"a"}'],
        limits.CASE_META_BYTES,
    ),
    "tpm-text": Target(
        lambda data: _tpm_files.gather({"pcrs": data, "ak": data, "quote": data}),
        lambda: case_files(r"pcrs|ak_public.*", "tpm", "azure-vtpm"),
        limits.TPM_TEXT_BYTES,
    ),
}
assert _tpm_parse.parse_attest is tpm.parse_attest
assert ratls.check


def snp_table() -> bytes:
    """A table of one certificate, as the GHCB's extended report brings it (SNP certificate table)."""
    der = certificates()[0]
    head = bytes.fromhex("63da758de6644564adc5f4b93be8accd") + (48).to_bytes(4, "little")
    return head + len(der).to_bytes(4, "little") + bytes(24) + der


def at_limits(target: Target, seed: bytes) -> Iterable[bytes]:
    """What a seed becomes at the limit, and one above: repeated, padded, and as deep as a text can nest."""
    size = target.limit
    yield seed + bytes(max(1, size + 1 - len(seed)))
    yield (seed * (size // max(1, len(seed)) + 1))[:size]
    yield seed + bytes(size - len(seed)) if len(seed) < size else seed[:size]
    for piece in (
        b"[",
        b'{"a":',
        b"\x81",
        b"\x30\x80",
        b"0",
        b"A",
        b"a=[",
        b"-----BEGIN CERTIFICATE-----\n",
        b"\xff",
    ):
        yield (piece * (size // len(piece)))[:size]


def seeds_of(target: Target) -> list[bytes]:
    found: Any = list(target.seeds())
    return [data for data in found if len(data) <= target.limit]


__all__ = ["TARGETS", "Target", "at_limits", "seeds_of"]
