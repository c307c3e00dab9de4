"""Output protection: what a function made goes through a second child before it is sealed.

That child runs the built-in `protect` on one output, with the limits of the datasets' owners as arguments. The worker
itself parses no table, and the function's own child, whatever took it over, has no say in what the second one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from ...protocol.leaving import TABLES
from ...protocol.protection import Enforced
from ..sandbox.protocol import Job, Limits, OutputSpec
from ..sandbox.supervisor import Outcome

PROTECT: Final = "protect"
WITHHELD: Final = "withheld"
_TABLE: Final = "table"
_RESULT: Final = "result"


class Run(Protocol):
    """How a job runs; never raises for what the job does."""

    def __call__(self, job: Job, inputs: Mapping[str, int]) -> Outcome:
        """One job in one child."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is left of the outputs: file descriptors that belong to the stack; or why there are none."""

    failure: str | None
    outputs: dict[str, int]
    why: bytes = b""
    """For `diagnostics` alone."""


def guard(
    run: Run,
    stack: ExitStack,
    protection: Enforced,
    outputs: Mapping[str, tuple[int, Any]],
    bounds: Limits,
) -> Guarded:
    """Let each output (name -> sealed memfd and format) through, one child each; all of them or none.

    A table that may not leave is `withheld`. A child that fails otherwise says so by its own code. What is no table
    passes where a budget is all that owners ask for: then the function is private by itself (`leaving.enforced`, 4).
    """
    left: dict[str, int] = {}
    for name, (fd, kind) in outputs.items():
        if kind not in TABLES and not any(arguments(protection).values()):
            left[name] = fd
            continue
        job = Job(
            executor="builtin",
            entry=PROTECT,
            args=arguments(protection),
            inputs={_TABLE: kind},
            outputs={_RESULT: OutputSpec(format=kind, max_bytes=bounds.output_bytes)},
            limits=replace(bounds, threads=1),
        )
        outcome = stack.enter_context(run(job, {_TABLE: fd}))
        if outcome.failure is not None:
            failure = WITHHELD if outcome.failure == "bad_input" else outcome.failure
            return Guarded(failure, {}, b"output " + name.encode() + b": " + outcome.diagnostics)
        left[name] = outcome.outputs[_RESULT].fd
    return Guarded(None, left)


def arguments(protection: Enforced) -> dict[str, Any]:
    """The limits as the built-in function takes them: 0, or nothing, for none."""
    return {
        "min_group": protection.min_group or 0,
        "max_rows": protection.max_rows or 0,
        "columns": list(protection.columns or ()),
        "digits": protection.digits or 0,
        "multiple": protection.multiple or 0,
    }


__all__ = ["PROTECT", "WITHHELD", "Guarded", "arguments", "guard"]
