"""RA-TLS: captured certificates, certificates of our own around captured evidence, and splices."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.support import amd, captured
from tests.support.mutate import QUICK, mutated

from mesatee._core import X509
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import CorpusPolicy, check_folder
from mesatee.attestation.tee import ratls, ratls_claims, snp
from mesatee.errors import (
    EvidenceRefused,
    InputError,
    Malformed,
    MesateeError,
    TooLarge,
    TrustError,
    UnsupportedVersion,
)
from mesatee.protocol import limits

POLICY = CorpusPolicy()
GRAMINE = "1.2.840.113741.1337.6"


def public(key: Any) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def make(key: Any, extensions: dict[str, bytes], *, signer: Any = None, issuer: str = "ratls") -> bytes:
    """A certificate for `key`, DER."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(amd.name_of("ratls"))
        .issuer_name(amd.name_of(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(amd.moment(amd.START - amd.DAY))
        .not_valid_after(amd.moment(amd.START + amd.DAY))
    )
    for oid, value in extensions.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def claims_of(key: Any, **more: Any) -> bytes:
    return cbor2.dumps({"pubkey-hash": cbor2.dumps([1, hashlib.sha256(public(key)).digest()]), **more})


def dice(evidence: bytes, claims: bytes, tag: int = 60000) -> dict[str, bytes]:
    return {ratls.DICE: cbor2.dumps(cbor2.CBORTag(tag, [evidence, claims]))}


def report(data: bytes, **fields: Any) -> bytes:
    return amd.report(report_data=hashlib.sha256(data).digest() + bytes(32), **fields)


def check(certificate: bytes, monkeypatch: Any = None, **more: bytes) -> Any:
    files = {
        "certificate": certificate,
        "vcek": amd.MILAN.vcek(),
        "chain": amd.MILAN.ask + amd.MILAN.ark,
        **more,
    }
    if monkeypatch is not None:
        # Our own product line stands in for AMD's, whose key nobody here has.
        monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    return ratls.check(files, amd.START, POLICY)


# -- captured cases --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", captured.folders("ratls"), ids=lambda folder: folder.name)
def test_captured_case(folder):
    meta, files = captured.load(folder)
    # Only the certificate counts: the other files repeat its parts.
    for given_files in (files, {"certificate": files["certificate"]}):
        verdict = check_folder({"tee": meta["tee"], "at": meta["at"]}, given_files)
        assert verdict.tier == meta["expected"]["tier"], verdict.reasons


@pytest.mark.parametrize("name", ["interop-gramine-cert", "interop-rats-tls-cert"])
def test_captured_interoperable_certificates_are_bound(name):
    at, files = captured.timed("ratls", name)
    verdict = ratls.check(files, at, POLICY)
    assert (verdict.signature, verdict.chain, verdict.binding) == (Answer.AFFIRMED,) * 3
    assert verdict.claims["debug"] is True
    assert verdict.claims["ratls.flavour"] == "interoperable"


def test_captured_open_enclave_certificate_is_bound_though_its_signature_is_bad():
    at, files = captured.timed("ratls", "openenclave-cert-rsa-bad")
    verdict = ratls.check(files, at, POLICY)
    assert (verdict.signature, verdict.binding) == (Answer.REFUSED, Answer.AFFIRMED)
    assert verdict.claims["ratls.flavour"] == "Open Enclave"


def test_splice_captured_evidence_of_one_key_on_the_certificate_of_another():
    for name in ("interop-gramine-cert", "interop-rats-tls-cert"):
        at, files = captured.timed("ratls", name)
        certificate = X509.parse(amd_der(files["certificate"]), lenient=True)
        extension = {ratls.DICE: certificate.extensions[ratls.DICE][1]}
        verdict = ratls.check({"certificate": make(amd.ec_key("thief"), extension)}, at, POLICY)
        assert (verdict.tier, verdict.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)
        assert "the evidence was made for another key" in verdict.reasons


def amd_der(data: bytes) -> bytes:
    return base64.b64decode(b"".join(data.split(b"\n")[1:-2])) if data[:1] == b"-" else data


# -- certificates of our own -----------------------------------------------------------------------


def test_interoperable_certificate_of_our_own(monkeypatch):
    key = amd.ec_key("channel")
    claims = claims_of(key, nonce=b"n" * 8)
    certificate = make(key, dice(report(claims), claims))
    verdict = check(certificate, monkeypatch)
    assert (verdict.tier, verdict.binding, verdict.level) == (Status.AFFIRMING, Answer.AFFIRMED, 4), (
        verdict.reasons
    )
    for other in (
        amd.pem(certificate),
        base64.b64encode(certificate),
        certificate.hex().encode(),
        certificate + bytes(9),
    ):
        assert check(other, monkeypatch).tier is Status.AFFIRMING
    # Without AMD's certificates nothing is known of the chip.
    assert ratls.check({"certificate": certificate}, amd.START, POLICY).tier is Status.NONE


def test_only_amds_root_counts():
    key = amd.ec_key("channel")
    verdict = check(make(key, dice(report(claims_of(key)), claims_of(key))))
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_splice_evidence_of_one_key_on_the_certificate_of_another(monkeypatch):
    mine, thief = amd.ec_key("channel"), amd.ec_key("thief")
    claims = claims_of(mine)
    for extension in (dice(report(claims), claims), {GRAMINE: report(public(mine))}):
        assert check(make(mine, extension), monkeypatch).tier is Status.AFFIRMING
        verdict = check(make(thief, extension), monkeypatch)
        assert (verdict.tier, verdict.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_splice_claims_that_the_evidence_does_not_vouch_for(monkeypatch):
    mine, thief = amd.ec_key("channel"), amd.ec_key("thief")
    verdict = check(make(thief, dice(report(claims_of(mine)), claims_of(thief))), monkeypatch)
    assert (verdict.tier, verdict.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)
    # A digest of the key alone is no binding in the interoperable form.
    verdict = check(make(mine, dice(report(public(mine)), claims_of(mine))), monkeypatch)
    assert verdict.binding is Answer.REFUSED


def test_a_certificate_that_its_key_did_not_sign(monkeypatch):
    key = amd.ec_key("channel")
    extension = dice(report(claims_of(key)), claims_of(key))
    verdict = check(make(key, extension, signer=amd.ec_key("thief")), monkeypatch)
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)
    issued = check(make(key, extension, signer=amd.ec_key("ca"), issuer="a CA"), monkeypatch)
    assert (issued.tier, issued.signature) == (Status.NONE, Answer.NOT_ESTABLISHED)


def test_a_certificate_that_is_not_valid(monkeypatch):
    key = amd.ec_key("channel")
    monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    files = {"certificate": make(key, {GRAMINE: report(public(key))})}
    for at in (None, 0, 2**33):
        assert ratls.check(files, at, POLICY).tier is Status.NONE


@pytest.mark.parametrize("oid", [oid for oid in ratls.LEGACY if not oid.startswith("0.6")])
def test_legacy_certificates(oid, monkeypatch):
    key = amd.ec_key("channel")
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    for form in (public(key), pem, pem + b"\0", point, point[1:]):
        verdict = check(make(key, {oid: report(form)}), monkeypatch)
        assert (verdict.tier, verdict.binding) == (Status.AFFIRMING, Answer.AFFIRMED)
    assert check(make(key, {oid: report(b"other")}), monkeypatch).binding is Answer.REFUSED


def test_keys_of_rsa(monkeypatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pkcs1 = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    for form in (public(key), pkcs1):
        assert check(make(key, {GRAMINE: report(form)}), monkeypatch).binding is Answer.AFFIRMED


def test_an_extension_that_nobody_specified(monkeypatch):
    key = amd.ec_key("channel")
    verdict = check(make(key, {"1.3.9901.1": report(public(key))}), monkeypatch)
    assert (verdict.tier, verdict.binding) == (Status.NONE, Answer.AFFIRMED)


def test_evidence_that_only_its_machine_can_verify():
    key = amd.ec_key("channel")
    for tag in ratls.LOCAL_TAGS:
        verdict = check(make(key, dice(b"r" * 432, claims_of(key), tag)))
        assert (verdict.tier, verdict.signature) == (Status.NONE, Answer.NOT_ESTABLISHED)


@pytest.mark.parametrize(
    "extensions", [{}, {GRAMINE: b"nothing"}, {ratls.PCK: b"\x30\x00"}, {ratls.DICE: b"\x40"}], ids=range(4)
)
def test_certificates_without_evidence(extensions):
    with pytest.raises(Malformed):
        check(make(amd.ec_key("channel"), extensions))


def test_no_certificate():
    for files in ({}, {"quote": b"x"}, {"certificate": b""}):
        with pytest.raises(Malformed):
            ratls.check(files, amd.START, POLICY)


# -- two readings of one file ------------------------------------------------------------------------


def test_two_pieces_of_evidence_in_one_certificate_say_the_same(monkeypatch):
    """Gramine's newer certificates carry both forms, each with a quote of its own."""
    key = amd.ec_key("channel")
    claims = claims_of(key)
    interoperable = dice(report(claims), claims)
    for legacy, tier in (
        (report(public(key)), Status.AFFIRMING),
        (report(b"another key"), Status.CONTRAINDICATED),
        (report(public(key), policy=0xB001F), None),
        (report(public(key), measurement=b"\x22" * 48), None),
    ):
        for extensions in ({**interoperable, GRAMINE: legacy}, {GRAMINE: legacy, **interoperable}):
            if tier is not None:
                assert check(make(key, extensions), monkeypatch).tier is tier
                continue
            with pytest.raises(EvidenceRefused, match="two pieces of evidence that differ"):
                check(make(key, extensions), monkeypatch)


def test_captured_gramine_certificate_carries_two_quotes_that_agree():
    at, files = captured.timed("ratls", "interop-gramine-cert")
    pieces = ratls.find(ratls.certificate_in(files))
    assert [piece.flavour for piece in pieces] == ["interoperable", "Gramine"]
    assert pieces[0].evidence != pieces[1].evidence
    assert ratls.check(files, at, POLICY).binding is Answer.AFFIRMED


def test_two_certificates_with_evidence_are_a_conflict(monkeypatch):
    one, other = own(), make(amd.ec_key("thief"), {GRAMINE: report(public(amd.ec_key("thief")))})
    plain = make(amd.ec_key("ca"), {})
    both = {"a": amd.pem(one), "b": amd.pem(other)}
    for files in ({"certificate": amd.pem(one, other)}, {"certificate": amd.pem(other, one)}, both):
        with pytest.raises(EvidenceRefused, match="two certificates with evidence"):
            ratls.check(files, amd.START, POLICY)
    for text in (amd.pem(plain, one), amd.pem(one, plain, one)):
        assert check(text, monkeypatch).tier is Status.AFFIRMING


def test_a_certificate_in_json(monkeypatch):
    for value in (
        {"certificate": amd.pem(own()).decode()},
        [base64.b64encode(own()).decode()],
        {"a": {"b": base64.b64encode(amd.pem(own())).decode()}},
        list(own()),
    ):
        text = json.dumps(value).encode()
        for form in (text, base64.b64encode(text), b"\xef\xbb\xbf" + text):
            assert check(form, monkeypatch).tier is Status.AFFIRMING, value


def test_collateral_whose_role_begins_with_quote_counts(monkeypatch):
    monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    chain = amd.pem(amd.MILAN.vcek(), amd.MILAN.ask, amd.MILAN.ark)
    files = {"certificate": own(), "quote_collateral": chain}
    assert ratls.check(files, amd.START, POLICY).tier is Status.AFFIRMING
    assert ratls.check({"certificate": own(), "quote": chain}, amd.START, POLICY).tier is Status.NONE


# -- claims ----------------------------------------------------------------------------------------


def test_claims_of_other_encoders():
    digest = bytes(32)
    hashed = cbor2.dumps([1, digest])
    unsorted = cbor2.dumps({"zz": b"", "pubkey-hash": hashed, "a": b""})
    assert ratls_claims.pubkey_hash(unsorted) == ("sha256", digest)
    assert ratls_claims.pubkey_hash(cbor2.dumps({"pubkey-hash": [8, bytes(64)]})) == ("sha512", bytes(64))
    # A head that is longer than it need be.
    assert ratls_claims.pubkey_hash(b"\xa1\x78\x0bpubkey-hash" + cbor2.dumps(hashed))[1] == digest


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        (b"", Malformed),
        (b"\xa0", Malformed),
        (cbor2.dumps({"pubkey-hash": b""}), Malformed),
        (cbor2.dumps({"pubkey-hash": [1]}), Malformed),
        (cbor2.dumps({"pubkey-hash": [1, "text"]}), Malformed),
        (cbor2.dumps({"pubkey-hash": [2, bytes(16)]}), UnsupportedVersion),
        (cbor2.dumps({"pubkey-hash": [True, bytes(32)]}), UnsupportedVersion),
        (b"\xa2\x61a\x40\x61a\x40", Malformed),
        (b"\xa2\x01\x40\xf5\x40", Malformed),
        (b"\xbf\xff", Malformed),
        (b"\xf9\x00\x00", Malformed),
        (b"\xa0\x00", Malformed),
        (b"\x81" * (limits.FOREIGN_CBOR_DEPTH + 1) + b"\x00", TooLarge),
        (bytes(8193), TooLarge),
        (b"\x9b" + b"\xff" * 8, Malformed),
    ],
    ids=range(15),
)
def test_claims_that_are_refused(claims, error):
    with pytest.raises(error):
        ratls_claims.pubkey_hash(claims)


@QUICK
@given(st.binary(max_size=64))
def test_noise_is_no_evidence(data):
    with contextlib.suppress(MesateeError):
        ratls_claims.tagged_evidence(data)
        ratls_claims.pubkey_hash(data)


# -- wrong bits ------------------------------------------------------------------------------------


def own() -> bytes:
    key = amd.ec_key("channel")
    return make(key, dice(report(claims_of(key)), claims_of(key)))


def test_wrong_bits_of_a_certificate(monkeypatch):
    good = own()
    want = dict(check(good, monkeypatch).claims)
    for bit in random.Random(1).sample(range(8 * len(good)), 600):
        wrong = bytearray(good)
        wrong[bit >> 3] ^= 1 << (bit & 7)
        with contextlib.suppress(InputError, TrustError):
            verdict = check(bytes(wrong), monkeypatch)
            if verdict.tier in (Status.AFFIRMING, Status.WARNING):
                # The certificate's own digest changes with the algorithm identifier that nobody signs.
                found = dict(verdict.claims)
                assert {**found, "certificate.sha256": ""} == {**want, "certificate.sha256": ""}


@QUICK
@given(st.data())
def test_hostile_certificates(data):
    with contextlib.suppress(InputError, TrustError):
        check(data.draw(mutated(own())))


def test_hostile_captured_certificates():
    at, files = captured.timed("ratls", "interop-rats-tls-cert")
    good = amd_der(files["certificate"])
    for bit in random.Random(2).sample(range(8 * len(good)), 100):
        wrong = bytearray(good)
        wrong[bit >> 3] ^= 1 << (bit & 7)
        with contextlib.suppress(InputError, TrustError):
            assert ratls.check({"certificate": bytes(wrong)}, at, POLICY).tier is not Status.AFFIRMING
