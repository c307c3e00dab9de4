from __future__ import annotations

import dataclasses
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.enclave.platform.fakes import ROOT, FakeKernel, OpteeDevice

from mesatee._core import SigningKey, spki
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.evidence import Claims, decode
from mesatee.attestation.trust import RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.enclave.platform.collect import PlatformAttester
from mesatee.enclave.platform.optee import OpteeCollector
from mesatee.errors import EvidenceRefused, LevelTooLow, Malformed, NotFound, Unavailable

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
    """From the device to an appraisal, under a policy that pins the device's key and the measurement."""
    _, kernel = machine(key)
    channel = spki(SigningKey.generate().public)
    sent = PlatformAttester(OpteeCollector(root=ROOT, kernel=kernel)).evidence(
        Claims.of_key(channel, "worker")
    )
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = Bundle.parse(decode(sent).body).files["digest"].hex()
    pinned = RoleTrust(
        tees=("optee",),
        minimum_level=3,
        measurements=(digest,),
        anchors=(hashlib.sha256(der).hexdigest(),),
    )
    found = appraise(sent, channel, TrustPolicy(worker=pinned), 1, "worker")
    assert (found.level, found.tee, found.measurement) == (3, "optee", digest)
    for change in ({"anchors": ()}, {"anchors": ("00" * 32,)}, {"measurements": ("00" * 32,)}):
        with pytest.raises((EvidenceRefused, LevelTooLow)):
            appraise(
                sent,
                channel,
                TrustPolicy(worker=dataclasses.replace(pinned, **change)),  # type: ignore[arg-type]
                1,
                "worker",
            )


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
