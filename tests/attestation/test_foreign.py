"""Wrappings of other makers' tools: undone in one way, and bounded."""

from __future__ import annotations

import base64
import contextlib
import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation import foreign
from mesatee.errors import InputError, Malformed
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import BOM


def test_doctest():
    assert doctest.testmod(foreign).failed == 0


@given(st.binary(min_size=1, max_size=60))
def test_text_is_undone(data: bytes):
    assert foreign.unwrapped(data.hex().encode() + b"\n") == ("hex", data)
    assert foreign.unwrapped(BOM + b"0x" + data.hex().upper().encode()) == ("hex", data)
    marked = b"\xff" + data
    for text in (
        base64.b64encode(marked),
        base64.urlsafe_b64encode(marked).rstrip(b"="),
        base64.encodebytes(marked),
    ):
        # What reads as hex is hex, so base64 is told apart once it has another letter.
        if set(text.strip()) - set(b"0123456789abcdefABCDEF"):
            assert foreign.unwrapped(text) == ("base64", marked)


@pytest.mark.parametrize("data", [b"", b" ", b"\x84text", b"abc=d", b"a", b"ab\0", b"text!"])
def test_other_bytes_are_not(data: bytes):
    assert foreign.unwrapped(data) is None
    assert foreign.plain(data) is None


def test_json_in_wrappings():
    text = inner = b'{"a": 1}'
    for _ in range(limits.WRAPPINGS):
        inner = base64.b64encode(inner)
        assert foreign.json_in(inner) == text
    assert foreign.json_in(base64.b64encode(inner)) is None
    assert foreign.json_in(b"\x84") is None


def test_leaves_are_bounded():
    leaf = "f" * limits.DETECT_CHARS
    assert list(foreign.leaves(json.dumps({"a": [leaf], "b": leaf[:-1]}).encode())) == [leaf.encode()]
    assert list(foreign.leaves(json.dumps([7] * limits.DETECT_CHARS).encode())) == [
        b"\7" * limits.DETECT_CHARS
    ]
    many = json.dumps([leaf] * (limits.DETECT_LEAVES + 1)).encode()
    assert len(list(foreign.leaves(many))) == limits.DETECT_LEAVES
    for text in (b'{"a": 1, "a": 2}', b"[" * 10_000, b"[NaN]", b"[18446744073709551616]"):
        with pytest.raises(InputError):
            list(foreign.leaves(text))


def test_an_array_of_bytes_is_one():
    assert foreign.byte_array([0, 255]) == b"\0\xff"
    for value in ([], [256], [-1], [True], [1.0], ["1"]):
        assert foreign.byte_array(value) is None


def test_revocation_lists_of_a_pem_text():
    block = b"-----BEGIN X509 CRL-----\n%s\n-----END X509 CRL-----\n"
    assert foreign.pem_crls(block % b"CgsM" + b"text" + block % b"=") == [b"\n\x0b\x0c", b"\n=\n"]


@given(st.binary(max_size=80))
def test_noise_raises_our_errors_only(data: bytes):
    foreign.unwrapped(data)
    foreign.json_in(data)
    foreign.pem_crls(data)
    with contextlib.suppress(Malformed):
        list(foreign.leaves(b"[" + data))
