"""The real gateway on a thread behind its real channel, over the real host process's server."""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
from tests.support.gateway import (
    ENVIRONMENT,
    NOW,
    ORIGIN,
    Desk,
    Member,
    SealedFile,
    function_fields,
    receipt,
    seal,
    task_fields,
)

from mesatee._core import (
    HpkeKey,
    PeerCertificate,
    SigningKey,
    connect,
    make_certificate,
)
from mesatee.attestation.endorsements import Source, nothing
from mesatee.attestation.tee.software import Components
from mesatee.attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from mesatee.attestation.verify import appraise
from mesatee.channel import AttestedTransport
from mesatee.enclave.doors import HostClient
from mesatee.enclave.gateway import api
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.identity import Rules, Shares, open_service
from mesatee.enclave.platform.measure import Measurement, measure
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester
from mesatee.enclave.worker.client import GatewayClient
from mesatee.errors import from_dict
from mesatee.host.server import HostServer
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import statements, wire
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.policy_text import DEFAULT_PLATFORM_POLICY

T = TypeVar("T")


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

    def __init__(
        self,
        folder: Path,
        endorsements: Source = nothing,
        auditors: tuple[str, ...] = (),
        hand_over: Callable[[str], Rules] = lambda mine: "never",
        share_holders: Shares = (),
    ) -> None:
        """With `auditors` gateway and worker are pinned by them, and by no measurement.

        `hand_over` makes the rules from this installation's fingerprint.
        """
        self.folder = folder
        self.endorsements = endorsements
        self.auditors = auditors
        self._hand_over, self._share_holders = hand_over, share_holders
        for name in ("host", "enclave"):
            (folder / name).mkdir(mode=0o700)
        self.installation = SigningKey.generate()
        self.attester = SoftwareAttester(self.installation, measured())
        self.worker_attester = SoftwareAttester(self.installation, worker_measurement())
        self._clients: list[Client | GatewayClient] = []
        self._open_host(folder / "host")
        self.start()

    def _open_host(self, data: Path) -> None:
        self.socket = self.folder / f"{data.name}.sock"
        self.host = HostServer(self.socket, data)
        ready = threading.Event()
        self._host_thread = threading.Thread(target=self.host.serve_forever, args=(ready.set,), daemon=True)
        self._host_thread.start()
        assert ready.wait(10)
        self.doors = HostClient(self.socket)

    def _close_host(self) -> None:
        self.doors.close()
        self.host.stop()
        self._host_thread.join(10)

    def rehost(self, data: Path) -> None:
        """Start anew on other storage."""
        self.stop()
        self._close_host()
        self._open_host(data)
        self.start()

    def start(self) -> None:
        """Start a gateway on the folder and the host's records."""
        fingerprint = self.attester.fingerprint
        sealing = Sealing(self.folder / "enclave", self.attester.measurement, fingerprint)
        pins = RoleTrust(
            tees=("software",),
            minimum_level=2,
            measurements=() if self.auditors else (self.worker_attester.measurement,),
            auditors=self.auditors,
            installation_keys=(fingerprint,),
        )
        trust = TrustPolicy(worker=pins).to_toml()
        self.keys = open_service(
            self.folder / "enclave",
            sealing,
            ORIGIN,
            DEFAULT_PLATFORM_POLICY,
            trust,
            NOW,
            hand_over=self._hand_over(fingerprint),
            share_holders=self._share_holders,
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
                ForkProofs(self.folder / "enclave"),
                endorsements=self.endorsements,
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
        self._close_host()

    def on_loop(self, work: Callable[[], T]) -> T:
        """Run something on the gateway's own thread."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def client(self, key: SigningKey) -> Client:
        client = Client(self.gateway.port, key, self.trust)
        self._clients.append(client)
        return client

    def raw(self, key: SigningKey) -> socket.socket:
        """The plaintext end of a verified connection, to say on it what no HTTP client says."""
        now = int(time.time())
        certificate = make_certificate(key, "party", now - 60, now + 86_400, None)

        def judge(found: PeerCertificate) -> Any:
            return appraise(found.evidence, found.spki, self.trust, int(time.time()), "gateway")

        connection = connect("127.0.0.1", self.gateway.port, certificate, key, judge)
        end = socket.socket(fileno=connection.detach())
        end.settimeout(10)
        return end

    def member(self, name: str, *, register: bool = True) -> LiveMember:
        member = LiveMember(self, name)
        if register:
            member.post(statements.PartyStatement, keys=member.keys)
        return member

    def worker(self) -> GatewayClient:
        """A worker's client with evidence by this installation's key."""
        attester = self.worker_attester
        client = GatewayClient(
            "127.0.0.1",
            self.gateway.port,
            attester,
            self.trust,
            lambda: attester.environments,
            self.endorsements,
        )
        self._clients.append(client)
        return client

    def worker_facts(self, client: GatewayClient) -> statements.WorkerFacts:
        """What a task must accept to be run by this worker; its evidence is made anew from time to time."""
        return statements.WorkerFacts(
            key=client.key.public.hex(),
            measurement=self.worker_attester.measurement,
            level=2,
            tee="software",
            simulated=False,
            evidence="00" * 32,
            certificate="00" * 32,
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


class Flow:
    """A task of left and right for the scientist."""

    def __init__(self, live: Live, members: tuple[LiveMember, ...], worker: GatewayClient) -> None:
        self.live, self.worker = live, worker
        self.left, self.right, self.scientist = members
        inputs = {}
        for name, member in (("left", self.left), ("right", self.right)):
            sealed = seal(secrets.token_bytes(20))
            member.put(sealed)
            fields = member.dataset(live.desk, sealed)
            inputs[name] = member.post(statements.DatasetStatement, **fields)["digest"]
        self.function = self.scientist.post(statements.FunctionStatement, **function_fields())["digest"]
        facts = live.worker_facts(worker)
        fields = task_fields(self.function, inputs, (self.scientist,), facts, live.desk.now(), runs=5)
        self.task = self.scientist.post(statements.TaskStatement, **fields)["digest"]
        self.approvals = {}
        for member in (self.left, self.right):
            self.approvals[member.name] = secrets.token_hex(16)
            fields = {"id": self.approvals[member.name], "expires": live.desk.now() + 3_600}
            member.post(statements.ApprovalStatement, task=self.task, **fields)

    def run(self) -> str:
        return str(self.scientist.post(statements.RunStatement, task=self.task)["digest"])

    def view(self, who: LiveMember | None = None) -> dict[str, Any]:
        return (who or self.scientist).client.call("GET", f"/v1/tasks/{self.task}")

    def grant(self) -> wire.GrantReply:
        return self.worker.attempt(self.live.lease(), HpkeKey.generate().public)

    def finish(self, grant: wire.GrantReply) -> dict[str, SealedFile]:
        facts = {
            name: getattr(grant, name)
            for name in ("run", "task", "function", "environment", "fence", "approvals", "policies", "worker")
        }
        facts["inputs"] = grant.sources
        certificate, gateway = self.worker.seen()
        facts["appraisals"] = statements.Appraisals(
            worker=grant.appraisal,
            gateway=gateway.as_dict(),
            gateway_certificate=certificate,
            endorsements=grant.endorsements,
        )
        handed = receipt(self.live.desk, facts, self.worker.key, {"result": b"id\n2\n"})
        self.worker.finish(grant.fence, handed.envelope, handed.wraps)
        # Once more, as a worker does that has lost the answer.
        self.worker.finish(grant.fence, handed.envelope, handed.wraps)
        return handed.files


A = "0a" * 32
BY_NAME = {handler.__name__: (method, path) for method, path, handler in api.ROUTES}


def filled(path: str, **values: str) -> str:
    defaults = {"{digest}": A, "{index}": "0", "{level}": "0", "{index:path}": "000.p/1", "{fence}": "0"}
    for name, value in {**defaults, **{f"{{{key}}}": value for key, value in values.items()}}.items():
        path = path.replace(name, value)
    return path


def call(client: Client, name: str, **options: Any) -> httpx.Response:
    method, path = BY_NAME[name]
    if name == "consistency":
        options.setdefault("params", {"first": 0, "second": 1})
    return client.send(method, filled(path), **options)


def code(response: httpx.Response) -> str:
    return str(parse_object(response.content)["error"]["code"])
