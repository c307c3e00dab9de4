"""What parties may read: views of the projection. Plain metadata, no key, no wrap, no data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from ...errors import NotApproved
from ...protocol import limits, statements, wire
from ...protocol.jsonstrict import canonical
from ...protocol.model import Model
from ...protocol.protection import EVERYBODY
from . import budgets, policies, rules
from .runs import ENDED, Run
from .state import Held, P, Trigger

if TYPE_CHECKING:
    from .gateway import Gateway

TaskState = Literal["created", "approved", "queued", "running", "finished", "failed", "cancelled", "expired"]


class Views:
    """Answers for registered parties."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._monitor = gateway.monitor
        self._state = gateway.monitor.state

    def _name(self, party: str) -> str:
        return self._state.party(party).predicate.keys.name

    def _proven(self, index: int) -> bool:
        """Whether the log can show the entry: what enters it at this moment is for the next who asks."""
        return index < self._gateway.log.size

    def _page(self, found: Iterable[Held[P]], view: Callable[[Held[P]], Model], after: int) -> wire.ListReply:
        """Those with a log index of at least `after`, as many as fit a page."""
        shown: list[dict[str, Any]] = []
        size = 0
        for held in sorted(found, key=lambda held: held.index):
            if held.index < after or not self._proven(held.index):
                continue
            if len(shown) == limits.PAGE_ITEMS:
                return wire.ListReply(items=tuple(shown), after=held.index)
            item = view(held).model_dump(mode="json")
            size += len(canonical(item))
            if shown and size > limits.PAGE_BYTES:
                return wire.ListReply(items=tuple(shown), after=held.index)
            shown.append(item)
        return wire.ListReply(items=tuple(shown))

    def parties(self, after: int) -> wire.ListReply:
        """Everybody, with the statement that introduced them: keys are verified by whoever uses them."""
        return self._page(list(self._state.parties.values()), self._party, after)

    def _party(self, held: Held[statements.PartyStatement]) -> wire.PartyView:
        return wire.PartyView(
            id=held.signer,
            name=held.predicate.keys.name,
            index=held.index,
            statement=self._gateway.papers.envelope(held.index),
            fresh=self._state.fresh(held.signer),
        )

    def datasets(self, party: str, after: int) -> wire.ListReply:
        """All datasets, retired ones marked. What others have spent of a budget only its owner sees."""
        return self._page(self._state.datasets.values(), lambda held: self._dataset(held, party), after)

    def _dataset(self, held: Held[statements.DatasetStatement], party: str) -> wire.DatasetView:
        said = held.predicate
        spent = self._state.spent.get(budgets.line(held), {})
        return wire.DatasetView(
            digest=held.digest,
            owner=held.signer,
            owner_name=self._name(held.signer),
            name=said.name,
            index=held.index,
            format=said.format,
            columns=tuple({"name": column.name, "type": column.type} for column in said.columns),
            rows=said.rows,
            blob=said.blob.sha256,
            size=said.blob.size,
            policy=said.policy,
            retired=held.retired is not None,
            suspended=held.suspended,
            version=self._state.dataset_versions[f"{held.signer}/{said.name}"].index(held.digest) + 1,
            uses=self._state.runs.uses.get(held.digest, 0),
            protection=said.protection,
            card=said.card,
            spent={
                who: amount
                for who, amount in spent.items()
                if party == held.signer or who in (party, EVERYBODY)
            },
        )

    def functions(self, party: str, after: int) -> wire.ListReply:
        """Public functions, the party's own, and private ones of tasks that concern it."""
        seen = {
            held.predicate.function
            for held in self._state.tasks.values()
            if party in self._state.concerned(held)
        }
        found = (
            held
            for held in self._state.functions.values()
            if not held.predicate.private or held.signer == party or held.digest in seen
        )
        return self._page(found, self._function, after)

    def _function(self, held: Held[statements.FunctionStatement]) -> wire.FunctionView:
        said = held.predicate
        return wire.FunctionView(
            digest=held.digest,
            owner=held.signer,
            owner_name=self._name(held.signer),
            name=said.name,
            index=held.index,
            executor=said.executor,
            entry=said.entry,
            private=said.private,
            code=said.code.sha256 if said.code else None,
            inputs=tuple(port.model_dump(mode="json") for port in said.inputs),
            variadic=said.variadic,
            arguments=tuple(argument.model_dump(mode="json") for argument in said.arguments),
            outputs=tuple(port.model_dump(mode="json") for port in said.outputs),
            callers=said.callers,
            quota=said.quota,
            environment=said.environment,
            retired=held.retired is not None,
            suspended=held.suspended,
            version=self._state.function_versions[f"{held.signer}/{said.name}"].index(held.digest) + 1,
        )

    def tasks(self, party: str, after: int) -> wire.ListReply:
        """Tasks that concern the party, oldest first."""
        found = (held for held in self._state.tasks.values() if party in self._state.concerned(held))
        return self._page(found, self.task, after)

    def task(self, held: Held[statements.TaskStatement]) -> wire.TaskView:
        """One task."""
        now = self._monitor.now()
        asked = policies.Question(self._state, held, policies.USE, None, now, 1)
        automatic = policies.automatic(asked)
        runs = self._state.runs.of(held.digest, limits.RUNS_SHOWN)
        return wire.TaskView(
            digest=held.digest,
            author=held.signer,
            author_name=self._name(held.signer),
            name=held.predicate.name,
            index=held.index,
            state=self._task_state(held, automatic, runs, now),
            statement=self._gateway.papers.envelope(held.index),
            approvals=tuple(
                self._approval(held, who, reason, automatic, now)
                for who, reason in self._state.must_approve(held.predicate).items()
            ),
            runs=tuple(map(self._run, runs)),
            inputs=self._state.inputs(held.predicate),
            triggers=tuple(
                self._trigger(item, now) for item in self._state.triggers.values() if item.task == held.digest
            ),
            log_size=self._gateway.log.size,
        )

    def _approval(
        self, held: Held[statements.TaskStatement], who: str, reason: str, automatic: dict[str, str], now: int
    ) -> wire.ApprovalView:
        given = [self._state.approvals[item] for item in self._state.approvals_of.get(held.digest, ())]
        mine = [item for item in given if item.party == who]
        valid = self._state.valid_approvals(held.digest, now).get(who)
        newest = valid or (mine[-1] if mine else None)
        state: Literal["missing", "approved", "automatic", "withdrawn", "expired"] = "missing"
        if valid:
            state = "approved"
        elif who in automatic:
            state = "automatic"
        elif newest:
            state = "withdrawn" if newest.withdrawn is not None else "expired"
        return wire.ApprovalView(
            party=who,
            name=self._name(who),
            reason=reason,
            state=state,
            id=newest.id if newest else None,
            index=newest.index if newest else None,
            expires=newest.expires if newest else None,
            in_force=sum(1 for item in mine if item.withdrawn is None and item.expires > now),
        )

    def _task_state(
        self, held: Held[statements.TaskStatement], automatic: dict[str, str], runs: list[Run], now: int
    ) -> TaskState:
        if runs and (
            runs[-1].status not in ENDED or held.predicate.runs == self._state.runs.count(held.digest)
        ):
            return runs[-1].status
        if held.predicate.expires <= now:
            return runs[-1].status if runs else "expired"
        try:
            rules.approvals(self._state, held, automatic, now)
        except NotApproved:
            return "created"
        return runs[-1].status if runs else "approved"

    def _trigger(self, trigger: Trigger, now: int) -> wire.TriggerView:
        state: Literal["in_force", "stopped", "expired"] = "in_force"
        if trigger.retired is not None:
            state = "stopped"
        elif not rules.in_force(trigger, now):
            state = "expired"
        return wire.TriggerView(
            digest=trigger.digest,
            every=trigger.every,
            due=trigger.due,
            expires=trigger.expires,
            fired=trigger.number,
            state=state,
        )

    def _run(self, run: Run) -> wire.RunView:
        worker: dict[str, Any] | None = run.grant.worker.model_dump(mode="json") if run.grant else None
        return wire.RunView(
            digest=run.digest,
            status=run.status,
            index=run.index,
            time=run.time,
            attempts=len(run.grants),
            failure=run.failure,
            ended=run.ended,
            inputs=run.grant.inputs if run.grant else {},
            worker=worker,
        )


__all__ = ["Views"]
