"""Sealed files in pieces: small ones are read whole, others as they come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee._core import FileKey, age_seal, memfd
from mesatee.enclave.worker.opening import WHOLE_BYTES, open_into, read_whole
from mesatee.errors import Corrupt, DigestMismatch, HostFailed, Malformed, MesateeError, TooLarge
from mesatee.protocol import limits

PIECE = limits.BLOB_CHUNK_BYTES
SIZES = (0, 1, 70_000, WHOLE_BYTES - 2_000, WHOLE_BYTES, 3 * PIECE + 17)


def sealed(plain: bytes) -> tuple[bytes, FileKey]:
    source, target = memfd("plain"), memfd("sealed")
    try:
        os.pwrite(source, plain, 0)
        made = age_seal(source, target, [])
        return os.pread(target, made.size, 0), made.file_key
    finally:
        os.close(source)
        os.close(target)


def pieces(data: bytes, length: int = PIECE) -> Iterator[bytes]:
    yield from (data[at : at + length] for at in range(0, len(data), length))


def opened(data: Iterator[bytes], sha256: str, size: int, key: FileKey) -> bytes:
    target = memfd("input")
    try:
        open_into(target, data, sha256, size, key)
        return os.pread(target, os.fstat(target).st_size + 1, 0)
    finally:
        os.close(target)


@pytest.mark.parametrize("size", SIZES)
def test_opens(size: int) -> None:
    plain = os.urandom(size)
    data, key = sealed(plain)
    assert opened(pieces(data), hashlib.sha256(data).hexdigest(), len(data), key) == plain


def test_sizes_are_on_both_sides() -> None:
    assert len({len(sealed(bytes(size))[0]) <= WHOLE_BYTES for size in SIZES}) == 2


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200_000), st.integers(1_000, 100_000))
def test_opens_however_it_is_cut(plain: bytes, length: int) -> None:
    data, key = sealed(plain)
    assert opened(pieces(data, length), hashlib.sha256(data).hexdigest(), len(data), key) == plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", ["flip", "cut", "more", "other", "nothing"])
def test_what_the_host_changed_is_refused(size: int, change: str) -> None:
    data, key = sealed(os.urandom(size))
    sha256, length = hashlib.sha256(data).hexdigest(), len(data)
    middle = length // 2
    given = {
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-1],
        "more": data + b"\0",
        "other": sealed(os.urandom(size + 1))[0],
        "nothing": b"",
    }[change]
    with pytest.raises((DigestMismatch, Corrupt, Malformed, TooLarge)):
        opened(pieces(given), sha256, length, key)


@pytest.mark.parametrize("size", SIZES)
def test_another_key_does_not_open(size: int) -> None:
    data, _ = sealed(bytes(size))
    with pytest.raises(MesateeError):
        opened(pieces(data), hashlib.sha256(data).hexdigest(), len(data), sealed(b"")[1])


@pytest.mark.parametrize("size", SIZES)
def test_a_host_that_fails_in_the_middle_is_said_and_leaves_nothing_open(size: int) -> None:
    data, key = sealed(bytes(size))

    def broken() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        raise HostFailed("it went")

    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises((HostFailed, Corrupt)):
        opened(broken(), hashlib.sha256(data).hexdigest(), len(data), key)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_bytes_are_the_ones_that_were_named_or_refused() -> None:
    named = hashlib.sha256(b"ab").hexdigest()
    assert read_whole([b"a", b"b"], named, 2) == b"ab"
    with pytest.raises(DigestMismatch):
        read_whole([b"a", b"c"], named, 2)


def test_of_a_host_that_sends_without_end_no_more_is_kept() -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1_000)

    with pytest.raises(DigestMismatch):
        read_whole(endless(), "00" * 32, 10_000)
    assert sent == 11
