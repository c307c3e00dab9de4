"""Services whose keys pass to another machine, with real processes and the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesatee.attestation.endorsements import NOTHING
from mesatee.attestation.trust import GatewayTrust, TrustPolicy
from mesatee.cli import attesters, up
from mesatee.enclave import faults
from mesatee.party.identity import Identity
from mesatee.protocol.service import HandOver, ShareHolder, ShareRule, SuccessionRules


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

    def receive(self, digest: str = "", fault: str = "") -> dict[str, Any]:
        """Ask for the keys, as the second machine."""
        words = ("recover", "receive", self.service.url, "--service", digest or self.digest)
        return mesatee(self.second, *words, trust=self.first / "trust.toml", fault=fault)


@contextlib.contextmanager
def pair(folder: Path, fault: str = "") -> Iterator[Pair]:
    """Both, the first running; its gateway dies once at the fault point."""
    first, second, probe = folder / "first", folder / "second", folder / "probe"
    # Both know each other's installation beforehand.
    up.start(probe, with_worker=False).stop()
    (second / "service").mkdir(parents=True)
    shutil.copy2(probe / "service/installation.key", second / "service/installation.key")
    found = attesters.trust(attesters.SOFTWARE, second / "service", (), "", NOTHING)
    peer = GatewayTrust(
        tees=found.tees,
        minimum_level=found.minimum_level,
        measurements=found.measurements,
        installation_keys=found.installation_keys,
    )
    rules = HandOver(
        min_level=2,
        tees=("software",),
        measurements=peer.measurements,
        allow_simulated=False,
        trust=TrustPolicy(gateway=peer).to_toml(),
    )
    options = {"succession": SuccessionRules(hand_over=rules), "environ": {faults.VARIABLE: fault}}
    with up.running(first, with_worker=False, **options) as service:
        yield Pair(first, second, service)


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
    rules = SuccessionRules(share_holders=ShareRule(k=2, holders=holders))
    old, new = folder / "old", folder / "new"
    service = up.start(old, succession=rules, with_worker=False)
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
        given = mesatee(home, "recover", "give", public[1], request, shares[-1], trust=trust)
        assert given["exit"] == 0, given
    return Lost(old, new, digest, holders, public, tuple(shares))


def facts(home: Path) -> dict[str, Any]:
    """What a gateway in this folder says when it is ready."""
    service = up.start(home, with_worker=False)
    found: dict[str, Any] = service.process("gateway").facts
    service.stop()
    return found
