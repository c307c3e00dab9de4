"""Messages of the HTTP API. Requests are parsed as hostile on the gateway's side, answers on the client's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from . import limits
from .digests import Hex32, HpkePublic, KeyWrap, Name, Wrap
from .executors import Executor
from .model import Model, TableFormat, Time
from .model_card import ModelCard
from .protection import Enforced, Protection
from .records import RecordProof
from .statements import Failure, RunLimits, WorkerFacts

Checkpoint = Annotated[str, StringConstraints(max_length=limits.CHECKPOINT_BYTES)]
Base64 = Annotated[str, StringConstraints(max_length=2 * limits.CERTIFICATE_BYTES)]
Index = Annotated[int, Field(ge=0)]
API = "/v1"
"""Prefix of every path."""
WATCH_SECONDS = 25
"""Longest wait of one watch request."""


class ServiceReply(Model):
    """Who this is: the signed service statement, the newest checkpoint and the present state."""

    statement: dict[str, Any]
    digest: Hex32
    checkpoint: Checkpoint
    epoch: int
    epoch_index: Index
    status: Literal["ready", "halted", "host_failed"]
    fresh: bool
    registered: bool
    version: str


class Posted(Model):
    """A statement is in the log."""

    digest: Hex32
    index: Index
    checkpoint: Checkpoint
    already: bool
    result: ResultReply | None = None


class ResultReply(Model):
    """Result release: output keys wrapped to the receiver, and the receipt bundle."""

    wraps: dict[Name, Wrap]
    bundle: Bundle


class InvokeRequest(Model):
    """Run a task and take the result: the run statement, and the collect statement for the run that it begins."""

    run: dict[str, Any]
    collect: dict[str, Any]
    wait: Annotated[int, Field(ge=0, le=WATCH_SECONDS)]


class Invoked(Model):
    """Where the run stands; with its result if it has ended, and with those of its sealed outputs that are small."""

    posted: Posted
    status: Literal["queued", "running", "finished", "failed", "cancelled"]
    failure: Failure | None
    result: ResultReply | None
    blobs: dict[Hex32, Annotated[str, StringConstraints(max_length=2 * limits.INLINE_BYTES)]]


class SourcePapers(Model):
    """A run whose output was read: its counter-signed receipt, and its task, which says whose the output is."""

    receipt: dict[str, Any]
    task: dict[str, Any]


class Bundle(Model):
    """All that an offline check of one run needs beside a trust policy."""

    version: Literal[1] = 1
    receipt: dict[str, Any]
    record: RecordProof
    checkpoint: Checkpoint
    service: dict[str, Any]
    task: dict[str, Any]
    function: dict[str, Any]
    datasets: dict[Hex32, dict[str, Any]]
    sources: dict[Hex32, SourcePapers]
    """By run: where the outputs of other tasks that were read come from."""
    approvals: dict[Hex32, dict[str, Any]]
    parties: dict[Hex32, dict[str, Any]]
    worker_certificate: Base64
    gateway_certificate: Base64
    endorsements: Annotated[str, StringConstraints(max_length=2 * limits.BUNDLE_ENDORSEMENTS_BYTES)]
    """Base64 of the collection by which the worker was appraised (`attestation.Endorsements.encode`)."""


class GrantRequest(Model):
    """A worker shows a ticket and a fresh key for this attempt."""

    ticket: Annotated[str, StringConstraints(max_length=2 * limits.TICKET_BYTES)]
    attempt_key: HpkePublic


class GrantedBlob(Model):
    """A sealed file that the attempt may open."""

    sha256: Hex32
    size: Annotated[int, Field(ge=1, le=limits.BLOB_BYTES)]
    format: TableFormat
    wrap: Wrap | None
    warm: Annotated[int, Field(ge=0, le=limits.MODEL_WARM_SECONDS)] = Field(
        default=0, exclude_if=lambda value: not value
    )
    """For how many seconds the model in it may stay loaded after this run, as its owner's card says."""


class GrantReply(Model):
    """Everything that one attempt needs, and nothing more."""

    run: Hex32
    task: Hex32
    function: Hex32
    environment: Hex32
    fence: Index
    attempt: Annotated[int, Field(ge=1)]
    lease_seconds: Annotated[int, Field(ge=1)]
    executor: Executor
    entry: Name
    code: GrantedBlob | None
    sources: dict[Name, Hex32]
    """What each input is: a dataset, or the run whose output it is."""
    inputs: dict[Name, GrantedBlob]
    worker: WorkerFacts
    appraisal: dict[str, Any]
    """The gateway's appraisal of this worker, for the receipt."""
    endorsements: Hex32
    arguments: dict[str, Any]
    outputs: dict[Name, TableFormat]
    limits: RunLimits
    approvals: dict[Hex32, Hex32]
    policies: dict[str, Hex32]
    protection: Enforced | None
    """What may leave of the inputs; None for all."""
    noise: Hex32 | None
    """The seed of a private function's noise: of this task on these inputs, whatever the attempt."""


class RenewReply(Model):
    """Whether the attempt still counts."""

    status: Literal["running", "stop"]
    lease_seconds: int


class FinishRequest(Model):
    """The worker's receipt and its output keys, wrapped to the gateway."""

    receipt: dict[str, Any]
    wraps: dict[Name, Wrap]


class FinishReply(Model):
    """The receipt is in the log."""

    index: Index


class HandOverRequest(Model):
    """A peer gateway asks for the service's keys; its evidence vouches for this key."""

    key: HpkePublic


class HandOverReply(Model):
    """The service's keys, each wrapped to the key of the request and bound to the log entry at `index`."""

    index: Annotated[int, Field(ge=0)]
    service: dict[str, Any]
    wraps: Annotated[dict[Name, KeyWrap], Field(max_length=8)]


class PartyView(Model):
    """A registered party."""

    id: Hex32
    name: Name
    index: Index
    statement: dict[str, Any]
    fresh: bool


class DatasetView(Model):
    """A dataset as other parties see it: everything but the wrap."""

    digest: Hex32
    owner: Hex32
    owner_name: Name
    name: Name
    index: Index
    format: TableFormat
    columns: tuple[dict[str, str], ...]
    rows: int | None
    blob: Hex32
    size: int
    policy: str
    retired: bool
    suspended: bool
    version: int
    """Of those that its owner registered under its name, counted from 1."""
    uses: int
    protection: Protection | None
    """What may leave; None for no limit."""
    spent: dict[str, int]
    """Party, or ``everybody``, -> what was spent of the privacy budget, in millionths of epsilon. The owner sees all,
    others what they have spent themselves and what all together have."""
    card: ModelCard | None = None
    """What its owner says of a model; None for data."""


class FunctionView(Model):
    """A function."""

    digest: Hex32
    owner: Hex32
    owner_name: Name
    name: Name
    index: Index
    executor: str
    entry: str
    private: bool
    code: Hex32 | None
    inputs: tuple[dict[str, Any], ...]
    variadic: bool
    arguments: tuple[dict[str, Any], ...]
    outputs: tuple[dict[str, Any], ...]
    callers: tuple[Hex32, ...] | None
    quota: int | None
    retired: bool
    suspended: bool
    version: int
    """Of those that its owner registered under its name, counted from 1."""
    environment: Hex32 | None = None
    """The only one in which tasks may run it; None for any."""


class ApprovalView(Model):
    """What a task needs of one party, and whether it is there."""

    party: Hex32
    name: Name
    reason: str
    state: Literal["missing", "approved", "automatic", "withdrawn", "expired"]
    id: str | None
    index: int | None
    expires: Time | None
    in_force: int = 0
    """How many approvals of this party one withdrawal takes back."""


class RunView(Model):
    """One run."""

    digest: Hex32
    status: Literal["queued", "running", "finished", "failed", "cancelled"]
    index: Index
    time: Time
    attempts: int
    failure: Failure | None
    ended: int | None
    inputs: dict[Name, Hex32]
    """What each input was at key release: a dataset, or the run whose output it is; empty before."""
    worker: dict[str, Any] | None


class TriggerView(Model):
    """A trigger of a task. `due` is log time: not before then."""

    digest: Hex32
    every: int | None
    due: Time
    expires: Time
    fired: int
    state: Literal["in_force", "stopped", "expired"]


class TaskView(Model):
    """A task with what it still needs and its runs; every state is derived from the log."""

    digest: Hex32
    author: Hex32
    author_name: Name
    name: Name
    index: Index
    state: Literal["created", "approved", "queued", "running", "finished", "failed", "cancelled", "expired"]
    statement: dict[str, Any]
    approvals: tuple[ApprovalView, ...]
    runs: tuple[RunView, ...]
    inputs: dict[Name, Hex32 | None]
    """What each input is now: a dataset, the run whose output it is, or None as long as there is neither."""
    triggers: tuple[TriggerView, ...]
    log_size: int


class ListReply(Model):
    """A page of views, in the order of the log."""

    items: tuple[dict[str, Any], ...]
    after: Annotated[int, Field(ge=0)] | None = None
    """Where the next page begins: what to give as ``after``. None on the last one."""


class ProofReply(Model):
    """Hashes of a consistency proof, from the tree of `first` entries to that of `second`."""

    first: Index
    second: Index
    path: Annotated[tuple[Hex32, ...], Field(max_length=limits.PROOF_HASHES)]


Posted.model_rebuild()
ResultReply.model_rebuild()
Invoked.model_rebuild()
