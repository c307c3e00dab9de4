from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from tests.support import captured, tokens
from tests.support.mutate import QUICK

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import keystone
from mesatee.errors import Malformed
from mesatee.protocol import limits

# -- Ed25519 with any hash, after RFC 8032 section 6: a reference to sign with, as no library signs with SHA3 ------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]


def _add(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, P - 2, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, P - 2, P) % P
    return x, y


def _multiply(scalar: int) -> Point:
    result, point = (0, 1), BASE
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _base() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (P - x if x & 1 else x), y


BASE = _base()


def _encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


class Key:
    def __init__(self, seed: bytes, digest: Any = hashlib.sha3_512) -> None:
        self.digest = digest
        half = digest(seed).digest()
        self.scalar = int.from_bytes(half[:32], "little") & ((1 << 254) - 8) | 1 << 254
        self.prefix = half[32:]
        self.public = _encode(_multiply(self.scalar))

    def _number(self, *parts: bytes) -> int:
        return int.from_bytes(self.digest(b"".join(parts)).digest(), "little") % L

    def sign(self, message: bytes) -> bytes:
        nonce = self._number(self.prefix, message)
        point = _encode(_multiply(nonce))
        challenge = self._number(point, self.public, message)
        return point + ((nonce + challenge * self.scalar) % L).to_bytes(32, "little")


DEVICE, MONITOR, STRANGER = Key(b"d" * 32), Key(b"m" * 32), Key(b"s" * 32)
ENCLAVE_HASH, MONITOR_HASH = b"\x0e" * 64, b"\x0f" * 64
TRUSTED = frozenset({DEVICE.public})


def build(
    data: bytes = b"nonce", device: Key = DEVICE, monitor: Key = MONITOR, size: int | None = None
) -> bytes:
    length = (len(data) if size is None else size).to_bytes(8, "little")
    enclave = ENCLAVE_HASH + length + data
    return b"".join(
        [
            ENCLAVE_HASH + length + data.ljust(1024, b"\0"),
            monitor.sign(enclave),
            MONITOR_HASH + monitor.public,
            device.sign(MONITOR_HASH + monitor.public),
            device.public,
        ]
    )


def test_the_reference_is_ed25519():
    seed = bytes(range(32))
    library = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    assert Key(seed, hashlib.sha512).sign(b"message") == library.sign(b"message")


def test_a_device_that_the_policy_names():
    verdict = keystone.appraise(keystone.parse(build()), TRUSTED)
    assert (verdict.tier, verdict.level, verdict.simulated) == (Status.AFFIRMING, 4, False)
    assert verdict.claims["data"] == b"nonce".hex()
    assert verdict.measurement == ENCLAVE_HASH.hex()
    assert verdict.claims["measurement.sm"] == keystone.parse(build()).sm_hash.hex()


def test_captured_cases():
    tokens.agree("keystone")


def test_a_device_key_that_comes_from_the_report_alone():
    for trusted in (frozenset[bytes](), frozenset({STRANGER.public})):
        verdict = keystone.appraise(keystone.parse(build()), trusted)
        assert (verdict.tier, verdict.signature, verdict.chain) == (
            Status.CONTRAINDICATED,
            Answer.AFFIRMED,
            Answer.REFUSED,
        )
    files = {"report": build(), "device_public_key": DEVICE.public}
    assert keystone.check(files, None, tokens.POLICY).tier is Status.CONTRAINDICATED


def test_the_published_test_key_is_never_affirmed():
    _, files = captured.case("keystone", "synthetic-testkey-valid")
    report = keystone.parse(files["report"])
    verdict = keystone.appraise(report, frozenset())
    assert (verdict.tier, verdict.simulated) == (Status.CONTRAINDICATED, True)
    verdict = keystone.appraise(report, frozenset({keystone.TEST_DEVICE}))
    assert (verdict.tier, verdict.simulated, verdict.signature) == (Status.WARNING, True, Answer.AFFIRMED)
    assert verdict.level == 1


def test_standard_ed25519_is_refused():
    device, monitor = Key(b"d" * 32, hashlib.sha512), Key(b"m" * 32, hashlib.sha512)
    verdict = keystone.appraise(
        keystone.parse(build(device=device, monitor=monitor)), frozenset({device.public})
    )
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_keys_that_are_zero():
    report = bytearray(build())
    report[-32:] = bytes(32)
    verdict = keystone.appraise(keystone.parse(bytes(report)), frozenset({bytes(32)}))
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_a_report_of_one_monitor_under_the_device_of_another():
    good, other = build(), build(device=STRANGER)
    spliced = good[:1320] + other[1320:]
    assert keystone.appraise(keystone.parse(spliced), TRUSTED).tier is Status.CONTRAINDICATED
    # The enclave part of one machine, all of the rest of another.
    other = build(monitor=STRANGER)
    spliced = good[:1160] + other[1160:]
    assert keystone.appraise(keystone.parse(spliced), TRUSTED).tier is Status.CONTRAINDICATED


def test_only_the_signed_data_are_claims():
    report = bytearray(build())
    report[72 + 5 : 72 + 11] = b" and I"
    assert keystone.appraise(keystone.parse(bytes(report)), TRUSTED).claims["data"] == b"nonce".hex()


def test_data_length_limit():
    full = keystone.parse(build(b"x" * 1024))
    assert keystone.appraise(full, TRUSTED).tier is Status.AFFIRMING
    for size in (1025, 2**63, 2**64 - 1):
        with pytest.raises(Malformed):
            keystone.parse(build(size=size))


def test_report_sizes():
    report = build()
    assert keystone.parse(report.ljust(limits.KEYSTONE_BUFFER_BYTES, b"\0")) == keystone.parse(report)
    for bad in (report[:-1], report + b"x", report.ljust(limits.KEYSTONE_BUFFER_BYTES + 1, b"\0"), b""):
        with pytest.raises(Malformed):
            keystone.parse(bad)


def test_a_report_as_hex_with_padding():
    _, files = captured.case("keystone", "synthetic-testkey-valid")
    padded = files["report"].ljust(limits.KEYSTONE_BUFFER_BYTES, b"\0").hex().encode()
    assert keystone.check({"report": padded}, None, tokens.POLICY).signature is Answer.AFFIRMED


def mutation(every: bool) -> None:
    whole = keystone.appraise(keystone.parse(build()), TRUSTED)
    for changed in tokens.flipped(build(), every):
        try:
            verdict = keystone.appraise(keystone.parse(changed), TRUSTED)
        except Malformed:
            continue
        assert verdict.tier is not Status.AFFIRMING or verdict.claims == whole.claims


def test_no_flipped_bit_is_affirmed():
    mutation(every=False)


@pytest.mark.slow
def test_no_flipped_bit_at_all_is_affirmed():
    mutation(every=True)


@QUICK
@given(st.binary(max_size=2_100) | st.binary(min_size=1_352, max_size=1_352))
def test_any_bytes(data: bytes):
    try:
        report = keystone.parse(data)
    except Malformed:
        return
    assert keystone.appraise(report, frozenset({report.device})).tier is not Status.AFFIRMING
