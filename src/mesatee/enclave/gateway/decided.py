"""What the monitor answers, and which of its refusals are logged."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import Denied, Malformed, StateError, TrustError
from ...protocol import statements
from .state import Grant, Held, Run

LOGGED = (Denied, TrustError, StateError, Malformed)
"""Refusals that become log entries; the rest says that the service could not decide."""


CODE = "code of the function"
"""The name under which a private function's key is released: no input can have it, for it has spaces."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A statement that is durably in the log."""

    digest: str
    index: int
    already: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The second permit's effect: a run's keys, wrapped to one attempt."""

    run: Run
    task: Held[statements.TaskStatement]
    function: Held[statements.FunctionStatement]
    grant: Grant
    wraps: dict[str, str]


__all__ = ["CODE", "LOGGED", "Accepted", "Granted"]
