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
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from mesatee.enclave import faults
from mesatee.errors import (
    Conflict,
    DigestMismatch,
    HostFailed,
    InputError,
    Malformed,
    MesateeError,
    NotFound,
    TimedOut,
)
from mesatee.protocol import doors, frames, limits
from mesatee.protocol.doors import Lease, Record
from mesatee.protocol.frames import Frame, Op

TIMEOUT_SECONDS: Final = 10.0
"""How long the host may take for one answer, or one chunk: an fsync on a busy disk takes up to seconds."""
IDLE_CONNECTIONS: Final = 8
"""Connections kept open for later; more are opened when more calls run at once."""
ATTEMPTS: Final = 3
"""How often a call is tried on a fresh connection, when it may be repeated."""
_CONNECT_PAUSE_SECONDS: Final = 0.02
_LAST_WORDS_SECONDS: Final = 0.1
"""What a host said before it hung up is here already."""


class _NotSent(Exception):
    """The connection broke before the request was out; a host acts on whole requests, so it has not acted."""


class _Lost(Exception):
    """The connection broke after the request was out: nobody here knows whether the host acted on it."""


class _Link:
    """One connection, used by one call at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = frames.Decoder()
        self.request = 0

    def next_request(self) -> int:
        self.request = (self.request + 1) % 2**32 or 1
        return self.request

    def readable(self) -> bool:
        """The host said something, or hung up.

        On an idle link both mean that it is no good; within a request, that the host refuses the rest.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, data: bytes, deadline: float) -> None:
        """Raises `_NotSent` or `TimedOut`."""
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(data)
        except TimeoutError:
            raise TimedOut("the host does not take the request") from None
        except OSError:
            raise _NotSent from None

    def receive(self, deadline: float) -> Frame:
        """The next frame of this request's answer.

        Raises `_Lost`, `TimedOut`, or `HostFailed` for anything else.
        """
        while True:
            try:
                self._socket.settimeout(_left(deadline))
                data = self._socket.recv(self._decoder.wanted)
            except TimeoutError:
                raise TimedOut(
                    "the host does not answer", hint="is its process stopped, or its disk busy?"
                ) from None
            except OSError:
                raise _Lost from None
            if not data:
                raise _Lost
            try:
                complete = self._decoder.feed(data)
            except InputError as error:
                raise HostFailed(f"the host's answer is not of the protocol: {error.message}") from None
            if complete:
                return self._mine(complete[0])

    def last_words(self) -> HostFailed | _NotSent:
        """Why the host hung up before the request was out, if it said so."""
        try:
            answer = self.receive(time.monotonic() + _LAST_WORDS_SECONDS)
        except (_Lost, TimedOut):
            return _NotSent()
        return HostFailed(
            frames.frame_error(answer, ()).message if answer.op is Op.ERROR else "the host hung up"
        )

    def _mine(self, frame: Frame) -> Frame:
        # Number 0 is a refusal of the connection itself, e.g. too many of them.
        if frame.request == self.request or (frame.op is Op.ERROR and frame.request == 0):
            return frame
        raise HostFailed(f"the host answers request {frame.request}, asked was {self.request}")

    def close(self) -> None:
        self._socket.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Pool:
    """Hands out links; keeps a few that are idle."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self.timeout = timeout
        self._idle: list[_Link] = []
        self._guard = threading.Lock()
        self._closed = False

    def take(self) -> _Link:
        """An idle link that is still good, or a new one.

        Raises `HostFailed` when no host listens within the timeout.
        """
        while True:
            with self._guard:
                if self._closed:
                    raise HostFailed("this client was closed")
                link = self._idle.pop() if self._idle else None
            if link is None:
                return self._connect()
            if not link.readable():
                return link
            link.close()

    def give(self, link: _Link) -> None:
        """Take back a link whose last answer is complete."""
        with self._guard:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(link)
                return
        link.close()

    def _connect(self) -> _Link:
        deadline = time.monotonic() + self.timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.settimeout(_left(deadline))
                sock.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                # The host is starting anew, or its backlog is full: both pass.
                sock.close()
                if time.monotonic() + _CONNECT_PAUSE_SECONDS >= deadline:
                    raise HostFailed(
                        f"no host process at {self._path}", hint="start it, and look at the end of its log"
                    ) from None
                time.sleep(_CONNECT_PAUSE_SECONDS)
            except TimeoutError:
                sock.close()
                raise TimedOut(f"the host at {self._path} takes no connection") from None
            except OSError as error:
                sock.close()
                raise HostFailed(
                    f"cannot connect to {self._path}: {error.strerror or error}",
                    hint="check the socket's path and owner",
                ) from None
            else:
                return _Link(sock)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()


class _Caller:
    """Asks one question on the pool's links."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool

    def ask(
        self,
        op: Op,
        *fields: bytes,
        answers: tuple[Op, ...],
        refusals: tuple[type[MesateeError], ...] = (),
        repeat: bool = False,
        wait: float = 0.0,
    ) -> tuple[Frame, bool]:
        """The answer, and whether an earlier answer was lost.

        Raises `HostFailed`, `TimedOut` and the `refusals`.
        """

        def request(number: int) -> Iterator[Frame]:
            yield Frame(op, number, fields)

        lost = False
        for _ in range(ATTEMPTS):
            try:
                link, answer = self.exchange(request, answers, refusals, wait)
            except _NotSent:
                continue
            except _Lost:
                lost = True
                if repeat:
                    continue
                break
            except NotFound:
                if lost and op is Op.QUEUE_ACK:
                    # The first ack was carried out although its answer was lost; gone is what it wanted.
                    return Frame(Op.OK, 0), True
                raise
            self.pool.give(link)
            return answer, lost
        raise HostFailed("the connection to the host broke" + (" before it answered" if lost else ""))

    def exchange(
        self,
        request: Callable[[int], Iterable[Frame]],
        answers: tuple[Op, ...],
        refusals: tuple[type[MesateeError], ...],
        wait: float = 0.0,
        sent: Callable[[], None] | None = None,
    ) -> tuple[_Link, Frame]:
        """One try: the link, whose owner is now the caller, and a checked answer.

        Raises also `_NotSent` and `_Lost`.
        """
        link = self.pool.take()
        keep = False
        try:
            deadline = time.monotonic() + self.pool.timeout
            try:
                for frame in request(link.next_request()):
                    link.send(frames.encode(frame), deadline)
            except _NotSent:
                raise link.last_words() from None
            if sent is not None:
                sent()
            answer = link.receive(time.monotonic() + self.pool.timeout + wait)
            keep = True
        finally:
            if not keep:
                link.close()
        return link, self.checked(link, answer, answers, refusals)

    def checked(
        self, link: _Link, answer: Frame, answers: tuple[Op, ...], refusals: tuple[type[MesateeError], ...]
    ) -> Frame:
        """The answer if it is one of `answers`; raises what it refuses, or `HostFailed` for another kind."""
        if answer.op in answers:
            return answer
        if answer.op is not Op.ERROR:
            link.close()
            raise HostFailed(f"the host answers {answer.op.name}")
        # A refusal leaves the connection in step, unless it is the connection that is refused or the
        # request was cut.
        if answer.request == link.request:
            self.pool.give(link)
        else:
            link.close()
        raise frames.frame_error(answer, refusals)


class HostRecords:
    """`doors.Records` over the socket."""

    def __init__(self, caller: _Caller) -> None:
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
            except _NotSent:
                continue
            except (_Lost, TimedOut):
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
        answer, _ = self._caller.ask(Op.READ, *fields, answers=(Op.RECORDS,), repeat=True)
        found = frames.frame_records(answer)
        if len(found) > most:
            raise HostFailed(f"the host answers {len(found)} records, asked were {most}")
        return found

    def head(self) -> tuple[int, bytes]:
        """See `doors.Records`. Raises `HostFailed`, `TimedOut`."""
        answer, _ = self._caller.ask(Op.HEAD, answers=(Op.HEAD_IS,), repeat=True)
        return _integer(answer.fields[0]), answer.fields[1]


class HostQueue:
    """`doors.Queue` over the socket."""

    def __init__(self, caller: _Caller) -> None:
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
        answer, _ = self._caller.ask(Op.QUEUE_LEASE, *fields, answers=(Op.LEASED, Op.NO_TICKET), wait=wait)
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

    def __init__(self, caller: _Caller) -> None:
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
            except _NotSent:
                # A host that refuses early says why and closes; what it said can still be read.
                complete = False
            answer = link.receive(time.monotonic() + caller.pool.timeout)
            if not complete and answer.op is not Op.ERROR:
                raise HostFailed(f"the host answers {answer.op.name} before it has the blob")
        except _Lost:
            link.close()
            raise HostFailed("the connection to the host broke within a blob", hint="put it again") from None
        except BaseException:
            link.close()
            raise
        caller.checked(link, answer, (Op.OK,), (DigestMismatch,))
        caller.pool.give(link)

    def _send(self, link: _Link, begin: Frame, chunks: Iterable[bytes], size: int) -> bool:
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
            except (_NotSent, _Lost):
                continue
            stream = _BlobStream(self._caller.pool, link, _integer(answer.fields[0]))
            if stream.left > most:
                stream.close()
                raise HostFailed(f"the host announces {stream.left} bytes, asked were {most}")
            return stream
        raise HostFailed("the connection to the host broke before it answered")

    def size(self, digest: str) -> int:
        """See `doors.Blobs`. Raises `NotFound`, `HostFailed`, `TimedOut`, `Malformed`."""
        field = bytes.fromhex(frames.check_digest(digest))
        answer, _ = self._caller.ask(
            Op.BLOB_SIZE, field, answers=(Op.SIZE,), refusals=(NotFound,), repeat=True
        )
        size = _integer(answer.fields[0])
        if size > limits.BLOB_BYTES:
            raise HostFailed(f"the host announces a blob of {size} bytes, the limit is {limits.BLOB_BYTES}")
        return size


class _BlobStream:
    """The chunks of one `get`; owns its link until the last one."""

    def __init__(self, pool: _Pool, link: _Link, left: int) -> None:
        self._pool = pool
        self._link: _Link | None = link
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

    def _receive(self, link: _Link) -> bytes:
        try:
            frame = link.receive(time.monotonic() + self._pool.timeout)
        except _Lost:
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


def _integer(field: bytes) -> int:
    try:
        return frames.unpack_int(field)
    except InputError as error:
        raise HostFailed(f"the host's answer is not of the protocol: {error.message}") from None


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
        self._pool = _Pool(os.fspath(socket_path), timeout)
        caller = _Caller(self._pool)
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


__all__ = [
    "ATTEMPTS",
    "IDLE_CONNECTIONS",
    "TIMEOUT_SECONDS",
    "HostBlobs",
    "HostClient",
    "HostQueue",
    "HostRecords",
]
