"""Fault points: where a test can kill this process (ADR 1, "Fault points").

`point` stands at each step of the life cycle. It does nothing unless the process was started with
``MESATEE_FAULT=name`` or ``MESATEE_FAULT=name:count``, when it kills its own process with SIGKILL, the
count-th time that it is passed. It can stop a process and nothing else: no check is weaker because of it,
and whoever sets a process's environment could kill it anyway.

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
_SPECIFICATION: Final = re.compile(r"(?P<name>[a-z0-9_.]+)(?::(?P<count>[1-9][0-9]{0,8}))?")

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "records.append.before": "the gateway has formed a batch; the host has not seen it",
        "records.append.sent": "the host has the whole batch; its answer has not been read",
        "records.append.after": "the host has acknowledged the batch; nobody was told",
        "statement_decided": "the gateway has accepted a party's statement; it is not in the log",
        "statement_logged": "a party's statement is durable; its effect has not begun and nobody was told",
        "ticket_made": "a run is durable and its ticket sealed; the queue does not have it",
        "grant_decided": "the gateway has decided to release the keys of a run; nothing is logged",
        "grant_logged": "the grant is durable; no key was wrapped, and the attempt counts",
        "key_released": "the keys are wrapped to the worker's attempt; the answer has not left",
        "receipt_decided": "the gateway has accepted a receipt; it is not in the log",
        "receipt_logged": "the receipt is durable; the worker was not told",
        "release_logged": "the release of a result is durable; its keys were not wrapped",
        "ticket_leased": "the worker holds a ticket; the gateway has not heard of it",
        "keys_received": "the worker holds the keys of an attempt; no input is open",
        "inputs_open": "the inputs are plaintext in the worker's memory; the function has not begun",
        "function_ran": "the function has ended; its outputs are not sealed",
        "outputs_stored": "the outputs are sealed and with the host; there is no receipt",
        "receipt_signed": "the worker has signed the receipt; the gateway does not have it",
        "receipt_accepted": "the gateway has the receipt; the ticket is still in the queue",
    }
)
"""Each fault point and what is the case there. A test compares it with the `point` calls in the source."""


class Fault(NamedTuple):
    """What `MESATEE_FAULT` asks for."""

    name: str
    hits: int


def parse(specification: str) -> Fault:
    """``name`` or ``name:count``.

    Raises `Malformed`, also for an undeclared name: a test with a typo must not pass.
    """
    match = _SPECIFICATION.fullmatch(specification)
    if match is None:
        raise Malformed(
            f"{VARIABLE} is name or name:count", hint=f"unset {VARIABLE}, or name a point of faults.POINTS"
        )
    if match["name"] not in POINTS:
        raise Malformed(
            f"{VARIABLE} names no fault point: {match['name']}", hint=f"known: {', '.join(sorted(POINTS))}"
        )
    return Fault(match["name"], int(match["count"] or 1))


class _Countdown:
    """Counts the hits of one point, over all threads."""

    def __init__(self, fault: Fault) -> None:
        self._name = fault.name
        self._left = fault.hits
        self._guard = threading.Lock()

    def hit(self, name: str) -> None:
        if name != self._name:
            return
        with self._guard:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


# Read once, when the process starts: what happens to its environment later changes nothing.
_armed: Final = _Countdown(parse(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None


def point(name: str) -> None:
    """Die here if this process was started to; `name` is a literal that `POINTS` declares."""
    if _armed is not None:
        _armed.hit(name)


__all__ = ["POINTS", "VARIABLE", "Fault", "parse", "point"]
