"""A model of tasks in a line, and the monitor beside it: joint outputs that are used again, and triggers.

The first task joins data of two owners for both of them and the scientist, the second one reads what it made. People
approve and withdraw either of them, the scientist runs both or has them run, workers take grants and hand receipts in,
and the gateway restarts in between. What the model says must be refused is refused, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
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
from tests.enclave.gateway.test_pipelines import second_task
from tests.model.test_life_cycle import QUIET
from tests.support.gateway import Member, World, make_case, task_fields

from mesatee.enclave.gateway import rules
from mesatee.enclave.gateway.monitor import Granted, Monitor
from mesatee.enclave.gateway.runs import Run
from mesatee.enclave.gateway.state import State
from mesatee.errors import MesateeError
from mesatee.protocol import limits, records
from mesatee.protocol.sources import OutputOf
from mesatee.protocol.statements import (
    CancelStatement,
    RetireStatement,
    RunStatement,
    TaskStatement,
    TriggerStatement,
    WithdrawalStatement,
)

RUNS = 4
DAY = 80_000
EVERY = 60
NAMES = ("left", "right", "scientist")
PEOPLE = st.sampled_from(NAMES)
TASKS = st.sampled_from(["first", "second"])


@dataclass
class ModelRun:
    """What the model knows of a run; `source` is the run whose output it got."""

    task: str
    status: str = "queued"
    counted: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    granted: Granted | None = None

    @property
    def open(self) -> bool:
        return self.status in ("queued", "running")


@dataclass
class ModelTrigger:
    """A trigger of a task: by time, or, without `every`, by a newer input."""

    task: str
    every: int | None
    due: float
    seen: str | None
    number: int = 0
    stopped: bool = False


class Lines(RuleBasedStateMachine):
    """The rules of pipelines and triggers, said a second time and more simply."""

    runs = Bundle("runs")
    triggers = Bundle("triggers")

    def __init__(self) -> None:
        super().__init__()
        self.world = world = World()
        self.case = case = make_case(world, runs=1)
        fields = task_fields(
            case.function,
            case.inputs,
            (case.left, case.right, case.scientist),
            case.worker.facts,
            int(world.clock),
            name="first",
            runs=RUNS,
        )
        first = world.post(case.scientist, TaskStatement, **fields).digest
        source = OutputOf(task=first, output="result")
        self.tasks = {"first": first, "second": second_task(case, source, "second", runs=RUNS)}
        self.given: dict[tuple[str, str], list[str]] = {
            (task, name): [] for task in self.tasks for name in NAMES
        }
        self.withdrawn: set[str] = set()
        # In the order in which they began.
        self.model: dict[str, ModelRun] = {}
        self.watching: dict[str, ModelTrigger] = {}
        world.present(*map(self.member, NAMES))

    def teardown(self) -> None:
        self.world.close()

    # -- what the model knows -------------------------------------------------------------------------

    def member(self, name: str) -> Member:
        return {"left": self.case.left, "right": self.case.right, "scientist": self.case.scientist}[name]

    def standing(self, task: str) -> dict[str, str]:
        """Everybody's newest approval that was not withdrawn; the second task needs that of each owner of its input."""
        found = {}
        for name in NAMES:
            left = [item for item in self.given[task, name] if item not in self.withdrawn]
            found.update({name: left[-1]} if left else {})
        return found

    def of(self, task: str) -> list[str]:
        return [digest for digest, run in self.model.items() if run.task == task]

    def made(self) -> str | None:
        """The output that the second task would get: of the newest run of the first that finished."""
        done = [digest for digest in self.of("first") if self.model[digest].status == "finished"]
        return done[-1] if done else None

    def back(self, digest: str | None) -> bool:
        """Whether anything that counted for a run, or for the one whose output it uses, was withdrawn."""
        if digest is None:
            return False
        run = self.model[digest]
        return bool(self.withdrawn & set(run.counted.values())) or self.back(run.source)

    def makes(self, before: str | None = None) -> bool:
        """Whether a run of the first task is under way, which began before another run."""
        order = list(self.model)
        end = order.index(before) if before else len(order)
        return any(self.model[digest].open for digest in self.of("first") if order.index(digest) < end)

    def usable(self, task: str) -> bool:
        """Everybody's yes to this very task stands, and so do all that its input came from."""
        if set(self.standing(task)) != set(NAMES):
            return False
        return task == "first" or not self.back(self.made())

    def may_run(self, task: str) -> bool:
        spent = sum(1 for digest in self.of(task) if self.model[digest].granted or self.model[digest].open)
        there = task == "first" or self.made() is not None or self.makes()
        return spent < RUNS and there and self.usable(task)

    def tried(self, act: Callable[[], Any], allowed: bool, what: str) -> Any:
        """Do it; it must go as the model says. Returns None if it was refused."""
        refused, found = "", None
        try:
            found = act()
        except MesateeError as error:
            refused = f"{error.code}: {error.message}"
        assert allowed == (not refused), f"{what} was {'refused: ' + refused if refused else 'allowed'}"
        return found

    # -- what people do -------------------------------------------------------------------------------

    @initialize(target=runs)
    def begin(self) -> str:
        """Everybody agreed to both tasks, and the first one made its output."""
        for task in self.tasks:
            for name in NAMES:
                self.approves(task, name)
        run = self.begin_run("first")
        self.grants(run)
        self.finishes(run)
        return run

    @rule(task=TASKS, name=PEOPLE)
    def approves(self, task: str, name: str) -> None:
        expires = int(self.world.clock) + DAY
        found = self.world.approve(self.member(name), self.tasks[task], expires=expires)
        self.given[task, name].append(found)

    @rule(task=TASKS, name=PEOPLE)
    def withdraws(self, task: str, name: str) -> None:
        chosen = self.standing(task).get(name)
        if chosen is None:
            return
        self.world.post(self.member(name), WithdrawalStatement, task=self.tasks[task], id=chosen)
        self.withdrawn.update(self.given[task, name])
        for digest, run in self.model.items():
            if run.status == "running" and self.back(digest):
                run.status = "cancelled"

    @rule(target=runs, task=TASKS)
    def runs_again(self, task: str) -> str:
        return self.begin_run(task)

    def begin_run(self, task: str) -> str:
        act = lambda: self.world.post(self.case.scientist, RunStatement, task=self.tasks[task])  # noqa: E731
        found = self.tried(act, self.may_run(task), f"a run of the {task} task")
        if found is None:
            return ""
        self.model[found.digest] = ModelRun(task)
        return str(found.digest)

    @rule(run=runs)
    def grants(self, run: str) -> None:
        if not run:
            return
        found = self.model[run]
        takes = found.status == "queued"
        if found.task == "second":
            # It waits for what began before it, and for nothing that began later.
            takes = takes and self.made() is not None and not self.makes(run)
        allowed = takes and self.usable(found.task)
        granted = self.tried(lambda: self.world.grant(self.case.worker, run), allowed, "key release")
        if granted is not None:
            found.status, found.granted = "running", granted
            found.counted = self.standing(found.task)
            found.source = self.made() if found.task == "second" else None
            assert granted.grant.inputs.get("joined") == found.source
        elif takes:
            found.status = "failed"

    @rule(run=runs)
    def finishes(self, run: str) -> None:
        if not run or self.model[run].granted is None:
            return
        found = self.model[run]
        handed = self.case.receipt(found.granted)
        index = self.tried(
            lambda: self.world.hand_in(self.case.worker, found.granted, handed) + 1,
            found.status == "running",
            "a receipt",
        )
        if index is not None:
            found.status = "finished"

    @rule(run=runs, who=PEOPLE)
    def collects(self, run: str, who: str) -> None:
        if not run:
            return
        found = self.model[run]
        receives = found.task == "first" or who == "scientist"
        allowed = receives and found.status == "finished" and not self.back(run)
        self.tried(lambda: self.world.collect(self.member(who), run), allowed, f"result release to {who}")

    @rule(run=runs)
    def cancels(self, run: str) -> None:
        if not run:
            return
        act = lambda: self.world.post(self.case.left, CancelStatement, run=run)  # noqa: E731
        if self.tried(act, self.model[run].open, "a cancel") is not None:
            self.model[run].status = "cancelled"

    # -- what the gateway does by itself --------------------------------------------------------------

    @precondition(lambda self: len(self.watching) < 3)
    @rule(target=triggers, task=TASKS, newer=st.booleans())
    def has_it_run(self, task: str, newer: bool) -> str:
        every = None if newer else EVERY
        # Of datasets by digest none is ever newer.
        allowed = task == "second" or not newer
        expires = int(self.world.clock) + DAY
        act = lambda: self.world.post(  # noqa: E731
            self.case.scientist, TriggerStatement, task=self.tasks[task], every=every, expires=expires
        )
        found = self.tried(act, allowed, "a trigger")
        if found is None:
            return ""
        seen = self.made() if task == "second" else None
        self.watching[found.digest] = ModelTrigger(task, every, self.world.clock + (every or 0), seen)
        return str(found.digest)

    @rule(trigger=triggers)
    def stops(self, trigger: str) -> None:
        if not trigger:
            return
        found = self.watching[trigger]
        act = lambda: self.world.post(self.case.scientist, RetireStatement, target=trigger)  # noqa: E731
        self.tried(act, not found.stopped, "stopping a trigger")
        found.stopped = True

    @rule(seconds=st.sampled_from([1, limits.TRIGGER_SECONDS, EVERY]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock += seconds

    @rule(target=runs)
    def fires(self) -> str:
        """What is due begins a run if its author could, and is logged in any case; what was missed is not made up."""
        due = [
            digest
            for digest, item in self.watching.items()
            if not item.stopped
            and item.due <= self.world.clock
            and (item.every is not None or self.made() not in (None, item.seen))
        ]
        assert self.world.monitor.due() == due
        began = ""
        for digest in due:
            item = self.watching[digest]
            allowed = self.may_run(item.task)
            run = self.world.run(self.world.monitor.fire(digest))
            item.number += 1
            assert run == (records.fired_run(digest, item.number) if allowed else None)
            item.due = self.world.clock + (item.every or limits.TRIGGER_SECONDS)
            item.seen = self.made() if item.task == "second" else None
            if run is not None:
                self.model[run] = ModelRun(item.task)
                began = run
        return began

    @rule()
    def gives_up(self) -> None:
        """Runs whose input nobody makes any more end."""
        hopeless = [
            digest
            for digest in self.of("second")
            if self.model[digest].status == "queued" and self.made() is None and not self.makes(digest)
        ]
        assert self.world.run(self.world.monitor.close_hopeless()) == len(hopeless)
        for digest in hopeless:
            self.model[digest].status = "failed"

    @rule()
    def restarts(self) -> None:
        self.world.restart()
        self.world.present(*map(self.member, NAMES))

    # -- what always holds ----------------------------------------------------------------------------

    @invariant()
    def states_agree(self) -> None:
        for digest, run in self.model.items():
            assert self.world.state.run(digest).status == run.status
        assert set(self.world.state.runs) == set(self.model)
        for digest, item in self.watching.items():
            held = self.world.state.triggers[digest]
            assert (held.number, held.due, held.retired is not None) == (item.number, item.due, item.stopped)

    @invariant()
    def nothing_runs_on_what_was_taken_back(self) -> None:
        for digest, run in self.model.items():
            assert not (run.status == "running" and self.back(digest))
            if run.task == "second" and run.granted is not None:
                # Each receiver of the joint output has said yes to this use of it.
                assert set(run.granted.grant.approvals) == {self.member(name).id for name in NAMES}

    @invariant()
    def replay_is_the_state(self) -> None:
        replayed = State()
        for index in range(self.world.log.size):
            replayed.apply(index, self.world.record(index))
        assert replayed == self.world.state
        assert State.restore(replayed.dump()) == replayed


def test_random_lines() -> None:
    run_state_machine_as_test(Lines, settings=settings(QUIET, max_examples=15))


@pytest.mark.slow
def test_many_random_lines() -> None:
    run_state_machine_as_test(Lines, settings=settings(QUIET, max_examples=400, stateful_step_count=50))


def forgets_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was withdrawn of the first task no longer stops the second one."""
    whole = State.taken_back

    def taken_back(state: State, run: Run) -> tuple[str, str] | None:
        grant, found = run.granted(), dict(run.granted().inputs)
        grant.inputs = {name: item for name, item in found.items() if item not in state.runs}
        try:
            return whole(state, run)
        finally:
            grant.inputs = found

    monkeypatch.setattr(State, "taken_back", taken_back)


def fires_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger begins a run whoever has said no."""
    monkeypatch.setattr(Monitor, "_may_run", lambda self, signer, task, now: None)


def waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run gets the output that is there, while a newer one is being made for it."""
    monkeypatch.setattr(rules, "waits", lambda state, predicate, before=None: False)


def uses_and_withdraws(lines: Lines) -> None:
    run = lines.runs_again("second")
    lines.grants(run)
    lines.withdraws("first", "left")
    lines.states_agree()


def withdraws_and_fires(lines: Lines) -> None:
    lines.has_it_run("second", newer=False)
    lines.withdraws("second", "right")
    lines.time_passes(EVERY)
    lines.fires()


def makes_and_uses(lines: Lines) -> None:
    lines.runs_again("first")
    lines.grants(lines.runs_again("second"))


PLANTED = {
    forgets_the_source: uses_and_withdraws,
    fires_without_asking: withdraws_and_fires,
    waits_for_nothing: makes_and_uses,
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_differs_from_the_model(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps that show it; without it the model agrees to them."""
    for planted in (False, True):
        lines = Lines()
        try:
            lines.begin()
            if not planted:
                PLANTED[plant](lines)
                continue
            plant(monkeypatch)
            with pytest.raises(AssertionError):
                PLANTED[plant](lines)
        finally:
            lines.teardown()
