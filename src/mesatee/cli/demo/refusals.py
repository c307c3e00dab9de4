"""What must be refused, each tried for real against the running service.

Every function does the forbidden thing and lets the refusal fly; `demo` checks that it is the expected one. The last
ones stop the service and act as its host would: they change, cut or replace what lies on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ... import channel
from ..._core import SigningKey, spki
from ...attestation.evidence import Claims
from ...attestation.trust import RoleTrust, TrustPolicy
from ...attestation.verify import appraise
from ...enclave.platform.measure import measure
from ...enclave.platform.software import SoftwareAttester
from ...errors import (
    EvidenceRefused,
    ForkDetected,
    KeyRefused,
    LevelTooLow,
    LogCorrupt,
    MesateeError,
    NotApproved,
    Replayed,
    SignatureInvalid,
    TaskFailed,
)
from ...party import Session, data, functions, tasks
from ...party.config import endpoint
from ...protocol import envelope as dsse
from ...protocol import statements, wire
from .. import bytecode, up
from .stage import KEY, LABEL, Stage

WAIT_SECONDS = 30.0
"""For a run, or for a process to be refused."""


@dataclass(slots=True)
class Scene:
    """What the refusals act on."""

    stage: Stage
    service: up.Service
    dataset_a: str
    dataset_b: str
    sealed_a: Path
    train: str
    psi: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something forbidden, and the error that must come of it."""

    title: str
    expected: type[MesateeError]
    attempt: Callable[[Scene], None]


def propose(
    scene: Scene, name: str, *, function: str | None = None, to: tuple[str, ...] = ("scientist",)
) -> wire.TaskView:
    """The training task, or a variant of it."""
    scientist = scene.stage.of("scientist")
    posted = tasks.new(
        scientist,
        name,
        function=function or scene.train,
        inputs={"left": scene.dataset_a, "right": scene.dataset_b},
        outputs={"result": to},
        accept=scene.stage.accept,
        environment=scene.stage.environment,
        arguments={"key": KEY, "label": LABEL},
    )
    return scientist.task(posted.digest)


def approve(session: Session, view: wire.TaskView) -> None:
    """Review, then sign."""
    tasks.approve(session, tasks.review(session, session.task(view.digest)))


def both_approve(scene: Scene, view: wire.TaskView) -> None:
    """Both hospitals agree to this very task."""
    for name in ("hospital-a", "hospital-b"):
        approve(scene.stage.of(name), view)


def run(scene: Scene, view: wire.TaskView) -> wire.RunView:
    """Run and wait. Raises `TaskFailed`."""
    scientist = scene.stage.of("scientist")
    tasks.run(scientist, view)
    ended = tasks.watch(scientist, view.digest, seconds=WAIT_SECONDS)
    if ended.failure:
        raise TaskFailed(ended.failure)
    return ended


def before_everyone_approved(scene: Scene) -> None:
    """One of two owners has approved."""
    view = propose(scene, "too-early")
    approve(scene.stage.of("hospital-a"), view)
    run(scene, view)


def function_swapped(scene: Scene) -> None:
    """Both approved one function; the scientist names another."""
    approved = propose(scene, "swap-before")
    both_approve(scene, approved)
    source = (
        (Path(__file__).parent / "train.py").read_text().replace('"rows": len(rows)', '"rows": rows.to_csv()')
    )
    greedy = scene.stage.home / "train_greedy.py"
    greedy.write_text(source)
    other = functions.put(scene.stage.of("scientist"), greedy, "train-greedy", entry="train")
    run(scene, propose(scene, "swap-after", function=other.digest))


def receiver_added(scene: Scene) -> None:
    """Both approved one receiver; now there are two."""
    approved = propose(scene, "receiver-before")
    both_approve(scene, approved)
    run(scene, propose(scene, "receiver-after", to=("scientist", "stranger")))


def approval_replayed(scene: Scene) -> None:
    """An approval of one task, edited to name another, under the old signature."""
    first, second = propose(scene, "replay-first"), propose(scene, "replay-second")
    hospital = scene.stage.of("hospital-a")
    given = tasks.approve(hospital, tasks.review(hospital, hospital.task(first.digest)))
    text = given.statement.envelope.payload.replace(first.digest.encode(), second.digest.encode())
    post_raw(hospital, dsse.Envelope(text, given.statement.envelope.signatures))


def withdrawn(scene: Scene) -> None:
    """One owner approved and withdrew."""
    view = propose(scene, "withdrawn")
    both_approve(scene, view)
    hospital = scene.stage.of("hospital-a")
    tasks.withdraw(hospital, hospital.task(view.digest))
    run(scene, view)


def withdrawn_posted_again(scene: Scene) -> None:
    """The withdrawn approval, posted once more."""
    view = propose(scene, "withdrawn-again")
    hospital = scene.stage.of("hospital-a")
    given = tasks.approve(hospital, tasks.review(hospital, hospital.task(view.digest)))
    tasks.withdraw(hospital, hospital.task(view.digest))
    post_raw(hospital, given.statement.envelope)


def ciphertext_claimed(scene: Scene) -> None:
    """A stranger registers a hospital's ciphertext as its own."""
    stranger = scene.stage.of("stranger")
    hospital = scene.stage.of("hospital-a")
    index = data.find(hospital, scene.dataset_a).index
    said = hospital.statement(index, "dataset", scene.dataset_a).predicate
    fields = {name: getattr(said, name) for name in ("blob", "format", "columns", "rows", "policy", "wrap")}
    stranger.post(statements.DatasetStatement, name="mine", **fields)


def false_peer(scene: Scene) -> None:
    """A process on the host says that it is a worker, with evidence of its own making."""
    key, own_installation = SigningKey.generate(), SigningKey.generate()
    forged = SoftwareAttester(own_installation, measure()).evidence(Claims.of_key(spki(key.public), "worker"))
    now = int(time.time())
    certificate = channel.make_certificate(key, "mesatee worker", now - 60, now + 600, forged)
    where = endpoint(scene.service.url)
    connection = channel.connect(
        where.host,
        where.port,
        certificate,
        key,
        lambda peer: appraise(peer.evidence, peer.spki, scene.stage.trust, now, "gateway"),
    )
    connection.close()


def ciphertext_changed(scene: Scene) -> None:
    """The host changes one byte of a sealed file; the worker finds out."""
    view = propose(scene, "changed-ciphertext")
    both_approve(scene, view)
    blob = data.find(scene.stage.of("hospital-a"), scene.dataset_a).blob
    path = next((scene.stage.home / "service" / "host").rglob(blob))
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(flipped(good, len(good) // 2))
    try:
        run(scene, view)
    finally:
        path.write_bytes(good)


def other_worker(scene: Scene) -> None:
    """A worker whose code was changed by one line, with this installation's own key, asks to be let in."""
    folder = scene.stage.home / "changed-worker"
    package = Path(__file__).parents[2]
    shutil.copytree(package, folder / "mesatee", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "mesatee" / "enclave" / "worker" / "run.py").open("a") as file:
        file.write("\n# One line more.\n")
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mesatee.cli.processes import main; sys.exit(main())"
    config = scene.service.runtime / "worker.json"
    # It lives as long as its launcher's end of this pipe is open.
    lifeline, launcher = os.pipe()
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                *bytecode.options(scene.service.runtime),
                "-c",
                start,
                str(folder),
                "worker",
                str(config),
            ],
            capture_output=True,
            stdin=lifeline,
            timeout=WAIT_SECONDS,
            check=False,
        )
    finally:
        os.close(lifeline)
        os.close(launcher)
    said = json.loads(done.stdout or b"{}")
    if said.get("code") == "evidence_refused":
        raise EvidenceRefused(gateway_said(scene))
    raise AssertionError(f"the changed worker was not refused: {said} {done.stderr[-500:]!r}")


def gateway_said(scene: Scene) -> str:
    """Why the gateway refused the last handshake: only its operator is told."""
    for line in reversed(scene.service.process("gateway").log.read_text().splitlines()):
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("event") == "handshake_refused":
            return str(found["reason"]).partition(";")[0]
    return "the gateway's log says nothing"


def asks_for_level_3(scene: Scene) -> None:
    """A client that trusts measured boot or better meets a service of level 2."""
    gateway = replace(scene.stage.trust.gateway, minimum_level=3)
    stricter = TrustPolicy(gateway=gateway, worker=RoleTrust())
    with Session(scene.service.url, scene.stage.of("stranger").identity, stricter, register=False):
        pass


def log_byte_changed(scene: Scene) -> None:
    """The host changes one byte of one log entry on its disk; the gateway does not start on it."""
    folder = scene.stage.home / "service" / "host"
    database = records_file(folder)
    with sqlite3.connect(database) as connection:
        index, body = connection.execute(
            "SELECT idx, body FROM records ORDER BY idx LIMIT 1 OFFSET 3"
        ).fetchone()
        connection.execute(
            "UPDATE records SET body = ? WHERE idx = ?", (flipped(body, len(body) // 2), index)
        )
    connection.close()
    try:
        up.start(scene.stage.home, with_worker=False).stop()
    finally:
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE records SET body = ? WHERE idx = ?", (body, index))
        connection.close()


def log_rolled_back(scene: Scene) -> None:
    """The host puts an older copy of everything that it stores in place; a hospital's own memory convicts it."""
    home = scene.stage.home
    host, older = home / "service" / "host", home / "older-host"
    shutil.rmtree(host)
    shutil.copytree(older, host)
    service = up.start(home, with_worker=False)
    try:
        with Session(service.url, scene.stage.of("hospital-a").identity, scene.stage.trust):
            pass
    finally:
        service.stop()


def keep_copy(home: Path) -> None:
    """The older copy that the host will come back with. Files are complete at any time: the store is durable."""
    host, older = home / "service" / "host", home / "older-host"
    older.mkdir(mode=0o700)
    for path in sorted(host.rglob("*")):
        target = older / path.relative_to(host)
        if path.is_dir():
            target.mkdir(mode=0o700)
        elif path == records_file(host):
            # A consistent copy of a live database, as a snapshotting host would have it.
            with sqlite3.connect(path) as live, sqlite3.connect(target) as copy:
                live.backup(copy)
            live.close()
            copy.close()
        elif not path.name.startswith(path_prefixes(host)):
            shutil.copy2(path, target)


def records_file(host: Path) -> Path:
    """The host's record store."""
    return host / "records.sqlite"


def path_prefixes(host: Path) -> tuple[str, ...]:
    """Side files of the record store, which its backup already contains, and the lock."""
    return (f"{records_file(host).name}-", "lock")


def flipped(data: bytes, at: int) -> bytes:
    """`data` with one bit of one byte changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def post_raw(session: Session, envelope: dsse.Envelope) -> None:
    """Post an envelope as it is. Raises what the gateway answers."""
    session.post_envelope(envelope)


ONLINE: tuple[Refusal, ...] = (
    Refusal("running before everyone approved", NotApproved, before_everyone_approved),
    Refusal("swapping the function after approval", NotApproved, function_swapped),
    Refusal("adding a receiver after approval", NotApproved, receiver_added),
    Refusal("replaying an approval for another task", SignatureInvalid, approval_replayed),
    Refusal("running on a withdrawn approval", NotApproved, withdrawn),
    Refusal("posting a withdrawn approval again", Replayed, withdrawn_posted_again),
    Refusal("registering another's ciphertext as one's own", KeyRefused, ciphertext_claimed),
    Refusal("a process on the host that claims to be a peer", EvidenceRefused, false_peer),
    Refusal("a changed byte of ciphertext", TaskFailed, ciphertext_changed),
    Refusal("a worker of another measurement", EvidenceRefused, other_worker),
    Refusal("a client whose trust policy asks for level 3", LevelTooLow, asks_for_level_3),
)
"""Tried while the service runs."""

OFFLINE: tuple[Refusal, ...] = (
    Refusal("a changed byte in the log on disk", LogCorrupt, log_byte_changed),
    Refusal("a log rolled back to an older copy", ForkDetected, log_rolled_back),
)
"""Tried by its host after the service was stopped."""

__all__ = ["OFFLINE", "ONLINE", "Refusal", "Scene", "both_approve", "keep_copy", "propose", "run"]
