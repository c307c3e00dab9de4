"""A model of the life cycle, and the monitor beside it: random interleavings never make them differ.

Two owners approve and withdraw, a scientist runs and collects, workers take grants, lose leases and hand in receipts
late, and the gateway restarts in between. What the model says must be refused is refused, and nothing else is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.gateway import Case, Member, World, make_case

from mesatee.enclave.gateway import rules
from mesatee.enclave.gateway.monitor import LEASE_SECONDS, Granted
from mesatee.enclave.gateway.state import State
from mesatee.errors import MesateeError
from mesatee.protocol import limits, records
from mesatee.protocol.statements import CancelStatement, WithdrawalStatement

RUNS = 3
OWNERS = st.sampled_from(["left", "right"])


@dataclass
class ModelRun:
    """What the model knows of a run."""

    status: str = "queued"
    attempts: int = 0
    lease_until: float = 0.0
    counted: dict[str, str] = field(default_factory=dict)
    grants: list[Granted] = field(default_factory=list)


class LifeCycle(RuleBasedStateMachine):
    """The rules of design section 4, said a second time and more simply."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.case: Case = make_case(self.world, runs=RUNS)
        self.given: dict[str, list[str]] = {"left": [], "right": []}
        self.withdrawn: set[str] = set()
        self.model: dict[str, ModelRun] = {}
        self.fresh = {"left", "right"}

    def teardown(self) -> None:
        self.world.close()

    # -- what the model knows -------------------------------------------------------------------------

    def member(self, name: str) -> Member:
        return {"left": self.case.left, "right": self.case.right}[name]

    def standing(self, name: str) -> str | None:
        """The newest approval that was not withdrawn."""
        return next((item for item in reversed(self.given[name]) if item not in self.withdrawn), None)

    def approved(self) -> bool:
        return all(self.standing(name) for name in self.given)

    def alive(self, run: ModelRun) -> bool:
        return run.status == "running" and self.world.steady < run.lease_until

    def tried(self, act: Callable[[], Any], allowed: bool, what: str) -> Any:
        """Do it; it must go as the model says. Returns None if it was refused."""
        size, refused, found = self.world.log.size, "", None
        try:
            found = act()
        except MesateeError as error:
            refused = f"{error.code}: {error.message}"
        assert allowed == (not refused), f"{what} was {'refused: ' + refused if refused else 'allowed'}"
        if refused:
            return None
        assert self.world.log.size > size, f"{what} left no trace in the log"
        return found

    # -- what people do -------------------------------------------------------------------------------

    @initialize(target=runs)
    def begin(self) -> str:
        """Where most people are: both have approved, and a run is under way. From here anything may happen."""
        self.approve("left")
        self.approve("right")
        run = self.run()
        self.grant(run)
        return run

    @rule(name=OWNERS)
    def approves(self, name: str) -> None:
        self.approve(name)

    def approve(self, name: str) -> None:
        self.given[name].append(self.world.approve(self.member(name), self.case.task))
        self.fresh.add(name)

    @rule(name=OWNERS)
    def withdraw(self, name: str) -> None:
        chosen = self.standing(name)
        if chosen is None:
            return
        self.world.post(self.member(name), WithdrawalStatement, task=self.case.task, id=chosen)
        # One no takes back every yes that was said before it.
        self.withdrawn.update(self.given[name])
        self.fresh.add(name)
        for run in self.model.values():
            if run.status == "running" and run.counted[name] in self.withdrawn:
                run.status = "cancelled"

    @rule(target=runs)
    def runs_again(self) -> str:
        return self.run()

    def run(self) -> str:
        spent = sum(1 for run in self.model.values() if run.attempts or run.status in ("queued", "running"))
        allowed = self.approved() and spent < RUNS
        digest = self.tried(self.case.start, allowed, "a run")
        if digest is None:
            return ""
        self.model[digest] = ModelRun()
        return str(digest)

    @rule(run=runs)
    def grants(self, run: str) -> None:
        self.grant(run)

    def grant(self, run: str) -> None:
        if not run:
            return
        found = self.model[run]
        takes = found.status == "queued" or (found.status == "running" and not self.alive(found))
        takes = takes and found.attempts < limits.ATTEMPTS and self.fresh == {"left", "right"}
        granted = self.tried(
            lambda: self.world.grant(self.case.worker, run), takes and self.approved(), "key release"
        )
        if granted is not None:
            found.status, found.attempts = "running", found.attempts + 1
            found.lease_until = self.world.steady + LEASE_SECONDS
            found.counted = {name: str(self.standing(name)) for name in self.given}
            found.grants.append(granted)
        elif takes:
            # What was approved no longer is: the run ends there and then.
            found.status = "failed"

    @rule(run=runs, newest=st.booleans())
    def finish(self, run: str, newest: bool) -> None:
        if not run or not self.model[run].grants:
            return
        found = self.model[run]
        granted = found.grants[-1 if newest else 0]
        counts = found.status == "running" and granted is found.grants[-1]
        handed = self.case.receipt(granted)
        index = self.tried(
            lambda: self.world.hand_in(self.case.worker, granted, handed) + 1, counts, "a receipt"
        )
        if index is not None:
            found.status = "finished"

    @rule(run=runs, who=st.sampled_from(["scientist", "left"]))
    def collect(self, run: str, who: str) -> None:
        if not run:
            return
        found = self.model[run]
        allowed = (
            who == "scientist"
            and found.status == "finished"
            and not self.withdrawn & set(found.counted.values())
            and self.fresh == {"left", "right"}
        )
        member = self.case.scientist if who == "scientist" else self.case.left
        wraps = self.tried(lambda: self.world.collect(member, run), allowed, f"result release to {who}")
        if wraps is not None:
            assert set(wraps) == {"result"}

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        if not run:
            return
        found = self.model[run]
        allowed = found.status in ("queued", "running")
        act = lambda: self.world.post(self.case.left, CancelStatement, run=run)  # noqa: E731
        if self.tried(act, allowed, "a cancel") is not None:
            found.status = "cancelled"
            self.fresh.add("left")

    @rule()
    def leases_lapse(self) -> None:
        self.world.steady += LEASE_SECONDS + 1

    @precondition(lambda self: bool(self.model))
    @rule()
    def restart(self) -> None:
        self.world.restart()
        self.fresh = set()
        for run in self.model.values():
            # After a restart every attempt gets its full lease again.
            run.lease_until = self.world.steady + LEASE_SECONDS

    @rule(name=OWNERS)
    def show(self, name: str) -> None:
        self.world.present(self.member(name))
        self.fresh.add(name)

    # -- what always holds ----------------------------------------------------------------------------

    @invariant()
    def states_agree(self) -> None:
        for digest, run in self.model.items():
            assert self.world.state.run(digest).status == run.status
            assert len(self.world.state.run(digest).grants) == run.attempts

    @invariant()
    def replay_is_the_state(self) -> None:
        replayed, receipts = State(), 0
        ended: set[str] = set()
        for index in range(self.world.log.size):
            record = self.world.record(index)
            replayed.apply(index, record)
            if record.kind == "receipt":
                outcome = record.outcome()
                assert isinstance(outcome, records.ReceiptOutcome)
                assert outcome.run not in ended, "a second receipt"
                ended.add(outcome.run)
                receipts += 1
        assert replayed == self.world.state
        assert receipts == sum(1 for run in self.model.values() if run.status == "finished")


QUIET = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
BUG_HUNT = settings(QUIET, max_examples=600, stateful_step_count=40, phases=[Phase.generate])


def test_random_interleavings() -> None:
    run_state_machine_as_test(LifeCycle, settings=QUIET)


@pytest.mark.slow
def test_many_random_interleavings() -> None:
    run_state_machine_as_test(LifeCycle, settings=settings(QUIET, max_examples=600, stateful_step_count=50))


def ignores_withdrawal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "still_approved", lambda state, found: None)


def forgets_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "attempt", lambda found, *, lease_alive: len(found.grants) + 1)


def counts_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(state: State, signer: str, task: str, now: int) -> None:
        rules.usable(state, state.task(task).predicate)

    monkeypatch.setattr(rules, "run", run)


def asks_no_approvals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rules,
        "approvals",
        lambda state, held, automatic, now: dict.fromkeys(state.must_approve(held.predicate), "ab" * 32),
    )


HUNT = """
import sys
sys.path.insert(0, sys.argv[1])
import pytest
from tests.model import test_life_cycle as model
getattr(model, sys.argv[2])(pytest.MonkeyPatch())
model.run_state_machine_as_test(model.LifeCycle, settings=model.BUG_HUNT)
"""


@pytest.mark.parametrize("plant", [ignores_withdrawal, forgets_fences, counts_no_runs, asks_no_approvals])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """In a process of its own, so that nothing else that was imported or remembered decides what is explored."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", HUNT, root, plant.__name__],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "AssertionError" in done.stderr or "mesatee.errors." in done.stderr, done.stderr[-2000:]
