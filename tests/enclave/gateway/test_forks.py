"""A halt after a fork lasts over restarts: the proof is kept, and decides anew at each start."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from tests.support.gateway import Member, World
from tests.support.live import Live

from mesatee._core import SigningKey
from mesatee.enclave.gateway.forks import FORKS_BYTES, FORKS_FILE, PROOFS, ForkProofs
from mesatee.errors import ForkDetected, LogCorrupt, MesateeError
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.statements import PresenceStatement

FUTURE = 10_000


def future(live: Live, size: int = FUTURE) -> str:
    """A checkpoint that this log's key signed, of a log that the host no longer has."""
    return cp.sign(live.desk.origin, size, bytes(32), live.desk.now(), 9, live.keys.log).note


def refused(live: Live, note: str | None = None) -> str:
    """The code with which a newcomer, who remembers nothing, is turned away; empty if it is served."""
    member = live.member(f"seer-{secrets.token_hex(3)}", register=False)
    try:
        member.post(PresenceStatement, **({"checkpoint": note} if note else {}))
    except MesateeError as error:
        return "" if error.code == "not_found" else error.code
    return ""


def test_the_halt_after_a_fork_survives_a_restart(own: Live) -> None:
    proof = future(own)
    assert refused(own, proof) == "fork_detected"
    for _ in range(2):
        size = own.gateway.log.size
        own.stop()
        own.start()
        assert own.gateway.monitor.halted
        # Nothing is logged, not even an epoch; everybody is told why.
        assert own.gateway.log.size == size
        assert own.reader.send("GET", "/v1/service").status_code == 503
        assert refused(own, proof) == "halted"


def test_a_deleted_proof_is_met_again_by_the_next_statement_of_who_remembers(own: Live) -> None:
    proof = future(own)
    assert refused(own, proof) == "fork_detected"
    own.stop()
    (own.folder / "enclave" / FORKS_FILE).unlink()
    own.start()
    assert own.gateway.monitor.halted is None
    assert refused(own) == ""
    assert refused(own, proof) == "fork_detected"
    assert refused(own, proof) == "halted"
    assert ForkProofs(own.folder / "enclave").read() == (proof,)


def test_who_gets_back_the_log_that_was_signed_is_served_again(own: Live) -> None:
    own.member("early")
    newest = own.reader.send("GET", "/v1/log/checkpoint").text
    own.stop()
    # The proof of an earlier fork whose storage has been restored since.
    ForkProofs(own.folder / "enclave").keep(newest)
    own.start()
    assert own.gateway.monitor.halted is None
    own.member("late")


@pytest.mark.parametrize("note", ["", "no checkpoint", "foreign"])
def test_a_proof_that_was_altered_is_no_start(own: Live, note: str) -> None:
    if note == "foreign":
        note = cp.sign(own.desk.origin, 1, bytes(32), own.desk.now(), 1, SigningKey.generate()).note
    own.stop()
    (own.folder / "enclave" / FORKS_FILE).write_bytes(canonical({"proofs": [note]}))
    with pytest.raises(LogCorrupt, match="proof"):
        own.start()
    (own.folder / "enclave" / FORKS_FILE).unlink()
    own.start()


def test_a_proof_is_kept_before_anybody_is_told(world: World) -> None:
    (alice,) = world.join("alice")
    newest = world.monitor.checkpoint().note
    old = World(world.keys, world.store.rolled_back(world.log.size - 1))
    old.proofs.clear()
    try:
        with pytest.raises(ForkDetected):
            old.post(Member("bob"), PresenceStatement, checkpoint=newest)
        assert old.proofs == [newest]
    finally:
        old.close()
    world.post(alice, PresenceStatement, checkpoint=newest)
    assert world.proofs == []


# -- the file -----------------------------------------------------------------------------------------


def test_proofs_are_kept_once_each_and_bounded(tmp_path: Path) -> None:
    forks = ForkProofs(tmp_path)
    assert forks.read() == ()
    notes = [f"{number:04}" + "x" * (limits.CHECKPOINT_BYTES - 4) for number in range(PROOFS + 1)]
    for note in (*notes, notes[0]):
        forks.keep(note)
    # The newest is among them: it may say that the keys were handed over.
    assert ForkProofs(tmp_path).read() == (*notes[: PROOFS - 1], notes[PROOFS])
    assert sorted(path.name for path in tmp_path.iterdir()) == [FORKS_FILE]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"proofs":"x"}',
        b'{"proofs":[1]}',
        b'{"proofs":[],"more":1}',
        b" " * (FORKS_BYTES + 1),
    ],
    ids=["empty", "cut", "list", "text", "number", "more", "large"],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FORKS_FILE).write_bytes(data)
    with pytest.raises(LogCorrupt, match="proofs"):
        ForkProofs(tmp_path).read()
    assert (tmp_path / FORKS_FILE).read_bytes() == data
