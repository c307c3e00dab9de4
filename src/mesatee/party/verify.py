"""Offline verification of a receipt bundle: what ran, on what, for whom, where, and who agreed. Pure: no I/O,
no clock.

A bundle comes from anybody. The only trust in it is the trust policy that the caller holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from .. import _core
from ..attestation.appraisal import Answer, Appraisal
from ..attestation.endorsements import NOTHING, Endorsements
from ..attestation.trust import TrustPolicy
from ..attestation.verify import appraise
from ..errors import MesateeError, ReceiptInvalid
from ..protocol import checkpoint as cp
from ..protocol import envelope as dsse
from ..protocol import leaving, limits, records, statements, wire
from ..protocol.consent import must_approve
from ..protocol.digests import b64decode, sha256
from ..protocol.protection import Enforced
from ..protocol.sources import NewestDataset, OutputOf
from .service import Service, check_service
from .track import check_record

AUTOMATIC: Final = "approve_automatically"
"""The Cedar action by which a dataset's policy stands for its owner's approval."""

PLATFORM: Final = "platform"
"""The platform's place among the policies of a receipt; datasets stand under their digests."""

FACTS: Final = (
    "role",
    "service",
    "tee",
    "level",
    "simulated",
    "hardware",
    "measurement",
    "signature",
    "environments",
    "evidence_digest",
    "spki_hash",
)
"""What two appraisals of the same evidence must agree on, whatever the policies of those who made them."""

S = TypeVar("S", bound=statements.Common)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GivenApproval:
    """A party's yes that counted for the run."""

    party: str
    name: str | None
    """As the party introduced itself; None where the bundle does not carry its statement."""
    reason: str
    how: Literal["signature", "policy"]
    id: str | None
    expires: int | None


@dataclass(frozen=True, slots=True)
class VerifiedInput:
    """A dataset, or another task's output, that was used."""

    name: str
    kind: Literal["dataset", "output"]
    digest: str
    """Of the dataset's statement, or the run whose output it is."""
    title: str
    """The dataset's name, or ``TASK/OUTPUT``."""
    owners: tuple[str, ...]
    """Of a dataset one; of an output all of its receivers."""
    blob: str
    policy: str | None
    """SHA-256 of the dataset's policy's text."""


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """Everything that a verified bundle proves."""

    run: str
    task: str
    task_name: str
    author: str
    function: str
    function_name: str
    function_owner: str
    executor: str
    entry: str
    code: str | None
    """SHA-256 of the code's blob; None for a builtin."""
    private_code: bool
    environment: str
    arguments: Mapping[str, Any]
    inputs: tuple[VerifiedInput, ...]
    approvals: tuple[GivenApproval, ...]
    policies: Mapping[str, str]
    outputs: Mapping[str, statements.OutputFacts]
    protection: Enforced | None
    """What the owners of the inputs let out, and what their privacy budgets pay; None for no limit."""
    receivers: Mapping[str, tuple[str, ...]]
    """Output -> names of its receivers."""
    failure: str | None
    level: int
    level_reason: str
    tee: str
    simulated: bool
    measurement: str
    layers: tuple[str, ...]
    gateway_level: int
    gateway_tee: str
    gateway_simulated: bool
    service: str
    origin: str
    log_index: int
    log_size: int
    time: int
    """Log time of the receipt, Unix seconds."""
    time_source: Literal["host", "parties"]
    """``host``: no party's signed time backs it, the operator's clock does."""
    started: int
    finished: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        found["arguments"], found["policies"] = dict(self.arguments), dict(self.policies)
        found["receivers"] = {name: list(item) for name, item in self.receivers.items()}
        found["outputs"] = {name: item.model_dump(mode="json") for name, item in self.outputs.items()}
        found["layers"] = list(self.layers)
        found["protection"] = None if self.protection is None else self.protection.model_dump(mode="json")
        for name in ("inputs", "approvals"):
            found[name] = [
                {key: getattr(item, key) for key in item.__slots__} for item in getattr(self, name)
            ]
        return found


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    """Whatever fails inside is the failure of this step."""
    try:
        yield
    except ReceiptInvalid as error:
        raise ReceiptInvalid(f"step {number}, {what}: {error.message}", hint=error.hint) from None
    except MesateeError as error:
        raise ReceiptInvalid(
            f"step {number}, {what}: {error.code}: {error.message}", hint=error.hint
        ) from None


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ReceiptInvalid(otherwise)


def _of(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise ReceiptInvalid(f"it is no {kind.__name__}")
    return value


def verify_bundle(
    bundle: wire.Bundle, trust: TrustPolicy, at: int, endorsements: Endorsements = NOTHING
) -> VerifiedReceipt:
    """Verify a receipt bundle with nothing but a trust policy, at `at` (Unix seconds).

    1. Service: the statement is signed by its log key and pinned by the trust policy.
    2. Receipt: signed by exactly the worker's key and the log key; for this service and log.
    3. Checkpoint: signed by the log key, and not from the future (C2SP tlog-checkpoint).
    4. Record: exactly this receipt stands in the tree that the checkpoint signs (RFC 9162, section 2.1.3).
    5. Gateway: the certificate is the receipt's; its evidence, appraised with the trust policy at log time,
       vouches for the service and says what the worker's appraisal in the receipt says.
    6. Worker: the certificate is the receipt's; its evidence, appraised with the worker trust of the service
       statement, gives exactly the appraisal in the receipt; appraised at log time with the trust policy, too,
       it says what the receipt says of it. The bundle's endorsements are those that the receipt names; they
       are believed no more than the evidence, for their issuers signed them.
    7. Task: the receipt's, signed, for this service; it accepts this worker; function, inputs and environment
    agree.
    8. Function: the task's, signed.
    9. Inputs: each is what the task names. A dataset is signed by its owner, under the policy that was evaluated, and
       so is the platform's; another task's output is that of a receipt which the service signed. What the receipt
       says may leave is exactly what the datasets' statements say.
    10. Approvals: each party that had to approve did, by a signature over this very task that had not
    expired, or by
        a policy that approves for its owner.
    11. Outputs: those of the task, or of a failed run at most its diagnostics.

    Raises `ReceiptInvalid`, which names the step.
    """
    with _step(1, "service statement"):
        service = check_service(bundle.service, trust)
    with _step(2, "receipt"):
        envelope, receipt = _receipt_of(bundle.receipt, service)
    with _step(3, "checkpoint"):
        head = cp.verify(bundle.checkpoint, service.said.origin, service.log_key)
        _must(head.time <= at + limits.CLOCK_SKEW_SECONDS, "the checkpoint is from the future")
    with _step(4, "log record"):
        record = _record(bundle, head, envelope, receipt)
    with _step(5, "gateway"):
        inside = _endorsements(bundle, receipt)
        # What the reader has collected counts, too, where it is newer.
        theirs = inside.merged(endorsements.items)
        for signed in endorsements.references:
            theirs = theirs.with_reference(signed)
        appraised = _gateway(bundle, receipt, trust, record.time, theirs)
        _must(appraised.service == service.digest, "its evidence vouches for another service statement")
    with _step(6, "worker"):
        worker = _worker(bundle, receipt, service, trust, record.time, (inside, theirs))
    with _step(7, "task"):
        author, task = _signed(bundle.task, receipt.task, statements.TaskStatement, service)
        _task(task, receipt)
    with _step(8, "function"):
        owner, function = _signed(bundle.function, receipt.function, statements.FunctionStatement, service)
        _must(function.environment in (None, receipt.environment), "it runs in another environment alone")
    with _step(9, "inputs"):
        inputs, datasets = _inputs(bundle, receipt, service, task)
        _must(
            receipt.protection == leaving.enforced(task, function, receipt.inputs, datasets),
            "what was let out is not what the owners of the inputs allow",
        )
    with _step(10, "approvals"):
        approvals = _approvals(bundle, receipt, service, task, (owner, function), inputs)
    with _step(11, "outputs"):
        _outputs(task, receipt)
    return VerifiedReceipt(
        run=receipt.run,
        task=receipt.task,
        task_name=task.name,
        author=author,
        function=receipt.function,
        function_name=function.name,
        function_owner=owner,
        executor=function.executor,
        entry=function.entry,
        code=function.code.sha256 if function.code else None,
        private_code=function.private,
        environment=receipt.environment,
        arguments=task.arguments,
        inputs=tuple(inputs.values()),
        approvals=approvals,
        policies=receipt.policies,
        outputs=receipt.outputs,
        protection=receipt.protection,
        receivers={name: tuple(keys.name for keys in receivers) for name, receivers in task.outputs.items()},
        failure=receipt.failure,
        level=worker.level,
        level_reason=worker.level_reason,
        tee=worker.tee,
        simulated=worker.simulated,
        measurement=receipt.worker.measurement,
        layers=receipt.layers,
        gateway_level=appraised.level,
        gateway_tee=appraised.tee,
        gateway_simulated=appraised.simulated,
        service=service.digest,
        origin=service.said.origin,
        log_index=bundle.record.index,
        log_size=head.size,
        time=record.time,
        time_source=record.source,
        started=receipt.started,
        finished=receipt.finished,
    )


def _receipt_of(
    said: Mapping[str, Any], service: Service
) -> tuple[dsse.Envelope, statements.ReceiptStatement]:
    envelope = dsse.from_dict(dict(said))
    receipt = _of(statements.ReceiptStatement, statements.read(envelope, "receipt"))
    _must(receipt.worker.key != service.said.log_key, "worker and log have the same key")
    _must(
        {item.keyid for item in envelope.signatures} == {receipt.worker.key, service.said.log_key},
        "it is not signed by exactly the worker and the log",
    )
    for signature in envelope.signatures:
        envelope.verify(signature.keyid)
    _must(receipt.service == service.digest, "it names another service statement")
    _must(receipt.origin == service.said.origin, "it names another log")
    return envelope, receipt


def _record(
    bundle: wire.Bundle, head: cp.Checkpoint, envelope: dsse.Envelope, receipt: statements.ReceiptStatement
) -> records.LogRecord:
    record = check_record(bundle.record, head)
    outcome = _of(records.ReceiptOutcome, record.outcome())
    _must(dsse.from_dict(outcome.envelope) == envelope, "the record holds another receipt")
    said = (receipt.run, receipt.fence, receipt.failure, set(receipt.outputs))
    _must(
        (outcome.run, outcome.fence, outcome.failure, set(outcome.wraps)) == said,
        "the record says something else than its receipt",
    )
    _must(receipt.fence < bundle.record.index, "the receipt stands in the log before its keys were released")
    _must(record.time <= head.time, "the record is newer than the checkpoint that covers it")
    return record


def _machine(der: bytes) -> _core.PeerCertificate:
    _must(len(der) <= limits.CERTIFICATE_BYTES, "the certificate is too large")
    return _core.parse_certificate(der)


def _endorsements(bundle: wire.Bundle, receipt: statements.ReceiptStatement) -> Endorsements:
    data = b64decode(bundle.endorsements, max_bytes=limits.BUNDLE_ENDORSEMENTS_BYTES)
    # By the bytes, not by what they say once they are parsed: the receipt names a blob.
    _must(sha256(data) == receipt.appraisals.endorsements, "the endorsements are not the receipt's")
    return Endorsements.parse(data)


def _gateway(
    bundle: wire.Bundle,
    receipt: statements.ReceiptStatement,
    trust: TrustPolicy,
    at: int,
    endorsements: Endorsements,
) -> Appraisal:
    der = b64decode(bundle.gateway_certificate, max_bytes=limits.CERTIFICATE_BYTES)
    said = receipt.appraisals
    _must(sha256(der) == said.gateway_certificate, "the certificate is not the one that the worker saw")
    gateway = _machine(der)
    found = appraise(gateway.evidence, gateway.spki, trust, at, "gateway", endorsements)
    # The worker decided by a policy of its own, which the bundle does not hold: only facts can be compared.
    embedded = Appraisal.from_dict(said.gateway)
    for name in FACTS:
        _must(
            getattr(embedded, name) == getattr(found, name),
            f"{name} in the worker's appraisal is not what the evidence proves",
        )
    _must(embedded.policy is Answer.AFFIRMED, "the worker's appraisal does not accept the gateway")
    return found


def _worker(
    bundle: wire.Bundle,
    receipt: statements.ReceiptStatement,
    service: Service,
    trust: TrustPolicy,
    at: int,
    endorsements: tuple[Endorsements, Endorsements],
) -> Appraisal:
    inside, collected = endorsements
    der = b64decode(bundle.worker_certificate, max_bytes=limits.CERTIFICATE_BYTES)
    said = receipt.worker
    _must(hashlib.sha256(der).hexdigest() == said.certificate, "the certificate is not the receipt's")
    certificate = _machine(der)
    _must(certificate.public.hex() == said.key, "the certificate is for another key")
    # The service's own rule is what the gateway applied; the owner's own trust policy decides for the owner.
    theirs = TrustPolicy.from_toml(service.said.worker_trust)
    embedded = Appraisal.from_dict(receipt.appraisals.worker)
    again = appraise(certificate.evidence, certificate.spki, theirs, embedded.at, "worker", inside)
    _must(again == embedded, "the appraisal in the receipt is not what the evidence gives")
    _must(
        embedded.at - limits.CLOCK_SKEW_SECONDS
        <= receipt.started
        < embedded.expires + limits.CLOCK_SKEW_SECONDS,
        "the appraisal in the receipt did not count when the run started",
    )
    _must(
        embedded.at <= at + limits.CLOCK_SKEW_SECONDS,
        "the appraisal in the receipt is newer than the receipt",
    )
    found = appraise(certificate.evidence, certificate.spki, trust, at, "worker", collected)
    _must(found.service == service.digest, "the worker's evidence is for another service statement")
    proven = (found.measurement or "none", found.level, found.tee, found.simulated, found.evidence_digest)
    _must(
        proven == (said.measurement, said.level, said.tee, said.simulated, said.evidence),
        "the receipt says something else of the worker than its evidence proves",
    )
    _must(
        receipt.environment in found.environments.values(),
        "the worker's evidence does not name the environment",
    )
    return found


def _signed(envelope: Mapping[str, Any], digest: str, kind: type[S], service: Service) -> tuple[str, S]:
    """Signer and predicate of a party's statement with this digest, for this service."""
    statement = statements.verify(dsse.from_dict(dict(envelope)), kind.kind)
    _must(statement.digest == digest, f"the {kind.kind} statement is another than the receipt names")
    said = _of(kind, statement.predicate)
    _must(said.origin == service.said.origin, f"the {kind.kind} statement is for another log")
    _must(said.service == service.digest, f"the {kind.kind} statement is for another service statement")
    return statement.signer, said


def _task(task: statements.TaskStatement, receipt: statements.ReceiptStatement) -> None:
    _must(task.function == receipt.function, "the task names another function")
    _must(task.environment == receipt.environment, "the task names another environment")
    _must(set(task.inputs) == set(receipt.inputs), "the task names other inputs")
    accept, worker = task.accept, receipt.worker
    _must(worker.measurement in accept.workers, "the task does not accept this worker's measurement")
    _must(worker.level >= accept.min_level, "the task asks for a higher level")
    _must(worker.tee in accept.tees, "the task does not accept this TEE class")
    _must(accept.allow_simulated or not worker.simulated, "the task does not accept simulated evidence")


def _inputs(
    bundle: wire.Bundle,
    receipt: statements.ReceiptStatement,
    service: Service,
    task: statements.TaskStatement,
) -> tuple[dict[str, VerifiedInput], dict[str, tuple[str, statements.DatasetStatement]]]:
    """What the inputs are, and the datasets among them: digest -> owner and statement."""
    named = set(receipt.inputs.values())
    _must(set(bundle.datasets) | set(bundle.sources) == named, "they are not exactly the inputs")
    ruled = {PLATFORM: sha256(service.said.platform_policy.encode())}
    found, datasets = {}, {}
    for name, digest in sorted(receipt.inputs.items()):
        source = task.inputs[name]
        if isinstance(source, OutputOf):
            found[name] = _output(bundle, service, name, digest, source)
            continue
        _must(digest in bundle.datasets, "an input is no dataset")
        owner, said = _signed(bundle.datasets[digest], digest, statements.DatasetStatement, service)
        wanted = (source.owner, source.dataset) if isinstance(source, NewestDataset) else None
        _must(
            digest == source if wanted is None else wanted == (owner, said.name),
            "the task names another dataset",
        )
        ruled[digest] = sha256(said.policy.encode())
        datasets[digest] = (owner, said)
        found[name] = VerifiedInput(
            name, "dataset", digest, said.name, (owner,), said.blob.sha256, ruled[digest]
        )
    _must(receipt.policies == ruled, "the policies that were evaluated are not those of datasets and service")
    return found, datasets


def _output(bundle: wire.Bundle, service: Service, name: str, run: str, source: OutputOf) -> VerifiedInput:
    """Another task's output. The receipt of its run is signed by this log's key; its worker's evidence is for whoever
    verifies that run's own bundle.
    """
    _must(run in bundle.sources, "an input is no output of another task")
    papers = bundle.sources[run]
    envelope, made = _receipt_of(papers.receipt, service)
    _must(made.run == run and made.task == source.task, "the receipt of an input is of another task or run")
    _must(made.failure is None and source.output in made.outputs, "an input was never made")
    _must(envelope.digest != dsse.from_dict(bundle.receipt).digest, "a run reads its own output")
    _, task = _signed(papers.task, source.task, statements.TaskStatement, service)
    owners = tuple(keys.signing for keys in task.outputs.get(source.output, ()))
    title = f"{task.name}/{source.output}"
    return VerifiedInput(name, "output", run, title, owners, made.outputs[source.output].sha256, None)


def _names(bundle: wire.Bundle, service: Service) -> dict[str, str]:
    """Party -> the name under which it introduced itself, by its own signature."""
    found = {}
    for party, envelope in bundle.parties.items():
        statement = statements.verify(dsse.from_dict(envelope), "party")
        said = _of(statements.PartyStatement, statement.predicate)
        _must(statement.signer == party, "a party's statement is signed by another")
        _must(
            (said.origin, said.service) == (service.said.origin, service.digest),
            "a party's statement is for another service",
        )
        found[party] = said.keys.name
    return found


def _approvals(
    bundle: wire.Bundle,
    receipt: statements.ReceiptStatement,
    service: Service,
    task: statements.TaskStatement,
    function: tuple[str, statements.FunctionStatement],
    inputs: Mapping[str, VerifiedInput],
) -> tuple[GivenApproval, ...]:
    names = _names(bundle, service)
    needed = must_approve(task, {name: item.owners for name, item in inputs.items()}, function)
    _must(set(receipt.approvals) == set(needed), "they are not by exactly those who had to approve")
    _must(
        set(bundle.approvals) <= set(receipt.approvals.values()),
        "there is one that the receipt does not name",
    )
    found = []
    for party, digest in sorted(receipt.approvals.items()):
        reason, name = needed[party], names.get(party)
        if digest in bundle.approvals:
            signer, said = _signed(bundle.approvals[digest], digest, statements.ApprovalStatement, service)
            _must(signer == party, "an approval is signed by another party than the receipt says")
            _must(said.task == receipt.task, "an approval is for another task")
            _must(said.expires > receipt.started, "an approval had expired")
            found.append(GivenApproval(party, name, reason, "signature", said.id, said.expires))
            continue
        _must(
            _stands(bundle, inputs.values(), party, digest), f"the approval of party {party[:16]} is missing"
        )
        found.append(GivenApproval(party, name, reason, "policy", None, None))
    return tuple(found)


def _stands(bundle: wire.Bundle, inputs: Iterable[VerifiedInput], party: str, digest: str) -> bool:
    """Whether the policy of dataset `digest` stands for its owner's approval: of its data, and of nothing that the
    party owns with others.
    """
    mine = [item for item in inputs if party in item.owners]
    said = next((bundle.datasets[digest] for item in mine if item.digest == digest), None)
    if said is None or any(item.kind == "output" for item in mine):
        return False
    dataset = statements.read(dsse.from_dict(said), "dataset")
    return AUTOMATIC in statements.expect(dataset, statements.DatasetStatement).policy


def _outputs(task: statements.TaskStatement, receipt: statements.ReceiptStatement) -> None:
    produced, named = set(receipt.outputs), set(task.outputs)
    _must(produced <= named, "there is an output that the task does not name")
    if receipt.failure is None:
        _must(produced == named, "an output of the task is missing")
    else:
        _must(produced <= {"diagnostics"}, "a failed run has an output other than its diagnostics")


__all__ = ["GivenApproval", "VerifiedInput", "VerifiedReceipt", "verify_bundle"]
