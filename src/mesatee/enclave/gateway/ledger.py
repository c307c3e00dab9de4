"""The log as the monitor keeps it: log time, what may be told of, epochs, denials, and the halt after a fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

from ...errors import Denied, ForkDetected, Halted, HostFailed, MesateeError, Unavailable
from ...protocol import checkpoint as cp
from ...protocol import limits, records, statements
from ...protocol.digests import sha256
from .. import faults
from . import tenure
from .decided import Strangers
from .log import Log
from .peer import Peer
from .permit import Action, Mint
from .state import State
from .tenure import Received, Tenure
from .waiters import Waiters


class Ledger:
    """Appends what was decided, and says what is durable. For one event loop."""

    def __init__(
        self,
        log: Log,
        state: State,
        service: statements.Statement,
        clock: Callable[[], float],
        steady: Callable[[], float],
        keep_proof: Callable[[str], None],
        received: Received | None,
    ) -> None:
        """`keep_proof` keeps a checkpoint that every later log has to extend, durably, or raises `HostFailed`."""
        self._log = log
        self._keep_proof = keep_proof
        self._mint = Mint()
        self._clock = clock
        self._steady = steady
        self._said = statements.expect(service.predicate, statements.ServiceStatement)
        self._received = received
        self._newest: Future[int] | None = None
        self._waiters = Waiters[int]()
        self._strangers = Strangers()
        self.service = service
        self.state = state
        self.halted: str | None = None

    def now(self) -> int:
        """Log time in seconds: never decreases, and not below what parties have signed."""
        return max(self.state.time, self.state.floor, int(self._clock()))

    def _source(self, now: int) -> Literal["host", "parties"]:
        return "parties" if now - self.state.floor <= limits.CLOCK_SKEW_SECONDS else "host"

    def checkpoint(self) -> cp.Checkpoint:
        """The durable head with the present log time."""
        self.serving()
        return self._log.checkpoint(self.now())

    def serving(self) -> None:
        """Raises `Halted` after a fork was detected: then nobody is served, not even metadata."""
        if self.ended:
            raise Halted(f"the gateway has stopped: {self.ended}")

    @property
    def ended(self) -> str | None:
        """Why this gateway decides nothing: a fork was detected, or another one holds the keys."""
        if self.halted is None and tenure.tenure(self.state, self._received) is Tenure.PASSED:
            return "the service's keys were handed over, and another gateway continues its log"
        return self.halted

    def _append(self, record: records.LogRecord) -> asyncio.Future[int]:
        self.serving()
        permit = self._mint.permit(Action.APPEND, sha256(record.to_bytes()), self._log.next_index)
        index = self._log.next_index
        done = self._newest = self._log.append(permit, record)
        self.state.apply(index, record)
        return self._waiters.wait(done)

    async def _durable(self, index: int) -> None:
        """Wait for the entry at `index`: of what may still be lost nobody is told. Raises `HostFailed`."""
        if index >= self._log.size and self._newest is not None:
            await self._waiters.wait(self._newest)

    async def settled(self) -> None:
        """Wait until all that was decided so far is durable: only then may anybody be told of the state.

        Raises `HostFailed` when it will not be: then the state is one that never was. Only the beginning of an epoch
        may be missing: it makes nobody fresh, and apart from it the state is the durable one.
        """
        try:
            await self._durable(self.state.size - 1)
        except HostFailed:
            if self.state.epoch_index < self._log.size or self.state.size > self._log.size + 1:
                raise

    def _log_outcome(self, outcome: records.Outcome) -> asyncio.Future[int]:
        now = self.now()
        return self._append(records.of_outcome(outcome, now, self._source(now)))

    async def _before_effect(self, outcome: records.Outcome) -> int:
        """The log index of an outcome whose effect may follow now.

        Raises `Halted` if a fork was proven while it was committed: then nothing leaves any more.
        """
        index = await self._log_outcome(outcome)
        if self.halted:
            raise Halted(f"the gateway has stopped: {self.halted}")
        return index

    async def begin_epoch(self, measurement: str, level: int, channel_key: str) -> None:
        """Take up the log: until owners have shown themselves, no key and no result leaves.

        Raises `Denied` if the keys came from share holders otherwise than service statement and log allow.
        """
        if self._received and tenure.tenure(self.state, self._received) is Tenure.TAKES_UP:
            try:
                outcome = tenure.recovered(self._said, self.state, self._received)
            except Denied as error:
                # Nobody is served on a log that is not this gateway's to take up.
                self.halted = error.message
                raise
            await self._log_outcome(outcome)
        begun = records.EpochOutcome(
            number=self.state.epoch + 1,
            nonce=os.urandom(32).hex(),
            measurement=measurement,
            level=level,
            channel_key=channel_key,
        )
        await self._log_outcome(begun)
        faults.point("epoch.logged")

    async def denied(self, peer: Peer, action: str, subject: str, error: MesateeError) -> None:
        """Log a refusal. The caller then raises `error`."""
        if self.ended or isinstance(error, (Unavailable, Halted)):
            return
        stranger = peer.role == "party" and peer.key not in self.state.parties
        others = self._strangers.admit(self._steady()) if stranger else 0
        if others is None:
            return
        outcome = records.DeniedOutcome(
            by=peer.key, action=action[:64], subject=subject[:64], code=error.code, others=others
        )
        await self._log_outcome(outcome)
        faults.point("denial.logged")

    def compare(self, note: str) -> None:
        """Stop for good if this log does not extend a checkpoint that its own key has signed.

        The proof is kept first, so that a gateway that starts anew on this log does not serve either.
        Raises `SignatureInvalid`, `Malformed`, or `ForkDetected`.
        """
        seen = cp.verify(note, self._log.origin, self._log.public)
        if self._log.extends(seen):
            return
        # Only this log's key can have signed it, so this log is not the one that it was: rolled back or forked.
        self.halted = (
            f"a party holds a signed checkpoint of {seen.size} entries (epoch {seen.epoch}) that this log of "
            f"{self._log.next_index} entries does not extend: it was rolled back or forked"
        )
        # This process stops in any case; what may be lost is only that the next one knows it at once.
        with contextlib.suppress(HostFailed):
            self._keep_proof(note)
        raise ForkDetected(self.halted)


__all__ = ["Ledger"]
