"""What was found before, for as long as it counts: one bounded memory for verdicts and appraisals.

>>> memory: Remembered[str] = Remembered(size=2)
>>> memory.put("key", "value", at=10, expires=20)
>>> [memory.get("key", at) for at in (9, 10, 19, 20)]
[None, 'value', 'value', None]
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """Forgets what was not asked for the longest. May be shared by threads."""

    def __init__(self, size: int) -> None:
        """`size`: entries at most."""
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[V, int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, at: int) -> V | None:
        """The value if it counts at `at` (Unix seconds). A clock that was set back makes it worthless too."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            value, since, until = found
            if not since <= at < until:
                return None
            self._kept.move_to_end(key)
            return value

    def put(self, key: Hashable, value: V, at: int, expires: int) -> None:
        """Keep what counts from `at` until `expires`, in place of what was there."""
        with self._lock:
            self._kept[key] = (value, at, expires)
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)


__all__ = ["Remembered"]
