"""Sealed files (`rust/sealing`), with pyrage and a plain reading of the age specification as oracles."""

import hashlib
import io
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.age import (
    CHUNK,
    MANY,
    OURS,
    THEIRS,
    at_random,
    b64,
    bech32_public,
    everything,
    handmade,
    header_bytes,
    memory,
    seal,
    stanza,
    unseal,
)

from mesatee import _core
from mesatee.errors import HostFailed, KeyRefused, Malformed, MesateeError, SealedDataCorrupt, TooLarge
from mesatee.protocol import limits

SIZES = [0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1]
BIG_SIZES = [limits.MIB - 1, limits.MIB, limits.MIB + 1, 3 * limits.MIB + 17]

# -- round trips and interoperability ---------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES + BIG_SIZES)
def test_round_trip(size: int) -> None:
    plain = os.urandom(size)
    data, sealed = seal(plain, OURS.recipient)
    assert sealed.digest == hashlib.sha256(data).hexdigest()
    assert (sealed.size, sealed.plain_size) == (len(data), size)
    for key in (OURS, sealed.file_key):
        assert unseal(data, key) == plain
        assert at_random(data, key) == plain
    with memory(data) as source:
        assert unseal(data, _core.age_file_key(source, OURS)) == plain
        assert os.lseek(source, 0, os.SEEK_CUR) == 0
    assert pyrage.decrypt(data, [THEIRS]) == plain


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_pyrage_seals(size: int) -> None:
    plain = os.urandom(size)
    other = pyrage.x25519.Identity.generate()
    data = pyrage.encrypt(plain, [other.to_public(), THEIRS.to_public()])
    assert unseal(data, OURS) == plain
    with memory(data) as source:
        key = _core.age_file_key(source, OURS)
    assert unseal(data, key) == plain
    assert at_random(data, key) == plain


@settings(max_examples=30)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_of_several_recipients_opens(plain: bytes, which: int) -> None:
    keys = [_core.AgeKey.generate() for _ in range(4)]
    data, _ = seal(plain, *(key.recipient for key in keys))
    assert unseal(data, keys[which]) == plain
    with pytest.raises(KeyRefused):
        unseal(data, OURS)


def test_without_recipients_only_the_file_key_opens() -> None:
    data, sealed = seal(b"plain")
    assert b"-> file-key-grease\n" in data
    assert b"X25519" not in data
    assert unseal(data, sealed.file_key) == b"plain"
    for attempt in (unseal, at_random):
        with pytest.raises(KeyRefused):
            attempt(data, OURS)
    with memory(data) as source, pytest.raises(KeyRefused):
        _core.age_file_key(source, OURS)
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(data, [THEIRS])
    assert seal(b"plain")[0] != data


def test_a_passphrase_file_opens_with_no_key_of_ours() -> None:
    # A work factor of 2^30 would take hours if anybody tried it.
    scrypt = b"-> scrypt " + b64(bytes(16)) + b" 30\n" + b64(bytes(32)) + b"\n"
    refused(handmade(scrypt, b"K" * 16, [b"plain"]), OURS, KeyRefused)


def test_a_file_written_from_the_specification_opens() -> None:
    secret, plain = b"K" * 16, os.urandom(CHUNK + 5)
    data = handmade(stanza(secret, bech32_public(OURS)), secret, [plain[:CHUNK], plain[CHUNK:]])
    assert unseal(data, OURS) == plain
    assert at_random(data, OURS) == plain


# -- pipes and descriptors --------------------------------------------------------------------------


@contextmanager
def feeding(data: bytes, step: int) -> Iterator[int]:
    """The reading end of a pipe into which a thread writes `data` in small pieces."""
    reading, writing = os.pipe()

    def feed() -> None:
        try:
            for at in range(0, len(data), step):
                os.write(writing, data[at : at + step])
        except BrokenPipeError:
            pass
        finally:
            os.close(writing)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield reading
    finally:
        os.close(reading)
        thread.join()


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 7])
@pytest.mark.parametrize("step", [977, CHUNK])
def test_pipes(size: int, step: int) -> None:
    plain = os.urandom(size)
    with feeding(plain, step) as source, memory() as target:
        sealed = _core.age_seal(source, target, [OURS.recipient])
        data = everything(target)
    assert sealed.digest == hashlib.sha256(data).hexdigest()
    for key in (OURS, sealed.file_key):
        with feeding(data, step) as source, memory() as target:
            assert _core.age_open(source, target, key, size) == size
            assert everything(target) == plain
    with feeding(data, step) as source:
        assert unseal(data, _core.age_file_key(source, OURS)) == plain
    with feeding(data, step) as source, pytest.raises(Malformed, match="regular file"):
        _core.AgeReader(source, OURS)


def test_both_descriptors_stay_open_and_move_on() -> None:
    with memory(b"skipped+plain") as source, memory() as target:
        os.lseek(source, 8, os.SEEK_SET)
        os.write(target, b"before")
        sealed = _core.age_seal(source, target, [])
        assert os.lseek(target, 0, os.SEEK_CUR) == 6 + sealed.size
        os.lseek(target, 6, os.SEEK_SET)
        with memory() as out:
            assert _core.age_open(target, out, sealed.file_key, 5) == 5
            assert everything(out) == b"plain"


@pytest.mark.parametrize("fd", [-1, -(2**31), 1_000_000])
def test_closed_descriptors_are_malformed(fd: int) -> None:
    key = _core.FileKey
    with memory() as good:
        for call in (
            lambda: _core.age_seal(fd, good, []),
            lambda: _core.age_seal(good, fd, []),
            lambda: _core.age_open(fd, good, OURS, 1),
            lambda: _core.age_file_key(fd, OURS),
            lambda: _core.AgeReader(fd, OURS),
        ):
            with pytest.raises(Malformed, match="not open"):
                call()
        with pytest.raises(TypeError):
            _core.age_open(good, good, key, 1)  # type: ignore[arg-type]


def test_broken_targets_are_host_failures() -> None:
    data, sealed = seal(bytes(3 * limits.MIB))
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for target, reason in ((writing, "Broken pipe"), (full, "No space")):
            with memory(bytes(3 * limits.MIB)) as source, pytest.raises(HostFailed, match=reason):
                _core.age_seal(source, target, [])
            with memory(data) as source, pytest.raises(HostFailed, match=reason):
                _core.age_open(source, target, sealed.file_key, MANY)
        with memory() as target, pytest.raises(HostFailed, match="read the source"):
            _core.age_seal(full, target, [])
    finally:
        os.close(writing)
        os.close(full)


def test_a_target_that_may_not_grow_is_too_large(tmp_path: Path) -> None:
    program = """if True:
        import os, resource, sys
        from mesatee import _core, errors
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        source = os.open("/dev/zero", os.O_RDONLY)
        target = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        try:
            _core.age_seal(source, target, [])
        except errors.TooLarge as error:
            sys.exit(7)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "t")], check=False).returncode == 7


# -- progress ---------------------------------------------------------------------------------------


def test_progress_counts_plaintext() -> None:
    seen: list[int] = []
    size = 40 * limits.MIB + 3
    with memory(bytes(size)) as source, memory() as target:
        _core.age_seal(source, target, [], seen.append)
    assert seen == [16 * limits.MIB, 32 * limits.MIB, size]
    seen.clear()
    with memory() as source, memory() as target:
        _core.age_seal(source, target, [], seen.append)
    assert seen == []


def test_an_exception_from_progress_passes_through() -> None:
    class Own(Exception):
        pass

    def stop(_: int) -> None:
        raise Own("enough")

    with open("/dev/zero", "rb") as source, memory() as target:  # noqa: PTH123
        with pytest.raises(Own, match="enough"):
            _core.age_seal(source.fileno(), target, [], stop)
        assert os.fstat(target).st_size < 20 * limits.MIB


def test_a_signal_ends_a_blocked_read() -> None:
    program = """if True:
        import os, signal, sys
        from mesatee import _core
        reading, writing = os.pipe()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        def ring(*_): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, ring)
        try:
            _core.age_seal(reading, os.memfd_create("t"), [])
        except KeyboardInterrupt:
            sys.exit(7)
    """
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=20).returncode == 7


# -- limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, CHUNK, limits.MIB, limits.MIB + 1])
def test_plaintext_one_above_and_one_below(size: int) -> None:
    data, sealed = seal(bytes(size))
    assert len(unseal(data, sealed.file_key, size)) == size
    with memory(data) as source, memory() as target:
        with pytest.raises(TooLarge):
            _core.age_open(source, target, sealed.file_key, size - 1)
        assert os.fstat(target).st_size <= size - 1


def test_recipients_one_above_and_one_below() -> None:
    recipients = [OURS.recipient] * limits.AGE_RECIPIENTS
    data, _ = seal(b"plain", *recipients)
    assert unseal(data, OURS) == b"plain"
    with pytest.raises(TooLarge):
        seal(b"plain", *recipients, OURS.recipient)


def padded(length: int) -> bytes:
    """A file whose header, without the nonce, has `length` bytes."""
    secret = b"K" * 16
    ours = stanza(secret, bech32_public(OURS))
    rest = length - len(handmade(ours, secret, [])) + 16
    return handmade(ours + b"-> " + b"x" * (rest - 5) + b"\n\n", secret, [b"plain"])


def test_header_bytes_one_above_and_one_below() -> None:
    fits = padded(limits.AGE_HEADER_BYTES)
    assert header_bytes(fits) == limits.AGE_HEADER_BYTES
    assert unseal(fits, OURS) == b"plain"
    assert at_random(fits, OURS) == b"plain"
    for attempt in (unseal, at_random):
        with pytest.raises(TooLarge):
            attempt(padded(limits.AGE_HEADER_BYTES + 1), OURS)


def test_header_lines_one_above_and_one_below() -> None:
    secret = b"K" * 16
    # Version, two lines of our stanza, MAC: an even number of lines is left for stanzas of two lines.
    ours, grease = stanza(secret, bech32_public(OURS)), b"-> x\n\n" * ((limits.AGE_HEADER_LINES - 4) // 2)
    assert unseal(handmade(ours + grease, secret, [b"plain"]), OURS) == b"plain"
    longer = handmade(ours + grease + b"-> x\n" + b"A" * 64 + b"\n\n", secret, [b"plain"])
    with pytest.raises(TooLarge):
        unseal(longer, OURS)


@pytest.mark.parametrize("text", ["", "age1", "AGE1", "hunter2", "age1" + "q" * 58, "ssh-ed25519 AAAA"])
def test_wrong_recipients_are_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="age X25519 recipient"):
        seal(b"", OURS.recipient, text)


def test_an_identity_is_no_recipient_and_is_not_repeated() -> None:
    with pytest.raises(Malformed) as caught:
        seal(b"", str(THEIRS))
    assert str(THEIRS)[16:] not in f"{caught.value!r}"


# -- hostile input ----------------------------------------------------------------------------------


def refused(data: bytes, key: _core.FileKey | _core.AgeKey, *classes: type[MesateeError]) -> None:
    for attempt in (unseal, at_random):
        with pytest.raises(classes):
            attempt(data, key)


PLAIN = bytes(range(256)) * 512
SEALED, MADE = seal(PLAIN, OURS.recipient)
FILE_KEY = MADE.file_key
HEADER = header_bytes(SEALED)
POSITIONS = st.one_of(
    st.integers(0, HEADER + 16),
    st.integers(0, len(SEALED) - 1),
    st.sampled_from([HEADER + 16 + CHUNK, HEADER + 16 + CHUNK + 16, len(SEALED) - 1]),
)


@settings(max_examples=150)
@given(POSITIONS, st.integers(1, 255))
def test_a_flip_anywhere_is_noticed(at: int, flip: int) -> None:
    bad = SEALED[:at] + bytes([SEALED[at] ^ flip]) + SEALED[at + 1 :]
    refused(bad, FILE_KEY, SealedDataCorrupt, Malformed)
    refused(bad, OURS, SealedDataCorrupt, Malformed, KeyRefused)
    if at >= HEADER:
        with pytest.raises(SealedDataCorrupt):
            unseal(bad, OURS)


@settings(max_examples=150)
@given(POSITIONS)
def test_a_cut_anywhere_is_noticed(at: int) -> None:
    for key in (FILE_KEY, OURS):
        refused(SEALED[:at], key, *([SealedDataCorrupt] if at else [Malformed]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("extra", [b"\0", bytes(16), bytes(17), bytes(CHUNK + 16)])
def test_an_extension_is_noticed(size: int, extra: bytes) -> None:
    data, sealed = seal(bytes(size))
    refused(data + extra, sealed.file_key, SealedDataCorrupt)


def test_chunks_cannot_be_dropped_swapped_or_repeated() -> None:
    data, sealed = seal(os.urandom(3 * CHUNK + 9))
    start, step = header_bytes(data) + 16, CHUNK + 16
    one, two, three, last = (data[start + i * step : start + (i + 1) * step] for i in range(4))
    head = data[:start]
    for chunks in (
        (one, two, three),
        (two, one, three, last),
        (one, three, last),
        (one, two, three, three, last),
    ):
        refused(head + b"".join(chunks), sealed.file_key, SealedDataCorrupt)


def test_an_empty_last_chunk_is_refused_by_both_readers() -> None:
    secret = b"K" * 16
    ours = stanza(secret, bech32_public(OURS))
    refused(handmade(ours, secret, [bytes(CHUNK), b""]), OURS, SealedDataCorrupt)
    refused(handmade(ours, secret, [bytes(CHUNK), bytes(CHUNK), b""]), OURS, SealedDataCorrupt)
    assert (
        unseal(handmade(ours, secret, [b""]), OURS) == at_random(handmade(ours, secret, [b""]), OURS) == b""
    )
    refused(handmade(ours, secret, []), OURS, SealedDataCorrupt)


def test_wrong_keys() -> None:
    refused(SEALED, seal(b"")[1].file_key, SealedDataCorrupt)
    refused(SEALED, _core.AgeKey.generate(), KeyRefused)


def test_armor_is_named() -> None:
    armored = pyrage.encrypt(b"plain", [THEIRS.to_public()], armored=True)
    with pytest.raises(Malformed, match="armor"):
        unseal(armored, OURS)


LINES = st.sampled_from(
    [
        *(b"age-encryption.org/v%d\n" % version for version in (1, 2)),
        *(b"A" * length + b"\n" for length in (0, 1, 22, 43, 63, 64, 65)),
        *(b"--- " + b"A" * length + b"\n" for length in (0, 42, 43, 44)),
        *(b"-> X25519 " + b"A" * length + b"\n" for length in (0, 43, 44)),
        *(b"-> scrypt " + b"A" * 22 + b" 30\n", b"-> x y z\n", b"->\n", b"-> \n", b"---\n"),
        *(b"\xff\xfe\n", b"\r\n", bytes(20)),
    ]
)


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.lists(LINES, max_size=12).map(b"".join)
    | st.lists(LINES, max_size=12).map(lambda lines: b"age-encryption.org/v1\n" + b"".join(lines) + bytes(40))
)
def test_any_header_raises_our_errors_only(data: bytes) -> None:
    for key in (FILE_KEY, OURS):
        refused(data, key, Malformed, SealedDataCorrupt, KeyRefused)
    with memory(data) as source, pytest.raises((Malformed, SealedDataCorrupt, KeyRefused)):
        _core.age_file_key(source, OURS)


@settings(max_examples=200)
@given(st.data())
def test_mutated_headers_raise_our_errors_only(data: st.DataObject) -> None:
    bad = bytearray(SEALED[: HEADER + 16 + CHUNK])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, HEADER))
        bad[at : at + data.draw(st.integers(0, 70))] = data.draw(st.binary(max_size=3) | LINES)
    refused(bytes(bad), OURS, Malformed, SealedDataCorrupt, KeyRefused)


def test_a_stanza_with_a_share_of_low_order_is_refused() -> None:
    secret = b"K" * 16
    for share in (bytes(32), b"\1" + bytes(31)):
        evil = b"-> X25519 " + b64(share) + b"\n" + b64(bytes(32)) + b"\n"
        refused(handmade(evil, secret, [b"plain"]), OURS, Malformed, KeyRefused)


# -- random access ----------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(PLAIN) + 10)
            | st.sampled_from([0, CHUNK - 1, CHUNK, CHUNK + 1, len(PLAIN), 2**63]),
            st.integers(0, 2 * CHUNK) | st.sampled_from([0, 1, CHUNK, 2**63]),
        ),
        max_size=8,
    )
)
@pytest.mark.parametrize("cut", [0, 1, CHUNK, CHUNK + 1])
def test_ranges_are_those_of_the_plaintext(cut: int, ranges: list[tuple[int, int]]) -> None:
    plain = PLAIN[: len(PLAIN) - cut]
    if cut not in READERS:
        with memory(seal(plain, OURS.recipient)[0]) as source:
            READERS[cut] = _core.AgeReader(source, OURS)
    reader = READERS[cut]
    assert reader.size == len(plain)
    for offset, length in ranges:
        assert reader.read_at(offset, length) == plain[offset : offset + length]


READERS: dict[int, _core.AgeReader] = {}


def test_a_reader_notices_what_changes_beneath_it(tmp_path: Path) -> None:
    data, sealed = seal(PLAIN)
    start = header_bytes(data) + 16
    changes: list[Callable[[int], Any]] = [
        lambda fd: os.pwrite(fd, b"\0\0\0\0", start + 9),
        lambda fd: os.ftruncate(fd, start + 100),
        lambda fd: os.ftruncate(fd, 0),
    ]
    for index, change in enumerate(changes):
        path = tmp_path / str(index)
        path.write_bytes(data)
        fd = os.open(path, os.O_RDWR)
        reader = _core.AgeReader(fd, sealed.file_key)
        change(fd)
        os.close(fd)
        with pytest.raises(SealedDataCorrupt):
            reader.read_at(0, 10)
        with pytest.raises(SealedDataCorrupt, match="earlier"):
            reader.read_at(CHUNK, 10)


def test_readers_serve_several_threads() -> None:
    with memory(SEALED) as source:
        reader = _core.AgeReader(source, FILE_KEY)
    wrong: list[int] = []

    def read(offset: int) -> None:
        for at in range(offset, len(PLAIN), 9973):
            if reader.read_at(at, 100) != PLAIN[at : at + 100]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_stays_constant() -> None:
    """256 MiB are sealed within a few buffers."""
    program = """if True:
        import os, resource
        from mesatee import _core
        source = os.memfd_create("s")
        os.ftruncate(source, 256 << 20)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _core.age_seal(source, writing, [])
            os._exit(0)
        os.close(writing)
        while os.read(reading, 1 << 20):
            pass
        os.waitpid(pid, 0)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    """
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60).stdout
    assert int(out) < 64 * 1024


def test_pyrage_reads_our_stream() -> None:
    data, _ = seal(PLAIN, OURS.recipient)
    out = io.BytesIO()
    pyrage.decrypt_io(io.BytesIO(data), out, [THEIRS])
    assert out.getvalue() == PLAIN
