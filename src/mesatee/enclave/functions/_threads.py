"""How many threads functions of this process may have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final


@dataclass(slots=True)
class _Given:
    threads: int | None = None


_GIVEN: Final = _Given()


def give_threads(threads: int) -> None:
    """From now on functions may have so many, the first one included."""
    _GIVEN.threads = threads


def allowed() -> int:
    """What was given last; outside of a sandbox as many as there are processors."""
    return _GIVEN.threads or os.cpu_count() or 1


def useful() -> int:
    """As many of these as there are processors."""
    return min(allowed(), os.cpu_count() or 1)


__all__ = ["allowed", "give_threads", "useful"]
