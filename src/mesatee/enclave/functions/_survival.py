"""Times until something happens, or until nobody looked any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._parties import Categories, Combined
from mesatee.errors import Malformed

GROUPS: Final = 50
"""Groups that are compared with each other."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """People who have a duration, a known end and a group: `times`, `happened` and `codes`, each of shape (people,)."""

    times: Any
    happened: Any
    codes: Any
    places: list[int]
    """The places of the groups that have people, in the order of their names; ``codes`` count in this list."""
    groups: Categories | None

    @property
    def labels(self) -> Any:
        """The groups' names, as an Arrow array."""
        return None if self.groups is None else self.groups.take(self.places)


@dataclass(frozen=True, slots=True)
class Course:
    """At each time at which somebody's observation ends: how many are at risk just before, and how many of them end
    with the event, and without it. Each has shape (times,).
    """

    times: Any
    at_risk: Any
    events: Any
    censored: Any


def subjects(data: Combined, duration: str, event: str | None, group: str | None) -> Subjects:
    """People without nulls. Raises `Malformed` for negative durations, events other than 0 and 1, and many groups."""
    import numpy as np

    times = data.numbers(duration)
    if (times < 0).any():
        raise Malformed(f"the column {duration!r} has durations below 0")
    happened = np.ones(data.rows) if event is None else data.flags(event)
    groups = None if group is None else data.categories(group)
    kept = data.complete(times, happened, *([] if groups is None else [groups]))
    codes = np.zeros(data.rows, np.int64) if groups is None else groups.codes
    places, codes = np.unique(codes[kept], return_inverse=True)
    if len(places) > GROUPS:
        raise Malformed(f"the column {group!r} has {len(places)} groups, the limit is {GROUPS}")
    # Both zeros are one time.
    return Subjects(times[kept] + 0.0, happened[kept] == 1, codes, places.tolist(), groups)


def course(times: Any, happened: Any) -> Course:
    """Who ends together at a time is at risk until then, with the event or without it."""
    import numpy as np

    found, places = np.unique(times, return_inverse=True)
    ended = np.bincount(places, minlength=len(found))
    events = np.bincount(places[happened], minlength=len(found))
    at_risk = len(times) - np.cumsum(ended) + ended
    return Course(found, at_risk, events, ended - events)


__all__ = ["GROUPS", "Course", "Subjects", "course", "subjects"]
