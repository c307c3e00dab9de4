"""The one error tree of MesaTEE.

Every failure that a caller may meet is one of these; parsers of hostile input raise nothing else.
Each error names what was wrong and what to do next::

    MesateeError
    ├── InputError            400  the bytes or values given are wrong
    │   ├── Malformed              not of the format
    │   ├── TooLarge          413  over a named limit
    │   ├── UnsupportedVersion     another version, or an unknown algorithm
    │   └── DigestMismatch         the bytes are not those that the digest names
    ├── TrustError            403  a proof does not hold
    │   ├── SignatureInvalid       signature does not verify
    │   ├── KeyRefused             wrong or foreign key, or a wrap that was made for somebody else
    │   ├── EvidenceRefused        evidence, its binding or its freshness does not hold
    │   ├── LevelTooLow            the appraisal is sound but lower than what the trust policy asks
    │   ├── ForkDetected           the log does not extend a checkpoint that was already verified
    │   └── ReceiptInvalid         a receipt bundle does not prove what it says
    ├── Denied                403  the monitor said no
    │   ├── NotApproved            an approval is missing, was withdrawn or has expired
    │   ├── PolicyDenied           a policy did not allow it
    │   ├── Replayed               the statement was already used, or its id can never count again
    │   ├── Expired                its time is over, or lies in the future
    │   └── QuotaExceeded          a budget or number of runs is spent
    ├── StateError            409  not in this state
    │   ├── NotFound          404
    │   └── Conflict          409  somebody was first
    ├── Unavailable           503  try again, or look at the reason
    │   ├── HostFailed             the untrusted host did not do what was asked
    │   ├── Recovering             no key or result leaves before freshness is shown
    │   ├── Halted                 a fork was detected: the gateway serves nobody
    │   ├── TimedOut
    │   └── SandboxFailed          the sandbox could not be set up as asked
    ├── Corrupt               500  stored or sealed bytes were altered or cut
    │   ├── SealedDataCorrupt
    │   ├── LogCorrupt
    │   └── EnvironmentCorrupt
    └── TaskFailed            422  the function did not succeed; `code` is from a closed list

>>> error = TooLarge("body has 70000 bytes, the limit is 65536", hint="split the statement")
>>> error.status, error.code, error.hint
(413, 'too_large', 'split the statement')
"""

from __future__ import annotations

import re
from typing import Any, ClassVar


class MesateeError(Exception):
    """The root. `message` says what was wrong, `hint` what to do next."""

    status: ClassVar[int] = 500
    default_hint: ClassVar[str] = "see the message; `mesatee doctor` checks this installation"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint

    @property
    def code(self) -> str:
        """The error's stable name in snake case, e.g. ``not_approved``."""
        return _snake(type(self).__name__)

    def as_dict(self) -> dict[str, Any]:
        """The wire form: code, message and hint."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class InputError(MesateeError):
    """The bytes or values given are wrong."""

    status = 400
    default_hint = "correct what the message names, then try again"


class Malformed(InputError):
    """Not of the format."""


class TooLarge(InputError):
    """Over a named limit."""

    status = 413
    default_hint = "make it smaller; the limits are listed in docs/limits.md"


class UnsupportedVersion(InputError):
    """Another version of the format, or an algorithm that is not accepted."""

    default_hint = "use the version that the message names"


class DigestMismatch(InputError):
    """The bytes are not those that the digest names."""

    default_hint = "the bytes were altered or mixed up: fetch or compute them again"


class TrustError(MesateeError):
    """A proof does not hold."""

    status = 403
    default_hint = "do not use this peer or file until you know why"


class SignatureInvalid(TrustError):
    """A signature does not verify."""


class KeyRefused(TrustError):
    """A wrong or foreign key, or a wrap that was made for somebody else."""


class EvidenceRefused(TrustError):
    """Evidence, its binding to the channel or its freshness does not hold."""


class LevelTooLow(TrustError):
    """The appraisal is sound, but lower than the trust policy asks."""

    default_hint = "run it on a machine of the level that the trust policy asks, or change the policy"


class ForkDetected(TrustError):
    """The log does not extend a checkpoint that was already verified."""

    default_hint = "the log was rolled back or forked: stop, keep both checkpoints, ask the operator"


class ReceiptInvalid(TrustError):
    """A receipt bundle does not prove what it says."""


class Denied(MesateeError):
    """The monitor said no."""

    status = 403
    default_hint = "see `mesatee task show` for what is missing"


class NotApproved(Denied):
    """An approval is missing, was withdrawn or has expired."""

    default_hint = "each party that the message names must run `mesatee task approve`"


class PolicyDenied(Denied):
    """A policy did not allow it."""

    default_hint = "ask the owner whose policy the message names"


class Replayed(Denied):
    """The statement was already used, or its id can never count again."""

    default_hint = "make a new statement with a new id"


class Expired(Denied):
    """Its time is over, or lies in the future."""

    default_hint = "make it anew; check this machine's clock"


class QuotaExceeded(Denied):
    """A budget or the number of runs is spent."""

    default_hint = "make a new task, or ask the owners for a larger budget"


class StateError(MesateeError):
    """Not possible in this state."""

    status = 409
    default_hint = "look at the present state first"


class NotFound(StateError):
    """There is no such thing, or it is not shown to you."""

    status = 404
    default_hint = "check the name or digest; you see only what concerns you"


class Conflict(StateError):
    """Somebody was first."""

    default_hint = "read the present state and try again"


class Unavailable(MesateeError):
    """Not possible now."""

    status = 503
    default_hint = "try again in a moment"


class HostFailed(Unavailable):
    """The untrusted host did not do what was asked."""

    default_hint = "look at the host's log and its disk space"


class Recovering(Unavailable):
    """No key or result leaves before freshness is shown."""

    default_hint = "each owner that the message names must connect once, e.g. by `mesatee task list`"


class Halted(Unavailable):
    """A fork was detected: the gateway serves nobody."""

    default_hint = "restore the newest log from the host's storage, then start again"


class TimedOut(Unavailable):
    """No answer in time."""


class SandboxFailed(Unavailable):
    """The sandbox could not be set up as asked."""

    default_hint = "`mesatee doctor` lists the isolation layers of this kernel"


class Corrupt(MesateeError):
    """Stored or sealed bytes were altered or cut."""

    default_hint = "restore the bytes from a good copy"


class SealedDataCorrupt(Corrupt):
    """A sealed file was altered, cut or opened with the wrong key."""


class LogCorrupt(Corrupt):
    """The stored log was altered, cut or reordered."""

    default_hint = "restore the log from a good copy; the gateway starts only on a log that verifies"


class EnvironmentCorrupt(Corrupt):
    """An environment's files are not those that were measured when it was built."""

    default_hint = "`mesatee env remove NAME`, then `mesatee env build NAME --lock FILE`"


class TaskFailed(MesateeError):
    """The function did not succeed; `failure` is from a closed list and says nothing of the data."""

    status = 422
    default_hint = "test the function locally, or name receivers for the output `diagnostics`"

    def __init__(self, failure: str, *, hint: str | None = None) -> None:
        super().__init__(f"the run failed: {failure}", hint=hint)
        self.failure = failure


def _tree(root: type[MesateeError]) -> dict[str, type[MesateeError]]:
    found = {_snake(root.__name__): root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_dict(value: dict[str, Any]) -> MesateeError:
    """Rebuild an error that came over the wire; an unknown code becomes a `MesateeError`.

    >>> from_dict({"code": "not_approved", "message": "m", "hint": "h"})
    NotApproved('m')
    """
    message, hint = str(value.get("message", "")), str(value.get("hint", ""))
    kind = _tree(MesateeError).get(str(value.get("code")), MesateeError)
    if kind is TaskFailed:
        return TaskFailed(message.removeprefix("the run failed: "), hint=hint)
    return kind(message, hint=hint)


__all__ = [
    *sorted(
        name
        for name, value in list(globals().items())
        if isinstance(value, type) and issubclass(value, MesateeError)
    ),
    "from_dict",
]
