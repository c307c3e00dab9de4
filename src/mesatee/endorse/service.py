"""One vendor's service over HTTP: bounded, patient within limits, and nothing but our errors.

What comes back is hostile input. TLS only transports: each endorsement is signed by its issuer, and the verifier
checks that. So a wrong answer can waste time and no more, and the limits here see to the time.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpcore

from ..errors import Malformed, MesateeError, NotFound, TimedOut, TooLarge, Unavailable
from ..protocol import limits

STEP_SECONDS: Final = 20.0
"""For each step of a request (connecting, sending, waiting for bytes), in seconds."""
ANSWER_SECONDS: Final = 60.0
"""For one answer from the request to its last byte, in seconds: a peer that drips bytes must not hold us."""
ATTEMPTS: Final = 4
"""How often a request is sent to a service that says that it is busy (429 or 503)."""
BACKOFF_SECONDS: Final = 2.0
"""Wait before the second attempt where the service names no time, in seconds; it doubles each time."""
WAIT_SECONDS: Final = 30.0
"""Longest wait between two attempts, in seconds; a service that asks for more is left alone at once."""
URL_CHARS: Final = 512
"""A service's base address, in characters."""
JSON_TYPES: Final = frozenset({"application/json"})
BINARY_TYPES: Final = frozenset(
    {
        "application/octet-stream",
        "application/pem-certificate-chain",
        "application/pkcs8",
        "application/pkix-cert",
        "application/pkix-crl",
        "application/x-pem-file",
        "application/x-pkcs7-crl",
        "application/x-x509-ca-cert",
        "application/x-x509-user-cert",
        "binary/octet-stream",
        "text/plain",
    }
)
"""Services differ in what they call certificates and revocation lists. None of them calls them HTML, as portals and
proxies do that answer in their place."""
_BUSY: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200."""

    body: bytes
    headers: Mapping[str, str]
    """By names in lower case."""


def base_address(text: str) -> str:
    """`text` as a base address without a slash at its end. Raises `Malformed`.

    HTTP without TLS goes to this machine and to link-local addresses only (the cloud's metadata service): elsewhere
    anybody on the way could read which machines are asked about, and hold back newer answers.

    >>> base_address("https://pccs.example/")
    'https://pccs.example'
    """
    wrong = Malformed(
        "a service's address is https://HOST[:PORT][/PATH]",
        hint="http:// is for this machine and for link-local addresses only",
    )
    if len(text) > URL_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise wrong
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if not host or port == 0 or "@" in parts.netloc or "?" in text or "#" in text:
        raise wrong
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_near(host)):
        raise wrong
    return text.rstrip("/")


def _is_near(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local


def tls(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verification by the machine's CAs, or by those in a PEM file alone. Raises `Malformed`."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Malformed(
            f"cannot read CA certificates from {ca_file}: {error.strerror or error}",
            hint="name a file with certificates in PEM",
        ) from None


class _Deadline(httpcore.NetworkStream):
    """A connection on which no step outlasts the present answer's time.

    Without it a peer that sends a byte of a header now and then could hold us for days.
    """

    def __init__(self, inner: httpcore.NetworkStream, left: Callable[[float | None], float]) -> None:
        self._inner, self._left = inner, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._left(timeout))
        return _Deadline(inner, self._left)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Network(httpcore.SyncBackend):
    """TCP with a deadline."""

    deadline = 0.0

    def left(self, timeout: float | None) -> float:
        """Seconds for the next step. Raises what the client raises when one takes too long."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        inner = super().connect_tcp(host, port, self.left(timeout), local_address, socket_options)
        return _Deadline(inner, self.left)


class Service:
    """A client of one service, for one thread. Close it, or use it as a context."""

    def __init__(
        self,
        name: str,
        *,
        context: ssl.SSLContext | None = None,
        step_seconds: float = STEP_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`name` stands in messages; `sleep` waits between attempts."""
        self.name = name
        self._step_seconds = step_seconds
        self._answer_seconds = answer_seconds
        self._sleep = sleep
        self._network = _Network()
        # The bare pool follows no redirect, reads no settings and asks no proxy: the metadata service must never be
        # asked through another machine.
        # No connection is kept: a service may hang up at any time between two requests, and one that is sent just then
        # would fail for it.
        self._pool = httpcore.ConnectionPool(
            ssl_context=context or tls(),
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=self._network,
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def get(
        self,
        what: str,
        url: str,
        *,
        types: Collection[str],
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for `what` (for messages), again while the service is busy.

        Raises `NotFound` (404), `TimedOut`, `TooLarge`, `Unavailable` (no connection, busy, failing, broken HTTP) or
        `Malformed` (refused, redirected, of another type).
        """
        full = f"{url}?{urlencode(parameters)}" if parameters else url
        for attempt in range(ATTEMPTS):
            answer = self._once(what, full, types, headers or {})
            if isinstance(answer, Answer):
                return answer
            wait = BACKOFF_SECONDS * 2**attempt if answer.seconds is None else answer.seconds
            if wait > WAIT_SECONDS:
                raise Unavailable(
                    f"{self.name} is busy and asks to come back for {what} in {wait:.0f} seconds",
                    hint="try again after that time",
                )
            if attempt + 1 < ATTEMPTS:
                self._sleep(wait)
        raise Unavailable(
            f"{self.name} is busy: {what} was refused {ATTEMPTS} times", hint="try again in some minutes"
        )

    def _once(
        self, what: str, url: str, types: Collection[str], headers: Mapping[str, str]
    ) -> Answer | _Busy:
        self._network.deadline = time.monotonic() + self._answer_seconds
        steps = dict.fromkeys(("connect", "read", "write", "pool"), self._step_seconds)
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("Accept-Encoding", "identity"),
            ("User-Agent", "mesatee"),
        ]
        sent += headers.items()
        try:
            with self._pool.stream("GET", url, headers=sent, extensions={"timeout": steps}) as response:
                found = _headers(response.headers)
                if response.status in _BUSY:
                    return _Busy(_retry_after(found.get("retry-after")))
                self._check(what, response.status, found, types)
                return Answer(self._read(what, response, found), found)
        except httpcore.TimeoutException:
            raise self._late(what) from None
        except httpcore.RemoteProtocolError:
            raise Unavailable(
                f"{self.name} broke off its answer about {what}, or what it sent is not HTTP",
                hint="check the address, and try again",
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise Unavailable(
                f"there is no connection to {self.name} for {what}: {_why(error)}",
                hint="check the address, this machine's network, and the CA certificates of the service",
            ) from None

    def _late(self, what: str) -> TimedOut:
        return TimedOut(f"{self.name} did not answer about {what} in time", hint="try again later")

    def _check(self, what: str, status: int, headers: Mapping[str, str], types: Collection[str]) -> None:
        if status == 404:
            raise NotFound(
                f"{self.name} does not know {what}",
                hint="check that the evidence is of a machine that the vendor supports, and the address",
            )
        if 300 <= status < 400:
            raise Malformed(
                f"{self.name} redirects {what} elsewhere ({status}), which is not followed",
                hint="give the address of the service itself",
            )
        if status >= 500:
            raise Unavailable(f"{self.name} failed with status {status} on {what}", hint="try again later")
        if status != 200:
            raise Malformed(
                f"{self.name} refused the question for {what} with status {status}",
                hint="check the address and its version",
            )
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Malformed(f"{self.name} compressed {what}, although it was not asked to")
        found = headers.get("content-type", "").partition(";")[0].strip().lower()
        if found not in types:
            raise Malformed(
                f"{self.name} sent {what} as {found[:64] or 'nothing that it names'!r}, not as "
                + " or ".join(sorted(types) if len(types) == 1 else ["a certificate or revocation list"]),
                hint="a portal or a proxy may answer in its place: check the address",
            )

    def _read(self, what: str, response: httpcore.Response, headers: Mapping[str, str]) -> bytes:
        large = TooLarge(
            f"{self.name} sent {what} with more than {limits.ENDORSEMENT_BYTES} bytes",
            hint="check the address; the limits are listed in docs/limits.md",
        )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > limits.ENDORSEMENT_BYTES):
            raise large
        body = bytearray()
        for part in response.iter_stream():
            body += part
            if len(body) > limits.ENDORSEMENT_BYTES:
                raise large
        if not body:
            raise Malformed(f"{self.name} sent nothing as {what}", hint="try again later")
        return bytes(body)


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """By names in lower case; the first of several counts."""
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


@dataclass(frozen=True, slots=True)
class _Busy:
    seconds: float | None
    """When to come back, as the service says."""


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, section 10.2.3); None if it says nothing that can be read."""
    if not text or len(text) > 64:
        return None
    if text.strip().isdecimal():
        return float(text.strip())
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _why(error: Exception) -> str:
    """A TLS failure in its own words; other causes are better said by their kind."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "its TLS certificate does not verify"
    if cause is not None:
        return "it does not speak TLS as it should"
    return {"ConnectError": "it could not be reached", "ReadError": "it was lost"}.get(
        type(error).__name__, type(error).__name__
    )


def within(what: str, error: MesateeError) -> Malformed:
    """The error of an answer that came whole and is not what it should be."""
    return Malformed(
        f"{what} cannot be read: {error.message}", hint="try again; the service sent it like this"
    )


__all__ = [
    "ANSWER_SECONDS",
    "ATTEMPTS",
    "BACKOFF_SECONDS",
    "BINARY_TYPES",
    "JSON_TYPES",
    "STEP_SECONDS",
    "WAIT_SECONDS",
    "Answer",
    "Service",
    "base_address",
    "tls",
    "within",
]
