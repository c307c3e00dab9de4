"""Bounding what a function prints."""

from __future__ import annotations

from typing import Final

_TAIL_SHARE: Final = 4
"""A quarter of the room is kept for the end, where the traceback stands."""


class Cut:
    """Keeps the beginning and the end of a stream, within `limit` bytes together with a note of what was
    left out.

    >>> cut = Cut(200)
    >>> cut.add(b"x" * 1000)
    >>> len(cut.value()) <= 200, b"bytes left out" in cut.value()
    (True, True)
    """

    NOTE_BYTES: Final = 64
    """Room for the note."""

    def __init__(self, limit: int) -> None:
        room = limit - self.NOTE_BYTES
        self._head_room = room - room // _TAIL_SHARE
        self._tail_room = room // _TAIL_SHARE
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        room = self._head_room - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        extra = len(self._tail) - self._tail_room
        if extra > 0:
            del self._tail[:extra]
            self._dropped += extra

    def value(self) -> bytes:
        """What was kept."""
        note = f"\n[mesatee: {self._dropped} bytes left out]\n".encode() if self._dropped else b""
        return bytes(self._head) + note + bytes(self._tail)


__all__ = ["Cut"]
