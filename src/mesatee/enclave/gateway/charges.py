"""What a key release uses up: of privacy budgets, and of the runs that a model's owner gives to each caller.

The projection counts it in the entry that releases the keys. Whether it may be used up is decided before that entry,
in the order of the log: `budgets` for epsilon, `affordable` here for models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ...errors import QuotaExceeded
from ...protocol import leaving, records, statements
from ...protocol.protection import EVERYBODY

if TYPE_CHECKING:
    from .runs import Run
    from .state import Held, State


def enter(state: State, index: int, run: Run, outcome: records.GrantOutcome) -> None:
    """Count what the grant at this log index uses. The run does not have this grant yet."""
    for held, amount in ((state.dataset(digest), paid) for digest, paid in outcome.charges.items()):
        spent = state.spent.setdefault(f"{held.signer}/{held.predicate.name}", {})
        for who in (EVERYBODY, *leaving.payers(state.task(run.task).predicate, held.signer)):
            spent[who] = spent.get(who, 0) + amount
    if outcome.charges:
        state.charged[leaving.question(run.task, outcome.inputs)] = index
    for held, _ in _counted(state, run.by, outcome.inputs, run):
        key = _key(held, run.by)
        state.model_runs[key] = state.model_runs.get(key, 0) + 1


def affordable(
    state: State,
    task: Held[statements.TaskStatement],
    inputs: Mapping[str, str | None],
    caller: str,
    run: Run | None = None,
) -> None:
    """Whether each model among the inputs has a run left for this caller, over all of its tasks.

    A new run (None) waits behind those under way that have no keys yet; one that ended without keys has used nothing.
    Another attempt of a run uses nothing more. Raises `QuotaExceeded`.
    """
    for held, quota in _counted(state, caller, inputs, run):
        used = state.model_runs.get(_key(held, caller), 0)
        if run is None:
            used += sum(1 for other in _waiting(state, caller) if held.digest in other)
        if used >= quota:
            raise QuotaExceeded(
                f"you have had all {quota} runs that the owner of model {held.predicate.name} gives to each caller",
                hint="ask its owner for a version with a larger quota",
            )


def _counted(
    state: State, caller: str, inputs: Mapping[str, str | None], run: Run | None
) -> Iterator[tuple[Held[statements.DatasetStatement], int]]:
    """The models with a quota among the inputs, each once, but the caller's own and those that the run had before."""
    had = {digest for grant in run.grants for digest in grant.inputs.values()} if run else set()
    for digest in dict.fromkeys(inputs.values()):
        held = None if digest is None else state.datasets.get(digest)
        if held is None or held.signer == caller or held.digest in had:
            continue
        card = held.predicate.card
        if card is not None and card.runs is not None:
            yield held, card.runs


def _waiting(state: State, caller: str) -> Iterator[frozenset[str | None]]:
    """What the caller's runs read that have no keys yet, as it is now."""
    for run in state.runs.open.values():
        if run.by == caller and not run.grants:
            yield frozenset(state.inputs(state.task(run.task).predicate).values())


def _key(model: Held[statements.DatasetStatement], caller: str) -> str:
    return f"{model.digest}/{caller}"


__all__ = ["affordable", "enter"]
