"""Composites: a processor with a TPM around it or with GPUs, and what is put together from more than one machine.

The head is SNP evidence under keys of our own in AMD's place, the TPM a real simulator (swtpm, which says so itself),
the GPUs SPDM exchanges under a root of our own. Captured evidence of real machines is used where it must fail.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.tee import test_nvidia as gpus
from tests.enclave.platform.conftest import SwTpm, swtpm_running
from tests.support import amd, captured
from tests.support.composites import (
    AT,
    CLAIMS,
    GPU_ROOT,
    OTHER_CHIP,
    SPKI,
    TEE,
    Gpu,
    Relay,
    Snp,
    _enrolled,
    accepted,
    altered,
    lax,
    made,
    part,
    refused,
    swapped,
)

from mesatee import _core
from mesatee.attestation import corpus, reference
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.attestation.explain import explain
from mesatee.attestation.tee import composite, nvidia, snp
from mesatee.attestation.trust import ANY, COMPOSITES, RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise, examine, relevant
from mesatee.enclave.platform import CompositeCollector
from mesatee.enclave.platform.collect import Collector
from mesatee.enclave.platform.tpm import TpmCollector
from mesatee.errors import EvidenceRefused, LevelTooLow, Malformed, MesateeError


@pytest.fixture(autouse=True)
def roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    monkeypatch.setattr(
        nvidia, "verify", functools.partial(nvidia.verify, root=hashlib.sha256(GPU_ROOT).digest())
    )


@pytest.fixture(scope="module")
def tpm() -> Iterator[TpmCollector]:
    with swtpm_running() as running:
        yield _booted(running)


@pytest.fixture(scope="module")
def another() -> Iterator[TpmCollector]:
    """The TPM of another machine."""
    with swtpm_running() as running:
        yield _booted(running)


def _booted(running: SwTpm) -> TpmCollector:
    running.extend(0, b"firmware")
    return TpmCollector(running.address)


# -- an enrolled machine -------------------------------------------------------------------------------


def test_an_enrolled_machine_reaches_level_5(tpm: TpmCollector) -> None:
    shown = made(Snp(), tpm)
    found = accepted(shown, _enrolled(shown))
    assert (found.tee, found.level, found.simulated, found.hardware) == (TEE, 5, True, False)
    assert (found.signature, found.chain, found.policy) == (Answer.AFFIRMED,) * 3
    assert found.claims["measurement.code"] == "11" * 48
    assert found.claims["tpm.pcr.sha256.0"] != "00" * 32
    # The machine is the same the next time, over another channel key.
    again = ev.Claims.of_key(b"another key", "worker")
    extension = made(Snp(), tpm, claims=again)
    assert appraise(extension, b"another key", TrustPolicy(worker=_enrolled(shown)), AT, "worker").level == 5


def test_a_simulated_part_makes_the_whole_simulated(tpm: TpmCollector) -> None:
    shown = made(Snp(), tpm)
    with pytest.raises(EvidenceRefused, match="simulated"):
        accepted(shown, replace(_enrolled(shown), allow_simulated=False))


def test_level_5_needs_an_enrolled_machine(tpm: TpmCollector) -> None:
    """Keys of processor and TPM are both trusted, but nobody says that they are of one machine: it stays level 4."""
    shown = made(Snp(), tpm)
    trust = replace(_enrolled(shown), pins={})
    with pytest.raises(LevelTooLow, match="one machine"):
        accepted(shown, trust)
    assert accepted(shown, replace(trust, minimum_level=4)).level == 4


def test_level_5_needs_a_pinned_boot(tpm: TpmCollector) -> None:
    shown = made(Snp(), tpm)
    trust = replace(_enrolled(shown), measurements=ANY)
    with pytest.raises(LevelTooLow, match="does not pin the boot"):
        accepted(shown, trust)
    measured = accepted(shown, replace(trust, minimum_level=4)).claims["tpm.measurement"]
    pins = {TEE: {**trust.pins[TEE], "tpm.measurement": (measured,)}}
    assert accepted(shown, replace(trust, pins=pins)).level == 5
    pins = {TEE: {**trust.pins[TEE], "tpm.measurement": ("00" * 32,)}}
    with pytest.raises(EvidenceRefused, match=r"tpm\.measurement is"):
        accepted(shown, replace(trust, pins=pins))


def test_a_hidden_processor_is_no_enrolled_machine(tpm: TpmCollector) -> None:
    """A masked chip id is zero on every machine that masks it."""
    hidden = made(Snp(fields={"chip_id": bytes(64), "key_info": 0}, chip=bytes(64)), tpm)
    trust = replace(_enrolled(made(Snp(), tpm)), measurements=ANY, minimum_level=1)
    with pytest.raises(EvidenceRefused, match="does not say machine"):
        accepted(hidden, trust)


def test_another_boot_is_refused(tpm: TpmCollector) -> None:
    with swtpm_running() as running:
        once = TpmCollector(running.address)
        trust = _enrolled(made(Snp(), once))
        running.extend(7, b"another state of secure boot")
        with pytest.raises(EvidenceRefused, match="measurement"):
            accepted(made(Snp(), once), trust)


def test_auditors_may_name_the_measurement_of_a_composite(tpm: TpmCollector) -> None:
    shown = made(Snp(), tpm)
    trust, auditor = _enrolled(shown), _core.SigningKey.generate()
    values = reference.ReferenceValues(TEE, {trust.measurements[0]: "ours"}, AT - 1, AT + 60)
    signed = NOTHING.with_reference(reference.sign(values, [auditor]))
    asked = replace(trust, measurements=(), auditors=(auditor.public.hex(),))
    assert accepted(shown, asked, signed).level == 5
    with pytest.raises(EvidenceRefused, match="auditors"):
        accepted(shown, asked)


def test_endorsements_reach_the_part_that_they_are_of(tpm: TpmCollector) -> None:
    shown = made(Snp(), tpm)
    trust = replace(_enrolled(shown), allow_revocation_unknown=False)
    bare = altered(shown, snp_DOT_crl=None)
    with pytest.raises(EvidenceRefused, match="revocation list is missing"):
        accepted(bare, trust)
    kept = Endorsements((Endorsement("snp", "", "crl", amd.MILAN.crl(), AT, None),))
    assert accepted(bare, trust, kept).level == 5
    assert relevant(bare, kept) == kept
    foreign = Endorsements((Endorsement("sgx", "", "crl", amd.MILAN.crl(), AT, None),))
    assert relevant(bare, foreign) == NOTHING


@pytest.mark.parametrize(("processor", "tpms"), [(50, 40), (30, None), (None, 20), (None, None)])
def test_an_appraisal_ends_with_the_first_end_of_its_parts(
    tpm: TpmCollector, monkeypatch: pytest.MonkeyPatch, processor: int | None, tpms: int | None
) -> None:
    """What a verdict relied on (lists, certificates, statements) bounds the appraisal, and so what is remembered."""
    shown = made(Snp(), tpm)
    trust = _enrolled(shown)
    ends = {"snp": processor, "tpm": tpms}
    plain = corpus.check

    def ending(tee: str, *rest: Any) -> Any:
        end = ends[tee]
        return replace(plain(tee, *rest), expires=None if end is None else AT + end)

    monkeypatch.setattr(corpus, "check", ending)
    known = [end for end in ends.values() if end is not None]
    assert accepted(shown, trust).expires == AT + min(known, default=trust.max_age_seconds)
    ends["snp"] = 0
    with pytest.raises(EvidenceRefused, match="has ended"):
        accepted(shown, trust)


# -- what is not one machine ----------------------------------------------------------------------------


def test_splice_tpm_part_of_another_machine(tpm: TpmCollector, another: TpmCollector) -> None:
    """The quote of a TPM that the head does not name, made for this very report."""

    def elsewhere(inner: Collector, data: bytes) -> Bundle:
        return another.collect(data)

    mine, theirs = made(Snp(), tpm), made(Snp(), another)
    trust = _enrolled(mine)
    both = replace(trust, anchors=(*trust.anchors, *_enrolled(theirs).anchors))
    refused(made(Snp(), Relay(tpm, elsewhere)), both, "does not name this tpm")
    refused(swapped(mine, "tpm", theirs), both, "does not answer this evidence")


def test_splice_the_cuckoo_names_the_tpm_that_it_asks(tpm: TpmCollector, another: TpmCollector) -> None:
    """Another processor, whose enclave asked the enrolled machine's TPM: every signature holds, and it is no machine
    that anybody enrolled.
    """
    trust = _enrolled(made(Snp(), tpm))
    cuckoo = made(Snp(OTHER_CHIP), tpm)
    with pytest.raises(EvidenceRefused, match="machine is"):
        accepted(cuckoo, trust)
    with pytest.raises(EvidenceRefused, match="machine is"):
        accepted(cuckoo, replace(trust, measurements=ANY, minimum_level=1))
    # Two machines are enrolled: processor of the one with the TPM of the other is neither.
    both = _enrolled(made(Snp(OTHER_CHIP), another))
    pins = {TEE: {"machine": (*trust.pins[TEE]["machine"], *both.pins[TEE]["machine"])}}
    crossed = replace(
        trust, measurements=ANY, minimum_level=1, anchors=(*trust.anchors, *both.anchors), pins=pins
    )
    with pytest.raises(EvidenceRefused, match="machine is"):
        accepted(cuckoo, crossed)


def test_splice_processor_part_of_another_machine(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    other = made(Snp(OTHER_CHIP), tpm)
    refused(swapped(mine, "snp", other), _enrolled(mine), "does not answer this evidence")


def test_splice_replayed_tpm_part(tpm: TpmCollector) -> None:
    """A quote for an earlier report of the same head, with the same claims."""
    before = made(Snp(), tpm)
    now = made(Snp(fields={"policy": 0x1001F}), tpm)
    trust = _enrolled(now)
    assert accepted(now, trust).level == 5
    refused(swapped(now, "tpm", before), trust, "does not answer this evidence")


def test_splice_tpm_evidence_that_stood_alone(tpm: TpmCollector) -> None:
    """A quote over the same claims, as a machine with nothing but a TPM shows it."""

    def alone(inner: Collector, data: bytes) -> Bundle:
        claims = replace(CLAIMS, extra=inner.links)
        return inner.collect(ev.report_data(claims.encode()))

    mine = made(Snp(), tpm)
    refused(made(Snp(), Relay(tpm, alone)), _enrolled(mine), "does not answer this evidence")


def test_splice_head_that_names_no_tpm(tpm: TpmCollector) -> None:
    def unnamed() -> bytes:
        claims = CLAIMS.encode()
        bundle = CompositeCollector(Snp(), tpm).collect(ev.report_data(claims))
        return ev.encode(ev.TAG_PLATFORM, bundle.encode(), claims)

    refused(unnamed(), _enrolled(made(Snp(), tpm)), "does not name this tpm")


def test_splice_claims_of_another_channel(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    found = ev.decode(mine)
    other = ev.Claims.of_key(SPKI, "worker", environments={"base": "0d" * 32})
    claims = replace(other, extra=found.claims.extra).encode()
    with pytest.raises(EvidenceRefused, match="does not vouch"):
        accepted(ev.encode(found.tag, found.body, claims), _enrolled(mine))


def test_stripped_tpm_part_is_another_class_and_refused(tpm: TpmCollector) -> None:
    """Without its TPM the evidence would be good SNP evidence of level 4, also for who accepts that."""
    mine = ev.decode(made(Snp(), tpm))
    files = {name[4:]: data for name, data in part(made(Snp(), tpm), "snp").items()}
    alone = ev.encode(ev.TAG_PLATFORM, Bundle("snp", files).encode(), mine.claims_bytes)
    with pytest.raises(EvidenceRefused, match="which was taken away"):
        accepted(alone, replace(lax("snp"), minimum_level=4))
    # Control: claims that name no TPM.
    plain = ev.encode(
        ev.TAG_PLATFORM, Snp().collect(ev.report_data(CLAIMS.encode())).encode(), CLAIMS.encode()
    )
    assert accepted(plain, replace(lax("snp"), minimum_level=4)).level == 4


def test_a_missing_part_or_piece_is_refused(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    trust = _enrolled(mine)
    found = ev.decode(mine)
    files = Bundle.parse(found.body).files
    for tee in ("snp", "tpm"):
        left = {name: data for name, data in files.items() if not name.startswith(f"{tee}.")}
        with pytest.raises(Malformed, match=f"no pieces of its part {tee}"):
            accepted(ev.encode(found.tag, Bundle(TEE, left).encode(), found.claims_bytes), trust)
    for piece in ("snp.report", "snp.vcek", "tpm.quote", "tpm.signature", "tpm.pcrs", "tpm.ak_public_tpmt"):
        with pytest.raises((EvidenceRefused, LevelTooLow, Malformed)):
            accepted(altered(mine, **{piece.replace(".", "_DOT_"): None}), trust)
        with pytest.raises((EvidenceRefused, LevelTooLow, Malformed)):
            accepted(
                altered(mine, **{piece.replace(".", "_DOT_"): None}),
                replace(trust, minimum_level=4, measurements=ANY, pins={}),
            )


@pytest.mark.parametrize("tee", ["tpm+snp", "snp+snp", "snp+tpm+tpm", "tpm", "snp", "snp+", "nvidia-gpu+tpm"])
def test_a_doubled_or_turned_part_is_no_class(tpm: TpmCollector, tee: str) -> None:
    mine = ev.decode(made(Snp(), tpm))
    files = Bundle.parse(mine.body).files
    with pytest.raises(MesateeError):
        accepted(ev.encode(ev.TAG_PLATFORM, Bundle(tee, files).encode(), mine.claims_bytes), lax())


def test_pieces_of_no_part_are_refused(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    for piece in ("tdx_DOT_quote", "report", "sn_DOT_report"):
        with pytest.raises(Malformed, match="belongs to no part"):
            accepted(altered(mine, **{piece: b"x"}), _enrolled(mine))


def test_a_second_report_or_quote_is_refused(tpm: TpmCollector, another: TpmCollector) -> None:
    mine, theirs = made(Snp(), tpm), made(Snp(OTHER_CHIP), another)
    trust = replace(_enrolled(mine), measurements=ANY)
    with pytest.raises((EvidenceRefused, LevelTooLow)):
        accepted(altered(mine, snp_DOT_report2=part(theirs, "snp")["snp.report"]), trust)
    with pytest.raises((EvidenceRefused, LevelTooLow)):
        accepted(altered(mine, tpm_DOT_quote_2=part(theirs, "tpm")["tpm.quote"]), trust)


def test_the_report_that_the_others_name_is_the_one_that_is_judged(tpm: TpmCollector) -> None:
    """The TPM signed for bytes that are no report, and the report stands beside them under another name."""

    def hidden(inner: Collector, data: bytes) -> Bundle:
        found = inner.collect(data).files
        return Bundle("snp", {**found, "report": b"not a report", "attestation": found["report"]})

    shown = made(Relay(Snp(), hidden), tpm)
    for trust in (_enrolled(made(Snp(), tpm)), lax()):
        with pytest.raises((EvidenceRefused, LevelTooLow, Malformed)):
            accepted(shown, trust)


def test_a_tpm_key_that_the_peer_brings_along_vouches_for_nothing(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    with pytest.raises(EvidenceRefused, match="is not one that the policy names"):
        accepted(mine, replace(_enrolled(mine), anchors=()))


def test_another_area_of_the_tpms_key(tpm: TpmCollector, another: TpmCollector) -> None:
    """What the head names is the key as the TPM has it; the area of another key is not that of the one that signed."""
    mine = made(Snp(), tpm)
    area = part(made(Snp(), another), "tpm")["tpm.ak_public_tpmt"]
    claims = replace(CLAIMS, extra={"tpm-ak-name": composite.ak_name(area)}).encode()
    bundle = CompositeCollector(Snp(), tpm).collect(ev.report_data(claims))
    shown = ev.encode(
        ev.TAG_PLATFORM, Bundle(TEE, {**bundle.files, "tpm.ak_public_tpmt": area}).encode(), claims
    )
    refused(shown, _enrolled(mine), "tpm: ")


def test_a_bad_part_spoils_the_whole(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    trust = _enrolled(mine)
    quote = bytearray(part(mine, "tpm")["tpm.quote"])
    quote[-1] ^= 1
    report = bytearray(part(mine, "snp")["snp.report"])
    report[0x90] ^= 1
    for changed in (altered(mine, tpm_DOT_quote=bytes(quote)), altered(mine, snp_DOT_report=bytes(report))):
        for asked in (trust, replace(trust, minimum_level=4, measurements=ANY, pins={})):
            with pytest.raises((EvidenceRefused, LevelTooLow)):
                accepted(changed, asked)


def test_debug_of_the_head_is_refused(tpm: TpmCollector) -> None:
    debug = made(Snp(fields={"policy": 0x3001F | 1 << 19}), tpm)
    refused(debug, replace(_enrolled(made(Snp(), tpm)), measurements=ANY), "debug")


def test_a_captured_report_is_no_head_of_ours(tpm: TpmCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Genuine evidence of a real machine, beside a TPM that signs whatever it is asked to."""
    monkeypatch.undo()
    _, files = captured.case("snp", "microsoft-milan")

    def theirs(inner: Collector, data: bytes) -> Bundle:
        return Bundle("snp", files)

    shown = made(Relay(Snp(), theirs), tpm)
    with pytest.raises(EvidenceRefused, match="does not vouch"):
        accepted(shown, lax())


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(COMPOSITES)))
def test_any_piece_raises_only_our_errors(data: bytes, tee: str) -> None:
    head, *others = tee.split("+")
    files = {f"{head}.{ev.HEADS[head]}": data} | {
        f"{name}.{role}": data for name in others for role in ("quote", "ak_public_tpmt", "spdm")
    }
    shown = ev.encode(ev.TAG_PLATFORM, Bundle(tee, files).encode(), CLAIMS.encode())
    with pytest.raises(MesateeError):
        examine(shown, SPKI, TrustPolicy(), AT, "worker")


def test_the_default_policy_refuses_a_composite(tpm: TpmCollector) -> None:
    for trust in (RoleTrust(), RoleTrust(("snp", "tpm"), 1, ANY)):
        with pytest.raises((EvidenceRefused, LevelTooLow)):
            accepted(made(Snp(), tpm), trust)


def test_a_composite_in_a_file_is_explained(tpm: TpmCollector) -> None:
    mine = made(Snp(), tpm)
    policy = TrustPolicy(worker=_enrolled(mine))
    [found] = explain(mine, policy, AT)
    assert (found.refused, found.level, found.tee) == ((), 5, TEE)
    _, raw = explain(ev.decode(mine).body, policy, AT)
    assert (raw.refused, raw.level, raw.kind) == ((), 5, "bundle")


# -- processor and GPUs -------------------------------------------------------------------------------


BOTH = "snp+nvidia-gpu"


def gpu_policy(extension: bytes) -> RoleTrust:
    found = examine(extension, SPKI, TrustPolicy(worker=lax(BOTH)), AT, "worker")
    return replace(lax(BOTH), minimum_level=4, measurements=(found.measurement,), allow_simulated=False)


@pytest.fixture
def two_keys() -> tuple[Any, Any]:
    return gpus.LEAF_KEY, gpus.OTHER_KEY


def test_a_gpu_adds_claims_and_no_level(two_keys: tuple[Any, Any]) -> None:
    for keys in (two_keys[:1], two_keys):
        shown = made(Snp(), Gpu(keys))
        found = accepted(shown, gpu_policy(shown))
        assert (found.level, found.tee, found.claims["nvidia-gpu.gpus"]) == (4, BOTH, len(keys))
        assert found.status is Status.WARNING, "nobody says that a GPU's firmware is good"


def test_splice_gpu_of_another_machine() -> None:
    """It signs the right nonce, but the processor knows another one."""

    def elsewhere(inner: Collector, data: bytes) -> Bundle:
        return Gpu((gpus.OTHER_KEY,)).collect(data)

    trust = gpu_policy(made(Snp(), Gpu()))
    refused(made(Snp(), Relay(Gpu(), elsewhere)), trust, "does not name this nvidia-gpu")


def test_splice_replayed_gpu_part() -> None:
    mine = made(Snp(), Gpu())
    before = made(Snp(OTHER_CHIP), Gpu())
    refused(swapped(mine, "nvidia-gpu", before), gpu_policy(mine), "does not answer this evidence")


def test_one_gpu_of_two_with_an_old_nonce(two_keys: tuple[Any, Any]) -> None:
    def half(inner: Collector, data: bytes) -> Bundle:
        new, old = Gpu(two_keys[:1]).collect(data), Gpu(two_keys[1:]).collect(bytes(64))
        items = [gpus.json.loads(each.files["evidence_json"])[0] for each in (new, old)]
        return Bundle("nvidia-gpu", {"evidence_json": gpus.json.dumps(items).encode()})

    mine = Gpu(two_keys)
    refused(made(Snp(), Relay(mine, half)), gpu_policy(made(Snp(), mine)), "does not answer this evidence")


def test_stripped_gpu_of_two_is_refused(two_keys: tuple[Any, Any]) -> None:
    def one(inner: Collector, data: bytes) -> Bundle:
        return Gpu(two_keys[:1]).collect(data)

    mine = Gpu(two_keys)
    refused(made(Snp(), Relay(mine, one)), gpu_policy(made(Snp(), mine)), "does not name this nvidia-gpu")


def test_a_doubled_gpu_is_refused() -> None:
    twice = made(Snp(), Gpu((gpus.LEAF_KEY, gpus.LEAF_KEY)))
    refused(twice, replace(gpu_policy(made(Snp(), Gpu())), measurements=ANY), "twice")


def test_a_captured_gpu_is_not_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(snp, "ROOTS", amd.MILAN.roots)
    meta, files = captured.case("nvidia-gpu", "nvidia-hopper-590")
    device = nvidia.claims(nvidia.parse_json(files["evidence_json"]))

    @dataclass
    class Captured(Gpu):
        @property
        def links(self) -> Mapping[str, bytes]:
            return {"nvidia-gpu-keys": composite.gpu_link([str(device["gpu0.certificate"])])}

        def collect(self, report_data: bytes) -> Bundle:
            return Bundle("nvidia-gpu", files)

    del meta
    refused(made(Snp(), Captured()), lax(BOTH), "does not answer this evidence")


def test_three_parts_are_all_judged(tpm: TpmCollector) -> None:
    tee = "snp+nvidia-gpu+tpm"
    shown = made(Snp(), Gpu(), tpm)
    trust = _enrolled(shown)
    assert ev.decode(shown).tee == tee
    assert accepted(shown, trust).level == 5
    other = made(Snp(OTHER_CHIP), Gpu(), tpm)
    for name in ("snp", "nvidia-gpu", "tpm"):
        refused(swapped(shown, name, other), trust, "does not answer this evidence")


# -- names ----------------------------------------------------------------------------------------------


def test_a_key_name_is_that_of_the_tpm(tpm: TpmCollector) -> None:
    area = part(made(Snp(), tpm), "tpm")["tpm.ak_public_tpmt"]
    assert composite.ak_name(area) == tpm.links["tpm-ak-name"]
    assert composite.ak_name(len(area).to_bytes(2) + area) == composite.ak_name(area)
    with pytest.raises(Malformed):
        composite.ak_name(area[:-1])


def test_each_thing_that_a_nonce_is_made_of_changes_it() -> None:
    seen = {
        ev.part_data(part, data, report)
        for part in ("tpm", "nvidia-gpu")
        for data in (bytes(64), b"\1" * 64)
        for report in (b"", b"a")
    }
    assert len(seen) == 8
    assert all(len(data) == 64 and not any(data[32:]) for data in seen)


def test_a_machine_is_processor_and_tpm_together() -> None:
    names = {
        composite.machine(head, chip, name)
        for head in ("snp", "tdx")
        for chip in ("01", "02")
        for name in (b"a", b"b")
    }
    assert len(names) == 8
