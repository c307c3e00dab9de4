"""Why a policy refuses evidence in a file: the same reasons as in a channel, and what was not judged is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured

from mesatee import _core
from mesatee.attestation import corpus
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.evidence import TAG_PLATFORM, Claims, decode, encode
from mesatee.attestation.explain import BOUND, UNBOUND, explain
from mesatee.attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.enclave.platform import NoAttester, SoftwareAttester
from mesatee.enclave.platform.measure import measure
from mesatee.errors import EvidenceRefused, InputError, LevelTooLow, Malformed, MesateeError

AT = 1_800_000_000
SPKI = _core.spki(_core.SigningKey.generate().public)


@pytest.fixture(scope="module")
def attester() -> SoftwareAttester:
    return SoftwareAttester(_core.SigningKey.generate(), measure(()))


def pinned(attester: SoftwareAttester) -> RoleTrust:
    return RoleTrust(
        tees=("software",),
        minimum_level=2,
        measurements=(attester.measurement,),
        installation_keys=(attester.fingerprint,),
    )


def test_an_extension_is_judged_for_its_role(attester: SoftwareAttester):
    sent = attester.evidence(Claims.of_key(SPKI, "worker"), AT)
    [found] = explain(sent, TrustPolicy(worker=pinned(attester)), AT)
    assert (found.role, found.kind, found.tee, found.level) == ("worker", "extension", "software", 2)
    assert found.refused == ()
    assert found.binding == BOUND
    assert "nothing in the file speaks against it" in found.lines()[0]
    assert found.as_dict()["refused"] == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tees": ("none",)}, "TEE class software"),
        ({"minimum_level": 3}, "level 2"),
        ({"measurements": ()}, "measurement"),
        ({"installation_keys": ()}, "chain"),
    ],
)
def test_what_a_channel_refuses_is_refused_for_the_same_reason(
    attester: SoftwareAttester, change: dict[str, object], word: str
):
    sent = attester.evidence(Claims.of_key(SPKI, "worker"), AT)
    policy = TrustPolicy(worker=dataclasses.replace(pinned(attester), **change))  # type: ignore[arg-type]
    [found] = explain(sent, policy, AT)
    assert any(word in reason for reason in found.refused), found.refused
    with pytest.raises((EvidenceRefused, LevelTooLow)):
        appraise(sent, SPKI, policy, AT, "worker")


def test_a_gateway_needs_its_service_statement(attester: SoftwareAttester):
    sent = attester.evidence(Claims.of_key(SPKI, "gateway", service="ab" * 32), AT)
    gateway = GatewayTrust(
        **{item.name: getattr(pinned(attester), item.name) for item in dataclasses.fields(RoleTrust)},
        service=("cd" * 32,),
    )
    [found] = explain(sent, TrustPolicy(gateway), AT)
    assert found.role == "gateway"
    assert any("service statement" in reason for reason in found.refused)


def test_claims_that_the_report_does_not_vouch_for(attester: SoftwareAttester):
    parts = decode(attester.evidence(Claims.of_key(SPKI, "worker"), AT))
    forged = encode(parts.tag, parts.body, Claims.of_key(b"another key", "worker").encode())
    [found] = explain(forged, TrustPolicy(worker=pinned(attester)), AT)
    assert "does not vouch" in found.refused[0]


def test_nothing_is_accepted_by_default(attester: SoftwareAttester):
    for sent in (
        attester.evidence(Claims.of_key(SPKI, "worker"), AT),
        NoAttester().evidence(Claims.of_key(SPKI, "worker")),
    ):
        assert all(item.refused for item in explain(sent, TrustPolicy(), AT))


def report() -> tuple[Path, bytes, dict[str, bytes]]:
    captured.need()
    folder = captured.FOLDER / "snp" / "google-milan-v2"
    names = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    raw = next(data for name, data in names.items() if len(data) == 1184)
    return folder, raw, names


def test_raw_evidence_is_judged_without_its_binding():
    _, raw, _ = report()
    policy = TrustPolicy(worker=RoleTrust(tees=("tdx",), minimum_level=4))
    found = explain(raw, policy, AT)
    assert [item.role for item in found] == ["gateway", "worker"]
    assert {item.binding for item in found} == {UNBOUND}
    worker = found[1]
    assert worker.tee == "snp"
    assert any("TEE class snp" in reason for reason in worker.refused)
    assert any("chain" in reason for reason in worker.refused), "nothing endorses the chip"
    assert any("Binding" in text for text in worker.lines())
    # As a bundle it is the same evidence.
    again = explain(Bundle("snp", {"report": raw}).encode(), policy, AT)
    assert [item.refused for item in again] == [item.refused for item in found]
    assert {item.kind for item in again} == {"bundle"}


def test_a_class_that_proves_no_machine_is_refused():
    found = explain(Bundle("eventlog", {"eventlog": b"x" * 64}).encode(), TrustPolicy(), AT)
    assert all(any("TEE class eventlog" in reason for reason in item.refused) for item in found)


def test_what_is_no_evidence_says_why():
    with pytest.raises(InputError):
        explain(b"", TrustPolicy(), AT)
    # An extension of ours that is broken inside is called that.
    bad = encode(TAG_PLATFORM, b"\x80", Claims.of_key(SPKI, "worker").encode())
    with pytest.raises(Malformed, match="bundle of evidence"):
        explain(bad, TrustPolicy(), AT)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_hostile_bytes(data: bytes):
    try:
        found = explain(data, TrustPolicy(), AT)
    except MesateeError:
        return
    assert all(item.refused for item in found)


@pytest.mark.parametrize(
    ("tee", "name", "claim", "least"),
    [
        ("tdx", "phala-tdx-v4-b0c06f", "tdx.rtmr1", "tcb.evaluation"),
        ("sgx", "phala-sgx-00a067110000", "measurement.signer", "sgx.isvsvn"),
        ("snp", "microsoft-milan", "measurement.id_key", "snp.tcb.reported.microcode"),
        ("azure-vtpm", "az-snp-trustee-v1", "tpm.pcr.sha256.7", "snp.tcb.reported.snp"),
    ],
)
def test_a_policy_pins_what_captured_machines_say(tee: str, name: str, claim: str, least: str):
    """The same evidence, with one value pinned that it has, and then with another."""
    meta, files = captured.case(tee, name)
    at = corpus.parse_time(meta["at"])
    said = corpus.check(tee, files, at, corpus.CorpusPolicy()).claims
    value, number = said[claim], said[least]
    assert isinstance(value, str)
    assert isinstance(number, int)
    bundle = Bundle(tee, files).encode()

    def refused(pins: object, minimums: object) -> set[str]:
        trust = RoleTrust((tee,), 4, "any", pins=pins, minimums=minimums)  # type: ignore[arg-type]
        return {line for line in explain(bundle, TrustPolicy(worker=trust), at)[1].refused if "which" in line}

    good = refused({tee: {claim: (value,)}}, {tee: {least: number}})
    assert not any(claim in line or least in line for line in good)
    bad = refused({tee: {claim: (value[::-1] + "0",)}}, {tee: {least: number + 1}})
    assert {f"{claim} is {value}, which the policy does not name"} <= bad
    assert {f"{least} is {number}, below {number + 1}, which the policy asks for"} <= bad
