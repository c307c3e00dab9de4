"""Azure's HCL report and the vTPM's quote: each link between them cut in turn, on evidence of real machines."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured, tpms

from mesatee import _core
from mesatee.attestation import corpus, evidence
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.tee import azure, tpm
from mesatee.attestation.trust import RoleTrust, TrustPolicy
from mesatee.attestation.verdict import Verdict
from mesatee.attestation.verify import appraise, examine
from mesatee.errors import EvidenceRefused, InputError, Malformed, MesateeError, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

POLICY = corpus.CorpusPolicy()
SNP_CASES = ("az-snp-trustee-genoa", "az-snp-trustee-v0", "az-snp-trustee-v1", "az-snp-trustee-v2")
TDX_CASES = ("az-tdx-trustee-v0", "az-tdx-trustee-v1")
SPLIT = ("hcl_report", "quote", "signature", "pcrs", "ak_public_pem", "vcek", "ask_ark", "td_quote")


# -- parser ----------------------------------------------------------------------------------------

KEY = rsa.generate_private_key(65_537, 2_048).public_key()


def jwk(**other: Any) -> dict[str, Any]:
    def number(value: int) -> str:
        return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()

    numbers = KEY.public_numbers()
    return {"kid": "HCLAkPub", "kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)} | other


def hcl(runtime: bytes | None = None, kind: int = azure.SNP, hash_type: int = 1, version: int = 1) -> bytes:
    if runtime is None:
        runtime = json.dumps({"keys": [jwk()], "vm-configuration": {"secure-boot": True}}).encode()
    bound = hashlib.sha256(runtime).digest().ljust(64, b"\0")
    at = 0x50 if kind == azure.SNP else 128
    hardware = bytes(at) + bound + bytes(azure.HARDWARE_BYTES - at - 64)
    request = struct.pack("<5I", len(runtime) + 20, version, kind, hash_type, len(runtime))
    return b"HCLA" + bytes(28) + hardware + request + runtime


@pytest.mark.parametrize("kind", [azure.SNP, azure.TDX])
def test_parse(kind: int):
    report = azure.parse(hcl(kind=kind) + bytes(50))
    assert report.report_data == report.expected_data
    assert report.ak == KEY.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert report.configuration == {"secure-boot": True}


@pytest.mark.parametrize(
    "runtime",
    [
        b"",
        b"[]",
        b"{",
        b'{"keys": []}',
        json.dumps({"keys": [jwk(), jwk()]}).encode(),
        json.dumps({"keys": [jwk(kid="other")]}).encode(),
        json.dumps({"keys": [jwk(n="!")]}).encode(),
        json.dumps({"keys": [jwk()]}).encode().replace(b'{"keys"', b'{"keys": [], "keys"'),
        b"[" * 40_000,
    ],
)
def test_bad_runtime_data(runtime: bytes):
    with pytest.raises(Malformed):
        azure.parse(hcl(runtime))


def test_unknown_kinds():
    for bad in (
        hcl(kind=3),
        hcl(hash_type=9),
        hcl(version=2),
        hcl(json.dumps({"keys": [jwk(kty="EC")]}).encode()),
    ):
        with pytest.raises(UnsupportedVersion):
            azure.parse(bad)


def test_cut_or_long():
    data = hcl()
    for bad in (data[:-1], data[:1_230], b"HCLB" + data[4:]):
        with pytest.raises(Malformed):
            azure.parse(bad)
    azure.parse(data.ljust(limits.HCL_BYTES, b"\0"))
    with pytest.raises(TooLarge):
        azure.parse(data.ljust(limits.HCL_BYTES + 1, b"\0"))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3_000), st.binary(max_size=8))
def test_hostile_reports_raise_our_errors_only(position: int, patch: bytes):
    data = hcl()
    for form in (data[:position] + patch + data[position + len(patch) :], data[:position]):
        with contextlib.suppress(InputError):
            azure.parse(form)
        with contextlib.suppress(MesateeError):
            verdict = azure.check({"hcl_report": form}, None, POLICY)
            assert verdict.tier is not Status.AFFIRMING


# -- captured cases --------------------------------------------------------------------------------


def case(name: str) -> tuple[corpus.Question, corpus.Expectation | None, dict[str, bytes]]:
    folder = captured.FOLDER / "azure-vtpm" / name
    meta = (folder / "meta.json").read_bytes()
    question = corpus.question(meta)
    files = {role: (folder / file).read_bytes() for role, file in question.names.items()}
    return question, corpus.expectation(meta), files


def parts(name: str) -> tuple[int | None, dict[str, bytes]]:
    """The case without the JSON that repeats its parts, so that a change of one part is not contradicted by it."""
    question, _, files = case(name)
    return question.at, {role: data for role, data in files.items() if role in SPLIT}


def judge(files: Mapping[str, bytes], at: int | None) -> Verdict:
    try:
        return azure.check(files, at, POLICY)
    except MesateeError as error:
        return corpus.plain_verdict(Status.CONTRAINDICATED, error.message)


def refused(files: Mapping[str, bytes], at: int | None, reason: str) -> None:
    verdict = judge(files, at)
    assert verdict.tier is Status.CONTRAINDICATED
    assert verdict.level == 1
    assert any(reason in line for line in verdict.reasons), verdict.reasons


def altered(report: bytes) -> bytes:
    position = report.index(b'"secure-boot":')
    return report[:position] + b'"secure-boOt":' + report[position + 14 :]


@captured.needed
@pytest.mark.parametrize("name", [*SNP_CASES, *TDX_CASES])
def test_captured_cases_agree(name: str):
    question, expected, files = case(name)
    verdict = judge(files, question.at)
    assert expected is not None
    assert verdict.tier is expected.tier, verdict.reasons
    assert verdict.signature is verdict.binding is Answer.AFFIRMED
    alone = {"evidence_json": files["evidence_json"]} | {r: files[r] for r in ("ask_ark",) if r in files}
    assert judge(alone, question.at).tier is verdict.tier


@captured.needed
@pytest.mark.parametrize("name", SNP_CASES)
def test_level_5_needs_the_quote_and_its_values(name: str):
    at, files = parts(name)
    verdict = judge(files, at)
    assert (verdict.tier, verdict.level) == (Status.AFFIRMING, 5)
    for lacking in (("quote", "signature"), ("pcrs",)):
        less = judge({role: data for role, data in files.items() if role not in lacking}, at)
        assert less.level == 4
        assert any("level 4 and not 5" in line for line in less.reasons)


@captured.needed
@pytest.mark.parametrize("name", SNP_CASES)
def test_the_measurement_is_of_paravisor_and_registers(name: str):
    at, files = parts(name)
    verdict = judge(files, at)
    attest = tpm.parse_attest(files["quote"])
    hardware = azure.parse(files["hcl_report"].rstrip(b"\0")).hardware[0x90:0xC0]
    boot = hashlib.sha256(attest.selected + attest.digest).digest()
    assert verdict.measurement == hashlib.sha256(hardware + boot).hexdigest()
    assert verdict.claims["measurement.hardware"] == hardware.hex()
    assert verdict.claims["measurement.boot"] == boot.hex()
    without = judge({role: files[role] for role in files if role not in ("quote", "signature")}, at)
    assert (without.level, without.measurement) == (4, hardware.hex())


@captured.needed
def test_another_system_in_the_same_paravisor_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The paravisor, its key and the hardware are the pinned ones; what booted in it is another system.

    The keys of captured machines are theirs, so that the report here is a captured one which names a key of ours: only
    the first link, the hardware's hash of the runtime data, is taken for granted.
    """
    at, files = parts(SNP_CASES[3])
    good = tpms.booted()
    parse = azure.parse
    monkeypatch.setattr(azure, "parse", lambda data: replace(parse(data), ak=tpms.spki(good)))
    evil = tpms.Machine(good.key).boot((0, b"firmware"), (4, b"another kernel"), (7, bytes(4)))
    channel = _core.spki(_core.SigningKey.generate().public)

    def shown(machine: tpms.Machine) -> bytes:
        claims = evidence.Claims.of_key(channel, "worker").encode()
        made = machine.case(machine.attest(nonce=evidence.report_data(claims)[:32]))
        del made["nonce"], made["eventlog"]
        bundle = Bundle(
            "azure-vtpm", {role: files[role] for role in ("hcl_report", "vcek", "ask_ark")} | made
        )
        return evidence.encode(evidence.TAG_PLATFORM, bundle.encode(), claims)

    assert at is not None
    found = examine(shown(good), channel, TrustPolicy(), at, "worker")
    trust = RoleTrust(
        tees=("azure-vtpm",),
        minimum_level=5,
        measurements=(found.measurement,),
        allow_smt=True,
        allow_revocation_unknown=True,
    )
    policy = TrustPolicy(worker=trust)
    assert appraise(shown(good), channel, policy, at, "worker").level == 5
    with pytest.raises(EvidenceRefused, match="is not one that the policy names"):
        appraise(shown(evil), channel, policy, at, "worker")
    # The paravisor's own measurement, with which every customer's machine begins, opens nothing.
    alone = replace(trust, measurements=(str(found.claims["measurement.hardware"]),))
    with pytest.raises(EvidenceRefused, match="is not one that the policy names"):
        appraise(shown(good), channel, TrustPolicy(worker=alone), at, "worker")


@captured.needed
@pytest.mark.parametrize("name", [SNP_CASES[3], TDX_CASES[0]])
def test_a_key_that_is_not_in_the_hcl_report(name: str):
    at, files = parts(name)
    _, other = parts(SNP_CASES[0])
    refused(files | {"ak_public_pem": other["ak_public_pem"]}, at, "not the HCLAkPub")


@captured.needed
@pytest.mark.parametrize("name", [SNP_CASES[3], TDX_CASES[0]])
def test_a_quote_of_another_vtpm(name: str):
    at, files = parts(name)
    _, other = parts(SNP_CASES[0])
    foreign = {role: other[role] for role in ("quote", "signature", "pcrs")}
    refused(files | foreign, at, "signature")


@captured.needed
@pytest.mark.parametrize("name", [SNP_CASES[0], TDX_CASES[0]])
def test_altered_runtime_data(name: str):
    at, files = parts(name)
    refused(files | {"hcl_report": altered(files["hcl_report"])}, at, "not over this runtime data")


@captured.needed
def test_runtime_data_of_another_machine():
    at, files = parts(SNP_CASES[1])
    _, other = parts(SNP_CASES[3])
    spliced = files["hcl_report"][:1_216] + other["hcl_report"][1_216:]
    mixed = files | {role: other[role] for role in ("quote", "signature", "pcrs", "ak_public_pem")}
    refused(mixed | {"hcl_report": spliced}, at, "not over this runtime data")


@captured.needed
@pytest.mark.parametrize("other", ["google-v5-90c06f", "phala-tdx-v4-b0c06f"])
def test_a_td_quote_of_another_machine(other: str):
    at, files = parts(TDX_CASES[0])
    foreign = (captured.FOLDER / "tdx" / other / "quote.bin").read_bytes()
    refused(files | {"td_quote": foreign}, at, "of another machine")


@captured.needed
def test_a_tdreport_alone_proves_nothing():
    at, files = parts(TDX_CASES[0])
    del files["td_quote"]
    verdict = judge(files, at)
    assert (verdict.tier, verdict.signature) == (Status.NONE, Answer.NOT_ESTABLISHED)


@captured.needed
@pytest.mark.parametrize("name", [SNP_CASES[3], TDX_CASES[0]])
def test_an_old_quote_with_a_new_nonce(name: str):
    at, files = parts(name)
    refused(files | {"nonce": b"the nonce of a later session"}, at, "another nonce")


@captured.needed
@pytest.mark.parametrize("name", [SNP_CASES[3], TDX_CASES[0]])
def test_other_values_of_the_pcrs(name: str):
    at, files = parts(name)
    values = json.loads(files["pcrs"])
    values["sha256"]["4"] = "00" * 32
    refused(files | {"pcrs": json.dumps(values).encode()}, at, "not those that it signs")


@captured.needed
def test_two_reports_that_differ():
    at, files = parts(TDX_CASES[0])
    refused(files | {"second": altered(files["hcl_report"])}, at, "two HCL reports")


@captured.needed
def test_flipped_bits_of_captured_reports():
    rng = random.Random(3)
    for name in (*SNP_CASES, *TDX_CASES):
        at, files = parts(name)
        good = judge(files, at)
        for role in ("hcl_report", "quote", "signature", "ak_public_pem"):
            for _ in range(25):
                mutated = bytearray(files[role])
                bit = rng.randrange(8 * len(mutated))
                mutated[bit // 8] ^= 1 << bit % 8
                verdict = judge(files | {role: bytes(mutated)}, at)
                if verdict.tier in (Status.AFFIRMING, Status.WARNING):
                    assert replace(verdict, reasons=()) == replace(good, reasons=()), (name, role, bit)
