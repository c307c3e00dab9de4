"""Rows of bytes by digest, packed: what a log that grows leaves for good takes little memory, and is never changed.

>>> shelf = Shelf()
>>> shelf.add(bytes(32) + b"first")
0
>>> shelf.find(bytes(32)), shelf.row(0)[32:]
(0, b'first')
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from ...errors import LogCorrupt

KEY: Final = 32
"""Bytes of a key, with which each row begins."""
_SLOTS: Final = 64
_FULL: Final = 0.66


class Shelf:
    """Rows in the order in which they came. Some 16 bytes a row beside the rows themselves.

    Keys are digests that others choose: the places come from Python's keyed hash, so that nobody can make them meet.
    """

    __slots__ = ("_ends", "_heap", "_slots")

    def __init__(self) -> None:
        self._heap = bytearray()
        self._ends = array("Q")
        # Row numbers plus one by hash, 0 where there is none: open addressing.
        self._slots = array("I", bytes(4 * _SLOTS))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._ends)

    def __iter__(self) -> Iterator[bytes]:
        """The rows, oldest first."""
        return map(self.row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether the same rows came in the same order."""
        return isinstance(other, Shelf) and (self._heap, self._ends) == (other._heap, other._ends)

    __hash__ = None  # type: ignore[assignment]

    def add(self, row: bytes) -> int:
        """Add a row with a new key; returns its number. Raises `LogCorrupt` for a key that is there already."""
        if len(row) < KEY or self.find(row[:KEY]) is not None:
            raise LogCorrupt("two rows of the projection have one key")
        number = len(self._ends)
        self._heap += row
        self._ends.append(len(self._heap))
        if number + 1 > _FULL * len(self._slots):
            self._slots = array("I", bytes(8 * len(self._slots)))
            for known in range(number):
                self._slots[self._place(self._key(known))] = known + 1
        self._slots[self._place(row[:KEY])] = number + 1
        return number

    def find(self, key: bytes) -> int | None:
        """The number of the row with this key."""
        found = self._slots[self._place(key)]
        return found - 1 if found else None

    def row(self, number: int) -> bytes:
        """The row of this number."""
        return bytes(self._heap[self._start(number) : self._ends[number]])

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _key(self, number: int) -> bytes:
        start = self._start(number)
        return bytes(self._heap[start : start + KEY])

    def _place(self, key: bytes) -> int:
        """Where the key is, or would be put."""
        mask = len(self._slots) - 1
        at = hash(key) & mask
        while (found := self._slots[at]) and self._key(found - 1) != key:
            at = (at + 1) & mask
        return at


__all__ = ["KEY", "Shelf"]
