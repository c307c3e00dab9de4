"""Digests, base64 and names: one encoding each, and no name that is a path."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.support.mutate import QUICK

from mesatee.errors import Malformed, MesateeError
from mesatee.protocol import digests, limits
from mesatee.protocol.digests import b64decode, b64encode, is_hex, sha256

NAME: TypeAdapter[str] = TypeAdapter(digests.Name)
HEX32: TypeAdapter[str] = TypeAdapter(digests.Hex32)
RECIPIENT: TypeAdapter[str] = TypeAdapter(digests.AgeRecipient)


@QUICK
@given(st.binary(max_size=512))
def test_sha256_is_that_of_the_standard_library(data: bytes) -> None:
    assert sha256(data) == hashlib.sha256(data).hexdigest()
    assert is_hex(sha256(data), 32)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0A", "g0", "00\n", "\n00", " 0", "٠٠", "0x"],
)
def test_only_lower_case_hex_of_the_exact_length_is_hex(text: str) -> None:
    assert not is_hex(text, 1)


@QUICK
@given(st.binary(max_size=200))
def test_base64_comes_back(data: bytes) -> None:
    assert b64decode(b64encode(data), max_bytes=len(data)) == data


@QUICK
@given(st.text(max_size=40))
def test_base64_has_one_spelling_of_each_value(text: str) -> None:
    try:
        data = b64decode(text, max_bytes=64)
    except MesateeError:
        return
    assert b64encode(data) == text


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "Q Q=", "QQ==\n", "QQ==QQ==", "_-==", "=", "ÄÄ=="])
def test_sloppy_base64_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        b64decode(text, max_bytes=64)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 64, digests.WRAP_BYTES, digests.HPKE_PUBLIC_BYTES])
def test_base64_is_bounded_to_the_byte(size: int) -> None:
    assert len(b64decode(base64.b64encode(bytes(size)).decode(), max_bytes=size)) == size
    with pytest.raises(Malformed):
        b64decode(base64.b64encode(bytes(size + 1)).decode(), max_bytes=size)


@pytest.mark.parametrize("name", ["a", "A_b-c.d", "_", "9", "a..b", "x" * limits.NAME_CHARS])
def test_names(name: str) -> None:
    assert NAME.validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-rf",
        "a/b",
        "../a",
        "a\\b",
        "/etc/passwd",
        "a b",
        "a\n",
        "a\r",
        "a\x00",
        "a\u2028b",
        "é",
        "а",
        "a\u202eb",
        "x" * (limits.NAME_CHARS + 1),
    ],
)
def test_a_name_is_never_a_path_nor_a_second_line(name: str) -> None:
    with pytest.raises(ValidationError):
        NAME.validate_python(name)


@QUICK
@given(st.text(max_size=limits.NAME_CHARS + 4))
def test_whatever_is_a_name_is_one_plain_path_component(text: str) -> None:
    try:
        name = NAME.validate_python(text)
    except ValidationError:
        return
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/\\ \0")
    assert not name.startswith((".", "-"))
    assert 1 <= len(name) <= limits.NAME_CHARS


@pytest.mark.parametrize("text", ["0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", "0" * 63 + "g"])
def test_a_digest_has_64_lower_case_hex_digits(text: str) -> None:
    assert HEX32.validate_python("0" * 64)
    with pytest.raises(ValidationError):
        HEX32.validate_python(text)


@pytest.mark.parametrize("text", ["age1" + "q" * 57, "age1" + "q" * 59, "age1" + "b" * 58, "AGE1" + "q" * 58])
def test_an_age_recipient_has_the_bech32_alphabet(text: str) -> None:
    assert RECIPIENT.validate_python("age1" + "q" * 58)
    with pytest.raises(ValidationError):
        RECIPIENT.validate_python(text)
