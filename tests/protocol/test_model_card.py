"""Model cards as part of dataset statements: their form, what is signed, and their limits."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesatee._core import SigningKey
from mesatee.errors import Malformed, SignatureInvalid
from mesatee.protocol import digests, limits, statements
from mesatee.protocol import envelope as dsse
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical, parse
from mesatee.protocol.model import validate
from mesatee.protocol.model_card import DTYPES, KINDS, ModelCard, describe

KEY = SigningKey.generate()
CARD: dict[str, Any] = {
    "kind": "onnx",
    "digest": "0c" * 32,
    "inputs": [{"name": "image:0", "dtype": "float32", "shape": ["batch", 3, 224, 224]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 1000]}],
    "licence": "Apache-2.0",
    "metrics": {"accuracy": 0.76},
}


def card(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CARD), **changes}


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "dtype": "float32", "shape": [1], **changes}


def dataset(said: Any) -> dict[str, Any]:
    """The payload of a dataset statement with this card, as a forger can write it."""
    plain = statements.DatasetStatement(
        origin="log.example/a",
        service="0a" * 32,
        time=1,
        nonce="00" * 16,
        checkpoint="x",
        name="d",
        blob=statements.BlobRef(sha256="0b" * 32, size=10),
        format="bytes",
        columns=(),
        rows=None,
        policy="p",
        wrap=b64encode(bytes(digests.WRAP_BYTES)),
    )
    body: dict[str, Any] = parse(statements.payload(plain))
    assert "card" not in body["predicate"]
    if said is not ...:
        body["predicate"]["card"] = said
    return body


def verify(body: dict[str, Any]) -> statements.DatasetStatement:
    found = statements.verify(dsse.sign(canonical(body), [KEY]), "dataset").predicate
    assert isinstance(found, statements.DatasetStatement)
    return found


def test_without_a_card_a_statement_keeps_the_digest_that_it_had() -> None:
    body = dataset(...)
    assert verify(body).card is None
    assert sha256(canonical(body)) == sha256(statements.payload(verify(body)))
    body["predicate"]["card"] = None
    with pytest.raises(Malformed, match="canonical form"):
        verify(body)


@pytest.mark.parametrize(
    "changes",
    [{}, {"warm": 60}, {"runs": 5}, {"columns": ["a", "b"]}, {"warm": 1, "runs": 1, "columns": ["ä"]}],
)
def test_a_card_comes_back_as_it_was_signed(changes: dict[str, Any]) -> None:
    found = verify(dataset(card(**changes)))
    assert found.card is not None
    assert found.card.model_dump(mode="json") == card(**changes)
    assert statements.payload(found) == canonical(dataset(card(**changes)))


@pytest.mark.parametrize("empty", [{"warm": 0}, {"runs": None}, {"columns": []}])
def test_a_second_form_of_the_same_card_is_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="canonical form"):
        verify(dataset(card(**empty)))


def test_a_metric_that_is_written_as_an_integer_is_another_form() -> None:
    assert verify(dataset(card(metrics={"a": 1.0}))).card
    with pytest.raises(Malformed, match="canonical form"):
        verify(dataset(card(metrics={"a": 1})))


def test_the_card_is_what_the_owner_signed() -> None:
    made = statements.sign(verify(dataset(card())), KEY)
    body = parse(made.envelope.payload)
    body["predicate"]["card"]["runs"] = 100
    forged = dataclasses.replace(made.envelope, payload=canonical(body))
    with pytest.raises(SignatureInvalid):
        statements.verify(forged, "dataset")


WRONG: dict[str, dict[str, Any]] = {
    "a kind that can hold code": card(kind="pickle"),
    "no digest": card(digest="0c"),
    "no input": card(inputs=[]),
    "no output": card(outputs=[]),
    "two inputs of a name": card(inputs=[tensor(), tensor()]),
    "two outputs of a name": card(outputs=[tensor(), tensor()]),
    "an unknown type": card(inputs=[tensor(dtype="complex64")]),
    "a negative length": card(inputs=[tensor(shape=[-1])]),
    "a length that is true": card(inputs=[tensor(shape=[True])]),
    "a length with a fraction": card(inputs=[tensor(shape=[1.5])]),
    "a length without a name": card(inputs=[tensor(shape=[""])]),
    "no licence": card(licence=""),
    "a metric that is no number": card(metrics={"a": "0.9"}),
    "a metric without a name": card(metrics={"": 0.9}),
    "a column twice": card(columns=["a", "a"]),
    "a field of its own": card(author="me"),
    "warm for a text": card(warm="60"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_card_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        verify(dataset(WRONG[name]))


@pytest.mark.parametrize("field", ["kind", "digest", "inputs", "outputs", "licence", "metrics"])
def test_a_card_says_all_of_it(field: str) -> None:
    said = card()
    del said[field]
    with pytest.raises(Malformed):
        verify(dataset(said))


@pytest.mark.parametrize(
    ("most", "make"),
    [
        (limits.MODEL_TENSORS, lambda n: card(inputs=[tensor(name=f"i{k}") for k in range(n)])),
        (limits.MODEL_TENSORS, lambda n: card(outputs=[tensor(name=f"o{k}") for k in range(n)])),
        (limits.MODEL_RANK, lambda n: card(inputs=[tensor(shape=[1] * n)])),
        (limits.MODEL_EXTENT, lambda n: card(inputs=[tensor(shape=[n])])),
        (limits.MODEL_METRICS, lambda n: card(metrics={f"m{k}": 0.5 for k in range(n)})),
        (limits.MODEL_WARM_SECONDS, lambda n: card(warm=n)),
        (limits.RUNS, lambda n: card(runs=n)),
        (limits.COLUMNS, lambda n: card(columns=[f"c{k}" for k in range(n)])),
        (limits.COLUMN_CHARS, lambda n: card(licence="x" * n)),
        (limits.COLUMN_CHARS, lambda n: card(inputs=[tensor(name="x" * n)])),
        (limits.NAME_CHARS, lambda n: card(inputs=[tensor(shape=["x" * n])])),
    ],
)
def test_the_limits(most: int, make: Any) -> None:
    assert verify(dataset(make(most))).card
    with pytest.raises(Malformed):
        verify(dataset(make(most + 1)))
    if most == limits.RUNS:
        with pytest.raises(Malformed):
            verify(dataset(make(0)))


def test_a_card_fits_a_statement() -> None:
    wide = [f"{number:04}" + "x" * 96 for number in range(200)]
    for count in range(200, 0, -1):
        said = card(columns=wide[:count])
        if len(canonical(said)) <= limits.MODEL_CARD_BYTES:
            break
    assert verify(dataset(said)).card
    with pytest.raises(Malformed, match=f"at most {limits.MODEL_CARD_BYTES} bytes"):
        verify(dataset(card(columns=wide[: count + 1])))


def test_a_card_is_frozen() -> None:
    made = validate(ModelCard, card(), "card")
    with pytest.raises(ValidationError):
        made.runs = 7
    assert describe(made.inputs[0]) == "image:0 float32[batch, 3, 224, 224]"


@given(
    st.builds(
        dict,
        kind=st.sampled_from(KINDS),
        digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
        inputs=st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
                    "dtype": st.sampled_from(DTYPES),
                    "shape": st.lists(st.integers(0, 2**40) | st.sampled_from(["n", "批"]), max_size=4),
                }
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda item: item["name"],
        ),
        outputs=st.just([tensor()]),
        licence=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        metrics=st.dictionaries(
            st.from_regex(r"\A[a-z]{1,8}\Z"), st.floats(allow_nan=False, allow_infinity=False), max_size=3
        ),
    )
)
def test_each_card_has_one_form(said: dict[str, Any]) -> None:
    found = verify(dataset(said))
    assert found.card is not None
    assert canonical(found.card.model_dump(mode="json")) == canonical(said)
