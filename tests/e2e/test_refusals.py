"""Each refusal of the demo, as a test of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.conftest import denials

from mesatee import channel
from mesatee._core import SigningKey
from mesatee.attestation.verify import appraise
from mesatee.cli import up
from mesatee.cli.demo import refusals, stage
from mesatee.errors import EvidenceRefused, ForkDetected, Halted, LogCorrupt, MesateeError
from mesatee.party import Session, data
from mesatee.party.config import endpoint
from mesatee.protocol import statements

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
    first = session.refresh().size if session else 0
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


def runs(scene: refusals.Scene):
    return {view.digest: view for view in scene.stage.of("scientist").tasks()}


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
    scene = refusals.Scene(*(None,) * 7)  # type: ignore[arg-type]
    scene.stage = stage.Stage(home, "", *(None,) * 4)  # type: ignore[arg-type]
    with pytest.raises(LogCorrupt, match="entry 3 "):
        refusals.log_byte_changed(scene)
    # Restored, it starts with everything that it knew.
    fresh(home, with_worker=False)
    with ExitStack() as stack:
        people = stage.enter(stack, home, ("hospital-a",))
        assert {item.keys.name for item in people.of("hospital-a").parties()} == {"hospital-a", "hospital-b"}


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
