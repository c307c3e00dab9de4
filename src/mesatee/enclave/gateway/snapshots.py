"""Sealed snapshots: the projection at a size of the log, and the leaf hashes of all entries up to there.

A gateway that starts takes both from the snapshot that its own key sealed, and reads from the host what came after. The
leaves say of which log it is a snapshot: with what follows they must lead to the signed root, so that a snapshot of an
abandoned branch, or of another log, is found out.

    plaintext = size u64 big-endian | leaf hashes, 32 bytes each | the state as JSON
"""

from __future__ import annotations

from ..._core import SecretKey
from ...errors import LogCorrupt, MesateeError
from ...protocol.merkle import HASH
from .log import SnapshotRef

DOMAIN = b"mesatee snapshot v4"
EVERY, SHARE = 5_000, 50
"""Log entries between two snapshots: at least so many, and a fiftieth of the log: each holds the whole state."""
_SIZE = 8


def distance(size: int) -> int:
    """Entries that a log of `size` entries takes before its next snapshot."""
    return max(EVERY, size // SHARE)


def seal(key: SecretKey, leaves: bytes, state: bytes) -> bytes:
    """The snapshot of a dumped `state`; `leaves` are the leaf hashes of the entries that led to it, in order."""
    size = (len(leaves) // HASH).to_bytes(_SIZE)
    return key.seal(b"".join((size, leaves, state)), DOMAIN + size)


def open_sealed(key: SecretKey, ref: SnapshotRef, sealed: bytes) -> tuple[bytes, bytes]:
    """Leaves and dumped state. Raises `LogCorrupt` for what this key did not seal for this size."""
    try:
        plain = key.open(sealed, DOMAIN + ref.size.to_bytes(_SIZE))
    except MesateeError as error:
        raise LogCorrupt(f"the snapshot of {ref.size} entries does not open: {error.message}") from None
    end = _SIZE + ref.size * HASH
    return plain[_SIZE:end], plain[end:]


__all__ = ["DOMAIN", "distance", "open_sealed", "seal"]
