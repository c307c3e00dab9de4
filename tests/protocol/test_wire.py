"""Messages of the API: frozen, strict, bounded, and parsed with our errors only."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel
from tests.support.mutate import QUICK, mutated

from mesatee.errors import Malformed, MesateeError
from mesatee.protocol import digests, limits, wire
from mesatee.protocol.digests import b64encode
from mesatee.protocol.jsonstrict import canonical, parse
from mesatee.protocol.model import Model, validate

MODELS = [
    value
    for value in vars(wire).values()
    if inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__ == wire.__name__
]
KEY = b64encode(bytes(digests.HPKE_PUBLIC_BYTES))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_message_is_frozen_strict_and_closed(model: type[BaseModel]) -> None:
    assert issubclass(model, Model)
    assert model.__doc__
    assert model.model_config["frozen"]
    assert model.model_config["strict"]
    assert model.model_config["extra"] == "forbid"
    for value in ({}, {"more": 1}, [], None, 1, "x"):
        with pytest.raises(Malformed):
            validate(model, value, "message")


@pytest.mark.parametrize(
    ("ticket", "key", "fits"),
    [
        ("QQ==", KEY, True),
        ("x" * (2 * limits.TICKET_BYTES), KEY, True),
        ("x" * (2 * limits.TICKET_BYTES + 1), KEY, False),
        ("QQ==", KEY[:-4], True),
        ("QQ==", b64encode(bytes(digests.HPKE_PUBLIC_BYTES + 1)), False),
        ("QQ==", KEY[:-8] + "!!!!!!==", False),
        (1, KEY, False),
        ("QQ==", None, False),
    ],
    ids=lambda _: "case",
)
def test_a_grant_request(ticket: Any, key: Any, fits: bool) -> None:
    value = {"ticket": ticket, "attempt_key": key}
    if fits:
        validate(wire.GrantRequest, value, "request")
    else:
        with pytest.raises(Malformed):
            validate(wire.GrantRequest, value, "request")


def test_a_proof_as_long_as_allowed_and_one_more() -> None:
    path = ["0a" * 32] * limits.PROOF_HASHES
    validate(wire.ProofReply, {"first": 1, "second": 2, "path": path}, "proof")
    with pytest.raises(Malformed):
        validate(wire.ProofReply, {"first": 1, "second": 2, "path": [*path, path[0]]}, "proof")


@QUICK
@given(mutated(canonical({"receipt": {"a": 1}, "wraps": {"result": b64encode(bytes(digests.WRAP_BYTES))}})))
def test_hostile_requests_raise_only_our_errors(data: bytes) -> None:
    try:
        found = validate(wire.FinishRequest, parse(data), "request")
    except MesateeError:
        return
    assert isinstance(found, wire.FinishRequest)
