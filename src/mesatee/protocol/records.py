"""Log records: what a log entry commits to, and what the parties concerned can check.

A record is canonical JSON: a party's statement, or an outcome that the gateway decided. The tree's entry is
``SHA-256(salt || record) || SHA-256(sealed body)``: it says nothing to those who do not have the salt.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..errors import LogCorrupt, Malformed, MesateeError
from . import envelope as dsse
from . import limits
from .digests import Hex16, Hex32, Name, Wrap, sha256
from .jsonstrict import canonical
from .model import Measurement, Model, Time, read, validate
from .protection import Epsilon
from .statements import Failure, WorkerFacts

SALT_BYTES = 16
RECORD_VERSION = 1


class Outcome(Model):
    """Base of what the gateway itself decides."""

    kind: ClassVar[str] = ""


class EpochOutcome(Outcome):
    """A gateway took up the log. `nonce` makes the epoch's checkpoints new to everybody."""

    kind = "epoch"
    number: Annotated[int, Field(ge=1)]
    nonce: Hex32
    measurement: Measurement
    level: Annotated[int, Field(ge=1, le=5)]
    channel_key: Hex32


class DeniedOutcome(Outcome):
    """The monitor said no. The reason is the error's code; no value of the request is kept."""

    kind = "denied"
    by: Annotated[str, Field(max_length=64)]
    action: Annotated[str, Field(max_length=64)]
    subject: Annotated[str, Field(max_length=64)]
    code: Annotated[str, Field(max_length=64)]
    others: Annotated[int, Field(ge=0)] = 0
    """Refusals of peers that are not registered, since the last one of these in the log, that did not enter it."""


class GrantOutcome(Outcome):
    """Key release: the keys of one run go to one worker. The entry's index is the fence."""

    kind = "grant"
    run: Hex32
    attempt: Annotated[int, Field(ge=1, le=limits.ATTEMPTS)]
    lease: Annotated[int, Field(ge=1)]
    worker: WorkerFacts
    approvals: dict[Hex32, Hex32]
    policies: dict[str, Hex32]
    inputs: dict[Name, Hex32]
    """What each input was then: a dataset, or the run whose output it is."""
    charges: dict[Hex32, Epsilon] = Field(default={}, exclude_if=lambda value: not value)
    """Dataset -> what its budget pays, in millionths. Not part of the form where nothing is to be paid."""


class FiredOutcome(Outcome):
    """A trigger was due: its run, or the code of the error that kept it from running."""

    kind = "fired"
    trigger: Hex32
    number: Annotated[int, Field(ge=1)]
    run: Hex32 | None
    code: Annotated[str, Field(max_length=64)] | None


class ReceiptOutcome(Outcome):
    """The one receipt of a run, counter-signed, with the output keys wrapped to the gateway."""

    kind = "receipt"
    run: Hex32
    fence: Annotated[int, Field(ge=0)]
    failure: Failure | None
    wraps: dict[Name, Wrap]
    envelope: dict[str, Any]


class ClosedOutcome(Outcome):
    """A run ended without a receipt."""

    kind = "closed"
    run: Hex32
    failure: Failure


class ReleaseOutcome(Outcome):
    """Result release: output keys of a run go to one receiver."""

    kind = "release"
    run: Hex32
    to: Hex32
    outputs: tuple[Name, ...]


class HandOverOutcome(Outcome):
    """The service's keys, and with them the right to begin the next epoch, go to another gateway. `successor` is the
    SHA-256 of the public key that they are wrapped to. This gateway decides nothing more.
    """

    kind = "hand_over"
    successor: Hex32
    peer: WorkerFacts


class SharesOutcome(Outcome):
    """The service's keys were sealed into shares: the recovery statement (an envelope), once for each service. It is in
    the log before anybody else has it.
    """

    kind = "shares"
    envelope: dict[str, Any]


class RecoveredOutcome(Outcome):
    """Holders of shares gave the service's keys to a fresh gateway, which takes up the log. `shares` is the digest of
    the recovery statement.
    """

    kind = "recovered"
    successor: Hex32
    holders: Annotated[tuple[Hex32, ...], Field(min_length=2, max_length=limits.SHARE_HOLDERS)]
    shares: Hex32


_OUTCOMES: dict[str, type[Outcome]] = {
    model.kind: model
    for model in (
        EpochOutcome,
        DeniedOutcome,
        GrantOutcome,
        FiredOutcome,
        ReceiptOutcome,
        ClosedOutcome,
        ReleaseOutcome,
        HandOverOutcome,
        SharesOutcome,
        RecoveredOutcome,
    )
}


class LogRecord(Model):
    """One record. `time` never decreases along the log; `source` says where its floor comes from."""

    v: Literal[1] = 1
    time: Time
    source: Literal["host", "parties"]
    kind: Annotated[str, Field(max_length=32)]
    body: dict[str, Any]

    @cached_property
    def encoded(self) -> bytes:
        """Canonical JSON, made once: the permit, the seal and the commitment are over the same bytes."""
        return canonical(self.model_dump(mode="json"))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return self.encoded

    def statement(self) -> dsse.Envelope:
        """The party's envelope of a record of kind ``statement``. Raises `Malformed`."""
        if self.kind != "statement":
            raise Malformed(f"a {self.kind} record holds no party's statement")
        return dsse.from_dict(self.body)

    def outcome(self) -> Outcome:
        """The gateway's outcome of any other record. Raises `Malformed`."""
        if self.kind not in _OUTCOMES:
            raise Malformed(f"unknown log record {self.kind!r}")
        return validate(_OUTCOMES[self.kind], self.body, self.kind)


def of_statement(envelope: dsse.Envelope, time: int, source: Literal["host", "parties"]) -> LogRecord:
    """The record of a party's statement."""
    return LogRecord(time=time, source=source, kind="statement", body=envelope.as_dict())


def of_outcome(outcome: Outcome, time: int, source: Literal["host", "parties"]) -> LogRecord:
    """The record of an outcome."""
    return LogRecord(time=time, source=source, kind=outcome.kind, body=outcome.model_dump(mode="json"))


def fired_run(trigger: str, number: int) -> str:
    """The digest of the run that a trigger began as its `number`-th, hex: no statement of a party can have it."""
    return sha256(canonical({"trigger": trigger, "number": number}))


def commitment(salt: bytes, record: bytes) -> bytes:
    """SHA-256(salt || record); salts have a fixed length, so the border is unambiguous."""
    return hashlib.sha256(salt + record).digest()


def entry(salt: bytes, record: bytes, sealed: bytes) -> bytes:
    """The tree's entry, 64 bytes."""
    return commitment(salt, record) + hashlib.sha256(sealed).digest()


def pack(salt: bytes, record: bytes) -> bytes:
    """The plaintext of a sealed body."""
    return salt + record


def unpack(data: bytes) -> tuple[bytes, bytes]:
    """Salt and record of an opened body. Raises `LogCorrupt`."""
    if len(data) <= SALT_BYTES:
        raise LogCorrupt("a log body is shorter than its salt")
    return data[:SALT_BYTES], data[SALT_BYTES:]


def parse(data: bytes) -> LogRecord:
    """Parse a record. Raises `Malformed` or `TooLarge`."""
    return read(LogRecord, data, "log record", limit=limits.LOG_BODY_BYTES)


class RecordProof(Model):
    """What a party concerned gets of one entry, enough to check it against a checkpoint without the gateway."""

    index: Annotated[int, Field(ge=0)]
    salt: Hex16
    record: Annotated[str, Field(max_length=limits.LOG_BODY_BYTES)]
    body_digest: Hex32
    size: Annotated[int, Field(ge=1)]
    path: Annotated[tuple[Hex32, ...], Field(max_length=limits.PROOF_HASHES)]

    def entry(self) -> bytes:
        """The entry that the proof is about."""
        return commitment(bytes.fromhex(self.salt), self.record.encode()) + bytes.fromhex(self.body_digest)

    def read(self) -> LogRecord:
        """The record. Raises `LogCorrupt` if it is none."""
        try:
            return parse(self.record.encode())
        except MesateeError as error:
            raise LogCorrupt(f"entry {self.index}: {error.message}") from None


__all__ = [
    "RECORD_VERSION",
    "SALT_BYTES",
    "ClosedOutcome",
    "DeniedOutcome",
    "EpochOutcome",
    "FiredOutcome",
    "GrantOutcome",
    "HandOverOutcome",
    "LogRecord",
    "Outcome",
    "ReceiptOutcome",
    "RecordProof",
    "RecoveredOutcome",
    "ReleaseOutcome",
    "SharesOutcome",
    "commitment",
    "entry",
    "fired_run",
    "of_outcome",
    "of_statement",
    "pack",
    "parse",
    "unpack",
]
