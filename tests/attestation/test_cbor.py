from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation import _cbor
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

VALUES = st.recursive(
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.booleans()
    | st.none(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=30), inner, max_size=5),
    max_leaves=20,
)


def depth(value: object) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=1)
    return 1


@given(VALUES)
def test_agrees_with_cbor2(value: object) -> None:
    encoded = cbor2.dumps(value, canonical=True)
    if depth(value) > limits.CBOR_DEPTH:
        with pytest.raises(TooLarge):
            _cbor.decode(encoded, 1 << 16)
    else:
        assert _cbor.decode(encoded, 1 << 16) == value


def retag(value: object) -> object:
    match value:
        case _cbor.Tag(number, inner):
            return cbor2.CBORTag(number, retag(inner))
        case list():
            return [retag(item) for item in value]
        case dict():
            return {key: retag(item) for key, item in value.items()}
    return value


def builtin(value: object) -> bool:
    """cbor2 writes tags 2 and 3 (big numbers) only for numbers of that size."""
    match value:
        case _cbor.Tag(number, inner):
            return number in (2, 3) or builtin(inner)
        case list():
            return any(map(builtin, value))
        case dict():
            return any(map(builtin, value.values()))
    return False


@given(st.binary(max_size=200) | VALUES.map(lambda value: cbor2.dumps(value)))
def test_hostile_bytes_raise_only_our_errors_and_have_one_encoding(data: bytes) -> None:
    try:
        value = _cbor.decode(data, 1 << 16)
    except InputError:
        return
    if not builtin(value):
        assert cbor2.dumps(retag(value), canonical=True) == data


@pytest.mark.parametrize(
    "encoded",
    [
        "",  # nothing
        "0000",  # trailing byte
        "1800",  # not the shortest head
        "190017",
        "1a0000ffff",
        "1b00000000ffffffff",
        "5f4101ff",  # indefinite length
        "9f01ff",
        "bf6161 01ff",
        "a2616101616102",  # duplicate key
        "a2616201616102",  # keys out of order
        "a10101",  # key is not text
        "f93c00",  # float
        "fb3ff0000000000000",
        "f7",  # undefined
        "f818",  # unknown simple value
        "ff",
        "1c",  # reserved head
        "4201",  # cut
        "61ff",  # not UTF-8
        "9affffffff",  # promises more than it has
        "5bffffffffffffffff",
    ],
)
def test_refused(encoded: str) -> None:
    with pytest.raises(Malformed):
        _cbor.decode(bytes.fromhex(encoded), 100)


def test_limits_one_below_and_one_above() -> None:
    assert _cbor.decode(b"\x81" * (limits.CBOR_DEPTH - 1) + b"\x00", 100)
    with pytest.raises(TooLarge):
        _cbor.decode(b"\x81" * limits.CBOR_DEPTH + b"\x00", 100)
    with pytest.raises(TooLarge):
        _cbor.decode(b"\x81" * 10_000, 10_000)
    items = limits.CBOR_ITEMS - 1
    assert len(_cbor.decode(cbor2.dumps([0] * items), 1 << 16)) == items  # type: ignore[arg-type]
    with pytest.raises(TooLarge):
        _cbor.decode(cbor2.dumps([0] * (items + 1)), 1 << 16)
    assert _cbor.decode(b"\x41\x00", 2) == b"\x00"
    with pytest.raises(TooLarge):
        _cbor.decode(b"\x41\x00", 1)


def test_semantic_tags_are_not_followed() -> None:
    assert _cbor.decode(cbor2.dumps(cbor2.CBORTag(35, "(")), 10) == _cbor.Tag(35, "(")


FOREIGN = st.recursive(
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=30) | st.integers(-(2**32), 2**32), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(FOREIGN)
def test_foreign_agrees_with_cbor2(value: object) -> None:
    for canonical in (True, False):
        encoded = cbor2.dumps(value, canonical=canonical)
        if depth(value) < limits.FOREIGN_CBOR_DEPTH:
            assert _cbor.decode_foreign(encoded, 1 << 16) == value


def test_foreign_takes_long_heads_and_any_order_and_the_strict_profile_does_not() -> None:
    for data, value in (
        (bytes.fromhex("1801"), 1),
        (bytes.fromhex("5900026162"), b"ab"),
        (bytes.fromhex("a2616200616101"), {"b": 0, "a": 1}),
        (bytes.fromhex("a1012a"), {1: -11}),
        (bytes.fromhex("d81203"), (18, 3)),
    ):
        assert _cbor.decode_foreign(data, 64) == value
        if value != (18, 3):
            with pytest.raises(Malformed):
                _cbor.decode(data, 64)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "a201000100",  # a key twice
        "a20100180100",  # a key twice, in two encodings
        "a2f50101f5",  # True is no key, as it would be 1
        "a1400a",  # a key of bytes
        "5f4101ff",
        "9fff",
        "bfff",
        "f97e00",
        "fa7fc00000",
        "f7",
        "f8ff",
        "1c",
        "0000",
        "62ff00",
        "5bffffffffffffffff",
        "9bffffffffffffffff",
    ],
)
def test_foreign_refuses(data: str) -> None:
    with pytest.raises(Malformed):
        _cbor.decode_foreign(bytes.fromhex(data), 64)


def test_foreign_limits() -> None:
    deep = limits.FOREIGN_CBOR_DEPTH
    _cbor.decode_foreign(b"\x81" * (deep - 1) + b"\x00", 1 << 16)
    with pytest.raises(TooLarge):
        _cbor.decode_foreign(b"\x81" * deep + b"\x00", 1 << 16)
    many = limits.FOREIGN_CBOR_ITEMS - 1
    _cbor.decode_foreign(b"\x99" + many.to_bytes(2) + bytes(many), 1 << 16)
    with pytest.raises(TooLarge):
        _cbor.decode_foreign(b"\x99" + (many + 1).to_bytes(2) + bytes(many + 1), 1 << 16)
    with pytest.raises(TooLarge):
        _cbor.decode_foreign(bytes(65), 64)


@given(st.binary(max_size=100))
def test_foreign_takes_any_bytes(data: bytes) -> None:
    with contextlib.suppress(InputError):
        _cbor.decode_foreign(data, 100)
