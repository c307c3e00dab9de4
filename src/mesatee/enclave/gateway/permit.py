"""The monitor's unforgeable yes to one action.

Python has no private constructors; what makes a permit unforgeable inside the gateway is that `Mint` keeps a secret
object of its own, that only the monitor owns a `Mint`, and that an architecture test refuses any other use of it.
"""

from __future__ import annotations

import enum
from typing import Any, final

from ...errors import Denied


class Action(enum.Enum):
    """What a permit may be for."""

    APPEND = "append"
    REGISTER = "register"
    INVOKE = "invoke"
    RELEASE_KEY = "release_key"
    RELEASE_RESULT = "release_result"
    READ = "read"
    HAND_OVER = "hand_over"
    SHARE = "share"


@final
class Permit:
    """A yes to `action` on `subject`, decided at log index `index`. Good for one use."""

    __slots__ = ("_used", "action", "index", "subject")

    def __init__(self, action: Action, subject: str, index: int, *, mint: Mint) -> None:
        if type(mint) is not Mint:
            raise Denied("only the monitor makes permits")
        self.action = action
        self.subject = subject
        self.index = index
        self._used = False

    def use(self, action: Action, subject: str) -> None:
        """Spend it. Raises `Denied` if it is for something else or already spent."""
        if self._used or self.action is not action or self.subject != subject:
            raise Denied(f"this permit is not for {action.value} of {subject[:16]}, or is spent")
        self._used = True

    def __reduce__(self) -> Any:
        raise TypeError("a permit stays where it was made")


@final
class Mint:
    """Makes permits. The monitor owns the only one."""

    __slots__ = ()

    def permit(self, action: Action, subject: str, index: int) -> Permit:
        """A new permit."""
        return Permit(action, subject, index, mint=self)


__all__ = ["Action", "Mint", "Permit"]
