"""Statements: signed facts in the in-toto Statement v1 format, inside DSSE envelopes.

Each kind is one predicate model below: frozen, strict, refusing unknown fields. What a statement is *about* stands in
its subject, which must be exactly what the predicate says. Every statement of a party carries the newest checkpoint
that the party has verified, so a gateway whose log was rolled back meets its own future.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from ..errors import KeyRefused, Malformed, TooLarge, UnsupportedVersion
from . import envelope as dsse
from . import limits
from .digests import AgeRecipient, Hex16, Hex32, HpkePublic, Name, Wrap, sha256
from .examples import Example
from .examples import check as check_examples
from .executors import Executor
from .jsonstrict import canonical, parse_object
from .marginals import Marginals
from .model import Column, Measurement, Model, Origin, PolicyText, TableFormat, Time, validate
from .model_card import ModelCard
from .protection import Enforced, Protection
from .service import RecoveryStatement as RecoveryStatement
from .service import ServiceStatement as ServiceStatement
from .sources import Source
from .sources import about as source_about

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX = "urn:mesatee:statement:"
VERSION = "v1"
STATEMENTS_REMEMBERED = 128
"""Statements whose reading is remembered, by their bytes: as many as are under way at once, in some 20 MiB at most."""


class PartyKeys(Model):
    """A party's full keys: Ed25519 (hex), age X25519 recipient, X-Wing public key (base64)."""

    name: Name
    signing: Hex32
    age: AgeRecipient
    hpke: HpkePublic


class Common(Model):
    """What every statement of a party says beside its own matter."""

    kind: ClassVar[str] = ""

    origin: Origin
    service: Hex32
    time: Time
    nonce: Hex16
    checkpoint: Annotated[str, StringConstraints(min_length=1, max_length=limits.CHECKPOINT_BYTES)]

    def about(self) -> dict[str, str]:
        """The subject: name -> SHA-256."""
        return {}


class PartyStatement(Common):
    """A party introduces itself; signed by the identity key that it names."""

    kind = "party"
    keys: PartyKeys

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"party": sha256(bytes.fromhex(self.keys.signing))}


class BlobRef(Model):
    """A sealed file in the blob store."""

    sha256: Hex32
    size: Annotated[int, Field(ge=1, le=limits.BLOB_BYTES)]


class ColumnInfo(Model):
    """One column of a table."""

    name: Column
    type: Annotated[str, StringConstraints(min_length=1, max_length=limits.NAME_CHARS)]
    required: bool = Field(default=False, exclude_if=lambda value: not value)
    """The file's schema says that every row has a value. Not part of the signed form where it does not."""


class DatasetStatement(Common):
    """An owner's sealed data, its policy, and its file key wrapped to the gateway."""

    kind = "dataset"
    name: Name
    blob: BlobRef
    format: TableFormat
    columns: Annotated[tuple[ColumnInfo, ...], Field(max_length=limits.COLUMNS)]
    rows: Annotated[int, Field(ge=0)] | None
    policy: PolicyText
    wrap: Wrap
    marginals: Marginals | None = Field(default=None, exclude_if=lambda value: value is None)
    """For mock data, noisy. Without them the field is not part of the signed form."""
    protection: Protection | None = Field(default=None, exclude_if=lambda value: value is None)
    """What may leave. Without it the field is not part of the signed form."""
    card: ModelCard | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a model. Without it the field is not part of the signed form."""

    @model_validator(mode="after")
    def _consistent(self) -> DatasetStatement:
        if self.marginals is not None:
            self.marginals.check({item.name: item.type for item in self.columns}, self.rows)
        return self

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"blob": self.blob.sha256}


class Port(Model):
    """A named input or output of a function."""

    name: Name
    format: TableFormat = "csv"
    optional: bool = False


class Argument(Model):
    """A typed argument: one of JSON's types, or `json` for several of them, with an optional default."""

    name: Name
    type: Literal["str", "int", "float", "bool", "list", "dict", "json"]
    required: bool
    default: JsonValue = None


class CodeRef(Model):
    """A function's code as a blob. Sealed and wrapped to the gateway if the function is private."""

    sha256: Hex32
    size: Annotated[int, Field(ge=1, le=limits.CODE_BYTES + limits.AGE_HEADER_BYTES)]
    wrap: Wrap | None


class FunctionStatement(Common):
    """Code that may be named by tasks."""

    kind = "function"
    name: Name
    executor: Executor
    entry: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=limits.NAME_CHARS)
    ]
    private: bool
    code: CodeRef | None
    inputs: Annotated[tuple[Port, ...], Field(max_length=limits.INPUTS)]
    variadic: bool
    arguments: Annotated[tuple[Argument, ...], Field(max_length=limits.COLUMNS)]
    outputs: Annotated[tuple[Port, ...], Field(min_length=1, max_length=limits.INPUTS)]
    callers: Annotated[tuple[Hex32, ...], Field(max_length=limits.CALLERS)] | None
    """Parties whose tasks may name it, beside its owner's; None for everybody's."""
    quota: Annotated[int, Field(ge=1, le=limits.RUNS)] | None
    """Runs that each of them has, over all of its tasks; None for any number."""
    examples: Annotated[tuple[Example, ...], Field(max_length=limits.EXAMPLES)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """What it must give for which inputs. Without any the field is not part of the signed form."""
    environment: Annotated[Hex32 | None, Field(exclude_if=lambda value: value is None)] = None
    """The only environment in which tasks may run it; left out for any."""

    @model_validator(mode="after")
    def _consistent(self) -> FunctionStatement:
        if (self.executor == "builtin") != (self.code is None):
            raise ValueError("a builtin has no code of its own, any other function has")
        if self.code is not None and self.private != (self.code.wrap is not None):
            raise ValueError("exactly private code is sealed and carries a wrap")
        for group in (self.inputs, self.outputs, self.arguments):
            if len({item.name for item in group}) != len(group):
                raise ValueError("names of inputs, outputs and arguments are unique")
        if any(port.name == "diagnostics" for port in self.outputs):
            raise ValueError("diagnostics is a reserved output")
        check_examples(
            self.examples,
            required=[port.name for port in self.inputs if not port.optional],
            inputs=None if self.variadic else [port.name for port in self.inputs],
            arguments=[item.name for item in self.arguments],
            outputs=[port.name for port in self.outputs],
        )
        if self.environment is not None and self.executor != "python":
            raise ValueError("only a Python function asks for an environment")
        return self

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"code": self.code.sha256} if self.code else {"builtin": sha256(self.entry.encode())}


class Accept(Model):
    """Which workers may run a task. A level never suffices alone."""

    min_level: Annotated[int, Field(ge=1, le=5)]
    tees: Annotated[tuple[Name, ...], Field(min_length=1, max_length=32)]
    workers: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=64)]
    allow_simulated: bool


class RunLimits(Model):
    """What one run may use."""

    seconds: Annotated[int, Field(ge=1, le=limits.RUN_SECONDS)] = 600
    cpu_seconds: Annotated[int, Field(ge=1, le=limits.RUN_SECONDS)] = 600
    memory_bytes: Annotated[int, Field(ge=64 * limits.MIB, le=1024 * limits.GIB)] = 2 * limits.GIB
    output_bytes: Annotated[int, Field(ge=1, le=limits.BLOB_BYTES)] = 256 * limits.MIB
    threads: Annotated[int, Field(ge=1, le=256)] = 4


class TaskStatement(Common):
    """Which code on which data for whom, where, how often and until when."""

    kind = "task"
    name: Name
    function: Hex32
    environment: Hex32
    inputs: Annotated[dict[Name, Source], Field(max_length=limits.INPUTS)]
    arguments: dict[Name, JsonValue]
    outputs: dict[
        Name, Annotated[tuple[PartyKeys, ...], Field(min_length=1, max_length=limits.PARTIES_PER_TASK)]
    ]
    accept: Accept
    limits: RunLimits
    runs: Annotated[int, Field(ge=1, le=limits.RUNS)]
    expires: Time

    @model_validator(mode="after")
    def _consistent(self) -> TaskStatement:
        if len(canonical(self.arguments)) > limits.ARGUMENTS_BYTES:
            raise ValueError(f"arguments have at most {limits.ARGUMENTS_BYTES} bytes")
        if not 1 <= len(self.outputs) <= limits.INPUTS + 1:
            raise ValueError("a task names receivers for at least one output")
        for receivers in self.outputs.values():
            if len({keys.signing for keys in receivers}) != len(receivers):
                raise ValueError("an output names each receiver once")
        return self

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {
            "function": self.function,
            **{f"input {name}": source_about(source) for name, source in self.inputs.items()},
        }


class ApprovalStatement(Common):
    """A party agrees to one task, by its digest."""

    kind = "approval"
    task: Hex32
    id: Hex16
    expires: Time

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"task": self.task}


class WithdrawalStatement(Common):
    """An approval's id never counts again, nor do the party's earlier approvals of the task."""

    kind = "withdrawal"
    task: Hex32
    id: Hex16

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"task": self.task}


class RunStatement(Common):
    """Run a task once."""

    kind = "run"
    task: Hex32

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"task": self.task}


class CancelStatement(Common):
    """Stop a run."""

    kind = "cancel"
    run: Hex32

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"run": self.run}


class CollectStatement(Common):
    """A receiver asks for the outputs of a finished run."""

    kind = "collect"
    run: Hex32

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"run": self.run}


class RetireStatement(Common):
    """The owner takes a dataset, function or trigger out of use for good: no new run, no new key release.

    Where the owner's yes was a standing policy, runs under it stop and their results stay, as after a withdrawal.
    """

    kind = "retire"
    target: Hex32

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"target": self.target}


class SuspendStatement(Common):
    """The owner takes a dataset or function out of use for a while, or brings it back.

    Meanwhile nobody may name it in a new task, and no run begins or gets keys; what runs already runs on.
    """

    kind = "suspend"
    target: Hex32
    suspended: bool

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"target": self.target}


class TriggerStatement(Common):
    """The author has the gateway run a task: each `every` seconds, or, if that is None, whenever an input is newer.

    Each such run counts as one of the author's, under the same approvals and policies.
    """

    kind = "trigger"
    task: Hex32
    every: Annotated[int, Field(ge=limits.TRIGGER_SECONDS, le=limits.APPROVAL_SECONDS)] | None
    expires: Time

    def about(self) -> dict[str, str]:
        """See `Common.about`."""
        return {"task": self.task}


class PresenceStatement(Common):
    """A party says which checkpoint it has verified, and nothing else."""

    kind = "presence"


class WorkerFacts(Model):
    """What was appraised of the worker that ran it."""

    key: Hex32
    measurement: Measurement
    level: Annotated[int, Field(ge=1, le=5)]
    tee: Name
    simulated: bool
    evidence: Hex32
    certificate: Hex32


class Appraisals(Model):
    """What gateway and worker had concluded of each other when they exchanged keys, as `attestation.Appraisal.as_dict`.

    Nobody has to believe them: a bundle holds the evidence, and its verifier comes to the same conclusions or refuses.
    """

    worker: dict[str, JsonValue]
    """The gateway's, at key release, under the worker trust of the service statement."""
    gateway: dict[str, JsonValue]
    """The worker's, in the handshake of its channel, under its own trust policy."""
    gateway_certificate: Hex32
    """SHA-256 of the certificate that the gateway showed to the worker."""
    endorsements: Hex32
    """Digest of the endorsements by which the worker was appraised."""

    @model_validator(mode="after")
    def _small(self) -> Appraisals:
        if max(len(canonical(item)) for item in (self.worker, self.gateway)) > limits.APPRAISAL_BYTES:
            raise ValueError(f"an appraisal has at most {limits.APPRAISAL_BYTES} bytes")
        return self


class OutputFacts(Model):
    """A sealed output."""

    sha256: Hex32
    size: Annotated[int, Field(ge=1, le=limits.BLOB_BYTES)]
    format: TableFormat


Failure = Literal[
    "bad_argument",
    "bad_input",
    "cancelled",
    "crashed",
    "function_raised",
    "input_corrupt",
    "input_missing",
    "out_of_cpu",
    "out_of_memory",
    "out_of_time",
    "output_too_large",
    "withheld",
    "worker_lost",
    "wrong_output",
]
FAILURES: tuple[str, ...] = get_args(Failure)
"""The closed list of failure codes: all that anybody but a receiver of `diagnostics` learns."""


class ReceiptStatement(Model):
    """The account of one finished run, signed by the worker and counter-signed by the gateway."""

    kind: ClassVar[str] = "receipt"

    origin: Origin
    service: Hex32
    run: Hex32
    task: Hex32
    function: Hex32
    environment: Hex32
    fence: Annotated[int, Field(ge=0)]
    inputs: dict[Name, Hex32]
    approvals: dict[Hex32, Hex32]
    policies: dict[str, Hex32]
    worker: WorkerFacts
    appraisals: Appraisals
    layers: tuple[Name, ...]
    started: Time
    finished: Time
    failure: Failure | None
    outputs: dict[Name, OutputFacts]
    protection: Enforced | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the owners of the inputs let out. Without any such limit the field is not part of the signed form."""

    def about(self) -> dict[str, str]:
        """The run."""
        return {"run": self.run, "task": self.task}


Predicate = Common | ServiceStatement | ReceiptStatement | RecoveryStatement

PARTY_KINDS: Mapping[str, type[Common]] = MappingProxyType(
    {
        model.kind: model
        for model in (
            PartyStatement,
            DatasetStatement,
            FunctionStatement,
            TaskStatement,
            ApprovalStatement,
            WithdrawalStatement,
            RunStatement,
            CancelStatement,
            CollectStatement,
            RetireStatement,
            SuspendStatement,
            TriggerStatement,
            PresenceStatement,
        )
    }
)
"""The statements that parties post, by kind."""

K = TypeVar("K", "ServiceStatement", "ReceiptStatement", "DatasetStatement", "RecoveryStatement")

_KINDS: dict[str, type[Predicate]] = {
    **PARTY_KINDS,
    "service": ServiceStatement,
    "receipt": ReceiptStatement,
    "recovery": RecoveryStatement,
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement whose signature by `signer` is verified."""

    digest: str
    signer: str
    predicate: Predicate
    envelope: dsse.Envelope

    @property
    def kind(self) -> str:
        """The kind, e.g. ``task``."""
        return self.predicate.kind


def expect(predicate: Predicate, kind: type[K]) -> K:
    """The predicate, known to be of this kind. Raises `Malformed`."""
    if not isinstance(predicate, kind):
        raise Malformed(f"expected a {kind.kind} statement, this is a {predicate.kind}")
    return predicate


def payload(predicate: Predicate) -> bytes:
    """The in-toto statement's canonical bytes, i.e. what is signed and digested."""
    about = predicate.about()
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": about[name]}} for name in sorted(about)],
            "predicateType": f"{PREDICATE_PREFIX}{predicate.kind}:{VERSION}",
            "predicate": predicate.model_dump(mode="json"),
        }
    )


def sign(predicate: Predicate, signer: dsse.Signer) -> Statement:
    """Make and sign a statement. Raises `TooLarge` if it does not fit an envelope."""
    # What was put together here was not parsed: values that have no canonical form are refused before they are signed.
    canonical(predicate.model_dump(mode="json"))
    envelope = dsse.sign(payload(predicate), [signer])
    if len(envelope.to_bytes()) > limits.STATEMENT_BYTES:
        raise TooLarge(f"the statement has more than {limits.STATEMENT_BYTES} bytes")
    return Statement(envelope.digest, signer.public.hex(), predicate, envelope)


def read(envelope: dsse.Envelope, kind: str | None = None) -> Predicate:
    """The predicate of an envelope, strictly validated; no signature is checked.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    return _read(envelope.payload, kind)


@lru_cache(maxsize=STATEMENTS_REMEMBERED)
def _read(data: bytes, kind: str | None) -> Predicate:
    # Remembered, because a gateway reads each statement when it comes, when it verifies it and when it applies it; the
    # same bytes always say the same, and predicates are frozen.
    body = parse_object(data, limit=limits.STATEMENT_BYTES)
    if set(body) != {"_type", "subject", "predicateType", "predicate"} or body["_type"] != STATEMENT_TYPE:
        raise Malformed(f"a statement has _type {STATEMENT_TYPE}, subject, predicateType and predicate")
    found = body["predicateType"]
    if not isinstance(found, str) or not found.startswith(PREDICATE_PREFIX):
        raise UnsupportedVersion(f"predicateType must start with {PREDICATE_PREFIX}")
    name, _, version = found.removeprefix(PREDICATE_PREFIX).partition(":")
    if name not in _KINDS or version != VERSION:
        raise UnsupportedVersion(
            f"unknown statement {name[:64]!r} in version {version[:16]!r}; known is {VERSION}"
        )
    if kind is not None and name != kind:
        raise Malformed(f"expected a {kind} statement, this is a {name}")
    predicate = validate(_KINDS[name], body["predicate"], name)
    # Field order, white space or omitted defaults must not make a second digest for the same fact.
    if payload(predicate) != data:
        raise Malformed(
            f"the {name} statement is not in canonical form, or its subject is not what it is about"
        )
    return predicate


def verify(envelope: dsse.Envelope, kind: str | None = None) -> Statement:
    """Read a statement with exactly one signature and check that signature.

    Raises what `read` raises, `SignatureInvalid` or `KeyRefused`.
    """
    predicate = read(envelope, kind)
    if len(envelope.signatures) != 1:
        raise Malformed("a party's statement has exactly one signature")
    signer = envelope.signatures[0].keyid
    envelope.verify(signer)
    if isinstance(predicate, PartyStatement) and predicate.keys.signing != signer:
        raise KeyRefused("a party statement is signed by the identity key that it names")
    if isinstance(predicate, ServiceStatement) and predicate.log_key != signer:
        raise KeyRefused("a service statement is signed by its log key")
    return Statement(envelope.digest, signer, predicate, envelope)
