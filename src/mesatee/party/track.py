"""Following one log: every checkpoint is verified, in time, and extends the newest one that was verified
before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import Expired, ForkDetected, LogCorrupt
from ..protocol import checkpoint as cp
from ..protocol import limits, merkle
from ..protocol.records import LogRecord, RecordProof
from .memory import CheckpointMemory

FetchProof = Callable[[int, int], Sequence[bytes]]
"""Fetches the consistency proof between two sizes."""


class LogTracker:
    """The newest verified checkpoint of a log, in this session and in the memory of its identity.

    Not thread-safe.
    """

    def __init__(self, origin: str, key: bytes, memory: CheckpointMemory, fetch: FetchProof) -> None:
        """Raises `Corrupt` or `KeyRefused` when the memory does not fit."""
        self.origin = origin
        self.key = key
        self._memory = memory
        self._fetch = fetch
        self.newest: cp.Checkpoint | None = memory.load(key)

    def observe(self, note: str, now: int) -> cp.Checkpoint:
        """Verify a checkpoint that the gateway sent, and remember it.

        1. The log's key signed it, under the log's origin (C2SP signed-note).
        2. Its time is within `limits.CLOCK_SKEW_SECONDS` of `now`, the owner's own clock.
        3. The log extends the newest checkpoint that was verified before (RFC 9162, section 2.1.4).
        4. It is remembered, durably, before anything is built on it.

        Raises `SignatureInvalid`, `Malformed`, `Expired`, and `ForkDetected` when step 3 fails.
        """
        # 1. Signature.
        found = cp.verify(note, self.origin, self.key)
        # 2. Time.
        if abs(found.time - now) > limits.CLOCK_SKEW_SECONDS:
            raise Expired(
                f"the log's time is {found.time - now:+d} s from this machine's clock; "
                f"{limits.CLOCK_SKEW_SECONDS} s are allowed"
            )
        # 3. Extension.
        if self.newest is not None:
            self._extends(self.newest, found)
        # 4. Memory.
        self._memory.remember(found, self.key)
        self.newest = found
        return found

    def _extends(self, older: cp.Checkpoint, newer: cp.Checkpoint) -> None:
        if newer.size < older.size:
            raise ForkDetected(
                f"the log has {newer.size} entries, fewer than the {older.size} that were verified before"
            )
        if newer.epoch < older.epoch:
            raise ForkDetected(
                f"the log is in epoch {newer.epoch}, before epoch {older.epoch} that was verified before"
            )
        if older.size == 0:
            return
        proof = self._fetch(older.size, newer.size) if newer.size > older.size else ()
        try:
            merkle.verify_consistency(older.size, newer.size, older.root, newer.root, proof)
        except LogCorrupt as error:
            raise ForkDetected(
                f"the log of {newer.size} entries does not extend the {older.size} verified before: "
                f"{error.message}"
            ) from None


def check_record(proof: RecordProof, checkpoint: cp.Checkpoint) -> LogRecord:
    """The record of a proof, if it stands in the tree that `checkpoint` signs (RFC 9162, section 2.1.3).

    Raises `LogCorrupt`.
    """
    if proof.size != checkpoint.size:
        raise LogCorrupt(f"the proof is for {proof.size} entries, the checkpoint for {checkpoint.size}")
    path = [bytes.fromhex(item) for item in proof.path]
    leaf = merkle.leaf_hash(proof.entry())
    merkle.verify_inclusion(leaf, proof.index, proof.size, path, checkpoint.root)
    return proof.read()


__all__ = ["FetchProof", "LogTracker", "check_record"]
