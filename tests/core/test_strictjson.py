"""`mesatee.protocol.jsonstrict` over `rust/strictjson`, with CPython's `json` as the oracle."""

import doctest
import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import jsonstrict, limits

INTEGERS = st.integers(jsonstrict.INTEGER_MIN, jsonstrict.INTEGER_MAX)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class Different(Exception):
    """CPython accepts it, RFC 8259 or our rules do not."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Different("duplicate key")
    return dict(pairs)


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise Different("overflow")
    return value


def _integer(text: str) -> int:
    if not jsonstrict.INTEGER_MIN <= (value := int(text)) <= jsonstrict.INTEGER_MAX:
        raise Different("64 bits")
    return value


def _constant(text: str) -> Any:
    raise Different(text)


def oracle(data: bytes) -> Any:
    """CPython's reading less the documented differences.

    Duplicate keys, NaN and Infinity, numbers that overflow, integers beyond 64 bits, lone surrogates,
    encodings other than UTF-8 and a byte order mark: CPython accepts all of these, we accept none.
    """
    value = json.loads(
        data.decode("utf-8", errors="strict"),
        object_pairs_hook=_pairs,
        parse_float=_float,
        parse_int=_integer,
        parse_constant=_constant,
    )
    json.dumps(value, ensure_ascii=False).encode("utf-8", errors="strict")
    return value


def same(left: Any, right: Any) -> bool:
    """Equal in value and type, so that 1, 1.0 and True differ, and so do the two zeros."""
    return repr(left) == repr(right)


def test_doctest() -> None:
    assert doctest.testmod(jsonstrict).failed == 0


@given(VALUES)
def test_reads_what_cpython_writes(value: Any) -> None:
    for ascii_only in (True, False):
        assert same(jsonstrict.parse(json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()), value)


@given(VALUES)
def test_canonical_is_read_back_and_is_one(value: Any) -> None:
    written = jsonstrict.canonical(value)
    again = jsonstrict.parse(written)
    assert again == value
    assert jsonstrict.canonical(again) == written


ALPHABET = st.sampled_from(
    [
        *'{}[],:"a10-.eE+ \n\0é\ufeff\\',
        *("\\u00e9", "\\ud800", "\\udc00", "true", "false", "null", "NaN", "Infinity"),
        *("9223372036854775808", '"a":'),
    ]
)


@settings(max_examples=400)
@given(st.lists(ALPHABET, max_size=14).map("".join).map(str.encode) | st.binary(max_size=24))
@example(b'{"a":1,"a":2}')
@example(b'{"a":1,"\\u0061":2}')
@example(b"-0")
@example(b"1e400")
@example(b"\xef\xbb\xbf1")
@example(b'"\\ud800"')
@example(b"NaN")
@example(b"[1]\x00")
@example(b'{"$serde_json::private::Number":"1"}')
@example(b'{"$serde_json::private::RawValue":"1"}')
def test_agrees_with_cpython_on_any_bytes(data: bytes) -> None:
    try:
        expected = oracle(data)
    except (ValueError, Different):
        with pytest.raises(Malformed):
            jsonstrict.parse(data)
    else:
        assert same(jsonstrict.parse(data), expected)


@settings(max_examples=300)
@given(VALUES, st.data())
def test_agrees_with_cpython_on_mutated_texts(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=False).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    test_agrees_with_cpython_on_any_bytes.hypothesis.inner_test(bytes(text))  # type: ignore[attr-defined]


def test_size_one_above_and_one_below() -> None:
    text = b'"' + b"a" * (limits.REQUEST_BYTES - 2) + b'"'
    assert len(jsonstrict.parse(text)) == limits.REQUEST_BYTES - 2
    with pytest.raises(TooLarge):
        jsonstrict.parse(text + b" ")
    assert jsonstrict.parse(b"[1]", limit=3) == [1]
    with pytest.raises(TooLarge):
        jsonstrict.parse(b"[1]", limit=2)


def test_depth_one_above_and_one_below() -> None:
    deep: Any = 0
    for _ in range(limits.JSON_DEPTH):
        deep = [deep]
    text = jsonstrict.canonical(deep)
    assert jsonstrict.parse(text) == deep
    with pytest.raises(TooLarge):
        jsonstrict.parse(b"[" + text + b"]")
    with pytest.raises(TooLarge):
        jsonstrict.canonical([deep])
    mixed = b'{"a":' * (limits.JSON_DEPTH + 1) + b"1" + b"}" * (limits.JSON_DEPTH + 1)
    with pytest.raises(TooLarge):
        jsonstrict.parse(mixed)


def test_a_list_in_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TooLarge):
        jsonstrict.canonical(loop)


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_hostile_depth_does_not_overflow_the_stack(depth: int) -> None:
    for max_depth in (limits.JSON_DEPTH, 2**31):
        with pytest.raises(InputError):
            _core.parse_json(b"[" * depth, 1 << 20, max_depth)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**63,
        -(2**63) - 1,
        {1: 2},
        {None: 1},
        {True: 1},
        "\ud800",
        {"\udfff": 1},
        b"b",
        {1},
        object(),
        1j,
        [b""],
    ],
)
def test_canonical_refuses_what_is_not_read_back(value: Any) -> None:
    with pytest.raises(Malformed):
        jsonstrict.canonical(value)


@given(VALUES)
@example(['\x00\x1f\x7f"\\\b\f\n\r\t\x80\ud7ff\uffff\U0001f600', {"\U00010000": 1, "\uffff": 2, "\uff41": 3}])
@example([1e16, 1e-7, 5e-324, 1.7976931348623157e308, -0.0, 0.1, 1e22, 123456789012345680.0])
@example((True, 1, 1.0, (), {}))
def test_canonical_is_what_cpython_writes(value: Any) -> None:
    found = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert jsonstrict.canonical(value) == found.encode()


def test_canonical_form() -> None:
    value = {"b": (1, -0.0, 1e16), "a": {"z": None, "y": True}, "\U0001f600": "\x00é"}
    written = '{"a":{"y":true,"z":null},"b":[1,-0.0,1e+16],"\U0001f600":"\\u0000é"}'
    assert jsonstrict.canonical(value) == written.encode()


def test_only_objects() -> None:
    assert jsonstrict.parse_object(b' {"a": {}} ') == {"a": {}}
    for text in (b"[]", b"1", b"null", b'"{}"'):
        with pytest.raises(Malformed):
            jsonstrict.parse_object(text)


def test_errors_do_not_repeat_content() -> None:
    for text in (b'{"hunter2": 1, "hunter2": 2}', b'{"a": "hunter2" hunter2}', b"hunter2", b'"hunter2\\x"'):
        with pytest.raises(Malformed) as caught:
            jsonstrict.parse(text)
        assert "hunter2" not in str(caught.value)


def test_foreign_texts_have_integers_without_a_sign_and_byte_order_marks() -> None:
    for number in (2**63, 2**64 - 1):
        text = b"[%d]" % number
        assert jsonstrict.parse_foreign(jsonstrict.BOM + text, limit=100) == [number]
        with pytest.raises(Malformed):
            jsonstrict.parse(text)
    for text in (b"[%d]" % 2**64, b"[%d]" % (-(2**63) - 1), b'{"a": 1, "a": 2}', 2 * jsonstrict.BOM + b"1"):
        with pytest.raises(Malformed):
            jsonstrict.parse_foreign(text, limit=100)
    with pytest.raises(TooLarge):
        jsonstrict.parse_foreign(b"[1]", limit=2)
