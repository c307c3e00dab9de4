"""The reference monitor: every control flow and every data flow of the service passes here.

It runs on one thread. Each request is decided against the projection, the decision enters the log, and only when the
log entry is durable does the decision take effect, through a `Permit` that nothing else can make:

1. `invoke` puts a ticket into the queue.
2. `release_key` wraps the file keys of one run to one worker's attempt. Its log index is the fence.
3. `release_result` wraps the output keys of one run to one receiver.

Denials are logged too, before the caller is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ...errors import (
    Conflict,
    Denied,
    Halted,
    KeyRefused,
    LogCorrupt,
    Malformed,
    NotFound,
    Recovering,
    Replayed,
    StateError,
)
from ...protocol import envelope as dsse
from ...protocol import leaving, limits, records, statements
from ...protocol.digests import b64decode, sha256
from ...protocol.service import ShareRule
from ...protocol.sources import OutputOf
from ...protocol.statements import WorkerFacts
from .. import faults
from . import budgets, charges, policies, policy, rules
from .decided import CODE, LOGGED, Accepted, Granted
from .keyring import Keyring, Produced, Sealed, Upload
from .ledger import Ledger
from .log import Log
from .peer import Peer
from .permit import Action
from .runs import ENDED, Grant, Run
from .state import Held, State
from .tenure import Received

LEASE_SECONDS = 30
"""How long a worker holds a run without renewing, if the service's launcher says nothing else."""
TICKET_SECONDS = 600
"""Life of a queue ticket; the sweep makes a new one for a run that still waits."""


class Monitor(Ledger):
    """Decides. Not thread-safe: all calls come from one event loop."""

    def __init__(
        self,
        log: Log,
        state: State,
        keyring: Keyring,
        service: statements.Statement,
        clock: Callable[[], float],
        steady: Callable[[], float],
        keep_proof: Callable[[str], None],
        lease_seconds: int = LEASE_SECONDS,
        received: Received | None = None,
    ) -> None:
        """See `Ledger` for `keep_proof`."""
        super().__init__(log, state, service, clock, steady, keep_proof, received)
        self._keyring = keyring
        self._lease_seconds = lease_seconds
        # After a restart every attempt gets its full lease again, from now on.
        grants = [run.grant for run in self.state.runs.open.values() if run.grant is not None]
        self._leases = {grant.fence: steady() + grant.lease for grant in grants}

    # -- statements -------------------------------------------------------------------------------

    async def submit(self, peer: Peer, envelope: dsse.Envelope) -> tuple[Accepted, statements.Statement]:
        """Verify a party's statement, decide on it, and log it.

        1. Exactly one signature, by the party at the other end of the channel.
        2. For this log and service; signed recently; carrying a checkpoint of this log that this log extends.
        3. Not seen before.
        4. The rules of its kind and the platform's policy.
        """
        self.serving()
        if peer.role != "party":
            raise KeyRefused("only parties post statements")
        statement = statements.verify(envelope)
        predicate = statement.predicate
        if not isinstance(predicate, statements.Common):
            raise Malformed(f"a {statement.kind} statement is not for a party to post")
        if statement.signer != peer.key:
            raise KeyRefused("the statement is signed by another party than the one that sends it")
        self._for_us(predicate)
        known = self.state.seen.get(statement.digest)
        if known is not None:
            return await self._again(statement, known), statement
        now = self.now()
        rules.times(predicate, now, int(self._clock()))
        self._decide(statement, now)
        faults.point("statement.decided")
        index = await self._append(
            records.of_statement(envelope, max(now, predicate.time), self._source(now))
        )
        faults.point("statement.logged")
        return Accepted(statement.digest, index), statement

    def _for_us(self, predicate: statements.Common) -> None:
        if predicate.origin != self._log.origin or predicate.service != self.service.digest:
            raise KeyRefused(
                "the statement is for another log or service statement",
                hint="check `mesatee attest`: the service may have changed; owners must agree to a changed service",
            )
        self.compare(predicate.checkpoint)

    async def _again(self, statement: statements.Statement, index: int) -> Accepted:
        """The same statement once more: nothing happens twice, and what was undone stays undone."""
        predicate = statement.predicate
        if isinstance(predicate, statements.ApprovalStatement) and predicate.id in self.state.withdrawn:
            raise Replayed("this approval was withdrawn; a withdrawn id never counts again")
        if isinstance(predicate, statements.CollectStatement):
            raise Replayed("this request for results was answered already")
        await self._durable(index)
        return Accepted(statement.digest, index, already=True)

    def _decide(self, statement: statements.Statement, now: int) -> None:
        state, signer, predicate = self.state, statement.signer, statement.predicate
        if not isinstance(predicate, statements.PartyStatement):
            state.party(signer)
        if statement.kind in ("party", "dataset", "function", "task"):
            self._may_register(statement.kind, signer, now)
        match predicate:
            case statements.PartyStatement():
                rules.party(state, signer, predicate)
            case statements.DatasetStatement():
                policies.check(predicate.policy)
                rules.blob(state, signer, predicate.blob.sha256)
                self._check_upload(Upload(signer, predicate.blob.sha256, predicate.wrap))
            case statements.FunctionStatement():
                if predicate.code is not None and predicate.code.wrap is not None:
                    rules.blob(state, signer, predicate.code.sha256)
                    self._check_upload(Upload(signer, predicate.code.sha256, predicate.code.wrap))
            case statements.TaskStatement():
                rules.task(state, signer, predicate, now)
                budgets.enforced(state, predicate, state.inputs(predicate))
            case statements.ApprovalStatement():
                rules.approval(state, signer, predicate, now)
            case statements.WithdrawalStatement():
                rules.withdrawal(state, signer, predicate)
            case statements.RunStatement():
                self._may_run(signer, predicate.task, now)
            case statements.CancelStatement():
                rules.cancel(state, signer, predicate)
            case statements.CollectStatement():
                self._may_collect(signer, predicate, now)
            case statements.RetireStatement():
                rules.retire(state, signer, predicate)
            case statements.SuspendStatement():
                rules.suspend(state, signer, predicate)
            case statements.TriggerStatement():
                rules.trigger(state, signer, predicate, now)

    def _may_run(self, signer: str, task: str, now: int) -> None:
        rules.run(self.state, signer, task, now)
        held = self.state.task(task)
        inputs = self.state.inputs(held.predicate)
        budgets.affordable(self.state, held, inputs, ahead=True)
        charges.affordable(self.state, held, inputs, signer)
        self._may(held, policies.USE, None, now)

    def _check_upload(self, upload: Upload) -> None:
        self._keyring.check_upload(
            self._mint.permit(Action.REGISTER, upload.blob, self._log.next_index), upload
        )

    def _may_register(self, what: str, signer: str, now: int) -> None:
        policies.platform(self._said.platform_policy, "register", what, signer, now)

    def _may(
        self,
        held: Held[statements.TaskStatement],
        action: policy.TaskAction,
        facts: WorkerFacts | None,
        now: int,
        run: int = 0,
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Approvals and every owner's policy, ANDed. Returns what counted: approvals by party, policies by resource."""
        asked = policies.Question(
            self.state, held, action, facts, now, run or self.state.runs.count(held.digest) + 1
        )
        counted = rules.approvals(self.state, held, policies.automatic(asked), now)
        return counted, policies.decide(asked, self._said.platform_policy)

    # -- the first permit: invoke -----------------------------------------------------------------

    def invoke(self, run: Run, now: int) -> bytes:
        """A ticket for a run that is in the log and still waits."""
        permit = self._mint.permit(Action.INVOKE, run.digest, run.index)
        return self._keyring.ticket(permit, run.digest, now + TICKET_SECONDS)

    def waiting(self) -> list[Run]:
        """Runs that a worker may take: queued and with all inputs, or running with a lease that nobody renewed."""
        if self.ended:
            return []
        # Leases of runs that have ended are of no use to anybody.
        alive = {run.grant.fence for run in self.state.runs.open.values() if run.grant}
        self._leases = {fence: until for fence, until in self._leases.items() if fence in alive}
        return [
            run
            for run in self.state.runs.open.values()
            if (run.status == "queued" and self._complete(run))
            or (run.status == "running" and not self.lease_alive(run))
        ]

    def _complete(self, run: Run) -> bool:
        with contextlib.suppress(StateError):
            return not rules.waits(self.state, self.state.task(run.task).predicate, run.index)
        return False

    async def close_hopeless(self) -> int:
        """End the queued runs whose inputs nobody makes any more; returns how many."""
        ended = 0
        for run in [] if self.ended else list(self.state.runs.open.values()):
            try:
                if run.status == "queued":
                    rules.waits(self.state, self.state.task(run.task).predicate, run.index)
            except StateError:
                await self._log_outcome(records.ClosedOutcome(run=run.digest, failure="input_missing"))
                ended += 1
        return ended

    async def fire(self, digest: str) -> str | None:
        """Begin the run of a trigger that is due, as if its author had posted it; its digest, or None if refused.

        Either way it is in the log, and the trigger is due again later.
        """
        trigger, now = self.state.triggers[digest], self.now()
        number, run, code = trigger.number + 1, records.fired_run(digest, trigger.number + 1), None
        try:
            self._may_run(trigger.by, trigger.task, now)
        except LOGGED as error:
            code = error.code
        faults.point("trigger.decided")
        await self._log_outcome(
            records.FiredOutcome(trigger=digest, number=number, run=None if code else run, code=code)
        )
        faults.point("trigger.logged")
        return None if code else run

    def due(self) -> list[str]:
        """Triggers that begin a run now."""
        if self.ended:
            return []
        now = self.now()
        return [item.digest for item in self.state.triggers.values() if rules.due(self.state, item, now)]

    def lease_alive(self, run: Run) -> bool:
        """Whether the newest attempt may still finish."""
        if run.grant is None:
            return False
        # A grant that is being logged has one, too.
        deadline = self._leases.setdefault(run.grant.fence, self._steady() + run.grant.lease)
        return self._steady() < deadline

    async def close_lost(self, run: Run) -> None:
        """End a run whose attempts are all spent."""
        if run.status not in ENDED and len(run.grants) >= limits.ATTEMPTS and not self.lease_alive(run):
            await self._log_outcome(records.ClosedOutcome(run=run.digest, failure="worker_lost"))
            faults.point("closed.logged")

    # -- the second permit: key release -----------------------------------------------------------

    async def grant(
        self, peer: Peer, facts: WorkerFacts, environments: frozenset[str], ticket: bytes, attempt_key: bytes
    ) -> Granted:
        """Release the keys of one run to one worker.

        1. The ticket is ours and alive, and the run waits.
        2. The worker is one that the task accepts, with the environment that it names.
        3. All owners concerned have shown, in this epoch, that the log was not rolled back.
        4. Approvals and policies hold now, with what is known of the worker, and budgets and quotas of models can pay.
        5. The grant is in the log; its index is the fence. Only then are keys wrapped, to this attempt's key.
        """
        self.serving()
        now = self.now()
        run = self.state.run(self._keyring.read_ticket(ticket, now).run)
        number = rules.attempt(run, lease_alive=self.lease_alive(run))
        held = self.state.task(run.task)
        rules.worker(held.predicate, facts, environments)
        self._fresh(held)
        if rules.waits(self.state, held.predicate, run.index):
            raise Conflict("an input of the run is still being made", hint="drop the ticket")
        inputs = {name: found for name, found in self.state.inputs(held.predicate).items() if found}
        try:
            rules.alive(held.predicate, now)
            rules.usable(self.state, held.predicate)
            due = budgets.affordable(self.state, held, inputs, ahead=False)
            charges.affordable(self.state, held, inputs, run.by, run)
            counted, ruled = self._may(held, policies.RELEASE_KEY, facts, now, run.number)
        except (Denied, StateError, Malformed):
            # What was approved when it was invoked no longer is: the run ends, no key leaves.
            await self._log_outcome(records.ClosedOutcome(run=run.digest, failure="cancelled"))
            raise
        outcome = records.GrantOutcome(
            run=run.digest,
            attempt=number,
            lease=self._lease_seconds,
            worker=facts,
            approvals=counted,
            policies=ruled,
            inputs=inputs,
            charges=due,
        )
        faults.point("grant.decided")
        index = await self._before_effect(outcome)
        faults.point("grant.logged")
        grant = run.grant
        if grant is None or grant.fence != index or run.status != "running":
            raise Conflict("the run was stopped while its keys were being released", hint="drop the ticket")
        self._leases[index] = self._steady() + self._lease_seconds
        function = self.state.function(held.predicate.function)
        sealed = {name: self._sealed(held.predicate, name, found) for name, found in grant.inputs.items()}
        code = function.predicate.code
        if code is not None and code.wrap is not None:
            sealed[CODE] = self._upload(function)
        permit = self._mint.permit(Action.RELEASE_KEY, run.digest, index)
        wrapped = self._keyring.release_inputs(permit, run.digest, sealed, attempt_key)
        faults.point("grant.wrapped")
        noise = None
        if leaving.is_seeded(function.predicate):
            asked = leaving.question(held.digest, grant.inputs)
            noise = self._keyring.noise(
                self._mint.permit(Action.RELEASE_KEY, run.digest, index), run.digest, asked
            )
        protection = budgets.enforced(self.state, held.predicate, grant.inputs)
        return Granted(run, held, function, grant, wrapped, protection, noise)

    def _sealed(self, task: statements.TaskStatement, name: str, found: str) -> Sealed:
        """The sealed input that a dataset, or another run's output, is."""
        if found in self.state.datasets:
            held = self.state.dataset(found)
            return self._upload(held)
        source, run = task.inputs[name], self.state.run(found)
        if not isinstance(source, OutputOf):
            raise NotFound(f"there is no dataset {found[:16]}")
        facts = run.outputs[source.output]
        wrap = self._wraps(run)[source.output]
        return Produced(run.digest, run.granted().fence, source.output, facts.sha256, wrap)

    def _upload(self, held: Held[Any]) -> Upload:
        """A sealed dataset or function with the wrap of its key, which stands in its statement in the log.

        Raises `LogCorrupt` and `HostFailed`.
        """
        envelope = self._log.prove(held.index).read().statement()
        match statements.read(envelope):
            case statements.DatasetStatement() as said if envelope.digest == held.digest:
                return Upload(held.signer, said.blob.sha256, said.wrap)
            case statements.FunctionStatement(code=statements.CodeRef(wrap=str() as wrap) as code) if (
                envelope.digest == held.digest
            ):
                return Upload(held.signer, code.sha256, wrap)
        raise LogCorrupt(f"log entry {held.index} is not the statement of {held.digest[:16]}")

    def _wraps(self, run: Run) -> dict[str, str]:
        """Output name -> its key as the worker wrapped it to this service: from the run's receipt in the log.

        What the host gives back is compared with the tree. Raises `LogCorrupt`, `HostFailed`, and `NotFound` for a run
        without a receipt.
        """
        if run.receipt is None:
            raise NotFound(f"run {run.digest[:16]} has no receipt")
        outcome = self._log.prove(run.receipt).read().outcome()
        if not isinstance(outcome, records.ReceiptOutcome) or outcome.run != run.digest:
            raise LogCorrupt(f"log entry {run.receipt} is not the receipt of run {run.digest[:16]}")
        return outcome.wraps

    def _fresh(self, held: Held[statements.TaskStatement]) -> None:
        owners = set(self.state.everybody(held.predicate))
        function = self.state.function(held.predicate.function)
        if function.predicate.private:
            owners.add(function.signer)
        stale = [self.state.party(who).predicate.keys.name for who in owners if not self.state.fresh(who)]
        if stale:
            raise Recovering(
                f"the gateway started anew and has not yet seen {', '.join(sorted(stale))}: "
                "no key or result leaves before they have compared the log with the newest that they knew"
            )

    def holds(self, peer: Peer, fence: int) -> None:
        """Whether `peer` was granted this attempt, of whatever state. Raises `NotFound`."""
        self.serving()
        self._attempt_of(peer, fence)

    def renew(self, peer: Peer, fence: int) -> Run:
        """Extend the lease of a live attempt. Raises `Conflict` when it no longer counts."""
        self.serving()
        run = self._attempt_of(peer, fence)
        if run.status != "running" or run.grant is None or run.grant.fence != fence:
            raise Conflict(f"attempt {fence} no longer counts: the run is {run.status}", hint="stop and wipe")
        self._leases[fence] = self._steady() + self._lease_seconds
        return run

    def _attempt_of(self, peer: Peer, fence: int) -> Run:
        digest = self.state.runs.fences.get(fence) or self._granted_at(fence)
        run = self.state.run(digest) if digest else None
        if run is None or not any(
            grant.fence == fence and grant.worker.key == peer.key for grant in run.grants
        ):
            raise NotFound("you hold no attempt of this number")
        return run

    def _granted_at(self, index: int) -> str | None:
        """The run whose keys the log entry released: of a run that has ended nothing else remembers it."""
        if not 0 <= index < self._log.size:
            return None
        record = self._log.prove(index).read()
        outcome = record.outcome() if record.kind == records.GrantOutcome.kind else None
        return outcome.run if isinstance(outcome, records.GrantOutcome) else None

    # -- the receipt ------------------------------------------------------------------------------

    async def finish(
        self,
        peer: Peer,
        fence: int,
        envelope: dsse.Envelope,
        wrapped: dict[str, str],
        countersign: dsse.Signer,
    ) -> int:
        """Accept the one receipt of a run.

        1. Signed by the worker that holds the newest attempt.
        2. It says exactly what was granted.
        3. Every output of the task is there, with a wrap that opens under this service's key for this attempt.
        """
        self.serving()
        run = self._attempt_of(peer, fence)
        statement = statements.verify(envelope, "receipt")
        receipt = statements.expect(statement.predicate, statements.ReceiptStatement)
        if statement.signer != peer.key:
            raise KeyRefused("a receipt is signed by the worker's channel key")
        if run.receipt is not None:
            await self._durable(run.receipt)
            if self._same_receipt(run.receipt, statement.digest):
                return run.receipt
        if run.status != "running" or run.grant is None or run.grant.fence != fence:
            raise Conflict(f"attempt {fence} no longer counts: the run is {run.status}", hint="stop and wipe")
        self._matches(run, run.grant, receipt, wrapped)
        outcome = records.ReceiptOutcome(
            run=run.digest,
            fence=fence,
            failure=receipt.failure,
            wraps=wrapped,
            envelope=envelope.with_signature(countersign).as_dict(),
        )
        faults.point("receipt.decided")
        index = await self._log_outcome(outcome)
        faults.point("receipt.logged")
        return index

    def _same_receipt(self, index: int, digest: str) -> bool:
        outcome = self._log.prove(index).read().outcome()
        return (
            isinstance(outcome, records.ReceiptOutcome) and dsse.from_dict(outcome.envelope).digest == digest
        )

    def _matches(
        self, run: Run, grant: Grant, receipt: statements.ReceiptStatement, wrapped: dict[str, str]
    ) -> None:
        rules.receipt(self.state, run, grant, receipt, set(wrapped))
        if (receipt.origin, receipt.service) != (self._log.origin, self.service.digest):
            raise Malformed("the receipt is for another log or service statement")
        for name, facts in receipt.outputs.items():
            permit = self._mint.permit(Action.REGISTER, facts.sha256, self._log.next_index)
            self._keyring.check_output(permit, run.digest, grant.fence, name, facts.sha256, wrapped[name])

    # -- the third permit: result release ---------------------------------------------------------

    def _may_collect(self, signer: str, predicate: statements.CollectStatement, now: int) -> None:
        rules.collect(self.state, signer, predicate)
        run = self.state.run(predicate.run)
        held = self.state.task(run.task)
        if run.grant is None:
            raise StateError("no worker has run it")
        rules.still_approved(self.state, run)
        self._fresh(held)
        asked = policies.Question(
            self.state, held, policies.RELEASE_RESULT, run.grant.worker, now, run.number
        )
        policies.decide(asked, self._said.platform_policy)

    async def release(self, signer: str, predicate: statements.CollectStatement) -> dict[str, str]:
        """Output keys of a run for one of its receivers, whose collect statement is in the log."""
        now = self.now()
        self._may_collect(signer, predicate, now)
        names = rules.collect(self.state, signer, predicate)
        run = self.state.run(predicate.run)
        grant = run.granted()
        index = await self._before_effect(
            records.ReleaseOutcome(run=run.digest, to=signer, outputs=tuple(sorted(names)))
        )
        faults.point("release.logged")
        # What was taken back in between has the lower index now, and wins.
        rules.still_approved(self.state, run)
        receiver = self.state.party(signer).predicate.keys
        made, wraps = run.outputs, self._wraps(run)
        held = {name: (made[name].sha256, wraps[name]) for name in names}
        permit = self._mint.permit(Action.RELEASE_RESULT, run.digest, index)
        to = b64decode(receiver.hpke, max_bytes=2048)
        wrapped = self._keyring.release_outputs(permit, run.digest, grant.fence, held, signer, to)
        faults.point("release.wrapped")
        return wrapped

    # -- hand-over and shares ---------------------------------------------------------------------

    async def hand_over(self, peer: Peer, to: bytes) -> tuple[int, dict[str, str]]:
        """Give the service's keys, and with them the next epoch, to a peer gateway; the log index and the wraps.

        1. The service statement accepts the peer, whose evidence vouches for the key `to`.
        2. It is logged. From then on this gateway serves nobody, so there are never two that decide.
        3. When the entry is durable, its checkpoint is kept beside the keys: on a log from before the hand-over this
           gateway stops, as on every log that is rolled back.
        4. Then the keys are wrapped to `to`. Who has lost this answer, and proves again that `to` is its key, gets it
           once more; anybody else is told that the keys are gone.

        Raises `HostFailed` if the checkpoint cannot be kept; the same request may come again.
        """
        if self.halted:
            raise Halted(f"the gateway has stopped: {self.halted}")
        facts, successor = peer.facts("gateway", self.service.digest), sha256(to)
        rules.successor(self._said.hand_over, facts, peer.successor, successor)
        if self.ended and self.state.holder == successor:
            index = self.state.handed_at
            await self._durable(index)
        else:
            self.serving()
            if successor in self.state.successors:
                raise Replayed("this successor had the keys before: it makes a new key for a new hand-over")
            faults.point("handover.decided")
            index = await self._before_effect(records.HandOverOutcome(successor=successor, peer=facts))
            faults.point("handover.logged")
        # Nothing follows that entry, so its time makes the same checkpoint each time.
        self._keep_proof(self._log.checkpoint(self.state.time).note)
        permit = self._mint.permit(Action.HAND_OVER, successor, index)
        wrapped = self._keyring.hand_over(permit, to)
        faults.point("handover.wrapped")
        return index, wrapped

    async def shares(self) -> statements.Statement | None:
        """The service's keys in shares for the holders that its statement names, or None if it names none.

        They are made once for each service, and are in the log before anybody has them: afterwards they come from
        there. Raises `HostFailed`.
        """
        self.serving()
        rule = self._said.share_holders
        if not isinstance(rule, ShareRule):
            return None
        if self.state.shares is None:
            now = self.now()
            permit = self._mint.permit(Action.SHARE, self.service.digest, self._log.next_index)
            made = self._keyring.share_keys(permit, rule, now)
            await self._before_effect(records.SharesOutcome(envelope=made.envelope.as_dict()))
            return made
        await self._durable(self.state.shared_at)
        found = self._log.prove(self.state.shared_at).read()
        return statements.verify(dsse.from_dict(found.body["envelope"]), "recovery")


__all__ = ["LEASE_SECONDS", "Accepted", "Granted", "Monitor"]
