"""A bundle of evidence has one encoding, and nothing else parses."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation import _cbor
from mesatee.attestation.bundle import Bundle
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

NAMES = st.text("abcxyz019_.-", min_size=1, max_size=20)


@given(NAMES, st.dictionaries(NAMES, st.binary(max_size=100), min_size=1, max_size=limits.BUNDLE_FILES))
def test_round_trip(tee, files):
    bundle = Bundle(tee, files)
    assert Bundle.parse(bundle.encode()) == bundle
    assert Bundle.parse(bundle.encode()).encode() == bundle.encode()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"tee": "snp"},
        {"tee": "snp", "files": {}},
        {"tee": "", "files": {"a": b""}},
        {"tee": "SNP", "files": {"a": b""}},
        {"tee": "snp", "files": {"../a": b""}},
        {"tee": "snp", "files": {"a": "text"}},
        {"tee": "snp", "files": {"a": b""}, "more": 1},
        {"tee": "snp", "files": {str(n): b"" for n in range(limits.BUNDLE_FILES + 1)}},
    ],
)
def test_what_is_no_bundle_is_refused(value):
    with pytest.raises((Malformed, TooLarge)):
        Bundle.parse(_cbor.encode(value))


def test_size_is_bounded():
    Bundle("snp", {"report": bytes(limits.EVIDENCE_BYTES - 100)}).encode()
    with pytest.raises(TooLarge):
        Bundle("snp", {"report": bytes(limits.EVIDENCE_BYTES)}).encode()


def test_the_limit_holds_for_what_travels_and_not_for_what_a_relying_party_adds():
    """A verifier may look at more pieces than a peer may send."""
    full = Bundle("snp", {f"piece.{n}": b"" for n in range(limits.BUNDLE_FILES)})
    assert Bundle.parse(full.encode()) == full
    with pytest.raises(TooLarge, match="pieces"):
        Bundle("snp", {**full.files, "vcek": b""}).encode()


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_our_errors(data):
    with contextlib.suppress(InputError):
        Bundle.parse(data)
