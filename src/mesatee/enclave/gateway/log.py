"""The log: sealed bodies, the Merkle tree over them, and the signed head. It is the gateway's only database.

Appending is cheap and immediate in memory; a writer thread commits batches to the host's record store together with the
checkpoint that covers them, and only then is anybody told. What the host gives back at start is verified in full:
every body against its entry, every entry against the signed root.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ..._core import SecretKey, SigningKey, first_altered_body
from ...errors import Conflict, HostFailed, LogCorrupt, Malformed, MesateeError, TooLarge
from ...protocol import checkpoint as cp
from ...protocol import limits, merkle, records
from ...protocol.digests import sha256
from ...protocol.doors import Record, Records
from ...protocol.jsonstrict import canonical, parse_object
from .permit import Action, Permit

READ_AHEAD = 3
"""Reads that the host has been asked for during replay while a batch is looked at: it never waits for the next one."""


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """A sealed snapshot of the projection: the log size that it covers and its blob."""

    size: int
    blob: str


@dataclass(slots=True)
class _Pending:
    index: int
    record: Record
    time: int
    done: Future[int]


class Log:
    """One writer per epoch. `append` is called from one thread only; everything else is thread-safe."""

    def __init__(self, origin: str, store: Records, body_key: SecretKey, signer: SigningKey) -> None:
        self.origin = origin
        self._store = store
        self._key = body_key
        self._signer = signer
        self._tree = merkle.Tree()
        self._durable = 0
        self._epoch = 0
        self._time = 0
        self._snapshot: SnapshotRef | None = None
        self._named: SnapshotRef | None = None
        self._failed: MesateeError | None = None
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._carry: _Pending | None = None
        self._signed: cp.Checkpoint | None = None
        # Entries that a snapshot vouched for, and how many of them were compared with what the host stores.
        self._vouched = self._compared = 0

    # -- reading ----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Entries that are durable: the only ones that anybody is told of."""
        return self._durable

    @property
    def next_index(self) -> int:
        """The index that the next append will get."""
        return self._tree.size

    @property
    def failed(self) -> MesateeError | None:
        """Why the last commit failed, until the log was read anew and `begin` starts the next epoch."""
        return self._failed

    @property
    def public(self) -> bytes:
        """The log's Ed25519 key."""
        return self._signer.public

    @property
    def snapshot(self) -> SnapshotRef | None:
        """The newest snapshot, which the next head names."""
        return self._snapshot

    @property
    def named(self) -> SnapshotRef | None:
        """The snapshot that the durable head names."""
        return self._named

    def root(self, size: int) -> bytes:
        """The root at a size that the tree has reached, durable or not."""
        return self._tree.root(size)

    def leaves(self, size: int) -> bytes:
        """The leaf hashes of the first `size` entries, durable or not, one after the other."""
        return self._tree.leaves(0, size)

    def checkpoint(self, time: int, size: int | None = None) -> cp.Checkpoint:
        """The durable head, or an earlier one, signed for log time `time`."""
        size = self._durable if size is None else size
        self._durable_only(size)
        # All statements of one group commit are answered with the same head: it is signed once. The root is part of
        # what is compared, so that no head of a tree that was read anew can be mistaken for it.
        wanted = (size, self._tree.root(size), time, self._epoch)
        last = self._signed
        if last is None or (last.size, last.root, last.time, last.epoch) != wanted:
            last = self._signed = cp.sign(self.origin, *wanted, self._signer)
        return last

    def extends(self, older: cp.Checkpoint) -> bool:
        """Whether this log has `older` as a prefix; `older`'s signature is verified already."""
        return older.size <= self._tree.size and self._tree.root(older.size) == older.root

    def consistency(self, first: int, second: int) -> list[bytes]:
        """RFC 6962 consistency proof between two durable sizes."""
        self._durable_only(second)
        return self._tree.consistency(first, second) if first else []

    def tile(self, level: int, index: int, width: int) -> bytes:
        """A hash tile (tlog-tiles)."""
        self._durable_only(((index * merkle.TILE) + width) << (8 * level))
        return self._tree.tile(level, index, width)

    def entries(self, start: int, limit: int) -> list[bytes]:
        """Raw entries for entry bundles (tlog-tiles)."""
        self._durable_only(start + limit)
        return [record.entry for record in self._read(start, limit)]

    def prove(self, index: int, size: int | None = None) -> records.RecordProof:
        """One entry opened, with its inclusion proof in the durable tree, or in that of an earlier size.

        For the parties concerned only.
        """
        size = self._durable if size is None else size
        self._durable_only(max(size, index + 1))
        if not 0 <= index < size:
            raise Malformed(f"entry {index} is not in the log of {size} entries")
        record = self._read(index, 1)[0]
        salt, plain = records.unpack(self._open(index, record))
        return records.RecordProof(
            index=index,
            salt=salt.hex(),
            record=plain.decode(),
            body_digest=sha256(record.body),
            size=size,
            path=tuple(item.hex() for item in self._tree.inclusion(index, size)),
        )

    def _durable_only(self, size: int) -> None:
        if not 0 <= size <= self._durable:
            raise Malformed(f"the log has {self._durable} entries, {size} were asked for")

    def _read(self, start: int, limit: int) -> list[Record]:
        found: list[Record] = []
        while len(found) < limit:
            batch = self._store.read(start + len(found), limit - len(found))
            if not batch:
                raise LogCorrupt(f"the host has no entry {start + len(found)} any more")
            found.extend(batch[: limit - len(found)])
        if not self._as_signed(start, found):
            self._name_altered(self._tree, start, found)
        return found

    # -- replay -----------------------------------------------------------------------------------

    def load(
        self,
        apply: Callable[[int, records.LogRecord], None],
        restore: Callable[[SnapshotRef], bytes],
        *,
        from_snapshot: bool = True,
    ) -> None:
        """Read and verify what the host has.

        1. The head's checkpoint is signed by this log's key and names this many entries.
        2. `restore` gets the newest snapshot's reference, if there is one, and returns the leaf hashes that it vouches
           for. All later entries are read; the root over both is the signed one.
        3. Each later body has the digest that its entry names, opens under the log's key at its own index and matches
           its commitment.
        4. Under a snapshot of at most `LOG_COMPARED_AT_START` entries, each stored entry is the one in the tree, and
           each body has its digest. Of a larger one `compare` finds this out later: the start stays short.
        5. `apply` gets the later records, in order.

        Until all of this holds, nothing of the log in memory changes. After a failed commit it takes no record before
        `begin`: a record decided on the old state must not get in between.

        With `from_snapshot` false the snapshot is passed over and everything is replayed.

        Raises `LogCorrupt`, naming the first entry that is wrong, and what `restore` raises.
        """
        with _without_collections():
            self._load(apply, restore, from_snapshot)

    def _load(
        self,
        apply: Callable[[int, records.LogRecord], None],
        restore: Callable[[SnapshotRef], bytes],
        from_snapshot: bool,
    ) -> None:
        size, head = self._store.head()
        tree = merkle.Tree()
        signed, snapshot = self._check_head(size, head) if size else (None, None)
        if not from_snapshot:
            snapshot = None
        if snapshot is not None:
            tree.extend([restore(snapshot)])
        vouched = tree.size
        if snapshot is not None and vouched != snapshot.size:
            raise LogCorrupt(f"the snapshot of {snapshot.size} entries vouches for {vouched}")
        later: list[tuple[int, bytes]] = []
        for start, batch in self._batches(vouched, size):
            entries, bodies = [record.entry for record in batch], [record.body for record in batch]
            tree.extend([merkle.leaf_hashes(entries)])
            altered = first_altered_body(entries, bodies)
            # An entry before it may not open: the first one that is wrong is named.
            later += [
                (index, self._verified(index, record)) for index, record in enumerate(batch[:altered], start)
            ]
            if altered is not None:
                raise _altered(start + altered)
        if signed is not None and tree.root(size) != signed.root:
            for start, batch in self._batches(0, size):
                for index, record in enumerate(batch, start):
                    self._verified(index, record)
            raise LogCorrupt(
                "an entry of the stored log was altered, or the snapshot is of another: not the signed root"
            )
        compared = self._compared
        if vouched <= limits.LOG_COMPARED_AT_START:
            for start, batch in self._batches(0, vouched):
                self._compare(tree, start, batch)
            compared = vouched
        for index, plain in later:
            try:
                apply(index, records.parse(plain))
            except MesateeError as error:
                raise LogCorrupt(f"log entry {index} cannot be replayed: {error.message}") from error
        self._tree, self._snapshot, self._named, self._carry = tree, snapshot, snapshot, None
        self._durable, self._vouched, self._compared = size, vouched, compared
        self._epoch, self._time = (signed.epoch, signed.time) if signed is not None else (0, 0)

    def compare(self, stop: threading.Event, rest: float = 0.0) -> int:
        """Compare what the host stores with the entries that a snapshot vouched for, where `load` left that for later;
        goes on where it was stopped. Returns how many entries it looked at.

        Nobody who asks for an altered entry is given it, compared or not; this finds out before anybody asks. `rest` is
        how long it pauses after each batch, as a multiple of the time that the batch took.

        Raises `LogCorrupt`, naming the first entry that is wrong, `HostFailed` and `TimedOut`.
        """
        first = self._compared
        for start, batch in self._batches(first, self._vouched):
            began = time.monotonic()
            self._compare(self._tree, start, batch)
            self._compared = start + len(batch)
            if stop.wait(rest * (time.monotonic() - began)):
                break
        return max(0, self._compared - first)

    def _compare(self, tree: merkle.Tree, start: int, batch: list[Record]) -> None:
        entries, bodies = [record.entry for record in batch], [record.body for record in batch]
        found = merkle.leaf_hashes(entries) == tree.leaves(start, start + len(batch))
        if not found or first_altered_body(entries, bodies) is not None:
            self._name_altered(tree, start, batch)

    def _name_altered(self, tree: merkle.Tree, start: int, batch: list[Record]) -> None:
        """Raises for the first record that is not the one in the tree, or whose body is not its own."""
        for index, record in enumerate(batch, start):
            self._verified(index, record)
            if merkle.leaf_hash(record.entry) != tree.leaves(index, index + 1):
                raise LogCorrupt(f"log entry {index} is not the one that was signed")

    def _as_signed(self, start: int, batch: list[Record]) -> bool:
        leaves = merkle.leaf_hashes([record.entry for record in batch])
        return leaves == self._tree.leaves(start, start + len(batch))

    def _check_head(self, size: int, head: bytes) -> tuple[cp.Checkpoint, SnapshotRef | None]:
        named: SnapshotRef | None = None
        try:
            value = parse_object(head, limit=2 * limits.CHECKPOINT_BYTES)
            signed = cp.verify(str(value.get("checkpoint")), self.origin, self._signer.public)
            snapshot = value.get("snapshot")
            if snapshot is not None:
                named = SnapshotRef(int(snapshot["size"]), str(snapshot["blob"]))
        except (MesateeError, KeyError, TypeError, ValueError) as error:
            raise LogCorrupt(f"the stored head of the log is not valid: {error}") from None
        if signed.size != size:
            raise LogCorrupt(f"the host stores {size} entries, the signed head says {signed.size}")
        if named is not None and not 0 < named.size <= size:
            raise LogCorrupt("the head names a snapshot that the log does not reach")
        return signed, named

    def _batches(self, first: int, size: int) -> Iterator[tuple[int, list[Record]]]:
        """Records from `first` to `size` and where each batch begins; the next is on its way while one is looked at."""
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="replay") as ahead:
            coming: deque[Future[list[Record]]] = deque()
            index = asked = first
            while index < size:
                while len(coming) < READ_AHEAD and asked < size:
                    coming.append(ahead.submit(self._store.read, asked, min(limits.LOG_BATCH, size - asked)))
                    asked += min(limits.LOG_BATCH, size - asked)
                wanted = min(limits.LOG_BATCH, size - index)
                batch = coming.popleft().result()[:wanted]
                if not batch:
                    raise LogCorrupt(f"the host stores no entry {index}")
                lengths = [len(record.entry) for record in batch]
                if lengths.count(limits.LOG_ENTRY_BYTES) != len(lengths):
                    number = next(
                        at for at, found in enumerate(lengths, index) if found != limits.LOG_ENTRY_BYTES
                    )
                    raise LogCorrupt(f"log entry {number} does not have {limits.LOG_ENTRY_BYTES} bytes")
                yield index, batch
                index += len(batch)
                if len(batch) < wanted:
                    # Records as large as these fill a frame early: what was asked for next begins too late.
                    for answer in coming:
                        answer.cancel()
                    coming.clear()
                    asked = index

    def _verified(self, index: int, record: Record) -> bytes:
        salt, plain = records.unpack(self._open(index, record))
        if records.commitment(salt, plain) != record.entry[:32]:
            raise LogCorrupt(f"log entry {index} does not commit to its record")
        return plain

    def _open(self, index: int, record: Record) -> bytes:
        _check_body(index, record)
        try:
            return self._key.open(record.body, _aad(self.origin, index))
        except MesateeError:
            raise LogCorrupt(f"the body of log entry {index} does not open under the log's key") from None

    # -- writing ----------------------------------------------------------------------------------

    def begin(self, epoch: int) -> None:
        """Start committing under `epoch`."""
        self._epoch = epoch
        self._failed = None
        self._writer = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._writer.start()

    def append(self, permit: Permit, record: records.LogRecord) -> Future[int]:
        """Take a record into the log; the future yields its index once it is durable.

        The permit is the monitor's for exactly this record.
        """
        plain = record.to_bytes()
        permit.use(Action.APPEND, sha256(plain))
        if self._failed is not None:
            raise HostFailed(f"the log cannot be written: {self._failed.message}")
        index = self._tree.size
        stored = seal_record(self._key, self.origin, index, plain)
        if len(stored.body) > limits.LOG_BODY_BYTES:
            # Here it is one request's failure; the host would refuse the whole batch.
            raise TooLarge(f"a log body of {len(stored.body)} bytes, the limit is {limits.LOG_BODY_BYTES}")
        self._tree.append(merkle.leaf_hash(stored.entry))
        pending = _Pending(index, stored, record.time, Future())
        # A caller that goes away must not cancel what is being committed: the writer will set the result.
        pending.done.set_running_or_notify_cancel()
        self._queue.put(pending)
        return pending.done

    def note_snapshot(self, snapshot: SnapshotRef) -> None:
        """Name a snapshot in the heads from now on. Its blob is durable already."""
        self._snapshot = snapshot

    def close(self) -> None:
        """Commit what is pending and stop."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
            self._name_snapshot()

    def _name_snapshot(self) -> None:
        """A snapshot that was made after the last append still gets into the head."""
        snapshot = self._snapshot
        if self._failed is None and snapshot is not None and snapshot != self._named:
            # Without its name in the head a snapshot is not used, which costs nothing but time.
            with contextlib.suppress(MesateeError):
                head, named = self._head(self._durable)
                self._store.append(self._durable, [], head)
                self._named = named

    def _write(self) -> None:
        stop = False
        while not stop:
            batch: list[_Pending] = []
            size = 0
            item = self._carry or self._queue.get()
            self._carry = None
            while item is not None:
                room = size + len(item.record.body) + limits.LOG_ENTRY_BYTES <= limits.FRAME_BYTES // 2
                if batch and not room:
                    self._carry = item
                    break
                batch.append(item)
                size += len(item.record.body) + limits.LOG_ENTRY_BYTES
                if len(batch) == limits.LOG_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                stop = True
            if batch:
                self._commit(batch)

    def _head(self, end: int) -> tuple[bytes, SnapshotRef | None]:
        """The signed head over `end` entries, and the newest snapshot that they reach, which it names."""
        signed = cp.sign(self.origin, end, self._tree.root(end), self._time, self._epoch, self._signer)
        snapshot = self._snapshot
        if snapshot is None or snapshot.size > end:
            return canonical({"checkpoint": signed.note, "snapshot": None}), None
        named = {"size": snapshot.size, "blob": snapshot.blob}
        return canonical({"checkpoint": signed.note, "snapshot": named}), snapshot

    def _commit(self, batch: list[_Pending]) -> None:
        if self._failed is None:
            try:
                end = batch[-1].index + 1
                self._time = max(self._time, batch[-1].time)
                head, named = self._head(end)
                self._store.append(batch[0].index, [item.record for item in batch], head)
                self._durable, self._named = end, named
            except Conflict:
                self._failed = Conflict(
                    "another gateway has written to this log", hint="only one gateway may run an epoch"
                )
            except MesateeError as error:
                self._failed = error
        for item in batch:
            if self._failed is None:
                item.done.set_result(item.index)
            else:
                item.done.set_exception(HostFailed(f"the log cannot be written: {self._failed.message}"))


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """A replay makes millions of objects that stay: to look for garbage among them again and again finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def seal_record(key: SecretKey, origin: str, index: int, plain: bytes) -> Record:
    """A record's bytes as they are stored at `index`: sealed for this place in this log, under a fresh salt."""
    salt = os.urandom(records.SALT_BYTES)
    body = key.seal(records.pack(salt, plain), _aad(origin, index))
    return Record(records.entry(salt, plain, body), body)


def _aad(origin: str, index: int) -> bytes:
    return f"mesatee log body v1\n{origin}\n{index}".encode()


def _check_body(index: int, record: Record) -> None:
    if hashlib.sha256(record.body).digest() != record.entry[32:]:
        raise _altered(index)


def _altered(index: int) -> LogCorrupt:
    return LogCorrupt(f"the body of log entry {index} was altered")


__all__ = ["Log", "SnapshotRef", "seal_record"]
