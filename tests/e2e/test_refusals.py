"""Each refusal of the demo, as a test of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.conftest import denials, entries, gateway_log, kinds, until

from mesatee import channel
from mesatee._core import SigningKey
from mesatee.attestation.verify import appraise
from mesatee.cli import up
from mesatee.cli.demo import refusals, stage
from mesatee.errors import (
    Denied,
    EvidenceRefused,
    ForkDetected,
    Halted,
    KeyRefused,
    LogCorrupt,
    MesateeError,
)
from mesatee.party import Session, data, tasks
from mesatee.party.config import endpoint
from mesatee.protocol import records, statements, wire

ACTOR = {
    "before_everyone_approved": "scientist",
    "function_swapped": "scientist",
    "receiver_added": "scientist",
    "approval_replayed": "hospital-a",
    "withdrawn": "scientist",
    "withdrawn_posted_again": "hospital-a",
    "ciphertext_claimed": "stranger",
}
"""Who is refused, where the monitor does it: the denial must be in the log."""


@pytest.mark.parametrize("item", refusals.ONLINE, ids=lambda item: item.attempt.__name__)
def test_refused(scene: refusals.Scene, item: refusals.Refusal) -> None:
    actor = ACTOR.get(item.attempt.__name__)
    session = scene.stage.of(actor) if actor else None
    first = start = scene.stage.of("stranger").refresh().size
    before = {name: len(view.runs) for name, view in runs(scene).items()}
    with pytest.raises(item.expected) as caught:
        item.attempt(scene)
    assert type(caught.value) is item.expected
    assert caught.value.hint
    if session is not None:
        codes = [found.code for found in denials(session, first)]
        assert codes == [caught.value.code]
        # What was refused never became a run.
        assert all(len(view.runs) == before.get(name, 0) for name, view in runs(scene).items())
    # Nothing left: no result, and no key but those for ciphertext that was found altered before it was used.
    released = kinds(scene.stage, start) & {"grant", "release"}
    assert released <= ({"grant"} if item.attempt is refusals.ciphertext_changed else set())


def runs(scene: refusals.Scene) -> dict[str, wire.TaskView]:
    return {view.digest: view for view in scene.stage.of("scientist").tasks()}


def test_a_worker_that_is_refused_gets_no_ticket_for_what_waits(
    scene: refusals.Scene, tmp_path: Path
) -> None:
    """Nobody but the attested worker took anything from the queue: the run that follows is its only attempt."""
    scene = replace(scene, stage=replace(scene.stage, home=tmp_path))
    hospital = scene.stage.of("hospital-a")
    first = hospital.refresh().size
    with pytest.raises(EvidenceRefused, match="measurement"):
        refusals.other_worker(scene)
    view = refusals.propose(scene, "after-the-false-worker")
    refusals.both_approve(scene, view)
    assert refusals.run(scene, view).attempts == 1
    workers = {
        found.worker.measurement
        for item in entries(hospital, first)
        if item.kind == "grant" and isinstance(found := item.outcome(), records.GrantOutcome)
    }
    assert workers == set(scene.stage.accept.workers)


def test_a_swapped_function_and_an_added_receiver_need_everybody_anew(scene: refusals.Scene) -> None:
    """Another function or receiver is another task: the approvals of the first count for nothing in it."""
    first = refusals.propose(scene, "anew-first")
    refusals.both_approve(scene, first)
    second = refusals.propose(scene, "anew-second", to=("scientist", "stranger"))
    assert second.digest != first.digest
    missing = {item.name: item.state for item in second.approvals}
    names = ("hospital-a", "hospital-b", "scientist", "stranger")
    assert missing == dict.fromkeys(names, "missing")
    assert {item.state for item in scene.stage.of("scientist").task(first.digest).approvals} == {"approved"}


def test_an_approval_posted_by_somebody_else_is_refused(scene: refusals.Scene) -> None:
    """A copy of a hospital's valid approval counts only from the hospital's own channel."""
    view = refusals.propose(scene, "posted-by-another")
    hospital, stranger = scene.stage.of("hospital-a"), scene.stage.of("stranger")
    first = stranger.refresh().size
    given = tasks.approve(hospital, tasks.review(hospital, hospital.task(view.digest)))
    with pytest.raises(KeyRefused):
        refusals.post_raw(stranger, given.statement.envelope)
    assert [found.code for found in denials(stranger, first)] == ["key_refused"]


def test_a_receiver_alone_collects(scene: refusals.Scene) -> None:
    """The owners of the data, and a stranger, ask for the scientist's result: a denial each, and no release."""
    view = refusals.propose(scene, "collected-by-others")
    refusals.both_approve(scene, view)
    run = refusals.run(scene, view)
    start = scene.stage.of("scientist").refresh().size
    for name in ("hospital-a", "hospital-b", "stranger"):
        session = scene.stage.of(name)
        first = session.refresh().size
        with pytest.raises(Denied):
            session.post(statements.CollectStatement, run=run.digest)
        assert [found.code for found in denials(session, first)] == ["denied"]
    assert "release" not in kinds(scene.stage, start)
    # The scientist's own request is in the log before its keys leave.
    scientist = scene.stage.of("scientist")
    assert scientist.post(statements.CollectStatement, run=run.digest).result is not None
    found = [item.kind for item in entries(scientist, start) if item.kind != "denied"]
    assert found == ["statement", "release"]


def test_a_forged_wrap_is_refused_too(scene: refusals.Scene) -> None:
    """The stranger cannot register a copy of the ciphertext under another digest either: it knows no file key."""
    hospital, stranger = scene.stage.of("hospital-a"), scene.stage.of("stranger")
    said = hospital.statement(
        data.find(hospital, scene.dataset_a).index, "dataset", scene.dataset_a
    ).predicate
    assert isinstance(said, statements.DatasetStatement)
    copy = scene.sealed_a.read_bytes() + b"\0"
    path = scene.stage.home / "copy.age"
    path.write_bytes(copy)
    digest = statements.sha256(copy)
    with path.open("rb") as source:
        stranger.upload(digest, source, len(copy))
    with pytest.raises(MesateeError) as caught:
        stranger.post(
            statements.DatasetStatement,
            name="copy",
            blob=statements.BlobRef(sha256=digest, size=len(copy)),
            format=said.format,
            columns=said.columns,
            rows=said.rows,
            policy=said.policy,
            wrap=said.wrap,
        )
    assert caught.value.code == "key_refused"


# -- processes that claim to be somebody --------------------------------------------------------------


def test_plain_tcp_gets_no_answer(service: up.Service) -> None:
    where = endpoint(service.url)
    with socket.create_connection((where.host, where.port), timeout=15) as plain:
        plain.sendall(b"GET /v1/service HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = plain.recv(4096)
    # At most a TLS alert: record type 21.
    assert answer == b"" or answer[0] == 21
    assert b"HTTP" not in answer


def test_tls_without_a_certificate_is_refused(service: up.Service) -> None:
    where = endpoint(service.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((where.host, where.port), timeout=15) as plain,
        context.wrap_socket(plain) as secure,
    ):
        secure.sendall(b"GET /v1/service HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = secure.recv(1)
    assert answer == b""


def test_a_certificate_without_its_key_is_refused(people: stage.Stage) -> None:
    """The hospital's own certificate, shown by somebody with another key."""
    certificate = people.of("hospital-a").identity.certificate(int(time.time()))
    where = endpoint(people.url)
    with pytest.raises(MesateeError):
        channel.connect(
            where.host,
            where.port,
            certificate,
            SigningKey.generate(),
            lambda peer: appraise(peer.evidence, peer.spki, people.trust, int(time.time()), "gateway"),
        )


def test_each_refused_handshake_is_told_to_the_operator_alone(
    service: up.Service, people: stage.Stage, scene: refusals.Scene
) -> None:
    before = sum(line.get("event") == "handshake_refused" for line in gateway_log(service))
    with pytest.raises(EvidenceRefused) as caught:
        refusals.false_peer(scene)
    # The caller learns that it was refused, and not what would have been accepted.
    assert "measurement" not in caught.value.message
    assert "installation" not in caught.value.message
    until(lambda: sum(line.get("event") == "handshake_refused" for line in gateway_log(service)) > before)
    said = [line["reason"] for line in gateway_log(service) if line.get("event") == "handshake_refused"][-1]
    assert "EvidenceRefused" in said


def test_another_process_as_gateway_is_refused(people: stage.Stage) -> None:
    """A man in the middle with a key of its own cannot show evidence for it."""
    key = SigningKey.generate()
    now = int(time.time())
    certificate = channel.make_certificate(key, "mesatee gateway", now - 60, now + 600, None)
    listener = channel.Listener("127.0.0.1", 0, certificate, key, lambda peer: peer)
    try:
        with pytest.raises(EvidenceRefused):
            Session(
                f"https://127.0.0.1:{listener.port}", people.of("stranger").identity, people.trust
            ).connect()
        assert listener.accept(0.2) is None
    finally:
        listener.close()


# -- what the host may try with the log -----------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, fresh: Callable[..., up.Service]) -> tuple[up.Service, Path]:
    """A stopped service with two parties in its log, and an older copy of what its host stored."""
    home = tmp_path / "kept"
    service = fresh(home, with_worker=False)
    with ExitStack() as stack:
        stage.enter(stack, home, ("hospital-a",))
        refusals.keep_copy(home)
        stage.enter(stack, home, ("hospital-b",))
    with ExitStack() as stack:
        people = stage.enter(stack, home, ("hospital-a", "hospital-b"))
        people.of("hospital-b").post(statements.PresenceStatement)
        people.of("hospital-a").refresh()
    service.stop()
    return service, home


def test_a_changed_byte_in_the_log_stops_the_start(
    kept: tuple[up.Service, Path], fresh: Callable[..., up.Service]
) -> None:
    _, home = kept
    with sqlite3.connect(refusals.records_file(home / "service" / "host")) as connection:
        before = connection.execute("SELECT count(*) FROM records").fetchone()[0]
    connection.close()
    scene = refusals.Scene(*(None,) * 7)  # type: ignore[arg-type]
    scene.stage = stage.Stage(home, "", *(None,) * 4)  # type: ignore[arg-type]
    with pytest.raises(LogCorrupt, match="entry 3 "):
        refusals.log_byte_changed(scene)
    # Restored, it starts with everything that it knew.
    fresh(home, with_worker=False)
    with ExitStack() as stack:
        hospital = stage.enter(stack, home, ("hospital-a",)).of("hospital-a")
        assert {item.keys.name for item in hospital.parties()} == {"hospital-a", "hospital-b"}
        # Two more entries: the new epoch, and the hospital showing itself in it.
        assert hospital.checkpoint.size == before + 2


def test_a_rolled_back_log_halts_the_gateway(
    kept: tuple[up.Service, Path], fresh: Callable[..., up.Service]
) -> None:
    _, home = kept
    host = home / "service" / "host"
    shutil.rmtree(host)
    shutil.copytree(home / "older-host", host)
    service = fresh(home, with_worker=False)
    with ExitStack() as stack, pytest.raises(ForkDetected):
        stage.enter(stack, home, ("hospital-a",))
    # Its own future convicted it: now it serves nobody, also those who would not have noticed.
    with ExitStack() as stack, pytest.raises(Halted):
        stage.enter(stack, home, ("stranger",))
    assert service.process("gateway").alive
    line = json.dumps({"code": "halted"})[1:-1]
    assert line in service.process("gateway").log.read_text()
