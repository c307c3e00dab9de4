"""Examples in a function statement: one form, bounded, of the function's own ports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from tests.support.mutate import QUICK, mutated

from mesatee._core import SigningKey
from mesatee.errors import Malformed, MesateeError, TooLarge
from mesatee.protocol import envelope as dsse
from mesatee.protocol import examples, limits, statements
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical, parse

KEY = SigningKey.generate()


def example(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": "two",
        "arguments": {"least": 2},
        "inputs": {"text": {"format": "bytes", "data": b64encode(b"a b")}},
        "outputs": {"result": "0c" * 32},
    }
    return {**fields, **changes}


def function(*signed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The payload of a function statement with these examples, as a forger can write it."""
    plain = statements.FunctionStatement(
        origin="log.example/a",
        service="0a" * 32,
        time=1,
        nonce="00" * 16,
        checkpoint="x",
        name="count",
        executor="mesapy",
        entry="count",
        private=False,
        code=statements.CodeRef(sha256="0b" * 32, size=10, wrap=None),
        inputs=(statements.Port(name="text", format="bytes"), statements.Port(name="stop", optional=True)),
        variadic=False,
        arguments=(statements.Argument(name="least", type="int", required=False, default=1),),
        outputs=(statements.Port(name="result", format="json"),),
        callers=None,
        quota=None,
    )
    body: dict[str, Any] = parse(statements.payload(plain))
    assert "examples" not in body["predicate"]
    if signed:
        body["predicate"]["examples"] = list(signed)
    body["predicate"].update(changes)
    return body


def verify(body: dict[str, Any]) -> statements.FunctionStatement:
    found = statements.verify(dsse.sign(canonical(body), [KEY]), "function").predicate
    assert isinstance(found, statements.FunctionStatement)
    return found


def test_without_them_a_statement_keeps_the_digest_that_it_had() -> None:
    body = function()
    assert verify(body).examples == ()
    assert statements.payload(verify(body)) == canonical(body)
    with pytest.raises(Malformed, match="canonical form"):
        verify(function(examples=[]))


def test_they_come_back() -> None:
    by_digest = example(name="large", inputs={"text": {"format": "csv", "sha256": "0d" * 32}})
    one, other = verify(function(example(), by_digest)).examples
    assert one.inputs["text"].digest == sha256(b"a b")
    assert other.inputs["text"].digest == "0d" * 32
    assert examples.parse(examples.encode(one)) == one


def test_an_example_changes_the_digest_of_the_statement() -> None:
    one, other = (canonical(function(example(outputs={"result": text * 32}))) for text in ("0c", "0d"))
    assert len({sha256(canonical(function())), sha256(one), sha256(other)}) == 3


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a name twice": ([example(), example()], "name of its own"),
    "an input that is not there": (
        [example(inputs={**example()["inputs"], "more": {"format": "bytes", "sha256": "0d" * 32}})],
        "example two: the function has no input more",
    ),
    "an input that is missing": ([example(inputs={})], "example two: missing input text"),
    "an argument that is not there": ([example(arguments={"most": 1})], "no argument most"),
    "an output that is not there": ([example(outputs={"other": "0c" * 32})], "no output other"),
    "nothing to compare": ([example(outputs={})], "outputs"),
    "a digest that is none": ([example(outputs={"result": "0C" * 32})], "outputs"),
    "base64 that is none": ([example(inputs={"text": {"format": "bytes", "data": "YWI"}})], "base64"),
    "both data and digest": (
        [example(inputs={"text": {"format": "bytes", "data": "", "sha256": "0d" * 32}})],
        "inputs.text",
    ),
    "neither data nor digest": ([example(inputs={"text": {"format": "bytes"}})], "inputs.text"),
    "an unknown format": ([example(inputs={"text": {"format": "xls", "data": ""}})], "inputs.text"),
    "a field more": ([example(note="x")], "note"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_forged_and_malformed_ones_are_refused(name: str) -> None:
    signed, words = WRONG[name]
    with pytest.raises(Malformed, match=words):
        verify(function(*signed))


def test_a_function_of_any_inputs_has_examples_of_any() -> None:
    named = example(inputs={"left": {"format": "csv", "data": ""}})
    assert verify(function(named, inputs=[], variadic=True)).examples


@pytest.mark.parametrize(("count", "fits"), [(limits.EXAMPLES, True), (limits.EXAMPLES + 1, False)])
def test_the_most_examples(count: int, fits: bool) -> None:
    body = function(*(example(name=f"e{number}") for number in range(count)))
    if fits:
        assert len(verify(body).examples) == count
    else:
        with pytest.raises(Malformed, match="at most 8"):
            verify(body)


@pytest.mark.parametrize("size", [limits.EXAMPLE_INPUT_BYTES, limits.EXAMPLE_INPUT_BYTES + 1])
def test_the_largest_input(size: int) -> None:
    body = function(example(inputs={"text": {"format": "bytes", "data": b64encode(bytes(size))}}))
    if size <= limits.EXAMPLE_INPUT_BYTES:
        found = verify(body).examples[0].inputs["text"]
        assert isinstance(found, examples.Inline)
        assert len(found.content) == size
    else:
        with pytest.raises(Malformed, match=r"inputs\.text"):
            verify(body)


def test_the_most_bytes_in_all() -> None:
    def sized(last: int) -> list[dict[str, Any]]:
        parts = [limits.EXAMPLE_INPUT_BYTES, limits.EXAMPLE_INPUT_BYTES, last]
        return [
            example(name=f"e{place}", inputs={"text": {"format": "bytes", "data": b64encode(bytes(part))}})
            for place, part in enumerate(parts)
        ]

    fit = next(
        n
        for n in range(limits.EXAMPLE_INPUT_BYTES, 0, -1)
        if len(canonical(sized(n))) <= limits.EXAMPLES_BYTES
    )
    assert len(verify(function(*sized(fit))).examples) == 3
    with pytest.raises(Malformed, match="at most 12288 bytes in all"):
        verify(function(*sized(fit + 1)))


def test_the_most_arguments() -> None:
    text = "x" * (limits.ARGUMENTS_BYTES - len('{"least":""}'))
    assert examples.parse(canonical(example(arguments={"least": text})))
    with pytest.raises(Malformed, match="at most 16384 bytes"):
        examples.parse(canonical(example(arguments={"least": text + "x"})))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"name":"a"}', b"\xff", b'{"name":"a","name":"b"}'])
def test_a_file_that_is_no_example(data: bytes) -> None:
    with pytest.raises(Malformed):
        examples.parse(data)


def test_a_file_that_is_too_large() -> None:
    with pytest.raises(TooLarge):
        examples.parse(b" " * (limits.EXAMPLES_BYTES + limits.ARGUMENTS_BYTES + 1))


@QUICK
@given(mutated(canonical(function(example()))))
def test_altered_bytes_are_refused_with_our_errors_or_have_one_form(data: bytes) -> None:
    try:
        found = statements.verify(dsse.sign(data, [KEY]))
    except MesateeError:
        return
    assert statements.payload(found.predicate) == data
