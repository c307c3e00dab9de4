"""The scratch file that functions of this process may use, if the supervisor gave one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scratch:
    """An open file of at most `file_bytes`, and the memory that the run may use."""

    fd: int
    file_bytes: int
    memory_bytes: int


@dataclass(slots=True)
class _Given:
    scratch: Scratch | None = None


_GIVEN: Final = _Given()


def give_scratch(fd: int, file_bytes: int, memory_bytes: int) -> None:
    """From now on functions may use this file, which stays the caller's."""
    _GIVEN.scratch = Scratch(fd, file_bytes, memory_bytes)


def scratch() -> Scratch | None:
    """What was given last."""
    return _GIVEN.scratch


__all__ = ["Scratch", "give_scratch", "scratch"]
