"""The log: how long a gateway takes to start on a million stored records, and to prove something about one.

The records are those of a busy service, in the real SQLite store behind the real host process: half of them presences,
a quarter denials, and approvals and datasets for the rest. They are written through the records door in full batches,
in the form in which the gateway writes them (sealed, salted, committed to, under a signed head). Signatures of parties
are not made, for a start does not check them again. Started is: the newest snapshot is opened, what follows it is read
through the host's socket and replayed, and the root over both is the signed one. What a gateway compares while it
serves, the stored records under the snapshot, is a row of its own.

No peer does the same work, so there is none in the rows.
"""

from __future__ import annotations

import contextlib
import resource
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..._core import SecretKey, SigningKey
from ...enclave.doors import HostClient
from ...enclave.gateway import snapshots
from ...enclave.gateway.log import Log, SnapshotRef, seal_record
from ...enclave.gateway.state import State
from ...protocol import checkpoint as cp
from ...protocol import envelope as dsse
from ...protocol import limits, merkle, records, statements
from ...protocol.digests import b64encode, sha256
from ...protocol.doors import Record
from ...protocol.jsonstrict import canonical
from ...protocol.policy_text import DEFAULT_DATASET_POLICY
from ..up import Process
from .rows import Goal, Row, Say, compare

RECORDS, QUICK_RECORDS = 1_000_000, 20_000
STARTS, QUICK_STARTS = 3, 2
PROOFS: Final = 200
ORIGIN: Final = "mesatee.bench/log"
AT: Final = 1_800_000_000
PARTIES: Final = 64
WRAP_BYTES: Final = 1152
"""An X-Wing wrap of a file key: 1,120 bytes of encapsulation, 16 of key and 16 of tag."""
START_GOAL: Final = Goal("at most 10 s for 1,000,000 records", ours_at_most=10.0)
PROOF_GOAL: Final = Goal("at most 5 ms", ours_at_most=5.0)
MS: Final = 1_000.0
MIB: Final = limits.MIB


@dataclass(slots=True)
class Stored:
    """A log in the host's hands, with its keys and the size that its snapshot covers."""

    doors: HostClient
    body: SecretKey = field(default_factory=SecretKey.generate)
    key: SecretKey = field(default_factory=SecretKey.generate)
    signer: SigningKey = field(default_factory=SigningKey.generate)
    tree: merkle.Tree = field(default_factory=merkle.Tree)
    snapshot: SnapshotRef | None = None

    def log(self) -> Log:
        """A fresh log on the stored one."""
        return Log(ORIGIN, self.doors.records, self.body, self.signer)

    def head(self) -> bytes:
        """As the gateway signs it."""
        signed = cp.sign(ORIGIN, self.tree.size, self.tree.root(self.tree.size), AT, 1, self.signer)
        ref = self.snapshot
        named = {"size": ref.size, "blob": ref.blob} if ref else None
        return canonical({"checkpoint": signed.note, "snapshot": named})

    def fill(self, count: int) -> None:
        """Append that many records."""
        plain = _plain(count, cp.sign(ORIGIN, 0, merkle.EMPTY_ROOT, AT, 1, self.signer).note)
        while self.tree.size < count:
            start, batch, room = self.tree.size, list[Record](), limits.FRAME_BYTES // 2
            while len(batch) < limits.LOG_BATCH and start + len(batch) < count and room > 0:
                batch.append(seal_record(self.body, ORIGIN, start + len(batch), next(plain)))
                room -= len(batch[-1].body)
            for record in batch:
                self.tree.append(merkle.leaf_hash(record.entry))
            self.doors.records.append(start, batch, self.head())

    def start(self, *, from_snapshot: bool = True) -> tuple[Log, State]:
        """What a gateway does with its log before it serves."""
        state = State()

        def restore(ref: SnapshotRef) -> bytes:
            nonlocal state
            leaves, dumped = snapshots.open_sealed(self.key, ref, b"".join(self.doors.blobs.get(ref.blob)))
            state = State.restore(dumped)
            return leaves

        log = self.log()
        log.load(lambda index, record: state.apply(index, record), restore, from_snapshot=from_snapshot)
        return log, state

    def snap(self, state: State) -> int:
        """Store a snapshot of the log as it is; returns its size in bytes."""
        sealed = snapshots.seal(self.key, self.tree.leaves(0, state.size), state.dump())
        digest = sha256(sealed)
        self.doors.blobs.put(digest, [sealed], len(sealed))
        self.snapshot = SnapshotRef(state.size, digest)
        self.doors.records.append(self.tree.size, [], self.head())
        return len(sealed)


def _plain(count: int, note: str) -> Iterator[bytes]:
    """The plaintext of `count` records, as a gateway would have logged them; every one is another."""
    people = [SigningKey.generate() for _ in range(PARTIES)]
    wrap = b64encode(bytes(WRAP_BYTES))
    for number in range(count):
        by = people[number % PARTIES]
        if number % 4 == 3:
            denied = records.DeniedOutcome(
                by=by.public.hex(), action="post_statement", subject=f"{number:064x}", code="not_approved"
            )
            yield records.of_outcome(denied, AT, "parties").to_bytes()
            continue
        common = {
            "origin": ORIGIN,
            "service": "00" * 32,
            "time": AT,
            "nonce": f"{number:032x}",
            "checkpoint": note,
        }
        said: statements.Common
        if number % 4 < 2:
            said = statements.PresenceStatement.model_validate(common)
        elif number % 20 == 2:
            said = statements.DatasetStatement.model_validate(
                {
                    **common,
                    "name": f"data-{number}",
                    "blob": {"sha256": f"{number:064x}", "size": 1_000_000},
                    "format": "csv",
                    "columns": tuple({"name": name, "type": "int64"} for name in ("id", "age", "value")),
                    "rows": 1_000,
                    "policy": DEFAULT_DATASET_POLICY,
                    "wrap": wrap,
                }
            )
        else:
            said = statements.ApprovalStatement.model_validate(
                {**common, "task": f"{number % 977:064x}", "id": f"{number:032x}", "expires": AT + 86_400}
            )
        yield _logged(said, by)


class _Unsigned:
    """Names a signer without the cost of a signature: replay reads who signed, it does not verify again."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, message: bytes) -> bytes:
        """64 zeros."""
        return bytes(64)


def _logged(said: statements.Common, by: SigningKey) -> bytes:
    envelope: dsse.Envelope = statements.sign(said, _Unsigned(by.public)).envelope
    return records.of_statement(envelope, AT, "parties").to_bytes()


@contextlib.contextmanager
def _host(folder: Path) -> Iterator[HostClient]:
    command = [sys.executable, "-I", "-B", "-m", "mesatee.host.server", "--lifeline"]
    command += ["--socket", str(folder / "host.sock"), "--data", str(folder / "host")]
    host = Process("host", command, folder / "host.log")
    host.start()
    try:
        with HostClient(folder / "host.sock", timeout=120.0) as doors:
            yield doors
    finally:
        host.stop()


def _timed(times: list[float]) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def measuring() -> Iterator[None]:
        started = time.perf_counter()
        yield
        times.append(time.perf_counter() - started)

    return measuring()


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench log``."""
    count, starts = (QUICK_RECORDS, QUICK_STARTS) if quick else (RECORDS, STARTS)
    later = snapshots.distance(count)
    filling, replaying, snapping, starting, comparing = (list[float]() for _ in range(5))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stored = Stored(stack.enter_context(_host(folder)))
        say(f"writing {count} records")
        with _timed(filling):
            stored.fill(count - later)
        say("replaying all of them")
        with _timed(replaying):
            _, state = stored.start(from_snapshot=False)
        say("storing a snapshot, and what follows it")
        with _timed(snapping):
            size = stored.snap(state)
        del state
        stored.fill(count)
        log: Log | None = None
        for number in range(starts):
            log = None
            say(f"start {number + 1} of {starts}")
            with _timed(starting):
                log, state = stored.start()
            del state
        if log is None:
            raise AssertionError
        say("comparing the stored records with the snapshot")
        with _timed(comparing):
            log.compare(threading.Event())
        say("proving")
        inclusion, consistency = _proofs(log, count)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * limits.KIB / MIB
    replay_note = f"{count - later} records, each opened, checked and applied"
    goal = None if quick else START_GOAL
    return (
        compare(
            "start with a snapshot",
            "s",
            starting,
            goal=goal,
            note=f"{count} records, {later} after it",
        ),
        compare(
            "records under the snapshot compared",
            "s",
            comparing,
            note="while the gateway serves; here without a rest",
        ),
        compare("start without a snapshot", "s", replaying, note=replay_note),
        compare(
            "snapshot taken",
            "s",
            snapping,
            note=f"{size / MIB:.0f} MiB; the gateway decides nothing meanwhile",
        ),
        compare(
            "inclusion proof with its record", "ms", inclusion, goal=PROOF_GOAL, note=f"of {count} entries"
        ),
        compare("consistency proof", "ms", consistency, goal=PROOF_GOAL, note=f"between sizes up to {count}"),
        compare(
            "peak memory", "MiB", [peak], note="of the process that starts, with its snapshot and its tree"
        ),
    )


def _proofs(log: Log, count: int) -> tuple[list[float], list[float]]:
    inclusion, consistency = list[float](), list[float]()
    for _ in range(PROOFS):
        index = secrets.randbelow(count - 1) + 1
        with _timed(inclusion):
            log.prove(index)
        with _timed(consistency):
            log.consistency(index, count)
    return [item * MS for item in inclusion], [item * MS for item in consistency]


__all__ = ["measure"]
