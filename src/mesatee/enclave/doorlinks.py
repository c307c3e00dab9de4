"""Connections to the host process, and one question on one of them; see `enclave.doors` for the rules.

Private to `enclave.doors`: nothing here decides whether a request may be repeated without being told.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from mesatee.errors import HostFailed, InputError, MesateeError, NotFound, TimedOut
from mesatee.protocol import frames
from mesatee.protocol.frames import Frame, Op

IDLE_CONNECTIONS: Final = 8
"""Connections kept open for later; more are opened when more calls run at once."""
ATTEMPTS: Final = 3
"""How often a call is tried on a fresh connection, when it may be repeated."""
_CONNECT_PAUSE_SECONDS: Final = 0.02
_LAST_WORDS_SECONDS: Final = 0.1
"""What a host said before it hung up is here already."""


class NotSent(Exception):
    """The connection broke before the request was out; a host acts on whole requests, so it has not acted."""


class Lost(Exception):
    """The connection broke after the request was out: nobody here knows whether the host acted on it."""


class Link:
    """One connection, used by one call at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._decoder = frames.Decoder()
        self.request = 0

    def next_request(self) -> int:
        """The number of the request that begins; never 0."""
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
        """Raises `NotSent` or `TimedOut`."""
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(data)
        except TimeoutError:
            raise TimedOut("the host does not take the request") from None
        except OSError:
            raise NotSent from None

    def receive(self, deadline: float) -> Frame:
        """The next frame of this request's answer.

        Raises `Lost`, `TimedOut`, or `HostFailed` for anything else.
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
                raise Lost from None
            if not data:
                raise Lost
            try:
                complete = self._decoder.feed(data)
            except InputError as error:
                raise HostFailed(f"the host's answer is not of the protocol: {error.message}") from None
            if complete:
                return self._mine(complete[0])

    def last_words(self) -> HostFailed | NotSent:
        """Why the host hung up before the request was out, if it said so."""
        try:
            answer = self.receive(time.monotonic() + _LAST_WORDS_SECONDS)
        except (Lost, TimedOut):
            return NotSent()
        return HostFailed(
            frames.frame_error(answer, ()).message if answer.op is Op.ERROR else "the host hung up"
        )

    def _mine(self, frame: Frame) -> Frame:
        # Number 0 is a refusal of the connection itself, e.g. too many of them.
        if frame.request == self.request or (frame.op is Op.ERROR and frame.request == 0):
            return frame
        raise HostFailed(f"the host answers request {frame.request}, asked was {self.request}")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Pool:
    """Hands out links; keeps a few that are idle."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self.timeout = timeout
        self._idle: list[Link] = []
        self._guard = threading.Lock()
        self._closed = False

    def take(self) -> Link:
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

    def give(self, link: Link) -> None:
        """Take back a link whose last answer is complete."""
        with self._guard:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(link)
                return
        link.close()

    def _connect(self) -> Link:
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
                return Link(sock)

    def close(self) -> None:
        """Close the idle links; whoever holds one may end his call."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()


class Caller:
    """Asks one question on the pool's links."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def ask(
        self,
        op: Op,
        *fields: bytes,
        answers: tuple[Op, ...],
        refusals: tuple[type[MesateeError], ...] = (),
        repeat: bool = False,
        wait: float = 0.0,
    ) -> Frame:
        """The answer; with `repeat`, asked again when an answer was lost.

        Raises `HostFailed`, `TimedOut` and the `refusals`.
        """

        def request(number: int) -> Iterator[Frame]:
            yield Frame(op, number, fields)

        lost = False
        for _ in range(ATTEMPTS):
            try:
                link, answer = self.exchange(request, answers, refusals, wait)
            except NotSent:
                continue
            except Lost:
                lost = True
                if repeat:
                    continue
                break
            except NotFound:
                if lost and op is Op.QUEUE_ACK:
                    # The first ack was carried out although its answer was lost; gone is what it wanted.
                    return Frame(Op.OK, 0)
                raise
            self.pool.give(link)
            return answer
        raise HostFailed("the connection to the host broke" + (" before it answered" if lost else ""))

    def exchange(
        self,
        request: Callable[[int], Iterable[Frame]],
        answers: tuple[Op, ...],
        refusals: tuple[type[MesateeError], ...],
        wait: float = 0.0,
        sent: Callable[[], None] | None = None,
    ) -> tuple[Link, Frame]:
        """One try: the link, whose owner is now the caller, and a checked answer.

        Raises also `NotSent` and `Lost`.
        """
        link = self.pool.take()
        keep = False
        try:
            deadline = time.monotonic() + self.pool.timeout
            try:
                for frame in request(link.next_request()):
                    link.send(frames.encode(frame), deadline)
            except NotSent:
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
        self, link: Link, answer: Frame, answers: tuple[Op, ...], refusals: tuple[type[MesateeError], ...]
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


def integer(field: bytes) -> int:
    """An integer that the host sent. Raises `HostFailed`."""
    try:
        return frames.unpack_int(field)
    except InputError as error:
        raise HostFailed(f"the host's answer is not of the protocol: {error.message}") from None


__all__ = ["ATTEMPTS", "IDLE_CONNECTIONS", "Caller", "Link", "Lost", "NotSent", "Pool", "integer"]
