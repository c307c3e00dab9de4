"""A log of a million records: start, proofs, memory. Figures are printed; the bounds leave room for shared machines."""

from __future__ import annotations

import os
import resource
import secrets
import threading
import time
from collections.abc import Sequence

import pytest

from mesatee._core import SecretKey, SigningKey
from mesatee.enclave.gateway.log import Log, SnapshotRef
from mesatee.enclave.gateway.permit import Action, Mint
from mesatee.errors import Conflict
from mesatee.protocol import merkle, records
from mesatee.protocol.digests import sha256
from mesatee.protocol.doors import Record

SIZE = int(os.environ.get("MESATEE_SCALE_RECORDS", "1000000"))
START_SECONDS, PROOF_SECONDS = 10.0, 0.005
"""What is promised on a quiet machine; the assertions leave three times as much."""


class Memory:
    """A record store in memory."""

    def __init__(self) -> None:
        self.stored: list[Record] = []
        self.signed = b""

    def append(self, expected: int, new: Sequence[Record], head: bytes) -> None:
        if expected != len(self.stored):
            raise Conflict("somebody was first")
        self.stored.extend(new)
        self.signed = head

    def read(self, start: int, limit: int) -> list[Record]:
        return self.stored[start : start + limit]

    def head(self) -> tuple[int, bytes]:
        return len(self.stored), self.signed


@pytest.mark.slow
def test_a_million_records() -> None:
    store, body, signer, mint = Memory(), SecretKey.generate(), SigningKey.generate(), Mint()
    log = Log("mesatee.test/scale", store, body, signer)
    log.load(lambda index, record: None, lambda ref: b"")
    log.begin(1)
    last = None
    started = time.perf_counter()
    for index in range(SIZE):
        outcome = records.DeniedOutcome(
            by="ab" * 32, action="run", subject=f"{index:064x}", code="not_approved"
        )
        record = records.of_outcome(outcome, 1_800_000_000 + index // 1000, "host")
        permit = mint.permit(Action.APPEND, sha256(record.to_bytes()), log.next_index)
        last = log.append(permit, record)
    assert last is not None
    last.result(60)
    print(f"\nappended {SIZE} records in {time.perf_counter() - started:.1f} s")
    snapshot, leaves = secrets.token_hex(32), log.leaves(SIZE - 1000)
    log.note_snapshot(SnapshotRef(SIZE - 1000, snapshot))
    log.close()

    again, seen, restored = Log("mesatee.test/scale", store, body, signer), list[int](), list[SnapshotRef]()

    def restore(ref: SnapshotRef) -> bytes:
        restored.append(ref)
        return leaves

    started = time.perf_counter()
    again.load(lambda index, record: seen.append(index), restore)
    took = time.perf_counter() - started
    print(f"started on {SIZE} records, with a snapshot, in {took:.2f} s")
    assert seen == list(range(SIZE - 1000, SIZE))
    assert [ref.blob for ref in restored] == [snapshot]
    assert took < 3 * START_SECONDS * max(1.0, SIZE / 1_000_000)

    assert again.compare(threading.Event()) == SIZE - 1000
    root, times = again.root(SIZE), []
    for index in (0, 1, SIZE // 3, SIZE - 2, SIZE - 1):
        started = time.perf_counter()
        proof = again.prove(index)
        path = again.consistency(max(1, index), SIZE)
        times.append(time.perf_counter() - started)
        merkle.verify_inclusion(
            merkle.leaf_hash(proof.entry()), index, SIZE, [bytes.fromhex(item) for item in proof.path], root
        )
        merkle.verify_consistency(max(1, index), SIZE, again.root(max(1, index)), root, path)
    print(f"inclusion and consistency proof: at most {max(times) * 1000:.2f} ms")
    assert max(times) < 3 * PROOF_SECONDS
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
