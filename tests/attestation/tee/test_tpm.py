"""TPM quotes: attacks by TPMs whose keys are made here, and quotes captured from real machines."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured
from tests.support.tpms import NONCE, Machine, booted, rsa_key, sized, spki

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import tpm
from mesatee.attestation.verdict import Verdict
from mesatee.errors import EvidenceRefused, InputError, Malformed, MesateeError, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

POLICY = corpus.CorpusPolicy()
NOW = 1_800_000_000


def judge(files: Mapping[str, bytes], at: int | None = None) -> Verdict:
    """As `corpus.check` does: refusals of the input contraindicate."""
    try:
        return tpm.check(files, at, POLICY)
    except MesateeError as error:
        return corpus.plain_verdict(Status.CONTRAINDICATED, error.message)


# -- good ones -------------------------------------------------------------------------------------


def test_a_booted_machine():
    verdict = judge(booted().case())
    assert verdict.tier is Status.AFFIRMING
    assert {verdict.signature, verdict.chain, verdict.replay, verdict.binding} == {Answer.AFFIRMED}
    assert verdict.level == 3
    assert verdict.claims["tpm.nonce"] == NONCE.hex()


@pytest.mark.parametrize("key", [ec.SECP256R1(), ec.SECP384R1()])
def test_keys_on_curves(key: ec.EllipticCurve):
    machine = Machine(ec.generate_private_key(key))
    assert judge(machine.case()).tier is Status.AFFIRMING
    assert judge(machine.case(ak_public_tpmt=machine.public())).tier is Status.AFFIRMING


def test_pss_and_bare_signatures():
    machine = booted()
    message = machine.attest()
    assert judge(machine.case(signature=machine.sign(message, scheme=0x16))).tier is Status.AFFIRMING
    assert judge(machine.case(signature=machine.sign(message)[6:])).tier is Status.AFFIRMING


def test_wrappings():
    machine = booted()
    message, public = machine.attest(), machine.public()
    signature = machine.sign(message)
    files = [
        machine.case(quote=sized(message)),
        machine.case(quote=message.hex().encode(), signature=base64.b64encode(signature)),
        machine.case(ak_public_pem=b"", ak_public_tpmt=public),
        machine.case(ak_public_pem=b"", ak_pub=sized(public)),
        machine.case(nonce=NONCE.hex().encode()),
        machine.case(
            pcrs=b"sha256:\n"
            + b"".join(b"  %d : 0x%s\n" % (i, v.hex().encode()) for i, v in machine.pcrs.items())
        ),
        machine.case(pcrs=json.dumps([list(v) for v in machine.pcrs.values()]).encode()),
    ]
    for case in files:
        assert judge({role: data for role, data in case.items() if data}).tier is Status.AFFIRMING
    evidence = {
        "ak": base64.b64encode(public).decode(),
        "quote": {
            "message": message.hex(),
            "signature": list(signature),
            "pcrs": [v.hex() for v in machine.pcrs.values()],
        },
    }
    verdict = judge({"evidence": json.dumps(evidence).encode(), "ak.pem": machine.pem()})
    assert verdict.tier is Status.AFFIRMING


def test_a_key_that_came_with_the_evidence_alone_is_nobodys():
    machine = booted()
    quote = {"message": machine.attest().hex(), "signature": machine.sign(machine.attest()).hex()}
    evidence = {"ak_public": base64.b64encode(machine.public()).decode(), "quote": quote}
    verdict = judge({"evidence_json": json.dumps(evidence).encode()})
    assert (verdict.tier, verdict.signature, verdict.chain) == (
        Status.NONE,
        Answer.AFFIRMED,
        Answer.NOT_ESTABLISHED,
    )


def test_without_a_nonce_freshness_is_not_established():
    case = booted().case()
    del case["nonce"]
    assert judge(case).binding is Answer.NOT_ESTABLISHED


def test_without_values_no_boot_is_proven():
    case = booted().case()
    del case["pcrs"]
    verdict = judge(case)
    assert (verdict.tier, verdict.signature) == (Status.NONE, Answer.AFFIRMED)
    assert (verdict.level, verdict.replay) == (1, Answer.NOT_ESTABLISHED)


def certificate(subject: str, key: Any, issuer: str, by: Any, *, authority: bool) -> bytes:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime.fromtimestamp(NOW - 1_000, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(NOW + 1_000, datetime.UTC))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .sign(by, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def certified() -> dict[str, bytes]:
    machine = booted()
    files = machine.case()
    del files["ak_public_pem"]
    return files | {
        "ak_cert": certificate("ak", machine.key, "root", rsa_key(9), authority=False),
        "ak_root": certificate("root", rsa_key(9), "root", rsa_key(9), authority=True),
    }


def test_a_certified_key():
    verdict = judge(certified(), NOW)
    assert (verdict.tier, verdict.chain) == (Status.AFFIRMING, Answer.AFFIRMED)
    assert verdict.revocation is Answer.NOT_ESTABLISHED
    assert judge(certified(), None).tier is Status.NONE
    assert judge(certified(), NOW + 2_000).chain is Answer.REFUSED


def endorsed() -> dict[str, bytes]:
    """With the certificate of an endorsement key, and the root of whoever made the TPM."""
    return booted().case() | {
        "ek_certificate": certificate("ek", rsa_key(8), "maker", rsa_key(9), authority=False),
        "ek_public_tpmt": Machine(rsa_key(8)).public(),
        "ek_root": certificate("maker", rsa_key(9), "maker", rsa_key(9), authority=True),
    }


def test_an_endorsement_key_that_its_maker_certified():
    found = judge(endorsed(), NOW)
    assert (found.tier, found.level) == (Status.AFFIRMING, 3)
    assert found.claims["tpm.ek"] == hashlib.sha256(spki(Machine(rsa_key(8)))).hexdigest()
    root = x509.load_pem_x509_certificate(endorsed()["ek_root"]).fingerprint(hashes.SHA256())
    assert found.claims["tpm.ek.root"] == root.hex()
    assert any("only credential activation" in line for line in found.reasons)


def test_an_endorsement_key_that_is_not_established():
    """It is said, and proves or refuses nothing: the pinned attestation key is what counts."""
    for lacking, at, why in (
        ({"ek_certificate", "ek_root", "ek_public_tpmt"}, NOW, "no certificate of it"),
        ({"ek_root"}, NOW, "no root of its maker"),
        (set(), None, "validity of the certificates was not checked"),
    ):
        files = {role: data for role, data in endorsed().items() if role not in lacking}
        found = judge(files, at)
        assert found.tier is Status.AFFIRMING
        assert any("endorsement key is not established" in line and why in line for line in found.reasons)
        assert "tpm.ek.root" not in found.claims


def test_an_endorsement_key_of_another_maker_or_tpm():
    other = certificate("ek", rsa_key(8), "maker", rsa_key(7), authority=False)
    for change, why in (
        ({"ek_certificate": other}, "endorsement key: "),
        ({"ek_public_tpmt": Machine(rsa_key(7)).public()}, "certificate is of another key"),
    ):
        found = judge(endorsed() | change, NOW)
        assert found.tier is Status.CONTRAINDICATED
        assert any(why in line for line in found.reasons), found.reasons


def test_a_certificate_without_a_trusted_root():
    files = certified()
    own = files.pop("ak_root")
    assert judge(files, NOW).tier is Status.NONE
    # The same root, but among the certificates of the evidence: a root that nobody named.
    assert judge(files | {"ak_chain": own}, NOW).tier is Status.CONTRAINDICATED


# -- attacks ---------------------------------------------------------------------------------------


def refused(files: Mapping[str, bytes], reason: str) -> Verdict:
    verdict = judge(files)
    assert verdict.tier is Status.CONTRAINDICATED
    assert verdict.level == 1
    assert any(reason in line for line in verdict.reasons), verdict.reasons
    assert not verdict.claims
    return verdict


def test_quote_of_one_tpm_with_the_key_of_another():
    verdict = refused(booted(1).case(ak_public_pem=booted(2).pem()), "signature")
    assert verdict.signature is Answer.REFUSED


def test_certificate_of_another_key():
    other = certificate("ak", rsa_key(2), "root", rsa_key(9), authority=False)
    refused(booted().case(ak_cert=other), "certificate is of another key")
    verdict = judge(certified() | {"ak_cert": other}, NOW)
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_key_in_the_evidence_that_is_not_the_trusted_one():
    machine = booted()
    quote = {"message": machine.attest().hex(), "signature": machine.sign(machine.attest()).hex()}
    evidence = json.dumps({"ak": base64.b64encode(booted(2).public()).decode(), "quote": quote}).encode()
    refused(machine.case(evidence_json=evidence), "another attestation key")


def test_old_quote_with_a_new_nonce():
    verdict = refused(booted().case(nonce=b"the nonce of a later session"), "another nonce")
    assert verdict.binding is Answer.REFUSED


def test_signed_bytes_that_the_tpm_did_not_make():
    """TPM2_Sign by a key that is not restricted signs whatever an attacker wrote: all but the magic number."""
    machine = booted()
    forged = machine.attest(magic=b"\0TCG")
    refused(machine.case(forged), "not made by a TPM")
    with pytest.raises(EvidenceRefused):
        tpm.parse_attest(forged)


def test_another_attestation_is_no_quote():
    machine = booted()
    refused(machine.case(machine.attest(kind=0x801A)), "something else than a quote")


@pytest.mark.parametrize(
    ("bit", "name"),
    [(1, "fixedTPM"), (4, "fixedParent"), (5, "sensitiveDataOrigin"), (16, "restricted"), (18, "sign")],
)
def test_a_key_that_signs_more_than_the_tpms_words(bit: int, name: str):
    machine = booted()
    machine.attributes ^= 1 << bit
    refused(machine.case(ak_public_tpmt=machine.public()), f"not {name}")


def test_a_key_that_also_decrypts():
    machine = booted()
    machine.attributes |= 1 << 17
    refused(machine.case(ak_public_tpmt=machine.public()), "decrypt")


def test_log_that_replays_but_to_other_pcrs():
    other = Machine(rsa_key(1)).boot((0, b"firmware"), (4, b"rootkit"), (7, bytes(4)))
    verdict = refused(booted().case(eventlog=other.log), "other values of sha256 PCR 4")
    assert verdict.replay is Answer.REFUSED


def test_log_and_values_of_another_boot():
    """Both fit each other, and not the quote."""
    other = Machine(rsa_key(1)).boot((0, b"firmware"), (4, b"rootkit"), (7, bytes(4)))
    refused(booted().case(eventlog=other.log, pcrs=other.values()), "not those that it signs")


def test_two_values_of_one_pcr():
    machine = booted()
    quote = {"message": machine.attest().hex(), "signature": machine.sign(machine.attest()).hex()}
    quote_with = quote | {"pcrs": ["11" * 32] * 24}
    refused(machine.case(evidence_json=json.dumps(quote_with).encode()), "two values")


def test_a_quote_of_no_pcr():
    machine = booted()
    refused(machine.case(machine.attest(select=b"\0\0\0", digest=hashlib.sha256().digest())), "no PCR")


def test_pcrs_that_were_not_quoted_are_no_claim():
    machine = booted()
    verdict = judge(machine.case(machine.attest(select=b"\x01\0\0")))
    assert verdict.tier is Status.AFFIRMING
    assert verdict.level == 1
    assert [name for name in verdict.claims if name.startswith("tpm.pcr")] == ["tpm.pcr.sha256.0"]
    assert "secure_boot" not in verdict.claims


@pytest.mark.parametrize("changes", [{"nonce": b"of another session"}, {"resets": 3}])
def test_quotes_of_two_sessions_do_not_combine(changes: dict[str, Any]):
    """One is of the registers that the attacker wants to show, the other has the nonce."""
    machine = booted()
    first, second = machine.attest(select=b"\xff\0\0"), machine.attest(select=b"\0\xff\0", clock=2_000)
    files = machine.case(first, quote_two=second, sig_two=machine.sign(second))
    assert judge(files).tier is Status.AFFIRMING
    stale = machine.attest(select=b"\0\xff\0", **changes)
    del files["nonce"]
    refused(
        files | {"quote_two": stale, "sig_two": machine.sign(stale)},
        "different boots or for different nonces",
    )


def test_the_measurement_names_its_registers():
    """Registers 8 to 15 are zero as 16 to 23 are: the same digest, and another measurement."""
    machine = booted()
    messages = [machine.attest(select=select) for select in (b"\0\xff\0", b"\0\0\xff")]
    one, other = (judge(machine.case(message)).measurement for message in messages)
    assert tpm.parse_attest(messages[0]).digest == tpm.parse_attest(messages[1]).digest
    assert one != other
    selection = bytes.fromhex("00000001 000b 03 00ff00")
    assert one == hashlib.sha256(selection + tpm.parse_attest(messages[0]).digest).hexdigest()


def test_a_bank_that_is_selected_twice():
    machine = booted()
    half = b"\0\x0b\x03\xff\0\0"
    message = machine.attest(select=b"\xff\0\0").replace(
        struct.pack(">I", 1) + half, struct.pack(">I", 2) + half + b"\0\x0b\x03\xff\0\0"
    )
    refused(machine.case(message), "twice from one bank")


def test_one_bad_quote_among_good_ones():
    machine = booted()
    second = machine.attest(nonce=b"", select=b"\xff\0\0")
    files = machine.case(quote_two=second, sig_two=booted(2).sign(second))
    del files["nonce"]
    refused(files, "quote_two")


def test_one_bad_copy_of_a_signature():
    machine = booted()
    quote = {"message": machine.attest().hex(), "signature": booted(2).sign(machine.attest()).hex()}
    refused(machine.case(evidence_json=json.dumps(quote).encode()), "signature")


def test_signatures_without_names_that_fit():
    machine = booted()
    files = machine.case(other_sig=booted(2).sign(b"another message"))
    files["own_sig"] = files.pop("signature")
    assert judge(files).tier is Status.AFFIRMING
    del files["own_sig"]
    refused(files, "signature")


# -- parsers ---------------------------------------------------------------------------------------


def test_parsers_refuse_what_is_cut_or_long():
    machine = booted()
    message = machine.attest()
    parsers: list[tuple[Any, bytes]] = [
        (tpm.parse_attest, message),
        (tpm.parse_public, machine.public()),
        (tpm.parse_signature, machine.sign(message)),
    ]
    for parse, data in parsers:
        parse(data)
        for bad in (data[:-1], data + b"\0", data[:3]):
            with pytest.raises(InputError):
                parse(bad)
        with pytest.raises(TooLarge):
            parse(data + bytes(limits.TPM_BYTES))
    long = machine.attest(nonce=bytes(limits.TPM_BYTES - len(machine.attest(nonce=b""))))
    assert len(long) == limits.TPM_BYTES
    tpm.parse_attest(long)


def test_unknown_kinds():
    with pytest.raises(UnsupportedVersion):
        tpm.parse_public(b"\0\x08" + bytes(60))
    with pytest.raises(UnsupportedVersion):
        tpm.parse_signature(struct.pack(">HH", 0x1A, 11) + sized(bytes(64)))
    with pytest.raises(Malformed):
        tpm.parse_attest(_high_pcr())


def _high_pcr() -> bytes:
    message = booted().attest()
    return message.replace(b"\0\x0b\x03\xff\xff\xff", b"\0\x0b\x04\xff\xff\xff\x01")


def test_limit_of_quotes():
    machine = booted()
    messages = [machine.attest(clock=n) for n in range(limits.TPM_QUOTES + 1)]
    files = {"ak_pem": machine.pem(), "pcrs": machine.values()}
    for number, message in enumerate(messages[:-1]):
        files |= {f"quote_{number}": message, f"sig_{number}": machine.sign(message)}
    assert judge(files).tier is Status.AFFIRMING
    refused(files | {"quote_last": messages[-1]}, "quotes")


def test_limits_of_wrappings():
    machine = booted()
    flood = json.dumps({"x": [1.5] * (limits.TPM_JSON_VALUES + 1)}).encode()
    assert judge(machine.case(other_json=flood)).tier is Status.AFFIRMING
    deep = b"[" * 100_000 + b"]" * 100_000
    refused(machine.case(other_json=deep), "not JSON")
    # Field 4 is not read, but counts; the key in front makes it go-tpm-tools' message.
    public = b"\x0a" + _varint(len(machine.public())) + machine.public()
    for count in (limits.PROTOBUF_FIELDS - 2, limits.PROTOBUF_FIELDS - 1):
        filler = b"\x20\x01" * count + b"\x2a\x04\xffTCG"
        files = machine.case(attestation_pb=public + filler)
        if count + 2 > limits.PROTOBUF_FIELDS:
            refused(files, "fields")
        else:
            assert judge(files).tier is Status.AFFIRMING


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_files_raise_our_errors_only(data: st.DataObject):
    files = booted().case(ak_tpmt=booted().public())
    role = data.draw(st.sampled_from(sorted(files)))
    original = files[role]
    position, patch = data.draw(st.integers(0, len(original))), data.draw(st.binary(max_size=6))
    mutated = original[:position] + patch + original[position + len(patch) :]
    for form in (mutated, original[:position]):
        with contextlib.suppress(MesateeError):
            verdict = tpm.check(files | {role: form}, None, POLICY)
            assert verdict.tier is not Status.AFFIRMING or verdict.signature is Answer.AFFIRMED


# -- captured quotes -------------------------------------------------------------------------------


def case(folder: Path) -> tuple[corpus.Question, corpus.Expectation | None, dict[str, bytes]]:
    meta = (folder / "meta.json").read_bytes()
    question = corpus.question(meta)
    files = {role: (folder / name).read_bytes() for role, name in question.names.items()}
    return question, corpus.expectation(meta), files


@captured.needed
def test_captured_quotes_agree_with_their_cases():
    seen = 0
    for folder in captured.folders("tpm"):
        question, expected, files = case(folder)
        verdict = judge(files, question.at)
        assert expected is not None
        assert verdict.tier is expected.tier, (question.id, verdict.reasons)
        assert verdict.replay is (Answer.AFFIRMED if "eventlog" in files else Answer.NOT_ESTABLISHED)
        seen += 1
    assert seen


@captured.needed
def test_captured_nonces():
    _, _, files = case(captured.FOLDER / "tpm" / "google-gce-cos85-nonce9009")
    assert judge(files | {"nonce": b"9009"}).binding is Answer.AFFIRMED
    assert judge(files | {"nonce": b"9010"}).tier is Status.CONTRAINDICATED
