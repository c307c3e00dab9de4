"""Packed rows by digest."""

from __future__ import annotations

import hashlib
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK

from mesatee.enclave.gateway.shelf import KEY, Shelf
from mesatee.errors import LogCorrupt


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


@QUICK
@given(st.lists(st.binary(max_size=40), max_size=300), st.integers(0, 400))
def test_a_shelf_is_a_dict_in_order(tails: list[bytes], other: int) -> None:
    shelf, plain = Shelf(), dict[bytes, bytes]()
    for number, tail in enumerate(tails):
        assert shelf.add(key(number) + tail) == number
        plain[key(number)] = tail
    assert len(shelf) == len(plain)
    assert list(shelf) == [head + tail for head, tail in plain.items()]
    for number in range(len(tails)):
        assert shelf.find(key(number)) == number
        assert shelf.row(number) == key(number) + tails[number]
    assert (shelf.find(key(other)) is None) == (other >= len(tails))
    again = Shelf()
    for row in shelf:
        again.add(row)
    assert again == shelf
    again.add(os.urandom(KEY))
    assert again != shelf


def test_a_key_is_there_once() -> None:
    shelf = Shelf()
    shelf.add(key(1) + b"x")
    for row in (key(1) + b"y", key(1), key(2)[:-1]):
        with pytest.raises(LogCorrupt):
            shelf.add(row)
    assert list(shelf) == [key(1) + b"x"]


def test_a_row_costs_little_beside_itself() -> None:
    shelf, count = Shelf(), 20_000
    for number in range(count):
        shelf.add(key(number) + b"0123456789")
    parts = (shelf._heap, shelf._ends, shelf._slots)
    assert sum(map(sys.getsizeof, parts)) < count * (KEY + 10 + 32)
