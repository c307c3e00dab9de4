"""Hardware evidence in a channel: what a peer brings, what the policy says, and who vouches for whom."""

from __future__ import annotations

import hashlib
import json

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import captured, intel, tokens
from tests.support.tpms import Machine, booted

from mesatee import _core
from mesatee.attestation import corpus, reference
from mesatee.attestation import evidence as ev
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.attestation.tee import dcap_verify, platform
from mesatee.attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from mesatee.attestation.verdict import Verdict
from mesatee.attestation.verify import AppraisalCache, appraise, examine
from mesatee.errors import EvidenceRefused, LevelTooLow, MesateeError, UnsupportedVersion
from mesatee.protocol import limits

NOW = 1_800_000_000
SPKI = _core.spki(_core.SigningKey.generate().public)
IAK = ec.generate_private_key(ec.SECP256R1())
PIN = hashlib.sha256(tokens.spki(IAK)).hexdigest()


def token(nonce, key=IAK):
    claims = {
        265: "tag:psacertified.org,2023:psa#tfm",
        2394: -1,
        2395: 0x3000,
        2396: b"\x31" * 32,
        2399: [{1: "SPE", 2: b"\x01" * 32, 4: "2.1", 5: b"\x02" * 32}],
        10: nonce,
        256: b"\x01" + b"\x32" * 32,
    }
    return tokens.sign1(key, cbor2.dumps(claims), -7)


def extension(spki=SPKI, role="worker", nonce=None, key=IAK, anchor=IAK, **files):
    """What a worker with a PSA device would show; it brings a key of its own choice along."""
    claims = ev.Claims.of_key(spki, role).encode()
    files = {"token": token(nonce or ev.report_data(claims), key), "iak": tokens.pem(anchor), **files}
    return ev.encode(ev.TAG_PLATFORM, Bundle("psa", files).encode(), claims)


def measurement():
    return examine(extension(), SPKI, TrustPolicy(), NOW, "worker").measurement


def policy(**changes):
    wanted = {
        "tees": ("psa",),
        "minimum_level": 3,
        "measurements": (measurement(),),
        "anchors": (PIN,),
        **changes,
    }
    return TrustPolicy(worker=RoleTrust(**wanted), gateway=GatewayTrust())


def test_a_pinned_device_is_accepted():
    found = appraise(extension(), SPKI, policy(), NOW, "worker")
    assert (found.tee, found.level, found.hardware, found.simulated) == ("psa", 3, True, False)
    assert (found.signature, found.chain) == (Answer.AFFIRMED, Answer.AFFIRMED)
    assert found.claims["anchor"] == PIN
    assert found.status in (Status.AFFIRMING, Status.WARNING)


def test_a_key_that_the_peer_brings_along_vouches_for_nothing():
    """Its own verifier, asked about the case alone, would be content with it."""
    other = ec.generate_private_key(ec.SECP256R1())
    mine = extension(key=other, anchor=other)
    for pins in ((), (PIN,)):
        with pytest.raises(EvidenceRefused, match="is not one that the policy names"):
            appraise(mine, SPKI, policy(anchors=pins), NOW, "worker")


def test_evidence_without_any_anchor_is_refused():
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    alone = ev.encode(
        ev.TAG_PLATFORM, Bundle("psa", {"token": token(ev.report_data(claims))}).encode(), claims
    )
    with pytest.raises(LevelTooLow, match="nothing was proven"):
        appraise(alone, SPKI, policy(), NOW, "worker")
    # The anchor may come from what the relying party has collected; the policy pins it all the same.
    kept = Endorsements((Endorsement("psa", "", "iak", tokens.pem(IAK), NOW, None),))
    assert appraise(alone, SPKI, policy(), NOW, "worker", kept).level == 3
    with pytest.raises(EvidenceRefused):
        appraise(alone, SPKI, policy(anchors=()), NOW, "worker", kept)


def test_evidence_of_one_key_on_anothers_channel():
    other = _core.spki(_core.SigningKey.generate().public)
    with pytest.raises(EvidenceRefused, match="another channel key"):
        appraise(extension(), other, policy(), NOW, "worker")
    # Claims of the new key beside the report of the old one.
    nonce = ev.report_data(ev.Claims.of_key(SPKI, "worker").encode())
    with pytest.raises(EvidenceRefused, match="does not vouch"):
        appraise(extension(spki=other, nonce=nonce), other, policy(), NOW, "worker")


def test_old_evidence_with_a_new_nonce():
    with pytest.raises(EvidenceRefused, match="does not vouch"):
        appraise(extension(nonce=bytes(64)), SPKI, policy(), NOW, "worker")


def test_evidence_of_another_role():
    with pytest.raises(EvidenceRefused, match="a gateway was expected"):
        appraise(extension(), SPKI, policy(), NOW, "gateway")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tees": ("snp",)}, "TEE class psa"),
        ({"measurements": ("00" * 32,)}, "is not one that the policy names"),
        ({"measurements": ()}, "is not one that the policy names"),
    ],
)
def test_what_the_policy_does_not_name_is_refused(changes, why):
    with pytest.raises(EvidenceRefused, match=why):
        appraise(extension(), SPKI, policy(**changes), NOW, "worker")


def test_a_level_that_is_too_low():
    with pytest.raises(LevelTooLow):
        appraise(extension(), SPKI, policy(minimum_level=4), NOW, "worker")


def test_the_default_policy_refuses():
    with pytest.raises(MesateeError):
        appraise(extension(), SPKI, TrustPolicy(), NOW, "worker")


def test_auditors_may_name_the_measurement():
    auditors = [_core.SigningKey.generate() for _ in range(3)]
    values = reference.ReferenceValues("psa", {measurement(): "a device"}, NOW - 1, NOW + 60)
    asked = policy(measurements=(), auditors=tuple(key.public.hex() for key in auditors), auditors_needed=2)
    cache = AppraisalCache()
    one = NOTHING.with_reference(reference.sign(values, auditors[:1]))
    with pytest.raises(EvidenceRefused, match="nor did 2 of its 3 auditors"):
        cache.appraise(extension(), SPKI, asked, NOW, "worker", one)
    two = NOTHING.with_reference(reference.sign(values, auditors[:2]))
    shown = extension()
    assert cache.appraise(shown, SPKI, asked, NOW, "worker", two).policy is Answer.AFFIRMED
    # What was accepted with these reference values is not accepted without them.
    with pytest.raises(EvidenceRefused):
        cache.appraise(shown, SPKI, asked, NOW, "worker", one)


def test_a_class_that_nobody_verifies():
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    for tee in ("abacus", "eventlog", "nvidia-gpu", "software", "none"):
        with pytest.raises(UnsupportedVersion):
            ev.decode(ev.encode(ev.TAG_PLATFORM, Bundle(tee, {"token": b""}).encode(), claims))


@pytest.mark.parametrize(
    ("tee", "name"),
    [("sgx", "phala-sgx-00a067110000"), ("tdx", "phala-tdx-v4-b0c06f"), ("snp", "trustee-milan-v2")],
)
def test_a_captured_report_vouches_for_no_channel_of_ours(tee, name):
    """Everything about it is genuine, and it still is another machine's."""
    meta, files = captured.case(tee, name)
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    shown = ev.encode(ev.TAG_PLATFORM, Bundle(tee, files).encode(), claims)
    del meta
    with pytest.raises(EvidenceRefused, match="does not vouch"):
        examine(shown, SPKI, TrustPolicy(), NOW, "worker")


# -- what a peer brings beside what was collected --------------------------------------------------------


@pytest.fixture
def intel_pki(monkeypatch):
    """The tests' own vendor in Intel's place."""
    monkeypatch.setattr(dcap_verify, "ANCHORS", intel.VENDOR.anchors)
    return intel.Machine()


def collected(machine, tee="sgx", **changes):
    """What a relying party keeps on this machine's platform, one file for each role."""
    files = {name: value.encode() for name, value in machine.collateral(**changes).items()}
    for name, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        text, signature = files.pop(name).decode(), files.pop(f"{name}_signature").decode()
        files[f"{name}_response"] = f'{{"{member}":{text},"signature":"{signature}"}}'.encode()
    return Endorsements(
        tuple(
            Endorsement(tee, intel.FMSPC if "tcb" in role else "", role, data, intel.NOW, None)
            for role, data in files.items()
        )
    )


def judged(machine, kept, **files):
    shown = Bundle("sgx", {"quote": machine.quote(), **files})
    shown = Bundle.parse(shown.encode())
    return platform.judge(platform.complete(shown, kept), RoleTrust(), intel.NOW)[0]


def test_what_was_collected_completes_a_quote(intel_pki):
    assert judged(intel_pki, NOTHING).tier is Status.NONE
    assert judged(intel_pki, collected(intel_pki)).tier is Status.AFFIRMING


@pytest.mark.parametrize("role", ["pck_crl", "another"])
def test_a_peers_old_list_does_not_hide_ours(intel_pki, role):
    """Both lists are in time; only the newer one, which the relying party has, names the platform's key."""
    machine, vendor = intel_pki, intel_pki.vendor
    kept = collected(machine, pck_crl=intel.revocations(vendor.ca, machine.pck).hex())
    old = intel.revocations(vendor.ca)
    found = judged(machine, kept, **{role: old})
    assert (found.tier, found.revocation) == (Status.CONTRAINDICATED, Answer.REFUSED)
    # The other way round it was no list that the peer chose to show.
    assert judged(machine, collected(machine), **{role: old}).tier is Status.AFFIRMING


@pytest.mark.parametrize("count", [1, limits.CRLS - 2, limits.CRLS - 1, limits.CRLS, 4 * limits.CRLS])
def test_many_lists_do_not_crowd_out_ours(intel_pki, count):
    machine, vendor = intel_pki, intel_pki.vendor
    kept = collected(machine, pck_crl=intel.revocations(vendor.ca, machine.pck).hex())
    many = [intel.revocations(vendor.ca, end=intel.NOW + 1 + n).hex() for n in range(count)]
    # Names that come first in every order of names.
    found = judged(
        machine, kept, **{"0": json.dumps(many[::2]).encode(), "1": json.dumps(many[1::2]).encode()}
    )
    assert found.tier is Status.CONTRAINDICATED
    if count <= limits.CRLS - 2:
        assert found.revocation is Answer.REFUSED
    else:
        assert "revocation lists in the collateral, of which none may be left out" in found.reasons[0]


def test_a_peer_cannot_replace_what_was_collected(intel_pki):
    """The peer's TCB information is older than ours, and would call its platform up to date."""
    machine = intel_pki
    levels = machine.tcb_info()["tcbLevels"]
    levels[0]["tcbStatus"] = "OutOfDate"
    newer = machine.tcb_info(issueDate=intel.stamp(intel.NOW - intel.DAY), tcbLevels=levels)
    kept, theirs = collected(machine, info=newer), collected(machine)
    files = {item.role: item.data for item in theirs.items}
    assert judged(machine, NOTHING, **files).tcb_status == "UpToDate"
    assert judged(machine, kept, **files).tcb_status == "OutOfDate"
    # Whole collateral in one file, whatever it is called, does not either.
    whole = json.dumps(machine.collateral()).encode()
    for role in ("tcb_info_response", "0", "collateral"):
        assert judged(machine, kept, **{role: whole}).tcb_status == "OutOfDate"


@pytest.mark.parametrize(
    "role", ["tcb_info_response", "pck_crl", "qe_identity_response", "tcb_info_issuer_chain"]
)
def test_junk_does_not_displace_collected_collateral(intel_pki, role):
    found = judged(intel_pki, collected(intel_pki), **{role: b"{}", f"{role}.2": b"junk", "0": b"[]"})
    assert found.tier is Status.AFFIRMING, found.reasons


def test_a_second_quote_does_not_keep_endorsements_away(intel_pki):
    """Else a peer could choose its TCB information, by the quote of a platform of which nothing was collected."""
    machine, decoy = intel_pki, intel.Machine(fmspc="ffffffffffff")
    levels = machine.tcb_info()["tcbLevels"]
    levels[0]["tcbStatus"] = "OutOfDate"
    newer = machine.tcb_info(issueDate=intel.stamp(intel.NOW - intel.DAY), tcbLevels=levels)
    kept, whole = collected(machine, info=newer), json.dumps(machine.collateral()).encode()
    shown = Bundle("sgx", {"a": decoy.quote(), "evidence": machine.quote(), "collateral": whole})
    found, _ = platform.judge(platform.complete(shown, kept), RoleTrust(), intel.NOW)
    assert (found.signature, found.tcb_status) == (Answer.AFFIRMED, "OutOfDate")


def test_an_appraisal_does_not_outlive_its_collateral(intel_pki):
    """Nor does the memory of it: asked again later, the list that is over counts no more."""
    machine, end = intel_pki, intel.NOW + 100
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    quote = machine.quote(machine.report(data=ev.report_data(claims)))
    shown = ev.encode(ev.TAG_PLATFORM, Bundle("sgx", {"quote": quote}).encode(), claims)
    trust = RoleTrust(tees=("sgx",), minimum_level=4, measurements=("11" * 32,), allow_smt=True)
    asked = TrustPolicy(worker=trust, gateway=GatewayTrust())
    kept = collected(machine, pck_crl=intel.revocations(machine.vendor.ca, end=end).hex())
    cache = AppraisalCache()
    assert cache.appraise(shown, SPKI, asked, intel.NOW, "worker", kept).expires == end + 1
    assert cache.appraise(shown, SPKI, asked, end, "worker", kept).at == intel.NOW
    with pytest.raises(LevelTooLow):
        cache.appraise(shown, SPKI, asked, end + 1, "worker", kept)
    # Where the collateral lasts, the policy's own limit counts.
    lasting = cache.appraise(shown, SPKI, asked, intel.NOW, "worker", collected(machine))
    assert lasting.expires == intel.NOW + trust.max_age_seconds


def test_a_full_bundle_leaves_room_for_what_was_collected(intel_pki):
    junk = {f"junk.{n}": b"junk" for n in range(limits.BUNDLE_FILES - 1)}
    assert judged(intel_pki, collected(intel_pki), **junk).tier is Status.AFFIRMING


# -- a TPM's registers ---------------------------------------------------------------------------------

PINNED = (*range(10), 12, 13, 14)


def bits(registers):
    return sum(1 << register for register in registers).to_bytes(3, "little")


def shown_by(machine, *registers, stale=None):
    """A worker's evidence: a quote of `registers` for this very channel, and perhaps an older quote beside it."""
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    message = machine.attest(nonce=ev.report_data(claims)[:32], select=bits(registers))
    files = {
        "quote": message,
        "signature": machine.sign(message),
        "pcrs": machine.values(),
        "ak_public_pem": machine.pem(),
    }
    if stale is not None:
        files |= {"quote_old": stale, "sig_old": machine.sign(stale)}
    return ev.encode(ev.TAG_PLATFORM, Bundle("tpm", files).encode(), claims)


def good_system():
    machine = booted()
    for register in (8, 9, 12, 13, 14):
        machine.pcrs[register] = hashlib.sha256(b"measured into %d" % register).digest()
    return machine


def tpm_policy(machine, *registers):
    """As `mesatee up` writes it, from the machine's own evidence."""
    found = examine(shown_by(machine, *registers), SPKI, TrustPolicy(), NOW, "worker")
    anchor = found.claims["anchor"]
    return policy(tees=("tpm",), measurements=(found.measurement,), anchors=(anchor,))


def test_a_tpm_is_accepted_with_the_registers_that_were_pinned():
    machine = good_system()
    assert appraise(shown_by(machine, *PINNED), SPKI, tpm_policy(machine, *PINNED), NOW, "worker").level == 3


def test_a_quote_of_other_registers_with_the_pinned_values():
    """After the same firmware another system runs, which extends registers that nobody pinned, or that can be reset,
    to the values of those that were pinned. The digest of the values, in their order, is the same.
    """
    good = good_system()
    bad = Machine(good.key, pcrs={**good.pcrs, 13: hashlib.sha256(b"another program").digest()})
    others = (10, 11, 15, 16, 23)
    for register, pinned in zip(others, (8, 9, 12, 13, 14), strict=True):
        bad.pcrs[register] = good.pcrs[pinned]
    asked = tpm_policy(good, *PINNED)
    same = tuple(range(8)) + others
    assert bad.attest(select=bits(same))[-32:] == good.attest(select=bits(PINNED))[-32:]
    for registers in (same, PINNED):
        with pytest.raises(EvidenceRefused, match="is not one that the policy names"):
            appraise(shown_by(bad, *registers), SPKI, asked, NOW, "worker")


def test_two_quotes_do_not_make_one_boot():
    """The good system's quote from before, and one of another system for this channel."""
    good = good_system()
    asked = tpm_policy(good, *PINNED)
    stale = good.attest(nonce=b"of another channel", select=bits(PINNED))
    for resets in (2, 3):
        bad = Machine(good.key, pcrs=dict(good.pcrs))
        bad.pcrs[16] = hashlib.sha256(b"another program").digest()
        older = good.attest(nonce=b"of another channel", select=bits(PINNED), resets=resets)
        with pytest.raises(MesateeError, match="different boots or for different nonces"):
            appraise(shown_by(bad, 16, stale=older), SPKI, asked, NOW, "worker")
    with pytest.raises(MesateeError, match="different boots or for different nonces"):
        appraise(shown_by(good, *PINNED, stale=stale), SPKI, asked, NOW, "worker")


# -- what the policy has against a platform ------------------------------------------------------------


def verdict(**changes):
    wanted = {
        "tier": Status.AFFIRMING,
        "signature": Answer.AFFIRMED,
        "chain": Answer.AFFIRMED,
        "revocation": Answer.AFFIRMED,
        "tcb": Answer.AFFIRMED,
        "tcb_status": "UpToDate",
        "replay": Answer.NOT_ESTABLISHED,
        "binding": Answer.NOT_ESTABLISHED,
        "level": 4,
        "measurement": "11" * 48,
        "simulated": False,
        **changes,
    }
    return Verdict(**wanted)


NO_SMT = {"platform.smt": False}
REFUSED, UNKNOWN = Answer.REFUSED, Answer.NOT_ESTABLISHED


@pytest.mark.parametrize(
    ("changes", "allow", "why"),
    [
        ({"claims": {"platform.smt": True}}, {"allow_smt": True}, "two threads share a core"),
        ({"claims": {}}, {"allow_smt": True}, "nobody says whether two threads share a core"),
        ({"tcb": UNKNOWN, "tcb_status": None}, {"allow_tcb_unknown": True}, "endorsements are missing"),
        ({"revocation": UNKNOWN}, {"allow_revocation_unknown": True}, "revocation list"),
        (
            {"tcb": REFUSED, "tcb_status": "OutOfDate"},
            {"tcb_statuses": ("UpToDate", "OutOfDate")},
            "OutOfDate",
        ),
        (
            {"claims": {"tcb.advisories": "INTEL-SA-1, INTEL-SA-2"}},
            {"advisories": ("INTEL-SA-1", "INTEL-SA-2")},
            "INTEL-SA-1, INTEL-SA-2",
        ),
        ({"claims": {"tcb.advisories": "INTEL-SA-1"}}, {"advisories": "any"}, "INTEL-SA-1"),
    ],
)
def test_what_a_policy_can_allow_is_refused_by_default(changes, allow, why):
    changes = {**changes, "claims": changes.get("claims", NO_SMT)}
    if "SMT" not in why and "share a core" not in why:
        changes["claims"] = {**NO_SMT, **changes["claims"]}
    found = platform.objections("tdx", verdict(**changes), RoleTrust())
    assert len(found) == 1
    assert why in found[0]
    assert platform.objections("tdx", verdict(**changes), RoleTrust(**allow)) == ()


@pytest.mark.parametrize(
    ("tee", "name"),
    [("snp", "microsoft-milan"), ("tdx", "phala-tdx-v4-b0c06f"), ("azure-vtpm", "az-snp-trustee-v1")],
)
def test_captured_machines_say_whether_two_threads_share_a_core(tee, name):
    meta, files = captured.case(tee, name)
    found = corpus.check_folder({"tee": meta["tee"], "at": meta["at"]}, files)
    assert found.claims["platform.smt"] in (True, False)
    objections = platform.objections(tee, found, RoleTrust())
    assert any("(SMT)" in line for line in objections) is found.claims["platform.smt"]


@pytest.mark.parametrize("changes", [{"claims": {"debug": True}}, {"tier": Status.CONTRAINDICATED}])
def test_what_no_policy_can_allow(changes):
    everything = RoleTrust(
        allow_smt=True,
        allow_tcb_unknown=True,
        allow_revocation_unknown=True,
        allow_simulated=True,
        advisories="any",
    )
    assert platform.objections("tdx", verdict(**changes), everything)


@given(st.binary(max_size=300))
def test_any_body_raises_only_our_errors(body):
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    with pytest.raises(MesateeError):
        examine(ev.encode(ev.TAG_PLATFORM, body, claims), SPKI, TrustPolicy(), NOW, "worker")


@given(
    st.sampled_from(sorted(ev.PLATFORM_TEES)),
    st.dictionaries(
        st.sampled_from(["quote", "report", "token", "document"]), st.binary(max_size=200), min_size=1
    ),
)
def test_any_piece_raises_only_our_errors(tee, files):
    claims = ev.Claims.of_key(SPKI, "worker").encode()
    with pytest.raises(MesateeError):
        examine(
            ev.encode(ev.TAG_PLATFORM, Bundle(tee, files).encode(), claims),
            SPKI,
            TrustPolicy(),
            NOW,
            "worker",
        )
