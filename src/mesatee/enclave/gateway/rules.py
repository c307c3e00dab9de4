"""The rules of the life cycle: what a statement must satisfy before it may enter the log.

Pure functions of the projection, a statement and the log's time: each returns nothing or raises a typed error that
names what is missing. They are separate from the monitor so that a model test can drive them without any I/O.
"""

from __future__ import annotations

from typing import Any, Literal

from ...errors import (
    Conflict,
    Denied,
    EvidenceRefused,
    Expired,
    KeyRefused,
    LevelTooLow,
    Malformed,
    NotApproved,
    NotFound,
    QuotaExceeded,
    Replayed,
    StateError,
    TooLarge,
)
from ...protocol import limits, statements
from ...protocol.service import HandOver
from ...protocol.sources import NewestDataset, OutputOf
from ...protocol.statements import WorkerFacts
from . import budgets
from .runs import ENDED, Grant, Run
from .state import Approval, Held, State, Trigger

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    # Which of them, the function's own signature says, in the worker.
    "json": (str, int, float, bool, list, dict),
}


def times(predicate: statements.Common, now: int, clock: int) -> None:
    """A statement is posted soon after it was signed, by clocks that agree.

    What counts as the future is measured from this machine's clock, not from log time: log time follows the statements,
    so each could otherwise push it a little further, until all that others signed has expired.
    """
    if predicate.time > clock + limits.CLOCK_SKEW_SECONDS:
        raise Expired(f"the statement is signed {predicate.time - clock} s in the future")
    if predicate.time < now - limits.STATEMENT_AGE_SECONDS:
        raise Expired(
            f"the statement was signed {now - predicate.time} s ago; the limit is {limits.STATEMENT_AGE_SECONDS} s"
        )


def _life(expires: int, now: int, what: str) -> None:
    if expires <= now:
        raise Expired(f"the {what} has expired")
    if expires > now + limits.APPROVAL_SECONDS + limits.CLOCK_SKEW_SECONDS:
        raise Malformed(f"the {what} would live longer than {limits.APPROVAL_SECONDS // 86_400} days")


def party(state: State, signer: str, predicate: statements.PartyStatement) -> None:
    """One name, one party; keys do not change under an identity."""
    for held in state.parties.values():
        if held.signer == signer and held.predicate.keys != predicate.keys:
            raise Conflict(
                "this identity is registered with other keys", hint="make a new identity for new keys"
            )
        if held.signer != signer and held.predicate.keys.name == predicate.keys.name:
            raise Conflict(
                f"the name {predicate.keys.name} is taken", hint="choose another name for this identity"
            )


def blob(state: State, signer: str, digest: str) -> None:
    """Whoever registers a ciphertext first owns it."""
    if state.blobs.get(digest, signer) != signer:
        raise KeyRefused("this ciphertext is registered by another owner", hint="seal your own data")


def task(state: State, signer: str, predicate: statements.TaskStatement, now: int) -> None:
    """A task fits its function, its data and its receivers."""
    _life(predicate.expires, now, "task")
    function = in_use(state.function(predicate.function), "function")
    _may_call(signer, function)
    if function.predicate.environment not in (None, predicate.environment):
        raise Malformed(
            f"the function runs in the environment {function.predicate.environment} alone",
            hint="name that digest, or a function that runs in any environment",
        )
    _inputs(state, signer, function.predicate, predicate)
    check_arguments(function.predicate, predicate.arguments)
    known = {port.name for port in function.predicate.outputs} | {"diagnostics"}
    for name, receivers in predicate.outputs.items():
        if name not in known:
            raise Malformed(f"the function has no output {name}; it has {', '.join(sorted(known))}")
        for keys in receivers:
            held = state.parties.get(keys.signing)
            if held is None or held.predicate.keys != keys:
                raise KeyRefused(f"receiver {keys.name} is not registered with exactly these keys")
    _bounded(predicate)
    parties = state.concerned(Held("0" * 64, signer, 0, predicate))
    if len(parties) > limits.PARTIES_PER_TASK:
        raise Malformed(f"a task has at most {limits.PARTIES_PER_TASK} parties")


def _may_call(signer: str, function: Held[statements.FunctionStatement]) -> None:
    callers = function.predicate.callers
    if callers is not None and signer not in (*callers, function.signer):
        raise Denied(
            f"you are none of the callers that the owner of function {function.predicate.name} allows",
            hint="ask its owner to register it again with you among its callers",
        )


def _inputs(
    state: State,
    signer: str,
    function: statements.FunctionStatement,
    predicate: statements.TaskStatement,
) -> None:
    required = {port.name for port in function.inputs if not port.optional}
    known = {port.name for port in function.inputs}
    given = set(predicate.inputs)
    if not required <= given:
        raise Malformed(f"missing input {', '.join(sorted(required - given))}")
    if not function.variadic and not given <= known:
        raise Malformed(f"the function has no input {', '.join(sorted(given - known))}")
    for source in predicate.inputs.values():
        match source:
            case NewestDataset():
                if f"{source.owner}/{source.dataset}" not in state.dataset_versions:
                    raise NotFound(
                        f"party {source.owner[:16]} has no dataset of the name in the task",
                        hint="see `mesatee data list`",
                    )
            case OutputOf():
                _output(state, signer, source)
            case _:
                in_use(state.dataset(source), "dataset")


def _output(state: State, signer: str, source: OutputOf) -> None:
    """Another task's output: of a task that the author may know of, and not at the end of too long a line."""
    held = state.tasks.get(source.task)
    if held is None or signer not in state.concerned(held):
        raise NotFound(f"there is no task {source.task[:16]}", hint="see `mesatee task list`")
    if source.output not in held.predicate.outputs:
        named = ", ".join(sorted(held.predicate.outputs))
        raise Malformed(
            f"task {held.predicate.name} gives nobody an output {source.output}; it gives {named}"
        )
    depth, line = 0, {source.task}
    while line:
        depth += 1
        if depth >= limits.PIPELINE_DEPTH:
            raise TooLarge(
                f"more than {limits.PIPELINE_DEPTH} tasks read each other's outputs in a line",
                hint="take a result home in between and register it as a dataset",
            )
        before = (state.task(digest).predicate.inputs.values() for digest in line)
        line = {item.task for inputs in before for item in inputs if isinstance(item, OutputOf)}


def _bounded(predicate: statements.TaskStatement) -> None:
    """Each policy is asked for each machine that the task accepts: that must not keep everybody else waiting."""
    accept = predicate.accept
    datasets = {source for source in predicate.inputs.values() if not isinstance(source, OutputOf)}
    asked = len(accept.tees) * len(accept.workers) * len(datasets)
    if asked > limits.POLICY_QUESTIONS:
        raise TooLarge(
            f"TEE classes times workers times datasets make {asked}, the limit is {limits.POLICY_QUESTIONS}",
            hint="accept fewer kinds of machines, or make several tasks",
        )


def check_arguments(function: statements.FunctionStatement, arguments: dict[str, Any]) -> None:
    """Arguments are exactly those of the function's schema, of its types."""
    schema = {argument.name: argument for argument in function.arguments}
    for name, value in arguments.items():
        if name not in schema:
            raise Malformed(f"the function has no argument {name}")
        kind = schema[name].type
        if value is None and not schema[name].required:
            continue
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind not in ("bool", "json")):
            raise Malformed(f"argument {name} must be of type {kind}")
    for argument in schema.values():
        if argument.required and argument.name not in arguments:
            raise Malformed(f"missing argument {argument.name}")


def in_use(held: Held[Any], what: str) -> Held[Any]:
    """Neither retired nor suspended by its owner."""
    if held.retired is not None:
        raise StateError(
            f"the {what} {held.digest[:16]} was retired by its owner", hint=f"use a newer {what}"
        )
    if held.suspended:
        raise StateError(
            f"the {what} {held.digest[:16]} is suspended by its owner", hint="wait until its owner resumes it"
        )
    return held


def approval(state: State, signer: str, predicate: statements.ApprovalStatement, now: int) -> None:
    """An approval is by somebody whose approval the task needs, new, and not of a withdrawn id."""
    _life(predicate.expires, now, "approval")
    if predicate.id in state.withdrawn:
        raise Replayed("an approval with this id was withdrawn; a withdrawn id never counts again")
    if predicate.id in state.approvals:
        raise Replayed("an approval with this id is in the log already")
    held = state.task(predicate.task)
    if signer not in state.must_approve(held.predicate):
        raise Denied(
            "the task needs no approval of yours", hint="only owners and receivers of joint outputs approve"
        )


def withdrawal(state: State, signer: str, predicate: statements.WithdrawalStatement) -> None:
    """A party withdraws its own approval, once."""
    found = state.approvals.get(predicate.id)
    if found is None or found.party != signer or found.task != predicate.task:
        raise NotFound(
            "you have no approval with this id for this task", hint="`mesatee task show` lists the ids"
        )
    if found.withdrawn is not None:
        raise Replayed("this approval is withdrawn already")


def run(state: State, signer: str, task: str, now: int) -> None:
    """The task's author runs it while it lives and has runs left."""
    held = state.task(task)
    if held.signer != signer:
        raise Denied("only the task's author runs it")
    alive(held.predicate, now)
    if state.runs.spent(held.digest) >= held.predicate.runs:
        raise QuotaExceeded(f"all {held.predicate.runs} runs of the task are spent")
    _quota(state, signer, held.predicate)
    usable(state, held.predicate)
    waits(state, held.predicate)


def _quota(state: State, signer: str, predicate: statements.TaskStatement) -> None:
    """The function's runs for each caller, over all of its tasks. Runs are counted in the order of the log."""
    function = state.function(predicate.function)
    quota = function.predicate.quota
    if quota is None or signer == function.signer:
        return
    named = state.tasks_of.get(f"{function.digest}/{signer}", ())
    if sum(map(state.runs.spent, named)) >= quota:
        raise QuotaExceeded(
            f"you have had all {quota} runs that function {function.predicate.name} gives to each caller",
            hint="ask its owner for a version with a larger quota",
        )


def waits(state: State, predicate: statements.TaskStatement, before: int | None = None) -> bool:
    """Whether an input is still being made: by a run that has not ended, and that began before log index `before`.

    Raises `StateError` if an input is not there and nobody is making it.
    """
    making = False
    for name, found in state.inputs(predicate).items():
        source = predicate.inputs[name]
        if isinstance(source, OutputOf):
            making_it = state.runs.open_of(source.task)
            here = any(before is None or run.index < before for run in making_it)
            if found is None and not here:
                title = state.task(source.task).predicate.name
                raise StateError(
                    f"input {name} is output {source.output} of task {title}, which has not made it",
                    hint=f"run it first: `mesatee task run {title}`",
                )
            making = making or here
        elif found is None:
            raise StateError(f"no dataset is in use for input {name}", hint="its owner registers one")
    return making


def alive(predicate: statements.TaskStatement, now: int) -> None:
    """The task has not expired."""
    if predicate.expires <= now:
        raise Expired("the task has expired")


def usable(state: State, predicate: statements.TaskStatement) -> None:
    """Function and datasets are in use, and of an output that is read nobody has taken a yes back."""
    in_use(state.function(predicate.function), "function")
    for source in predicate.inputs.values():
        if isinstance(source, str):
            in_use(state.dataset(source), "dataset")
    for digest in state.inputs(predicate).values():
        if digest is not None and digest in state.runs:
            still_approved(state, state.runs[digest])


def approvals(
    state: State, held: Held[statements.TaskStatement], automatic: dict[str, str], now: int
) -> dict[str, str]:
    """Party -> digest of what stands for its yes: an approval, or the standing policy of `automatic`.

    Raises `NotApproved`, naming every party that is missing.
    """
    valid: dict[str, Approval] = state.valid_approvals(held.digest, now)
    counted: dict[str, str] = {}
    missing = []
    for who, reason in state.must_approve(held.predicate).items():
        if who in valid:
            counted[who] = valid[who].digest
        elif who in automatic:
            counted[who] = automatic[who]
        else:
            found = state.parties.get(who)
            missing.append(f"{found.predicate.keys.name if found else who[:16]} ({reason})")
    if missing:
        raise NotApproved(f"no valid approval by {'; '.join(missing)}")
    return counted


def still_approved(state: State, found: Run) -> None:
    """No yes that counted at key release was taken back since, of this run or of one whose output it uses.

    Raises `NotApproved`.
    """
    back = state.taken_back(found)
    if back is not None:
        who, what = back
        held = state.parties.get(who)
        raise NotApproved(f"{held.predicate.keys.name if held else who[:16]} has {what}")


def cancel(state: State, signer: str, predicate: statements.CancelStatement) -> None:
    """The author or an owner of an input stops a run that has not ended."""
    found = state.run(predicate.run)
    held = state.task(found.task)
    if signer != held.signer and signer not in state.everybody(held.predicate):
        raise Denied("only the task's author or an owner of its data cancels a run")
    if found.status in ENDED:
        raise Conflict(f"the run is {found.status} already")


def retire(state: State, signer: str, predicate: statements.RetireStatement) -> None:
    """An owner takes its own dataset, function or trigger out of use."""
    found = state.triggers.get(predicate.target)
    held = found if found is not None and found.by == signer else _own(state, signer, predicate.target)
    if held.retired is not None:
        raise Conflict("it is retired already")


def _own(state: State, signer: str, target: str) -> Held[Any]:
    held: Held[Any] | None = state.datasets.get(target) or state.functions.get(target)
    if held is None or held.signer != signer:
        raise NotFound("you own no dataset or function with this digest")
    return held


def suspend(state: State, signer: str, predicate: statements.SuspendStatement) -> None:
    """An owner takes its own dataset or function out of use for a while, or back."""
    held = _own(state, signer, predicate.target)
    if held.retired is not None:
        raise Conflict("it is retired for good")
    if held.suspended == predicate.suspended:
        raise Conflict(f"it is {'suspended' if held.suspended else 'in use'} already")


def trigger(state: State, signer: str, predicate: statements.TriggerStatement, now: int) -> None:
    """The task's author has it run by the gateway, for as long as the task lives."""
    held = state.task(predicate.task)
    if held.signer != signer:
        raise Denied("only the task's author has it run")
    alive(held.predicate, now)
    _life(predicate.expires, now, "trigger")
    if predicate.every is None and all(isinstance(item, str) for item in held.predicate.inputs.values()):
        raise Malformed(
            "no input of the task can ever be newer: all are datasets by digest",
            hint="name newest:DATASET or output:TASK/OUTPUT as an input, or run it by --every",
        )
    mine = [item for item in state.triggers.values() if item.by == signer and in_force(item, now)]
    if len(mine) >= limits.TRIGGERS_EACH:
        raise QuotaExceeded(
            f"you have {limits.TRIGGERS_EACH} triggers in force",
            hint="stop one: `mesatee task trigger --stop`",
        )


def in_force(found: Trigger, now: int) -> bool:
    """Whether a trigger may still begin runs."""
    return found.retired is None and found.expires > now


def due(state: State, found: Trigger, now: int) -> bool:
    """Whether a trigger begins a run now: its time has come, and where it waits for inputs one is newer."""
    if not in_force(found, now) or found.due > now:
        return False
    if found.every is not None:
        return True
    inputs = state.inputs(state.task(found.task).predicate)
    return inputs != found.seen and None not in inputs.values()


def collect(state: State, signer: str, predicate: statements.CollectStatement) -> list[str]:
    """The outputs of a run that `signer` receives."""
    found = state.run(predicate.run)
    held = state.task(found.task)
    mine = [
        name
        for name, receivers in held.predicate.outputs.items()
        if any(keys.signing == signer for keys in receivers)
    ]
    if not mine:
        raise Denied(
            "you receive no output of this task", hint="receivers are fixed in the task and approved with it"
        )
    if found.status == "failed" and set(mine) & set(found.outputs):
        # A failed run may still have its approved diagnostics.
        return [name for name in mine if name in found.outputs]
    if found.status != "finished":
        detail = f": {found.failure}" if found.failure else ""
        raise StateError(f"the run is {found.status}{detail}", hint="`mesatee task watch` follows it")
    return [name for name in mine if name in found.outputs]


def worker(predicate: statements.TaskStatement, facts: WorkerFacts, environments: frozenset[str]) -> None:
    """The worker is one that the task accepts."""
    accept = predicate.accept
    if facts.simulated and not accept.allow_simulated:
        raise EvidenceRefused("the worker's evidence is simulated and the task does not allow that")
    if facts.level < accept.min_level:
        raise LevelTooLow(f"the worker has level {facts.level}, the task asks for {accept.min_level}")
    if facts.tee not in accept.tees:
        raise EvidenceRefused(
            f"the worker's TEE class is {facts.tee}, the task accepts {', '.join(accept.tees)}"
        )
    if facts.measurement not in accept.workers:
        raise EvidenceRefused(f"the task does not accept a worker of measurement {facts.measurement[:16]}")
    if predicate.environment not in environments:
        raise EvidenceRefused(
            f"the worker does not have the environment {predicate.environment[:16]} that the task names",
            hint="its operator builds it there by `mesatee env build NAME --lock FILE`",
        )


def attempt(found: Run, *, lease_alive: bool) -> int:
    """The number of the next attempt of a run. Raises `Conflict` if none may start now."""
    if found.status in ENDED:
        raise Conflict(f"the run is {found.status} already", hint="drop the ticket")
    if found.status == "running" and lease_alive:
        raise Conflict("another worker runs it", hint="drop the ticket")
    number = len(found.grants) + 1
    if number > limits.ATTEMPTS:
        raise Conflict(f"all {limits.ATTEMPTS} attempts are spent", hint="drop the ticket")
    return number


def receipt(
    state: State, found: Run, grant: Grant, said: statements.ReceiptStatement, wrapped: set[str]
) -> None:
    """Whether a receipt says exactly what was granted, with a wrap for each output. Raises `Malformed`.

    That it is of this log and service, and that the wraps open, is its caller's to check.
    """
    held = state.task(found.task)
    expected = {
        "run": found.digest,
        "task": found.task,
        "function": held.predicate.function,
        "environment": held.predicate.environment,
        "fence": grant.fence,
        "inputs": grant.inputs,
        "approvals": grant.approvals,
        "policies": grant.policies,
        "worker": grant.worker,
        "protection": budgets.enforced(state, held.predicate, grant.inputs),
    }
    for name, value in expected.items():
        if getattr(said, name) != value:
            raise Malformed(f"the receipt's {name} is not what was granted")
    appraised, facts = said.appraisals.worker, grant.worker
    proven = (
        appraised.get("evidence_digest"),
        appraised.get("measurement") or "none",
        appraised.get("level"),
    )
    if (*proven, appraised.get("tee"), appraised.get("simulated")) != (
        facts.evidence,
        facts.measurement,
        facts.level,
        facts.tee,
        facts.simulated,
    ):
        raise Malformed("the receipt's appraisal is not that of the worker that was granted the attempt")
    wanted = set(held.predicate.outputs)
    if said.failure is not None:
        wanted &= {"diagnostics"} & set(said.outputs)
    if set(said.outputs) != wanted or wrapped != wanted:
        raise Malformed(f"the receipt must name exactly the outputs {', '.join(sorted(wanted)) or 'none'}")
    formats = {port.name: port.format for port in state.function(said.function).predicate.outputs}
    for name, output in said.outputs.items():
        if output.format != formats.get(name, "bytes"):
            raise Malformed(f"the receipt gives output {name} another format than the function")


def successor(
    rule: Literal["never"] | HandOver, facts: statements.WorkerFacts, vouched: str | None, key: str
) -> None:
    """Whether a peer gateway may receive the service's keys. Raises `Denied`, `LevelTooLow` or `EvidenceRefused`."""
    if rule == "never":
        raise Denied("this service hands its keys to nobody: its service statement says so")
    if facts.level < rule.min_level:
        raise LevelTooLow(f"the peer has level {facts.level}, a successor needs {rule.min_level}")
    if facts.tee not in rule.tees:
        raise Denied(f"the service statement names no successor of TEE class {facts.tee}")
    if facts.simulated and not rule.allow_simulated:
        raise EvidenceRefused("a successor's evidence may not be simulated")
    if facts.measurement not in rule.measurements:
        raise Denied(f"the service statement names no successor of measurement {facts.measurement[:16]}")
    if vouched != key:
        raise EvidenceRefused(
            "the peer's evidence does not vouch for the key that it wants the keys wrapped to"
        )


__all__ = [
    "alive",
    "approval",
    "approvals",
    "attempt",
    "blob",
    "cancel",
    "check_arguments",
    "collect",
    "due",
    "in_force",
    "in_use",
    "party",
    "receipt",
    "retire",
    "run",
    "still_approved",
    "successor",
    "suspend",
    "task",
    "times",
    "trigger",
    "usable",
    "waits",
    "withdrawal",
    "worker",
]
