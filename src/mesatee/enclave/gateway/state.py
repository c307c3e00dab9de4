"""The projection: the gateway's state as a pure function of the log.

`State.apply` takes records in log order and does nothing but remember; whether something may happen was decided before
it entered the log and is never decided again at replay. No clock, no I/O, no keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ...errors import LogCorrupt, NotFound
from ...protocol import checkpoint as cp
from ...protocol import consent, limits, records, statements
from ...protocol import envelope as dsse
from ...protocol.digests import Hex32
from ...protocol.sources import NewestDataset, OutputOf, Source
from . import charges
from .runs import ENDED, Grant, Output, Run, Runs, RunStatus
from .seen import Seen
from .sharing import kept, shared

P = TypeVar("P", bound=statements.Common)


@dataclass(slots=True)
class Held(Generic[P]):
    """A party's statement in force."""

    digest: Hex32
    signer: Hex32
    index: int
    predicate: P
    retired: int | None = None
    suspended: bool = False

    @property
    def in_use(self) -> bool:
        """Whether its owner has taken it out of use neither for good nor for now."""
        return self.retired is None and not self.suspended


@dataclass(slots=True)
class Approval:
    """One approval; `withdrawn` is the index of the withdrawal."""

    id: str
    digest: str
    party: str
    task: str
    index: int
    expires: int
    withdrawn: int | None = None


@dataclass(slots=True)
class Trigger:
    """A trigger and where it stands; `due` is log time, `seen` what the inputs were when it last ran."""

    digest: str
    by: str
    task: str
    index: int
    every: int | None
    expires: int
    due: int
    seen: dict[str, str | None]
    number: int = 0
    retired: int | None = None


@dataclass(slots=True)
class State:
    """Everything that the gateway knows."""

    size: int = 0
    time: int = 0
    time_source: Literal["host", "parties"] = "host"
    floor: int = 0
    epoch: int = 0
    epoch_index: int = 0
    parties: dict[str, Held[statements.PartyStatement]] = field(default_factory=dict)
    datasets: dict[str, Held[statements.DatasetStatement]] = field(default_factory=dict)
    functions: dict[str, Held[statements.FunctionStatement]] = field(default_factory=dict)
    tasks: dict[str, Held[statements.TaskStatement]] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    withdrawn: dict[str, int] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    # Indexes over the above, so that no decision walks through everything.
    approvals_of: dict[str, list[str]] = field(default_factory=dict)
    tasks_of: dict[str, list[str]] = field(default_factory=dict)
    dataset_versions: dict[str, list[str]] = field(default_factory=dict)
    function_versions: dict[str, list[str]] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    presence: dict[str, int] = field(default_factory=dict)
    denied: int = 0
    # Of privacy budgets, by OWNER/NAME of datasets and by party, in millionths of epsilon; and the questions paid for.
    spent: dict[str, dict[str, int]] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    # MODEL/CALLER -> runs that had its keys, where the model's card counts them.
    model_runs: dict[str, int] = field(default_factory=dict)
    # Who received the keys, in log order: the last one alone may go on. Empty for the gateway that founded the service.
    successors: list[str] = field(default_factory=list)
    handed_at: int = -1
    # The recovery statement whose shares give the keys, and the entry that holds it: there is one at most.
    shares: str | None = None
    shared_at: int = -1

    # -- questions --------------------------------------------------------------------------------

    def party(self, party: str) -> Held[statements.PartyStatement]:
        """Raises `NotFound`."""
        return _get(self.parties, party, "party", "register first: `mesatee id new` and any command does it")

    def dataset(self, digest: str) -> Held[statements.DatasetStatement]:
        """Raises `NotFound`."""
        return _get(self.datasets, digest, "dataset", "see `mesatee data list`")

    def function(self, digest: str) -> Held[statements.FunctionStatement]:
        """Raises `NotFound`."""
        return _get(self.functions, digest, "function", "see `mesatee function list`")

    def task(self, digest: str) -> Held[statements.TaskStatement]:
        """Raises `NotFound`."""
        return _get(self.tasks, digest, "task", "see `mesatee task list`")

    def run(self, digest: str) -> Run:
        """Raises `NotFound`."""
        return _get(self.runs, digest, "run", "see `mesatee task show`")

    @property
    def holder(self) -> str | None:
        """Whose right it is to decide: the newest successor, or None while the founder holds the keys."""
        return self.successors[-1] if self.successors else None

    def fresh(self, party: str) -> bool:
        """Whether the party has signed, in this epoch, that it compared the log with the newest that it knew."""
        return self.presence.get(party, -1) > self.epoch_index

    def owners(self, task: statements.TaskStatement) -> dict[str, tuple[str, ...]]:
        """Input name -> owners: of a dataset one, of another task's output all of its receivers."""
        return {name: self._owners(source) for name, source in task.inputs.items()}

    def _owners(self, source: Source) -> tuple[str, ...]:
        match source:
            case NewestDataset():
                return (source.owner,)
            case OutputOf():
                receivers = self.task(source.task).predicate.outputs.get(source.output, ())
                return tuple(keys.signing for keys in receivers)
        return (self.dataset(source).signer,)

    def everybody(self, task: statements.TaskStatement) -> frozenset[str]:
        """The owners of all inputs."""
        return frozenset(owner for owners in self.owners(task).values() for owner in owners)

    def inputs(self, task: statements.TaskStatement) -> dict[str, str | None]:
        """Input name -> what it is now: a dataset, the run whose output it is, or None as long as there is neither."""
        return {name: self._now(source) for name, source in task.inputs.items()}

    def _now(self, source: Source) -> str | None:
        match source:
            case NewestDataset():
                held = map(
                    self.dataset, reversed(self.dataset_versions.get(f"{source.owner}/{source.dataset}", ()))
                )
                return next((item.digest for item in held if item.in_use), None)
            case OutputOf():
                return self.runs.newest(source.task, source.output)
        return source

    def datasets_of(self, task: statements.TaskStatement) -> list[Held[statements.DatasetStatement]]:
        """The datasets among a task's inputs as they are now, each once."""
        found = dict.fromkeys(digest for digest in self.inputs(task).values() if digest in self.datasets)
        return [self.datasets[digest] for digest in found if digest is not None]

    def must_approve(self, task: statements.TaskStatement) -> dict[str, str]:
        """Party -> why it has to approve: owners of inputs, receivers of joint outputs, the owner of private code."""
        function = self.function(task.function)
        return consent.must_approve(task, self.owners(task), (function.signer, function.predicate))

    def valid_approvals(self, task: str, time: int) -> dict[str, Approval]:
        """Party -> its newest approval of `task` that is neither withdrawn nor expired."""
        return {
            approval.party: approval
            for approval in map(self.approvals.__getitem__, self.approvals_of.get(task, ()))
            if approval.withdrawn is None and approval.expires > time
        }

    def approval(self, task: str, digest: str) -> Approval | None:
        """The approval of `task` with this digest; None if what counted was a standing policy."""
        given = map(self.approvals.__getitem__, self.approvals_of.get(task, ()))
        return next((approval for approval in given if approval.digest == digest), None)

    def taken_back(self, run: Run) -> tuple[str, str] | None:
        """Who has taken back what, of all that counted when the keys of this run were released, and of the runs whose
        outputs it uses; None while all of it stands.
        """
        waiting, seen = [run], set()
        while waiting:
            found = waiting.pop()
            if found.digest in seen:
                continue
            seen.add(found.digest)
            grant = found.granted()
            for who, digest in grant.approvals.items():
                given = self.approval(found.task, digest)
                if given is not None and given.withdrawn is not None:
                    return who, "withdrawn the approval of this run"
                # A standing policy has no approval to withdraw: retiring what it guards takes it back.
                if given is None and self._retired(found.task, grant, who):
                    return who, "retired what this run used"
            waiting += [self.runs[digest] for digest in grant.inputs.values() if digest in self.runs]
        return None

    def _retired(self, task: str, grant: Grant, owner: str) -> bool:
        function = self.function(self.task(task).predicate.function)
        used: list[Held[Any]] = [
            self.datasets[digest] for digest in grant.inputs.values() if digest in self.datasets
        ]
        if function.predicate.private:
            used.append(function)
        return any(held.signer == owner and held.retired is not None for held in used)

    def concerned(self, task: Held[statements.TaskStatement]) -> frozenset[str]:
        """Who may see a task: its author, owners of inputs and function, and receivers."""
        parties = {task.signer, self.function(task.predicate.function).signer}
        parties.update(self.everybody(task.predicate))
        for receivers in task.predicate.outputs.values():
            parties.update(keys.signing for keys in receivers)
        return frozenset(parties)

    def audience(self, record: records.LogRecord) -> frozenset[str] | None:
        """Who may read a log record; None means every registered party."""
        if record.kind == "statement":
            statement = statements.read(record.statement())
            signer = record.statement().signatures[0].keyid
            match statement:
                case statements.PartyStatement() | statements.DatasetStatement():
                    return None
                case statements.FunctionStatement():
                    return frozenset({signer}) if statement.private else None
                case statements.TaskStatement():
                    return self.concerned(self.task(record.statement().digest))
                case (
                    statements.ApprovalStatement()
                    | statements.WithdrawalStatement()
                    | statements.RunStatement()
                    | statements.TriggerStatement()
                ):
                    return self.concerned(self.task(statement.task))
                case statements.CancelStatement() | statements.CollectStatement():
                    return self.concerned(self.task(self.run(statement.run).task))
            return frozenset({signer})
        outcome = record.outcome()
        match outcome:
            case records.EpochOutcome() | records.HandOverOutcome() | records.RecoveredOutcome():
                return None
            case records.DeniedOutcome():
                return frozenset({outcome.by})
            case (
                records.GrantOutcome()
                | records.ReceiptOutcome()
                | records.ClosedOutcome()
                | records.ReleaseOutcome()
            ):
                return self.concerned(self.task(self.run(outcome.run).task))
            case records.FiredOutcome():
                return self.concerned(self.task(self.triggers[outcome.trigger].task))
            case records.SharesOutcome():
                made = statements.read(dsse.from_dict(outcome.envelope), "recovery")
                found = statements.expect(made, statements.RecoveryStatement)
                return frozenset(share.holder for share in found.shares)
        return frozenset()

    # -- replay -----------------------------------------------------------------------------------

    def apply(self, index: int, record: records.LogRecord) -> None:
        """Take in the record at `index`. Raises `LogCorrupt` for what no gateway can have logged."""
        if index != self.size or record.time < self.time:
            raise LogCorrupt(f"log entry {index} is out of order")
        self.size = index + 1
        self.time, self.time_source = record.time, record.source
        try:
            if record.kind == "statement":
                envelope = record.statement()
                self._statement(
                    index,
                    statements.Statement(
                        envelope.digest, envelope.signatures[0].keyid, statements.read(envelope), envelope
                    ),
                )
            else:
                self._outcome(index, record.time, record.outcome())
        except (NotFound, KeyError) as error:
            raise LogCorrupt(f"log entry {index} speaks of what is not in the log: {error}") from None

    def _statement(self, index: int, statement: statements.Statement) -> None:
        digest, signer, predicate = statement.digest, intern(statement.signer), statement.predicate
        self.seen.add(digest, index, self.time)
        if isinstance(predicate, statements.Common):
            size = cp.parse(predicate.checkpoint).size
            self.presence[signer] = max(self.presence.get(signer, -1), size)
            self.floor = max(self.floor, predicate.time)
        match predicate:
            case statements.PartyStatement():
                self.parties[signer] = Held(digest, signer, index, kept(predicate))
            case statements.DatasetStatement():
                predicate = kept(predicate)
                self.datasets[digest] = Held(digest, signer, index, predicate)
                self.blobs[predicate.blob.sha256] = signer
                self.dataset_versions.setdefault(f"{signer}/{predicate.name}", []).append(digest)
            case statements.FunctionStatement():
                predicate = kept(predicate)
                self.functions[digest] = Held(digest, signer, index, predicate)
                self.function_versions.setdefault(f"{signer}/{predicate.name}", []).append(digest)
                # Anybody may name public code; only what is sealed has one owner.
                if predicate.code is not None and predicate.code.wrap is not None:
                    self.blobs[predicate.code.sha256] = signer
            case statements.TaskStatement():
                self.tasks[digest] = Held(digest, signer, index, self._sharing_keys(predicate))
                self.tasks_of.setdefault(f"{predicate.function}/{signer}", []).append(digest)
            case statements.ApprovalStatement():
                task = self.task(predicate.task).digest
                self.approvals_of.setdefault(task, []).append(predicate.id)
                self.approvals[predicate.id] = Approval(
                    predicate.id, digest, signer, task, index, predicate.expires
                )
            case statements.WithdrawalStatement():
                self._withdraw(index, predicate)
            case statements.RunStatement():
                self.runs.begin(digest, self.task(predicate.task).digest, signer, index, self.time)
            case statements.CancelStatement():
                self._end(self.run(predicate.run), index, "cancelled", "cancelled")
            case statements.RetireStatement():
                trigger = self.triggers.get(predicate.target)
                target: Trigger | Held[Any] = trigger or self._owned(predicate.target)
                target.retired = index
                self._stop_taken_back(index)
            case statements.SuspendStatement():
                self._owned(predicate.target).suspended = predicate.suspended
            case statements.TriggerStatement():
                seen = self.inputs(self.task(predicate.task).predicate)
                due = self.time + (predicate.every or 0)
                self.triggers[digest] = Trigger(
                    digest, signer, predicate.task, index, predicate.every, predicate.expires, due, seen
                )

    def _owned(self, digest: str) -> Held[Any]:
        return self.datasets.get(digest) or self.functions[digest]

    def _sharing_keys(self, task: statements.TaskStatement) -> statements.TaskStatement:
        """The same task with its receivers' keys from their registration: the log repeats them, memory need not."""
        outputs = {name: tuple(map(self._registered, keys)) for name, keys in task.outputs.items()}
        return kept(task.model_copy(update={"outputs": outputs}))

    def _registered(self, keys: statements.PartyKeys) -> statements.PartyKeys:
        held = self.parties.get(keys.signing)
        return held.predicate.keys if held is not None and held.predicate.keys == keys else keys

    def _withdraw(self, index: int, predicate: statements.WithdrawalStatement) -> None:
        """All earlier approvals of the party for the task go with the one that is named: a yes that was given twice, as
        after a lost answer, is taken back by one no.
        """
        self.withdrawn[predicate.id] = index
        named = self.approvals.get(predicate.id)
        if named is None:
            return
        for approval in map(self.approvals.__getitem__, self.approvals_of[named.task]):
            if approval.party == named.party and approval.withdrawn is None:
                approval.withdrawn = self.withdrawn[approval.id] = index
        self._stop_taken_back(index)

    def _stop_taken_back(self, index: int) -> None:
        """Runs that have their keys by a yes that no longer stands stop. One still queued is refused at key release."""
        for run in list(self.runs.open.values()):
            if run.status == "running" and run.grants and self.taken_back(run):
                self._end(run, index, "cancelled", "cancelled")

    def _outcome(self, index: int, time: int, outcome: records.Outcome) -> None:
        match outcome:
            case records.EpochOutcome():
                self.epoch, self.epoch_index = outcome.number, index
            case records.DeniedOutcome():
                self.denied += 1
            case records.HandOverOutcome() | records.RecoveredOutcome():
                if outcome.successor in self.successors:
                    raise LogCorrupt(f"log entry {index} hands the keys to a gateway that had them")
                self.successors.append(outcome.successor)
                self.handed_at = index
            case records.SharesOutcome():
                if self.shares is not None:
                    raise LogCorrupt(f"log entry {index} shares the keys once more")
                self.shares, self.shared_at = dsse.from_dict(outcome.envelope).digest, index
            case records.GrantOutcome():
                run = self.run(outcome.run)
                if run.status in ENDED:
                    raise LogCorrupt(f"log entry {index} grants keys to a run that has ended")
                charges.enter(self, index, run, outcome)
                grant = Grant(
                    index,
                    outcome.attempt,
                    time,
                    outcome.lease,
                    outcome.worker,
                    outcome.approvals,
                    outcome.policies,
                    outcome.inputs,
                )
                self.runs.grant(run, grant)
            case records.FiredOutcome():
                self._fired(index, time, outcome)
            case records.ReceiptOutcome():
                run = self.run(outcome.run)
                run.receipt = index
                receipt = statements.read(dsse.from_dict(outcome.envelope), "receipt")
                if isinstance(receipt, statements.ReceiptStatement):
                    run.made = tuple(
                        Output(intern(name), item.sha256, item.size, item.format)
                        for name, item in receipt.outputs.items()
                    )
                self._end(run, index, "failed" if outcome.failure else "finished", outcome.failure)
            case records.ClosedOutcome():
                self._end(self.run(outcome.run), index, "failed", outcome.failure)

    def _fired(self, index: int, time: int, outcome: records.FiredOutcome) -> None:
        trigger = self.triggers[outcome.trigger]
        if outcome.number != trigger.number + 1:
            raise LogCorrupt(f"log entry {index} counts the runs of a trigger otherwise than they were")
        trigger.number = outcome.number
        # What was missed meanwhile is not made up for.
        trigger.due = time + (trigger.every or limits.TRIGGER_SECONDS)
        trigger.seen = self.inputs(self.task(trigger.task).predicate)
        if outcome.run is not None:
            self.runs.begin(outcome.run, trigger.task, trigger.by, index, time)

    def _end(self, run: Run, index: int, status: RunStatus, failure: statements.Failure | None) -> None:
        if run.status in ENDED:
            raise LogCorrupt(f"log entry {index} ends a run twice")
        self.runs.end(run, index, status, failure)

    # -- snapshots --------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """The whole state as JSON."""
        return _ADAPTER.dump_json(self)

    @staticmethod
    def restore(data: bytes) -> State:
        """A dumped state. Raises `LogCorrupt`."""
        try:
            state = _ADAPTER.validate_json(data)
        except ValidationError as error:
            raise LogCorrupt(
                f"the snapshot is not of this version: {error.error_count()} fields do not fit"
            ) from None
        try:
            state._share()
        except KeyError as error:
            raise LogCorrupt(f"the snapshot speaks of what is not in it: {error}") from None
        return state

    def _share(self) -> None:
        """After a restore: what was one object in the dumped state is one again."""
        shared(self)
        for held in self.tasks.values():
            held.predicate = self._sharing_keys(held.predicate)


T = TypeVar("T")


def _get(where: Mapping[str, T], digest: str, what: str, hint: str) -> T:
    found = where.get(digest)
    if found is None:
        raise NotFound(f"there is no {what} {digest[:16]}", hint=hint)
    return found


_ADAPTER: TypeAdapter[State] = TypeAdapter(State)

__all__ = ["Approval", "Held", "State", "Trigger"]
