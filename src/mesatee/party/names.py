"""Names and unique prefixes of digests, as people type them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from ..errors import Conflict, Malformed, NotFound
from ..protocol import limits

PREFIX_CHARS: Final = 6
"""A digest may be shortened to this many hex digits, if that names only one thing."""
SHOWN_CHOICES: Final = 10
"""How many candidates an error about an ambiguous name lists."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_PREFIX = re.compile(rf"[0-9a-f]{{{PREFIX_CHARS},64}}\Z")

T = TypeVar("T")


def check_name(name: str, what: str) -> str:
    """A name that can never become a path or a second line. Raises `Malformed`."""
    if len(name) > limits.NAME_CHARS or not _NAME.match(name):
        raise Malformed(
            f"not a name for {what}",
            hint=f"1 to {limits.NAME_CHARS} of letters, digits, _ . and -, not beginning with . or -",
        )
    return name


def find(
    items: Iterable[T], wanted: str, what: str, digest: Callable[[T], str], name: Callable[[T], str]
) -> T:
    """The one item with this name, digest or unique prefix of a digest of at least six hex digits.

    An exact digest counts before a name, and a name before a prefix. Raises `NotFound`, or `Conflict` listing
    what the name could mean.
    """
    items = list(items)
    for matches in (
        [item for item in items if digest(item) == wanted],
        [item for item in items if name(item) == wanted],
        [item for item in items if digest(item).startswith(wanted)] if _PREFIX.match(wanted) else [],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{name(item)} ({digest(item)[:12]})" for item in matches[:SHOWN_CHOICES])
            more = f" and {len(matches) - SHOWN_CHOICES} more" if len(matches) > SHOWN_CHOICES else ""
            raise Conflict(
                f"{wanted!r} could be {len(matches)} {what}s: {listed}{more}",
                hint="give more digits of the digest",
            )
    known = ", ".join(sorted({name(item) for item in items})[:SHOWN_CHOICES])
    raise NotFound(
        f"there is no {what} {wanted[:64]!r}", hint=f"known: {known}" if known else f"you see no {what} yet"
    )


__all__ = ["PREFIX_CHARS", "SHOWN_CHOICES", "check_name", "find"]
