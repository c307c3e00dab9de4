from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee import _core
from mesatee.attestation import (
    Answer,
    Appraisal,
    AppraisalCache,
    Claims,
    GatewayTrust,
    RoleTrust,
    Status,
    TrustPolicy,
    appraise,
    examine,
    reference,
    report_data,
)
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.evidence import TAG_PLATFORM, TEE_OF_TAG
from mesatee.attestation.tee import none, software
from mesatee.attestation.verify import TEE_MODULES, platform_objections, relevant
from mesatee.errors import EvidenceRefused, LevelTooLow, Malformed, MesateeError, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits

# As in conftest.py, which cannot be imported by name.
NOW = 1_800_000_000
SPKI = b"the DER of a channel key's SubjectPublicKeyInfo"
SERVICE = "5e" * 32
COMPONENTS = software.Components("0a" * 32, "0b" * 32, "0c" * 32)
Installation: TypeAlias = Any


def gateway_claims(service: str | None = SERVICE) -> Claims:
    return Claims.of_key(SPKI, "gateway", service=service)


def check(extension: bytes | None, policy: TrustPolicy, at: int = NOW, spki: bytes = SPKI) -> Appraisal:
    return appraise(extension, spki, policy, at, "gateway")


def test_software_evidence_is_accepted_with_its_caveats(installation: Installation) -> None:
    found = check(installation.evidence(), installation.policy())
    assert (found.level, found.tee, found.simulated, found.hardware) == (2, "software", False, False)
    assert found.measurement == COMPONENTS.measurement
    assert found.level_reason.startswith("trusts the operator")
    assert (found.signature, found.chain, found.policy, found.freshness) == (Answer.AFFIRMED,) * 4
    assert found.tcb is Answer.NOT_ESTABLISHED
    assert found.status is Status.WARNING, "software trust is never affirming"
    assert found.service == SERVICE
    assert found.expires == NOW + 3_600


def test_every_tag_has_its_module() -> None:
    assert {tag: tee.name for tag, tee in TEE_MODULES.items()} == TEE_OF_TAG | {TAG_PLATFORM: "platform"}


def test_one_bad_bundle_of_reference_values_does_not_hide_the_others(installation: Installation) -> None:
    auditor = _core.SigningKey.generate()
    values = reference.ReferenceValues("software", {COMPONENTS.measurement: "worker"}, NOW, NOW + 10)
    good, bad = reference.sign(values, [auditor]), dsse.sign(b"{}", [auditor])
    found = relevant(installation.evidence(), Endorsements((), (bad, good)))
    assert found.references == (good,)


def test_the_default_policy_refuses_everything(installation: Installation) -> None:
    for role in ("gateway", "worker"):
        claims = Claims.of_key(SPKI, role, service=SERVICE)
        for extension in (None, none.build(claims.encode()), installation.evidence(claims)):
            with pytest.raises(MesateeError) as error:
                appraise(extension, SPKI, TrustPolicy(), NOW, role)
            assert isinstance(error.value, EvidenceRefused | LevelTooLow)


def test_every_part_of_a_policy_that_is_left_out_refuses(installation: Installation) -> None:
    for name, empty in (("tees", ()), ("measurements", ()), ("installation_keys", ()), ("service", ())):
        with pytest.raises(EvidenceRefused):
            check(installation.evidence(), installation.policy(**{name: empty}))


def test_absent_evidence_is_refused(installation: Installation) -> None:
    with pytest.raises(EvidenceRefused, match="no evidence"):
        check(None, installation.policy())


def test_evidence_of_another_channel_key(installation: Installation) -> None:
    with pytest.raises(EvidenceRefused, match="another channel key"):
        check(installation.evidence(), installation.policy(), spki=b"somebody else's key")


def test_wrong_role(installation: Installation) -> None:
    worker = installation.evidence(Claims.of_key(SPKI, "worker", service=SERVICE))
    with pytest.raises(EvidenceRefused, match="worker"):
        check(worker, installation.policy())
    with pytest.raises(EvidenceRefused, match="gateway"):
        appraise(installation.evidence(), SPKI, installation.policy(), NOW, "worker")


def test_time(installation: Installation) -> None:
    evidence, policy = installation.evidence(), installation.policy()
    check(evidence, policy, NOW + 3_599)
    with pytest.raises(EvidenceRefused, match="expired"):
        check(evidence, policy, NOW + 3_600)
    check(evidence, policy, NOW - limits.CLOCK_SKEW_SECONDS)
    with pytest.raises(EvidenceRefused, match="future"):
        check(evidence, policy, NOW - limits.CLOCK_SKEW_SECONDS - 1)
    longest = NOW + limits.EVIDENCE_LIFE_SECONDS
    check(installation.evidence(expires=longest), policy)
    for expires in (longest + 1, NOW, NOW - 1):
        with pytest.raises(EvidenceRefused):
            check(installation.evidence(expires=expires), policy, NOW - 10)


def test_an_appraisal_ends_with_its_evidence(installation: Installation) -> None:
    found = check(installation.evidence(expires=NOW + 10), installation.policy())
    assert found.expires == NOW + 10


def test_wrong_installation_key(installation: Installation) -> None:
    stranger = type(installation)(_core.SigningKey.generate())
    with pytest.raises(EvidenceRefused, match="installation key"):
        check(stranger.evidence(), installation.policy())
    found = examine(stranger.evidence(), SPKI, installation.policy(), NOW, "gateway")
    assert (found.signature, found.chain) == (Answer.AFFIRMED, Answer.REFUSED), "two separate answers"
    assert found.status is Status.CONTRAINDICATED


def test_claiming_the_pinned_key_without_having_it(installation: Installation) -> None:
    stranger = _core.SigningKey.generate()
    claims = gateway_claims().encode()
    payload = software.payload(COMPONENTS, report_data(claims), NOW, NOW + 60, "6.1", "x86_64")
    forged = software.build(
        payload, installation.key.public, stranger.sign(software.to_be_signed(payload)), claims
    )
    with pytest.raises(EvidenceRefused, match="signature"):
        check(forged, installation.policy())
    found = examine(forged, SPKI, installation.policy(), NOW, "gateway")
    assert (found.signature, found.chain, found.policy) == (Answer.REFUSED, Answer.AFFIRMED, Answer.AFFIRMED)


def test_a_signature_without_the_label_does_not_count(installation: Installation) -> None:
    claims = gateway_claims().encode()
    payload = software.payload(COMPONENTS, report_data(claims), NOW, NOW + 60, "6.1", "x86_64")
    with pytest.raises(EvidenceRefused, match="signature"):
        check(
            software.build(payload, installation.key.public, installation.key.sign(payload), claims),
            installation.policy(),
        )


def test_wrong_measurement(installation: Installation) -> None:
    other = software.Components("0a" * 32, "0b" * 32, "0d" * 32)
    with pytest.raises(EvidenceRefused, match=other.measurement):
        check(installation.evidence(components=other), installation.policy())
    found = check(installation.evidence(components=other), installation.policy(measurements="any"))
    assert found.vector["executables"] == 33


def test_the_measurement_is_recomputed(installation: Installation) -> None:
    claims = gateway_claims().encode()
    payload = cbor2.loads(software.payload(COMPONENTS, report_data(claims), NOW, NOW + 60, "6.1", "x86_64"))
    payload["components"]["code"] = bytes(32)
    with pytest.raises(Malformed, match="components"):
        check(installation.evidence(payload=cbor2.dumps(payload, canonical=True)), installation.policy())


def test_environments_in_the_claims_are_those_measured(installation: Installation) -> None:
    base = {"base": "ba" * 32}
    measured = software.Components("0a" * 32, "0b" * 32, "0c" * 32, base)
    policy = installation.policy(measurements="any")
    honest = Claims.of_key(SPKI, "worker", environments=base)
    appraise(installation.evidence(honest, measured), SPKI, policy, NOW, "worker")
    for said in ({}, {"base": "bb" * 32}, {"more": "ba" * 32}):
        lie = Claims.of_key(SPKI, "worker", environments=said)
        with pytest.raises(EvidenceRefused, match="environments"):
            appraise(installation.evidence(lie, measured), SPKI, policy, NOW, "worker")


def test_a_worker_may_promise_more_environments_than_its_measurement_covers(
    installation: Installation,
) -> None:
    """What it measured later changes no measurement, so that trust files and tasks stay as they are."""
    base, more = {"base": "ba" * 32}, {"base": "ba" * 32, "more": "bb" * 32}
    measured = software.Components("0a" * 32, "0b" * 32, "0c" * 32, base)
    policy = installation.policy(measurements=(measured.measurement,))
    claims = Claims.of_key(SPKI, "worker", environments=more)
    found = appraise(installation.evidence(claims, measured), SPKI, policy, NOW, "worker")
    assert (dict(found.environments), found.measurement) == (more, measured.measurement)
    # Who was measured without any is no worker that could have measured one.
    bare = software.Components("0a" * 32, "0b" * 32, "0c" * 32)
    with pytest.raises(EvidenceRefused, match="environments"):
        appraise(
            installation.evidence(claims, bare), SPKI, installation.policy(measurements="any"), NOW, "worker"
        )


def test_claims_that_the_report_does_not_vouch_for(installation: Installation) -> None:
    honest = installation.evidence()
    outer = cbor2.loads(honest)
    claims = gateway_claims(service="5f" * 32).encode()
    swapped = cbor2.dumps(cbor2.CBORTag(outer.tag, [outer.value[0], claims]), canonical=True)
    with pytest.raises(EvidenceRefused, match="vouch"):
        check(swapped, installation.policy(service="any"))


def test_wrong_or_missing_service(installation: Installation) -> None:
    for service in (None, "5f" * 32):
        evidence = installation.evidence(gateway_claims(service=service))
        with pytest.raises(EvidenceRefused, match="service"):
            check(evidence, installation.policy())
        assert check(evidence, installation.policy(service="any")).service == service


@pytest.mark.parametrize("level", [3, 4, 5])
def test_software_never_reaches_a_hardware_level(installation: Installation, level: int) -> None:
    with pytest.raises(LevelTooLow, match="trusts the operator"):
        check(installation.evidence(), installation.policy(minimum_level=level))


def test_none_counts_only_where_it_is_named() -> None:
    extension = none.build(gateway_claims().encode())
    lax = GatewayTrust(tees=("none",), minimum_level=1, measurements="any", service="any")
    found = check(extension, TrustPolicy(lax))
    assert (found.status, found.level, found.measurement) == (Status.NONE, 1, "")
    assert Answer.AFFIRMED not in (found.signature, found.chain, found.tcb, found.freshness)
    for trust, error in (
        (replace(lax, tees=("software",)), EvidenceRefused),
        (replace(lax, minimum_level=2), LevelTooLow),
        (replace(lax, measurements=("ab" * 32,)), EvidenceRefused),
    ):
        with pytest.raises(error):
            check(extension, TrustPolicy(trust))


def test_body_of_none_must_vouch_too() -> None:
    lax = TrustPolicy(GatewayTrust(tees=("none",), minimum_level=1, measurements="any", service="any"))
    extension = none.build(gateway_claims().encode())
    with pytest.raises(EvidenceRefused, match="vouch"):
        check(extension.replace(report_data(gateway_claims().encode()), bytes(64)), lax)


def test_software_body_relabelled_as_none_is_refused(installation: Installation) -> None:
    outer = cbor2.loads(installation.evidence())
    relabelled = cbor2.dumps(cbor2.CBORTag(min(TEE_OF_TAG), list(outer.value)), canonical=True)
    with pytest.raises(Malformed):
        check(relabelled, installation.policy(tees=("none", "software"), minimum_level=1))


def test_each_flipped_bit_is_refused(installation: Installation) -> None:
    """No altered evidence is accepted, except in bytes that nobody interprets: there are none."""
    good, policy = installation.evidence(), installation.policy()
    for index in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[index] ^= 1 << bit
            with pytest.raises(MesateeError):
                check(bytes(bad), policy)


@given(data=st.data())
def test_altered_evidence_is_never_accepted(installation: Installation, data: st.DataObject) -> None:
    good = installation.evidence()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    bad = good[:start] + data.draw(st.binary(max_size=20)) + good[end:]
    if bad != good:
        with pytest.raises(MesateeError):
            check(bad, installation.policy(measurements="any", service="any"))


@given(st.binary(max_size=200))
def test_hostile_software_bodies_raise_only_our_errors(body: bytes) -> None:
    with pytest.raises(Malformed):
        software.parse(body)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"v": 2}, UnsupportedVersion),
        ({"v": True}, Malformed),
        ({"more": 1}, Malformed),
        ({"issued": -1}, Malformed),
        ({"expires": 1 << 53}, Malformed),
        ({"report_data": bytes(63)}, Malformed),
        ({"platform": {"kernel": "6.1"}}, Malformed),
        ({"platform": {"kernel": "6.1", "arch": "x\n"}}, Malformed),
        ({"components": {}}, Malformed),
        ({"measurement": bytes(32)}, Malformed),
    ],
)
def test_signed_nonsense(
    installation: Installation, changes: dict[str, object], error: type[Exception]
) -> None:
    claims = gateway_claims().encode()
    payload = cbor2.loads(software.payload(COMPONENTS, report_data(claims), NOW, NOW + 60, "6.1", "x86_64"))
    with pytest.raises(error):
        check(
            installation.evidence(payload=cbor2.dumps(payload | changes, canonical=True)),
            installation.policy(),
        )


def test_cache_counts_only_for_the_same_question(installation: Installation) -> None:
    cache = AppraisalCache(size=2)
    evidence, policy = installation.evidence(), installation.policy(max_age_seconds=60)
    first = cache.appraise(evidence, SPKI, policy, NOW, "gateway")
    assert cache.appraise(evidence, SPKI, policy, NOW + 59, "gateway") is first
    again = cache.appraise(evidence, SPKI, policy, NOW + 60, "gateway")
    assert again is not first
    assert again.at == NOW + 60
    assert cache.appraise(evidence, SPKI, policy, NOW + 59, "gateway") is not again, "the clock went back"
    with pytest.raises(EvidenceRefused):
        cache.appraise(evidence, b"another key", policy, NOW, "gateway")
    with pytest.raises(EvidenceRefused):
        cache.appraise(evidence, SPKI, policy, NOW, "worker")
    with pytest.raises(LevelTooLow):
        cache.appraise(evidence, SPKI, installation.policy(minimum_level=3), NOW, "gateway")
    with pytest.raises(EvidenceRefused):
        cache.appraise(None, SPKI, policy, NOW, "gateway")
    with pytest.raises(TooLarge):
        cache.appraise(bytes(limits.EVIDENCE_BYTES + 1), SPKI, policy, NOW, "gateway")
    assert len(cache) == 1
    for seconds in (61, 62, 63):
        cache.appraise(evidence, SPKI, installation.policy(max_age_seconds=seconds), NOW, "gateway")
    assert len(cache) == 2


def test_cache_never_outlives_the_evidence(installation: Installation) -> None:
    cache, policy = AppraisalCache(), installation.policy()
    evidence = installation.evidence(expires=NOW + 10)
    cache.appraise(evidence, SPKI, policy, NOW, "gateway")
    with pytest.raises(EvidenceRefused, match="expired"):
        cache.appraise(evidence, SPKI, policy, NOW + 10, "gateway")


def test_worker_needs_no_service(installation: Installation) -> None:
    claims = Claims.of_key(SPKI, "worker")
    policy = TrustPolicy(
        worker=RoleTrust(("software",), 2, (COMPONENTS.measurement,), (installation.fingerprint,))
    )
    assert appraise(installation.evidence(claims), SPKI, policy, NOW, "worker").role == "worker"


def test_a_policy_pins_more_than_the_measurement(installation: Installation) -> None:
    """A claim that the policy pins is compared, whatever the class; one that is not in the evidence refuses."""
    pins = {"software": {"measurement.interpreter": (COMPONENTS.interpreter,), "platform.arch": ("x86_64",)}}
    check(installation.evidence(), installation.policy(pins=pins))
    for other in ({"measurement.interpreter": ("ee" * 32,)}, {"platform.kernels": ("6.1",)}):
        with pytest.raises(EvidenceRefused, match="which the policy"):
            check(installation.evidence(), installation.policy(pins={"software": other}))
    check(installation.evidence(), installation.policy(minimums={"software": {"issued": NOW}}))
    with pytest.raises(EvidenceRefused, match="below"):
        check(installation.evidence(), installation.policy(minimums={"software": {"issued": NOW + 1}}))


def test_a_guest_that_may_be_migrated_is_refused_by_default() -> None:
    """The claim is SNP's; a TD that can be migrated is refused by its own verifier."""
    proof = none.TEE.prove(bytes(64), RoleTrust(), NOW)
    moving = replace(proof, claims={"policy.migration_agent": True})
    staying = replace(proof, claims={"policy.migration_agent": False})
    lax = RoleTrust(("snp",), 1, "any", allow_migration=True)
    for trust, shown, good in (
        (replace(lax, allow_migration=False), moving, False),
        (replace(lax, allow_migration=False), staying, True),
        (lax, moving, True),
    ):
        found = platform_objections("snp", shown, trust, NOTHING, NOW)
        assert (found == ()) is good, found


def test_a_remembered_appraisal_ends_with_what_it_relied_on(installation: Installation) -> None:
    """Long before the policy's age limit: from then on it is appraised again, and refused."""
    cache, evidence, policy = AppraisalCache(), installation.evidence(expires=NOW + 10), installation.policy()
    first = cache.appraise(evidence, SPKI, policy, NOW, "gateway")
    assert cache.appraise(evidence, SPKI, policy, NOW + 9, "gateway") is first
    with pytest.raises(EvidenceRefused, match="has ended"):
        cache.appraise(evidence, SPKI, policy, NOW + 10, "gateway")
