"""Which policies are asked for what: the platform's, the function's owner's by approval, and each dataset's, ANDed.

`policy` knows Cedar; this module knows tasks. It names every dataset of a task and the context that its owner's policy
may speak about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ...errors import PolicyDenied
from ...protocol.sources import OutputOf
from ...protocol.statements import TaskStatement, WorkerFacts
from . import policy
from .state import Held, State

USE: Final = "use"
RELEASE_KEY: Final = "release_key"
RELEASE_RESULT: Final = "release_result"
PLATFORM: Final = "platform"
"""The platform's place in the record of policies that allowed; datasets stand under their digests."""


@dataclass(frozen=True, slots=True)
class Question:
    """May this task do this now? `worker` is None while no worker is known."""

    state: State
    task: Held[TaskStatement]
    action: policy.TaskAction
    worker: WorkerFacts | None
    time: int
    run: int


def check(text: str) -> None:
    """A dataset's policy at registration: strictly valid. Raises `Malformed` or `TooLarge`."""
    policy.PolicySet.register(text, "dataset")


def platform(text: str, action: policy.PlatformAction, what: str, signer: str, now: int) -> None:
    """The platform's own policy on something that is about no task. Raises `PolicyDenied`."""
    policy.decide([_platform(text)], policy.Request(signer, action, policy.PlatformContext(what, now)))


def decide(asked: Question, platform_policy: str) -> dict[str, str]:
    """Every policy concerned must allow. Returns dataset digest (or ``platform``) -> digest of the policy's text.

    Raises `PolicyDenied`, naming whose policy did not.
    """
    named = [_platform(platform_policy), *_datasets(asked).values()]
    policy.decide_each(named, _requests(asked, asked.action))
    ruled = {item.resource: item.policy.digest for item in named[1:]}
    return {**ruled, PLATFORM: named[0].policy.digest}


def automatic(asked: Question) -> dict[str, str]:
    """Owners whose standing policies approve this task on all of their inputs: party -> digest of one such dataset."""
    by_owner: dict[str, list[policy.NamedPolicy]] = {}
    for item in _datasets(asked).values():
        by_owner.setdefault(item.owner, []).append(item)
    # A policy speaks for its dataset alone, not for an output that the same party owns with others.
    for source, owners in asked.state.owners(asked.task.predicate).items():
        if isinstance(asked.task.predicate.inputs[source], OutputOf):
            for owner in owners:
                by_owner.pop(owner, None)
    approved = {}
    for owner, items in by_owner.items():
        try:
            policy.decide_each(items, _requests(asked, "approve_automatically"))
        except PolicyDenied:
            continue
        approved[owner] = items[0].resource
    return approved


def _platform(text: str) -> policy.NamedPolicy:
    return policy.NamedPolicy(policy.PolicySet.register(text, "platform"), "", policy.PLATFORM_ID, PLATFORM)


def _datasets(asked: Question) -> dict[str, policy.NamedPolicy]:
    """Digest -> policy: a dataset is asked once, whatever number of inputs it is."""
    found = {}
    for held in asked.state.datasets_of(asked.task.predicate):
        parsed = policy.PolicySet.register(held.predicate.policy, "dataset")
        found[held.digest] = policy.NamedPolicy(parsed, held.signer, held.digest, held.predicate.name)
    return found


def _requests(asked: Question, action: policy.TaskAction) -> list[policy.Request]:
    """One request for the worker that is known, or one for each that the task accepts."""
    task = asked.task.predicate
    function = asked.state.function(task.function)
    accept = task.accept
    context = policy.TaskContext(
        function=task.function,
        function_owner=function.signer,
        executor=function.predicate.executor,
        task=asked.task.digest,
        level=accept.min_level,
        tee=accept.tees[0],
        measurement=accept.workers[0],
        simulated=accept.allow_simulated,
        receivers=frozenset(keys.signing for receivers in task.outputs.values() for keys in receivers),
        inputs_owners=asked.state.everybody(task),
        runs=task.runs,
        run=asked.run,
        time=asked.time,
    )
    if asked.worker is not None:
        contexts = [
            replace(
                context,
                level=asked.worker.level,
                tee=asked.worker.tee,
                measurement=asked.worker.measurement,
                simulated=asked.worker.simulated,
            )
        ]
    else:
        contexts = [
            replace(context, tee=tee, measurement=measurement)
            for tee in accept.tees
            for measurement in accept.workers
        ]
    return [policy.Request(asked.task.signer, action, item) for item in contexts]


__all__ = [
    "PLATFORM",
    "RELEASE_KEY",
    "RELEASE_RESULT",
    "USE",
    "Question",
    "automatic",
    "check",
    "decide",
    "platform",
]
