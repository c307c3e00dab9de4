"""Collections of endorsements: one of each kind, the newest, and never a surprise from a file."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import intel
from tests.support.intel import NOW

from mesatee import _core
from mesatee.attestation import reference
from mesatee.attestation.endorsements import NOTHING, Endorsement, Endorsements
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import canonical


def item(role="vcek", subject="", data=b"bytes", fetched=10, expires=None, tee="snp"):
    return Endorsement(tee, subject, role, data, fetched, expires)


ITEMS = st.builds(
    Endorsement,
    st.sampled_from(["snp", "tdx"]),
    st.sampled_from(["", "ab", "cd"]),
    st.sampled_from(["vcek", "pck_crl"]),
    st.binary(min_size=1, max_size=20),
    st.integers(0, 100),
    st.none() | st.integers(0, 100),
)
COLLECTIONS = st.lists(ITEMS, max_size=8, unique_by=lambda found: found.key).map(
    lambda found: Endorsements(tuple(found))
)


@given(COLLECTIONS)
def test_round_trip(kept):
    again = Endorsements.parse(kept.encode())
    assert again == kept
    assert again.digest == kept.digest


@given(COLLECTIONS, st.lists(ITEMS, max_size=8))
def test_merging_keeps_the_newest_of_each(kept, others):
    merged = {found.key: found for found in kept.merged(others).items}
    # Bytes of which no issuer says how new they are.
    for found in (*kept.items, *others):
        assert merged[found.key].fetched >= found.fetched
    assert set(merged) == {found.key for found in (*kept.items, *others)}


def statement(number=20, at=NOW, member="tcbInfo"):
    value = {"tcbEvaluationDataNumber": number, "issueDate": intel.stamp(at)}
    return json.dumps({member: value, "signature": "00"}).encode()


def old_and_new():
    ca = intel.VENDOR.ca
    day = intel.DAY
    yield intel.revocations(ca, start=NOW - day), intel.revocations(ca, start=NOW)
    yield intel.revocations(ca, number=200), intel.revocations(ca, number=65_000)
    yield statement(at=NOW - day), statement()
    yield statement(), statement(number=21, at=NOW - day)
    yield statement(member="enclaveIdentity"), statement(number=21, member="enclaveIdentity")
    for new in (intel.revocations(ca), statement()):
        yield b"\x30\x82junk", new
        yield b"{}", new


@pytest.mark.parametrize(("old", "new"), list(old_and_new()))
def test_what_the_issuer_calls_older_replaces_nothing(old, new):
    """A cache may serve today what the vendor replaced a week ago."""
    for first, second in (((old, 20), (new, 10)), ((new, 10), (old, 20))):
        kept = Endorsements((item(data=first[0], fetched=first[1]),))
        assert kept.merged([item(data=second[0], fetched=second[1])]).items[0].data == new


def test_what_is_of_the_machine_comes_before_what_is_of_all():
    kept = Endorsements((item(data=b"all"), item(subject="ab", data=b"mine"), item("ark", data=b"ark")))
    assert kept.lookup("snp", "ab") == {"vcek": b"mine", "ark": b"ark"}
    assert kept.lookup("snp", "cd") == {"vcek": b"all", "ark": b"ark"}
    assert kept.lookup("tdx", "ab") == {}


def test_what_is_over_can_be_dropped():
    kept = Endorsements((item(expires=20), item("ark", expires=None)))
    assert kept.without_expired(19) == kept
    assert [found.role for found in kept.without_expired(20).items] == ["ark"]


def test_reference_values_travel_along():
    values = reference.ReferenceValues("snp", {"11" * 32: "worker"}, 10, 20)
    one, two = _core.SigningKey.generate(), _core.SigningKey.generate()
    bundle = reference.sign(values, [one])
    kept = NOTHING.with_reference(bundle)
    assert Endorsements.parse(kept.encode()) == kept
    assert kept.digest != NOTHING.digest
    both = kept.with_reference(bundle.with_signature(two))
    assert len(both.references) == 1
    assert len(both.references[0].signatures) == 2


def test_a_strangers_envelope_takes_no_signature_away():
    values = reference.ReferenceValues("snp", {"11" * 32: "worker"}, 10, 20)
    auditors = [_core.SigningKey.generate() for _ in range(2)]
    strangers = [_core.SigningKey.generate() for _ in range(2 * dsse.MAX_SIGNATURES)]
    kept = NOTHING.with_reference(reference.sign(values, auditors))
    size = dsse.MAX_SIGNATURES
    for start in range(0, len(strangers), size):
        kept = kept.with_reference(reference.sign(values, strangers[start : start + size]))
    # One with an auditor's name and a signature that is not his.
    forged = dsse.Signature(auditors[0].public.hex(), bytes(64))
    kept = kept.with_reference(dsse.Envelope(values.payload(), (forged,)))
    assert Endorsements.parse(kept.encode()) == kept
    signers = [signature for bundle in kept.references for signature in bundle.valid_signatures()]
    assert [signature.keyid for signature in signers] == [key.public.hex() for key in (*auditors, *strangers)]
    assert forged not in [signature for bundle in kept.references for signature in bundle.signatures]
    assert NOTHING.with_reference(dsse.Envelope(values.payload(), (forged,))) == NOTHING


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tee": "abacus"}, UnsupportedVersion),
        ({"subject": "AB"}, Malformed),
        ({"role": "../x"}, Malformed),
        ({"role": ""}, Malformed),
        ({"data": b""}, TooLarge),
        ({"data": bytes(limits.ENDORSEMENT_BYTES + 1)}, TooLarge),
        ({"fetched": -1}, Malformed),
        ({"expires": 1 << 53}, Malformed),
    ],
)
def test_malformed_items_are_refused(changes, error):
    with pytest.raises(error):
        item(**changes)


def test_counts_are_bounded():
    many = tuple(item(subject=f"{n:04x}") for n in range(limits.ENDORSEMENTS))
    Endorsements(many)
    with pytest.raises(TooLarge):
        Endorsements((*many, item(subject="ffff")))
    with pytest.raises(Malformed):
        Endorsements((item(), item(data=b"other")))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"endorsements": {}},
        {"references": [1]},
        {"endorsements": [{}]},
        {"endorsements": [{"tee": "snp"}]},
        {"more": 1},
    ],
)
def test_files_that_are_no_collection_are_refused(changes):
    with pytest.raises(InputError):
        Endorsements.parse(canonical({**json.loads(NOTHING.encode()), **changes}))


@given(st.binary(max_size=100))
def test_any_bytes_raise_only_our_errors(data):
    with contextlib.suppress(InputError):
        Endorsements.parse(data)
