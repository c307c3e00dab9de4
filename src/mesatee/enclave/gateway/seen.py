"""Which statements came already: of each, for as long as it could come again.

A statement is taken for `STATEMENT_AGE_SECONDS` after it was signed, by log time, which never decreases. After that it
is refused for its age, so that nobody needs to remember it.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pydantic_core import core_schema

from ...errors import LogCorrupt
from ...protocol import limits
from .shelf import KEY, Shelf

WINDOW: Final = limits.STATEMENT_AGE_SECONDS + limits.CLOCK_SKEW_SECONDS
"""Log time in seconds after which what came cannot come again: it may have been signed a clock's skew later."""
_INDEX: Final = 8


class Seen:
    """Digests of statements and the log index of each, in two generations: the older one is forgotten as a whole."""

    __slots__ = ("_new", "_old", "_since")

    def __init__(self) -> None:
        self._since = 0
        self._old, self._new = Shelf(), Shelf()

    def add(self, digest: str, index: int, time: int) -> None:
        """A statement that entered the log at `index`, at this log time in seconds. The first entry of one counts."""
        if time > self._since + WINDOW:
            # All in the older generation came before this one began.
            self._old, self._new, self._since = self._new, Shelf(), time
        key = bytes.fromhex(digest)
        if self._new.find(key) is None:
            self._new.add(key + index.to_bytes(_INDEX))

    def get(self, digest: str) -> int | None:
        """The log index of a statement that came, while it could come again."""
        key = bytes.fromhex(digest)
        for shelf in (self._new, self._old):
            if (number := shelf.find(key)) is not None:
                return int.from_bytes(shelf.row(number)[KEY:])
        return None

    def __len__(self) -> int:
        """How many statements are remembered."""
        return len(self._old) + len(self._new)

    def __eq__(self, other: object) -> bool:
        """Whether both remember the same."""
        return isinstance(other, Seen) and self._dump() == other._dump()

    __hash__ = None  # type: ignore[assignment]

    def _dump(self) -> dict[str, Any]:
        return {
            "since": self._since,
            "old": b"".join(self._old).hex(),
            "new": b"".join(self._new).hex(),
        }

    @classmethod
    def _restore(cls, said: Any) -> Seen:
        found = cls()
        found._since = int(said["since"])
        for name, shelf in (("old", found._old), ("new", found._new)):
            rows = bytes.fromhex(said[name])
            for start in range(0, len(rows), KEY + _INDEX):
                shelf.add(rows[start : start + KEY + _INDEX])
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """As two rows of hexadecimal text."""
        return kept_as(cls._dump, cls._restore)


def kept_as(dump: Any, restore: Any) -> core_schema.CoreSchema:
    """The schema of what a snapshot keeps as JSON that `dump` makes and `restore` reads; what it raises is an error of
    the snapshot.
    """

    def read(said: Any) -> Any:
        try:
            return restore(said)
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            OverflowError,
            struct.error,
            LogCorrupt,
        ) as error:
            raise ValueError(f"not of this version: {type(error).__name__}") from None

    return core_schema.no_info_plain_validator_function(
        read, serialization=core_schema.plain_serializer_function_ser_schema(dump)
    )


__all__ = ["WINDOW", "Seen", "kept_as"]
