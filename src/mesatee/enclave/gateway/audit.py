"""The operator's full check of a stored log: everything that can be derived is derived again and compared.

A gateway that starts trusts a snapshot that its own key sealed, and replays from there. This check does not: it replays
the log from its first entry and compares the snapshot with what comes out. It needs the service's own keys, so it runs
where the gateway runs, and it changes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ...errors import LogCorrupt, NotFound
from ...protocol import records, statements
from ...protocol.doors import Blobs
from . import snapshots, tenure
from .identity import ServiceKeys
from .log import Log, SnapshotRef
from .runs import ENDED
from .state import State


@dataclass(frozen=True, slots=True)
class Audited:
    """A log that holds: size, root, records by kind, the state that they lead to, and how many blobs it names."""

    size: int
    root: bytes
    kinds: Mapping[str, int]
    snapshot: SnapshotRef | None
    state: State
    blobs: int


@dataclass(slots=True)
class _Replay:
    """The replay of a whole log, and what no single record shows."""

    service: statements.Statement
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
        tenure.check(self.service, self.state, index, record)
        self.state.apply(index, record)
        self.kinds[record.kind] += 1
        if self.snapshot is not None and self.state.size == self.snapshot.size:
            # Key order is part of neither: both sides are compared as restored states.
            if State.restore(self.dumped) != self.state:
                raise LogCorrupt(f"the snapshot of {self.snapshot.size} entries is not what they lead to")
            self.dumped = b""


def audit(log: Log, blobs: Blobs, keys: ServiceKeys) -> Audited:
    """Check a stored log as a whole. `log` is a fresh one that nobody appends to; it is loaded here.

    1. What `Log.load` checks: the signed head, every entry under its root, every body under its entry.
    2. The snapshot that the head names opens, and its leaves are those of the stored entries.
    3. Every record from the first on can follow those before it: epochs count up, receipts are of the attempt that
       counts, no run ends twice, the service's keys pass only as its statement says.
    4. The snapshot is the state at its size.
    5. Every run that has ended has a receipt or was closed, and no other has a receipt.
    6. Every blob that the log names is there, with its digest: datasets, code, outputs, certificates of workers.

    Tiles need no check of their own: they are computed from the entries and stored nowhere.

    Raises `LogCorrupt`, which names what is wrong.
    """
    replay = _Replay(keys.service)

    def restore(ref: SnapshotRef) -> bytes:
        try:
            sealed = b"".join(blobs.get(ref.blob))
        except NotFound:
            raise LogCorrupt(f"the host has lost the snapshot of {ref.size} entries, {ref.blob}") from None
        leaves, replay.dumped = snapshots.open_sealed(keys.snapshot, ref, sealed)
        State.restore(replay.dumped)
        replay.snapshot = ref
        return leaves

    # 1. and 2.: replaying nothing yet, for what follows the snapshot may not fit an empty state.
    log.load(lambda index, record: None, restore)
    log.compare(threading.Event())
    # 3. and 4.
    log.load(replay.apply, restore, from_snapshot=False)
    # 5.
    for run in replay.state.runs.values():
        if replay.receipts.get(run.digest) != run.receipt or (
            run.receipt is not None and run.status not in ENDED
        ):
            raise LogCorrupt(f"run {run.digest[:16]} and its receipt do not agree")
    # 6.
    named = dict(_blobs(replay.state))
    for digest, what in named.items():
        _check_blob(blobs, digest, what)
    return Audited(
        replay.state.size,
        log.root(replay.state.size),
        MappingProxyType(dict(replay.kinds)),
        replay.snapshot,
        replay.state,
        len(named),
    )


def _blobs(state: State) -> Iterator[tuple[str, str]]:
    """Every blob that the log names, and what it is."""
    for dataset in state.datasets.values():
        yield dataset.predicate.blob.sha256, f"of dataset {dataset.digest[:16]}"
    for function in state.functions.values():
        if function.predicate.code is not None:
            yield function.predicate.code.sha256, f"of function {function.digest[:16]}"
    for run in state.runs.values():
        for grant in run.grants:
            yield grant.worker.certificate, f"of the worker of run {run.digest[:16]}"
        for output in run.outputs.values():
            yield output.sha256, f"of an output of run {run.digest[:16]}"


def _check_blob(blobs: Blobs, digest: str, what: str) -> None:
    found = hashlib.sha256()
    try:
        for chunk in blobs.get(digest):
            found.update(chunk)
    except NotFound:
        raise LogCorrupt(f"the host has lost blob {digest} {what}") from None
    if found.hexdigest() != digest:
        raise LogCorrupt(f"blob {digest} {what} was altered")


__all__ = ["Audited", "audit"]
