"""What may leave of a task's datasets. Gateway, verifier and the author's own machine must never differ on this, so it
stands here once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from ..errors import Malformed
from . import protection
from .digests import sha256
from .jsonstrict import canonical
from .protection import DP, EPSILON, GROUPED, JOINING, PRIVATE, SEEDED, TRAINING, Budget, Enforced, Protection
from .signature import RESERVED_OUTPUT
from .statements import DatasetStatement, FunctionStatement, TaskStatement

TABLES: Final = frozenset({"csv", "parquet", "arrow"})
"""Formats whose content can be looked at on its way out."""
MANY: Final = "many"
"""The argument of functions that join: whether a row may meet several of another input."""
UNIQUE: Final = "unique"
"""Its value for no, in any input: otherwise whoever brings a key many times makes a group of one row look large."""


def enforced(
    task: TaskStatement,
    function: FunctionStatement,
    inputs: Mapping[str, str | None],
    datasets: Mapping[str, tuple[str, DatasetStatement]],
) -> Enforced | None:
    """What the worker enforces when `task` runs on `inputs` (name -> dataset, or anything else); None for nothing.

    `datasets` holds those among them: digest -> owner and statement.

    1. Every output is a table (but see 4), or goes, as `diagnostics`, to nobody but the owner of all that is protected.
    2. Where rows are counted, by a least group or a budget, no row comes in twice: of one name of its owner
       there is one input, whatever its version.
    3. A least group needs a built-in function that says how large its groups are, and no join that multiplies rows.
    4. A budget needs a built-in function that is differentially private, or with a delta one that trains with
       differential privacy, whose model is no table; who gets an output, and is not the owner, makes the dataset's
       budget pay what the task says.

    What another task made of a dataset went through the same before, and is not looked at again. Raises `Malformed`,
    naming the dataset.
    """
    guarded = {
        digest: (owner, said.name, said.protection)
        for digest, (owner, said) in datasets.items()
        if said.protection is not None
    }
    if not guarded:
        return None
    formats = {port.name: port.format for port in function.outputs}
    charges = {}
    known = (datasets[digest] for digest in inputs.values() if digest is not None and digest in datasets)
    lines = Counter((owner, said.name) for owner, said in known)
    for digest, (owner, name, asked) in guarded.items():
        trains = _is(function, TRAINING) and _only_budget(asked)
        _outputs(task, formats, owner, name, any_format=trains)
        if (asked.min_group or asked.budget) and lines[owner, name] > 1:
            raise Malformed(
                f"dataset {name} is several inputs, so that each of its rows would count several times",
                hint="name it once: its owner says how rows are counted on their way out",
            )
        if asked.min_group is not None and not _is(function, GROUPED):
            raise _needs(name, "lets only groups out", GROUPED, "say how large their groups are")
        if asked.min_group is not None and _multiplies(function, task):
            raise Malformed(
                f"dataset {name} lets only groups out, so one of its rows may not stand for many",
                hint=f"set {MANY} to {UNIQUE!r}, and join on keys that stand once in each input",
            )
        if asked.budget is not None:
            charge = _charge(function, task, name, asked.budget)
            if payers(task, owner):
                charges[digest] = charge
    found = protection.merged([asked for _, _, asked in guarded.values()])
    return Enforced(**{**found.model_dump(), "charges": charges})


def _only_budget(asked: Protection) -> bool:
    return all(value is None for key, value in asked if key != "budget")


def _charge(function: FunctionStatement, task: TaskStatement, name: str, budget: Budget) -> int:
    if _is(function, PRIVATE):
        return protection.spends(_argument(function, task, EPSILON))
    if not _is(function, TRAINING):
        raise _needs(name, "has a privacy budget", PRIVATE, "are differentially private")
    try:
        # From the task alone: what a function's statement calls its default is not what the worker takes for it.
        return protection.training_spends(task.arguments.get(DP), budget)
    except Malformed as error:
        raise Malformed(f"dataset {name}: {error.message}") from None


def receivers(task: TaskStatement) -> frozenset[str]:
    """Who gets an output that is more than diagnostics."""
    return frozenset(
        keys.signing for name, given in task.outputs.items() if name != RESERVED_OUTPUT for keys in given
    )


def payers(task: TaskStatement, owner: str) -> frozenset[str]:
    """Who learns something of a dataset that its `owner` did not know."""
    return receivers(task) - {owner}


def question(task: str, inputs: Mapping[str, str | None]) -> str:
    """The digest of what is asked: a task on these inputs. It is answered with the same noise however often it runs,
    and paid for once.
    """
    return sha256(canonical({"task": task, "inputs": dict(inputs)}))


def is_seeded(function: FunctionStatement) -> bool:
    """Whether it may add noise, and so gets a seed."""
    return _is(function, SEEDED)


def _outputs(
    task: TaskStatement, formats: Mapping[str, str], owner: str, name: str, *, any_format: bool
) -> None:
    for output, given in task.outputs.items():
        if output == RESERVED_OUTPUT:
            if any(keys.signing != owner for keys in given):
                raise Malformed(
                    f"the owner of dataset {name} says what may leave, so {RESERVED_OUTPUT} may go to nobody else",
                    hint=f"leave {RESERVED_OUTPUT} out",
                )
        elif not any_format and formats.get(output) not in TABLES:
            raise Malformed(
                f"the owner of dataset {name} says what may leave, and output {output} is no table",
                hint="use a function whose outputs are csv, parquet or arrow",
            )


def _is(function: FunctionStatement, names: frozenset[str]) -> bool:
    return function.executor == "builtin" and function.entry in names


def _needs(name: str, what: str, functions: frozenset[str], why: str) -> Malformed:
    return Malformed(
        f"dataset {name} {what}: only the built-in functions {', '.join(sorted(functions))} may use it",
        hint=f"these {why}; or ask its owner for a version without this limit",
    )


def _multiplies(function: FunctionStatement, task: TaskStatement) -> bool:
    joins = function.entry in JOINING and len(task.inputs) > 1
    return joins and _argument(function, task, MANY) != UNIQUE


def _argument(function: FunctionStatement, task: TaskStatement, name: str) -> Any:
    defaults = {item.name: item.default for item in function.arguments}
    return task.arguments.get(name, defaults.get(name))


__all__ = ["TABLES", "enforced", "is_seeded", "payers", "question", "receivers"]
