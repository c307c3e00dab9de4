"""A wrap made for one purpose, blob, owner, run or receiver opens for no other."""

from __future__ import annotations

import itertools

import pytest
from tests.support.gateway import seal

from mesatee._core import HpkeKey
from mesatee.errors import KeyRefused, Malformed
from mesatee.protocol import wraps

A, B = "0a" * 32, "0b" * 32
BINDINGS = [
    wraps.upload("log", A, A),
    wraps.upload("log2", A, A),
    wraps.upload("log", B, A),
    wraps.upload("log", A, B),
    wraps.attempt_input("log", A, 1, "x", A),
    wraps.attempt_input("log", B, 1, "x", A),
    wraps.attempt_input("log", A, 2, "x", A),
    wraps.attempt_input("log", A, 1, "y", A),
    wraps.attempt_input("log", A, 1, "x", B),
    wraps.attempt_output("log", A, 1, "x", A),
    wraps.attempt_output("log", A, 2, "x", A),
    wraps.result("log", A, "x", A, A),
    wraps.result("log", A, "x", A, B),
    wraps.result("log", A, "y", A, A),
]


def test_no_two_bindings_are_the_same() -> None:
    assert len(set(BINDINGS)) == len(BINDINGS)


def test_a_wrap_opens_under_its_own_binding_only() -> None:
    key, other, sealed = HpkeKey.generate(), HpkeKey.generate(), seal(b"x")
    made = [sealed.key.wrap(key.public, binding.info, binding.aad) for binding in BINDINGS]
    for (one, wrap), (two, binding) in itertools.product(enumerate(made), enumerate(BINDINGS)):
        if one == two:
            key.unwrap_file_key(wrap, binding.info, binding.aad)
        else:
            with pytest.raises(KeyRefused):
                key.unwrap_file_key(wrap, binding.info, binding.aad)
    with pytest.raises(KeyRefused):
        other.unwrap_file_key(made[0], *BINDINGS[0])


@pytest.mark.parametrize("change", ["cut", "longer", "flip", "empty"])
def test_an_altered_wrap_is_refused(change: str) -> None:
    key = HpkeKey.generate()
    wrap = seal(b"x").key.wrap(key.public, *BINDINGS[0])
    altered = {
        "cut": wrap[:-1],
        "longer": wrap + b"x",
        "flip": bytes([wrap[0] ^ 1]) + wrap[1:],
        "empty": b"",
    }[change]
    with pytest.raises(KeyRefused if change == "flip" else Malformed):
        key.unwrap_file_key(altered, *BINDINGS[0])
