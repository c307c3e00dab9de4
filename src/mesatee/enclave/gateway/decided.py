"""What the monitor answers, and which of its refusals are logged."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import Denied, Malformed, StateError, TrustError
from ...protocol import limits, statements, wire
from ...protocol.protection import Enforced
from ...protocol.sources import OutputOf
from .peer import Peer
from .state import Grant, Held, Run, State

LOGGED = (Denied, TrustError, StateError, Malformed)
"""Refusals that become log entries; the rest says that the service could not decide."""


CODE = "code of the function"
"""The name under which a private function's key is released: no input can have it, for it has spaces."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A statement that is durably in the log."""

    digest: str
    index: int
    already: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The second permit's effect: a run's keys, wrapped to one attempt."""

    run: Run
    task: Held[statements.TaskStatement]
    function: Held[statements.FunctionStatement]
    grant: Grant
    wraps: dict[str, str]
    protection: Enforced | None
    noise: str | None
    """The seed of a private function's noise."""


def grant_reply(state: State, granted: Granted, peer: Peer) -> wire.GrantReply:
    """Everything that one attempt needs, and nothing more."""
    task, function, grant = granted.task.predicate, granted.function.predicate, granted.grant
    inputs = {}
    for name, digest in grant.inputs.items():
        source, warm = task.inputs[name], 0
        if isinstance(source, OutputOf):
            made = state.run(digest).outputs[source.output]
            blob, size, kind = made.sha256, made.size, made.format
        else:
            said = state.dataset(digest).predicate
            blob, size, kind = said.blob.sha256, said.blob.size, said.format
            warm = said.card.warm if said.card is not None else 0
        inputs[name] = wire.GrantedBlob(
            sha256=blob, size=size, format=kind, wrap=granted.wraps[name], warm=warm
        )
    code = None
    if function.code is not None:
        code = wire.GrantedBlob(
            sha256=function.code.sha256,
            size=function.code.size,
            format="bytes",
            wrap=granted.wraps.get(CODE),
        )
    formats = {port.name: port.format for port in function.outputs}
    defaults = {item.name: item.default for item in function.arguments if not item.required}
    return wire.GrantReply(
        run=granted.run.digest,
        task=granted.task.digest,
        function=granted.function.digest,
        environment=task.environment,
        fence=grant.fence,
        attempt=grant.attempt,
        lease_seconds=grant.lease,
        executor=function.executor,
        entry=function.entry,
        code=code,
        sources=dict(grant.inputs),
        inputs=inputs,
        worker=grant.worker,
        appraisal=peer.appraisal.as_dict() if peer.appraisal else {},
        endorsements=peer.endorsements.digest,
        arguments={**defaults, **task.arguments},
        outputs={name: formats.get(name, "bytes") for name in task.outputs},
        limits=task.limits,
        approvals=grant.approvals,
        policies=grant.policies,
        protection=granted.protection,
        noise=granted.noise,
    )


class Strangers:
    """Refusals of peers that are not registered: one in a while enters the log, with the number of the others."""

    def __init__(self) -> None:
        self._logged_at, self._others = -math.inf, 0

    def admit(self, now: float) -> int | None:
        """How many were refused since the last one that entered the log; None if this one does not enter it."""
        if now < self._logged_at + limits.STRANGER_DENIAL_SECONDS:
            self._others += 1
            return None
        others, self._others, self._logged_at = self._others, 0, now
        return others


__all__ = ["CODE", "LOGGED", "Accepted", "Granted", "Strangers", "grant_reply"]
