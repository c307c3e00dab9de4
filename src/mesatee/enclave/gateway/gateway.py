"""The gateway: assembles keys, log, monitor, listener and API, and keeps queue and log moving."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ..._core import (
    Listener,
    PeerCertificate,
    SecretKey,
    SigningKey,
    make_certificate,
    parse_certificate,
    spki,
)
from ...attestation.endorsements import Source, nothing
from ...attestation.evidence import Claims, decode
from ...attestation.trust import TrustPolicy
from ...attestation.verify import AppraisalCache, relevant
from ...channel.uvicorn_protocol import CONNECTION_AGE_SECONDS, AttestedServer
from ...errors import (
    Denied,
    ForkDetected,
    HostFailed,
    KeyRefused,
    LogCorrupt,
    Malformed,
    MesateeError,
    NotFound,
    Unavailable,
)
from ...protocol import envelope as dsse
from ...protocol import limits, records, statements, wire
from ...protocol.digests import sha256
from ...protocol.doors import Blobs, Queue, Records
from ...protocol.recovery import SUCCESSOR
from .. import faults
from ..platform.base import Attester
from . import api, snapshots, tenure
from .decided import grant_reply
from .forks import ForkProofs
from .identity import ServiceKeys
from .keyring import Keyring
from .log import Log, SnapshotRef
from .monitor import LEASE_SECONDS, Monitor
from .papers import Papers
from .peer import Peer
from .runs import ENDED
from .state import State
from .transfers import Downloads

LOGGER = logging.getLogger("mesatee.gateway")
T = TypeVar("T")
SWEEP_SECONDS = 1.0
"""How often runs without a live ticket are looked for."""
TICKET_AGAIN = 2 / 3
"""A run that still waits this part of a lease after its last ticket gets another: the queue may lose things."""
RELOAD_SECONDS = 10.0
"""How long a reader waits for the log to be read again after the host failed."""
COMPARE_REST = 3.0
"""Of the time of comparing the stored log with its snapshot, how many times as long is left to those who are served."""
CERTIFICATE_SECONDS = 7 * 86_400
"""Life of the gateway's channel certificate; its process makes a new one at each start."""
SWITCH_SECONDS = 0.001
"""How long the loop may keep the interpreter's lock while the log's writer waits for it. Python's own 5 ms, several
times in a commit, would leave everybody waiting for the log."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where to listen, and how long a worker holds a run without renewing."""

    host: str = "127.0.0.1"
    port: int = 0
    lease_seconds: int = LEASE_SECONDS


class Gateway:
    """One gateway process. `run` serves until `stop` is called."""

    def __init__(
        self,
        config: GatewayConfig,
        keys: ServiceKeys,
        attester: Attester,
        store: Records,
        queue: Queue,
        blobs: Blobs,
        forks: ForkProofs,
        clock: Callable[[], float] = time.time,
        endorsements: Source = nothing,
    ) -> None:
        self.config = config
        self._endorsements = endorsements
        self._forks = forks
        self.blobs = blobs
        self._queue = queue
        self._keys = keys
        self._attester = attester
        self._clock = clock
        self._snapshot_key: SecretKey = keys.snapshot
        self._countersign: SigningKey = keys.log
        service = statements.expect(keys.service.predicate, statements.ServiceStatement)
        self._worker_trust = TrustPolicy.from_toml(service.worker_trust)
        self._successor_trust = tenure.trust_of_successors(service, keys.service.digest)
        self._appraisals = AppraisalCache()
        self.log = Log(service.origin, store, keys.body, keys.log)
        self.downloads = Downloads()
        self.papers = Papers(self.log, blobs, keys.service)
        self._keyring = Keyring(keys)
        self._ticketed: dict[tuple[str, int], float] = {}
        self._broken: HostFailed | None = None
        self._snapshot_at = 0
        self._spent: list[str] = []
        self._stored: set[str] = set()
        self._changed = asyncio.Condition()
        self._stopping = asyncio.Event()
        self._ending = threading.Event()
        self._wake = asyncio.Event()
        self.port = 0
        self.shares: statements.Statement | None = None
        """The sealed shares, once the log has them; None for a service without, and while nobody is served."""
        self._channel_key = SigningKey.generate()
        claims = Claims.of_key(spki(self._channel_key.public), "gateway", service=keys.service.digest)
        self._extension = attester.evidence(claims)
        now = int(clock())
        self._certificate = make_certificate(
            self._channel_key, "mesatee gateway", now - 60, now + CERTIFICATE_SECONDS, self._extension
        )
        self.monitor = self._replay()

    @property
    def service_digest(self) -> str:
        """The digest of the service statement."""
        return self._keys.service.digest

    # -- start and recovery -----------------------------------------------------------------------

    def _replay(self) -> Monitor:
        state = State()

        def restore(ref: SnapshotRef) -> bytes:
            nonlocal state
            # Raises `NotFound` if the host has lost it.
            sealed = b"".join(self.blobs.get(ref.blob))
            leaves, dumped = snapshots.open_sealed(self._snapshot_key, ref, sealed)
            state = State.restore(dumped)
            return leaves

        def apply(index: int, record: records.LogRecord) -> None:
            tenure.check(self._keys.service, state, index, record)
            state.apply(index, record)

        try:
            self.log.load(apply, restore)
        except NotFound:
            # A snapshot only saves time: without it everything is opened and replayed.
            LOGGER.warning(json.dumps({"event": "snapshot_lost"}))
            state = State()
            self.log.load(apply, restore, from_snapshot=False)
        self._snapshot_at = state.size
        monitor = Monitor(
            self.log,
            state,
            self._keyring,
            self._keys.service,
            self._clock,
            time.monotonic,
            self._keep_proof,
            self.config.lease_seconds,
            self._keys.received,
        )
        self._compare_kept(monitor)
        return monitor

    def _compare_kept(self, monitor: Monitor) -> None:
        """A fork that was met before this start is still one, unless the host gives back the log that was signed."""
        for proof in self._forks.read():
            try:
                monitor.compare(proof)
            except ForkDetected as error:
                LOGGER.error(json.dumps({"event": "halted", "reason": error.message}))
            except MesateeError as error:
                raise LogCorrupt(
                    f"a kept proof of a fork is not a checkpoint of this log: {error.message}",
                    hint="a fork was met before: restore the folder of the service's keys as it was",
                ) from None

    def _keep_proof(self, note: str) -> None:
        try:
            self._forks.keep(note)
        except (OSError, LogCorrupt) as error:
            LOGGER.error(json.dumps({"event": "proof_not_kept", "reason": str(error)}))
            raise HostFailed("the folder of the service's keys cannot be written") from None

    async def run(self, ready: Callable[[int], None] | None = None) -> None:
        """Serve until stopped. `ready` gets the port."""
        sys.setswitchinterval(SWITCH_SECONDS)
        await asyncio.to_thread(self._store_public, self._certificate)
        await self._begin_epoch()
        listener = Listener(
            self.config.host,
            self.config.port,
            self._certificate,
            self._channel_key,
            self._appraise,
            self._refused,
        )
        self.port = listener.port
        # A peer that was appraised too long ago makes a new connection; see `current` for the time in between.
        age = min(CONNECTION_AGE_SECONDS, self._worker_trust.worker.max_age_seconds)
        server = AttestedServer(api.build(self), listener, self.knows, max_age_seconds=age)
        serving = asyncio.create_task(server.serve())
        sweeping = asyncio.create_task(self._sweep())
        comparing = asyncio.create_task(self._compare_stored())
        try:
            if ready:
                ready(self.port)
            stopped = asyncio.create_task(self._stopping.wait())
            tasks = {serving, sweeping, comparing, stopped}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in (serving, sweeping, comparing):
                if task.done() and not task.cancelled() and task.exception():
                    raise task.exception() or AssertionError
        finally:
            self._ending.set()
            sweeping.cancel()
            await server.shutdown()
            serving.cancel()
            comparing.cancel()
            with contextlib.suppress(asyncio.CancelledError, MesateeError):
                await asyncio.gather(serving, sweeping, comparing, return_exceptions=True)
            with contextlib.suppress(MesateeError):
                await self._snapshot()
            self.log.close()
            with contextlib.suppress(MesateeError):
                await self._discard()

    async def _begin_epoch(self) -> None:
        if self.monitor.ended:
            # It listens all the same: whoever asks is told why nobody is served.
            return
        self.log.begin(self.monitor.state.epoch + 1)
        await self.monitor.begin_epoch(
            self._attester.measurement or "none", self._attester.level, self._channel_key.public.hex()
        )
        self.shares = await self.monitor.shares()

    def stop(self) -> None:
        """Ask `run` to end. Call it on the loop's thread."""
        self._stopping.set()

    def _store_public(self, data: bytes) -> str:
        digest = sha256(data)
        if digest not in self._stored:
            self.blobs.put(digest, [data], len(data))
            self._stored.add(digest)
        return digest

    # -- the channel ------------------------------------------------------------------------------

    def _appraise(self, certificate: PeerCertificate) -> Peer:
        """Inside the handshake: a party is its key, a worker or gateway is what its evidence proves."""
        key = certificate.public.hex()
        if certificate.evidence is None:
            return Peer("party", key, certificate.der, None)
        # What it says it is decides by which policy it is judged; that it is so is then judged.
        claims = decode(certificate.evidence).claims
        role, vouched = claims.role, claims.extra.get(SUCCESSOR)
        trust = self._worker_trust if role == "worker" else self._successor_trust
        at = int(self._clock())
        # Cut to this machine's: receipt bundles carry them.
        endorsements = relevant(certificate.evidence, self._endorsements())
        appraisal = self._appraisals.appraise(
            certificate.evidence,
            certificate.spki,
            trust,
            at,
            role=role,
            endorsements=endorsements,
        )
        successor = vouched.hex() if isinstance(vouched, bytes) else None
        return Peer(role, key, certificate.der, appraisal, endorsements, successor)

    def current(self, peer: Peer) -> Peer:
        """The peer of a connection as it is to be seen now: an appraisal of age is made again before it counts.

        Raises what `appraise` raises: evidence that was good in the handshake may be so no more.
        """
        if peer.appraisal is None or int(self._clock()) < peer.appraisal.expires:
            return peer
        return self._appraise(parse_certificate(peer.certificate))

    def knows(self, peer: object) -> bool:
        """Whether a peer is appraised or registered: strangers must not take all places."""
        return isinstance(peer, Peer) and (peer.role != "party" or peer.key in self.monitor.state.parties)

    def _refused(self, address: str, reason: str) -> None:
        LOGGER.warning(json.dumps({"event": "handshake_refused", "address": address, "reason": reason}))

    def note_refusal(self, peer: Peer, route: str, error: MesateeError) -> None:
        """One line without values of the request."""
        line = {
            "event": "refused",
            "peer": peer.key[:16],
            "role": peer.role,
            "route": route,
            "code": error.code,
        }
        LOGGER.info(json.dumps(line))

    # -- what the API calls -----------------------------------------------------------------------

    def describe(self, peer: Peer) -> wire.ServiceReply:
        """Who this is, and where `peer` stands with it."""
        state = self.monitor.state
        status: Literal["ready", "halted", "host_failed"] = "ready"
        if self.monitor.ended:
            status = "halted"
        elif self._broken:
            status = "host_failed"
        return wire.ServiceReply(
            statement=self._keys.service.envelope.as_dict(),
            digest=self._keys.service.digest,
            checkpoint=self.monitor.checkpoint().note,
            epoch=state.epoch,
            epoch_index=state.epoch_index,
            status=status,
            fresh=state.fresh(peer.key),
            registered=peer.key in state.parties,
            version="1",
        )

    async def post(self, peer: Peer, envelope: dsse.Envelope) -> wire.Posted:
        """Take in a statement and do what follows from it."""
        predicate = statements.read(envelope)
        await self._blob_there(peer, envelope, predicate)
        accepted, statement = await self.monitor.submit(peer, envelope)
        result = None
        match predicate:
            case statements.RunStatement() if not accepted.already:
                if self.monitor.state.run(statement.digest) in self.monitor.waiting():
                    await self._enqueue(statement.digest)
            case statements.DatasetStatement():
                # It may be the newer one that a trigger waits for.
                self._wake.set()
            case statements.CollectStatement():
                wraps = await self.monitor.release(peer.key, predicate)
                result = wire.ResultReply(
                    wraps=wraps, bundle=await asyncio.to_thread(self.bundle, predicate.run)
                )
        await self._notify()
        return wire.Posted(
            digest=accepted.digest,
            index=accepted.index,
            already=accepted.already,
            checkpoint=self.monitor.checkpoint().note,
            result=result,
        )

    async def invoke(self, peer: Peer, run: dsse.Envelope, collect: dsse.Envelope, wait: int) -> wire.Invoked:
        """Run a task and release the result in one answer, if the run ends within `wait` seconds.

        Both statements are posted as they would be by themselves, the second one when the run has ended.
        """
        wanted = statements.read(collect, "collect")
        statements.read(run, "run")
        if not isinstance(wanted, statements.CollectStatement) or wanted.run != run.digest:
            raise Malformed("the collect statement is for another run than the run statement begins")
        posted = await self.post(peer, run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(lambda: self.monitor.state.run(run.digest).status in ENDED)
        found = self.monitor.state.run(run.digest)
        result, blobs = None, {}
        if found.status in ENDED and found.outputs:
            result = (await self.post(peer, collect)).result
            if result is not None:
                facts = [found.outputs[name] for name in result.wraps]
                blobs = await asyncio.to_thread(self.papers.small, facts)
        return wire.Invoked(
            posted=posted, status=found.status, failure=found.failure, result=result, blobs=blobs
        )

    async def _blob_there(self, peer: Peer, envelope: dsse.Envelope, predicate: statements.Predicate) -> None:
        ref: Any = None
        if isinstance(predicate, statements.DatasetStatement):
            ref = predicate.blob
        elif isinstance(predicate, statements.FunctionStatement):
            ref = predicate.code
        if ref is None:
            return
        # Only then does the sender learn whether a blob is there.
        if statements.verify(envelope).signer != peer.key:
            raise KeyRefused("the statement is signed by another party than the one that sends it")
        size = await asyncio.to_thread(self.blobs.size, ref.sha256)
        if size != ref.size:
            raise Denied(f"the stored blob has {size} bytes, the statement says {ref.size}")

    async def grant(
        self, peer: Peer, facts: statements.WorkerFacts, ticket: bytes, key: bytes
    ) -> wire.GrantReply:
        """Key release for one attempt."""
        environments = frozenset(peer.appraisal.environments.values()) if peer.appraisal else frozenset()
        await asyncio.to_thread(self._store_public, peer.certificate)
        await asyncio.to_thread(self._store_public, peer.endorsements.encode())
        granted = await self.monitor.grant(peer, facts, environments, ticket, key)
        await self._notify()
        return grant_reply(self.monitor.state, granted, peer)

    async def hand_over(self, peer: Peer, to: bytes) -> wire.HandOverReply:
        """Give the service's keys to a peer gateway; this one then serves nobody any more."""
        index, wraps = await self.monitor.hand_over(peer, to)
        LOGGER.warning(json.dumps({"event": "handed_over", "index": index, "successor": sha256(to)}))
        await self._notify()
        return wire.HandOverReply(index=index, service=self._keys.service.envelope.as_dict(), wraps=wraps)

    def renew(self, peer: Peer, fence: int) -> wire.RenewReply:
        """Whether an attempt goes on."""
        run = self.monitor.renew(peer, fence)
        return wire.RenewReply(status="running", lease_seconds=run.grant.lease if run.grant else 0)

    async def finish(self, peer: Peer, fence: int, envelope: dsse.Envelope, wraps: dict[str, str]) -> int:
        """Accept a receipt, for which a bundle can be made later."""
        self.monitor.holds(peer, fence)
        await asyncio.to_thread(self._kept, envelope)
        index = await self.monitor.finish(peer, fence, envelope, wraps, self._countersign)
        await self._notify()
        # Others may wait for an output of this run.
        self._wake.set()
        return index

    def _kept(self, envelope: dsse.Envelope) -> None:
        receipt = statements.expect(statements.read(envelope, "receipt"), statements.ReceiptStatement)
        for what, digest in (
            ("certificate of the gateway", receipt.appraisals.gateway_certificate),
            ("endorsements", receipt.appraisals.endorsements),
        ):
            if digest not in self._stored and self.blobs.size(digest) is None:
                raise Malformed(f"the receipt names {what} that this service does not have")

    def bundle(self, run: str) -> wire.Bundle:
        """Everything that an offline check of a run needs."""
        return self.papers.bundle(self.monitor.state, run, self.monitor.now())

    async def changed(self, task: str, after: int, wait: int) -> None:
        """Return when the log has grown beyond `after`, or after `wait` seconds."""

        async def grown() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: self.log.size > after)

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(grown(), wait)

    async def settled(self, answer: Callable[[], Awaitable[T]]) -> T:
        """An answer that shows nothing that may still be lost.

        1. All that was decided before it was asked for is durable.
        2. So is what was decided while it was made.
        3. If the host failed meanwhile, the answer is made anew from the log, once that was read again.

        Raises `HostFailed` if that takes too long, and what `answer` raises.
        """
        deadline = time.monotonic() + RELOAD_SECONDS
        while True:
            monitor = self.monitor
            try:
                await monitor.settled()
                found = await answer()
                await monitor.settled()
            except HostFailed:
                if self.log.failed is None and self.monitor is monitor:
                    raise
            else:
                return found
            while self.monitor is monitor:
                if time.monotonic() > deadline:
                    raise HostFailed("the log cannot be read again yet")
                await asyncio.sleep(SWEEP_SECONDS / 10)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # -- keeping things moving --------------------------------------------------------------------

    def host_failed(self, error: HostFailed) -> None:
        """The log may be ahead of what is durable: nothing more is decided until it has been read again."""
        if self.log.failed is not None:
            self._broken = error

    async def _enqueue(self, digest: str) -> None:
        run = self.monitor.state.run(digest)
        ticket = self.monitor.invoke(run, self.monitor.now())
        self._ticketed[digest, len(run.grants)] = time.monotonic()
        faults.point("ticket.made")
        try:
            await asyncio.to_thread(self._queue.put, ticket)
            faults.point("ticket.queued")
        except HostFailed as error:
            # The run is in the log; the sweep will make another ticket.
            LOGGER.warning(json.dumps({"event": "queue_failed", "reason": error.message}))

    async def _compare_stored(self) -> None:
        """What the last snapshot spared the start. `LogCorrupt` ends the service, as it would at a start."""
        while True:
            try:
                if count := await asyncio.to_thread(self.log.compare, self._ending, COMPARE_REST):
                    LOGGER.info(json.dumps({"event": "log_compared", "entries": count}))
            except Unavailable as error:
                # It goes on where it was. A host that withholds old entries for good shows it here.
                LOGGER.warning(json.dumps({"event": "log_not_compared", "reason": error.message}))
            await asyncio.sleep(RELOAD_SECONDS)

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), SWEEP_SECONDS)
            self._wake.clear()
            try:
                await self._tend()
            except HostFailed as error:
                self.host_failed(error)
            except MesateeError as error:
                # Without its message, which may name parties.
                LOGGER.warning(json.dumps({"event": "sweep_failed", "code": error.code}))

    async def _tend(self) -> None:
        if self._broken is not None or self.log.failed is not None:
            await self._reload()
        for trigger in self.monitor.due():
            await self.monitor.fire(trigger)
            await self._notify()
        if await self.monitor.close_hopeless():
            await self._notify()
        now = time.monotonic()
        patience = self.config.lease_seconds * TICKET_AGAIN
        for run in self.monitor.waiting():
            if run.status == "running" and len(run.grants) >= limits.ATTEMPTS:
                await self.monitor.close_lost(run)
                await self._notify()
            elif now - self._ticketed.get((run.digest, len(run.grants)), -1e9) > patience:
                await self._enqueue(run.digest)
        state = self.monitor.state
        self._ticketed = {key: at for key, at in self._ticketed.items() if key[0] in state.runs.open}
        if state.size - self._snapshot_at >= snapshots.distance(state.size):
            await self._snapshot()
        await self._discard()

    async def _reload(self) -> None:
        """After the host failed: forget what is not durable and read the log again, in a new epoch."""
        await asyncio.to_thread(self.log.close)
        halted = self.monitor.halted
        known = self.log.checkpoint(self.monitor.now()).note
        fresh = await asyncio.to_thread(self._replay)
        fresh.halted = fresh.halted or halted
        with contextlib.suppress(ForkDetected):
            # What was durable a moment ago has to be there still; if it is not, this halts for good.
            fresh.compare(known)
        self.monitor = fresh
        await self._begin_epoch()
        self._broken = None
        LOGGER.info(json.dumps({"event": "log_reloaded", "size": self.log.size}))

    async def _snapshot(self) -> None:
        """Seal the projection with the leaves that led to it; later heads name it."""
        state = self.monitor.state
        if self.log.failed is not None or state.size == self._snapshot_at or self.monitor.ended:
            return
        size = state.size
        sealed = snapshots.seal(self._snapshot_key, self.log.leaves(size), state.dump())
        blob = await asyncio.to_thread(self._store_public, sealed)
        faults.point("snapshot.stored")
        if self.log.snapshot is not None:
            self._spent.append(self.log.snapshot.blob)
        self.log.note_snapshot(SnapshotRef(size, blob))
        self._snapshot_at = size

    async def _discard(self) -> None:
        """Snapshots are of no use once a durable head names a newer one; each is as large as the whole state."""
        named = self.log.named
        if named is None or named != self.log.snapshot:
            return
        for blob in [blob for blob in self._spent if blob != named.blob]:
            await asyncio.to_thread(self.blobs.discard, blob)
            self._spent.remove(blob)
            self._stored.discard(blob)


__all__ = ["Gateway", "GatewayConfig"]
