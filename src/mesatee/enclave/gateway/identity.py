"""The service's long-lived keys and its signed statement about itself.

Made once, sealed by the platform (`enclave/platform/sealing.py`), bound to this code and this installation. Everything
that decides on the service's side stands in the service statement; a gateway asked to start with other rules refuses,
because owners have sealed their keys to the rules that they read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..._core import HpkeKey, SecretKey, SigningKey
from ...errors import Conflict, Malformed
from ...protocol import checkpoint, envelope, limits, statements
from ...protocol.digests import b64encode
from ..platform.sealing import Sealing

_LOG_KEY, _SEALING_KEY = "log-key", "sealing-key"
SERVICE_FILE = "service.json"


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """All keys of one service, by handle, and its statement."""

    log: SigningKey
    sealing: HpkeKey
    body: SecretKey
    tickets: SecretKey
    snapshot: SecretKey
    service: statements.Statement


def open_service(
    folder: Path, sealing: Sealing, origin: str, platform_policy: str, worker_trust: str, at: int
) -> ServiceKeys:
    """Load the service in `folder`, or found it.

    Raises `Conflict` if it was founded under other rules, and what unsealing raises.
    """
    checkpoint.check_origin(origin)
    if not sealing.has(_LOG_KEY):
        sealing.seal_signing_key(_LOG_KEY, SigningKey.generate())
    if not sealing.has(_SEALING_KEY):
        sealing.seal_hpke_key(_SEALING_KEY, HpkeKey.generate())
    log, hpke = sealing.unseal_signing_key(_LOG_KEY), sealing.unseal_hpke_key(_SEALING_KEY)
    path = folder / SERVICE_FILE
    if not path.exists():
        _found(path, log, hpke, origin, platform_policy, worker_trust, at)
    statement = _load(path, log)
    said = statements.expect(statement.predicate, statements.ServiceStatement)
    wanted = {
        "origin": origin,
        "sealing_key": b64encode(hpke.public),
        "platform_policy": platform_policy,
        "worker_trust": worker_trust,
    }
    for name, value in wanted.items():
        if getattr(said, name) != value:
            raise Conflict(
                f"this service was founded with another {name.replace('_', ' ')}",
                hint="owners sealed their data to the rules they read: start it as it was, or found a new service "
                "in another folder (`mesatee --home DIR up`)",
            )
    return ServiceKeys(
        log=log,
        sealing=hpke,
        body=sealing.secret(f"log bodies of {origin}"),
        tickets=sealing.secret(f"tickets of {origin}"),
        snapshot=sealing.secret(f"snapshots of {origin}"),
        service=statement,
    )


def _found(
    path: Path, log: SigningKey, hpke: HpkeKey, origin: str, platform_policy: str, worker_trust: str, at: int
) -> None:
    predicate = statements.ServiceStatement(
        origin=origin,
        time=at,
        log_key=log.public.hex(),
        sealing_key=b64encode(hpke.public),
        platform_policy=platform_policy,
        worker_trust=worker_trust,
        witnesses=(),
        share_holders=(),
        hand_over="never",
    )
    data = statements.sign(predicate, log).envelope.to_bytes()
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _load(path: Path, log: SigningKey) -> statements.Statement:
    with path.open("rb") as file:
        data = file.read(limits.STATEMENT_BYTES + 1)
    statement = statements.verify(envelope.from_bytes(data), "service")
    if statement.signer != log.public.hex():
        raise Malformed(
            f"{path.name} is not signed by this service's log key", hint="restore the folder as it was"
        )
    return statement


__all__ = ["SERVICE_FILE", "ServiceKeys", "open_service"]
