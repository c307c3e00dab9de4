"""``mesatee log``: the service's public log, and proofs from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .._core import protect_process
from ..errors import ForkDetected, LogCorrupt, Malformed, NotFound
from ..party import files
from ..party.memory import CheckpointMemory
from ..party.session import Session
from ..protocol import checkpoint as cp
from ..protocol import limits, merkle, wire
from ..protocol.digests import sha256
from .common import AsJson, emit, facts, line, moment, settings, short, verb

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
@verb
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the newest checkpoint, verified and compared with the last one that you knew."""
    with settings(context).session() as session:
        newest, said = session.checkpoint, session.service.said
        hello = session.hello
    value = {
        "origin": newest.origin,
        "size": newest.size,
        "root": newest.root.hex(),
        "time": newest.time,
        "epoch": newest.epoch,
        "checkpoint": newest.note,
        "service": hello.digest,
        "log_key": said.log_key,
        "verifier_key": cp.verifier_key(said.origin, bytes.fromhex(said.log_key)),
        "status": hello.status,
    }
    rows = [
        ("origin", newest.origin),
        ("entries", newest.size),
        ("root", newest.root.hex()),
        ("time", moment(newest.time)),
        ("epoch", newest.epoch),
        ("service statement", hello.digest),
        ("log key", said.log_key),
        ("state", hello.status),
    ]
    emit(as_json, value, lambda console: facts(console, rows))


@app.command("prove")
@verb
def prove(
    context: typer.Context,
    index: Annotated[int, typer.Argument(min=0, help="Number of the log entry.")],
    as_json: AsJson = False,
) -> None:
    """Fetch a log entry that concerns you, and verify that it stands in the log."""
    with settings(context).session() as session:
        newest = session.refresh().size - 1
        if index > newest:
            raise NotFound(f"the log has no entry {index}", hint=f"the newest is entry {newest}")
        record = session.record(index)
        covered = session.checkpoint
    value = {"index": index, "size": covered.size, "record": record.model_dump(mode="json")}
    kind = record.kind
    digest = record.statement().digest if kind == "statement" else sha256(record.to_bytes())

    def human(console: Console) -> None:
        line(console, f"entry {index} is in the log of {covered.size} entries", "bold")
        line(console, f"{kind}, {moment(record.time)} (time by the {record.source}), {short(digest)}")

    emit(as_json, value, human)


@app.command("check")
@verb
def check(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A file with a checkpoint of somebody else, to compare with yours.")
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="For the operator: what a stopped service has stored, all of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that the log only grew: since you last looked, and from somebody else's checkpoint to yours.

    With --stored, on the operator's machine: derive everything again from the stored log.
    """
    chosen = settings(context)
    if stored:
        _check_stored(chosen.home, as_json)
        return
    with chosen.session() as session:
        mine = session.refresh()
        other = _compare(session, mine, checkpoint) if checkpoint else None
        kept = CheckpointMemory(session.identity.folder, mine.origin).load(session.service.log_key)
    value = {
        "origin": mine.origin,
        "size": mine.size,
        "epoch": mine.epoch,
        "remembered": kept.size if kept else None,
        "compared": other.size if other else None,
        "consistent": True,
    }

    def human(console: Console) -> None:
        line(console, f"{mine.origin}: {mine.size} entries, an extension of all that you verified before")
        if other:
            line(console, f"the other checkpoint of {other.size} entries is of the same log")

    emit(as_json, value, human)


def _check_stored(home: Path, as_json: bool) -> None:
    from . import stored

    # The service's own keys are in this process for as long as it takes.
    protect_process()
    found = stored.check(home)
    snapshot = {"size": found.snapshot.size, "blob": found.snapshot.blob} if found.snapshot else None
    value = {
        "size": found.size,
        "root": found.root.hex(),
        "epoch": found.state.epoch,
        "kinds": dict(found.kinds),
        "snapshot": snapshot,
        "blobs": found.blobs,
        "consistent": True,
    }
    counted = ", ".join(f"{number} {kind}" for kind, number in sorted(found.kinds.items()))

    def human(console: Console) -> None:
        line(console, f"the stored log of {found.size} entries holds: {counted or 'nothing'}", "bold")
        line(console, f"root {found.root.hex()}, epoch {found.state.epoch}")
        if found.snapshot:
            line(console, f"the snapshot of {found.snapshot.size} entries is what they lead to")
        line(console, f"{found.blobs} blobs that it names are there and have their digests")

    emit(as_json, value, human)


def _compare(session: Session, mine: cp.Checkpoint, path: Path) -> cp.Checkpoint:
    note = files.read(path, limits.CHECKPOINT_BYTES, "checkpoint file").decode("utf-8", "replace")
    try:
        other = cp.verify(note, session.service.said.origin, session.service.log_key)
    except Malformed as error:
        raise Malformed(
            f"{path} is not a checkpoint: {error.message}",
            hint="it is the text that `mesatee log show --json` gives as `checkpoint`",
        ) from None
    if other.size > mine.size:
        raise ForkDetected(f"the log shows you {mine.size} entries and somebody else {other.size}")
    if other.size == 0:
        return other
    params = {"first": other.size, "second": mine.size}
    path_hashes = (
        session.get("/log/consistency", wire.ProofReply, params).path if other.size < mine.size else ()
    )
    try:
        merkle.verify_consistency(
            other.size, mine.size, other.root, mine.root, [bytes.fromhex(item) for item in path_hashes]
        )
    except LogCorrupt as error:
        raise ForkDetected(
            f"the log shows you and somebody else different entries: {error.message}"
        ) from None
    return other


__all__ = ["app"]
