"""Frames between the trusted side and the host: round trips, cuts, garbage, each limit from both sides."""

from __future__ import annotations

import doctest
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import errors
from mesatee.errors import (
    Conflict,
    HostFailed,
    Malformed,
    NotApproved,
    NotFound,
    TooLarge,
    UnsupportedVersion,
)
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Record
from mesatee.protocol.frames import Decoder, Frame, Op

ALLOWED = (Malformed, TooLarge, UnsupportedVersion)


def _field(least: int, most: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=least, max_size=min(most, least + 200))


@st.composite
def any_frame(draw: st.DrawFn) -> Frame:
    op = draw(st.sampled_from(Op))
    shape = frames._SHAPES[op]
    if op is Op.RECORDS:
        shape *= draw(st.integers(0, 5))
    fields = tuple(draw(_field(*bounds)) for bounds in shape)
    return Frame(op, draw(st.integers(0, 2**32 - 1)), fields)


def _raw(op: int, request: int, fields: list[bytes], **changes: int) -> bytes:
    payload = struct.pack(f">{len(fields)}I", *map(len, fields)) + b"".join(fields)
    values = {"version": frames.VERSION, "count": len(fields), "length": len(payload)} | changes
    return (
        struct.pack(">4sBBHII", b"MTEE", values["version"], op, values["count"], request, values["length"])
        + payload
    )


def test_doctest() -> None:
    assert doctest.testmod(frames).failed == 0


@given(st.lists(any_frame(), max_size=4), st.data())
def test_round_trip_however_it_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(frames.encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent
    assert decoder.idle


@given(any_frame())
def test_truncated_frame_is_never_a_frame_and_says_what_it_wants(frame: Frame) -> None:
    whole = frames.encode(frame)
    for end in range(len(whole)):
        decoder = Decoder()
        assert decoder.feed(whole[:end]) == []
        assert 0 < decoder.wanted <= len(whole) - end
    decoder = Decoder()
    position = 0
    while position < len(whole):
        step = decoder.wanted
        result = decoder.feed(whole[position : position + step])
        position += step
    assert result == [frame]


@given(st.binary(max_size=300))
def test_garbage_raises_our_errors_only(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
    except ALLOWED:
        with pytest.raises(ALLOWED):
            decoder.feed(b"")


@settings(max_examples=300)
@given(any_frame(), st.data())
def test_altered_frame_raises_our_errors_only(frame: Frame, data: st.DataObject) -> None:
    whole = bytearray(frames.encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = Decoder().feed(bytes(whole))
    except ALLOWED:
        return
    # Whatever is accepted is canonical: it encodes to the same bytes.
    assert (
        b"".join(map(frames.encode, decoded)) == bytes(whole)[: sum(len(frames.encode(f)) for f in decoded)]
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n", Malformed),
        (b"X", Malformed),
        (_raw(Op.HEAD, 1, [], version=0), UnsupportedVersion),
        (_raw(Op.HEAD, 1, [], version=frames.VERSION - 1), UnsupportedVersion),
        (_raw(Op.HEAD, 1, [], version=frames.VERSION + 1), UnsupportedVersion),
        (_raw(0x00, 1, []), Malformed),
        (_raw(0x7F, 1, []), Malformed),
        (_raw(Op.HEAD, 1, [b"x"]), Malformed),
        (_raw(Op.READ, 1, [bytes(8)]), Malformed),
        (_raw(Op.READ, 1, [bytes(8), bytes(7)]), Malformed),
        (_raw(Op.READ, 1, [bytes(8), bytes(9)]), TooLarge),
        (_raw(Op.RECORDS, 1, [bytes(64)]), Malformed),
        (_raw(Op.RECORDS, 1, [bytes(63), b""]), Malformed),
        (_raw(Op.RECORDS, 1, [bytes(65), b""]), TooLarge),
        (_raw(Op.DATA, 1, [b""]), Malformed),
        (_raw(Op.DATA, 1, [b"abc"], count=2), Malformed),
        (_raw(Op.DATA, 1, [b"abc", b"de"], count=1), Malformed),
        (_raw(Op.OK, 1, [], count=1), Malformed),
        (_raw(Op.OK, 1, [], length=0xFFFFFFFF), TooLarge),
        (_raw(Op.RECORDS, 1, [], count=0xFFFF), TooLarge),
        (_raw(Op.DATA, 1, [], count=1, length=4) + struct.pack(">I", 0xFFFFFFFF), Malformed),
    ],
)
def test_hostile_frames(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        Decoder().feed(data)


def test_oversize_is_refused_from_the_header_alone() -> None:
    room = limits.FRAME_BYTES - frames.HEADER.size
    header = _raw(Op.DATA, 1, [], count=1, length=room)
    assert Decoder().feed(header) == []
    with pytest.raises(TooLarge):
        Decoder().feed(_raw(Op.DATA, 1, [], count=1, length=room + 1))


def test_encode_refuses_what_a_decoder_would() -> None:
    body = bytes(limits.LOG_BODY_BYTES)
    full = [Record(bytes(64), body)] * 31
    assert len(frames.encode(frames.records_frame(1, full))) <= limits.FRAME_BYTES
    with pytest.raises(TooLarge):
        frames.encode(frames.records_frame(1, [*full, full[0]]))
    for request in (-1, 2**32):
        with pytest.raises(Malformed):
            frames.encode(Frame(Op.HEAD, request))


@pytest.mark.parametrize(
    ("op", "fields", "limit"),
    [
        (Op.DATA, (b"{}",), limits.BLOB_CHUNK_BYTES),
        (Op.QUEUE_PUT, (b"{}",), limits.TICKET_BYTES),
        (Op.QUEUE_ACK, (b"{}",), limits.LEASE_ID_CHARS),
        (Op.HEAD_IS, (bytes(8), b"{}"), limits.CHECKPOINT_BYTES),
        (Op.APPEND, (bytes(8), bytes(8), b"{}"), limits.CHECKPOINT_BYTES),
        (Op.RECORDS, (bytes(64), b"{}"), limits.LOG_BODY_BYTES),
        (Op.ERROR, (b"conflict", b"{}"), limits.HOST_MESSAGE_BYTES),
    ],
)
def test_field_limits(op: Op, fields: tuple[bytes, ...], limit: int) -> None:
    def with_size(size: int) -> Frame:
        return Frame(op, 1, tuple(bytes(size) if field == b"{}" else field for field in fields))

    fitting = with_size(limit)
    assert Decoder().feed(frames.encode(fitting)) == [fitting]
    with pytest.raises(TooLarge):
        frames.encode(with_size(limit + 1))
    with pytest.raises(TooLarge):
        Decoder().feed(_raw(op, 1, list(with_size(limit + 1).fields)))


def test_frame_fields_limit() -> None:
    records = [Record(bytes(64), b"")] * limits.LOG_BATCH
    whole = frames.encode(frames.records_frame(1, records))
    assert frames.frame_records(Decoder().feed(whole)[0]) == records
    with pytest.raises(TooLarge):
        frames.encode(frames.records_frame(1, [*records, records[0]]))
    with pytest.raises(TooLarge):
        Decoder().feed(_raw(Op.RECORDS, 1, [field for record in [*records, records[0]] for field in record]))


# -- values ------------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1))
def test_integers_round_trip(value: int) -> None:
    assert frames.unpack_int(frames.pack_int(value)) == value


def test_integer_limits() -> None:
    for value in (-1, 2**63):
        with pytest.raises(Malformed):
            frames.pack_int(value)
    for field in (b"", bytes(7), bytes(9), (2**63).to_bytes(8, "big"), b"\xff" * 8):
        with pytest.raises(Malformed):
            frames.unpack_int(field)


@given(st.floats(0, limits.LEASE_SECONDS))
def test_seconds_are_never_cut_to_zero(seconds: float) -> None:
    back = frames.unpack_seconds(frames.pack_seconds(seconds))
    assert seconds <= back + 1e-6
    assert back <= seconds + 0.001001


def test_seconds_limits() -> None:
    assert frames.check_seconds(limits.LEASE_SECONDS) == limits.LEASE_SECONDS
    with pytest.raises(TooLarge):
        frames.check_seconds(limits.LEASE_SECONDS + 0.001)
    with pytest.raises(TooLarge):
        frames.unpack_seconds(frames.pack_int(limits.LEASE_SECONDS * 1000 + 1))
    for seconds in (-0.001, float("nan"), float("-inf")):
        with pytest.raises(Malformed):
            frames.check_seconds(seconds)
    with pytest.raises(TooLarge):
        frames.check_seconds(float("inf"))


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        "a" * 64 + "\n",
        "../" * 21 + "a",
        "a" * 63 + "\x00",
        "é" * 64,
        "٣" * 64,
    ],
)
def test_digest_is_64_hex_digits_and_nothing_else(digest: str) -> None:
    with pytest.raises(Malformed):
        frames.check_digest(digest)


@pytest.mark.parametrize("lease", ["", "a b", "a/b", "ä", "a\n", "'"])
def test_lease_ids(lease: str) -> None:
    with pytest.raises(Malformed):
        frames.check_lease_id(lease)
    with pytest.raises(Malformed):
        frames.unpack_lease_id(lease.encode())


def test_lease_id_limit() -> None:
    assert frames.check_lease_id("a" * limits.LEASE_ID_CHARS)
    with pytest.raises(TooLarge):
        frames.check_lease_id("a" * (limits.LEASE_ID_CHARS + 1))


def test_blob_limits() -> None:
    assert frames.check_size(limits.BLOB_BYTES) == limits.BLOB_BYTES
    with pytest.raises(TooLarge):
        frames.check_size(limits.BLOB_BYTES + 1)
    with pytest.raises(Malformed):
        frames.check_size(-1)
    assert frames.check_range(5, None) == limits.BLOB_BYTES
    assert frames.check_range(5, 7) == 7
    for start, length in ((-1, None), (0, -1), (2**63, None)):
        with pytest.raises(Malformed):
            frames.check_range(start, length)


def test_append_limits() -> None:
    record = Record(bytes(limits.LOG_ENTRY_BYTES), bytes(limits.LOG_BODY_BYTES))
    frames.check_append(0, [record] * limits.LOG_BATCH, bytes(limits.CHECKPOINT_BYTES))
    with pytest.raises(TooLarge):
        frames.check_append(0, [record] * (limits.LOG_BATCH + 1), b"")
    with pytest.raises(TooLarge):
        frames.check_append(0, [], bytes(limits.CHECKPOINT_BYTES + 1))
    with pytest.raises(TooLarge):
        frames.check_append(0, [Record(record.entry, record.body + b"x")], b"")
    with pytest.raises(TooLarge):
        frames.check_append(0, [Record(record.entry + b"x", b"")], b"")
    with pytest.raises(Malformed):
        frames.check_append(0, [Record(record.entry[1:], b"")], b"")
    for expected in (-1, 2**63 - 1):
        with pytest.raises(Malformed):
            frames.check_append(expected, [], b"")


@given(st.lists(st.integers(0, limits.LOG_BODY_BYTES), max_size=80))
@settings(max_examples=30)
def test_append_is_cut_into_frames_that_fit(sizes: list[int]) -> None:
    records = [Record(bytes(64), bytes(size)) for size in sizes]
    first, *rest = frames.append_frames(9, 4, records, b"head")
    assert (frames.unpack_int(first.fields[0]), frames.unpack_int(first.fields[1])) == (4, len(records))
    assert all(len(frames.encode(frame)) <= limits.FRAME_BYTES for frame in rest)
    assert [record for frame in rest for record in frames.frame_records(frame)] == records


@given(st.lists(st.integers(0, 3 * limits.BLOB_CHUNK_BYTES), max_size=5))
@settings(max_examples=20)
def test_cut_keeps_the_bytes_and_fills_every_piece_but_the_last(sizes: list[int]) -> None:
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    pieces = list(frames.cut(chunks))
    assert b"".join(pieces) == b"".join(chunks)
    assert all(len(piece) == limits.BLOB_CHUNK_BYTES for piece in pieces[:-1])
    assert all(pieces)


# -- refusals ----------------------------------------------------------------------------------------


def test_only_errors_of_the_closed_list_cross() -> None:
    frame = frames.error_frame(3, Conflict("taken"))
    assert isinstance(frames.frame_error(frame, (Conflict,)), Conflict)
    assert type(frames.frame_error(frame, (NotFound,))) is HostFailed
    assert frames.error_frame(3, NotApproved("x")).fields[0] == b"host_failed"
    hostile = Frame(Op.ERROR, 3, (b"fork_detected", b"stop\x1b[2J\n{}\xff"))
    error = frames.frame_error(hostile, (Conflict,))
    assert type(error) is HostFailed
    assert error.message == "the host says: stop?[2J?{}?"


@given(st.text(max_size=600))
def test_any_message_fits_a_frame(message: str) -> None:
    frame = frames.error_frame(1, errors.HostFailed(message))
    assert Decoder().feed(frames.encode(frame)) == [frame]
