"""Cedar texts of the default policies, and a dataset's policy built from conditions in plain words.

The actions are the monitor's three permits (`use`, `release_key`, `release_result`) and
`approve_automatically`, by which a policy stands for its owner's signature. `context` has the worker's level
and TEE class (at `use`, where no worker is known yet, the least that the task accepts), the digest of the
function's statement, and the log's time.

>>> print(dataset(min_level=2, tees=("software",)), end="")
permit (
  principal,
  action in [Action::"use", Action::"release_key", Action::"release_result"],
  resource
) when {
  context.level >= 2 &&
  ["software"].contains(context.tee)
};
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import Malformed, TooLarge
from . import limits
from .digests import is_hex

DEFAULT_DATASET_POLICY: Final = """\
// Whatever its owner approves by signature may use it. There is no standing approval.
permit (
  principal,
  action in [Action::"use", Action::"release_key", Action::"release_result"],
  resource
);
"""
DEFAULT_PLATFORM_POLICY: Final = """\
// Every party may register and read what concerns it; the owners' policies and approvals decide about data.
permit (
  principal,
  action in [
    Action::"register", Action::"read",
    Action::"use", Action::"release_key", Action::"release_result"
  ],
  resource is Platform
);
"""

_ACTIONS: Final = ("use", "release_key", "release_result")
_AUTOMATIC: Final = "approve_automatically"
_LEVELS: Final = range(1, 6)
_TEE_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
CHOICES: Final = 64
"""TEE classes, or functions, that one built policy lists."""


def dataset(
    *,
    min_level: int | None = None,
    tees: Sequence[str] = (),
    functions: Sequence[str] = (),
    receivers: Sequence[str] = (),
    not_after: int | None = None,
    refuse_simulated: bool = False,
    approve_automatically: bool = False,
) -> str:
    """A dataset's policy.

    `min_level` (1 to 5), `tees` and `refuse_simulated` are asked of the worker; `functions` are digests of
    function statements, the only ones that may use the data; `receivers` are key ids of parties, to whom alone
    results may go; from `not_after` (Unix seconds of log time) on
    nothing is allowed. `approve_automatically` lets the policy stand for the owner's approval, and needs
    `functions`: an automatic yes to any code would give the data away. Raises `Malformed` or `TooLarge`.
    """
    if approve_automatically and not functions:
        raise Malformed(
            "a policy that approves by itself must name functions",
            hint="anybody could otherwise run any code on the data",
        )
    conditions = _conditions(min_level, tees, functions, not_after)
    if receivers:
        if not all(is_hex(item, 32) for item in receivers):
            raise Malformed("a policy names receivers by their key ids")
        conditions.append(f"{_choices(receivers)}.containsAll(context.receivers)")
    if refuse_simulated:
        conditions.append("!context.simulated")
    if not conditions:
        return DEFAULT_DATASET_POLICY
    actions = (*_ACTIONS, _AUTOMATIC) if approve_automatically else _ACTIONS
    named = ", ".join(f'Action::"{action}"' for action in actions)
    joined = " &&\n  ".join(conditions)
    text = f"permit (\n  principal,\n  action in [{named}],\n  resource\n) when {{\n  {joined}\n}};\n"
    if len(text.encode()) > limits.POLICY_BYTES:
        raise TooLarge(f"a policy has at most {limits.POLICY_BYTES} bytes")
    return text


def _conditions(
    min_level: int | None, tees: Sequence[str], functions: Sequence[str], not_after: int | None
) -> list[str]:
    found = []
    if min_level is not None:
        if isinstance(min_level, bool) or min_level not in _LEVELS:
            raise Malformed("a level is 1 to 5")
        found.append(f"context.level >= {min_level}")
    if tees:
        for tee in tees:
            if not tee or len(tee) > limits.NAME_CHARS or not set(tee) <= _TEE_CHARS:
                raise Malformed("a TEE class is written in lower-case letters, digits and - _ .")
        found.append(f"{_choices(tees)}.contains(context.tee)")
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
    if len(items) > CHOICES:
        raise TooLarge(f"a policy lists at most {CHOICES} choices")
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


__all__ = ["CHOICES", "DEFAULT_DATASET_POLICY", "DEFAULT_PLATFORM_POLICY", "dataset"]
