"""Intersection in a scratch file: what it finds is what is found in memory."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee._core import KeyRows, KeySpill
from mesatee.batches import Batches
from mesatee.enclave.functions import _scratch
from mesatee.enclave.functions.psi import psi
from mesatee.errors import Malformed, SealedDataCorrupt, Unavailable
from mesatee.protocol import limits
from mesatee.table import Table

LITTLE = limits.MIB
"""Memory of a run; a quarter of it holds pages of a thousand keys or so."""
COLUMN = st.lists(st.none() | st.integers(-40, 40), max_size=300)
WORDS = st.lists(st.none() | st.text("ab \0é", max_size=9), max_size=60)


@pytest.fixture(autouse=True)
def scratch(tmp_path):
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    _scratch.give_scratch(fd, limits.GIB, LITTLE)
    yield fd
    _scratch._GIVEN.scratch = None
    os.close(fd)


def pieces(arrow, rows):
    """A table that comes `rows` at a time."""
    return Batches(lambda: iter(arrow.to_batches(max_chunksize=rows)), arrow.schema)


def whole(found):
    """What came piece by piece."""
    if isinstance(found, Table):
        return found.to_dict()
    return pa.concat_tables([piece.to_arrow() for piece in found]).to_pydict()


def check(tables, rows, **arguments):
    """The same in memory and in the scratch file."""
    in_memory = psi({name: Table(arrow) for name, arrow in tables.items()}, **arguments)
    spilled = psi({name: pieces(arrow, rows) for name, arrow in tables.items()}, **arguments)
    assert whole(spilled) == in_memory.to_dict()


def named(columns, kind):
    return {f"p{number}": pa.table({"id": pa.array(values, kind)}) for number, values in enumerate(columns)}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(COLUMN, min_size=2, max_size=5),
    st.integers(1, 90),
    st.sampled_from(["intersection", "difference", "cardinality", "union"]),
)
def test_numbers_of_several_parties(columns, rows, mode):
    check(named(columns, pa.int32()), rows, key="id", mode=mode)


@settings(deadline=None, max_examples=30)
@given(st.lists(WORDS, min_size=2, max_size=3), st.integers(1, 30), st.sampled_from([[], "email"]))
def test_text(columns, rows, rules):
    check(named(columns, pa.string()), rows, key="id", normalise=rules)


def test_keys_of_two_columns_and_floating_numbers():
    left = pa.table({"n": [0.0, 1.5, None, -2.5] * 20, "t": ["a", "b", "c", "d"] * 20})
    right = pa.table({"x": [-0.0, 1.5, -2.5], "y": ["a", "c", "d"]})
    check({"a": left, "b": right}, 7, key={"a": ["n", "t"], "b": ["x", "y"]})


def test_more_pages_than_are_held():
    """Also of duplicates only, of one key alone, and of nothing in common."""
    many = list(range(40_000))
    for left, right in ((many, many[::-2]), ([5] * 40_000, many), ([1] * 9000, [2] * 30_000)):
        check(named([left, right], pa.int64()), 8000, key="id")


def test_the_counts_are_those_of_memory(capsys):
    columns = named([[1, 1, None, 2], [2, 3, 3]], pa.int64())
    psi({name: Table(arrow) for name, arrow in columns.items()}, key="id")
    in_memory = capsys.readouterr().err.splitlines()
    psi({name: pieces(arrow, 2) for name, arrow in columns.items()}, key="id")
    said, *spilled = capsys.readouterr().err.splitlines()
    assert "scratch file" in said
    assert spilled == in_memory


def test_nothing_of_a_key_stands_in_the_file(scratch):
    canary = int.from_bytes(b"canary!!", "little", signed=True)
    check(named([[canary] * 50_000, [canary]], pa.int64()), 10_000, key="id")
    stored = os.pread(scratch, os.fstat(scratch).st_size, 0)
    assert len(stored) > limits.MIB // 2
    # Sorted keys have their sign bit turned, so that the last byte is another.
    assert b"canary!" not in stored


def numbers(*values):
    return KeyRows([b"".join(value.to_bytes(8, "little") for value in values)], b"\1" * len(values))


def filled(fd, **limits_):
    sets = KeySpill(fd, numbers(1), **{"hold_bytes": LITTLE // 8, "file_bytes": limits.GIB} | limits_)
    for party in range(2):
        for start in range(0, 30_000, 1000):
            sets.add(party, numbers(*range(start, start + 1000)))
    return sets


def test_an_altered_page_is_an_error(scratch):
    sets = filled(scratch)
    os.pwrite(scratch, bytes([os.pread(scratch, 1, 5000)[0] ^ 1]), 5000)
    with pytest.raises(SealedDataCorrupt, match="not what was written"):
        sets.combine(2)


def test_pages_that_changed_places_are_an_error(scratch):
    sets = filled(scratch)
    page = os.fstat(scratch).st_size // 2
    whole_file = os.pread(scratch, 2 * page, 0)
    os.pwrite(scratch, whole_file[page:] + whole_file[:page], 0)
    with pytest.raises(SealedDataCorrupt):
        sets.combine(2)


def test_a_full_file_is_an_error(scratch):
    with pytest.raises(Unavailable, match="full"):
        filled(scratch, file_bytes=limits.KIB)


def test_what_is_not_matched_in_a_file():
    columns = {name: pieces(arrow, 5) for name, arrow in named([[1], [1]], pa.int64()).items()}
    with pytest.raises(Malformed, match="in memory"):
        psi(columns, key="id", mode="bitmap")
    with pytest.raises(Malformed, match="in memory"):
        psi(columns, key="id", leakage="access-pattern")
    wide = {name: pieces(arrow, 5) for name, arrow in named([["x" * 33], ["x"]], pa.string()).items()}
    with pytest.raises(Malformed, match="32 bytes"):
        psi(wide, key="id")
    _scratch._GIVEN.scratch = None
    with pytest.raises(Malformed, match="no scratch file"):
        psi(columns, key="id")


def test_what_the_kernels_refuse(scratch):
    sets = filled(scratch)
    with pytest.raises(Malformed, match="differ in width"):
        sets.add(0, KeyRows([bytes(8), bytes(8)], b"\1"))
    for parties in (0, 33):
        with pytest.raises(Malformed, match="too many"):
            sets.combine(parties)
    with pytest.raises(Malformed, match="too many"):
        sets.add(32, numbers(1))
    with pytest.raises(Malformed, match="not open"):
        filled(-1)
    with pytest.raises(Malformed):
        filled(scratch, hold_bytes=100)
    assert sets.take() is None
