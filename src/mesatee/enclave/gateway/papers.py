"""What the gateway can show of its log: statements in their envelopes, and the bundle that proves a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import NotFound
from ...protocol import envelope as dsse
from ...protocol import limits, statements, wire
from ...protocol.digests import b64encode
from ...protocol.doors import Blobs
from .log import Log
from .runs import Output, Run
from .state import State

ENVELOPES_CACHED = 4 * limits.MIB
"""Payloads of statements kept in memory for those who ask, in bytes, oldest out first."""


class Papers:
    """Reads what is durable; decides nothing."""

    def __init__(self, log: Log, blobs: Blobs, service: statements.Statement) -> None:
        self._log = log
        self._blobs = blobs
        self._service = service
        self._envelopes: dict[int, dict[str, Any]] = {}
        self._bytes = 0

    def envelope(self, index: int) -> dict[str, Any]:
        """The envelope of the statement at a log index."""
        found = self._envelopes.get(index)
        if found is None:
            found = self._log.prove(index).read().body
            self._envelopes[index] = found
            self._bytes += len(found["payload"])
            while self._bytes > ENVELOPES_CACHED and self._envelopes:
                oldest = self._envelopes.pop(next(iter(self._envelopes)), None)
                self._bytes -= len(oldest["payload"]) if oldest else 0
        return found

    def bundle(self, state: State, digest: str, now: int) -> wire.Bundle:
        """Everything that an offline check of a run needs. `now` is log time, in seconds.

        Raises `NotFound` if the run has no receipt, or the host has lost a certificate.
        """
        run = state.run(digest)
        grant = run.granted()
        if run.receipt is None:
            raise NotFound(f"run {digest[:16]} has no receipt")
        task = state.task(run.task)
        function = state.function(task.predicate.function)
        record = self._log.prove(run.receipt)
        signed = record.read().body["envelope"]
        receipt = statements.expect(
            statements.read(dsse.from_dict(signed), "receipt"), statements.ReceiptStatement
        )
        used = [state.runs[source] for source in grant.inputs.values() if source in state.runs]
        counted = set(grant.approvals.values())
        given = [state.approvals[item] for item in state.approvals_of.get(run.task, ())]
        return wire.Bundle(
            receipt=signed,
            record=record,
            checkpoint=self._log.checkpoint(now, record.size).note,
            service=self._service.envelope.as_dict(),
            task=self.envelope(task.index),
            function=self.envelope(function.index),
            datasets={
                dataset: self.envelope(state.dataset(dataset).index)
                for dataset in grant.inputs.values()
                if dataset in state.datasets
            },
            sources={item.digest: self._source(state, item) for item in used},
            approvals={item.digest: self.envelope(item.index) for item in given if item.digest in counted},
            parties={who: self.envelope(state.party(who).index) for who in state.concerned(task)},
            worker_certificate=self._blob(grant.worker.certificate),
            gateway_certificate=self._blob(receipt.appraisals.gateway_certificate),
            endorsements=self._blob(receipt.appraisals.endorsements),
        )

    def _source(self, state: State, run: Run) -> wire.SourcePapers:
        if run.receipt is None:
            raise NotFound(f"run {run.digest[:16]} has no receipt")
        return wire.SourcePapers(
            receipt=self._log.prove(run.receipt).read().body["envelope"],
            task=self.envelope(state.task(run.task).index),
        )

    def small(self, outputs: Iterable[Output]) -> dict[str, str]:
        """Digest -> base64 of the sealed outputs, as many of the smallest as fit an answer."""
        found: dict[str, str] = {}
        left = limits.INLINE_BYTES
        for facts in sorted(outputs, key=lambda item: item.size):
            left -= facts.size
            if left < 0:
                break
            found[facts.sha256] = self._blob(facts.sha256)
        return found

    def _blob(self, digest: str) -> str:
        return b64encode(b"".join(self._blobs.get(digest)))


__all__ = ["ENVELOPES_CACHED", "Papers"]
