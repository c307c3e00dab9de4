"""The operator's full check of a stored log: everything that can be derived is derived again and compared.

A gateway that starts trusts a snapshot that its own key sealed, and replays from there. This check does not: it replays
the log from its first entry and compares the snapshot with what comes out. It needs the service's own keys, so it runs
where the gateway runs, and it changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..._core import SecretKey
from ...errors import LogCorrupt, MesateeError
from ...protocol import records
from ...protocol.doors import Blobs
from .log import Log, SnapshotRef
from .state import ENDED, State


@dataclass(frozen=True, slots=True)
class Audited:
    """A log that holds: its size and root, records by kind, and the state that they lead to."""

    size: int
    root: bytes
    kinds: Mapping[str, int]
    snapshot: SnapshotRef | None
    state: State


@dataclass(slots=True)
class _Replay:
    """The replay of a whole log, and what no single record shows."""

    snapshot: SnapshotRef | None = None
    dumped: bytes = b""
    state: State = field(default_factory=State)
    kinds: Counter[str] = field(default_factory=Counter)
    receipts: dict[str, int] = field(default_factory=dict)

    def apply(self, index: int, record: records.LogRecord) -> None:
        outcome = None if record.kind == "statement" else record.outcome()
        match outcome:
            case records.EpochOutcome() if outcome.number != self.state.epoch + 1:
                raise LogCorrupt(f"log entry {index} begins epoch {outcome.number} after {self.state.epoch}")
            case records.ReceiptOutcome():
                grant = self.state.run(outcome.run).granted()
                if grant.fence != outcome.fence:
                    raise LogCorrupt(f"log entry {index} holds the receipt of an attempt that did not count")
                self.receipts[outcome.run] = index
        self.state.apply(index, record)
        self.kinds[record.kind] += 1
        if self.snapshot is not None and self.state.size == self.snapshot.size:
            # Key order is part of neither: both sides are compared as restored states.
            if State.restore(self.dumped) != self.state:
                raise LogCorrupt(f"the snapshot of {self.snapshot.size} entries is not what they lead to")
            self.dumped = b""


def audit(log: Log, blobs: Blobs, snapshot_key: SecretKey) -> Audited:
    """Check a stored log as a whole. `log` is a fresh one that nobody appends to; it is loaded here.

    1. What `Log.load` checks: the signed head, every entry under its root, every body under its entry.
    2. The snapshot that the head names opens, bound to the root at its size.
    3. Every record from the first on can follow those before it: epochs count up, receipts are of the attempt that
       counts, no run ends twice.
    4. The snapshot is the state at its size.
    5. Every run that has ended has a receipt or was closed, and no other has a receipt.

    Raises `LogCorrupt`, which names what is wrong, and `NotFound` when the host has lost the snapshot.
    """
    replay = _Replay()

    def restore(ref: SnapshotRef, root: bytes) -> None:
        sealed = b"".join(blobs.get(ref.blob))
        try:
            replay.dumped = snapshot_key.open(sealed, SNAPSHOT + root)
            State.restore(replay.dumped)
        except MesateeError as error:
            raise LogCorrupt(f"the snapshot of {ref.size} entries does not open: {error.message}") from None
        replay.snapshot = ref

    # 1. and 2.: replaying nothing yet, for what follows the snapshot may not fit an empty state.
    log.load(lambda index, record: None, restore)
    # 3. and 4.
    log.load(replay.apply, restore, from_snapshot=False)
    # 5.
    for run in replay.state.runs.values():
        if replay.receipts.get(run.digest) != run.receipt or (
            run.receipt is not None and run.status not in ENDED
        ):
            raise LogCorrupt(f"run {run.digest[:16]} and its receipt do not agree")
    return Audited(
        replay.state.size,
        log.root(replay.state.size),
        MappingProxyType(dict(replay.kinds)),
        replay.snapshot,
        replay.state,
    )


SNAPSHOT = b"mesatee snapshot v1"
"""Domain of a sealed snapshot; the root at its size follows."""

__all__ = ["SNAPSHOT", "Audited", "audit"]
