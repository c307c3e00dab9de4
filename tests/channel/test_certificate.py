"""Certificates: made, parsed, and parsed from hostile bytes."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from mesatee import errors
from mesatee.channel import SigningKey, make_certificate, parse_certificate, spki
from mesatee.protocol import limits

EVIDENCE_OID = x509.ObjectIdentifier("2.23.133.5.4.9")
KEY = SigningKey.generate()
GOOD = make_certificate(KEY, "gateway", 1_000, 2_000, b"evidence")
PARSE_ERRORS = (errors.Malformed, errors.TooLarge, errors.SignatureInvalid, errors.UnsupportedVersion)


def test_round_trip():
    peer = parse_certificate(GOOD)
    assert peer.der == GOOD
    assert peer.public == KEY.public
    assert peer.spki == spki(KEY.public)
    assert peer.evidence == b"evidence"
    assert (peer.not_before, peer.not_after) == (1_000, 2_000)


def test_cryptography_reads_ours():
    theirs = x509.load_der_x509_certificate(GOOD)
    theirs.verify_directly_issued_by(theirs)
    assert theirs.version is x509.Version.v3
    assert theirs.extensions.get_extension_for_oid(EVIDENCE_OID).value.value == b"evidence"
    encoded = theirs.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert encoded == spki(KEY.public)
    assert theirs.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "gateway"


def build(key, *, signer=None, issuer="a", extensions=(), algorithm=None):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("a"))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer or key, algorithm).public_bytes(serialization.Encoding.DER)


def test_we_read_those_of_cryptography():
    key = ed25519.Ed25519PrivateKey.generate()
    evidence = x509.UnrecognizedExtension(EVIDENCE_OID, b"quote")
    peer = parse_certificate(build(key, extensions=[(evidence, True), (x509.OCSPNoCheck(), False)]))
    assert peer.public == key.public_key().public_bytes_raw()
    assert peer.evidence == b"quote"


def test_wrong_kinds_are_refused():
    key, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    curve = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(errors.UnsupportedVersion):
        parse_certificate(build(curve, algorithm=hashes.SHA256()))
    with pytest.raises(errors.UnsupportedVersion):
        parse_certificate(build(key, signer=curve, algorithm=hashes.SHA256()))
    with pytest.raises(errors.UnsupportedVersion, match="not Ed25519"):
        parse_certificate(build(curve, signer=key))
    with pytest.raises(errors.SignatureInvalid):
        parse_certificate(build(key, signer=other))
    with pytest.raises(errors.Malformed, match="issued"):
        parse_certificate(build(key, issuer="b"))
    with pytest.raises(errors.UnsupportedVersion, match="critical"):
        parse_certificate(build(key, extensions=[(x509.BasicConstraints(True, None), True)]))


def test_evidence_limit():
    full = make_certificate(KEY, "a", 0, 1, bytes(limits.EVIDENCE_BYTES))
    evidence = parse_certificate(full).evidence
    assert evidence is not None
    assert len(evidence) == limits.EVIDENCE_BYTES
    with pytest.raises(errors.TooLarge):
        make_certificate(KEY, "a", 0, 1, bytes(limits.EVIDENCE_BYTES + 1))
    key = ed25519.Ed25519PrivateKey.generate()
    for size in (limits.EVIDENCE_BYTES, limits.EVIDENCE_BYTES + 1):
        der = build(key, extensions=[(x509.UnrecognizedExtension(EVIDENCE_OID, bytes(size)), False)])
        if size > limits.EVIDENCE_BYTES:
            with pytest.raises(errors.TooLarge, match="EVIDENCE_BYTES"):
                parse_certificate(der)
        else:
            parse_certificate(der)


def test_certificate_limit():
    key = ed25519.Ed25519PrivateKey.generate()

    def sized(size):
        padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(size))
        return build(key, extensions=[(padding, False)])

    overhead = len(sized(60_000)) - 60_000
    exact = sized(limits.CERTIFICATE_BYTES - overhead)
    assert len(exact) == limits.CERTIFICATE_BYTES
    parse_certificate(exact)
    with pytest.raises(errors.TooLarge, match="CERTIFICATE_BYTES"):
        parse_certificate(sized(limits.CERTIFICATE_BYTES - overhead + 1))


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [("", 0, 1), ("a" * 65, 0, 1), ("a", 1, 0), ("a", -1, 0), ("a", 0, 253_402_300_800), ("a", -(2**63), 1)],
)
def test_impossible_values(name, start, end):
    with pytest.raises(errors.Malformed):
        make_certificate(KEY, name, start, end, None)


def test_spki_length():
    for size in (0, 31, 33):
        with pytest.raises(errors.Malformed):
            spki(bytes(size))


@given(st.binary(max_size=600))
def test_any_bytes_raise_only_ours(data):
    with pytest.raises(PARSE_ERRORS):
        parse_certificate(data)


@given(st.data())
def test_mutated_certificates_raise_only_ours(data):
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        action = data.draw(st.sampled_from(["set", "insert", "delete", "cut"]))
        if action == "set":
            mutated[at] = data.draw(st.integers(0, 255))
        elif action == "insert":
            mutated[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif action == "delete":
            del mutated[at : at + data.draw(st.integers(1, 8))]
        else:
            del mutated[at + 1 :]
        if not mutated:
            break
    if bytes(mutated) != GOOD:
        with pytest.raises(PARSE_ERRORS):
            parse_certificate(bytes(mutated))
