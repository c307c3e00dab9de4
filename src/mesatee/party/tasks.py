"""Tasks: write one, understand what it asks, agree to it or not, run it, and take its result home."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..attestation.trust import TEES
from ..errors import (
    Conflict,
    Denied,
    Expired,
    KeyRefused,
    Malformed,
    NotFound,
    QuotaExceeded,
    StateError,
    TimedOut,
)
from ..protocol import envelope as dsse
from ..protocol import limits, statements, wire
from ..protocol.consent import must_approve
from ..protocol.sources import NewestDataset, OutputOf, Source
from . import data, functions, names
from .session import Posted, Session

DAY_SECONDS: Final = 86_400
WAIT_SECONDS: Final = 20
"""One long poll of `watch`, in seconds."""
ENDED: Final = frozenset({"finished", "failed", "cancelled"})
"""States that a run never leaves."""
ENCRYPTED_LEVEL: Final = 4
REACHES: Final[Mapping[str, int]] = {"none": 1, "software": 2, "tpm": 3, "azure-vtpm": 5}
"""The highest level of a TEE class; of those not here `ENCRYPTED_LEVEL`. See docs/levels.md."""


def find(session: Session, wanted: str, *, own: bool = False) -> wire.TaskView:
    """A task by name, ``AUTHOR/NAME``, digest or unique prefix. Raises `NotFound`, `Conflict`, and `Denied` for one of
    somebody else where it must be one's `own`.
    """
    return names.find_owned(session.tasks(), wanted, "task", only=session.identity.id if own else None)


def new(
    session: Session,
    name: str,
    *,
    function: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, Sequence[str]],
    accept: statements.Accept,
    environment: str,
    arguments: Mapping[str, Any] | None = None,
    runs: int = 1,
    days: float = 7.0,
    run_limits: statements.RunLimits | None = None,
) -> Posted:
    """Propose a task.

    `inputs` and `outputs` map the function's names to what `source` takes, and to names of receiving parties. The full
    keys of receivers come from their own signed statements. `accept` and `environment` say where it may run.
    Raises `NotFound` or `Conflict` for names, `Malformed` for a task that nobody could run, and what the gateway
    objects to.
    """
    names.check_name(name, "a task")
    _check_accept(accept)
    code = functions.find(session, function, in_use=True)
    if not outputs or not all(outputs.values()):
        given = ", ".join([*(str(item["name"]) for item in code.outputs), "diagnostics"])
        raise Malformed(
            "the task gives nobody a result", hint=f"name who gets one: --to OUTPUT=PARTY; outputs: {given}"
        )
    me = session.identity.id
    if any(item.author == me and item.name == name for item in session.tasks()):
        raise Conflict(f"you have a task {name} already", hint="choose another name for the new one")
    parties = session.parties()
    receivers = {
        output: tuple(
            names.find(parties, item, "party", lambda found: found.id, lambda found: found.keys.name).keys
            for item in wanted
        )
        for output, wanted in outputs.items()
    }
    return session.post(
        statements.TaskStatement,
        name=name,
        function=code.digest,
        environment=environment,
        inputs={port: source(session, wanted) for port, wanted in inputs.items()},
        arguments=dict(arguments or {}),
        outputs=receivers,
        accept=accept,
        limits=run_limits or statements.RunLimits(),
        runs=runs,
        expires=session.now() + round(days * DAY_SECONDS),
    )


def source(session: Session, wanted: str) -> Source:
    """An input as people write it: a dataset, ``newest:DATASET`` or ``output:TASK/OUTPUT``.

    Raises `NotFound`, `Conflict` or `Malformed`.
    """
    kind, colon, rest = wanted.partition(":")
    if not colon:
        return data.find(session, wanted, in_use=True).digest
    if kind == "newest":
        found = data.find(session, rest, in_use=True)
        return NewestDataset(owner=found.owner, dataset=found.name)
    task, slash, output = rest.rpartition("/")
    if kind == "output" and slash:
        view = find(session, task)
        _, said = check_statement(view)
        if output not in said.outputs:
            raise NotFound(
                f"task {view.name} gives nobody an output {output[:64]!r}",
                hint="it gives " + ", ".join(sorted(said.outputs)),
            )
        return OutputOf(task=view.digest, output=output)
    raise Malformed(
        f"{wanted[:129]!r} is no input", hint="write DATASET, newest:DATASET or output:TASK/OUTPUT"
    )


def _check_accept(accept: statements.Accept) -> None:
    """Some machine can be what the task accepts: a level that one of the classes reaches, and a class that is known."""
    for tee in accept.tees:
        if tee not in TEES:
            raise Malformed(f"there is no TEE class {tee!r}", hint="known: " + ", ".join(TEES))
    best = max(REACHES.get(tee, ENCRYPTED_LEVEL) for tee in accept.tees)
    if best < accept.min_level:
        raise Malformed(
            f"no worker can be of level {accept.min_level} and of class {' or '.join(accept.tees)}: "
            f"the highest is level {best}",
            hint="lower --min-level, or name a class by --tee that reaches it, and its workers by --worker",
        )


# -- understanding a task --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReviewedInput:
    """What the task names as an input, verified from signed statements."""

    port: str
    source: Source
    title: str
    """The dataset's name, or ``TASK/OUTPUT``."""
    owners: Mapping[str, str]
    """Id -> name of those who own it and have to approve. Empty if that is not for this party to see."""
    digest: str | None
    """The dataset, or the run whose output it is, if the task ran now, as the gateway says; None if there is none."""
    said: statements.DatasetStatement | None
    """The dataset's statement; None for another task's output."""


@dataclass(frozen=True, slots=True)
class Review:
    """What a task asks, verified from signed statements; only `view` is what the gateway says."""

    digest: str
    author: str
    author_name: str
    said: statements.TaskStatement
    function: functions.Shown | None
    """None for a private function of somebody else: nobody but its owner can read it."""
    inputs: tuple[ReviewedInput, ...]
    view: wire.TaskView

    @property
    def needed(self) -> dict[str, str]:
        """Party -> why it has to approve. A private function of somebody else is not counted here."""
        shown = self.function
        owners = {item.port: tuple(item.owners) for item in self.inputs}
        return must_approve(self.said, owners, (shown.owner, shown.said) if shown else None)


def check_statement(view: wire.TaskView) -> tuple[str, statements.TaskStatement]:
    """A task's author and statement: its digest is recomputed and its signature verified.

    Raises `KeyRefused`, `SignatureInvalid` or `Malformed`.
    """
    statement = statements.verify(dsse.from_dict(view.statement), "task")
    said = statement.predicate
    named = (view.digest, view.author)
    if (statement.digest, statement.signer) != named or not isinstance(said, statements.TaskStatement):
        raise KeyRefused("the task's statement is not the one that its digest names")
    return statement.signer, said


def review(session: Session, view: wire.TaskView) -> Review:
    """Everything that an approval of this task would agree to.

    1. The task's statement has the digest that would be signed, is signed by its author, and stands in the
    log.
    2. It is for the service that this session has verified.
    3. The function's statement has the digest that the task names and stands in the log; public code is the
    code of
       the digest in it.
    4. Each dataset's statement has the digest, or the owner and name, that the task names, and stands in the log. Of
       another task's output, whose it is stands in that task's signed statement.
    5. Every receiver has exactly the keys that it registered by its own signature.

    Raises `TrustError`s, `DigestMismatch`, `LogCorrupt` or `NotFound`.
    """
    # 1. Task.
    author_id, said = check_statement(view)
    session.statement(view.index, "task", view.digest)
    # 2. Service.
    if said.service != session.service.digest or said.origin != session.service.said.origin:
        raise KeyRefused("the task is for another service statement")
    # 3. Function.
    shown = _function(session, said.function)
    # 4. Datasets.
    views = {item.digest: item for item in session.datasets()}
    known = {item.id: item.keys for item in session.parties()}
    names_of = {party: keys.name for party, keys in known.items()}
    inputs = tuple(
        _output(session, port, item, names_of, view.inputs.get(port))
        if isinstance(item, OutputOf)
        else _dataset(session, views, port, item, view.inputs.get(port))
        for port, item in sorted(said.inputs.items())
    )
    # 5. Receivers.
    for name, receivers in said.outputs.items():
        for keys in receivers:
            if known.get(keys.signing) != keys:
                raise KeyRefused(f"a receiver of {name} is not registered with exactly the keys in the task")
    author = known.get(author_id)
    return Review(view.digest, author_id, author.name if author else "?", said, shown, inputs, view)


def _function(session: Session, digest: str) -> functions.Shown | None:
    for item in session.functions():
        if item.digest == digest:
            if item.private and item.owner != session.identity.id:
                return None
            return functions.show(session, item)
    raise NotFound(f"the gateway does not show function {digest[:16]}")


def _dataset(
    session: Session,
    views: Mapping[str, wire.DatasetView],
    port: str,
    source: Source,
    now: str | None,
) -> ReviewedInput:
    digest = source if isinstance(source, str) else now
    if digest is None and isinstance(source, NewestDataset):
        owner = session.party(source.owner)
        return ReviewedInput(port, source, source.dataset, {owner.id: owner.keys.name}, None, None)
    if digest is None or digest not in views:
        raise NotFound(f"the gateway does not show the dataset of input {port}")
    view = views[digest]
    statement = session.statement(view.index, "dataset", digest)
    said = statement.predicate
    if not isinstance(said, statements.DatasetStatement) or statement.signer != view.owner:
        raise KeyRefused(f"dataset {digest[:16]} is by another owner than the gateway says")
    if isinstance(source, NewestDataset) and (source.owner, source.dataset) != (statement.signer, said.name):
        raise KeyRefused(f"dataset {digest[:16]} is not of the owner and name that the task says")
    return ReviewedInput(port, source, said.name, {view.owner: view.owner_name}, digest, said)


def _output(
    session: Session, port: str, source: OutputOf, names_of: Mapping[str, str], now: str | None
) -> ReviewedInput:
    view = next((item for item in session.tasks() if item.digest == source.task), None)
    if view is None:
        # A task that does not concern this party: neither does it own its outputs.
        return ReviewedInput(port, source, f"{source.task[:12]}/{source.output}", {}, now, None)
    _, said = check_statement(view)
    owners = {keys.signing: names_of.get(keys.signing, "?") for keys in said.outputs.get(source.output, ())}
    return ReviewedInput(port, source, f"{said.name}/{source.output}", owners, now, None)


# -- agreeing and running --------------------------------------------------------------------------


def approve(session: Session, reviewed: Review, days: float | None = None) -> Posted:
    """Sign one's approval of a reviewed task; it ends with the task, or after `days`.

    Raises what `check_approvable` raises.
    """
    check_approvable(session, reviewed)
    now = session.now()
    expires = reviewed.said.expires if days is None else now + round(days * DAY_SECONDS)
    expires = min(expires, now + limits.APPROVAL_SECONDS)
    return session.post(
        statements.ApprovalStatement, task=reviewed.digest, id=secrets.token_hex(16), expires=expires
    )


def check_approvable(session: Session, reviewed: Review) -> None:
    """An approval by this party would say something new.

    Raises `Denied` if the task needs none of it, `Conflict` if one is in force, `Expired` if the task has ended and
    `QuotaExceeded` if its runs are spent.
    """
    me, said, view = session.identity.id, reviewed.said, reviewed.view
    asked = {item.party: item for item in view.approvals}
    if me not in reviewed.needed and me not in asked:
        raise Denied(
            "the task needs no approval of yours", hint="only owners and receivers of joint outputs approve"
        )
    if said.expires <= session.now():
        raise Expired("the task has ended: it cannot run any more", hint="ask its author for a new one")
    # As the gateway counts: a run that ended before any key was released has used nothing.
    spent = sum(1 for item in view.runs if item.attempts or item.status not in ENDED)
    if spent >= said.runs and all(item.status in ENDED for item in view.runs):
        raise QuotaExceeded(
            f"the task has had all of its {said.runs} runs: there is nothing left to approve",
            hint="ask its author for a new one",
        )
    if me in asked and asked[me].state == "approved":
        raise Conflict(
            "you have approved this already", hint=f"`mesatee task withdraw {view.name}` takes it back"
        )


def withdraw(session: Session, view: wire.TaskView) -> Posted:
    """Withdraw one's approvals of a task, all by one statement. A running run stops, and no result of it is released.

    Raises `StateError`.
    """
    for item in view.approvals:
        if item.party == session.identity.id and item.state == "approved" and item.id:
            return session.post(statements.WithdrawalStatement, task=view.digest, id=item.id)
    raise StateError("you have no approval of this task in force", hint="`mesatee task show` lists approvals")


def run(session: Session, view: wire.TaskView) -> Posted:
    """Run a task once; the answer's digest is the run's. Raises `NotApproved`, `PolicyDenied` and others."""
    return session.post(statements.RunStatement, task=view.digest)


def trigger(session: Session, view: wire.TaskView, every: int | None, days: float | None = None) -> Posted:
    """Have the gateway run a task: each `every` seconds, or, for None, whenever an input is newer. It ends with the
    task, or after `days`.
    """
    _, said = check_statement(view)
    now = session.now()
    expires = said.expires if days is None else min(said.expires, now + round(days * DAY_SECONDS))
    return session.post(statements.TriggerStatement, task=view.digest, every=every, expires=expires)


def stop_triggers(session: Session, view: wire.TaskView) -> list[Posted]:
    """Stop all triggers of a task that are in force. Raises `StateError` if there is none."""
    found = [item for item in view.triggers if item.state == "in_force"]
    if not found:
        raise StateError("no trigger of this task is in force", hint="`mesatee task show` lists them")
    return [session.post(statements.RetireStatement, target=item.digest) for item in found]


def cancel(session: Session, view: wire.TaskView, wanted: str | None = None) -> list[Posted]:
    """Stop a run, or all that have not ended. Raises `StateError` if there is none."""
    open_runs = [item for item in view.runs if item.status not in ENDED]
    if wanted is not None:
        open_runs = [names.find(open_runs, wanted, "run", lambda item: item.digest, lambda item: item.digest)]
    if not open_runs:
        raise StateError("no run of this task is under way", hint="`mesatee task show` lists its runs")
    return [session.post(statements.CancelStatement, run=item.digest) for item in open_runs]


def choose_run(view: wire.TaskView, wanted: str | None = None) -> wire.RunView:
    """The run that starts with `wanted`, or the newest. Raises `NotFound` or `Conflict`."""
    if wanted is not None:
        return names.find(view.runs, wanted, "run", lambda item: item.digest, lambda item: item.digest)
    if not view.runs:
        raise NotFound("the task was never run", hint=f"`mesatee task run {view.name}`")
    return view.runs[-1]


def watch(
    session: Session,
    task: str,
    wanted: str | None = None,
    *,
    seconds: float | None = None,
    changed: Callable[[wire.RunView], None] | None = None,
) -> wire.RunView:
    """Follow a run until it has ended.

    `changed` is told of each new state; raises `TimedOut` after `seconds`.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    view = session.task(task)
    digest = choose_run(view, wanted).digest
    last: tuple[str, int] | None = None
    while True:
        found = next((item for item in view.runs if item.digest == digest), None)
        if found is None:
            raise Malformed("the gateway no longer shows the run")
        if (found.status, found.attempts) != last and changed:
            changed(found)
        last = (found.status, found.attempts)
        if found.status in ENDED:
            return found
        left = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimedOut(
                f"the run has not ended within {seconds} s", hint="it goes on; `mesatee task watch` again"
            )
        view = session.task(task, after=view.log_size, wait=max(1, int(left)))


__all__ = [
    "Review",
    "ReviewedInput",
    "approve",
    "cancel",
    "check_approvable",
    "check_statement",
    "choose_run",
    "find",
    "new",
    "review",
    "run",
    "source",
    "stop_triggers",
    "trigger",
    "watch",
    "withdraw",
]
