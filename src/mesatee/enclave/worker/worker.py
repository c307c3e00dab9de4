"""The worker's loop: lease, prove, run, hand in, forget."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from ..._core import HpkeKey
from ...errors import (
    Conflict,
    Denied,
    EnvironmentCorrupt,
    EvidenceRefused,
    HostFailed,
    InputError,
    LevelTooLow,
    MesateeError,
    NotFound,
    SandboxFailed,
    TimedOut,
    Unavailable,
)
from ...protocol import wire
from ...protocol.doors import Blobs, Lease, Queue
from ...protocol.envelope import Envelope
from .. import faults
from ..platform.environments import Environments
from ..sandbox.supervisor import Supervisor
from .client import GatewayClient
from .run import Attempt

LOGGER = logging.getLogger("mesatee.worker")
QUEUE_LEASE_SECONDS = 20.0
"""If the launcher says nothing else: a ticket that a worker drops silently comes back to the queue after this time."""
WAIT_SECONDS = 5.0
"""How long one request to the queue waits for a ticket."""
RETRY_SECONDS = 1.0
"""Pause after the host or the gateway failed."""
DROP = (Conflict, Denied, NotFound, InputError)
"""Answers after which a ticket is worth nothing: the run has ended, or the ticket is not the gateway's."""

OUR_OWN = (HostFailed, TimedOut, SandboxFailed, EnvironmentCorrupt, EvidenceRefused, LevelTooLow)
"""What this machine and the channel have to say, in the log with its reason."""


class Worker:
    """Runs one task at a time. `run` returns after `stop`."""

    def __init__(
        self,
        client: GatewayClient,
        queue: Queue,
        blobs: Blobs,
        supervisor: Supervisor,
        environments: Environments,
        queue_lease_seconds: float = QUEUE_LEASE_SECONDS,
    ) -> None:
        self._client = client
        self._queue = queue
        self._blobs = blobs
        self._supervisor = supervisor
        self._environments = environments
        self._queue_lease_seconds = queue_lease_seconds
        self._stop = threading.Event()

    def stop(self) -> None:
        """End after cancelling what runs. Safe from a signal handler's thread."""
        self._stop.set()
        self._supervisor.cancel()

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until stopped. Raises `TrustError` at once if gateway and worker do not accept each other."""
        try:
            self._client.service()
        except (Unavailable, TimedOut) as error:
            # The gateway may come later.
            _note("no_gateway_yet", error)
        if ready:
            ready()
        # Warming the sandbox takes a second or two; nobody has to wait for it who only wants to post a task.
        self._supervisor.start()
        while not self._stop.is_set():
            try:
                lease = self._queue.lease(self._queue_lease_seconds, WAIT_SECONDS)
                if lease is not None:
                    self._serve(lease)
            except MesateeError as error:
                _note("failed", error)
                self._stop.wait(RETRY_SECONDS)

    def _serve(self, lease: Lease) -> None:
        faults.point("ticket.leased")
        self._client.refresh()
        key = HpkeKey.generate()
        try:
            service = self._client.service()
            grant = self._client.attempt(lease.ticket, key.public)
        except (EvidenceRefused, LevelTooLow, Unavailable, TimedOut) as error:
            # Another worker, or this one later, may be accepted: the ticket goes back by itself.
            _note("not_granted", error)
            self._stop.wait(RETRY_SECONDS)
            return
        except DROP as error:
            _note("dropped", error)
            self._queue.ack(lease.id)
            return
        faults.point("keys.received")
        self._attempt(service, grant, key)
        self._queue.ack(lease.id)
        faults.point("ticket.done")

    def _attempt(self, service: wire.ServiceReply, grant: wire.GrantReply, key: HpkeKey) -> None:
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(grant, over), name="keep-lease", daemon=True)
        keeper.start()
        try:
            client = self._client
            # Before any input is opened: every file of it is read, so that what runs is what the task names.
            environment = self._environments.use(grant.environment)
            attempt = Attempt(
                service, grant, key, client.key, client.evidence, client.seen(), self._blobs, environment
            )
            finished = attempt.run(self._supervisor, grant.worker)
            # Before anybody gets the account of it.
            self._environments.confirm()
            faults.point("receipt.signed")
            self._hand_in(grant, finished.receipt, finished.wraps)
        except (Conflict, SandboxFailed, EnvironmentCorrupt, NotFound) as error:
            # Either the run was stopped, or this machine cannot isolate it, or it has not the environment any more: the
            # lease lapses and another may try.
            _note("attempt_ended", error)
        finally:
            over.set()
            keeper.join()

    def _hand_in(self, grant: wire.GrantReply, receipt: Envelope, wraps: dict[str, str]) -> None:
        while not self._stop.is_set():
            try:
                self._client.finish(grant.fence, receipt, wraps)
                faults.point("receipt.accepted")
                return
            except Unavailable as error:
                # The same receipt may be handed in again: the gateway takes one a run.
                _note("hand_in_failed", error)
                self._stop.wait(RETRY_SECONDS)

    def _keep(self, grant: wire.GrantReply, over: threading.Event) -> None:
        while not over.wait(min(grant.lease_seconds / 4, 1.0)):
            try:
                self._client.renew(grant.fence)
            except (Conflict, NotFound) as error:
                _note("stopped", error)
                self._supervisor.cancel()
                return
            except MesateeError as error:
                _note("renew_failed", error)


def _note(event: str, error: MesateeError) -> None:
    """One line for the operator. Refusals by the gateway name parties and say what they agreed to: no word of those."""
    line = {"event": event, "code": error.code}
    if isinstance(error, OUR_OWN):
        line["reason"] = error.message
    LOGGER.warning(json.dumps(line))


__all__ = ["Worker"]
