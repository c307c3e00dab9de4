"""One connection of the host process: reads requests, calls the doors, answers.

The other end may be anything that runs as the same user, so it is taken for hostile: frames are checked by
`protocol.frames`, an unfinished request or a reader that stands still is dropped after
`HOST_STALL_SECONDS`, and what goes wrong ends this connection only.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from mesatee.errors import HostFailed, Malformed, MesateeError, TooLarge
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Blobs, Lease, Queue, Record, Records
from mesatee.protocol.frames import Frame, Op

_WAIT_SLICE_SECONDS: Final = 1.0
"""A waiting lease looks this often whether its client is still there."""


class HostQueue(Queue, Protocol):
    """What the server needs of a queue beyond the door: to give back a ticket that reached nobody."""

    def release(self, lease_id: str) -> None:
        """Raises `NotFound`, `HostFailed`."""


class HostBlobs(Blobs, Protocol):
    """What the server needs of a blob store beyond the door: the number of bytes before the bytes."""

    def open(self, digest: str, start: int = 0, length: int | None = None) -> tuple[int, Iterator[bytes]]:
        """The count and the chunks. Raises `NotFound`, `HostFailed`, `Malformed`."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The stores behind a server. One that could not be opened is the `HostFailed` that says why.

    A damaged store so closes its own door and no other, and the process does not die and start again for
    ever.
    """

    records_or_error: Records | HostFailed
    queue_or_error: HostQueue | HostFailed
    blobs_or_error: HostBlobs | HostFailed

    @property
    def records(self) -> Records:
        """Raises the `HostFailed` of opening it."""
        return _opened(self.records_or_error)

    @property
    def queue(self) -> HostQueue:
        """Raises the `HostFailed` of opening it."""
        return _opened(self.queue_or_error)

    @property
    def blobs(self) -> HostBlobs:
        """Raises the `HostFailed` of opening it."""
        return _opened(self.blobs_or_error)


_Door = TypeVar("_Door")


def _opened(door: _Door | HostFailed) -> _Door:
    if isinstance(door, HostFailed):
        raise HostFailed(door.message, hint=door.hint)
    return door


class _Gone(Exception):
    """The client closed the connection, or cannot be served any further on it."""


class Connection:
    """Serves one client until it goes."""

    def __init__(self, sock: socket.socket, doors: Doors, log: Callable[..., None]) -> None:
        self._socket = sock
        self._doors = doors
        self._log = log
        self._decoder = frames.Decoder()
        self._request = 0
        # Whether both ends agree that the next frame is a request; false within a request of several frames.
        self._in_step = True
        self._handlers: Final[dict[Op, Callable[[Frame], None]]] = {
            Op.APPEND: self._append,
            Op.READ: self._read,
            Op.HEAD: self._head,
            Op.QUEUE_PUT: self._queue_put,
            Op.QUEUE_LEASE: self._queue_lease,
            Op.QUEUE_RENEW: self._queue_renew,
            Op.QUEUE_ACK: self._queue_ack,
            Op.BLOB_PUT: self._blob_put,
            Op.BLOB_GET: self._blob_get,
            Op.BLOB_SIZE: self._blob_size,
            Op.BLOB_DISCARD: self._blob_discard,
        }

    def run(self) -> None:
        """Serve requests until the client goes or breaks the protocol; raises only what is a fault of this
        program.
        """
        try:
            while True:
                self._serve()
        except _Gone:
            return
        except OSError as error:
            self._log("connection_lost", reason=error.strerror or type(error).__name__)

    def refuse(self, error: MesateeError) -> None:
        """Tell the client, if it still listens, that this connection is not served."""
        self._log("connection_refused", code=error.code, reason=error.message)
        try:
            self._answer_error(0, error)
        except _Gone:
            return

    def _serve(self) -> None:
        try:
            frame = self._receive(idle=True)
            handler = self._handlers.get(frame.op)
            if handler is None:
                raise Malformed(f"{frame.op.name} is not a request")
        except MesateeError as error:
            self.refuse(error)
            raise _Gone from None
        self._request = frame.request
        self._in_step = True
        try:
            handler(frame)
        except MesateeError as error:
            if isinstance(error, HostFailed) or not self._in_step:
                self._log("request_failed", op=frame.op.name, code=error.code, reason=error.message)
            self._answer_error(frame.request, error)
            if not self._in_step:
                raise _Gone from None

    # -- frames over the socket ------------------------------------------------------------------------

    def _receive(self, *, idle: bool = False) -> Frame:
        deadline = None if idle else time.monotonic() + limits.HOST_STALL_SECONDS
        while True:
            self._socket.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(self._decoder.wanted)
            except (TimeoutError, ConnectionError):
                raise _Gone from None
            if not data:
                raise _Gone
            if deadline is None:
                deadline = time.monotonic() + limits.HOST_STALL_SECONDS
            # Never more than `wanted` is read, so there is at most one frame and nothing behind it.
            if complete := self._decoder.feed(data):
                return complete[0]

    def _next_part(self, *ops: Op) -> Frame:
        frame = self._receive()
        if frame.request != self._request:
            raise Malformed(f"frame of request {frame.request} within request {self._request}")
        if frame.op not in ops:
            raise Malformed(f"{frame.op.name} within another request")
        return frame

    def _answer(self, op: Op, *fields: bytes) -> None:
        self._send(Frame(op, self._request, fields))

    def _answer_error(self, request: int, error: MesateeError) -> None:
        self._send(frames.error_frame(request, error))

    def _send(self, frame: Frame) -> None:
        self._socket.settimeout(limits.HOST_STALL_SECONDS)
        try:
            self._socket.sendall(frames.encode(frame))
        except (TimeoutError, ConnectionError):
            raise _Gone from None

    def _client_is_there(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return not poll.poll(0)

    # -- records -----------------------------------------------------------------------------------------

    def _append(self, frame: Frame) -> None:
        expected, count = (frames.unpack_int(field) for field in frame.fields[:2])
        self._in_step = False
        if count > limits.LOG_BATCH:
            raise TooLarge(f"{count} records in one append, the limit is {limits.LOG_BATCH}")
        records: list[Record] = []
        while len(records) < count:
            part = frames.frame_records(self._next_part(Op.RECORDS))
            if not 0 < len(part) <= count - len(records):
                raise Malformed("the records are not as many as announced")
            records += part
        self._in_step = True
        self._doors.records.append(expected, records, frame.fields[2])
        self._answer(Op.OK)

    def _read(self, frame: Frame) -> None:
        start, limit = (frames.unpack_int(field) for field in frame.fields)
        self._send(frames.records_frame(self._request, self._doors.records.read(start, limit)))

    def _head(self, _: Frame) -> None:
        count, head = self._doors.records.head()
        self._answer(Op.HEAD_IS, frames.pack_int(count), head)

    # -- queue -------------------------------------------------------------------------------------------

    def _queue_put(self, frame: Frame) -> None:
        self._doors.queue.put(frame.fields[0])
        self._answer(Op.OK)

    def _queue_lease(self, frame: Frame) -> None:
        seconds, wait = (frames.unpack_seconds(field) for field in frame.fields)
        deadline = time.monotonic() + wait
        # In slices: a client that went while it waited must not be given a ticket, it would be locked away
        # for nothing.
        lease: Lease | None = None
        while lease is None:
            left = deadline - time.monotonic()
            lease = self._doors.queue.lease(seconds, max(0.0, min(left, _WAIT_SLICE_SECONDS)))
            if lease is None and left <= 0:
                self._answer(Op.NO_TICKET)
                return
            if not self._client_is_there():
                self._give_back(lease)
                raise _Gone
        try:
            self._answer(Op.LEASED, lease.id.encode("ascii"), lease.ticket)
        except _Gone:
            self._give_back(lease)
            raise

    def _give_back(self, lease: Lease | None) -> None:
        if lease is None:
            return
        try:
            self._doors.queue.release(lease.id)
        except MesateeError as error:
            # The lease ends by itself; the ticket then goes to somebody else.
            self._log("release_failed", code=error.code, reason=error.message)

    def _queue_renew(self, frame: Frame) -> None:
        lease, seconds = frame.fields
        self._doors.queue.renew(frames.unpack_lease_id(lease), frames.unpack_seconds(seconds))
        self._answer(Op.OK)

    def _queue_ack(self, frame: Frame) -> None:
        self._doors.queue.ack(frames.unpack_lease_id(frame.fields[0]))
        self._answer(Op.OK)

    # -- blobs -------------------------------------------------------------------------------------------

    def _blob_put(self, frame: Frame) -> None:
        self._in_step = False
        digest, size = frame.fields[0].hex(), frames.unpack_int(frame.fields[1])
        self._doors.blobs.put(digest, self._arriving(), size)
        self._answer(Op.OK)

    def _arriving(self) -> Iterator[bytes]:
        """The bytes of a put.

        The next frame is read only when the last one is on its way to the disk: back pressure.
        """
        while (part := self._next_part(Op.DATA, Op.END)).op is Op.DATA:
            yield part.fields[0]
        self._in_step = True

    def _blob_get(self, frame: Frame) -> None:
        digest, start, length = frame.fields[0].hex(), *map(frames.unpack_int, frame.fields[1:])
        count, chunks = self._doors.blobs.open(digest, start, length)
        self._in_step = False
        self._answer(Op.SIZE, frames.pack_int(count))
        for chunk in chunks:
            self._answer(Op.DATA, chunk)
        self._in_step = True

    def _blob_size(self, frame: Frame) -> None:
        self._answer(Op.SIZE, frames.pack_int(self._doors.blobs.size(frame.fields[0].hex())))

    def _blob_discard(self, frame: Frame) -> None:
        self._doors.blobs.discard(frame.fields[0].hex())
        self._answer(Op.OK)


__all__ = ["Connection", "Doors", "HostBlobs", "HostQueue"]
