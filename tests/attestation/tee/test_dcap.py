"""Attacks on DCAP verification, by machines whose whole PKI is made here by another library."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.intel import (
    DAY,
    FMSPC,
    NOW,
    VENDOR,
    Machine,
    Vendor,
    point,
    revocations,
    sign,
    stamp,
)

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.tee import dcap, dcap_collateral, dcap_quote, dcap_verify, sgx, tdx
from mesatee.attestation.verdict import Verdict
from mesatee.errors import Malformed, MesateeError, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

POLICY = CorpusPolicy()
YES, NO, UNKNOWN = Answer.AFFIRMED, Answer.REFUSED, Answer.NOT_ESTABLISHED


def verdict(
    machine: Machine,
    quote: bytes | None = None,
    collateral: dict[str, str] | None = None,
    at: int | None = NOW,
) -> Verdict:
    files = {"collateral": json.dumps(machine.collateral() if collateral is None else collateral).encode()}
    module: Any = sgx if machine.tee == "sgx" else tdx
    found: Verdict = module.appraise(
        quote or machine.quote(), files, at, POLICY, anchors=machine.vendor.anchors
    )
    return found


@pytest.fixture(params=["sgx", "tdx"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


# -- what holds ---------------------------------------------------------------------------------------


def test_good_evidence_is_affirmed(machine: Machine) -> None:
    found = verdict(machine)
    assert found.tier is Status.AFFIRMING, found.reasons
    assert (found.signature, found.chain, found.revocation, found.tcb) == (YES, YES, YES, YES)
    assert (found.tcb_status, found.level, found.binding) == ("UpToDate", 4, UNKNOWN)
    assert found.claims["platform.fmspc"] == FMSPC


@pytest.mark.parametrize(
    ("svn", "tier"), [(4, Status.WARNING), (3, Status.CONTRAINDICATED), (2, Status.CONTRAINDICATED)]
)
def test_the_tcb_level_decides(svn: int, tier: Status) -> None:
    found = verdict(Machine(components=bytes([svn] * 16)))
    assert found.tier is tier
    assert found.tcb_status == {4: "OutOfDate", 3: "Revoked", 2: None}[svn]
    assert found.claims.get("tcb.advisories") == (None if svn == 2 else "INTEL-SA-00001")


def test_an_old_quoting_enclave_lowers_the_status(machine: Machine) -> None:
    digest = hashlib.sha256(point(machine.attestation_key) + b"auth").digest()
    found = verdict(machine, machine.quote(qe=machine.report(data=digest, svn=7)))
    assert (found.tier, found.tcb_status) == (Status.WARNING, "OutOfDate")


def test_another_root_is_not_intels(machine: Machine) -> None:
    module: Any = sgx if machine.tee == "sgx" else tdx
    files = {"collateral": json.dumps(machine.collateral()).encode()}
    found = module.appraise(machine.quote(), files, NOW, POLICY)
    assert (found.tier, found.chain) == (Status.CONTRAINDICATED, NO)


# -- what is missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["tcb_info", "qe_identity", "pck_crl", "root_ca_crl"])
def test_without_a_piece_of_collateral_nothing_is_said_of_the_tcb(machine: Machine, missing: str) -> None:
    found = verdict(machine, collateral=machine.collateral(**{missing: ""}))
    assert (found.tier, found.signature, found.chain) == (Status.NONE, YES, YES)
    assert found.tcb_status is None
    assert found.tcb is UNKNOWN


@pytest.mark.parametrize("svn", [2, 3])
def test_a_bad_level_speaks_against_a_platform_even_without_revocation_lists(svn: int) -> None:
    machine = Machine(components=bytes([svn] * 16))
    found = verdict(machine, collateral=machine.collateral(pck_crl="", root_ca_crl=""))
    assert (found.tier, found.tcb, found.tcb_status) == (Status.CONTRAINDICATED, NO, None)


def test_without_any_collateral_only_the_signature_is_proven(machine: Machine) -> None:
    found = verdict(machine, collateral={})
    assert (found.tier, found.signature, found.chain, found.tcb) == (Status.NONE, YES, YES, UNKNOWN)


def test_without_a_time_there_is_no_verdict(machine: Machine) -> None:
    assert verdict(machine, at=None).tier is Status.NONE


def test_without_a_pck_certificate_the_quote_proves_nothing_until_one_is_given() -> None:
    machine = Machine()
    quote = machine.quote(certification=(3, bytes(404)))
    found = verdict(machine, quote)
    assert (found.tier, found.signature) == (Status.NONE, UNKNOWN)
    given = machine.collateral(pck_cert=machine.pck.pem.decode())
    assert verdict(machine, quote, given).tier is Status.AFFIRMING
    other = machine.collateral(pck_cert=Machine().pck.pem.decode())
    assert verdict(machine, quote, other).tier is Status.CONTRAINDICATED


def test_the_chain_in_a_quote_may_be_der_in_any_order() -> None:
    machine = Machine()
    ders = [
        e.certificate.public_bytes(serialization.Encoding.DER) for e in (VENDOR.root, VENDOR.ca, machine.pck)
    ]
    assert verdict(machine, machine.quote(certification=(5, b"".join(ders)))).tier is Status.AFFIRMING
    # Only the leaf, too: the CA came with the revocation lists.
    assert verdict(machine, machine.quote(certification=(4, machine.pck.pem))).tier is Status.AFFIRMING
    for data in (b"", b"\0", b"0", ders[2][:-1], b"0\x82\xff\xff", b"-----BEGIN CERTIFICATE-----"):
        assert verdict(machine, machine.quote(certification=(5, data))).tier is not Status.AFFIRMING


def test_the_pinned_root_is_intels() -> None:
    assert hashlib.sha256(dcap_verify.INTEL_SGX_ROOT_DER).digest() == dcap_verify.INTEL_SGX_ROOT


def test_chains_may_come_without_their_root(machine: Machine) -> None:
    """It is pinned; a chain needs no copy of it."""
    signer, ca = VENDOR.signer.pem.decode(), VENDOR.ca.pem.decode()
    bare = machine.collateral(
        tcb_info_issuer_chain=signer, qe_identity_issuer_chain=signer, pck_crl_issuer_chain=ca
    )
    quote = machine.quote(certification=(5, machine.pck.pem + VENDOR.ca.pem))
    files = {"collateral": json.dumps(bare).encode()}
    module: Any = sgx if machine.tee == "sgx" else tdx
    der_root = VENDOR.root.certificate.public_bytes(serialization.Encoding.DER)
    assert module.appraise(quote, files, NOW, POLICY, anchors=(der_root,)).tier is Status.AFFIRMING
    # A digest alone cannot stand in for it.
    assert module.appraise(quote, files, NOW, POLICY, anchors=VENDOR.anchors).tier is not Status.AFFIRMING


@pytest.mark.parametrize(
    "wrap", [str, lambda text: "\ufeff" + text, lambda text: json.dumps([json.loads(text), 2**64 - 1])]
)
def test_a_quote_and_its_collateral_in_one_text_are_as_good_as_apart(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, wrap: Any
) -> None:
    monkeypatch.setattr(dcap_verify, "ANCHORS", VENDOR.anchors)
    module: Any = sgx if machine.tee == "sgx" else tdx
    text = wrap(json.dumps({"quote": machine.quote().hex(), "collateral": machine.collateral()}))
    assert module.check({"evidence": text.encode()}, NOW, POLICY).tier is Status.AFFIRMING


def test_a_verdict_ends_with_the_first_thing_that_it_relied_on(machine: Machine) -> None:
    """Of all pieces in turn one ends first."""
    end = NOW + 7 * DAY
    crls = {"pck_crl": VENDOR.ca, "root_ca_crl": VENDOR.root}
    for changes in (
        {"info": machine.tcb_info(nextUpdate=stamp(end))},
        {"identity": machine.identity(nextUpdate=stamp(end))},
        *({name: revocations(issuer, end=end).hex()} for name, issuer in crls.items()),
    ):
        assert verdict(machine, collateral=machine.collateral(**changes)).expires == end + 1
    # Of two lists the one that ends last, of two statements the one that counts.
    more = revocations(VENDOR.ca, end=end).hex()
    assert verdict(machine, collateral=machine.collateral(more=more)).expires == NOW + 20 * DAY + 1
    # Certificates end too.
    assert verdict(machine, collateral={}).expires == NOW + 900 * DAY + 1


def test_a_policy_may_ask_for_revocation_lists() -> None:
    machine = Machine()
    files = {"collateral": json.dumps(machine.collateral(pck_crl="")).encode()}
    found = sgx.appraise(machine.quote(), files, NOW, CorpusPolicy(missing_crl=False), anchors=VENDOR.anchors)
    assert found.tier is Status.CONTRAINDICATED


# -- splices ------------------------------------------------------------------------------------------


def refused(found: Verdict, **answers: Answer) -> None:
    assert found.tier is Status.CONTRAINDICATED, found
    assert found.level == 1
    for name, answer in answers.items():
        assert getattr(found, name) is answer, (name, found)


def test_the_quoting_enclaves_report_of_another_machine_is_refused(machine: Machine) -> None:
    other = replace(machine)
    other.__post_init__()
    digest = hashlib.sha256(point(other.attestation_key) + b"auth").digest()
    qe = other.report(data=digest)
    refused(verdict(machine, machine.quote(qe=qe, qe_signature=sign(other.pck.key, qe))), signature=NO)
    # Even where this machine's PCK signed that report, it names another key.
    refused(verdict(machine, machine.quote(qe=qe)), signature=NO)


def test_the_pck_chain_of_another_machine_is_refused(machine: Machine) -> None:
    other = Machine(machine.tee)
    refused(verdict(machine, machine.quote(certification=(5, other.chain()))), signature=NO, chain=YES)


def test_a_swapped_attestation_key_is_refused(machine: Machine) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    quote = machine.quote(key=point(other))
    refused(verdict(machine, quote), signature=NO)
    # Also when that key did sign the quote.
    mine = replace(machine)
    mine.__post_init__()
    mine.pck, mine.attestation_key = machine.pck, other
    digest = hashlib.sha256(point(machine.attestation_key) + b"auth").digest()
    qe = machine.report(data=digest)
    refused(verdict(machine, mine.quote(qe=qe)), signature=NO)


def test_a_key_that_is_no_point_is_refused(machine: Machine) -> None:
    refused(verdict(machine, machine.quote(key=b"\x01" * 64)), signature=NO)


def test_collateral_of_the_other_tee_is_refused(machine: Machine) -> None:
    other = Machine("tdx" if machine.tee == "sgx" else "sgx")
    refused(verdict(machine, collateral=other.collateral()), tcb=NO, signature=YES)
    mixed = machine.collateral(identity=other.identity())
    refused(verdict(machine, collateral=mixed), tcb=NO)


def test_tcb_info_of_other_platforms_is_refused(machine: Machine) -> None:
    other = Machine(machine.tee, fmspc="00a067110000")
    refused(verdict(machine, collateral=machine.collateral(info=other.tcb_info())), tcb=NO)
    refused(verdict(machine, collateral=machine.collateral(info=machine.tcb_info(pceId="0001"))), tcb=NO)


def test_collateral_signed_by_another_vendor_is_refused(machine: Machine) -> None:
    other = Machine(machine.tee, vendor=Vendor())
    refused(
        verdict(machine, collateral=machine.collateral(info=machine.tcb_info(), **_of(other, "tcb_info"))),
        tcb=NO,
    )
    refused(verdict(machine, collateral=machine.collateral(**_of(other, "qe_identity"))), tcb=NO)
    refused(verdict(machine, collateral=machine.collateral(**_of(other, "pck_crl"))), revocation=NO)


def _of(machine: Machine, name: str) -> dict[str, str]:
    return {key: value for key, value in machine.collateral().items() if key.startswith(name)}


def test_a_pck_certificate_cannot_sign_collateral(machine: Machine) -> None:
    text = machine.collateral()["tcb_info"]
    forged = {
        "tcb_info": text,
        "tcb_info_signature": sign(machine.pck.key, text.encode()).hex(),
        "tcb_info_issuer_chain": machine.chain().decode(),
    }
    refused(verdict(machine, collateral=machine.collateral(**forged)), tcb=NO)


def test_the_signer_of_collateral_cannot_be_a_platform(machine: Machine) -> None:
    digest = hashlib.sha256(point(machine.attestation_key) + b"auth").digest()
    qe = machine.report(data=digest)
    chain = VENDOR.signer.pem + VENDOR.root.pem
    quote = machine.quote(qe=qe, qe_signature=sign(VENDOR.signer.key, qe), certification=(5, chain))
    refused(verdict(machine, quote), chain=NO)


def test_a_quoting_enclave_of_another_signer_is_refused(machine: Machine) -> None:
    digest = hashlib.sha256(point(machine.attestation_key) + b"auth").digest()
    for qe in (
        machine.report(data=digest, signer=bytes(32)),
        machine.report(data=digest, debug=True),
        machine.report(data=digest, svn=5),
    ):
        refused(verdict(machine, machine.quote(qe=qe)), tcb=NO, signature=YES)


def test_expired_and_future_collateral_is_refused(machine: Machine) -> None:
    refused(verdict(machine, at=NOW + 26 * DAY), tcb=NO)
    refused(verdict(machine, at=NOW - 6 * DAY), tcb=NO)
    refused(
        verdict(machine, collateral=machine.collateral(info=machine.tcb_info(nextUpdate=stamp(NOW - 1)))),
        tcb=NO,
    )
    refused(verdict(machine, at=NOW + 901 * DAY), chain=NO)


def test_old_revocation_lists_establish_nothing(machine: Machine) -> None:
    old = revocations(VENDOR.ca, end=NOW - 1).hex()
    found = verdict(machine, collateral=machine.collateral(pck_crl=old))
    assert (found.tier, found.revocation, found.tcb) == (Status.NONE, UNKNOWN, UNKNOWN)


def test_what_was_revoked_is_refused(machine: Machine) -> None:
    for name, crl in (
        ("pck_crl", revocations(VENDOR.ca, machine.pck)),
        ("root_ca_crl", revocations(VENDOR.root, VENDOR.ca)),
        ("root_ca_crl", revocations(VENDOR.root, VENDOR.signer)),
    ):
        refused(verdict(machine, collateral=machine.collateral(**{name: crl.hex()})), revocation=NO)


def test_of_two_statements_the_later_one_counts(machine: Machine) -> None:
    # Old collateral that is still valid must not hide what is known by now.
    levels = machine.tcb_info()["tcbLevels"]
    levels[0]["tcbStatus"] = "ConfigurationNeeded"
    later = machine.tcb_info(issueDate=stamp(NOW - DAY), tcbLevels=levels)
    text, signature = VENDOR.statement(later)
    answer = f'{{"tcbInfo":{text},"signature":"{signature}"}}'
    found = verdict(machine, collateral=machine.collateral(more=answer))
    assert (found.tier, found.tcb_status) == (Status.WARNING, "ConfigurationNeeded")


@pytest.mark.parametrize("kind", ["info", "identity"])
def test_the_evaluation_number_counts_before_the_date(machine: Machine, kind: str) -> None:
    """Intel still issues statements with older numbers, which know less, after those with newer ones."""
    bad = {"tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-00002"]}
    base = machine.tcb_info() if kind == "info" else machine.identity()
    newer = base | {"tcbEvaluationDataNumber": 21, "tcbLevels": [base["tcbLevels"][0] | bad]}
    text, signature = VENDOR.statement(newer)
    member = "tcbInfo" if kind == "info" else "enclaveIdentity"
    answer = f'{{"{member}":{text},"signature":"{signature}"}}'
    later = base | {"issueDate": stamp(NOW - 1)}
    for more in (answer, json.dumps([answer])):
        found = verdict(machine, collateral=machine.collateral(**{kind: later}, more=more))
        assert found.tcb_status == "OutOfDate"


def test_debug_is_contraindicated_with_and_without_collateral() -> None:
    machine, td = Machine(), Machine("tdx")
    shapes: tuple[dict[str, str] | None, ...] = (None, {})
    for collateral in shapes:
        refused(verdict(machine, machine.quote(machine.report(debug=True)), collateral), signature=YES)
        refused(verdict(td, td.quote(td.td_report(1 << 28 | 1)), collateral), signature=YES)


@pytest.mark.parametrize("attributes", [0, 1 << 28 | 1 << 29, 1 << 28 | 1 << 40])
def test_attributes_of_a_td_speak_against_what_would_be_good(attributes: int) -> None:
    td = Machine("tdx")
    quote = td.quote(td.td_report(attributes))
    refused(verdict(td, quote), signature=YES, tcb=YES)
    assert verdict(td, quote, {}).tier is Status.NONE


def test_a_partitioned_td_may_leave_exceptions_to_its_paravisor() -> None:
    td = Machine("tdx")
    files = {"collateral": json.dumps(td.collateral()).encode()}
    quote = td.quote(td.td_report(0))
    found = tdx.appraise(quote, files, NOW, POLICY, partitioned=True, anchors=VENDOR.anchors)
    assert found.tier is Status.AFFIRMING


def test_a_tdx_module_that_nobody_named_is_refused() -> None:
    td = Machine("tdx")
    refused(verdict(td, td.quote(td.td_report(svn=bytes([3, 2] + [3] * 14)))), tcb=NO)
    refused(verdict(td, td.quote(td.td_report(svn=bytes([2, 1] + [3] * 14)))), tcb=NO)


# -- cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        bytes,
        lambda quote: quote.ljust(8_000, b"\0"),
        lambda quote: quote.hex().encode() + b"\n",
        lambda quote: b"0x" + quote.hex().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda quote: json.dumps({"quote": quote.hex()}).encode(),
        lambda quote: json.dumps({"a": {"b": base64.b64encode(quote).decode()}}).encode(),
        lambda quote: struct.pack("<IIQ", 1, 2, len(quote)) + quote,
        lambda quote: b"# a comment\n" + quote,
        lambda quote: quote.ljust(64 * limits.KIB, b"\0"),
        lambda quote: json.dumps(quote.hex()).encode(),
        lambda quote: b"\xef\xbb\xbf" + quote.hex().encode(),
        lambda quote: b"\xef\xbb\xbf" + json.dumps({"quote": quote.hex(), "n": 2**64 - 1}).encode(),
    ],
)
def test_quotes_are_found_in_their_wrappings(wrap: Any) -> None:
    quote = Machine().quote()
    for role in ("quote", "something"):
        found = dcap.open_case({role: wrap(quote), "collateral": b"{}"})
        assert found.quote[: len(quote)] == quote


def test_two_quotes_that_differ_are_refused() -> None:
    machine, other = Machine(), Machine()
    quote = machine.quote()
    assert not dcap.open_case({"quote": quote, "evidence": quote.hex().encode()}).conflict
    found = sgx.check({"quote": quote, "evidence": other.quote()}, NOW, POLICY)
    assert any("differ" in reason for reason in found.reasons)


def test_a_quote_of_the_other_tee_or_none_is_refused() -> None:
    with pytest.raises(Malformed):
        tdx.check({"quote": Machine().quote()}, NOW, POLICY)
    with pytest.raises(Malformed):
        sgx.check({"collateral": b"{}"}, NOW, POLICY)
    with pytest.raises(UnsupportedVersion):
        sgx.check({"quote": b"\x09\x00" + bytes(600)}, NOW, POLICY)


def test_kinds_that_are_not_verified_here_get_no_tier() -> None:
    assert sgx.check({"quote": b"\x02\x00" + bytes(600)}, NOW, POLICY).tier is Status.NONE
    quote = bytearray(Machine().quote())
    quote[2] = 3
    assert sgx.check({"quote": bytes(quote)}, NOW, POLICY).tier is Status.NONE


@pytest.mark.parametrize(
    ("nonce", "answer"),
    [
        (b"report data", YES),
        (b"report data".hex().encode(), YES),
        (base64.b64encode(b"report data"), YES),
        (b"report data".ljust(64, b"\0"), YES),
        (b"report", NO),
        (b"another nonce", NO),
        (b"", NO),
        (b" \n", NO),
        (b"n" * (limits.CLAIMS_BYTES + 1), NO),
        (b"\xef\xbb\xbf" + b"report data".hex().encode(), YES),
    ],
)
def test_a_nonce_must_be_in_the_report_data(nonce: bytes, answer: Answer) -> None:
    found = sgx.check({"quote": Machine().quote(), "nonce": nonce}, NOW, POLICY)
    assert found.binding is answer
    assert answer is YES or any("nonce" in reason for reason in found.reasons)
    assert (found.tier is Status.CONTRAINDICATED) or answer is not NO


def test_hashed_nonces_hold() -> None:
    for name in ("sha256", "sha384", "sha512"):
        assert dcap.holds(b"nonce", hashlib.new(name, b"nonce").digest().ljust(64, b"\0"))
    assert dcap.holds(b"n" * 32, b"n" * 32 + b"x" * 32)
    assert not dcap.holds(b"n", b"n" + b"x" * 63)


# -- hostile bytes ------------------------------------------------------------------------------------

QUOTES = {name: Machine(name) for name in ("sgx", "tdx")}
SEEDS = {name: machine.quote() for name, machine in QUOTES.items()}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["sgx", "tdx"]), st.data())
def test_flipped_quotes_never_say_other_things(tee: str, data: Any) -> None:
    quote = bytearray(SEEDS[tee])
    position = data.draw(st.integers(0, len(quote) * 8 - 1))
    quote[position // 8] ^= 1 << position % 8
    try:
        found = verdict(QUOTES[tee], bytes(quote))
    except MesateeError:
        return
    assert found.tier is not Status.AFFIRMING or found.claims == _plain(tee).claims


def _plain(tee: str) -> Verdict:
    return verdict(QUOTES[tee])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["sgx", "tdx"]), st.integers(0, 5_000), st.binary(max_size=8))
def test_cut_and_overwritten_quotes_raise_only_our_errors(tee: str, position: int, junk: bytes) -> None:
    for quote in (SEEDS[tee][:position], SEEDS[tee][:position] + junk + SEEDS[tee][position + len(junk) :]):
        with contextlib.suppress(MesateeError):
            (sgx if tee == "sgx" else tdx).check({"quote": quote}, NOW, POLICY)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_collateral_or_not(data: bytes) -> None:
    dcap_collateral.gather({"a": data, "tcb_info": b"{" + data, "b": b"-----BEGIN" + data, "c": b"[" + data})


def test_a_quote_has_a_size_limit() -> None:
    quote = SEEDS["sgx"]
    assert dcap_quote.parse(quote.ljust(limits.EVIDENCE_BYTES, b"\1")).length == len(quote)
    with pytest.raises(TooLarge):
        dcap_quote.parse(quote.ljust(limits.EVIDENCE_BYTES + 1, b"\1"))
    # Buffers are of any size, and zeros behind the quote say nothing.
    assert dcap_quote.parse(quote.ljust(limits.EVIDENCE_BYTES + 1, b"\0")).length == len(quote)
