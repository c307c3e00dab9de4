"""Which gateway decides: by what the log says of the service's keys, and by how this gateway came to them.

A service's keys pass to another gateway in two ways only, as the service statement says: by hand-over, or from the
holders of shares. Both are in the log, and of all gateways that ever held the keys the newest there alone decides. What
the log says is held against the service statement whenever it is read: an entry that no gateway of this service can
have made is none.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from ...attestation.trust import TrustPolicy
from ...errors import Denied, LogCorrupt, MesateeError
from ...protocol import envelope as dsse
from ...protocol import records, statements
from ...protocol.digests import Hex32
from ...protocol.model import Model
from ...protocol.recovery import check_set
from ...protocol.service import ShareRule
from . import rules
from .state import State


class Received(Model):
    """How keys that another gateway made came here: under the key with the digest `successor`; and if it was by shares,
    whose they were, and the digest of the recovery statement whose shares they were.
    """

    successor: Hex32
    holders: tuple[Hex32, ...] = ()
    shares: Hex32 | None = None


class Tenure(enum.Enum):
    """Whether it is a gateway's turn."""

    HOLDS = "holds"
    TAKES_UP = "takes up"
    """The keys came from share holders, and the log does not say so yet: its next epoch begins with that."""
    PASSED = "passed"
    """Another gateway holds the keys."""


def tenure(state: State, received: Received | None) -> Tenure:
    """Whose turn it is by the log."""
    mine = received.successor if received else None
    if state.holder == mine:
        return Tenure.HOLDS
    if received and received.holders and mine not in state.successors:
        return Tenure.TAKES_UP
    return Tenure.PASSED


def trust_of_successors(said: statements.ServiceStatement, service: str) -> TrustPolicy:
    """By what a peer gateway is judged: the statement's own policy, and evidence that names this very service."""
    if said.hand_over == "never":
        return TrustPolicy()
    gateway = TrustPolicy.from_toml(said.hand_over.trust).gateway
    return TrustPolicy(gateway=replace(gateway, service=(service,)))


def recovered(
    said: statements.ServiceStatement, state: State, received: Received
) -> records.RecoveredOutcome:
    """What a gateway logs before it takes up the log with keys from share holders.

    1. The service statement has share holders.
    2. So many of them gave their shares, and nobody else did.
    3. They were shares of the set that the log names.

    Raises `Denied`.
    """
    # 1.
    rule = said.share_holders
    if not isinstance(rule, ShareRule):
        raise Denied("this service has no share holders: its service statement says so")
    # 2.
    holders = set(received.holders)
    if len(holders) < rule.k or not holders <= {one.key for one in rule.holders}:
        raise Denied(f"the keys did not come from {rule.k} of the holders that the service statement names")
    # 3.
    if received.shares is None or received.shares != state.shares:
        raise Denied(
            "the log does not name the set of shares that the keys came from",
            hint="take the service's storage as it was when the shares were made, and its own `recovery.json`",
        )
    return records.RecoveredOutcome(
        successor=received.successor, holders=tuple(sorted(holders)), shares=received.shares
    )


def check(service: statements.Statement, state: State, index: int, record: records.LogRecord) -> None:
    """Hold an entry by which the service's keys pass against the service statement; `state` is the one before it.

    Raises `LogCorrupt`.
    """
    if record.kind not in _PASSING:
        return
    said = statements.expect(service.predicate, statements.ServiceStatement)
    outcome = record.outcome()
    try:
        match outcome:
            case records.HandOverOutcome():
                rules.successor(said.hand_over, outcome.peer, outcome.successor, outcome.successor)
            case records.SharesOutcome():
                check_set(statements.verify(dsse.from_dict(outcome.envelope), "recovery"), service)
            case records.RecoveredOutcome():
                found = Received(successor=outcome.successor, holders=outcome.holders, shares=outcome.shares)
                if recovered(said, state, found) != outcome:
                    raise Denied("its holders are not listed once each, in order")
    except MesateeError as error:
        raise LogCorrupt(f"log entry {index}, {record.kind}: {error.message}") from None


_PASSING = frozenset(
    one.kind for one in (records.HandOverOutcome, records.SharesOutcome, records.RecoveredOutcome)
)

__all__ = ["Received", "Tenure", "check", "recovered", "tenure", "trust_of_successors"]
