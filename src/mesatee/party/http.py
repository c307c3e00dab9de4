"""HTTP to the gateway: bounded, strictly parsed, and nothing but our errors.

What comes back is hostile input although the gateway is attested: an attested program may still have a flaw.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import httpx

from ..errors import Malformed, MesateeError, TimedOut, TooLarge, Unavailable, from_dict
from ..protocol import limits
from ..protocol.jsonstrict import parse_object

TIMEOUT_SECONDS: Final = 30.0
"""For each step of a request (sending, waiting for bytes), in seconds."""
ANSWER_SECONDS: Final = 120.0
"""For a whole JSON answer, in seconds: a peer that drips bytes must not hold us for ever."""
ERROR_CHARS: Final = 2_000
"""Kept of an error's message or hint that the gateway sends, in characters."""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

Progress = Callable[[int], None]
"""Told how many bytes are done."""


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes


def visible(text: str) -> str:
    """`text` with control and direction characters written out, so that it cannot change how a terminal shows
    it.

    >>> visible("a\\x1b[2Kb")
    'a\\\\x1b[2Kb'
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Http:
    """The requests of one session. Thread-safe."""

    def __init__(self, transport: httpx.BaseTransport, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        # No proxy, no netrc, no redirect: the transport fixes where the bytes go.
        self._client = httpx.Client(
            transport=transport,
            base_url="http://gateway",
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, int] | None = None, wait: float = 0.0) -> dict[str, Any]:
        """A JSON object. Sent once more if the connection breaks. Raises `mesatee.errors`."""
        return _object(self.get_bytes(path, params, wait))

    def get_bytes(self, path: str, params: Mapping[str, int] | None = None, wait: float = 0.0) -> Answer:
        """A whole answer of at most `limits.RESPONSE_BYTES`."""
        return _twice(lambda: self._exchange("GET", path, params=params, wait=wait))

    def post(self, path: str, body: bytes, *, again: bool, wait: float = 0.0) -> dict[str, Any]:
        """Post JSON. With `again` the same bytes are sent once more if the connection breaks."""
        return _object(_twice(lambda: self._exchange("POST", path, content=body, wait=wait), again=again))

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, int] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> Answer:
        deadline = time.monotonic() + ANSWER_SECONDS + wait
        try:
            with self._client.stream(
                method, path, params=params, content=content, headers=headers, timeout=self._timeout + wait
            ) as response:
                data = bytearray()
                for part in response.iter_raw():
                    data += part
                    if len(data) > limits.RESPONSE_BYTES:
                        raise TooLarge(f"the gateway's answer has more than {limits.RESPONSE_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise TimedOut("the gateway's answer did not end in time")
                return Answer(response.status_code, bytes(data))
        except httpx.HTTPError as error:
            raise _Broken(f"the connection to the gateway broke: {type(error).__name__}") from None
        except Unavailable as error:
            if type(error) is Unavailable:
                raise _Broken(error.message) from None
            raise

    # -- blobs ------------------------------------------------------------------------------------

    def put_blob(self, digest: str, source: BinaryIO, size: int, progress: Progress | None = None) -> None:
        """Upload `size` bytes from the start of `source`. Sent once more if the connection breaks."""

        def chunks() -> Iterator[bytes]:
            source.seek(0)
            done = 0
            while piece := source.read(limits.BLOB_CHUNK_BYTES):
                done += len(piece)
                yield piece
                if progress:
                    progress(done)

        def send() -> Answer:
            headers = {"content-length": str(size), "content-type": "application/octet-stream"}
            return self._exchange(
                "PUT", f"/v1/blobs/{digest}", content=chunks(), headers=headers, wait=ANSWER_SECONDS
            )

        _object(_twice(send))

    def get_blob(
        self, digest: str, write: Callable[[bytes], object], limit: int, progress: Progress | None = None
    ) -> int:
        """Stream a blob of at most `limit` bytes into `write`; returns its size.

        The caller checks the digest.
        """
        try:
            with self._client.stream("GET", f"/v1/blobs/{digest}") as response:
                if response.status_code != 200:
                    data = b""
                    for part in response.iter_raw():
                        data += part
                        if len(data) > limits.REQUEST_BYTES:
                            raise TooLarge("the gateway's error has more bytes than an error needs")
                    raise _error(Answer(response.status_code, data))
                done = 0
                for part in response.iter_raw():
                    done += len(part)
                    if done > limit:
                        raise TooLarge(f"the stored blob has more than {limit} bytes")
                    write(part)
                    if progress:
                        progress(done)
                return done
        except httpx.HTTPError as error:
            raise Unavailable(f"the connection to the gateway broke: {type(error).__name__}") from None


class _Broken(Exception):
    """The connection broke: the request may or may not have arrived."""


def _twice(send: Callable[[], Answer], *, again: bool = True) -> Answer:
    try:
        return send()
    except _Broken as error:
        if not again:
            raise Unavailable(str(error)) from None
    try:
        return send()
    except _Broken as error:
        raise Unavailable(str(error)) from None


def _object(answer: Answer) -> dict[str, Any]:
    if not 200 <= answer.status < 300:
        raise _error(answer)
    return parse_object(answer.body, limit=limits.RESPONSE_BYTES)


def _error(answer: Answer) -> MesateeError:
    """The error that the gateway sent, made safe to show."""
    wrong = Malformed(
        f"the gateway answered with status {answer.status} and no error of ours",
        hint="this is no MesaTEE gateway of this version",
    )
    try:
        value = parse_object(answer.body, limit=limits.REQUEST_BYTES)
    except MesateeError:
        return wrong
    said = value.get("error")
    if set(value) != {"error"} or not isinstance(said, dict) or set(said) != {"code", "message", "hint"}:
        return wrong
    if not all(isinstance(item, str) for item in said.values()):
        return wrong
    return from_dict({name: visible(item[:ERROR_CHARS]) for name, item in said.items()})


__all__ = ["ANSWER_SECONDS", "ERROR_CHARS", "TIMEOUT_SECONDS", "Answer", "Http", "Progress", "visible"]
