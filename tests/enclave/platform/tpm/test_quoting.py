"""Quotes of a real software TPM, verified by tpm2-tools and by `cryptography`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from tests.enclave.platform.conftest import SwTpm
from tests.support import captured

from mesatee._core import SigningKey, spki
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.evidence import Claims, decode, report_data
from mesatee.attestation.tee import tpm
from mesatee.attestation.trust import RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.enclave.platform.collect import PlatformAttester
from mesatee.enclave.platform.tpm import quoting
from mesatee.enclave.platform.tpm.commands import (
    NV_AUTH_READ,
    NV_AUTH_WRITE,
    Quoted,
    Tpm,
)
from mesatee.enclave.platform.tpm.public import Algorithm, Public, ak_template
from mesatee.enclave.platform.tpm.quoting import (
    EVENT_LOG,
    TpmCollector,
    quote_with_pcrs,
)
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import ENDORSEMENT, Reader
from mesatee.errors import EvidenceRefused, KeyRefused, Malformed, TooLarge, Unavailable

ALGORITHMS: tuple[Algorithm, ...] = ("ecc", "rsa")
DATA = report_data(b"claims")


def signed(files: Mapping[str, bytes]) -> None:
    """Raises unless the signature is the key's over the quote."""
    public = serialization.load_pem_public_key(files["ak_public_pem"])
    reader = Reader.of(files["signature"])
    scheme, hashed = reader.number(2), reader.number(2)
    assert hashed == 0x000B
    if isinstance(public, rsa.RSAPublicKey):
        assert scheme == 0x0014
        public.verify(reader.sized(), files["quote"], padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert scheme == 0x0018
        r, s = (int.from_bytes(reader.sized()) for _ in range(2))
        public.verify(utils.encode_dss_signature(r, s), files["quote"], ec.ECDSA(hashes.SHA256()))
    reader.done()


def quoted(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Nonce and PCR digest of a TPMS_ATTEST."""
    reader = Reader.of(files["quote"])
    reader.take(6)
    reader.sized()
    nonce = reader.sized()
    reader.take(25 + 10)
    digest = reader.sized()
    reader.done()
    return nonce, digest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_quote_verifies_and_is_about_the_pcrs(swtpm: SwTpm, algorithm: Algorithm) -> None:
    found = TpmCollector(swtpm.address, algorithm=algorithm).collect(DATA)
    files = found.files
    assert found.tee == "tpm"
    assert sorted(files) == [
        "ak_public_pem",
        "ak_public_tpmt",
        "ek_public_tpmt",
        "pcrs",
        "quote",
        "signature",
    ]
    signed(files)
    nonce, digest = quoted(files)
    assert nonce.ljust(64, b"\0") == DATA
    values = json.loads(files["pcrs"])["sha256"]
    assert list(values) == [str(pcr) for pcr in PINNED_PCRS]
    assert digest == hashlib.sha256(b"".join(map(bytes.fromhex, values.values()))).digest()
    attributes = Public.parse(files["ak_public_tpmt"]).attributes
    assert attributes & 0x50072 == 0x50072, "restricted, signing, made by and fixed to this TPM"
    assert not attributes & 1 << 17


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tpm2_checkquote_agrees(swtpm: SwTpm, tmp_path: Path, algorithm: Algorithm) -> None:
    captured.programs("tpm2_checkquote")
    files = TpmCollector(swtpm.address, algorithm=algorithm).collect(bytes(range(64))).files
    for role, content in files.items():
        (tmp_path / role).write_bytes(content)

    def check(nonce: str) -> int:
        command = ["tpm2_checkquote", "-u", "ak_public_pem", "-m", "quote", "-s", "signature"]
        return subprocess.run(
            [*command, "-g", "sha256", "-q", nonce], cwd=tmp_path, capture_output=True
        ).returncode

    assert check(bytes(range(64)).hex()) == 0
    assert check(bytes(range(63)).hex()) != 0


def spoiled(data: bytes, at: int = -1) -> bytes:
    """With another byte there, whatever it was."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def credential(folder: Path, ek: Public, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """As a verifier makes it for an endorsement key and the name of an attestation key."""
    captured.programs("tpm2_makecredential")
    (folder / "ek").write_bytes(len(ek.area).to_bytes(2) + ek.area)
    (folder / "secret").write_bytes(secret)
    command = ["tpm2_makecredential", "-Q", "-T", "none", "-u", "ek", "-s", "secret", "-n", name.hex()]
    subprocess.run([*command, "-o", "made"], cwd=folder, check=True, capture_output=True)
    made = Reader.of((folder / "made").read_bytes())
    assert made.take(8).hex() == "badcc0de00000001"
    return made.sized(), made.sized()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_credential_made_by_other_software_activates(
    swtpm: SwTpm, tmp_path: Path, algorithm: Algorithm
) -> None:
    """tpm2_makecredential computes it without any TPM, from the two public keys in the evidence."""
    collector = TpmCollector(swtpm.address, algorithm=algorithm)
    files = collector.collect(DATA).files
    ek, ak = Public.parse(files["ek_public_tpmt"]), Public.parse(files["ak_public_tpmt"])
    for name, opens in ((ak.name, True), (spoiled(ak.name), False)):
        blob, encrypted = credential(tmp_path, ek, name, bytes(range(32)))
        if opens:
            assert collector.activate(blob, encrypted) == bytes(range(32))
        else:
            with pytest.raises(KeyRefused):
                collector.activate(blob, encrypted)


def test_the_endorsement_key_is_the_one_that_was_certified(certified: SwTpm) -> None:
    """swtpm_setup makes key and certificate by the TCG profile: ours is the same key."""
    files = TpmCollector(certified.address, algorithm="rsa").collect(DATA).files
    certificate = x509.load_der_x509_certificate(files["ek_certificate"])
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert spki == Public.parse(files["ek_public_tpmt"]).spki
    assert (
        b"id:"
        in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_verifier_takes_the_endorsement_keys_certificate(certified: SwTpm, algorithm: Algorithm) -> None:
    """As somebody does who enrols the machine: with the root of the TPM's maker, here a local authority."""
    files = dict(TpmCollector(certified.address, algorithm=algorithm).collect(DATA).files)
    ca = certified.folder / "ca"
    roots = {
        "ek_chain": (ca / "issuercert.pem").read_bytes(),
        "ek_root": (ca / "swtpm-localca-rootca-cert.pem").read_bytes(),
    }
    found = tpm.check(files | roots, int(time.time()) + 60, CorpusPolicy())
    if "ek_certificate" in files:
        assert len(str(found.claims["tpm.ek.root"])) == 64, found.reasons
    else:
        assert any("no certificate of it" in line for line in found.reasons)
    assert found.level == 3


def test_a_certificate_that_is_filled_up() -> None:
    der = bytes.fromhex("30820004") + b"cert"
    assert quoting.certificate_of(der + b"\xff" * 40) == der
    assert quoting.certificate_of(der) == der
    assert quoting.certificate_of(b"x") == b"x"


def test_a_providers_key_is_used_where_its_certificate_is(swtpm: SwTpm) -> None:
    template = (
        ak_template("ecc")[:-4] + b"\0\x01\x07\0\0"
    )  # As Google's: our template with a mark of its own.
    with Tpm(connect(swtpm.address)) as tpm:
        for index, content in ((0x01C10002, b"the provider's certificate"), (0x01C10003, template)):
            tpm.nv_define(index, NV_AUTH_READ | NV_AUTH_WRITE, len(content))
            tpm.nv_write(index, content)
        with tpm.primary(ENDORSEMENT, template) as key:
            name = key.public.name
    collector = TpmCollector(swtpm.address)
    files = collector.collect(DATA).files
    assert files["ak_certificate"] == b"the provider's certificate"
    assert Public.parse(files["ak_public_tpmt"]).name == name == collector.links["tpm-ak-name"]
    with Tpm(connect(swtpm.address)) as tpm, tpm.primary(ENDORSEMENT, ak_template("ecc")) as key:
        assert key.public.name != name


def test_the_event_log(swtpm: SwTpm, tmp_path: Path) -> None:
    collector = TpmCollector(swtpm.address, root=tmp_path)
    assert "eventlog" not in collector.collect(DATA).files
    path = tmp_path / EVENT_LOG
    path.parent.mkdir(parents=True)
    path.write_bytes(b"e" * 10_000)
    assert collector.collect(DATA).files["eventlog"] == b"e" * 10_000
    path.write_bytes(bytes(quoting.EVENT_LOG_BYTES + 1))
    with pytest.raises(TooLarge):
        collector.collect(DATA)


def test_what_is_extended_is_quoted(swtpm: SwTpm) -> None:
    collector = TpmCollector(swtpm.address, pcrs=[14])
    swtpm.extend(14, b"code and environment")
    values = json.loads(collector.collect(DATA).files["pcrs"])["sha256"]
    measured = hashlib.sha256(b"code and environment").digest()
    assert values == {"14": hashlib.sha256(bytes(32) + measured).hexdigest()}


def test_pcrs_that_do_not_hold_still(swtpm: SwTpm) -> None:
    class Restless(Tpm):
        left = 2

        def quote(self, *args: object, **named: object) -> Quoted:
            made = super().quote(*args, **named)  # type: ignore[arg-type]
            if self.left:
                self.left -= 1
                self.pcr_extend(9, bytes(32))
            return made

    with Restless(connect(swtpm.address)) as tpm, tpm.primary(ENDORSEMENT, ak_template("ecc")) as key:
        made, values = quote_with_pcrs(tpm, key.handle, b"nonce", [9])
        assert quoted({"quote": made.attest})[1] == hashlib.sha256(values[9]).digest()
        tpm.left = 3
        with pytest.raises(Unavailable):
            quote_with_pcrs(tpm, key.handle, b"nonce", [9])


def test_answers_that_are_mixed_up(swtpm: SwTpm) -> None:
    class Mixing(Tpm):
        def quote(self, key: int, nonce: bytes, *args: object, **named: object) -> Quoted:
            return super().quote(key, nonce[::-1], *args, **named)  # type: ignore[arg-type]

    with (
        Mixing(connect(swtpm.address)) as tpm,
        tpm.primary(ENDORSEMENT, ak_template("ecc")) as key,
        pytest.raises(Malformed, match="nonce"),
    ):
        quote_with_pcrs(tpm, key.handle, b"nonce", [9])


def test_report_data_of_another_size(swtpm: SwTpm) -> None:
    for size in (0, 32, 63, 65):
        with pytest.raises(Malformed):
            TpmCollector(swtpm.address).collect(bytes(size))


def test_evidence_is_judged_as_what_it_is(swtpm: SwTpm) -> None:
    """What the attester sends is what the verifier takes: report data, measurement, key, and that it is software."""
    key = spki(SigningKey.generate().public)
    mine = PlatformAttester(TpmCollector(swtpm.address))
    sent = mine.evidence(Claims.of_key(key, "worker"))
    bundle = Bundle.parse(decode(sent).body)
    found = tpm.check(bundle.files, None, CorpusPolicy())
    assert found.simulated
    assert found.claims["tpm.nonce"] == report_data(decode(sent).claims_bytes)[:32].hex()
    anchor = str(found.claims["anchor"])
    pinned = RoleTrust(
        tees=("tpm",),
        minimum_level=3,
        measurements=(found.measurement,),
        anchors=(anchor,),
        allow_simulated=True,
    )
    assert appraise(sent, key, TrustPolicy(worker=pinned), 1, "worker").level == 3
    # The same key, quoted again, is the same anchor and measurement; another boot is not.
    again = mine.evidence(Claims.of_key(key, "worker"))
    assert appraise(again, key, TrustPolicy(worker=pinned), 1, "worker").measurement == found.measurement
    swtpm.extend(8, b"another kernel")
    with pytest.raises(EvidenceRefused, match="measurement"):
        appraise(mine.evidence(Claims.of_key(key, "worker")), key, TrustPolicy(worker=pinned), 1, "worker")
    for change in ({"anchors": ("00" * 32,)}, {"allow_simulated": False}):
        with pytest.raises(EvidenceRefused):
            appraise(sent, key, TrustPolicy(worker=dataclasses.replace(pinned, **change)), 1, "worker")  # type: ignore[arg-type]
    # On another channel key it is nobody's.
    other = spki(SigningKey.generate().public)
    with pytest.raises(EvidenceRefused, match="channel key"):
        appraise(sent, other, TrustPolicy(worker=pinned), 1, "worker")
