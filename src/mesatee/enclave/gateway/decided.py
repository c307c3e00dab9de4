"""What the monitor answers, and which of its refusals are logged."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import Denied, Malformed, StateError, TrustError
from ...protocol import limits, statements
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


class Strangers:
    """Refusals of peers that are not registered: one in a while enters the log, with the number of the others."""

    def __init__(self) -> None:
        self._logged_at, self._others = -math.inf, 0

    def admit(self, now: float) -> int | None:
        """How many were refused since the last one that entered the log; None if this one does not enter it."""
        if now < self._logged_at + limits.STRANGER_DENIAL_SECONDS:
            self._others += 1
            return None
        others, self._others, self._logged_at = self._others, 0, now
        return others


__all__ = ["CODE", "LOGGED", "Accepted", "Granted", "Strangers"]
