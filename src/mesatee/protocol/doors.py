"""The three doors to the untrusted host, as the trusted side sees them.

The host may lose what it was given, never forge it: everything that passes here is ciphertext, signed, or both.
All methods block and may be called from several threads. They raise `HostFailed` when the host does not answer or
does not keep to the protocol, and the errors that their docstrings name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One entry of the log: the Merkle leaf's bytes and the sealed body that it commits to."""

    entry: bytes
    body: bytes


class Lease(NamedTuple):
    """A ticket that this worker holds until the lease ends."""

    id: str
    ticket: bytes


class Records(Protocol):
    """An append-only list; the host orders, it decides nothing."""

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        """Store `records` at index `expected` and replace the head, all or nothing, durably.

        Raises `Conflict` if the list does not have exactly `expected` entries.
        """

    def read(self, start: int, limit: int) -> list[Record]:
        """At most `limit` records from index `start`; fewer when a frame would overflow; empty at the end."""

    def head(self) -> tuple[int, bytes]:
        """The number of entries and the head stored with the last append; ``(0, b"")`` when empty."""


class Queue(Protocol):
    """At-least-once delivery of opaque bytes. Trusted for nothing."""

    def put(self, ticket: bytes) -> None:
        """Store a ticket durably."""

    def lease(self, seconds: float, wait: float) -> Lease | None:
        """The oldest free ticket, held for `seconds`; waits up to `wait` seconds for one."""

    def renew(self, lease_id: str, seconds: float) -> None:
        """Hold it longer. Raises `NotFound` if the lease is gone."""

    def ack(self, lease_id: str) -> None:
        """Remove the ticket. Raises `NotFound` if the lease is gone."""


class Blobs(Protocol):
    """Sealed files by the SHA-256 of their bytes (64 lower-case hex digits)."""

    def put(self, digest: str, chunks: Iterable[bytes], size: int) -> None:
        """Store if absent. Raises `DigestMismatch`, keeping nothing, if the bytes are not of `digest` and `size`."""

    def get(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, in chunks. Raises `NotFound`. The caller checks the digest."""

    def size(self, digest: str) -> int:
        """The size in bytes. Raises `NotFound`."""

    def discard(self, digest: str) -> None:
        """Nobody needs these bytes any more; they may be gone already."""


__all__ = ["Blobs", "Lease", "Queue", "Record", "Records"]
