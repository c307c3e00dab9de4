"""Frames between the trusted side and the host process (design, section 4: "small length-checked frames").

Pure: no socket, no clock. Either end takes the other for hostile; whatever the bytes, a decoder returns
frames or raises `Malformed`, `TooLarge` or `UnsupportedVersion`. All integers are big-endian::

    frame   = "MTEE" | version u8 | opcode u8 | fields u16 | request u32 | payload length u32 | payload
    payload = length u32 for each field | the fields' bytes

One connection carries one request at a time, and every answer repeats the request's number. `_SHAPES` says
which fields each opcode has; a frame of another shape is `Malformed`, so that behind the decoder no length
needs a second look.

    request                              answer
    APPEND expected count head           OK        (RECORDS frames follow until `count` are there)
    READ start limit                     RECORDS
    HEAD                                 HEAD_IS
    QUEUE_PUT ticket                     OK
    QUEUE_LEASE millis wait-millis       LEASED or NO_TICKET
    QUEUE_RENEW lease millis             OK
    QUEUE_ACK lease                      OK
    BLOB_PUT digest size                 OK        (DATA frames and END follow)
    BLOB_GET digest start length         SIZE, then that many bytes in DATA frames
    BLOB_SIZE digest                     SIZE
    BLOB_DISCARD digest                  OK
    any                                  ERROR code message

Every DATA frame of an answer but the last is full (`BLOB_CHUNK_BYTES`), so that a host cannot stretch a
transfer with crumbs. An ERROR before the end of a request's frames also closes the connection; request
number 0 means the connection.

>>> frame = Frame(Op.BLOB_SIZE, 7, (bytes(32),))
>>> Decoder().feed(encode(frame)) == [frame]
True
>>> Decoder().feed(b"GET / HTTP/1.1\\r\\n")
Traceback (most recent call last):
mesatee.errors.Malformed: not a frame: wrong magic
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum, unique
from itertools import accumulate, chain, pairwise
from typing import Final, NamedTuple

from mesatee.errors import (
    Conflict,
    DigestMismatch,
    HostFailed,
    Malformed,
    MesateeError,
    NotFound,
    TooLarge,
    UnsupportedVersion,
)
from mesatee.protocol import limits
from mesatee.protocol.doors import Record

MAGIC: Final = b"MTEE"
VERSION: Final = 2
HEADER: Final = struct.Struct(">4sBBHII")
_LENGTH: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LEASE_ID: Final = re.compile(r"[0-9A-Za-z_-]+")

INDEX_MAX: Final = 2**63 - 1
"""The largest index, size or duration in a frame: a signed 64-bit integer, as databases have it."""


@unique
class Op(IntEnum):
    """What a frame asks or answers."""

    APPEND = 0x10
    RECORDS = 0x11
    READ = 0x12
    HEAD = 0x13
    QUEUE_PUT = 0x20
    QUEUE_LEASE = 0x21
    QUEUE_RENEW = 0x22
    QUEUE_ACK = 0x23
    BLOB_PUT = 0x30
    BLOB_GET = 0x31
    BLOB_SIZE = 0x32
    BLOB_DISCARD = 0x33
    DATA = 0x40
    END = 0x41
    OK = 0x80
    HEAD_IS = 0x81
    LEASED = 0x82
    NO_TICKET = 0x83
    SIZE = 0x84
    ERROR = 0x8F


class Frame(NamedTuple):
    """One frame; `request` is the number that the asking side chose."""

    op: Op
    request: int
    fields: tuple[bytes, ...] = ()


_INT: Final = (8, 8)
_HASH: Final = (32, 32)
_HEAD: Final = (0, limits.CHECKPOINT_BYTES)
_TICKET: Final = (1, limits.TICKET_BYTES)
_LEASE: Final = (1, limits.LEASE_ID_CHARS)

_SHAPES: Final[Mapping[Op, tuple[tuple[int, int], ...]]] = {
    Op.APPEND: (_INT, _INT, _HEAD),
    Op.RECORDS: ((limits.LOG_ENTRY_BYTES, limits.LOG_ENTRY_BYTES), (0, limits.LOG_BODY_BYTES)),
    Op.READ: (_INT, _INT),
    Op.HEAD: (),
    Op.QUEUE_PUT: (_TICKET,),
    Op.QUEUE_LEASE: (_INT, _INT),
    Op.QUEUE_RENEW: (_LEASE, _INT),
    Op.QUEUE_ACK: (_LEASE,),
    Op.BLOB_PUT: (_HASH, _INT),
    Op.BLOB_GET: (_HASH, _INT, _INT),
    Op.BLOB_SIZE: (_HASH,),
    Op.BLOB_DISCARD: (_HASH,),
    Op.DATA: ((1, limits.BLOB_CHUNK_BYTES),),
    Op.END: (),
    Op.OK: (),
    Op.HEAD_IS: (_INT, _HEAD),
    Op.LEASED: (_LEASE, _TICKET),
    Op.NO_TICKET: (),
    Op.SIZE: (_INT,),
    Op.ERROR: ((1, 32), (0, limits.HOST_MESSAGE_BYTES)),
}
"""Each opcode's fields as (least, most) bytes. RECORDS repeats its pair."""

_REFUSALS: Final[Mapping[str, type[MesateeError]]] = {
    kind("").code: kind
    for kind in (Conflict, NotFound, DigestMismatch, HostFailed, Malformed, TooLarge, UnsupportedVersion)
}
"""The only errors that may cross; a host cannot make the trusted side raise anything else."""


def encode(frame: Frame) -> bytes:
    """The frame's bytes. Raises `Malformed` or `TooLarge` for what the other end would refuse."""
    if not 0 <= frame.request < 2**32:
        raise Malformed(f"request number {frame.request} is not a 32-bit integer")
    lengths = list(map(len, frame.fields))
    _check_shape(frame.op, lengths)
    size = len(lengths) * _LENGTH.size + sum(lengths)
    _check_size(size)
    header = HEADER.pack(MAGIC, VERSION, frame.op, len(lengths), frame.request, size)
    return b"".join((header, struct.pack(f">{len(lengths)}I", *lengths), *frame.fields))


class Decoder:
    """Turns received bytes into frames, however they were cut. Once it has raised it only raises again.

    It never holds more than one frame (`FRAME_BYTES`) beyond what was fed last.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed: MesateeError | None = None

    @property
    def wanted(self) -> int:
        """How many bytes the frame that has begun still needs at least; never 0."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        (length,) = _LENGTH.unpack_from(self._buffer, HEADER.size - _LENGTH.size)
        return HEADER.size + int(length) - len(self._buffer)

    @property
    def idle(self) -> bool:
        """No frame has begun."""
        return not self._buffer

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data` and return the frames that are now complete.

        Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
        """
        if self._failed is not None:
            raise type(self._failed)(self._failed.message)
        self._buffer += data
        frames = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except MesateeError as error:
            self._failed = type(error)(error.message)
            self._buffer = bytearray()
            raise
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < HEADER.size:
            if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
                raise Malformed("not a frame: wrong magic")
            return None
        op, count, request, length = _parse_header(bytes(self._buffer[: HEADER.size]))
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        # Both views are released even when this raises: a traceback that keeps one would lock the buffer.
        with memoryview(self._buffer) as view, view[HEADER.size : end] as payload:
            fields = _parse_fields(bytes(payload), count)
        _check_shape(op, list(map(len, fields)))
        del self._buffer[:end]
        return Frame(op, request, fields)


def _parse_header(header: bytes) -> tuple[Op, int, int, int]:
    magic, version, opcode, count, request, length = HEADER.unpack(header)
    if magic != MAGIC:
        raise Malformed("not a frame: wrong magic")
    if version != VERSION:
        raise UnsupportedVersion(f"frame version {version}, this side speaks version {VERSION}")
    try:
        op = Op(opcode)
    except ValueError:
        raise Malformed(f"unknown opcode {opcode:#04x}") from None
    _check_size(length)
    if count > limits.FRAME_FIELDS:
        raise TooLarge(f"frame of {count} fields, the limit is {limits.FRAME_FIELDS}")
    if length < count * _LENGTH.size:
        raise Malformed(f"{length} bytes cannot hold {count} fields")
    return op, count, request, length


def _parse_fields(payload: bytes, count: int) -> tuple[bytes, ...]:
    # The header promised room for the lengths. A replay of the log reads millions of fields: no step for each of them.
    lengths = struct.unpack_from(f">{count}I", payload)
    start = count * _LENGTH.size
    if start + sum(lengths) != len(payload):
        raise Malformed(f"fields of {sum(lengths)} bytes in a frame that has {len(payload) - start} for them")
    return tuple([payload[first:end] for first, end in pairwise(accumulate(lengths, initial=start))])


def _check_size(payload: int) -> None:
    if HEADER.size + payload > limits.FRAME_BYTES:
        raise TooLarge(f"frame of {HEADER.size + payload} bytes, the limit is {limits.FRAME_BYTES}")


def _fit(bounds: tuple[int, int], lengths: Sequence[int]) -> bool:
    return not lengths or (min(lengths) >= bounds[0] and max(lengths) <= bounds[1])


def _check_shape(op: Op, lengths: Sequence[int]) -> None:
    shape = _SHAPES[op]
    if op is Op.RECORDS:
        if len(lengths) > limits.FRAME_FIELDS:
            raise TooLarge(f"frame of {len(lengths)} fields, the limit is {limits.FRAME_FIELDS}")
        if len(lengths) % 2 == 0 and all(map(_fit, shape, (lengths[::2], lengths[1::2]))):
            return
        # Something is wrong; the following says what.
        shape *= len(lengths) // 2
    if len(lengths) != len(shape):
        raise Malformed(f"{op.name} has {len(lengths)} fields")
    for number, (length, (least, most)) in enumerate(zip(lengths, shape, strict=True)):
        if length > most:
            raise TooLarge(f"field {number} of {op.name} has {length} bytes, the limit is {most}")
        if length < least:
            raise Malformed(f"field {number} of {op.name} has {length} bytes, not {least}")


# -- the values within fields -----------------------------------------------------------------------


def pack_int(value: int) -> bytes:
    """An index, size or number of milliseconds. Raises `Malformed` unless 0 <= value <= `INDEX_MAX`."""
    if not 0 <= value <= INDEX_MAX:
        raise Malformed(f"{value} is not an index or size")
    return _U64.pack(value)


def unpack_int(field: bytes) -> int:
    """The reverse of `pack_int`. Raises `Malformed`."""
    if len(field) != _U64.size:
        raise Malformed(f"an integer has {_U64.size} bytes, not {len(field)}")
    value = int(_U64.unpack(field)[0])
    if value > INDEX_MAX:
        raise Malformed(f"{value} is over 2^63 - 1")
    return value


def pack_seconds(seconds: float) -> bytes:
    """Seconds as whole milliseconds, rounded up so that a short lease is no lease of zero."""
    return pack_int(math.ceil(check_seconds(seconds) * 1000))


def unpack_seconds(field: bytes) -> float:
    """The reverse of `pack_seconds`. Raises `Malformed` or `TooLarge`."""
    return check_seconds(unpack_int(field) / 1000)


def check_seconds(seconds: float) -> float:
    """A lease or a wait. Raises `Malformed` if negative or not a number, `TooLarge` over `LEASE_SECONDS`."""
    if not seconds >= 0:
        raise Malformed(f"{seconds} is not a duration")
    if seconds > limits.LEASE_SECONDS:
        raise TooLarge(f"{seconds} seconds, the limit is {limits.LEASE_SECONDS}")
    return float(seconds)


def check_ticket(ticket: bytes) -> bytes:
    """Raises `Malformed` if empty, `TooLarge` over `TICKET_BYTES`."""
    if not ticket:
        raise Malformed("a ticket has at least one byte")
    if len(ticket) > limits.TICKET_BYTES:
        raise TooLarge(f"ticket of {len(ticket)} bytes, the limit is {limits.TICKET_BYTES}")
    return ticket


def check_digest(digest: str) -> str:
    """A SHA-256 digest of 64 lower-case hex digits.

    Raises `Malformed`; whatever passes is safe as a file name.
    """
    if not _DIGEST.fullmatch(digest):
        raise Malformed("a digest has 64 lower-case hex digits")
    return digest


def check_size(size: int) -> int:
    """A blob's size. Raises `Malformed` if negative, `TooLarge` over `BLOB_BYTES`."""
    if size < 0:
        raise Malformed(f"{size} is not a size")
    if size > limits.BLOB_BYTES:
        raise TooLarge(f"blob of {size} bytes, the limit is {limits.BLOB_BYTES}")
    return size


def check_range(start: int, length: int | None) -> int:
    """A blob's range; the length, or `BLOB_BYTES` for all that follows. Raises `Malformed`."""
    if start < 0 or start > INDEX_MAX or (length is not None and length < 0):
        raise Malformed(f"from {start}, {length} bytes is not a range")
    return limits.BLOB_BYTES if length is None else min(length, limits.BLOB_BYTES)


def check_lease_id(lease: str) -> str:
    """The host's name for a lease. Raises `Malformed` or `TooLarge`."""
    if len(lease) > limits.LEASE_ID_CHARS:
        raise TooLarge(f"lease id of {len(lease)} characters, the limit is {limits.LEASE_ID_CHARS}")
    if not _LEASE_ID.fullmatch(lease):
        raise Malformed("a lease id has letters, digits, - and _ only")
    return lease


def unpack_lease_id(field: bytes) -> str:
    """A lease id out of a field. Raises `Malformed` or `TooLarge`."""
    return check_lease_id(field.decode("ascii", "replace"))


def check_append(expected: int, records: Sequence[Record], head: bytes) -> None:
    """What `Records.append` takes: at most `LOG_BATCH` records, none of them over its limits.

    Raises `Malformed` or `TooLarge`.
    """
    if not 0 <= expected <= INDEX_MAX - limits.LOG_BATCH:
        raise Malformed(f"{expected} is not an index")
    if len(records) > limits.LOG_BATCH:
        raise TooLarge(f"{len(records)} records in one append, the limit is {limits.LOG_BATCH}")
    if len(head) > limits.CHECKPOINT_BYTES:
        raise TooLarge(f"head of {len(head)} bytes, the limit is {limits.CHECKPOINT_BYTES}")
    for record in records:
        _check_shape(Op.RECORDS, (len(record.entry), len(record.body)))


def check_read(start: int, limit: int) -> int:
    """What `Records.read` takes; the limit cut to `LOG_BATCH`. Raises `Malformed`."""
    if not 0 <= start <= INDEX_MAX or limit < 0:
        raise Malformed(f"from {start}, {limit} records is not a range")
    return min(limit, limits.LOG_BATCH)


# -- records and blobs over several frames -------------------------------------------------------------


def record_cost(record: Record) -> int:
    """The bytes that a record takes in a frame's payload."""
    return 2 * _LENGTH.size + len(record.entry) + len(record.body)


def fit_records(records: Iterable[Record]) -> list[Record]:
    """The first of `records` that fit one frame."""
    fitting: list[Record] = []
    overhead = 2 * _LENGTH.size
    room = limits.FRAME_BYTES - HEADER.size
    for record in records:
        # As `record_cost`; a replay of the log passes here a million times.
        room -= overhead + len(record[0]) + len(record[1])
        if room < 0 or len(fitting) == limits.LOG_BATCH:
            break
        fitting.append(record)
    return fitting


def records_frame(request: int, records: Iterable[Record]) -> Frame:
    """One RECORDS frame."""
    return Frame(Op.RECORDS, request, tuple(chain.from_iterable(records)))


def frame_records(frame: Frame) -> list[Record]:
    """The records of a RECORDS frame that came out of a `Decoder`."""
    return list(map(Record, frame.fields[::2], frame.fields[1::2]))


def append_frames(request: int, expected: int, records: Sequence[Record], head: bytes) -> Iterator[Frame]:
    """An append as frames: the host acts only when the last one is complete.

    Raises `Malformed` or `TooLarge`.
    """
    check_append(expected, records, head)
    yield Frame(Op.APPEND, request, (pack_int(expected), pack_int(len(records)), head))
    rest = records
    while rest:
        fitting = fit_records(rest)
        yield records_frame(request, fitting)
        rest = rest[len(fitting) :]


def cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `BLOB_CHUNK_BYTES`; only the last one may be shorter."""
    buffer = bytearray()
    for chunk in chunks:
        if not buffer and len(chunk) == limits.BLOB_CHUNK_BYTES:
            yield bytes(chunk)  # The common case passes without a copy.
            continue
        buffer += chunk
        while len(buffer) >= limits.BLOB_CHUNK_BYTES:
            yield bytes(buffer[: limits.BLOB_CHUNK_BYTES])
            del buffer[: limits.BLOB_CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


# -- refusals ------------------------------------------------------------------------------------------


def error_frame(request: int, error: MesateeError) -> Frame:
    """A refusal; an error that is not of the closed list crosses as `HostFailed`."""
    code = error.code if error.code in _REFUSALS else HostFailed("").code
    message = _printable(error.message.encode("ascii", "replace")).encode("ascii")
    return Frame(Op.ERROR, request, (code.encode("ascii"), message))


def frame_error(frame: Frame, allowed: tuple[type[MesateeError], ...]) -> MesateeError:
    """The error that an ERROR frame means: one of `allowed`, else `HostFailed`.

    The message is the host's and so hostile text: it keeps printable ASCII only, and says where it comes
    from.
    """
    code, message = frame.fields
    kind = _REFUSALS.get(code.decode("ascii", "replace"), HostFailed)
    return (kind if kind in allowed else HostFailed)(f"the host says: {_printable(message)}")


def _printable(text: bytes) -> str:
    kept = text[: limits.HOST_MESSAGE_BYTES]
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in kept)


__all__ = [
    "HEADER",
    "INDEX_MAX",
    "MAGIC",
    "VERSION",
    "Decoder",
    "Frame",
    "Op",
    "append_frames",
    "check_append",
    "check_digest",
    "check_lease_id",
    "check_range",
    "check_read",
    "check_seconds",
    "check_size",
    "check_ticket",
    "cut",
    "encode",
    "error_frame",
    "fit_records",
    "frame_error",
    "frame_records",
    "pack_int",
    "pack_seconds",
    "record_cost",
    "records_frame",
    "unpack_int",
    "unpack_lease_id",
    "unpack_seconds",
]
