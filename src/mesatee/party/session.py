"""A party's session with a gateway: who it is, that its log was not rolled back, and signed statements to it.

>>> import inspect
>>> inspect.iscoroutinefunction(AsyncSession.post), inspect.iscoroutinefunction(Session.post)
(True, False)
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Concatenate, Final, ParamSpec, TypeVar

from .. import channel
from ..attestation.appraisal import Appraisal
from ..attestation.endorsements import Source, nothing
from ..attestation.trust import TrustPolicy
from ..attestation.verify import AppraisalCache
from ..errors import (
    EvidenceRefused,
    ForkDetected,
    Halted,
    KeyRefused,
    LogCorrupt,
    Malformed,
    MesateeError,
    StateError,
)
from ..protocol import checkpoint as cp
from ..protocol import envelope as dsse
from ..protocol import statements, wire
from ..protocol.author import Author
from ..protocol.jsonstrict import canonical
from ..protocol.model import Model, validate
from ..protocol.records import LogRecord, RecordProof
from . import names
from .config import endpoint
from .http import TIMEOUT_SECONDS, Http, Progress
from .identity import Identity
from .memory import CheckpointMemory
from .service import Service, check_service
from .track import LogTracker, check_record

M = TypeVar("M", bound=Model)
C = TypeVar("C", bound=statements.Common)
P = ParamSpec("P")
R = TypeVar("R")

RECORD_TRIES: Final = 8
"""How often a record and a checkpoint of the same size are asked for, while others append."""


@dataclass(frozen=True, slots=True)
class Party:
    """A registered party whose own signature over its keys is verified."""

    id: str
    keys: statements.PartyKeys
    index: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Posted:
    """A statement that is in the log, together with the gateway's answer."""

    statement: statements.Statement
    digest: str
    index: int
    result: wire.ResultReply | None


class Session:
    """One identity at one gateway.

    Use it in a ``with`` block; its methods may be called from several threads.
    """

    def __init__(
        self,
        url: str,
        identity: Identity,
        trust: TrustPolicy,
        *,
        clock: Callable[[], float] = time.time,
        timeout: float = TIMEOUT_SECONDS,
        register: bool = True,
        endorsements: Source = nothing,
    ) -> None:
        """`timeout` in seconds is for each step of a request. Without `register` the session only looks.
        `endorsements` is asked at each appraisal for what others say of machines.

        Raises `Malformed` for a URL that is none; connects in `__enter__`.
        """
        self.identity = identity
        self.trust = trust
        self.endorsements = endorsements
        self._endpoint = endpoint(url)
        self._clock = clock
        self._register = register
        self._appraisals = AppraisalCache()
        self._appraisal: Appraisal | None = None
        self._service: Service | None = None
        self._tracker: LogTracker | None = None
        self._reply: wire.ServiceReply | None = None
        self._lock = threading.RLock()
        transport = channel.AttestedTransport(
            self._endpoint.host,
            self._endpoint.port,
            identity.certificate(self.now()),
            identity.signing,
            self._appraise,
            max_age_seconds=min(channel.CONNECTION_AGE_SECONDS, trust.gateway.max_age_seconds),
        )
        self._http = Http(transport, timeout)

    # -- connecting -------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        try:
            self.connect()
        except BaseException:
            # Whatever stopped us, no connection stays behind.
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def now(self) -> int:
        """This machine's time in Unix seconds."""
        return int(self._clock())

    def _appraise(self, peer: channel.PeerCertificate) -> Appraisal:
        """Inside each handshake: the gateway is appraised, and serves the same service as at first."""
        found = self._appraisals.appraise(
            peer.evidence, peer.spki, self.trust, self.now(), "gateway", self.endorsements()
        )
        if found.service is None:
            raise EvidenceRefused("the gateway's evidence names no service statement")
        if self._appraisal is not None and found.service != self._appraisal.service:
            raise EvidenceRefused("the gateway serves another service statement than when the session began")
        self._appraisal = found
        return found

    def connect(self) -> None:
        """Establish trust, then presence.

        1. The handshake appraises the gateway; nothing is sent before.
        2. The service statement is signed by its log key, is what the evidence vouches for, and what the
        trust
           policy pins.
        3. The checkpoint is signed, in time, and extends the newest one that this identity has verified.
        4. The party is registered, and has said in this epoch which checkpoint it verified.

        Raises `TrustError`s and `Expired`; on `ForkDetected` the gateway is shown the checkpoint that
        convicts it.
        """
        with self._lock:
            # 1. and 2. Evidence and service.
            reply = self.get("/service", wire.ServiceReply)
            service = check_service(reply.statement, self.trust)
            if service.digest != reply.digest or service.digest != self.appraisal.service:
                raise KeyRefused(
                    "the service statement is not the one that the gateway's evidence vouches for"
                )
            self._service, self._reply = service, reply
            # 3. Checkpoint.
            memory = CheckpointMemory(self.identity.folder, service.said.origin)
            self._tracker = LogTracker(service.said.origin, service.log_key, memory, self._consistency)
            self._observe(reply.checkpoint)
            if reply.status == "halted":
                raise Halted("the gateway has stopped: it found that its log was rolled back or forked")
            # 4. Presence.
            if self._register and not reply.registered:
                self.post(statements.PartyStatement, keys=self.identity.keys())
            elif self._register and not reply.fresh:
                self.post(statements.PresenceStatement)

    def _consistency(self, first: int, second: int) -> Sequence[bytes]:
        reply = self.get("/log/consistency", wire.ProofReply, {"first": first, "second": second})
        if (reply.first, reply.second) != (first, second):
            raise Malformed("the consistency proof is for other sizes than were asked for")
        return [bytes.fromhex(item) for item in reply.path]

    def _observe(self, note: str) -> cp.Checkpoint:
        tracker = self._following()
        try:
            return tracker.observe(note, self.now())
        except ForkDetected:
            self._convict(tracker)
            raise

    def _convict(self, tracker: LogTracker) -> None:
        """Show the gateway its own signature on a log that it no longer has, so that it stops serving
        everybody.
        """
        if tracker.newest is None or self._service is None:
            return
        statement = self._author(tracker.newest.note).write(statements.PresenceStatement)
        # Whatever it answers, this session is over; the fork that we found is what the caller must hear of.
        with contextlib.suppress(MesateeError):
            self._http.post(f"{wire.API}/statements", statement.envelope.to_bytes(), again=False)

    # -- what was established ---------------------------------------------------------------------

    def _following(self) -> LogTracker:
        if self._tracker is None:
            raise StateError("the session is not connected", hint="use it in a `with` block")
        return self._tracker

    @property
    def appraisal(self) -> Appraisal:
        """The gateway's newest appraisal. Raises `StateError` before `connect`."""
        if self._appraisal is None:
            raise StateError("the session is not connected", hint="use it in a `with` block")
        return self._appraisal

    @property
    def service(self) -> Service:
        """The verified service statement. Raises `StateError` before `connect`."""
        if self._service is None:
            raise StateError("the session is not connected", hint="use it in a `with` block")
        return self._service

    @property
    def hello(self) -> wire.ServiceReply:
        """What the gateway said of itself at the start. Raises `StateError` before `connect`."""
        if self._reply is None:
            raise StateError("the session is not connected", hint="use it in a `with` block")
        return self._reply

    @property
    def checkpoint(self) -> cp.Checkpoint:
        """The newest verified checkpoint. Raises `StateError` before `connect`."""
        newest = self._following().newest
        if newest is None:
            raise StateError("the session has no checkpoint yet")
        return newest

    def refresh(self) -> cp.Checkpoint:
        """Fetch and verify the newest checkpoint."""
        # The lock is held from asking on: what another thread verifies meanwhile would be newer than this answer, and
        # an older head after a newer one is a fork.
        with self._lock:
            answer = self._http.get_bytes(f"{wire.API}/log/checkpoint")
            if answer.status != 200:
                raise Malformed(f"the gateway answered with status {answer.status} instead of a checkpoint")
            try:
                note = answer.body.decode()
            except UnicodeDecodeError:
                raise Malformed("the checkpoint is not UTF-8") from None
            return self._observe(note)

    # -- statements -------------------------------------------------------------------------------

    def _author(self, note: str) -> Author:
        said = self.service
        return Author(
            signer=self.identity.signing,
            origin=said.said.origin,
            service=said.digest,
            checkpoint=note,
            time=self.now(),
            nonce=lambda: secrets.token_hex(16),
        )

    def post(self, kind: type[C], /, **fields: Any) -> Posted:
        """Sign a statement over the newest verified checkpoint, post it, and verify the checkpoint that
        answers.

        If the connection breaks, the same bytes are posted once more: the gateway counts a statement once.
        Raises what the gateway says, e.g. `NotApproved`, and what verification finds.
        """
        with self._lock:
            statement = self._author(self.checkpoint.note).write(kind, **fields)
            # A request for results is answered once: after a broken connection the caller makes a new one.
            reply = self.post_envelope(statement.envelope, again=kind is not statements.CollectStatement)
            return Posted(statement, reply.digest, reply.index, reply.result)

    def post_envelope(self, envelope: dsse.Envelope, *, again: bool = False) -> wire.Posted:
        """Post a signed envelope as it is, `again` if the connection breaks; verify the checkpoint that
        answers.
        """
        with self._lock:
            answer = self._http.post(f"{wire.API}/statements", envelope.to_bytes(), again=again)
            reply = validate(wire.Posted, answer, "answer")
            self._check_posted(envelope, reply)
            return reply

    def invoke(self, task: str, wait: int) -> tuple[Posted, wire.Invoked]:
        """Run a task, wait up to `wait` seconds for its end, and take the result in the same answer.

        The two statements are signed together; the second one names the run that the first one begins. Nothing else
        is done by this session meanwhile. Raises as `post`.
        """
        with self._lock:
            author = self._author(self.checkpoint.note)
            run = author.write(statements.RunStatement, task=task)
            collect = author.write(statements.CollectStatement, run=run.digest)
            body = {"run": run.envelope.as_dict(), "collect": collect.envelope.as_dict(), "wait": wait}
            answer = self._http.post(f"{wire.API}/invoke", canonical(body), again=False, wait=wait)
            reply = validate(wire.Invoked, answer, "answer")
            self._check_posted(run.envelope, reply.posted)
            return Posted(run, reply.posted.digest, reply.posted.index, reply.result), reply

    def _check_posted(self, envelope: dsse.Envelope, reply: wire.Posted) -> None:
        if reply.digest != envelope.digest:
            raise Malformed("the gateway answered for another statement")
        covered = self._observe(reply.checkpoint)
        if reply.index >= covered.size:
            raise LogCorrupt("the gateway answered before the statement was in the log")

    # -- reading ----------------------------------------------------------------------------------

    def get(self, path: str, model: type[M], params: Mapping[str, int] | None = None, wait: float = 0.0) -> M:
        """One validated answer."""
        return validate(model, self._http.get(wire.API + path, params, wait), "answer")

    def _list(self, path: str, model: type[M]) -> list[M]:
        found: list[M] = []
        after: int | None = 0
        while after is not None:
            reply = self.get(path, wire.ListReply, {"after": after})
            found += [validate(model, item, "answer") for item in reply.items]
            if reply.after is not None and reply.after <= after:
                raise Malformed("the gateway's list does not come to an end")
            after = reply.after
        return found

    def parties(self) -> list[Party]:
        """All registered parties. Each one's statement is verified: its signature, and that it is about these
        keys.

        Raises `SignatureInvalid`, `KeyRefused` or `Malformed`.
        """
        return [self._party(view) for view in self._list("/parties", wire.PartyView)]

    def _party(self, view: wire.PartyView) -> Party:
        statement = statements.verify(dsse.from_dict(view.statement), "party")
        said = statement.predicate
        if (
            not isinstance(said, statements.PartyStatement)
            or statement.signer != view.id
            or said.keys.name != view.name
        ):
            raise KeyRefused(f"the statement of party {view.id[:16]} is not about that party")
        if said.origin != self.service.said.origin:
            raise KeyRefused(f"the statement of party {view.id[:16]} is for another log")
        return Party(view.id, said.keys, view.index, view.fresh)

    def party(self, wanted: str) -> Party:
        """By name, id or unique prefix. Raises `NotFound` or `Conflict`."""
        return names.find(self.parties(), wanted, "party", lambda item: item.id, lambda item: item.keys.name)

    def datasets(self) -> list[wire.DatasetView]:
        """All datasets, in log order."""
        return self._list("/datasets", wire.DatasetView)

    def functions(self) -> list[wire.FunctionView]:
        """All functions that this party may see, in log order."""
        return self._list("/functions", wire.FunctionView)

    def tasks(self) -> list[wire.TaskView]:
        """The tasks that concern this party, in log order."""
        return self._list("/tasks", wire.TaskView)

    def task(self, digest: str, after: int = 0, wait: int = 0) -> wire.TaskView:
        """One task; with `wait` (seconds) the answer may take that long, until the log is longer than
        `after`.
        """
        params = {"after": after, "wait": wait} if wait else None
        view = self.get(f"/tasks/{digest}", wire.TaskView, params, wait)
        if view.digest != digest:
            raise Malformed("the gateway answered with another task")
        return view

    def record(self, index: int) -> LogRecord:
        """A log record with its inclusion proof verified against a verified checkpoint.

        Raises `NotFound` for what does not concern this party, `LogCorrupt`, and what `refresh` raises.
        """
        held = self.checkpoint
        for _ in range(RECORD_TRIES):
            if index >= held.size:
                held = self.refresh()
            # Proven in the tree that was verified, or a busy log would always be ahead of its proofs.
            proof = self.get(f"/log/entry/{index}", RecordProof, {"size": max(held.size, index + 1)})
            if proof.index != index:
                raise LogCorrupt("the gateway answered with another log entry")
            if held.size != proof.size:
                held = self.refresh()
            if held.size == proof.size:
                return check_record(proof, held)
        raise LogCorrupt("the log grows faster than its proofs can be read", hint="try again")

    def statement(self, index: int, kind: str, digest: str) -> statements.Statement:
        """The statement in a log record, verified: it is of this kind, has this digest, and its signature
        holds.
        """
        found = statements.verify(self.record(index).statement(), kind)
        if found.digest != digest:
            raise LogCorrupt(f"log entry {index} holds another {kind} than the gateway says")
        return found

    # -- blobs ------------------------------------------------------------------------------------

    def upload(self, digest: str, source: BinaryIO, size: int, progress: Progress | None = None) -> None:
        """Store a sealed file under its digest."""
        self._http.put_blob(digest, source, size, progress)

    def download(
        self, digest: str, write: Callable[[bytes], object], limit: int, progress: Progress | None = None
    ) -> int:
        """Stream a stored file into `write`; returns its size. The caller checks the digest."""
        return self._http.get_blob(digest, write, limit, progress)


class AsyncSession:
    """The methods of `Session` as coroutines. Backed by threads: the channel and the log are followed by one
    `Session`.

    `call` runs any function of this package that takes a session first, e.g. ``await
    session.call(tasks.approve, ...)``.
    """

    def __init__(self, url: str, identity: Identity, trust: TrustPolicy, **options: Any) -> None:
        """As `Session`."""
        self._session = Session(url, identity, trust, **options)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="mesatee-session")

    async def call(
        self, function: Callable[Concatenate[Session, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run `function(session, ...)` on a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(self._session, *args, **kwargs))

    async def __aenter__(self) -> AsyncSession:
        try:
            await self.call(Session.connect)
        except BaseException:
            # Whatever stopped us, no connection stays behind.
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        self._session.close()
        self._threads.shutdown(wait=False)

    async def post(self, kind: type[C], /, **fields: Any) -> Posted:
        """As `Session.post`."""
        return await self.call(lambda session: session.post(kind, **fields))

    async def parties(self) -> list[Party]:
        """As `Session.parties`."""
        return await self.call(Session.parties)

    async def party(self, wanted: str) -> Party:
        """As `Session.party`."""
        return await self.call(Session.party, wanted)

    async def datasets(self) -> list[wire.DatasetView]:
        """As `Session.datasets`."""
        return await self.call(Session.datasets)

    async def functions(self) -> list[wire.FunctionView]:
        """As `Session.functions`."""
        return await self.call(Session.functions)

    async def tasks(self) -> list[wire.TaskView]:
        """As `Session.tasks`."""
        return await self.call(Session.tasks)

    async def task(self, digest: str, after: int = 0, wait: int = 0) -> wire.TaskView:
        """As `Session.task`."""
        return await self.call(Session.task, digest, after, wait)

    async def record(self, index: int) -> LogRecord:
        """As `Session.record`."""
        return await self.call(Session.record, index)

    async def refresh(self) -> cp.Checkpoint:
        """As `Session.refresh`."""
        return await self.call(Session.refresh)


__all__ = ["RECORD_TRIES", "AsyncSession", "Party", "Posted", "Session"]
