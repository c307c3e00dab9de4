"""DSSE envelopes: what was signed is what is read, and nothing else is an envelope."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK, mutated, noise

from mesatee._core import SigningKey
from mesatee.errors import Malformed, MesateeError, SignatureInvalid, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.digests import b64encode, sha256

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
ID, OTHER_ID = KEY.public.hex(), OTHER.public.hex()


def test_pae_is_that_of_the_specification() -> None:
    # The example of DSSE protocol.md, with our payload type.
    assert dsse.pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


@QUICK
@given(st.binary(max_size=300))
def test_a_signed_envelope_comes_back_and_verifies(payload: bytes) -> None:
    signed = dsse.sign(payload, [KEY, OTHER])
    again = dsse.from_bytes(signed.to_bytes())
    assert again == signed
    assert again.digest == sha256(payload)
    assert again.verify(ID) == again.verify(OTHER_ID) == payload


@QUICK
@given(st.binary(min_size=1, max_size=60), st.data())
def test_one_flipped_bit_of_payload_or_signature_is_refused(payload: bytes, data: st.DataObject) -> None:
    signed = dsse.sign(payload, [KEY])
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    altered = bytearray(payload)
    altered[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(SignatureInvalid):
        dsse.Envelope(bytes(altered), signed.signatures).verify(ID)
    bit = data.draw(st.integers(0, 511))
    sig = bytearray(signed.signatures[0].sig)
    sig[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(SignatureInvalid):
        dsse.Envelope(payload, (dsse.Signature(ID, bytes(sig)),)).verify(ID)


def test_a_signature_over_the_bare_payload_is_none() -> None:
    bare = dsse.Envelope(b"x", (dsse.Signature(ID, KEY.sign(b"x")),))
    with pytest.raises(SignatureInvalid):
        bare.verify(ID)


def test_a_signature_under_another_name_is_none() -> None:
    signed = dsse.sign(b"x", [OTHER])
    with pytest.raises(SignatureInvalid):
        signed.verify(ID)
    renamed = dsse.Envelope(b"x", (dsse.Signature(ID, signed.signatures[0].sig),))
    with pytest.raises(SignatureInvalid):
        renamed.verify(ID)


def test_the_digest_stays_when_a_signature_is_added() -> None:
    one = dsse.sign(b"x", [KEY])
    assert one.with_signature(OTHER).digest == one.digest


def good() -> dict[str, Any]:
    return dsse.sign(b"{}", [KEY]).as_dict()


def changed(**changes: Any) -> dict[str, Any]:
    return {**good(), **changes}


def signature(**changes: Any) -> dict[str, Any]:
    return {**good()["signatures"][0], **changes}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        changed(extra=1),
        {name: value for name, value in good().items() if name != "payload"},
        changed(payload=1),
        changed(payload=None),
        changed(payload="e30"),
        changed(payload="e31="),
        changed(signatures={}),
        changed(signatures=[]),
        changed(signatures=[None]),
        changed(signatures=[signature(extra=1)]),
        changed(signatures=[signature(keyid=ID.upper())]),
        changed(signatures=[signature(keyid=ID[:-2])]),
        changed(signatures=[signature(keyid=None)]),
        changed(signatures=[signature(sig=1)]),
        changed(signatures=[signature(sig=b64encode(bytes(63)))]),
        changed(signatures=[signature(sig=b64encode(bytes(65)))]),
        changed(signatures=[signature(), signature()]),
    ],
    ids=lambda _: "case",
)
def test_what_is_not_exactly_an_envelope_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        dsse.from_dict(value)


@pytest.mark.parametrize("kind", [None, 1, "", "application/json", dsse.PAYLOAD_TYPE + " "])
def test_another_payload_type_is_refused(kind: Any) -> None:
    with pytest.raises(UnsupportedVersion):
        dsse.from_dict(changed(payloadType=kind))


def test_as_many_signatures_as_allowed_and_one_more() -> None:
    keys = [SigningKey.generate() for _ in range(dsse.MAX_SIGNATURES + 1)]
    full = dsse.sign(b"x", keys[:-1])
    assert dsse.from_dict(full.as_dict()) == full
    with pytest.raises(Malformed):
        dsse.from_dict(dsse.sign(b"x", keys).as_dict())


def test_an_envelope_of_the_largest_size_and_one_byte_more() -> None:
    def padded(size: int) -> bytes:
        compact = dsse.sign(b"x", [KEY]).to_bytes()
        return compact[:-1] + b" " * (size - len(compact)) + b"}"

    assert dsse.from_bytes(padded(limits.STATEMENT_BYTES)).payload == b"x"
    with pytest.raises(TooLarge):
        dsse.from_bytes(padded(limits.STATEMENT_BYTES + 1))


def test_duplicate_keys_in_the_json_are_refused() -> None:
    text = json.dumps(good())
    assert dsse.from_bytes(text.encode())
    with pytest.raises(Malformed):
        dsse.from_bytes((text[:-1] + ', "payload": "e30="}').encode())


@QUICK
@given(st.one_of(noise(), mutated(dsse.sign(b'{"a":1}', [KEY, OTHER]).to_bytes())))
def test_hostile_bytes_raise_only_our_errors(data: bytes) -> None:
    try:
        found = dsse.from_bytes(data)
        found.verify(ID)
    except MesateeError:
        return
    assert found.payload == b'{"a":1}'
