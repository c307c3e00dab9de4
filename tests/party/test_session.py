from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.trees import cut

from mesatee import _core
from mesatee.attestation import TrustPolicy, reference
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.errors import (
    EvidenceRefused,
    Expired,
    ForkDetected,
    Halted,
    KeyRefused,
    LevelTooLow,
    Malformed,
    MesateeError,
    NotApproved,
    NotFound,
    SignatureInvalid,
    TooLarge,
    Unavailable,
)
from mesatee.party import AsyncSession, Identity, Session
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits, statements
from mesatee.protocol.jsonstrict import canonical


def open_session(fake: Any, who: Identity, **options: Any) -> Session:
    return Session(fake.url, who, fake.trust, timeout=5, **options)


def kinds(fake: Any) -> list[str]:
    return [statements.verify(dsse.from_bytes(item)).kind for item in fake.posted]


def answer(fake: Any, path: str, value: Callable[[], Any]) -> None:
    def made() -> Any:
        found = value()
        return (
            found
            if isinstance(found, tuple) or found is None
            else (200, canonical(found.model_dump(mode="json")))
        )

    fake.answers[path] = made


def test_a_new_party_registers(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        assert session.appraisal.tee == "software"
        assert session.service.digest == fake.service.digest
        assert session.checkpoint.size == 4
    assert kinds(fake) == ["party"]


def test_each_statement_carries_the_newest_checkpoint(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        session.post(statements.PresenceStatement)
        session.post(statements.PresenceStatement)
    sizes = [cp.parse(statements.read(dsse.from_bytes(item)).checkpoint).size for item in fake.posted]  # type: ignore[union-attr]
    assert sizes == [3, 4, 5]


def test_a_known_party_shows_presence_in_a_new_epoch(fake: Any, alice: Identity) -> None:
    answer(fake, "/v1/service", lambda: fake.hello(True, fresh=False))
    with open_session(fake, alice):
        pass
    assert kinds(fake) == ["presence"]


def test_looking_posts_nothing(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice, register=False):
        pass
    assert fake.posted == []


def test_a_rollback_is_found_across_sessions_and_shown_to_the_gateway(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        session.post(statements.PresenceStatement)
        known = session.checkpoint
    fake.posted.clear()
    fake.tree = cut(fake.tree, known.size - 2)
    with pytest.raises(ForkDetected), open_session(fake, alice):
        pass
    assert kinds(fake) == ["presence"]
    shown = statements.read(dsse.from_bytes(fake.posted[0]))
    assert isinstance(shown, statements.PresenceStatement)
    assert cp.parse(shown.checkpoint) == known
    with pytest.raises(ForkDetected), open_session(fake, alice):
        pass


def test_a_fork_of_the_same_size_is_found(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        size = session.checkpoint.size
    fake.tree = cut(fake.tree, size - 1)
    fake.append(b"x" * 64)
    with pytest.raises(ForkDetected), open_session(fake, alice):
        pass


def test_a_fork_within_a_session_is_found(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        fake.tree = cut(fake.tree, 2)
        for _ in range(5):
            fake.append(b"y" * 64)
        with pytest.raises(ForkDetected):
            session.post(statements.PresenceStatement)
        with pytest.raises(ForkDetected):
            session.refresh()


def test_nothing_is_sent_to_a_gateway_that_is_not_trusted(fake: Any, alice: Identity) -> None:
    strict = dataclasses.replace(fake.trust.gateway, measurements=("00" * 32,))
    higher = dataclasses.replace(fake.trust.gateway, minimum_level=4)
    for trust, error in (
        (TrustPolicy(), MesateeError),
        (TrustPolicy(strict, fake.trust.worker), EvidenceRefused),
        (TrustPolicy(higher, fake.trust.worker), LevelTooLow),
    ):
        with pytest.raises(error), Session(fake.url, alice, trust, timeout=5):
            pass
    assert fake.requests == []


def test_the_gateway_is_judged_by_the_endorsements_that_count_now(fake: Any, alice: Identity) -> None:
    auditor = _core.SigningKey.generate()
    pinned = fake.trust.gateway.measurements
    gateway = dataclasses.replace(fake.trust.gateway, measurements=(), auditors=(auditor.public.hex(),))
    trust = TrustPolicy(gateway, fake.trust.worker)
    now = int(time.time())
    said = reference.ReferenceValues("software", dict.fromkeys(pinned, "ours"), now - 10, now + 600)
    kept = [NOTHING]
    session = Session(fake.url, alice, trust, timeout=5, endorsements=lambda: kept[0])
    with pytest.raises(EvidenceRefused, match="measurement"), session:
        pass
    assert fake.requests == []
    kept[0] = Endorsements(references=(reference.sign(said, [auditor]),))
    with Session(fake.url, alice, trust, timeout=5, endorsements=lambda: kept[0]) as session:
        assert session.appraisal.measurement in pinned


def test_another_service_statement_is_refused(fake: Any, alice: Identity) -> None:
    said = fake.service.predicate.model_copy(update={"time": 5})
    other = statements.sign(said, fake.log_key)
    answer(
        fake, "/v1/service", lambda: fake.hello(True, statement=other.envelope.as_dict(), digest=other.digest)
    )
    with pytest.raises(KeyRefused), open_session(fake, alice):
        pass
    lax = dataclasses.replace(fake.trust.gateway, service="any")
    with (
        pytest.raises(KeyRefused, match="vouches"),
        Session(fake.url, alice, TrustPolicy(lax, fake.trust.worker)),
    ):
        pass
    assert fake.posted == []


def test_a_clock_apart_is_refused(fake: Any, alice: Identity) -> None:
    answer(
        fake,
        "/v1/service",
        lambda: fake.hello(True, checkpoint=fake.checkpoint(time=fake.now - 301 - 10).note),
    )
    with pytest.raises(Expired), open_session(fake, alice):
        pass


def test_a_halted_gateway_says_so(fake: Any, alice: Identity) -> None:
    answer(fake, "/v1/service", lambda: fake.hello(True, status="halted"))
    with pytest.raises(Halted), open_session(fake, alice):
        pass


def test_a_broken_get_is_repeated_once(fake: Any, alice: Identity) -> None:
    calls: list[int] = []

    def flaky() -> Any:
        calls.append(1)
        return None if len(calls) == 1 else fake.hello(True)

    answer(fake, "/v1/service", flaky)
    with open_session(fake, alice):
        pass
    assert len(calls) == 2
    answer(fake, "/v1/service", lambda: None)
    with pytest.raises(Unavailable), open_session(fake, alice):
        pass


def test_a_statement_is_posted_again_byte_for_byte(fake: Any, alice: Identity) -> None:
    fake.drop_posts = 1
    with open_session(fake, alice):
        pass
    assert len(fake.posted) == 2
    assert fake.posted[0] == fake.posted[1]


def test_a_request_for_results_is_not_posted_again(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        fake.posted.clear()
        fake.drop_posts = 1
        with pytest.raises(Unavailable):
            session.post(statements.CollectStatement, run="1a" * 32)
    assert len(fake.posted) == 1


def test_the_gateway_s_errors_are_raised(fake: Any, alice: Identity) -> None:
    body = {"error": {"code": "not_approved", "message": "by \x1b[2Kbob\u202e", "hint": "ask\x00"}}
    with open_session(fake, alice) as session:
        fake.answers["/v1/statements"] = lambda: (403, canonical(body))
        with pytest.raises(NotApproved) as caught:
            session.post(statements.PresenceStatement)
        assert caught.value.message == r"by \x1b[2Kbob\u202e"
        assert caught.value.hint == r"ask\x00"
        with pytest.raises(NotFound):
            session.record(0)


GARBAGE: dict[str, tuple[int, bytes]] = {
    "nothing": (200, b""),
    "not JSON": (200, b"<html>"),
    "a list": (200, b"[]"),
    "an empty object": (200, b"{}"),
    "deep": (200, b'{"a":' * 200 + b"1" + b"}" * 200),
    "not UTF-8": (200, b'{"a": "\xff"}'),
    "two keys": (200, b'{"digest": 1, "digest": 2}'),
    "a redirect": (302, b""),
    "an error of somebody else": (500, b"Internal Server Error"),
    "an error with more in it": (400, b'{"error": {"code": "a", "message": "b", "hint": "c", "d": 1}}'),
    "an error of wrong types": (400, b'{"error": {"code": 1, "message": "b", "hint": "c"}}'),
    "too much": (200, b" " * (limits.RESPONSE_BYTES + 1)),
}


@pytest.mark.parametrize(
    "path", ["/v1/service", "/v1/statements", "/v1/log/consistency", "/v1/log/checkpoint"]
)
@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage_is_refused(fake: Any, alice: Identity, path: str, what: str) -> None:
    if path != "/v1/service":
        with open_session(fake, alice):
            pass
    fake.append(b"z" * 64)
    fake.answers[path] = lambda: GARBAGE[what]
    with pytest.raises((Malformed, TooLarge)), open_session(fake, alice) as session:  # noqa: PT012
        session.post(statements.PresenceStatement)
        session.refresh()


def test_an_answer_for_another_statement_is_refused(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        reply = {"digest": "11" * 32, "index": 0, "checkpoint": fake.checkpoint().note, "already": False}
        fake.answers["/v1/statements"] = lambda: (200, canonical({**reply, "result": None}))
        with pytest.raises(Malformed, match="another statement"):
            session.post(statements.PresenceStatement)


def test_a_checkpoint_by_another_key_is_refused(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        note = cp.sign(session.checkpoint.origin, 99, bytes(32), fake.now, 1, alice.signing).note
        fake.answers["/v1/log/checkpoint"] = lambda: (200, note.encode())
        with pytest.raises(SignatureInvalid):
            session.refresh()


def test_a_party_s_statement_is_verified(fake: Any, alice: Identity) -> None:
    with open_session(fake, alice) as session:
        signed = dsse.from_bytes(fake.posted[0])
        view = {"id": alice.id, "name": "alice", "index": 3, "statement": signed.as_dict(), "fresh": True}
        fake.answers["/v1/parties"] = lambda: (200, canonical({"items": [view]}))
        assert session.party("alice").keys == alice.keys()
        assert session.party(alice.id[:6]).id == alice.id
        for wrong in ({"id": "11" * 32}, {"name": "mallory"}):
            fake.answers["/v1/parties"] = lambda wrong=wrong: (200, canonical({"items": [{**view, **wrong}]}))
            with pytest.raises(KeyRefused):
                session.parties()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1:1",
        "https://host",
        "https://a:1/x",
        "https://u@a:1",
        "https://a:99999",
        "https://a:b",
    ],
)
def test_urls_that_are_none(alice: Identity, url: str) -> None:
    with pytest.raises(Malformed):
        Session(url, alice, TrustPolicy())


def test_async_does_the_same(fake: Any, alice: Identity) -> None:
    async def go() -> int:
        async with AsyncSession(fake.url, alice, fake.trust, timeout=5) as session:
            posted = await session.post(statements.PresenceStatement)
            assert (await session.refresh()).size == posted.index + 1
            return posted.index

    assert asyncio.run(go()) == 4
