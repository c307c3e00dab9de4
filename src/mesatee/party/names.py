"""Names and unique prefixes of digests, as people type them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from ..errors import Conflict, Denied, Malformed, NotFound
from ..protocol import limits, wire

PREFIX_CHARS: Final = 6
"""A digest may be shortened to this many hex digits, if that names only one thing."""
SHOWN_CHOICES: Final = 10
"""How many candidates an error about an ambiguous name lists."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_PREFIX = re.compile(rf"[0-9a-f]{{{PREFIX_CHARS},64}}\Z")

T = TypeVar("T")
V = TypeVar("V", wire.DatasetView, wire.FunctionView, wire.TaskView)


def check_name(name: str, what: str) -> str:
    """A name that can never become a path or a second line. Raises `Malformed`."""
    if len(name) > limits.NAME_CHARS or not _NAME.match(name):
        raise Malformed(
            f"not a name for {what}",
            hint=f"1 to {limits.NAME_CHARS} of letters, digits, _ . and -, not beginning with . or -",
        )
    return name


def find(
    items: Iterable[T],
    wanted: str,
    what: str,
    digest: Callable[[T], str],
    name: Callable[[T], str],
    owner: Callable[[T], tuple[str, str]] | None = None,
) -> T:
    """The one item with this name, digest or unique prefix of a digest of at least six hex digits.

    An exact digest counts before a name, and a name before a prefix. With `owner`, which gives an owner's id and name,
    ``OWNER/NAME`` names it too, and of several by one owner, which are versions in the order of the log, the newest is
    meant. Raises `NotFound`, or `Conflict` listing what the name could mean.
    """
    items = list(items)
    asked = wanted
    if owner is not None and "/" in wanted:
        who, _, wanted = wanted.rpartition("/")
        items = [item for item in items if who in owner(item)]

    def full(item: T) -> str:
        return name(item) if owner is None else f"{owner(item)[1]}/{name(item)}"

    for matches in (
        [item for item in items if digest(item) == wanted],
        _newest([item for item in items if name(item) == wanted], owner),
        [item for item in items if digest(item).startswith(wanted)] if _PREFIX.match(wanted) else [],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{full(item)} ({digest(item)[:12]})" for item in matches[:SHOWN_CHOICES])
            more = f" and {len(matches) - SHOWN_CHOICES} more" if len(matches) > SHOWN_CHOICES else ""
            raise Conflict(
                f"{asked!r} could be {len(matches)} {what}s: {listed}{more}",
                hint="give more digits of the digest"
                if owner is None
                else "write OWNER/NAME, or more of the digest",
            )
    known = ", ".join(sorted({full(item) for item in items})[:SHOWN_CHOICES])
    raise NotFound(
        f"there is no {what} {asked[:129]!r}", hint=f"known: {known}" if known else f"you see no {what} yet"
    )


def check_version(
    items: Iterable[wire.DatasetView | wire.FunctionView], me: str, name: str, what: str, new_version: bool
) -> None:
    """A name is free, or what it names is to have a newer version. Raises `Conflict` or `NotFound`."""
    taken = any(item.owner == me and item.name == name and not item.retired for item in items)
    if taken and not new_version:
        raise Conflict(
            f"you have a {what} {name} already",
            hint="choose another name, or give --new-version if this is the newer one",
        )
    if new_version and not taken:
        raise NotFound(f"you have no {what} {name} in use", hint="leave --new-version out for the first one")


def _newest(items: list[T], owner: Callable[[T], tuple[str, str]] | None) -> list[T]:
    return items if owner is None else list({owner(item)[0]: item for item in items}.values())


def find_owned(items: Iterable[V], wanted: str, what: str, *, only: str | None = None) -> V:
    """A dataset, function or task by name, ``OWNER/NAME``, digest or unique prefix of it.

    With `only`, a party's id, it has to be this party's: where others have one of the same name, it is not ambiguous.
    Raises as `find`, and `Denied` if it is somebody else's.
    """
    items = list(items)
    mine = items if only is None else [item for item in items if _owner(item)[0] == only]
    try:
        return find(mine, wanted, what, _digest, _name, _owner)
    except NotFound:
        if only is None:
            raise
    found = find(items, wanted, what, _digest, _name, _owner)
    raise Denied(
        f"the {what} {_owner(found)[1]}/{found.name} is not yours: only its owner may do this",
        hint=f"ask {_owner(found)[1]}",
    )


def _owner(item: wire.DatasetView | wire.FunctionView | wire.TaskView) -> tuple[str, str]:
    if isinstance(item, wire.TaskView):
        return item.author, item.author_name
    return item.owner, item.owner_name


def _digest(item: wire.DatasetView | wire.FunctionView | wire.TaskView) -> str:
    return item.digest


def _name(item: wire.DatasetView | wire.FunctionView | wire.TaskView) -> str:
    return item.name


__all__ = ["PREFIX_CHARS", "SHOWN_CHOICES", "check_name", "check_version", "find", "find_owned"]
