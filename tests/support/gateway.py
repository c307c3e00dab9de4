"""A gateway without a sandbox, for tests: in memory with clocks of its own, or live behind its real channel.

`World` drives the monitor over a record store in memory that a test can hold up, break or alter. `Live` runs
the real host process's server on a Unix socket and the real gateway on a thread, and speaks to it over
attested TLS. Members and workers are the same in both: they sign real statements, seal real files and hand in
real receipts.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from mesatee._core import (
    AgeKey,
    FileKey,
    HpkeKey,
    PeerCertificate,
    SecretKey,
    SigningKey,
    age_seal,
    make_certificate,
    memfd,
)
from mesatee.attestation.tee.software import Components
from mesatee.attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.channel import AttestedTransport
from mesatee.enclave.doors import HostClient
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.identity import ServiceKeys, open_service
from mesatee.enclave.gateway.keyring import Keyring
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.gateway.monitor import Accepted, Granted, Monitor
from mesatee.enclave.gateway.peer import Peer
from mesatee.enclave.gateway.policy import DEFAULT_PLATFORM_POLICY
from mesatee.enclave.gateway.state import State
from mesatee.enclave.platform.measure import Measurement, measure
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester
from mesatee.enclave.worker.client import GatewayClient
from mesatee.errors import Conflict, MesateeError, from_dict
from mesatee.host.server import HostServer
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import envelope as dsse
from mesatee.protocol import records, statements, wraps
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.doors import Record
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.policy_text import DEFAULT_DATASET_POLICY

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
            name: statements.OutputFacts(sha256=item.digest, size=item.size, format="csv")
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


def granted_facts(granted: Granted) -> dict[str, Any]:
    """What a receipt must say of a grant."""
    task = granted.task.predicate
    return {
        "run": granted.run.digest,
        "task": granted.task.digest,
        "function": granted.function.digest,
        "environment": task.environment,
        "fence": granted.grant.fence,
        "inputs": dict(task.inputs),
        "approvals": dict(granted.grant.approvals),
        "policies": dict(granted.grant.policies),
        "worker": granted.grant.worker,
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


def make_keys(platform_policy: str = DEFAULT_PLATFORM_POLICY, at: int = NOW) -> ServiceKeys:
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
        share_holders=(),
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
        self.loop = asyncio.new_event_loop()
        self.keyring = Keyring(ORIGIN, self.keys.sealing, self.keys.tickets)
        self.boot()

    def boot(self) -> None:
        """Start a gateway's core on what the store has: replay, then a new epoch."""
        self.log = Log(ORIGIN, self.store, self.keys.body, self.keys.log)
        state = State()
        self.log.load(state.apply, lambda ref, root: None)
        self.monitor = Monitor(
            self.log, state, self.keyring, self.keys.service, lambda: self.clock, lambda: self.steady
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


# -- the whole gateway, live ------------------------------------------------------------------------------


@functools.cache
def measured() -> Measurement:
    """This installation, measured once for all tests of the process."""
    return measure(())


def worker_measurement() -> Measurement:
    """As `measured`, with an environment that need not exist: nothing is run in it."""
    found = measured()
    components = Components(
        found.components.code,
        found.components.interpreter,
        found.components.libraries,
        {"base": ENVIRONMENT},
    )
    return replace(found, components=components)


class Client:
    """A raw HTTP client over the attested channel."""

    def __init__(self, port: int, key: SigningKey, trust: TrustPolicy) -> None:
        now = int(time.time())
        self._trust = trust
        certificate = make_certificate(key, "party", now - 60, now + 86_400, None)
        transport = AttestedTransport("127.0.0.1", port, certificate, key, self._appraise)
        self.http = httpx.Client(transport=transport, base_url="http://gateway", timeout=20)

    def _appraise(self, certificate: PeerCertificate) -> Any:
        return appraise(certificate.evidence, certificate.spki, self._trust, int(time.time()), "gateway")

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path, **options)

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON answer. Raises the error that the gateway names."""
        response = self.send(method, path, **options)
        value = parse_object(response.content, limit=16 * 2**20)
        if response.status_code >= 400:
            raise from_dict(value["error"])
        return value

    def close(self) -> None:
        self.http.close()


class LiveMember(Member):
    """A party with a connection."""

    def __init__(self, live: Live, name: str) -> None:
        super().__init__(name)
        self.live = live
        self.client = live.client(self.signing)

    def post(self, kind: type[statements.Common], **fields: Any) -> dict[str, Any]:
        statement = self.write(self.live.desk, kind, **fields)
        return self.client.call("POST", "/v1/statements", content=statement.envelope.to_bytes())

    def put(self, sealed: SealedFile) -> None:
        self.client.call("PUT", f"/v1/blobs/{sealed.digest}", content=sealed.data)


class Live:
    """The host's server on a Unix socket and a gateway on a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "enclave"):
            (folder / name).mkdir(mode=0o700)
        self.socket = folder / "host.sock"
        self.installation = SigningKey.generate()
        self.attester = SoftwareAttester(self.installation, measured())
        self.worker_attester = SoftwareAttester(self.installation, worker_measurement())
        self._clients: list[Client | GatewayClient] = []
        self.host = HostServer(self.socket, folder / "host")
        ready = threading.Event()
        self._host_thread = threading.Thread(target=self.host.serve_forever, args=(ready.set,), daemon=True)
        self._host_thread.start()
        assert ready.wait(10)
        self.doors = HostClient(self.socket)
        self.start()

    def start(self) -> None:
        """Start a gateway on the folder and the host's records."""
        fingerprint = self.attester.fingerprint
        sealing = Sealing(self.folder / "enclave", self.attester.measurement, fingerprint)
        pins = RoleTrust(
            tees=("software",),
            minimum_level=2,
            measurements=(self.worker_attester.measurement,),
            installation_keys=(fingerprint,),
        )
        trust = TrustPolicy(worker=pins).to_toml()
        self.keys = open_service(
            self.folder / "enclave", sealing, ORIGIN, DEFAULT_PLATFORM_POLICY, trust, NOW
        )
        ready: threading.Event = threading.Event()
        failed: list[BaseException] = []

        async def serve() -> None:
            self.gateway = Gateway(
                GatewayConfig(),
                self.keys,
                self.attester,
                self.doors.records,
                self.doors.queue,
                self.doors.blobs,
            )
            self._loop = asyncio.get_running_loop()
            await self.gateway.run(lambda port: ready.set())

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # handed to the thread that waits for the start
                failed.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=run, name="gateway", daemon=True)
        self._thread.start()
        assert ready.wait(20)
        if failed:
            raise failed[0]
        self._failed = failed
        self.trust = TrustPolicy(
            gateway=GatewayTrust(
                tees=("software",),
                minimum_level=2,
                measurements=(self.attester.measurement,),
                installation_keys=(fingerprint,),
                log_origin=ORIGIN,
                log_key=self.keys.log.public.hex(),
                service=(self.keys.service.digest,),
            )
        )
        self.reader = self.client(SigningKey.generate())
        self.desk = Desk(
            ORIGIN,
            self.keys.service.digest,
            self.keys.sealing.public,
            lambda: self.reader.send("GET", "/v1/log/checkpoint").text,
            lambda: int(time.time()),
        )

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.gateway.stop)
            self._thread.join(20)
        assert not self._thread.is_alive()
        if self._failed:
            raise self._failed[0]

    def close(self) -> None:
        self.stop()
        self.doors.close()
        self.host.stop()
        self._host_thread.join(10)

    def on_loop(self, work: Callable[[], T]) -> T:
        """Run something on the gateway's own thread."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def client(self, key: SigningKey) -> Client:
        client = Client(self.gateway.port, key, self.trust)
        self._clients.append(client)
        return client

    def member(self, name: str, *, register: bool = True) -> LiveMember:
        member = LiveMember(self, name)
        if register:
            member.post(statements.PartyStatement, keys=member.keys)
        return member

    def worker(self) -> GatewayClient:
        """A worker's client with evidence by this installation's key."""
        attester = self.worker_attester
        client = GatewayClient("127.0.0.1", self.gateway.port, attester, self.trust, attester.environments)
        self._clients.append(client)
        return client

    def worker_facts(self, client: GatewayClient) -> statements.WorkerFacts:
        return statements.WorkerFacts(
            key=client.key.public.hex(),
            measurement=self.worker_attester.measurement,
            level=2,
            tee="software",
            simulated=False,
            evidence=sha256(client.evidence),
            certificate=sha256(client.certificate),
        )

    def checkpoint(self) -> cp.Checkpoint:
        return cp.verify(self.desk.checkpoint(), ORIGIN, self.keys.log.public)

    def lease(self, wait: float = 5.0) -> bytes:
        """A ticket from the queue, taken out of it."""
        lease = self.doors.queue.lease(5.0, wait)
        assert lease is not None
        self.doors.queue.ack(lease.id)
        return lease.ticket


def request_body(**fields: Any) -> bytes:
    """JSON as our own clients write it."""
    return canonical(fields)


def running(folder: Path) -> Iterator[Live]:
    """For a fixture: a live service that is stopped at the end."""
    live = Live(folder)
    try:
        yield live
    finally:
        live.close()
