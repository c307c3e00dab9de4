"""Chains of certificates that are made on the fly by another library."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.attestation.appraisal import Answer
from mesatee.attestation.chains import forget, verify_chain
from mesatee.protocol import limits

NOW = 1_800_000_000
DAY = 86_400


def moment(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Entity:
    name: str
    key: Any
    der: bytes
    serial: int


def make(
    name: str,
    issuer: Entity | None = None,
    *,
    ca: bool | None = True,
    length: int | None = None,
    usage: tuple[bool, bool] | None = (True, True),
    start: int = NOW - DAY,
    end: int = NOW + DAY,
    critical: str | None = None,
    key: Any = None,
) -> Entity:
    key = key or ec.generate_private_key(ec.SECP384R1())
    serial = x509.random_serial_number()
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer.name if issuer else name))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(moment(start))
        .not_valid_after(moment(end))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, length), critical=True)
    if usage is not None:
        cert, crl = usage
        flags = x509.KeyUsage(False, False, False, False, False, cert, crl, False, False)
        builder = builder.add_extension(flags, critical=True) if cert or crl else builder
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    made = builder.sign(issuer.key if issuer else key, hashes.SHA384())
    return Entity(name, key, made.public_bytes(serialization.Encoding.DER), serial)


def crl(issuer: Entity, *revoked: int, start: int = NOW - 60, end: int = NOW + 60, key: Any = None) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(named(issuer.name))
        .last_update(moment(start))
        .next_update(moment(end))
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(start)).build()
        builder = builder.add_revoked_certificate(entry)
    made = builder.sign(key or issuer.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


ROOT = make("root", end=253_402_300_799)
MIDDLE = make("middle", ROOT, length=0)
LEAF = make("leaf", MIDDLE, ca=None, usage=None)
PIN = hashlib.sha256(ROOT.der).digest()
CHAIN = [LEAF.der, MIDDLE.der, ROOT.der]


@pytest.mark.parametrize("rest", [[MIDDLE, ROOT], [ROOT, MIDDLE], [ROOT, MIDDLE, MIDDLE, LEAF]])
def test_order_and_doubles_do_not_matter(rest: list[Entity]):
    result = verify_chain([LEAF.der, *(entity.der for entity in rest)], [PIN], NOW)
    assert result.chain is Answer.AFFIRMED
    assert result.revocation is Answer.NOT_ESTABLISHED
    assert result.root_sha256 == PIN.hex()
    assert [certificate.subject for certificate in result.path] == ["CN=leaf", "CN=middle", "CN=root"]


def test_an_anchor_may_come_as_der():
    assert verify_chain(CHAIN[:2], [ROOT.der], NOW).chain is Answer.AFFIRMED


def test_what_is_missing_is_not_refused():
    for chain in ([], [LEAF.der], CHAIN[:2]):
        result = verify_chain(chain, [PIN], NOW)
        assert result.chain is Answer.NOT_ESTABLISHED
        assert result.reasons
        assert result.root_sha256 is None


def test_an_anchor_alone_is_a_chain_of_one():
    result = verify_chain([ROOT.der], [PIN], NOW)
    assert result.chain is Answer.AFFIRMED
    assert [certificate.subject for certificate in result.path] == ["CN=root"]


def test_without_a_time_nothing_is_affirmed():
    result = verify_chain(CHAIN, [PIN], None, [crl(MIDDLE), crl(ROOT)])
    assert (result.chain, result.revocation) == (Answer.NOT_ESTABLISHED, Answer.NOT_ESTABLISHED)
    assert "no time was given" in result.reasons[0]


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (lambda: [LEAF.der, MIDDLE.der, make("root").der], "not signed by"),
        (lambda: [make("leaf", make("middle"), ca=None).der, *CHAIN[1:]], "not signed by"),
        (lambda: [make("leaf", make("other"), ca=None).der, *CHAIN[1:]], "no certificate given has issued"),
        (lambda: [make("self").der], "root that is not trusted"),
        (lambda: [make("leaf", LEAF, ca=None).der, *CHAIN], "not a certificate authority"),
        (lambda: _under(make("middle", ROOT, ca=False)), "not a certificate authority"),
        (lambda: _under(make("middle", ROOT, ca=None)), "not a certificate authority"),
        (lambda: _under(make("middle", ROOT, usage=(False, True))), "may not sign certificates"),
        (lambda: _under(make("middle", ROOT, end=NOW - 1)), "has expired"),
        (lambda: _under(make("middle", ROOT, start=NOW + 1)), "not valid yet"),
        (lambda: _under(make("middle", ROOT, critical="1.2.3.4")), "critical extension 1.2.3.4"),
        (lambda: [*_under(make("low", MIDDLE)), MIDDLE.der], "allows 0 authorities below it"),
        (lambda: [b"", *CHAIN], "the first certificate"),
        (lambda: [LEAF.der] * (limits.CHAIN_CERTIFICATES + 1), "more than 16"),
    ],
)
def test_what_does_not_hold_is_refused(chain: Any, why: str):
    result = verify_chain(chain(), [PIN], NOW)
    assert result.chain is Answer.REFUSED
    assert any(why in reason for reason in result.reasons), result.reasons


def _under(middle: Entity) -> list[bytes]:
    return [make("leaf", middle, ca=None, usage=None).der, middle.der, ROOT.der]


def test_a_caller_may_know_an_extension():
    leaf = make("leaf", MIDDLE, ca=None, usage=None, critical="1.2.3.4")
    assert verify_chain([leaf.der, *CHAIN[1:]], [PIN], NOW).chain is Answer.REFUSED
    assert verify_chain([leaf.der, *CHAIN[1:]], [PIN], NOW, known=["1.2.3.4"]).chain is Answer.AFFIRMED


def test_as_many_certificates_as_the_limit():
    many = [*CHAIN, *(make(f"other {n}", ROOT).der for n in range(limits.CHAIN_CERTIFICATES - len(CHAIN)))]
    assert verify_chain(many, [PIN], NOW).chain is Answer.AFFIRMED


def test_a_second_certificate_of_an_authority_helps_when_the_first_has_expired():
    old = make("middle", ROOT, end=NOW - 1, key=MIDDLE.key)
    assert verify_chain([LEAF.der, old.der, MIDDLE.der, ROOT.der], [PIN], NOW).chain is Answer.AFFIRMED


def test_certificates_that_sign_in_circles_cost_little():
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(limits.CHAIN_CERTIFICATES)]
    same = [make("same", Entity("same", keys[0], b"", 0), key=keys[0]).der for _ in keys]
    result = verify_chain(same, [PIN], NOW)
    assert result.chain is Answer.REFUSED


def test_revocation():
    both = [crl(MIDDLE), crl(ROOT)]
    assert verify_chain(CHAIN, [PIN], NOW, both).revocation is Answer.AFFIRMED
    cases = [
        ([crl(MIDDLE)], Answer.NOT_ESTABLISHED, "no revocation list for CN=middle"),
        ([crl(MIDDLE, LEAF.serial), crl(ROOT)], Answer.REFUSED, "CN=leaf is revoked"),
        ([crl(MIDDLE), crl(ROOT, MIDDLE.serial)], Answer.REFUSED, "CN=middle is revoked"),
        ([crl(MIDDLE, end=NOW - 1), crl(ROOT)], Answer.NOT_ESTABLISHED, "out of date"),
        ([crl(MIDDLE, start=NOW + 1), crl(ROOT)], Answer.NOT_ESTABLISHED, "from the future"),
        ([crl(MIDDLE, LEAF.serial, end=NOW - 1), crl(ROOT)], Answer.REFUSED, "is revoked"),
        ([crl(MIDDLE, key=ROOT.key), crl(ROOT)], Answer.REFUSED, "not signed by it"),
        ([b"\x30\x00", crl(ROOT)], Answer.NOT_ESTABLISHED, "passed over"),
        ([crl(ROOT)] * (limits.CRLS + 1), Answer.REFUSED, "more than"),
    ]
    for crls, answer, why in cases:
        result = verify_chain(CHAIN, [PIN], NOW, crls)
        assert result.revocation is answer
        assert result.chain is Answer.AFFIRMED
        assert any(why in reason for reason in result.reasons), result.reasons


def test_a_key_that_may_not_sign_lists():
    middle = make("middle", ROOT, usage=(True, False))
    result = verify_chain(_under(middle), [PIN], NOW, [crl(middle), crl(ROOT)])
    assert (result.chain, result.revocation) == (Answer.AFFIRMED, Answer.NOT_ESTABLISHED)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0, 1]), st.data())
def test_a_flipped_bit_is_never_affirmed(which: int, data: st.DataObject):
    chain = list(CHAIN)
    broken = bytearray(chain[which])
    bit = data.draw(st.integers(0, len(broken) * 8 - 1))
    broken[bit // 8] ^= 1 << bit % 8
    chain[which] = bytes(broken)
    assert verify_chain(chain, [PIN], NOW).chain is not Answer.AFFIRMED


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=4), st.lists(st.binary(max_size=40), max_size=3))
def test_nothing_is_raised(certificates: list[bytes], crls: list[bytes]):
    assert verify_chain(certificates, [PIN], NOW, crls).chain is not Answer.AFFIRMED
    assert verify_chain([*CHAIN, *certificates], [PIN], NOW, crls).chain is Answer.AFFIRMED


def test_time_and_revocation_are_looked_at_anew_where_signatures_are_remembered():
    certificates, lists = [LEAF.der, MIDDLE.der], [crl(MIDDLE), crl(ROOT)]
    forget()
    for _ in range(2):
        good = verify_chain(certificates, [ROOT.der], NOW, lists)
        assert (good.chain, good.revocation) == (Answer.AFFIRMED, Answer.AFFIRMED)
        late = verify_chain(certificates, [ROOT.der], NOW + 2 * DAY, lists)
        assert (late.chain, late.revocation) == (Answer.REFUSED, Answer.NOT_ESTABLISHED)
        assert verify_chain([*certificates, ROOT.der], [bytes(32)], NOW, lists).chain is Answer.REFUSED
        revoked = verify_chain(certificates, [ROOT.der], NOW, [crl(MIDDLE, LEAF.serial), crl(ROOT)])
        assert revoked.revocation is Answer.REFUSED
