"""What may leave of a task's datasets, and what their privacy budgets still pay. Pure functions of the projection.

A budget belongs to all datasets that their owner gave one name: a newer version is about the same people. The limits
are those of the version that is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ...errors import QuotaExceeded
from ...protocol import leaving, limits, statements
from ...protocol.protection import EVERYBODY, Enforced
from .runs import Run
from .state import Held, State

UNIT: Final = limits.EPSILON_UNIT


def enforced(
    state: State, task: statements.TaskStatement, inputs: Mapping[str, str | None]
) -> Enforced | None:
    """What holds when the task runs on these inputs (name -> dataset, run or None). Raises `Malformed`."""
    found = dict.fromkeys(digest for digest in inputs.values() if digest in state.datasets)
    datasets = {digest: state.datasets[digest] for digest in found if digest is not None}
    return leaving.enforced(
        task,
        state.function(task.function).predicate,
        inputs,
        {digest: (held.signer, held.predicate) for digest, held in datasets.items()},
    )


def due(
    state: State, held: Held[statements.TaskStatement], inputs: Mapping[str, str | None]
) -> dict[str, int]:
    """Dataset -> what a run on these inputs costs, in millionths of epsilon. The same question costs once.

    Raises `Malformed`.
    """
    found = enforced(state, held.predicate, inputs)
    if found is None or leaving.question(held.digest, inputs) in state.charged:
        return {}
    return dict(found.charges)


def affordable(
    state: State, held: Held[statements.TaskStatement], inputs: Mapping[str, str | None], *, ahead: bool
) -> dict[str, int]:
    """What is due, if every budget can pay it; with `ahead` also after all open runs have got their keys.

    Raises `QuotaExceeded`, which names dataset, party and what is left, or `Malformed`.
    """
    wanted = due(state, held, inputs)
    spent = _open(state, leaving.question(held.digest, inputs)) if ahead and wanted else {}
    for digest, amount in wanted.items():
        dataset = state.dataset(digest)
        said = dataset.predicate.protection
        if said is None or said.budget is None:
            continue
        name = line(dataset)
        for who in (EVERYBODY, *sorted(leaving.payers(held.predicate, dataset.signer))):
            most = said.budget.total if who == EVERYBODY else said.budget.each
            used = state.spent.get(name, {}).get(who, 0) + spent.get((name, who), 0)
            if used + amount > most:
                raise QuotaExceeded(
                    f"the privacy budget of dataset {dataset.predicate.name} for {_title(state, who)} has "
                    f"{max(most - used, 0) / UNIT:g} of {most / UNIT:g} left, and this task costs {amount / UNIT:g}",
                    hint="use an earlier answer, ask for less epsilon, or ask its owner for a larger budget",
                )
    return wanted


def _open(state: State, question: str) -> dict[tuple[str, str], int]:
    """What runs under way, of other questions, will have cost: (name of the datasets, party) -> millionths."""
    found: dict[tuple[str, str], int] = {}
    seen = {question}
    for run in state.runs.open.values():
        held = state.task(run.task)
        inputs = _inputs(state, run, held)
        asked = leaving.question(held.digest, inputs)
        if asked in seen:
            continue
        seen.add(asked)
        for digest, amount in due(state, held, inputs).items():
            dataset = state.dataset(digest)
            for who in (EVERYBODY, *leaving.payers(held.predicate, dataset.signer)):
                key = (line(dataset), who)
                found[key] = found.get(key, 0) + amount
    return found


def _inputs(state: State, run: Run, held: Held[statements.TaskStatement]) -> Mapping[str, str | None]:
    return run.grant.inputs if run.grant is not None else state.inputs(held.predicate)


def line(dataset: Held[statements.DatasetStatement]) -> str:
    """What all versions of a dataset have in common."""
    return f"{dataset.signer}/{dataset.predicate.name}"


def _title(state: State, who: str) -> str:
    if who == EVERYBODY:
        return "all parties together"
    held = state.parties.get(who)
    return held.predicate.keys.name if held else who[:16]


__all__ = ["affordable", "due", "enforced", "line"]
