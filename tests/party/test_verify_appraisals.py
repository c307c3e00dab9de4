"""The appraisals in a receipt: offline, the evidence must give them again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.party.conftest import ENVIRONMENT, NOW, Machine, Vector
from tests.support import tokens

from mesatee import _core
from mesatee.attestation import RoleTrust, TrustPolicy, appraise
from mesatee.attestation import evidence as ev
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.attestation.verify import examine
from mesatee.errors import ReceiptInvalid
from mesatee.party.verify import verify_bundle
from mesatee.protocol import statements, wire
from mesatee.protocol.digests import b64encode, sha256


def _with(vector: Any, side: str, **changes: Any) -> wire.Bundle:
    """A receipt that is really signed and logged, whose appraisal says something else."""
    said = getattr(vector.appraisals(), side)
    lied = vector.appraisals(**{side: {**said, **changes}})
    return vector.bundle(vector.write_receipt(appraisals=lied))


def _without(vector: Any, side: str, name: str) -> wire.Bundle:
    said = {key: item for key, item in getattr(vector.appraisals(), side).items() if key != name}
    return vector.bundle(vector.write_receipt(appraisals=vector.appraisals(**{side: said})))


def _other(vector: Any, **changes: Any) -> wire.Bundle:
    return vector.bundle(vector.write_receipt(appraisals=vector.appraisals(**changes)))


OTHERS = Endorsements((Endorsement("snp", "", "ask_ark", b"x", 1, None),))

LIES: dict[str, tuple[int, Callable[[Any], wire.Bundle]]] = {
    "gateway of a higher level": (5, lambda v: _with(v, "gateway", level=5)),
    "gateway of another TEE": (5, lambda v: _with(v, "gateway", tee="sgx")),
    "gateway with hardware": (5, lambda v: _with(v, "gateway", hardware=True)),
    "gateway of another measurement": (5, lambda v: _with(v, "gateway", measurement="11" * 32)),
    "gateway of another service": (5, lambda v: _with(v, "gateway", service="11" * 32)),
    "gateway with other evidence": (5, lambda v: _with(v, "gateway", evidence_digest="11" * 32)),
    "gateway with another key": (5, lambda v: _with(v, "gateway", spki_hash="11" * 32)),
    "gateway that was not accepted": (5, lambda v: _with(v, "gateway", policy="refused")),
    "gateway without a field": (5, lambda v: _without(v, "gateway", "level")),
    "gateway that is no appraisal": (5, lambda v: _other(v, gateway={})),
    "gateway with another certificate": (5, lambda v: _other(v, gateway_certificate="11" * 32)),
    "endorsements of another digest": (5, lambda v: _other(v, endorsements="11" * 32)),
    "endorsements exchanged": (5, lambda v: v.bundle(endorsements=b64encode(OTHERS.encode()))),
    "endorsements that are none": (
        5,
        lambda v: v.bundle(
            v.write_receipt(appraisals=v.appraisals(endorsements=sha256(b"x"))), endorsements=b64encode(b"x")
        ),
    ),
    "worker of a higher level": (6, lambda v: _with(v, "worker", level=5)),
    "worker with a better status": (6, lambda v: _with(v, "worker", status="affirming", reasons=[])),
    "worker without its caveats": (6, lambda v: _with(v, "worker", reasons=[])),
    "worker with another claim": (6, lambda v: _with(v, "worker", claims={"debug": False})),
    "worker under another policy": (6, lambda v: _with(v, "worker", policy_digest="11" * 32)),
    "worker appraised for longer": (6, lambda v: _with(v, "worker", expires=NOW + 10**6)),
    "worker appraised before its evidence": (6, lambda v: _with(v, "worker", at=NOW - 10_000)),
    "worker appraised after the receipt": (6, lambda v: _with(v, "worker", at=NOW + 3_000)),
    "worker without a field": (6, lambda v: _without(v, "worker", "vector")),
    "worker that is the gateway": (6, lambda v: _other(v, worker=v.appraisals().gateway)),
}


@pytest.mark.parametrize("what", sorted(LIES))
def test_an_appraisal_that_the_evidence_does_not_give_is_refused(vector: Any, what: str) -> None:
    step, tell = LIES[what]
    with pytest.raises(ReceiptInvalid) as caught:
        verify_bundle(tell(vector), vector.trust, NOW)
    assert caught.value.message.startswith(f"step {step},"), caught.value.message


def test_an_appraisal_that_no_longer_counted_when_the_run_started(vector: Any) -> None:
    said = vector.appraisals().worker
    expired = vector.write_receipt(started=said["expires"] + 301, finished=said["expires"] + 400)
    with pytest.raises(ReceiptInvalid, match="did not count when the run started"):
        verify_bundle(vector.bundle(expired), vector.trust, NOW)


# -- hardware -----------------------------------------------------------------------------------------

IAK = ec.generate_private_key(ec.SECP256R1())
PIN = hashlib.sha256(tokens.spki(IAK)).hexdigest()
KEPT = Endorsements((Endorsement("psa", "", "iak", tokens.pem(IAK), NOW, None),))
"""The device's key comes from its maker, not with the evidence."""
LOOSE = RoleTrust(tees=("psa",), minimum_level=3, measurements="any", anchors=(PIN,))


def psa_worker(service: str) -> Machine:
    """A worker on a simulated Arm device, whose evidence needs an endorsement."""
    key = _core.SigningKey.generate()
    claims = ev.Claims.of_key(
        _core.spki(key.public), "worker", service=service, environments={"base": ENVIRONMENT}
    ).encode()
    body = {
        265: "tag:psacertified.org,2023:psa#tfm",
        2394: -1,
        2395: 0x3000,
        2396: b"\x31" * 32,
        2399: [{1: "SPE", 2: b"\x01" * 32, 4: "2.1", 5: b"\x02" * 32}],
        10: ev.report_data(claims),
        256: b"\x01" + b"\x32" * 32,
    }
    token = tokens.sign1(IAK, cbor2.dumps(body), -7)
    evidence = ev.encode(ev.TAG_PLATFORM, Bundle("psa", {"token": token}).encode(), claims)
    certificate = _core.make_certificate(key, "worker", NOW - 60, NOW + 3_600, evidence)
    return Machine(key, certificate, evidence)


class Hardware(Vector):
    """A run on that worker."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, trusted=LOOSE)
        self.worker = psa_worker(self.service.digest)
        peer = _core.parse_certificate(self.worker.certificate)
        self.found = appraise(peer.evidence, peer.spki, self.worker_trust(), NOW - 5, "worker", KEPT)
        accept = statements.Accept(
            min_level=3, tees=("psa",), workers=(self.found.measurement,), allow_simulated=False
        )
        self.task = self.write_task(accept=accept)
        self.approvals = {
            self.parties[name].id: self.approval(self.parties[name], self.task.digest)
            for name in ("alice", "carol")
        }

    def worker_trust(self) -> TrustPolicy:
        return TrustPolicy.from_toml(self.service.predicate.worker_trust)  # type: ignore[union-attr]

    def appraisals(self, **changes: Any) -> statements.Appraisals:
        fields: dict[str, Any] = {
            "worker": self.found.as_dict(),
            "gateway": self.appraisal(self.gateway, "gateway").as_dict(),
            "gateway_certificate": sha256(self.gateway.certificate),
            "endorsements": KEPT.digest,
        }
        return statements.Appraisals(**(fields | changes))

    def hardware_bundle(self, endorsements: Endorsements = KEPT) -> wire.Bundle:
        worker = statements.WorkerFacts(
            key=self.worker.key.public.hex(),
            measurement=self.found.measurement,
            level=3,
            tee="psa",
            simulated=False,
            evidence=sha256(self.worker.evidence),
            certificate=sha256(self.worker.certificate),
        )
        said = self.appraisals(endorsements=endorsements.digest)
        receipt = self.write_receipt(worker=worker, appraisals=said)
        return self.bundle(receipt, endorsements=b64encode(endorsements.encode()))


@pytest.fixture
def hardware(tmp_path: Path) -> Hardware:
    return Hardware(tmp_path)


def test_hardware_evidence_verifies_with_the_endorsements_in_the_bundle(hardware: Hardware) -> None:
    found = verify_bundle(hardware.hardware_bundle(), hardware.trust, NOW)
    assert (found.tee, found.level, found.simulated) == ("psa", 3, False)


def test_hardware_evidence_without_its_endorsements_is_refused(hardware: Hardware) -> None:
    with pytest.raises(ReceiptInvalid, match=r"step 6, worker: level_too_low|nothing was proven"):
        verify_bundle(hardware.hardware_bundle(NOTHING), hardware.trust, NOW)


def test_an_endorsement_of_another_key_vouches_for_nothing(hardware: Hardware) -> None:
    other = tokens.pem(ec.generate_private_key(ec.SECP256R1()))
    forged = Endorsements((Endorsement("psa", "", "iak", other, NOW, None),))
    with pytest.raises(ReceiptInvalid, match="step 6, worker"):
        verify_bundle(hardware.hardware_bundle(forged), hardware.trust, NOW)


def test_a_device_that_the_reader_does_not_pin_is_refused_whatever_the_service_accepts(
    hardware: Hardware,
) -> None:
    mine = dataclasses.replace(LOOSE, anchors=("11" * 32,))
    with pytest.raises(ReceiptInvalid, match="step 6, worker"):
        verify_bundle(hardware.hardware_bundle(), dataclasses.replace(hardware.trust, worker=mine), NOW)


def test_the_evidence_alone_proves_nothing(hardware: Hardware) -> None:
    peer = _core.parse_certificate(hardware.worker.certificate)
    assert examine(peer.evidence, peer.spki, hardware.worker_trust(), NOW, "worker").level == 1
