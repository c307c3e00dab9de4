from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import tokens

from mesatee.attestation.tee import _files
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
ROOT = tokens.certificate("root", KEYS[0], "root", KEYS[0])
LEAF = tokens.certificate("leaf", KEYS[1], "root", KEYS[0], ca=False)


@given(st.binary(min_size=1, max_size=60))
def test_plain_undoes_text(data: bytes):
    assert _files.plain(data.hex().encode() + b"\n") == data
    assert _files.plain(b"0x" + data.hex().upper().encode()) == data
    # What reads as hex is hex, so base64 is told apart once it has another letter.
    text = base64.b64encode(b"\xff" + data)
    assert _files.plain(text) == b"\xff" + data or not set(text) - set(b"0123456789abcdefABCDEF")


@given(st.binary(max_size=60))
def test_binary_stays(data: bytes):
    assert _files.plain(b"\x84" + data) == b"\x84" + data


@pytest.mark.parametrize("chain", [[ROOT, LEAF], [LEAF, ROOT]])
def test_certificates_in_every_form(chain: list[bytes]):
    whole = b"".join(chain)
    for data in (
        tokens.pem_chain(chain),
        whole,
        whole + b"\0\0",
        whole.hex().encode(),
        base64.b64encode(whole),
    ):
        assert _files.certificates(data) == chain
    assert _files.leaf_first(chain) == [LEAF, ROOT]
    assert _files.certificates(b"") == []


def test_certificates_that_are_none():
    for data in (b"text!", ROOT + b"text"):
        with pytest.raises(Malformed):
            _files.certificates(data)


def test_limits():
    assert len(_files.certificates(ROOT * limits.CHAIN_CERTIFICATES)) == limits.CHAIN_CERTIFICATES
    with pytest.raises(TooLarge):
        _files.certificates(ROOT * (limits.CHAIN_CERTIFICATES + 1))
    with pytest.raises(TooLarge):
        _files.certificates(bytes(limits.PEM_BYTES + 1))
    assert _files.certificates(bytes(limits.PEM_BYTES)) == []


def test_a_case_without_evidence():
    with pytest.raises(Malformed):
        _files.evidence({"root": ROOT}, "nitro", "document")


@given(st.binary(max_size=100).map(lambda data: b"\x30" + data) | st.binary(max_size=100))
def test_any_bytes(data: bytes):
    with contextlib.suppress(InputError):
        _files.leaf_first(_files.certificates(data))
