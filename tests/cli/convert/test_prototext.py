"""Protocol buffers as text: what Caffe's nets use of them, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.cli.convert.prototext import DEPTH, NUMBERS, STRING_CHARS, TEXT_BYTES, Word, parse
from mesatee.errors import Malformed, TooLarge


def test_a_net_is_read_as_it_is_written() -> None:
    text = """
    name: "net"  # a comment: { not a field }
    layer { name: 'a' pad: [1, 2] on: true rate: 1.5e-3; kind: MAX, inner < deep { x: -4 } > }
    layer { name: "b" }
    """
    found = parse(text)
    assert found["name"] == ["net"]
    first, second = found["layer"]
    assert first == {
        "name": ["a"],
        "pad": [1, 2],
        "on": ["true"],
        "rate": [1.5e-3],
        "kind": ["MAX"],
        "inner": [{"deep": [{"x": [-4]}]}],
    }
    assert second == {"name": ["b"]}
    assert isinstance(first["kind"][0], Word)  # type: ignore[index, call-overload]
    assert not isinstance(first["name"][0], Word)  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    "text",
    [
        "layer {",
        "layer }",
        "name",
        "name:",
        'name: "open',
        "name: 'a\n'",
        r'name: "a\"b"',
        "name 4",
        "4: 4",
        "a: [1, 2",
        "a: [1: 2]",
        "a: }",
        "a: 1.2.3",
        "a: 12abc",
        "layer { a: 1 >",
        "\0",
        "import os",
    ],
)
def test_what_is_no_text_of_a_net_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)


def test_an_error_says_the_line() -> None:
    with pytest.raises(Malformed, match="line 3 "):
        parse("a: 1\n\nb: $\n")


def test_the_limits() -> None:
    def nested(depth: int) -> str:
        return "a {" * depth + "}" * depth

    parse(nested(DEPTH))
    with pytest.raises(TooLarge, match="levels"):
        parse(nested(DEPTH + 1))
    assert len(parse("a:1 " * NUMBERS)["a"]) == NUMBERS
    with pytest.raises(TooLarge, match="fields"):
        parse("a:1 " * (NUMBERS + 1))
    parse(f'a: "{"x" * (STRING_CHARS - 2)}"')
    with pytest.raises(TooLarge, match="characters"):
        parse(f'a: "{"x" * (STRING_CHARS - 1)}"')
    parse(" " * TEXT_BYTES)
    with pytest.raises(TooLarge, match="bytes"):
        parse(" " * (TEXT_BYTES + 1))


@given(st.text(alphabet="ab{}:<>[],;\"'# \n1.-e\0é", max_size=60))
def test_whatever_it_is_only_our_errors_come_out(text: str) -> None:
    try:
        parse(text)
    except (Malformed, TooLarge):
        return
