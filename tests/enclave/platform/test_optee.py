from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.enclave.platform.fakes import ROOT, FakeKernel, OpteeDevice

from mesatee._core import SigningKey, spki
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.evidence import Claims
from mesatee.attestation.tee import optee
from mesatee.attestation.trust import RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.enclave.platform.collect import PlatformAttester
from mesatee.enclave.platform.optee import OpteeCollector
from mesatee.errors import Malformed, NotFound, Unavailable, UnsupportedVersion

DATA = bytes(range(64))
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def machine(key: rsa.RSAPrivateKey) -> tuple[OpteeDevice, FakeKernel]:
    kernel = FakeKernel()
    modulus = key.public_key().public_numbers().n.to_bytes(256)
    device = OpteeDevice(kernel, lambda data: key.sign(data, PSS, hashes.SHA256()), modulus)
    kernel.files["dev/tee0"] = lambda: device
    return device, kernel


def test_the_signature_verifies_under_the_key_in_the_bundle(key: rsa.RSAPrivateKey) -> None:
    device, kernel = machine(key)
    found = OpteeCollector(root=ROOT, kernel=kernel).collect(DATA)
    files = found.files
    public = serialization.load_pem_public_key(files["public_key"])
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.public_numbers() == key.public_key().public_numbers()
    public.verify(files["signature"], DATA + files["digest"], PSS, hashes.SHA256())
    assert (found.tee, files["nonce"]) == ("optee", DATA)
    assert not device.sessions
    assert not kernel.handles


def test_the_verifier_takes_what_the_attester_sends(key: rsa.RSAPrivateKey) -> None:
    _, kernel = machine(key)
    found = OpteeCollector(root=ROOT, kernel=kernel).collect(DATA)
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pinned = CorpusPolicy(devices=frozenset({hashlib.sha256(der).hexdigest()}))
    verdict = optee.check(found.files, None, pinned)
    assert (verdict.tier, verdict.binding, verdict.level) == (Status.AFFIRMING, Answer.AFFIRMED, 1)
    assert verdict.measurement == found.files["digest"].hex()


def test_no_channel_takes_what_any_process_gets(key: rsa.RSAPrivateKey) -> None:
    _, kernel = machine(key)
    channel = spki(SigningKey.generate().public)
    sent = PlatformAttester(OpteeCollector(root=ROOT, kernel=kernel)).evidence(
        Claims.of_key(channel, "worker")
    )
    with pytest.raises(UnsupportedVersion, match="class 'optee' is not known"):
        appraise(sent, channel, TrustPolicy(), 1, "worker")
    with pytest.raises(Malformed, match="'optee' is not known"):
        RoleTrust(tees=("optee",))


def test_refusals(key: rsa.RSAPrivateKey) -> None:
    device, kernel = machine(key)
    device.refuses = 0xFFFF0008
    with pytest.raises(Unavailable, match="0xffff0008"):
        OpteeCollector(root=ROOT, kernel=kernel).collect(DATA)
    device, kernel = machine(key)
    device.overstates = 4000
    with pytest.raises(Malformed):
        OpteeCollector(root=ROOT, kernel=kernel).collect(DATA)
    assert not device.sessions
    assert not kernel.handles
    device.implementation = 2
    with pytest.raises(NotFound, match="another"):
        OpteeCollector(root=ROOT, kernel=kernel).collect(DATA)
    with pytest.raises(NotFound):
        OpteeCollector(root=ROOT, kernel=FakeKernel()).collect(DATA)
