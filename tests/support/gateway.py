"""A gateway without a sandbox, for tests: in memory with clocks of its own, or live behind its real channel.

`World` drives the monitor over a record store in memory that a test can hold up, break or alter. `Live` runs
the real host process's server on a Unix socket and the real gateway on a thread, and speaks to it over
attested TLS. Members and workers are the same in both: they sign real statements, seal real files and hand in
real receipts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mesatee._core import (
    AgeKey,
    FileKey,
    HpkeKey,
    SecretKey,
    SigningKey,
    age_seal,
    memfd,
)
from mesatee.attestation.endorsements import NOTHING
from mesatee.attestation.trust import TrustPolicy
from mesatee.enclave.gateway.identity import ServiceKeys, Shares
from mesatee.enclave.gateway.keyring import Keyring
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.gateway.monitor import Accepted, Granted, Monitor
from mesatee.enclave.gateway.peer import Peer
from mesatee.enclave.gateway.state import State
from mesatee.errors import Conflict, MesateeError
from mesatee.protocol import envelope as dsse
from mesatee.protocol import records, statements, wraps
from mesatee.protocol.digests import b64encode
from mesatee.protocol.doors import Record
from mesatee.protocol.policy_text import DEFAULT_DATASET_POLICY, DEFAULT_PLATFORM_POLICY

NOW = 1_800_000_000
ORIGIN = "log.example/tests"
ENVIRONMENT = "0e" * 32
"""The digest of the environment that the workers of these tests offer."""
T = TypeVar("T")


# -- sealed files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SealedFile:
    """A file in age's format with its key by handle."""

    data: bytes
    digest: str
    key: FileKey

    @property
    def size(self) -> int:
        return len(self.data)


def seal(plain: bytes) -> SealedFile:
    """Seal bytes under a fresh file key."""
    source, target = memfd("plain"), memfd("sealed")
    try:
        os.write(source, plain)
        os.lseek(source, 0, os.SEEK_SET)
        sealed = age_seal(source, target, [])
        return SealedFile(os.pread(target, sealed.size, 0), sealed.digest, sealed.file_key)
    finally:
        os.close(source)
        os.close(target)


# -- parties ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """What a party must know of a service to write to it."""

    origin: str
    service: str
    sealing_key: bytes
    checkpoint: Callable[[], str]
    now: Callable[[], int]


class Member:
    """A party with all of its keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.signing, self.age, self.hpke = SigningKey.generate(), AgeKey.generate(), HpkeKey.generate()
        self.id = self.signing.public.hex()
        self.keys = statements.PartyKeys(
            name=name, signing=self.id, age=self.age.recipient, hpke=b64encode(self.hpke.public)
        )
        self.peer = Peer("party", self.id, b"", None)

    def write(self, desk: Desk, kind: type[statements.Common], **fields: Any) -> statements.Statement:
        """Sign a statement; `fields` may replace the common ones too."""
        common: dict[str, Any] = {
            "origin": desk.origin,
            "service": desk.service,
            "time": desk.now(),
            "nonce": secrets.token_hex(16),
            "checkpoint": fields.pop("checkpoint", None) or desk.checkpoint(),
        }
        return statements.sign(kind(**{**common, **fields}), self.signing)

    def upload(self, desk: Desk, sealed: SealedFile) -> str:
        """The gateway's wrap of a file key."""
        binding = wraps.upload(desk.origin, self.id, sealed.digest)
        return b64encode(sealed.key.wrap(desk.sealing_key, binding.info, binding.aad))

    def dataset(self, desk: Desk, sealed: SealedFile, **changes: Any) -> dict[str, Any]:
        """The fields of a dataset statement."""
        return {
            "name": f"{self.name}-data",
            "blob": statements.BlobRef(sha256=sealed.digest, size=sealed.size),
            "format": "csv",
            "columns": (statements.ColumnInfo(name="id", type="int64"),),
            "rows": 3,
            "policy": DEFAULT_DATASET_POLICY,
            "wrap": self.upload(desk, sealed),
            **changes,
        }


def function_fields(**changes: Any) -> dict[str, Any]:
    """A builtin of two inputs and one output."""
    return {
        "name": "psi",
        "executor": "builtin",
        "entry": "psi",
        "private": False,
        "code": None,
        "inputs": (statements.Port(name="left"), statements.Port(name="right")),
        "variadic": False,
        "callers": None,
        "quota": None,
        "arguments": (
            statements.Argument(name="key", type="str", required=True),
            statements.Argument(name="scale", type="float", required=False, default=1.5),
        ),
        "outputs": (statements.Port(name="result"),),
        **changes,
    }


def task_fields(
    function: str,
    inputs: Mapping[str, str],
    receivers: Sequence[Member],
    worker: statements.WorkerFacts,
    now: int,
    /,
    **changes: Any,
) -> dict[str, Any]:
    """A task that this worker may run."""
    return {
        "name": "overlap",
        "function": function,
        "environment": ENVIRONMENT,
        "inputs": dict(inputs),
        "arguments": {"key": "id"},
        "outputs": {"result": tuple(member.keys for member in receivers)},
        "accept": statements.Accept(
            min_level=worker.level,
            tees=(worker.tee,),
            workers=(worker.measurement,),
            allow_simulated=worker.simulated,
        ),
        "limits": statements.RunLimits(),
        "runs": 1,
        "expires": now + 86_400,
        **changes,
    }


# -- workers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handed:
    """A receipt as a worker hands it in."""

    envelope: dsse.Envelope
    wraps: dict[str, str]
    files: dict[str, SealedFile]


def receipt(
    desk: Desk,
    facts: Mapping[str, Any],
    signer: SigningKey,
    files: Mapping[str, bytes],
    failure: str | None = None,
    /,
    **changes: Any,
) -> Handed:
    """Seal outputs, wrap their keys to the gateway and sign the account; `changes` alter what it says."""
    made = {name: seal(data) for name, data in files.items()}
    wrapped = {}
    for name, sealed in made.items():
        binding = wraps.attempt_output(desk.origin, facts["run"], facts["fence"], name, sealed.digest)
        wrapped[name] = b64encode(sealed.key.wrap(desk.sealing_key, binding.info, binding.aad))
    said = {
        "origin": desk.origin,
        "service": desk.service,
        **facts,
        "layers": ("seccomp",),
        "started": desk.now(),
        "finished": desk.now() + 1,
        "failure": failure,
        "outputs": {
            name: statements.OutputFacts(
                sha256=item.digest, size=item.size, format="bytes" if name == "diagnostics" else "csv"
            )
            for name, item in made.items()
        },
        **changes,
    }
    envelope = statements.sign(statements.ReceiptStatement(**said), signer).envelope
    return Handed(envelope, wrapped, made)


class UnitWorker:
    """A worker whose appraisal is given, for the monitor alone."""

    def __init__(self, **changes: Any) -> None:
        self.key = SigningKey.generate()
        self.attempt = HpkeKey.generate()
        facts: dict[str, Any] = {
            "key": self.key.public.hex(),
            "measurement": "ab" * 32,
            "level": 2,
            "tee": "software",
            "simulated": False,
            "evidence": "ee" * 32,
            "certificate": "cc" * 32,
        }
        self.facts = statements.WorkerFacts(**{**facts, **changes})
        self.peer = Peer("worker", self.facts.key, b"", None)


def appraised(facts: statements.WorkerFacts) -> statements.Appraisals:
    """As much of the two appraisals as a gateway reads."""
    return statements.Appraisals(
        worker={
            "evidence_digest": facts.evidence,
            "measurement": facts.measurement,
            "level": facts.level,
            "tee": facts.tee,
            "simulated": facts.simulated,
        },
        gateway={},
        gateway_certificate="cc" * 32,
        endorsements=NOTHING.digest,
    )


def granted_facts(granted: Granted) -> dict[str, Any]:
    """What a receipt must say of a grant."""
    task = granted.task.predicate
    return {
        "run": granted.run.digest,
        "task": granted.task.digest,
        "function": granted.function.digest,
        "environment": task.environment,
        "fence": granted.grant.fence,
        "inputs": dict(granted.grant.inputs),
        "approvals": dict(granted.grant.approvals),
        "policies": dict(granted.grant.policies),
        "worker": granted.grant.worker,
        "appraisals": appraised(granted.grant.worker),
        "protection": granted.protection,
    }


# -- the host's records in memory -----------------------------------------------------------------------


class MemoryRecords:
    """`doors.Records` in memory. A test may hold it up, break it, or alter what it stores."""

    def __init__(self) -> None:
        self.stored: list[Record] = []
        self.signed = b""
        self.appends: list[int] = []
        self.heads: dict[int, bytes] = {0: b""}
        self.error: MesateeError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        if not self.gate.is_set():
            self.waiting.set()
            self.gate.wait(20)
        if self.error is not None:
            raise self.error
        if expected != len(self.stored):
            raise Conflict(f"append at {expected}, the list has {len(self.stored)} entries")
        self.stored.extend(records)
        self.signed = self.heads[len(self.stored)] = head
        self.appends.append(len(records))

    def rolled_back(self, count: int) -> MemoryRecords:
        """A store as this one was when it had `count` entries."""
        other = MemoryRecords()
        other.stored, other.signed = self.stored[:count], self.heads[count]
        other.heads = {size: head for size, head in self.heads.items() if size <= count}
        return other

    def read(self, start: int, limit: int) -> list[Record]:
        # Fewer than were asked for, as a host may answer.
        return self.stored[start : start + min(limit, 100)]

    def head(self) -> tuple[int, bytes]:
        return len(self.stored), self.signed


# -- the monitor alone ----------------------------------------------------------------------------------


def make_keys(
    platform_policy: str = DEFAULT_PLATFORM_POLICY, at: int = NOW, share_holders: Shares = ()
) -> ServiceKeys:
    """The keys of a service that exists in memory only."""
    log, sealing = SigningKey.generate(), HpkeKey.generate()
    said = statements.ServiceStatement(
        origin=ORIGIN,
        time=at,
        log_key=log.public.hex(),
        sealing_key=b64encode(sealing.public),
        platform_policy=platform_policy,
        worker_trust=TrustPolicy().to_toml(),
        witnesses=(),
        share_holders=share_holders,
        hand_over="never",
    )
    secret = SecretKey.generate()
    return ServiceKeys(
        log=log,
        sealing=sealing,
        body=secret.derive("body"),
        tickets=secret.derive("tickets"),
        snapshot=secret.derive("snapshot"),
        service=statements.sign(said, log),
    )


class World:
    """A monitor with its log in memory. Time stands still unless a test moves `clock` or `steady`."""

    def __init__(self, keys: ServiceKeys | None = None, store: MemoryRecords | None = None) -> None:
        self.keys = keys or make_keys()
        self.store = store or MemoryRecords()
        self.clock, self.steady = float(NOW), 0.0
        self.proofs: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.keyring = Keyring(self.keys)
        self.boot()

    def boot(self) -> None:
        """Start a gateway's core on what the store has: replay, then a new epoch."""
        self.log = Log(ORIGIN, self.store, self.keys.body, self.keys.log)
        state = State()
        self.log.load(state.apply, lambda ref: b"")
        self.monitor = Monitor(
            self.log,
            state,
            self.keyring,
            self.keys.service,
            lambda: self.clock,
            lambda: self.steady,
            self.proofs.append,
            received=self.keys.received,
        )
        self.log.begin(state.epoch + 1)
        self.run(self.monitor.begin_epoch("cd" * 32, 2, "cc" * 32))
        self.desk = Desk(
            ORIGIN,
            self.keys.service.digest,
            self.keys.sealing.public,
            lambda: self.monitor.checkpoint().note,
            lambda: int(self.clock),
        )

    def restart(self) -> None:
        """Stop and start again: a new epoch on the same log."""
        self.log.close()
        self.boot()

    def close(self) -> None:
        self.store.gate.set()
        self.log.close()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the monitor to its end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine and let it come as far as it gets."""
        task = self.loop.create_task(work)
        self.run(asyncio.sleep(0.02))
        return task

    def join_task(self, task: asyncio.Task[T]) -> T:
        """The result of a spawned coroutine."""
        return self.loop.run_until_complete(asyncio.wait_for(task, 20))

    @property
    def state(self) -> State:
        return self.monitor.state

    def record(self, index: int) -> records.LogRecord:
        """A record as the log opens it."""
        return self.log.prove(index).read()

    def outcomes(self, start: int = 0) -> list[str]:
        """Kinds of the log's records from `start` on."""
        return [self.record(index).kind for index in range(start, self.log.size)]

    def submit(self, member: Member, statement: statements.Statement) -> Accepted:
        return self.run(self.monitor.submit(member.peer, statement.envelope))[0]

    def post(self, member: Member, kind: type[statements.Common], **fields: Any) -> Accepted:
        return self.submit(member, member.write(self.desk, kind, **fields))

    def join(self, *names: str) -> list[Member]:
        """New registered parties."""
        members = [Member(name) for name in names]
        for member in members:
            self.post(member, statements.PartyStatement, keys=member.keys)
        return members

    def present(self, *members: Member) -> None:
        for member in members:
            self.post(member, statements.PresenceStatement)

    def dataset(self, member: Member, plain: bytes = b"id\n1\n2\n3\n", **changes: Any) -> str:
        return self.post(
            member, statements.DatasetStatement, **member.dataset(self.desk, seal(plain), **changes)
        ).digest

    def approve(self, member: Member, task: str, **changes: Any) -> str:
        """Approve; returns the approval's id."""
        found = {"id": secrets.token_hex(16), "expires": int(self.clock) + 3_600, **changes}
        self.post(member, statements.ApprovalStatement, task=task, **found)
        return str(found["id"])

    def ticket(self, run: str) -> bytes:
        return self.monitor.invoke(self.state.run(run), self.monitor.now())

    def grant(
        self, worker: UnitWorker, run: str, *, ticket: bytes | None = None, environment: str = ENVIRONMENT
    ) -> Granted:
        return self.run(
            self.monitor.grant(
                worker.peer,
                worker.facts,
                frozenset({environment}),
                self.ticket(run) if ticket is None else ticket,
                worker.attempt.public,
            )
        )

    def hand_in(self, worker: UnitWorker, granted: Granted, handed: Handed) -> int:
        return self.run(
            self.monitor.finish(
                worker.peer, granted.grant.fence, handed.envelope, handed.wraps, self.keys.log
            )
        )

    def finish(
        self, worker: UnitWorker, granted: Granted, outputs: Mapping[str, bytes] | None = None, **changes: Any
    ) -> Handed:
        """Run nothing, say that it ran, and hand in the receipt."""
        said = {"result": b"id\n2\n"} if outputs is None else outputs
        failure = changes.pop("failure", None)
        handed = receipt(self.desk, granted_facts(granted), worker.key, said, failure, **changes)
        self.hand_in(worker, granted, handed)
        return handed

    def collect(self, member: Member, run: str) -> dict[str, str]:
        """Post a collect statement and do what the gateway does on it."""
        statement = member.write(self.desk, statements.CollectStatement, run=run)
        self.submit(member, statement)
        assert isinstance(statement.predicate, statements.CollectStatement)
        return self.run(self.monitor.release(member.id, statement.predicate))


@dataclass
class Case:
    """A task of two owners and a scientist, in a `World`."""

    world: World
    left: Member
    right: Member
    scientist: Member
    worker: UnitWorker
    inputs: dict[str, str]
    function: str
    task: str

    def approve(self) -> dict[str, str]:
        """Both owners approve; name -> approval id."""
        return {member.name: self.world.approve(member, self.task) for member in (self.left, self.right)}

    def start(self) -> str:
        """A run in the queue."""
        return self.world.post(self.scientist, statements.RunStatement, task=self.task).digest

    def receipt(self, granted: Granted, **changes: Any) -> Handed:
        """A receipt of the case's worker; `signer`, `files` and `failure` are not fields, the rest is."""
        signer, failure = changes.pop("signer", self.worker.key), changes.pop("failure", None)
        files = changes.pop("files", {"result": b"id\n2\n"})
        return receipt(self.world.desk, granted_facts(granted), signer, files, failure, **changes)


def changed_task(case: Case, **changes: Any) -> dict[str, Any]:
    """The fields of the case's task, some of them changed."""
    now = int(case.world.clock)
    return task_fields(case.function, case.inputs, (case.scientist,), case.worker.facts, now, **changes)


def make_case(world: World, *, policy: str = DEFAULT_DATASET_POLICY, **changes: Any) -> Case:
    """Register everything up to the task; nothing is approved. `changes` are the task's."""
    left, right, scientist = world.join("left", "right", "scientist")
    worker = UnitWorker()
    inputs = {
        "left": world.dataset(left, policy=policy),
        "right": world.dataset(right, b"id\n2\n3\n4\n"),
    }
    function = world.post(scientist, statements.FunctionStatement, **function_fields()).digest
    fields = task_fields(function, inputs, (scientist,), worker.facts, int(world.clock), **changes)
    task = world.post(scientist, statements.TaskStatement, **fields).digest
    world.present(left, right)
    return Case(world, left, right, scientist, worker, inputs, function, task)
