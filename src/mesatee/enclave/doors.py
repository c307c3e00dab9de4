"""The trusted side of the three doors: a client of the host process that believes nothing it says.

Every answer is hostile input: `protocol.frames` checks its form, this module that it answers the question
(number, kind, amount), and what it means is for the callers to verify, who hold digests, signatures and
keys. Whatever the host does, a call ends within a bound: there are at most `ATTEMPTS`, and in each of them
connecting, sending and answering take at most one timeout each (plus the wait that was asked for); of a blob,
each full chunk takes at most one.

After a failure, what is repeated is what may be: requests that did not leave this process in full, reads,
and those changes whose second time is the same as the first (`renew`, `ack`). `append` finds out from the
list itself whether it happened. `Queue.put` and `Queue.lease` are not repeated once sent: a ticket would be
there twice, or locked away.

No module of this process parses a database or any other format for the host: only the standard library's
sockets and our frames are loaded here.

>>> HostClient("/nonexistent/host.sock", timeout=0.05).records.head()
Traceback (most recent call last):
mesatee.errors.HostFailed: no host process at /nonexistent/host.sock
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mesatee.enclave import faults
from mesatee.enclave.doorlinks import ATTEMPTS, Caller, Link, Lost, NotSent, Pool, integer
from mesatee.errors import Conflict, DigestMismatch, HostFailed, InputError, Malformed, NotFound, TimedOut
from mesatee.protocol import doors, frames, limits
from mesatee.protocol.doors import Lease, Record
from mesatee.protocol.frames import Frame, Op

TIMEOUT_SECONDS: Final = 10.0
"""How long the host may take for one answer, or one chunk: an fsync on a busy disk takes up to seconds."""


class HostRecords:
    """`doors.Records` over the socket."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        """See `doors.Records`. Raises `Conflict`, `HostFailed`, `TimedOut`, `Malformed`, `TooLarge`.

        When the answer is lost: (1) read the head; (2) at `expected`, send again, which the host takes at
        most once because the index must match; (3) beyond it, compare what is there with what was sent.
        Only when this too fails is `HostFailed` or `TimedOut` raised, and then nobody knows: read the head
        before the next append.
        """
        frames.check_append(expected, records, head)
        records = list(records)
        faults.point("records.append.before")
        lost = False
        for _ in range(ATTEMPTS):
            try:
                self._send(expected, records, head)
            except NotSent:
                continue
            except (Lost, TimedOut):
                lost = True
                if self._happened(expected, records, head):
                    break
            except Conflict:
                # Without a lost answer somebody else was first. With one it may have been this very append.
                if lost and self._happened(expected, records, head):
                    break
                raise
            else:
                break
        else:
            raise HostFailed(
                "the connection to the host broke in each attempt to append",
                hint="read the head before the next append",
            )
        faults.point("records.append.after")

    def _send(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        def request(number: int) -> Iterator[Frame]:
            return frames.append_frames(number, expected, records, head)

        link, _ = self._caller.exchange(
            request, (Op.OK,), (Conflict,), sent=lambda: faults.point("records.append.sent")
        )
        self._caller.pool.give(link)

    def _happened(self, expected: int, records: Sequence[Record], head: bytes) -> bool:
        """True if the append is there, False if it may be sent again.

        Raises `Conflict` if something else is there.
        """
        count, found = self.head()
        if count == expected and (records or found != head):
            return False
        taken = Conflict(f"append at {expected}, the list has {count} entries")
        end = expected + len(records)
        if count < end or (count == end and found != head) or (count > end and not records):
            raise taken
        position = expected
        deadline = time.monotonic() + self._caller.pool.timeout
        while position < end:
            if time.monotonic() > deadline:
                raise TimedOut(
                    "the host does not show what it has", hint="read the head before the next append"
                )
            part = self.read(position, end - position)
            if not part or part != records[position - expected : position - expected + len(part)]:
                raise taken
            position += len(part)
        return True

    def read(self, start: int, limit: int) -> list[Record]:
        """See `doors.Records`. Raises `HostFailed`, `TimedOut`, `Malformed`."""
        most = frames.check_read(start, limit)
        fields = frames.pack_int(start), frames.pack_int(most)
        answer = self._caller.ask(Op.READ, *fields, answers=(Op.RECORDS,), repeat=True)
        found = frames.frame_records(answer)
        if len(found) > most:
            raise HostFailed(f"the host answers {len(found)} records, asked were {most}")
        return found

    def head(self) -> tuple[int, bytes]:
        """See `doors.Records`. Raises `HostFailed`, `TimedOut`."""
        answer = self._caller.ask(Op.HEAD, answers=(Op.HEAD_IS,), repeat=True)
        return integer(answer.fields[0]), answer.fields[1]


class HostQueue:
    """`doors.Queue` over the socket."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def put(self, ticket: bytes) -> None:
        """See `doors.Queue`.

        Raises `HostFailed`, `TimedOut` (the ticket may be there), `Malformed`, `TooLarge`.
        """
        self._caller.ask(Op.QUEUE_PUT, frames.check_ticket(ticket), answers=(Op.OK,))

    def lease(self, seconds: float, wait: float) -> Lease | None:
        """See `doors.Queue`. Raises `HostFailed`, `TimedOut`, `Malformed`, `TooLarge`."""
        if frames.check_seconds(seconds) == 0:
            raise Malformed("a lease of 0 seconds holds nothing")
        fields = frames.pack_seconds(seconds), frames.pack_seconds(wait)
        answer = self._caller.ask(Op.QUEUE_LEASE, *fields, answers=(Op.LEASED, Op.NO_TICKET), wait=wait)
        if answer.op is Op.NO_TICKET:
            return None
        try:
            return Lease(frames.unpack_lease_id(answer.fields[0]), answer.fields[1])
        except InputError as error:
            raise HostFailed(f"the host's answer is not of the protocol: {error.message}") from None

    def renew(self, lease_id: str, seconds: float) -> None:
        """See `doors.Queue`. Raises `NotFound`, `HostFailed`, `TimedOut`, `Malformed`, `TooLarge`."""
        if frames.check_seconds(seconds) == 0:
            raise Malformed("a lease of 0 seconds holds nothing")
        fields = frames.check_lease_id(lease_id).encode("ascii"), frames.pack_seconds(seconds)
        self._caller.ask(Op.QUEUE_RENEW, *fields, answers=(Op.OK,), refusals=(NotFound,), repeat=True)

    def ack(self, lease_id: str) -> None:
        """See `doors.Queue`. Raises `NotFound`, `HostFailed`, `TimedOut`, `Malformed`, `TooLarge`."""
        field = frames.check_lease_id(lease_id).encode("ascii")
        self._caller.ask(Op.QUEUE_ACK, field, answers=(Op.OK,), refusals=(NotFound,), repeat=True)


class HostBlobs:
    """`doors.Blobs` over the socket."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def put(self, digest: str, chunks: Iterable[bytes], size: int) -> None:
        """See `doors.Blobs`. Raises `DigestMismatch`, `HostFailed`, `TimedOut`, `Malformed`, `TooLarge`.

        What `chunks` itself raises passes through, and the host keeps nothing. Not repeated: `chunks` can
        be read once, and it must not pause for `HOST_STALL_SECONDS`. The host's yes proves nothing; a reader
        compares the digest.
        """
        fields = bytes.fromhex(frames.check_digest(digest)), frames.pack_int(frames.check_size(size))
        caller = self._caller
        link = caller.pool.take()
        try:
            begin = Frame(Op.BLOB_PUT, link.next_request(), fields)
            try:
                complete = self._send(link, begin, chunks, size)
            except NotSent:
                # A host that refuses early says why and closes; what it said can still be read.
                complete = False
            answer = link.receive(time.monotonic() + caller.pool.timeout)
            if not complete and answer.op is not Op.ERROR:
                raise HostFailed(f"the host answers {answer.op.name} before it has the blob")
        except Lost:
            link.close()
            raise HostFailed("the connection to the host broke within a blob", hint="put it again") from None
        except BaseException:
            link.close()
            raise
        caller.checked(link, answer, (Op.OK,), (DigestMismatch,))
        caller.pool.give(link)

    def _send(self, link: Link, begin: Frame, chunks: Iterable[bytes], size: int) -> bool:
        """Whether all was sent; not, when the host answered before. Each frame has a timeout of its own."""
        timeout = self._caller.pool.timeout
        link.send(frames.encode(begin), time.monotonic() + timeout)
        sent = 0
        for chunk in frames.cut(chunks):
            sent += len(chunk)
            if sent > size:
                raise DigestMismatch(f"more bytes than the {size} of this blob")
            if link.readable():
                return False
            link.send(frames.encode(Frame(Op.DATA, begin.request, (chunk,))), time.monotonic() + timeout)
        link.send(frames.encode(Frame(Op.END, begin.request)), time.monotonic() + timeout)
        return True

    def get(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `doors.Blobs`; past the end there are no bytes.

        Raises `NotFound` (at once), `HostFailed`, `TimedOut`, `Malformed`.
        The host reads on only as fast as the chunks are taken; after `HOST_STALL_SECONDS` without that it
        hangs up.
        """
        most = frames.check_range(start, length)
        fields = bytes.fromhex(frames.check_digest(digest)), frames.pack_int(start), frames.pack_int(most)

        def request(number: int) -> Iterator[Frame]:
            yield Frame(Op.BLOB_GET, number, fields)

        for _ in range(ATTEMPTS):
            try:
                link, answer = self._caller.exchange(request, (Op.SIZE,), (NotFound,))
            except (NotSent, Lost):
                continue
            stream = _BlobStream(self._caller.pool, link, integer(answer.fields[0]))
            if stream.left > most:
                stream.close()
                raise HostFailed(f"the host announces {stream.left} bytes, asked were {most}")
            return stream
        raise HostFailed("the connection to the host broke before it answered")

    def size(self, digest: str) -> int:
        """See `doors.Blobs`. Raises `NotFound`, `HostFailed`, `TimedOut`, `Malformed`."""
        field = bytes.fromhex(frames.check_digest(digest))
        answer = self._caller.ask(Op.BLOB_SIZE, field, answers=(Op.SIZE,), refusals=(NotFound,), repeat=True)
        size = integer(answer.fields[0])
        if size > limits.BLOB_BYTES:
            raise HostFailed(f"the host announces a blob of {size} bytes, the limit is {limits.BLOB_BYTES}")
        return size

    def discard(self, digest: str) -> None:
        """See `doors.Blobs`. Raises `HostFailed`, `TimedOut`, `Malformed`."""
        field = bytes.fromhex(frames.check_digest(digest))
        self._caller.ask(Op.BLOB_DISCARD, field, answers=(Op.OK,), repeat=True)


class _BlobStream:
    """The chunks of one `get`; owns its link until the last one."""

    def __init__(self, pool: Pool, link: Link, left: int) -> None:
        self._pool = pool
        self._link: Link | None = link
        self.left = left
        self._finish()

    def __iter__(self) -> _BlobStream:
        return self

    def __next__(self) -> bytes:
        if self._link is None:
            raise StopIteration
        try:
            chunk = self._receive(self._link)
        except BaseException:
            self.close()
            raise
        self.left -= len(chunk)
        self._finish()
        return chunk

    def _receive(self, link: Link) -> bytes:
        try:
            frame = link.receive(time.monotonic() + self._pool.timeout)
        except Lost:
            raise HostFailed(
                "the connection to the host broke within a blob", hint="get the rest again"
            ) from None
        if frame.op is Op.ERROR:
            raise frames.frame_error(frame, ())
        if frame.op is not Op.DATA:
            raise HostFailed(f"the host answers {frame.op.name} within a blob")
        # Full chunks only: a host that sends crumbs could make one blob take for ever.
        if len(frame.fields[0]) != min(self.left, limits.BLOB_CHUNK_BYTES):
            raise HostFailed(f"the host sends {len(frame.fields[0])} bytes where a chunk is due")
        return frame.fields[0]

    def _finish(self) -> None:
        if not self.left and self._link is not None:
            self._pool.give(self._link)
            self._link = None

    def close(self) -> None:
        """Give up the rest."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def __del__(self) -> None:
        self.close()


class HostClient:
    """The three doors of the host process at `socket_path`.

    For any number of threads; connects when first used.
    """

    records: Final[doors.Records]
    queue: Final[doors.Queue]
    blobs: Final[doors.Blobs]

    def __init__(self, socket_path: str | os.PathLike[str], *, timeout: float = TIMEOUT_SECONDS) -> None:
        """`timeout` in seconds is for one answer or chunk, and for finding a host that is starting anew."""
        if not timeout > 0:
            raise Malformed("a timeout is over 0 seconds")
        self._pool = Pool(os.fspath(socket_path), timeout)
        caller = Caller(self._pool)
        self.records = HostRecords(caller)
        self.queue = HostQueue(caller)
        self.blobs = HostBlobs(caller)

    def close(self) -> None:
        """Close the idle connections; calls after this raise `HostFailed`."""
        self._pool.close()

    def __enter__(self) -> HostClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = ["TIMEOUT_SECONDS", "HostBlobs", "HostClient", "HostQueue", "HostRecords"]
