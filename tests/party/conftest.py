"""A service in memory: real keys, a real log, software evidence; and a gateway that can be made to lie."""

from __future__ import annotations

import dataclasses
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesatee import _core
from mesatee.attestation import Appraisal, Claims, GatewayTrust, RoleTrust, TrustPolicy, appraise, report_data
from mesatee.attestation.endorsements import NOTHING
from mesatee.attestation.tee import software
from mesatee.party import Identity
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import envelope as dsse
from mesatee.protocol import merkle, records, statements, wire
from mesatee.protocol.author import Author
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.policy_text import DEFAULT_DATASET_POLICY, DEFAULT_PLATFORM_POLICY, dataset

NOW = 1_800_000_000
ORIGIN = "log.example/test"
GATEWAY = software.Components("0a" * 32, "0b" * 32, "0c" * 32)
ENVIRONMENT = "ee" * 32
WORKER = software.Components("0a" * 32, "0b" * 32, "0d" * 32, {"base": ENVIRONMENT})


@dataclasses.dataclass
class Machine:
    """A channel key with its certificate and evidence."""

    key: _core.SigningKey
    certificate: bytes
    evidence: bytes


def machine(
    installation: _core.SigningKey, components: software.Components, role: Any, service: str | None, now: int
) -> Machine:
    key = _core.SigningKey.generate()
    claims = Claims.of_key(
        _core.spki(key.public), role, service=service, environments=components.environments or None
    ).encode()
    payload = software.payload(components, report_data(claims), now - 60, now + 3_600, "6.1", "x86_64")
    signature = installation.sign(software.to_be_signed(payload))
    evidence = software.build(payload, installation.public, signature, claims)
    certificate = _core.make_certificate(key, role, now - 60, now + 3_600, evidence)
    return Machine(key, certificate, evidence)


class World:
    """Keys, service statement, trust policy, and a log that one can append to."""

    def __init__(self, now: int = NOW, trusted: RoleTrust | None = None) -> None:
        self.now = now
        self.log_key = _core.SigningKey.generate()
        self.installation = _core.SigningKey.generate()
        pins = {"tees": ("software",), "minimum_level": 2}
        keys = {"installation_keys": (software.fingerprint(self.installation.public),)}
        worker = trusted or RoleTrust(**pins, **keys, measurements=(WORKER.measurement,))
        self.sealing = _core.HpkeKey.generate()
        said = statements.ServiceStatement(
            origin=ORIGIN,
            time=now - 100,
            log_key=self.log_key.public.hex(),
            sealing_key=b64encode(self.sealing.public),
            platform_policy=DEFAULT_PLATFORM_POLICY,
            worker_trust=TrustPolicy(worker=worker).to_toml(),
            witnesses=(),
            share_holders=(),
            hand_over="never",
        )
        self.service = statements.sign(said, self.log_key)
        gateway = GatewayTrust(
            **pins,
            **keys,
            measurements=(GATEWAY.measurement,),
            log_origin=ORIGIN,
            log_key=self.log_key.public.hex(),
            service=(self.service.digest,),
        )
        self.trust = TrustPolicy(gateway, worker)
        self.gateway = machine(self.installation, GATEWAY, "gateway", self.service.digest, now)
        self.worker = machine(self.installation, WORKER, "worker", self.service.digest, now)
        self.tree = merkle.Tree()
        self.epoch = 1
        for _ in range(3):
            self.append(secrets.token_bytes(64))

    def append(self, entry: bytes) -> int:
        return self.tree.append(merkle.leaf_hash(entry))

    def checkpoint(self, size: int | None = None, time: int | None = None) -> cp.Checkpoint:
        size = self.tree.size if size is None else size
        at = self.now if time is None else time
        return cp.sign(ORIGIN, size, self.tree.root(size), at, self.epoch, self.log_key)

    def author(self, signer: _core.SigningKey, service: str | None = None) -> Author:
        return Author(
            signer=signer,
            origin=ORIGIN,
            service=service or self.service.digest,
            checkpoint=self.checkpoint().note,
            time=self.now,
            nonce=lambda: secrets.token_hex(16),
        )


class Vector(World):
    """A complete valid receipt bundle: two owners, a joint output, one approval by policy."""

    def __init__(self, home: Path, now: int = NOW, trusted: RoleTrust | None = None) -> None:
        super().__init__(now, trusted)
        self.parties = {name: Identity.create(home, name) for name in ("alice", "bob", "carol")}
        alice, bob, carol = self.parties.values()
        self.function = self.author(carol.signing).write(
            statements.FunctionStatement,
            name="overlap",
            executor="python",
            entry="overlap",
            private=False,
            code=statements.CodeRef(sha256="ab" * 32, size=10, wrap=None),
            inputs=(statements.Port(name="left"), statements.Port(name="right")),
            variadic=False,
            callers=None,
            quota=None,
            arguments=(),
            outputs=(statements.Port(name="result"),),
        )
        automatic = dataset(functions=(self.function.digest,), approve_automatically=True)
        self.left = self.dataset(alice, DEFAULT_DATASET_POLICY)
        self.right = self.dataset(bob, automatic)
        self.task = self.write_task()
        self.approvals = {who.id: self.approval(who, self.task.digest) for who in (alice, carol)}
        # Of a hardware worker its test makes one.
        if trusted is None:
            self.receipt = self.write_receipt()

    def dataset(self, owner: Identity, policy: str, **changes: Any) -> statements.Statement:
        return self.author(owner.signing).write(
            statements.DatasetStatement,
            name=f"{owner.name}-data",
            blob=statements.BlobRef(sha256=secrets.token_hex(32), size=100),
            format="csv",
            columns=(),
            rows=3,
            policy=policy,
            wrap=b64encode(bytes(1152)),
            **changes,
        )

    def write_task(self, **changes: Any) -> statements.Statement:
        bob, carol = self.parties["bob"], self.parties["carol"]
        fields: dict[str, Any] = {
            "name": "join",
            "function": self.function.digest,
            "environment": ENVIRONMENT,
            "inputs": {"left": self.left.digest, "right": self.right.digest},
            "arguments": {"key": "id"},
            "outputs": {"result": (carol.keys(), bob.keys())},
            "accept": statements.Accept(
                min_level=2, tees=("software",), workers=(WORKER.measurement,), allow_simulated=False
            ),
            "limits": statements.RunLimits(),
            "runs": 1,
            "expires": self.now + 86_400,
        }
        return self.author(carol.signing).write(statements.TaskStatement, **(fields | changes))

    def approval(self, who: Identity, task: str, expires: int | None = None) -> statements.Statement:
        expires = self.now + 3_600 if expires is None else expires
        return self.author(who.signing).write(
            statements.ApprovalStatement, task=task, id=secrets.token_hex(16), expires=expires
        )

    def introduction(self, who: Identity) -> statements.Statement:
        return self.author(who.signing).write(statements.PartyStatement, keys=who.keys())

    def appraisal(self, which: Machine, role: Any, trust: TrustPolicy | None = None) -> Appraisal:
        peer = _core.parse_certificate(which.certificate)
        return appraise(peer.evidence, peer.spki, trust or self.trust, self.now - 5, role)

    def appraisals(self, **changes: Any) -> statements.Appraisals:
        """What worker and gateway had concluded of each other."""
        said = self.service.predicate
        assert isinstance(said, statements.ServiceStatement)
        theirs = TrustPolicy.from_toml(said.worker_trust)
        fields: dict[str, Any] = {
            "worker": self.appraisal(self.worker, "worker", theirs).as_dict(),
            "gateway": self.appraisal(self.gateway, "gateway").as_dict(),
            "gateway_certificate": sha256(self.gateway.certificate),
            "endorsements": NOTHING.digest,
        }
        return statements.Appraisals(**(fields | changes))

    def write_receipt(self, **changes: Any) -> statements.ReceiptStatement:
        left, right = self.left.predicate, self.right.predicate
        assert isinstance(left, statements.DatasetStatement)
        assert isinstance(right, statements.DatasetStatement)
        fields: dict[str, Any] = {
            "origin": ORIGIN,
            "service": self.service.digest,
            "run": "1a" * 32,
            "task": self.task.digest,
            "function": self.function.digest,
            "environment": ENVIRONMENT,
            "fence": 2,
            "inputs": {"left": self.left.digest, "right": self.right.digest},
            "approvals": {party: item.digest for party, item in self.approvals.items()}
            | {self.parties["bob"].id: self.right.digest},
            "policies": {
                self.left.digest: sha256(left.policy.encode()),
                self.right.digest: sha256(right.policy.encode()),
                "platform": sha256(DEFAULT_PLATFORM_POLICY.encode()),
            },
            "worker": statements.WorkerFacts(
                key=self.worker.key.public.hex(),
                measurement=WORKER.measurement,
                level=2,
                tee="software",
                simulated=False,
                evidence=sha256(self.worker.evidence),
                certificate=sha256(self.worker.certificate),
            ),
            "appraisals": self.appraisals(),
            "layers": ("seccomp",),
            "started": self.now - 5,
            "finished": self.now,
            "failure": None,
            "outputs": {"result": statements.OutputFacts(sha256="cd" * 32, size=50, format="csv")},
        }
        return statements.ReceiptStatement(**(fields | changes))

    def bundle(
        self,
        receipt: statements.ReceiptStatement | None = None,
        *,
        signers: tuple[_core.SigningKey, ...] | None = None,
        outcome: dict[str, Any] | None = None,
        time: int | None = None,
        checkpoint_time: int | None = None,
        **changes: Any,
    ) -> wire.Bundle:
        """A bundle whose log really holds this receipt, signed by whoever is said."""
        receipt = receipt or self.receipt
        envelope = dsse.sign(statements.payload(receipt), signers or (self.worker.key, self.log_key))
        fields = {
            "run": receipt.run,
            "fence": receipt.fence,
            "failure": receipt.failure,
            "wraps": dict.fromkeys(receipt.outputs, b64encode(bytes(1152))),
            "envelope": envelope.as_dict(),
        }
        at = self.now if time is None else time
        record = records.of_outcome(records.ReceiptOutcome(**(fields | (outcome or {}))), at, "parties")
        salt, sealed = secrets.token_bytes(16), secrets.token_bytes(200)
        index = self.append(records.entry(salt, record.to_bytes(), sealed))
        self.append(secrets.token_bytes(64))
        size = self.tree.size
        proof = records.RecordProof(
            index=index,
            salt=salt.hex(),
            record=record.to_bytes().decode(),
            body_digest=sha256(sealed),
            size=size,
            path=tuple(item.hex() for item in self.tree.inclusion(index, size)),
        )
        made: dict[str, Any] = {
            "receipt": envelope.as_dict(),
            "record": proof,
            "checkpoint": self.checkpoint(time=checkpoint_time).note,
            "service": self.service.envelope.as_dict(),
            "task": self.task.envelope.as_dict(),
            "function": self.function.envelope.as_dict(),
            "datasets": {item.digest: item.envelope.as_dict() for item in (self.left, self.right)},
            "sources": {},
            "approvals": {item.digest: item.envelope.as_dict() for item in self.approvals.values()},
            "parties": {
                item.id: self.introduction(item).envelope.as_dict() for item in self.parties.values()
            },
            "worker_certificate": b64encode(self.worker.certificate),
            "gateway_certificate": b64encode(self.gateway.certificate),
            "endorsements": b64encode(NOTHING.encode()),
        }
        return wire.Bundle(**(made | changes))


@pytest.fixture
def vector(tmp_path: Path) -> Vector:
    return Vector(tmp_path / "home")


@pytest.fixture
def present(tmp_path: Path) -> Vector:
    """A vector of today, for programs that look at the clock."""
    return Vector(tmp_path / "home", int(time.time()))


# -- a gateway over the real channel ---------------------------------------------------------------

Reply = tuple[int, bytes]


class FakeGateway(World):
    """Speaks HTTP over the real channel. `answers` replaces what it says on a path; None drops the line."""

    def __init__(self) -> None:
        super().__init__(int(time.time()))
        self.answers: dict[str, Callable[[], Reply | None]] = {}
        self.posted: list[bytes] = []
        self.requests: list[str] = []
        self.registered: set[str] = set()
        self.drop_posts = 0
        key, certificate = self.gateway.key, self.gateway.certificate
        self.listener = _core.Listener("127.0.0.1", 0, certificate, key, lambda peer: peer.public.hex())
        self.url = f"https://127.0.0.1:{self.listener.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection = self.listener.accept(0.2)
            except Exception:
                return
            if connection is not None:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: _core.Connection) -> None:
        with socket.socket(fileno=connection.detach()) as end:
            file = end.makefile("rb")
            while line := file.readline():
                method, target, _ = line.decode().split(" ")
                length = 0
                while (header := file.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                body = file.read(length)
                reply = self._answer(method, target, body, connection.appraisal)
                if reply is None:
                    return
                status, data = reply
                head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n"
                end.sendall(head.encode() + data)

    def _answer(self, method: str, target: str, body: bytes, peer: str) -> Reply | None:
        path, _, query = target.partition("?")
        self.requests.append(f"{method} {target}")
        if path in self.answers:
            if method == "POST":
                self.posted.append(body)
            return self.answers[path]()
        if path == "/v1/service":
            return 200, canonical(self.hello(peer in self.registered).model_dump(mode="json"))
        if path == "/v1/log/checkpoint":
            return 200, self.checkpoint().note.encode()
        if path == "/v1/log/consistency":
            given = dict(item.split("=") for item in query.split("&"))
            first, second = int(given["first"]), int(given["second"])
            hashes = tuple(item.hex() for item in self.tree.consistency(first, second))
            return 200, canonical(
                wire.ProofReply(first=first, second=second, path=hashes).model_dump(mode="json")
            )
        if path == "/v1/statements":
            return self._post(body, peer)
        return 404, canonical({"error": {"code": "not_found", "message": "no such thing", "hint": "look"}})

    def _post(self, body: bytes, peer: str) -> Reply | None:
        self.posted.append(body)
        if self.drop_posts:
            self.drop_posts -= 1
            return None
        statement = statements.verify(dsse.from_bytes(body))
        self.registered.add(peer)
        index = self.append(secrets.token_bytes(64))
        reply = wire.Posted(
            digest=statement.digest, index=index, checkpoint=self.checkpoint().note, already=False
        )
        return 200, canonical(reply.model_dump(mode="json"))

    def hello(self, known: bool, **changes: Any) -> wire.ServiceReply:
        fields: dict[str, Any] = {
            "statement": self.service.envelope.as_dict(),
            "digest": self.service.digest,
            "checkpoint": self.checkpoint().note,
            "epoch": 1,
            "epoch_index": 0,
            "status": "ready",
            "fresh": known,
            "registered": known,
            "version": "1",
        }
        return wire.ServiceReply(**(fields | changes))


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    made = FakeGateway()
    yield made
    made.close()


@pytest.fixture
def alice(tmp_path: Path) -> Identity:
    return Identity.create(tmp_path / "home", "alice")
