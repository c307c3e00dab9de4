"""A log over records in memory."""

from __future__ import annotations

from concurrent.futures import Future

from tests.support.gateway import ORIGIN, MemoryRecords

from mesatee._core import SecretKey, SigningKey
from mesatee.enclave.gateway.log import Log, SnapshotRef
from mesatee.enclave.gateway.permit import Action, Mint
from mesatee.protocol import records
from mesatee.protocol.digests import sha256

BODY, SIGNER = SecretKey.generate(), SigningKey.generate()
MINT = Mint()
VOUCHED: dict[str, bytes] = {}
"""The leaves that snapshots vouch for, by blob."""


def record(number: int, action: str = "x") -> records.LogRecord:
    outcome = records.DeniedOutcome(by="", action=action, subject=str(number), code="denied")
    return records.of_outcome(outcome, 1_000 + number, "host")


class Bench:
    """A log with its store, and what replay has shown."""

    def __init__(self, store: MemoryRecords | None = None, epoch: int = 1) -> None:
        self.store = store or MemoryRecords()
        self.log = Log(ORIGIN, self.store, BODY, SIGNER)
        self.seen: list[records.LogRecord] = []
        self.restored: list[SnapshotRef] = []
        self.load()
        self.log.begin(epoch)

    def load(self) -> None:
        self.seen.clear()
        self.log.load(lambda index, item: self.seen.append(item), self._restore)

    def _restore(self, ref: SnapshotRef) -> bytes:
        self.restored.append(ref)
        return VOUCHED[ref.blob]

    def snap(self, size: int) -> SnapshotRef:
        """Note a snapshot of the log as it was at `size`."""
        leaves = self.log.leaves(size)
        ref = SnapshotRef(size, sha256(leaves))
        VOUCHED[ref.blob] = leaves
        self.log.note_snapshot(ref)
        return ref

    def send(self, item: records.LogRecord) -> Future[int]:
        permit = MINT.permit(Action.APPEND, sha256(item.to_bytes()), self.log.next_index)
        return self.log.append(permit, item)

    def add(self, count: int) -> None:
        start = self.log.next_index
        for done in [self.send(record(start + number)) for number in range(count)]:
            done.result(10)


def filled(count: int = 7) -> MemoryRecords:
    """What a host has after an orderly life."""
    bench = Bench()
    for _ in range(count):
        bench.add(1)
    bench.log.close()
    return bench.store


def copied(store: MemoryRecords) -> MemoryRecords:
    return store.rolled_back(len(store.stored))
