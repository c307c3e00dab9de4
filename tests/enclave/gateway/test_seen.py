"""Which statements came already."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tests.support.gateway import Case
from tests.support.mutate import QUICK

from mesatee.enclave.gateway.seen import WINDOW, Seen
from mesatee.errors import Expired, Replayed
from mesatee.protocol import limits
from mesatee.protocol.statements import ApprovalStatement, PresenceStatement, WithdrawalStatement

ADAPTER = TypeAdapter(Seen)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@QUICK
@given(st.lists(st.integers(0, WINDOW), max_size=40))
def test_what_could_come_again_is_known(steps: list[int]) -> None:
    seen, now, came = Seen(), 0, list[int]()
    for index, step in enumerate(steps):
        now += step
        came.append(now)
        seen.add(digest(index), index, now)
        for earlier, at in enumerate(came):
            if at >= now - WINDOW:
                assert seen.get(digest(earlier)) == earlier
    assert seen.get(digest(len(steps))) is None
    assert ADAPTER.validate_json(ADAPTER.dump_json(seen)) == seen


def test_what_cannot_come_again_is_forgotten() -> None:
    seen = Seen()
    for number, at in enumerate(range(0, 40 * WINDOW, WINDOW // 50)):
        seen.add(digest(number), number, at)
        assert len(seen) <= 104
    assert seen.get(digest(0)) is None


def test_the_first_place_of_a_statement_counts() -> None:
    seen = Seen()
    seen.add(digest(1), 5, 0)
    seen.add(digest(1), 9, 0)
    assert seen.get(digest(1)) == 5


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"since": 0, "old": "", "new": "00"},
        {"since": "x", "old": "", "new": ""},
        {"since": 0, "old": "", "new": "x"},
    ],
)
def test_what_is_no_snapshot_of_it_is_refused(said: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(said)


def test_a_forgotten_statement_is_refused_for_its_age(case: Case) -> None:
    world = case.world
    old = case.left.write(world.desk, PresenceStatement)
    world.submit(case.left, old)
    assert world.submit(case.left, old).already
    world.clock += limits.STATEMENT_AGE_SECONDS + limits.CLOCK_SKEW_SECONDS
    for _ in range(3):
        world.clock += WINDOW + 1
        world.post(case.right, PresenceStatement)
    assert world.state.seen.get(old.digest) is None
    with pytest.raises(Expired):
        world.submit(case.left, old)


def test_a_withdrawn_approval_that_is_forgotten_does_not_come_back(case: Case) -> None:
    world = case.world
    said = {"task": case.task, "id": secrets.token_hex(16)}
    given = case.left.write(world.desk, ApprovalStatement, expires=int(world.clock) + 9 * WINDOW, **said)
    world.submit(case.left, given)
    world.post(case.left, WithdrawalStatement, **said)
    for _ in range(3):
        world.clock += WINDOW + 1
        world.post(case.left, PresenceStatement)
    assert world.state.seen.get(given.digest) is None
    with pytest.raises(Expired):
        world.submit(case.left, given)
    with pytest.raises(Replayed):
        world.post(case.left, ApprovalStatement, expires=int(world.clock) + 60, **said)
