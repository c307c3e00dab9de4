"""Auditors' reference values: who must have signed what, and until when it counts."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee import _core
from mesatee.attestation import reference
from mesatee.attestation.reference import ReferenceValues, audited
from mesatee.attestation.trust import RoleTrust
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import canonical

NOW = 1_800_000_000
ONE, OTHER = "11" * 32, "22" * 48
AUDITORS = [_core.SigningKey.generate() for _ in range(3)]


def values(*measurements, tee="snp", issued=NOW - 10, expires=NOW + 10):
    return ReferenceValues(tee, dict.fromkeys(measurements or (ONE,), "worker 1.0"), issued, expires)


def trust(needed, auditors=AUDITORS):
    return RoleTrust(auditors=tuple(key.public.hex() for key in auditors), auditors_needed=needed)


def test_so_many_auditors_must_have_signed():
    bundle = reference.sign(values(), AUDITORS[:2])
    assert audited([bundle], trust(2), "snp", NOW) == {ONE}
    assert audited([bundle], trust(3), "snp", NOW) == frozenset()
    assert audited([bundle.with_signature(AUDITORS[2])], trust(3), "snp", NOW) == {ONE}


def test_auditors_may_have_signed_different_bundles():
    mine = reference.sign(values(ONE, OTHER), AUDITORS[:1])
    theirs = reference.sign(values(ONE), AUDITORS[1:2])
    assert audited([mine, theirs], trust(2), "snp", NOW) == {ONE}


def test_one_auditor_counts_once_however_often_he_signs():
    bundles = [reference.sign(values(ONE, expires=NOW + 10 + n), AUDITORS[:1]) for n in range(3)]
    assert audited(bundles, trust(2), "snp", NOW) == frozenset()


@pytest.mark.parametrize(
    ("said", "at"),
    [
        (values(tee="tdx"), NOW),
        (values(), NOW + 10),
        (values(), NOW - 11 - limits.CLOCK_SKEW_SECONDS),
    ],
)
def test_another_class_or_time_counts_for_nothing(said, at):
    assert audited([reference.sign(said, AUDITORS)], trust(1), "snp", at) == frozenset()


def test_a_stranger_counts_for_nothing():
    bundle = reference.sign(values(), [_core.SigningKey.generate()])
    assert audited([bundle], trust(1), "snp", NOW) == frozenset()


def test_a_signature_over_something_else_counts_for_nothing():
    good = reference.sign(values(ONE), AUDITORS[:1])
    moved = dsse.Envelope(values(OTHER).payload(), good.signatures)
    assert audited([moved], trust(1), "snp", NOW) == frozenset()


def test_a_bad_bundle_counts_for_nothing():
    good = reference.sign(values(), AUDITORS[:2])
    for payload in (b"", b"{}", b"\xff", values().payload()[:-1], canonical({"a": 1})):
        bad = dsse.sign(payload, AUDITORS[:1])
        for bundles in ([bad, good], [good, bad], [bad]):
            wanted = {ONE} if good in bundles else frozenset()
            assert audited(bundles, trust(2), "snp", NOW) == wanted
            assert reference.of_class(bundles, "snp") == tuple(one for one in bundles if one is good)


def test_the_objection_says_what_is_missing():
    assert reference.objection(ONE, (), RoleTrust(measurements="any"), "snp", NOW) is None
    assert reference.objection(ONE, (), RoleTrust(measurements=(ONE,)), "snp", NOW) is None
    assert "not one that the policy names" in reference.objection(ONE, (), RoleTrust(), "snp", NOW)
    assert "nor did 2 of its 3 auditors" in reference.objection(ONE, (), trust(2), "snp", NOW)


def test_bundles_are_bounded():
    bundle = reference.sign(values(), AUDITORS[:1])
    with pytest.raises(TooLarge):
        audited([bundle] * (limits.REFERENCE_BUNDLES + 1), trust(1), "snp", NOW)


def test_round_trip():
    said = values(ONE, OTHER)
    assert reference.parse(reference.sign(said, AUDITORS)) == said


def payload(**changes):
    value = json.loads(values().payload())
    for path, item in changes.items():
        if path in value["predicate"]:
            value["predicate"][path] = item
        else:
            value[path] = item
    return dsse.Envelope(canonical(value), ())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tee": "abacus"}, UnsupportedVersion),
        ({"_type": "other"}, UnsupportedVersion),
        ({"predicateType": "urn:mesatee:reference-values:2"}, UnsupportedVersion),
        ({"issued": True}, Malformed),
        ({"expires": NOW - 10}, Malformed),
        ({"expires": NOW + limits.REFERENCE_LIFE_SECONDS}, Malformed),
        ({"subject": []}, Malformed),
        ({"subject": [{"name": "a", "digest": {"measurement": "11"}}]}, Malformed),
        ({"subject": [{"name": "", "digest": {"measurement": ONE}}]}, Malformed),
        ({"subject": [{"name": "a", "digest": {"measurement": ONE, "sha1": "x"}}]}, Malformed),
        ({"subject": [{"name": n, "digest": {"measurement": ONE}} for n in "ab"]}, Malformed),
        ({"more": 1}, Malformed),
    ],
)
def test_malformed_values_are_refused(changes, error):
    with pytest.raises(error):
        reference.parse(payload(**changes))


def test_no_more_measurements_than_the_limit():
    def bundle(count):
        found = [{"name": "a", "digest": {"measurement": f"{n:064x}"}} for n in range(count)]
        return payload(subject=found)

    assert len(reference.parse(bundle(limits.TRUST_ENTRIES)).measurements) == limits.TRUST_ENTRIES
    with pytest.raises(TooLarge):
        reference.parse(bundle(limits.TRUST_ENTRIES + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(["_type", "subject", "predicate", "issued", "expires", "tee"]), JSON)
def test_any_value_raises_only_our_errors(name, value):
    with contextlib.suppress(InputError):
        reference.parse(payload(**{name: value}))
