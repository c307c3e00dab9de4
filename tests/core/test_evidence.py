"""Signatures, certificates and revocation lists of the core, against another library."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import Malformed, MesateeError, SignatureInvalid, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

MESSAGE = b"evidence"
HASHES: dict[str, Any] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
CURVES: dict[str, Any] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
RSA = rsa.generate_private_key(65537, 2048)


def spki(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def refused_everywhere(name: str, public: bytes, signature: bytes) -> None:
    _core.verify_signature(name, public, signature, MESSAGE)
    for bad in (signature[:-1], bytes([signature[0] ^ 1]) + signature[1:], b"", bytes(len(signature))):
        with pytest.raises((SignatureInvalid, Malformed)):
            _core.verify_signature(name, public, bad, MESSAGE)
    with pytest.raises(SignatureInvalid):
        _core.verify_signature(name, public, signature, MESSAGE + b"!")
    the_same_when_remembered(name, public, signature)


def the_same_when_remembered(name: str, public: bytes, signature: bytes) -> None:
    _core.forget_signatures()
    for _ in range(2):
        _core.verify_lasting_signature(name, public, signature, MESSAGE)
        for bad in (signature[:-1], bytes([signature[0] ^ 1]) + signature[1:], signature + b"\0"):
            with pytest.raises((SignatureInvalid, Malformed)):
                _core.verify_lasting_signature(name, public, bad, MESSAGE)
        for message in (MESSAGE + b"!", MESSAGE[:-1], b""):
            with pytest.raises(SignatureInvalid):
                _core.verify_lasting_signature(name, public, signature, message)
        with pytest.raises(SignatureInvalid):
            _core.verify_lasting_signature(
                "ed25519" if "rsa" in name else "rsa-pss-sha256", public, signature, MESSAGE
            )


def test_the_limit_of_remembered_signatures_is_that_of_the_core():
    source = (Path(__file__).parents[2] / "rust" / "evidence" / "src" / "remembered.rs").read_text("utf-8")
    assert f"SIGNATURES_CACHED: usize = {limits.SIGNATURES_CACHED};" in source


@pytest.mark.parametrize("curve", sorted(CURVES))
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_ecdsa(curve: str, digest: str):
    key = ec.generate_private_key(CURVES[curve])
    der = key.sign(MESSAGE, ec.ECDSA(HASHES[digest]))
    size = (key.key_size + 7) // 8
    fixed = b"".join(number.to_bytes(size) for number in decode_dss_signature(der))
    refused_everywhere(f"ecdsa-{curve}-{digest}-der", spki(key), der)
    refused_everywhere(f"ecdsa-{curve}-{digest}", spki(key), fixed)
    _core.verify_signature(f"ecdsa-{digest}-der", spki(key), der, MESSAGE)
    _core.verify_signature(f"ecdsa-{digest}", spki(key), fixed, MESSAGE)
    for other in CURVES.keys() - {curve}:
        with pytest.raises(SignatureInvalid):
            _core.verify_signature(f"ecdsa-{other}-{digest}-der", spki(key), der, MESSAGE)


@pytest.mark.parametrize("digest", sorted(HASHES))
def test_rsa(digest: str):
    refused_everywhere(
        f"rsa-pkcs1-{digest}", spki(RSA), RSA.sign(MESSAGE, padding.PKCS1v15(), HASHES[digest])
    )
    if digest == "sha1":
        return
    for salt in (HASHES[digest].digest_size, 0):
        scheme = padding.PSS(padding.MGF1(HASHES[digest]), salt)
        signature = RSA.sign(MESSAGE, scheme, HASHES[digest])
        if salt:
            refused_everywhere(f"rsa-pss-{digest}", spki(RSA), signature)
        else:
            with pytest.raises(SignatureInvalid):
                _core.verify_signature(f"rsa-pss-{digest}", spki(RSA), signature, MESSAGE)


def test_small_rsa_keys_are_not_accepted():
    key = rsa.generate_private_key(65537, 1024)
    signature = key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(UnsupportedVersion):
        _core.verify_signature("rsa-pkcs1-sha256", spki(key), signature, MESSAGE)


def test_ed25519():
    key = ed25519.Ed25519PrivateKey.generate()
    refused_everywhere("ed25519", spki(key), key.sign(MESSAGE))
    with pytest.raises(SignatureInvalid):
        _core.verify_signature("ed25519-sha3-512", spki(key), key.sign(MESSAGE), MESSAGE)


def sign_keystone(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Ed25519 by the book (RFC 8032, section 5.1.6) with SHA3-512, slow and only for this test."""
    p, order = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
    d = -121665 * pow(121666, -1, p) % p

    def add(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = left, right
        t = d * x1 * x2 * y1 * y2
        return (
            (x1 * y2 + x2 * y1) * pow(1 + t, -1, p) % p,
            (y1 * y2 + x1 * x2) * pow(1 - t, -1, p) % p,
        )

    def times(n: int) -> bytes:
        y = 4 * pow(5, -1, p) % p
        x = pow((y * y - 1) * pow(d * y * y + 1, -1, p), (p + 3) // 8, p)
        if (x * x - (y * y - 1) * pow(d * y * y + 1, -1, p)) % p:
            x = x * pow(2, (p - 1) // 4, p) % p
        power, total = (p - x if x & 1 else x, y), (0, 1)
        while n:
            total = add(total, power) if n & 1 else total
            power, n = add(power, power), n >> 1
        return (total[1] | (total[0] & 1) << 255).to_bytes(32, "little")

    def hashed(*parts: bytes) -> bytes:
        return hashlib.sha3_512(b"".join(parts)).digest()

    expanded = hashed(seed)
    a = int.from_bytes(expanded[:32], "little") & (2**254 - 8) | 2**254
    public = times(a)
    r = int.from_bytes(hashed(expanded[32:], message), "little") % order
    point = times(r)
    k = int.from_bytes(hashed(point, public, message), "little") % order
    return public, point + ((r + k * a) % order).to_bytes(32, "little")


def test_keystone():
    public, signature = sign_keystone(bytes(range(32)), MESSAGE)
    info = bytes.fromhex("302a300506032b6570032100") + public
    refused_everywhere("ed25519-sha3-512", info, signature)
    # S plus the group's order is the same number, and a second form of the same signature.
    order = 2**252 + 27742317777372353535851937790883648493
    second = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    with pytest.raises(SignatureInvalid):
        _core.verify_signature("ed25519-sha3-512", info, second, MESSAGE)
    # With a key and R of small order one signature would fit every message.
    neutral = bytes([1]) + bytes(31)
    with pytest.raises(SignatureInvalid):
        _core.verify_signature("ed25519-sha3-512", info[:12] + neutral, neutral + bytes(32), MESSAGE)


@pytest.mark.parametrize(
    "name", ["", "none", "ecdsa", "ecdsa-p256-sha1", "ecdsa-p256", "oid:1.2.3", "x" * 9999]
)
def test_other_algorithms_are_not_accepted(name: str):
    with pytest.raises(UnsupportedVersion):
        _core.verify_signature(name, spki(RSA), b"s", MESSAGE)


def test_limits_of_signatures():
    assert limits.SIGNED_BYTES == limits.CRL_BYTES
    largest = bytes(limits.SIGNED_BYTES)
    with pytest.raises(SignatureInvalid):
        _core.verify_signature("rsa-pkcs1-sha256", spki(RSA), bytes(limits.SIGNATURE_BYTES), largest)
    for signature, message, key in [
        (bytes(limits.SIGNATURE_BYTES + 1), b"", spki(RSA)),
        (b"", largest + b"!", spki(RSA)),
        (b"", b"", bytes(limits.SPKI_BYTES + 1)),
    ]:
        with pytest.raises(TooLarge):
            _core.verify_signature("rsa-pkcs1-sha256", key, signature, message)


def test_keys_from_numbers():
    for curve, kind in CURVES.items():
        key = ec.generate_private_key(kind)
        point = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        assert _core.spki_from_point(curve, point) == _core.spki_from_point(curve, point[1:]) == spki(key)
        for bad in (
            point[:-1],
            b"\x02" + point[1:],
            point[:-1] + bytes([point[-1] ^ 1]),
            bytes(len(point) - 1),
        ):
            with pytest.raises(Malformed):
                _core.spki_from_point(curve, bad)
    with pytest.raises(UnsupportedVersion):
        _core.spki_from_point("secp256k1", bytes(64))
    numbers = RSA.public_key().public_numbers()
    modulus = numbers.n.to_bytes(256)
    assert _core.spki_from_rsa(modulus, b"\x01\x00\x01") == spki(RSA)
    assert _core.spki_from_rsa(bytes(4) + modulus, b"\x00\x01\x00\x01") == spki(RSA)
    with pytest.raises(Malformed):
        _core.spki_from_rsa(b"", b"\x03")
    with pytest.raises(TooLarge):
        _core.spki_from_rsa(b"\x01" * 1025, b"\x03")


def certificate(
    key: Any = RSA, digest: Any = None, scheme: Any = None, last: int = 2035, **names: str
) -> x509.Certificate:
    attributes = [x509.NameAttribute(getattr(NameOID, k), v) for k, v in names.items()]
    name = x509.Name(attributes or [x509.NameAttribute(NameOID.COMMON_NAME, "one")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(2**150 + 5)
        .not_valid_before(datetime.datetime(1990, 1, 2))
        .not_valid_after(datetime.datetime(last, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(True, 3), critical=True)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"v"), critical=False)
    )
    return builder.sign(key, digest or hashes.SHA256(), rsa_padding=scheme)


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


def test_a_certificate_is_read_as_another_library_reads_it():
    made = certificate(
        COMMON_NAME="a, b+c", ORGANIZATION_NAME="#x; \\", COUNTRY_NAME="DE", LOCALITY_NAME=" y "
    )
    read = _core.X509.parse(der(made))
    assert (read.der, read.tbs, read.signature) == (der(made), made.tbs_certificate_bytes, made.signature)
    assert read.spki == spki(RSA)
    assert read.subject == read.issuer == made.subject.rfc4514_string()
    assert read.subject_der == read.issuer_der == made.subject.public_bytes()
    assert int.from_bytes(read.serial) == made.serial_number
    assert read.not_before == int(made.not_valid_before_utc.timestamp())
    assert read.not_after == int(made.not_valid_after_utc.timestamp())
    assert (read.is_ca, read.path_length, read.key_usage) == (True, 3, None)
    assert read.extensions["1.2.3.4"] == (False, b"v")
    assert read.extensions["2.5.29.19"][0] is True


@pytest.mark.parametrize(
    ("key", "digest", "scheme", "name"),
    [
        (RSA, hashes.SHA256(), None, "rsa-pkcs1-sha256"),
        (RSA, hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA384()), 48), "rsa-pss-sha384"),
        (RSA, hashes.SHA512(), padding.PSS(padding.MGF1(hashes.SHA512()), 64), "rsa-pss-sha512"),
        (RSA, hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA384()), 20), "oid:1.2.840.113549.1.1.10"),
        (RSA, hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA256()), 48), "oid:1.2.840.113549.1.1.10"),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256(), None, "ecdsa-sha256-der"),
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512(), None, "ecdsa-sha512-der"),
    ],
)
def test_signature_algorithms_of_certificates(key: Any, digest: Any, scheme: Any, name: str):
    read = _core.X509.parse(der(certificate(key, digest, scheme)))
    assert read.signature_algorithm == name
    if name.startswith("oid:"):
        with pytest.raises(UnsupportedVersion):
            _core.verify_signature(name, read.spki, read.signature, read.tbs)
    else:
        _core.verify_signature(name, read.spki, read.signature, read.tbs)


def test_the_last_second_of_x509():
    assert _core.X509.parse(der(certificate(last=9999))).not_after == 253_402_300_799


def test_serial_numbers():
    raw = der(certificate(ec.generate_private_key(ec.SECP256R1())))
    number = (2**150 + 5).to_bytes(19)
    for new, lenient in ((bytes(19), False), (b"\x80" + bytes(18), True)):
        changed = raw.replace(b"\x02\x13" + number, b"\x02\x13" + new)
        assert changed != raw
        if lenient:
            with pytest.raises(Malformed):
                _core.X509.parse(changed)
        serial = _core.X509.parse(changed, lenient=True).serial
        assert int.from_bytes(serial, signed=True) == int.from_bytes(new, signed=True)
    assert _core.X509.parse(raw.replace(number, bytes(19))).serial == b"\x00"


def test_odd_parameters_need_leniency():
    raw = der(certificate())
    # NULL becomes an empty OCTET STRING in both algorithm identifiers of sha256WithRSAEncryption.
    odd = raw.replace(bytes.fromhex("2a864886f70d01010b0500"), bytes.fromhex("2a864886f70d01010b0400"))
    assert odd != raw
    with pytest.raises(Malformed):
        _core.X509.parse(odd)
    assert _core.X509.parse(odd, lenient=True).signature_algorithm == "rsa-pkcs1-sha256"


def test_nothing_may_follow():
    for lenient in (False, True):
        with pytest.raises(Malformed):
            _core.X509.parse(der(certificate()) + b"\x00", lenient)
    for parse in (_core.X509.parse, _core.X509Crl.parse):
        with pytest.raises(Malformed):
            parse(b"")
    with pytest.raises(TooLarge):
        _core.X509.parse(bytes(limits.CERTIFICATE_BYTES + 1))
    with pytest.raises(Malformed):
        _core.X509.parse(bytes(limits.CERTIFICATE_BYTES))
    with pytest.raises(TooLarge):
        _core.X509Crl.parse(bytes(limits.CRL_BYTES + 1))


@pytest.mark.parametrize("more", [-2, -1])
def test_the_number_of_extensions_is_bounded(more: int):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start.replace(year=2040))
    for number in range(limits.CERTIFICATE_EXTENSIONS + 2 + more):
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{number}"), b"")
        builder = builder.add_extension(extension, critical=False)
    raw = der(builder.sign(key, hashes.SHA256()))
    if more == -2:
        assert len(_core.X509.parse(raw).extensions) == limits.CERTIFICATE_EXTENSIONS
    else:
        with pytest.raises(TooLarge):
            _core.X509.parse(raw)


def revocation_list() -> x509.CertificateRevocationList:
    at = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateRevocationListBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "one")]), at, at.replace(year=2027)
    )
    for serial in (1, 128, 2**150):
        entry = x509.RevokedCertificateBuilder(serial, at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.add_extension(x509.CRLNumber(4), critical=False).sign(RSA, hashes.SHA256())


def test_a_revocation_list_is_read_as_another_library_reads_it():
    made = revocation_list()
    read = _core.X509Crl.parse(made.public_bytes(serialization.Encoding.DER))
    assert {int.from_bytes(serial) for serial in read.revoked} == {1, 128, 2**150}
    assert read.this_update == int(made.last_update_utc.timestamp())
    assert made.next_update_utc is not None
    assert read.next_update == int(made.next_update_utc.timestamp())
    assert (read.issuer, read.issuer_der) == ("CN=one", made.issuer.public_bytes())
    assert set(read.extensions) == {"2.5.29.20"}
    _core.verify_signature(read.signature_algorithm, spki(RSA), read.signature, read.tbs)


def test_pem():
    made = certificate()
    text = made.public_bytes(serialization.Encoding.PEM)
    assert _core.pem_certificates(b"x\n" + text + b"y" + text) == [der(made)] * 2
    assert _core.pem_certificates(b"") == []
    with pytest.raises(TooLarge):
        _core.pem_certificates(text * (limits.CHAIN_CERTIFICATES + 1))
    with pytest.raises(TooLarge):
        _core.pem_certificates(bytes(limits.PEM_BYTES + 1))


CERTIFICATE = der(certificate())
CRL = revocation_list().public_bytes(serialization.Encoding.DER)


def survive(call: Any, *arguments: Any) -> None:
    with contextlib.suppress(MesateeError):
        call(*arguments)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(CERTIFICATE) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_parsers_survive_mutation(position: int, patch: bytes, lenient: bool):
    survive(_core.X509.parse, CERTIFICATE[:position] + patch + CERTIFICATE[position + len(patch) :], lenient)
    survive(_core.X509.parse, CERTIFICATE[:position], lenient)
    cut = position % len(CRL)
    survive(_core.X509Crl.parse, CRL[:cut] + patch + CRL[cut + len(patch) :])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=128))
def test_parsers_survive_noise(data: bytes, more: bytes):
    survive(_core.X509.parse, data)
    survive(_core.X509Crl.parse, data)
    survive(_core.pem_certificates, b"-----BEGIN CERTIFICATE-----" + data)
    survive(_core.spki_from_point, "p256", data)
    survive(_core.spki_from_rsa, data, more)
    for name in ("ecdsa-p256-sha256", "ecdsa-sha384-der", "rsa-pss-sha384", "ed25519", "ed25519-sha3-512"):
        for key in (spki(RSA), data):
            survive(_core.verify_signature, name, key, more, data)
