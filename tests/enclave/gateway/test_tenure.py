"""Which gateway decides, and what no log of this service can say about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ORIGIN, World
from tests.support.succession import Holders, second

from mesatee._core import SigningKey
from mesatee.enclave.gateway.audit import audit
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.gateway.state import State
from mesatee.enclave.gateway.tenure import Received, Tenure, check, recovered, tenure
from mesatee.errors import Denied, LogCorrupt, Malformed
from mesatee.host.blobs.local import LocalBlobs
from mesatee.protocol import records, statements

FIRST, SECOND = "01" * 32, "02" * 32


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


def test_the_newest_that_the_log_names_decides() -> None:
    handed, shared = Received(successor=FIRST), Received(successor=FIRST, holders=("aa" * 32, "bb" * 32))
    for successors, founder, by_hand, by_shares in (
        ([], Tenure.HOLDS, Tenure.PASSED, Tenure.TAKES_UP),
        ([FIRST], Tenure.PASSED, Tenure.HOLDS, Tenure.HOLDS),
        ([FIRST, SECOND], Tenure.PASSED, Tenure.PASSED, Tenure.PASSED),
        ([SECOND], Tenure.PASSED, Tenure.PASSED, Tenure.TAKES_UP),
    ):
        state = State(successors=successors)
        found = [tenure(state, received) for received in (None, handed, shared)]
        assert found == [founder, by_hand, by_shares], successors


def world_facts() -> statements.WorkerFacts:
    """Of a peer gateway."""
    return statements.WorkerFacts(
        key="0a" * 32,
        measurement=second().measurement,
        level=2,
        tee="software",
        simulated=False,
        evidence="0b" * 32,
        certificate="0c" * 32,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"holders": ()},
        {"holders": ("aa" * 32, "bb" * 32)},
        {"holders": 1},
        {"shares": None},
        {"shares": "ab" * 32},
    ],
    ids=["nobody", "strangers", "too few", "no set", "another set"],
)
def test_what_the_statement_and_the_log_do_not_allow_takes_up_nothing(
    holders: Holders, changes: dict[str, Any]
) -> None:
    """Checked by the gateway that would take up, and by everybody who reads the log afterwards."""
    world = World(holders.keys, holders.store)
    state = world.state
    world.close()
    good = Received(
        successor="ab" * 32, holders=tuple(sorted(holders.ids[:2])), shares=holders.recovery.digest
    )
    assert recovered(holders.keys.said, state, good).holders == good.holders
    if changes.get("holders") == 1:
        changes = {"holders": (holders.ids[0],)}
    bad = good.model_copy(update=changes)
    with pytest.raises(Denied):
        recovered(holders.keys.said, state, bad)
    fields = {**good.model_dump(), **changes}
    body = {**fields, "holders": list(fields["holders"])}
    record = records.LogRecord(time=state.time, source="host", kind="recovered", body=body)
    with pytest.raises((LogCorrupt, Malformed)):
        check(holders.keys.service, state, state.size, record)


def test_the_log_hands_over_and_shares_only_what_the_statement_allows(holders: Holders) -> None:
    world = World(holders.keys, holders.store)
    state, facts = world.state, world_facts()
    world.close()
    plain = World()
    plain.close()
    handed = records.of_outcome(records.HandOverOutcome(successor="ab" * 32, peer=facts), state.time, "host")
    shared = records.of_outcome(
        records.SharesOutcome(envelope=holders.recovery.envelope.as_dict()), state.time, "host"
    )
    forged = statements.sign(holders.recovery.predicate, SigningKey.generate()).envelope.as_dict()
    signed = records.of_outcome(records.SharesOutcome(envelope=forged), state.time, "host")
    for service, record in (
        (holders.keys.service, handed),
        (plain.keys.service, shared),
        (holders.keys.service, signed),
    ):
        with pytest.raises(LogCorrupt, match=record.kind):
            check(service, state, state.size, record)
    check(holders.keys.service, state, state.size, shared)
    with pytest.raises(LogCorrupt, match="once more"):
        state.apply(state.size, shared)


def test_a_start_and_an_audit_refuse_a_log_that_passes_keys_against_the_statement(tmp_path: Path) -> None:
    """Somebody who has the log's key, but not what the statement asks for: this service has no share holders."""
    world = World()
    outcome = records.RecoveredOutcome(successor=FIRST, holders=("aa" * 32, "bb" * 32), shares="cc" * 32)
    world.run(logged(world, outcome))
    world.close()
    keys = replace(world.keys, received=Received(**outcome.model_dump()))
    nowhere: Any = None
    with pytest.raises(LogCorrupt, match="no share holders"):
        Gateway(GatewayConfig(), keys, second(), world.store, nowhere, nowhere, ForkProofs(tmp_path))
    with pytest.raises(LogCorrupt, match="no share holders"):
        audit(Log(ORIGIN, world.store, keys.body, keys.log), LocalBlobs(tmp_path), keys)


async def logged(world: World, outcome: records.Outcome) -> None:
    await world.monitor._log_outcome(outcome)
