"""Fault points: where a test can stop this process (ADR 1, "Fault points").

`point` stands at each step of the life cycle. It does nothing unless the process was started with
``MESATEE_FAULT=name`` or ``MESATEE_FAULT=name:count``, when it kills its own process with SIGKILL, the
count-th time that it is passed; with ``:pause`` behind, it stops its process with SIGSTOP instead, so that
a test can kill *another* process of the service at exactly this step and then let this one go on. It can
stop a process and nothing else: no check is weaker because of it, and whoever sets a process's environment
could stop it anyway.

>>> point("records.append.before")
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from mesatee.errors import Malformed

VARIABLE: Final = "MESATEE_FAULT"
_SPECIFICATION: Final = re.compile(r"(?P<name>[a-z0-9_.]+)(?::(?P<count>[1-9][0-9]{0,8}))?(?P<pause>:pause)?")

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "records.append.before": "the gateway has formed a batch; the host has not seen it",
        "records.append.sent": "the host has the whole batch; its answer has not been read",
        "records.append.after": "the host has acknowledged the batch; nobody was told",
        "epoch.logged": "gateway: the epoch is in the log; nobody can connect yet",
        "statement.decided": "gateway: a statement may enter the log and is not there",
        "statement.logged": "gateway: a statement is durably in the log; its party was not told",
        "denial.logged": "gateway: a refusal is in the log; the caller was not told",
        "ticket.made": "gateway: a run is in the log; the queue has no ticket for it",
        "ticket.queued": "gateway: the ticket is in the queue; the run's author was not told",
        "trigger.decided": "gateway: a trigger is due and its run may begin; the log does not say so",
        "trigger.logged": "gateway: the trigger's run is in the log; the queue has no ticket for it",
        "grant.decided": "gateway: a worker may have the keys of a run; the log does not say so",
        "grant.logged": "gateway: the grant is in the log; no key is wrapped",
        "grant.wrapped": "gateway: the keys are wrapped to the attempt; the worker has not got them",
        "receipt.decided": "gateway: a receipt is good; the log does not have it",
        "receipt.logged": "gateway: the receipt is in the log; the worker was not told",
        "closed.logged": "gateway: the end of a run without a receipt is in the log",
        "release.logged": "gateway: result release is in the log; no output key is wrapped",
        "release.wrapped": "gateway: the output keys are wrapped to a receiver, who has not got them",
        "handover.decided": "gateway: a successor may have the service's keys; the log does not say so",
        "handover.logged": "gateway: the hand-over is in the log; no key is wrapped",
        "handover.wrapped": "gateway: the keys are wrapped to the successor, who has not got them",
        "succession.opened": "successor: it holds the keys, from a gateway or from shares; nothing is kept here",
        "succession.prepared": "successor: all files beside the sealed keys are here; without those nothing counts",
        "succession.sealed": "successor: the sealed keys are here, with the statement; its copy for others is not",
        "succession.adopted": "successor: the service is here; nobody was told",
        "snapshot.stored": "gateway: a snapshot is stored; no head of the log names it",
        "ticket.leased": "worker: it holds a ticket and has told nobody",
        "keys.received": "worker: it holds a run's keys and has opened nothing",
        "inputs.opened": "worker: the inputs are plaintext in its memory; no child has them",
        "function.ran": "worker: the function has ended; its outputs are not sealed",
        "outputs.stored": "worker: the sealed outputs are stored; there is no receipt",
        "receipt.signed": "worker: the receipt is signed; the gateway has not got it",
        "receipt.accepted": "worker: the gateway has the receipt; the ticket is still in the queue",
        "ticket.done": "worker: the ticket is gone from the queue",
    }
)
"""Each fault point and what is the case there. A test compares it with the `point` calls in the source."""


class Fault(NamedTuple):
    """What `MESATEE_FAULT` asks for."""

    name: str
    hits: int
    pause: bool = False


def parse(specification: str) -> Fault:
    """``name``, ``name:count`` or either with ``:pause``.

    Raises `Malformed`, also for an undeclared name: a test with a typo must not pass.
    """
    match = _SPECIFICATION.fullmatch(specification)
    if match is None:
        raise Malformed(
            f"{VARIABLE} is name, name:count or either with :pause",
            hint=f"unset {VARIABLE}, or name a point of faults.POINTS",
        )
    if match["name"] not in POINTS:
        raise Malformed(
            f"{VARIABLE} names no fault point: {match['name']}", hint=f"known: {', '.join(sorted(POINTS))}"
        )
    return Fault(match["name"], int(match["count"] or 1), match["pause"] is not None)


class _Countdown:
    """Counts the hits of one point, over all threads."""

    def __init__(self, fault: Fault) -> None:
        self._name = fault.name
        self._left = fault.hits
        self._signal = signal.SIGSTOP if fault.pause else signal.SIGKILL
        self._guard = threading.Lock()

    def hit(self, name: str) -> None:
        if name != self._name:
            return
        with self._guard:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


# Read once, when the process starts: what happens to its environment later changes nothing.
_armed: Final = _Countdown(parse(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None


def point(name: str) -> None:
    """Die or stop here if this process was started to; `name` is a literal that `POINTS` declares."""
    if _armed is not None:
        _armed.hit(name)


__all__ = ["POINTS", "VARIABLE", "Fault", "parse", "point"]
