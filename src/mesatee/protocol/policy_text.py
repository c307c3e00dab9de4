"""Cedar texts that owners attach to their datasets, built from conditions in plain words.

The actions are the monitor's three permits (`use`, `release_key`, `release_result`), and `approve_automatically`, by which
a policy stands for its owner's signature. Of the machine that runs a task nothing is known at `use`, so conditions on it
stand only on the two releases.

>>> print(build(min_level=4, tees=("sev-snp",)))
permit(principal, action == Action::"use", resource);
permit(principal, action in [Action::"release_key", Action::"release_result"], resource)
when { context has level && context.level >= 4 }
when { context has tee && ["sev-snp"].contains(context.tee) };
<BLANKLINE>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import Malformed, TooLarge
from . import limits
from .digests import is_hex

DEFAULT_DATASET_POLICY: Final = (
    'permit(principal, action in [Action::"use", Action::"release_key", Action::"release_result"], resource);\n'
)
"""Every task that the owner has approved by signature."""

_LEVELS: Final = range(1, 6)
_TEE_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_CHOICES: Final = 64
"""TEE classes or functions that one policy lists."""


def build(
    *,
    min_level: int | None = None,
    tees: Sequence[str] = (),
    functions: Sequence[str] = (),
    not_after: int | None = None,
    approve_automatically: bool = False,
) -> str:
    """A dataset's policy.

    `min_level` (1 to 5) and `tees` are asked of the worker; `functions` are digests of function statements, the only
    ones that may use the data; from `not_after` (Unix seconds) on nothing is allowed. `approve_automatically` lets the
    policy stand for the owner's approval, and needs `functions`: an automatic yes to any code would give the data away.
    Raises `Malformed` or `TooLarge`.
    """
    machine = _machine(min_level, tees)
    always = _always(functions, not_after)
    if approve_automatically and not functions:
        raise Malformed(
            "a policy that approves by itself must name functions",
            hint="anybody could otherwise run any code on the data",
        )
    if not machine and not always:
        return DEFAULT_DATASET_POLICY
    if machine:
        parts = [
            _permit('action == Action::"use"', always),
            _permit('action in [Action::"release_key", Action::"release_result"]', [*always, *machine]),
        ]
    else:
        parts = [_permit('action in [Action::"use", Action::"release_key", Action::"release_result"]', always)]
    if approve_automatically:
        parts.append(_permit('action == Action::"approve_automatically"', always))
    text = "".join(parts)
    if len(text.encode()) > limits.POLICY_BYTES:
        raise TooLarge(f"a policy has at most {limits.POLICY_BYTES} bytes")
    return text


def _permit(action: str, conditions: Sequence[str]) -> str:
    return "\n".join([f"permit(principal, {action}, resource)", *(f"when {{ {item} }}" for item in conditions)]) + ";\n"


def _machine(min_level: int | None, tees: Sequence[str]) -> list[str]:
    found = []
    if min_level is not None:
        if isinstance(min_level, bool) or min_level not in _LEVELS:
            raise Malformed("a level is 1 to 5")
        found.append(f"context has level && context.level >= {min_level}")
    if tees:
        for tee in tees:
            if not tee or len(tee) > limits.NAME_CHARS or not set(tee) <= _TEE_CHARS:
                raise Malformed("a TEE class is written in lower-case letters, digits and - _ .")
        found.append(f"context has tee && {_choices(tees)}.contains(context.tee)")
    return found


def _always(functions: Sequence[str], not_after: int | None) -> list[str]:
    found = []
    if functions:
        if not all(is_hex(item, 32) for item in functions):
            raise Malformed("a policy names functions by the digest of their statement")
        found.append(f"{_choices(functions)}.contains(context.function)")
    if not_after is not None:
        if isinstance(not_after, bool) or not 0 < not_after <= 2**40:
            raise Malformed("not_after is a time in Unix seconds")
        found.append(f"context.time < {not_after}")
    return found


def _choices(items: Sequence[str]) -> str:
    # Only characters that need no escape get here.
    if len(items) > _CHOICES:
        raise TooLarge(f"a policy lists at most {_CHOICES} choices")
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


__all__ = ["DEFAULT_DATASET_POLICY", "build"]
