"""Services whose keys pass to a second machine: by hand-over, or from the holders of shares."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.gateway import ORIGIN, MemoryRecords, World
from tests.support.live import Live, measured

from mesatee._core import AgeKey, SigningKey
from mesatee.attestation.endorsements import NOTHING
from mesatee.attestation.tee.software import Components
from mesatee.attestation.trust import GatewayTrust, TrustPolicy
from mesatee.cli import attesters, up
from mesatee.enclave import faults, handover
from mesatee.enclave.gateway import succession
from mesatee.enclave.gateway.forks import ForkProofs
from mesatee.enclave.gateway.gateway import Gateway, GatewayConfig
from mesatee.enclave.gateway.identity import ServiceKeys, open_service
from mesatee.enclave.gateway.log import Log
from mesatee.enclave.gateway.state import State
from mesatee.enclave.gateway.tenure import Tenure, tenure
from mesatee.enclave.platform.measure import Measurement
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester
from mesatee.party.identity import Identity
from mesatee.party.recovery import give_share
from mesatee.protocol import statements, wire
from mesatee.protocol.recovery import RecoveryRequest, RecoveryShare
from mesatee.protocol.service import HandOver, ShareHolder, ShareRule, SuccessionRules

OTHER = SigningKey.generate()
"""The installation key of the second machine."""


def changed_code() -> Measurement:
    """This installation with other code."""
    found = measured().components
    return replace(measured(), components=Components("ee" * 32, found.interpreter, found.libraries, {}))


def second(measurement: Measurement | None = None) -> SoftwareAttester:
    """The attester of the second machine."""
    return SoftwareAttester(OTHER, measurement or measured())


def rules(mine: str = "", **changes: Any) -> HandOver:
    """The second machine may receive the keys, with this code."""
    attester = second()
    trust = TrustPolicy(
        gateway=GatewayTrust(
            tees=("software",),
            minimum_level=2,
            # What the evidence may say; what may receive stands in the rule.
            measurements=(attester.measurement, second(changed_code()).measurement),
            installation_keys=(attester.fingerprint,),
        )
    )
    fields = {
        "min_level": 2,
        "tees": ("software",),
        "measurements": (attester.measurement,),
        "allow_simulated": False,
        "trust": trust.to_toml(),
    }
    return HandOver(**{**fields, **changes})


@dataclass
class Machine:
    """Another machine, empty."""

    folder: Path
    attester: Any

    @property
    def sealing(self) -> Sealing:
        return Sealing(self.folder, "ab" * 32, "cd" * 32)

    def receive(self, live: Live, service: str | None = None) -> ServiceKeys:
        digest = service or live.keys.service.digest
        return succession.receive(self.folder, self.sealing, digest, lambda to: self.ask(live, digest, to))

    def ask(self, live: Live, service: str, to: bytes) -> wire.HandOverReply:
        return handover.ask(self.attester, ("127.0.0.1", live.gateway.port), live.trust, service, to)

    def open(self, live: Live) -> ServiceKeys:
        """The keys as a later start finds them."""
        said = statements.expect(live.keys.service.predicate, statements.ServiceStatement)
        return open_service(
            self.folder,
            self.sealing,
            ORIGIN,
            said.platform_policy,
            said.worker_trust,
            0,
            hand_over=said.hand_over,
            share_holders=said.share_holders,
        )

    def gateway(self, live: Live, keys: ServiceKeys) -> Gateway:
        doors = live.doors
        forks = ForkProofs(self.folder)
        return Gateway(GatewayConfig(), keys, self.attester, doors.records, doors.queue, doors.blobs, forks)


class Holders:
    """A service shared 2 of 3, and its holders."""

    def __init__(self, folder: Path, hand_over: Any = "never") -> None:
        self.age = [AgeKey.generate() for _ in range(3)]
        self.ids = [secrets.token_hex(32) for _ in range(3)]
        self.rule = ShareRule(
            k=2,
            holders=tuple(
                ShareHolder(key=who, age=key.recipient) for who, key in zip(self.ids, self.age, strict=True)
            ),
        )
        self.folder = folder / "first"
        self.keys = open_service(
            self.folder,
            Sealing(self.folder, "ab" * 32, "cd" * 32),
            ORIGIN,
            "permit (principal, action, resource);",
            TrustPolicy().to_toml(),
            0,
            share_holders=self.rule,
        )
        self.store = MemoryRecords()
        self.recovery, self.shared = self.shares()
        self.machine = Machine(folder / "second", second())
        self.request = self.ask(self.machine)
        attester = second()
        self.trust = TrustPolicy(
            gateway=GatewayTrust(
                tees=("software",),
                minimum_level=2,
                measurements=(attester.measurement,),
                installation_keys=(attester.fingerprint,),
                service=(self.keys.service.digest,),
            )
        )

    def tenure_of(self, keys: ServiceKeys) -> Tenure:
        """Of a gateway with these keys, by the log as it is."""
        state = State()
        log = Log(ORIGIN, self.store, keys.body, keys.log)
        log.load(state.apply, lambda ref: b"")
        log.close()
        return tenure(state, keys.received)

    def shares(self, store: MemoryRecords | None = None) -> tuple[statements.Statement, list[str]]:
        """What a start on these records gives as the set of shares, and the kinds of the log's entries."""
        world = World(self.keys, store or self.store)
        try:
            made = world.run(world.monitor.shares())
            assert made is not None
            return made, world.outcomes()
        finally:
            world.close()

    def ask(self, machine: Machine, at: int | None = None) -> RecoveryRequest:
        now = int(time.time()) if at is None else at
        return succession.ask_holders(machine.sealing, machine.attester, self.keys.service.digest, now)

    def share(self, at: int, request: RecoveryRequest | None = None, **changes: Any) -> RecoveryShare:
        return give_share(
            changes.get("service", self.keys.service),
            changes.get("recovery", self.recovery),
            request or self.request,
            self.ids[at],
            self.age[at],
            self.trust,
            changes.get("now", int(time.time())),
        )

    def recover(self, *shares: RecoveryShare, **changes: Any) -> ServiceKeys:
        machine = self.machine
        return succession.recover(
            machine.folder,
            machine.sealing,
            self.keys.service,
            changes.get("recovery", self.recovery),
            shares,
            changes.get("now", int(time.time())),
        )


# -- with real processes and the command line --------------------------------------------------------------


def mesatee(home: Path, *words: str | Path, trust: Path | None = None, fault: str = "") -> dict[str, Any]:
    """Run a verb, until the fault point that it is to die at; its JSON. The exit code is under ``exit``."""
    options = ["--home", str(home), *(["--trust", str(trust)] if trust else [])]
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-m", "mesatee.cli.main", *options, *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, faults.VARIABLE: fault},
    )
    lines = (done.stdout or done.stderr).strip()
    return {"exit": done.returncode, **(json.loads(lines[lines.index("{") :]) if "{" in lines else {})}


@dataclass(frozen=True)
class Pair:
    """A service that may hand over, and the machine that may receive its keys."""

    first: Path
    second: Path
    service: up.Service

    @property
    def digest(self) -> str:
        return str(self.service.process("gateway").facts["service"])

    def receive(self, digest: str = "", fault: str = "", *, no_worker: bool = True) -> dict[str, Any]:
        """Ask for the keys, as the second machine, whose worker the service does not accept."""
        words = ("recover", "receive", self.service.url, "--service", digest or self.digest)
        if no_worker:
            words = (*words, "--no-worker")
        return mesatee(self.second, *words, trust=self.first / "trust.toml", fault=fault)


@contextlib.contextmanager
def pair(folder: Path, fault: str = "") -> Iterator[Pair]:
    """Both, the first running; its gateway dies once at the fault point."""
    home, other, probe = folder / "first", folder / "second", folder / "probe"
    # Both know each other's installation beforehand.
    up.start(probe, with_worker=False).stop()
    (other / "service").mkdir(parents=True)
    shutil.copy2(probe / "service/installation.key", other / "service/installation.key")
    trust = attesters.trust(attesters.SOFTWARE, other / "service", (), "", NOTHING)
    peer = GatewayTrust(
        tees=trust.tees,
        minimum_level=trust.minimum_level,
        measurements=trust.measurements,
        installation_keys=trust.installation_keys,
    )
    rule = HandOver(
        min_level=2,
        tees=("software",),
        measurements=peer.measurements,
        allow_simulated=False,
        trust=TrustPolicy(gateway=peer).to_toml(),
    )
    options = {"succession": SuccessionRules(hand_over=rule), "environ": {faults.VARIABLE: fault}}
    with up.running(home, with_worker=False, **options) as service:
        yield Pair(home, other, service)


@dataclass(frozen=True)
class Lost:
    """A service whose machine is gone, but for its public files, its storage and the shares of its keys."""

    old: Path
    new: Path
    digest: str
    holders: tuple[ShareHolder, ...]
    public: tuple[Path, Path]
    """Service statement and sealed shares."""
    shares: tuple[Path, ...]
    """What two of three holders gave for the new machine."""

    def finish(self, *shares: Path, fault: str = "") -> dict[str, Any]:
        """Combine the shares, on the new machine."""
        return mesatee(self.new, "recover", "finish", *self.public, *(shares or self.shares), fault=fault)


def lost(folder: Path) -> Lost:
    """Found a service with share holders, lose its machine, and have two holders give their shares."""
    homes = [folder / name for name in ("ana", "ben", "cleo")]
    people = [Identity.create(home, home.name) for home in homes]
    holders = tuple(ShareHolder(key=one.signing.public.hex(), age=one.age.recipient) for one in people)
    rule = SuccessionRules(share_holders=ShareRule(k=2, holders=holders))
    old, new = folder / "old", folder / "new"
    service = up.start(old, succession=rule, with_worker=False)
    digest = service.process("gateway").facts["service"]
    service.stop()
    # The installation key is the one that the rules pin.
    (new / "service").mkdir(parents=True)
    shutil.copytree(old / "service/host", new / "service/host")
    shutil.copy2(old / "service/installation.key", new / "service/installation.key")
    public = (old / "service/enclave/service.json", old / "service/enclave/recovery.json")
    request, trust = folder / "request.json", old / "trust.toml"
    assert mesatee(new, "recover", "ask", public[0], request)["service"] == digest
    shares = []
    for home in homes[:2]:
        shares.append(folder / f"{home.name}.share")
        given = mesatee(home, "recover", "give", *public, request, shares[-1], trust=trust)
        assert given["exit"] == 0, given
    return Lost(old, new, digest, holders, public, tuple(shares))


def facts(home: Path, *, with_worker: bool = False) -> dict[str, Any]:
    """What a gateway in this folder says when it is ready."""
    service = up.start(home, with_worker=with_worker)
    found: dict[str, Any] = service.process("gateway").facts
    service.stop()
    return found
