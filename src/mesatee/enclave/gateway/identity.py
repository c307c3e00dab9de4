"""The service's long-lived keys and its signed statement about itself.

Made once, sealed by the platform (`enclave/platform/sealing.py`), bound to this code and this installation. Everything
that decides on the service's side stands in the service statement; a gateway asked to start with other rules refuses,
because owners have sealed their keys to the rules that they read. Keys that came from another gateway, or from the
holders of shares, are kept the same way; `succession` brings them here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..._core import HpkeKey, SecretKey, SigningKey
from ...attestation.trust import ANY, TrustPolicy
from ...errors import Conflict, KeyRefused, Malformed, NotFound, StateError
from ...protocol import checkpoint, envelope, limits, statements
from ...protocol.digests import b64encode, sha256
from ...protocol.service import HandOver, ShareHolder, ShareRule
from .. import faults
from ..platform.sealing import Sealing

_LOG_KEY, _SEALING_KEY = "log-key", "sealing-key"
_BODY_KEY, _TICKET_KEY, _SNAPSHOT_KEY = "body-key", "ticket-key", "snapshot-key"
_SUCCESSOR_KEY = "successor-key"
SERVICE_FILE: Final = "service.json"
RECOVERY_FILE: Final = "recovery.json"
"""The sealed shares. It may be copied anywhere: only `k` holders together open it."""
HOLDERS_FILE: Final = "recovered-by.txt"

HANDED: Final = ("log", "sealing", "body", "tickets", "snapshot")
"""The keys that pass to a successor, by their names in `ServiceKeys`."""

Rules = Literal["never"] | HandOver
Shares = tuple[ShareHolder, ...] | ShareRule


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """All keys of one service, by handle, and its statement.

    `successor` is the digest of the key under which this gateway received them, None where it made them itself;
    `recovered_by` names the holders whose shares gave them.
    """

    log: SigningKey
    sealing: HpkeKey
    body: SecretKey
    tickets: SecretKey
    snapshot: SecretKey
    service: statements.Statement
    successor: str | None = None
    recovered_by: tuple[str, ...] = ()


def open_service(
    folder: Path,
    sealing: Sealing,
    origin: str,
    platform_policy: str,
    worker_trust: str,
    at: int,
    *,
    hand_over: Rules = "never",
    share_holders: Shares = (),
) -> ServiceKeys:
    """Load the service in `folder`, or found it.

    Raises `Conflict` if it was founded under other rules, `StateError` where a hand-over to this folder was begun and
    not finished, and what unsealing raises.
    """
    checkpoint.check_origin(origin)
    check_rules(hand_over)
    path = folder / SERVICE_FILE
    if not path.exists() and sealing.has(_SUCCESSOR_KEY):
        raise StateError(
            "this gateway was made to receive a service's keys and has not received them yet",
            hint="repeat the hand-over or the recovery; to found a new service, use another folder",
        )
    if not sealing.has(_LOG_KEY):
        sealing.seal_signing_key(_LOG_KEY, SigningKey.generate())
    if not sealing.has(_SEALING_KEY):
        sealing.seal_hpke_key(_SEALING_KEY, HpkeKey.generate())
    log, hpke = sealing.unseal_signing_key(_LOG_KEY), sealing.unseal_hpke_key(_SEALING_KEY)
    if not path.exists():
        predicate = statements.ServiceStatement(
            origin=origin,
            time=at,
            log_key=log.public.hex(),
            sealing_key=b64encode(hpke.public),
            platform_policy=platform_policy,
            worker_trust=worker_trust,
            witnesses=(),
            share_holders=share_holders,
            hand_over=hand_over,
        )
        _write(path, statements.sign(predicate, log))
    statement = _load(path, log)
    said = statements.expect(statement.predicate, statements.ServiceStatement)
    wanted = {
        "origin": origin,
        "sealing_key": b64encode(hpke.public),
        "platform_policy": platform_policy,
        "worker_trust": worker_trust,
        "share_holders": share_holders,
        "hand_over": hand_over,
    }
    for name, value in wanted.items():
        if getattr(said, name) != value:
            raise Conflict(
                f"this service was founded with another {name.replace('_', ' ')}",
                hint="owners sealed their data to the rules they read: start it as it was, or found a new service "
                "in another folder (`mesatee --home DIR up`)",
            )
    return _keys(folder, sealing, log, hpke, statement)


def check_rules(hand_over: Rules) -> None:
    """A hand-over's trust policy names its gateways and anchors. Raises `Malformed`, `TooLarge` or
    `UnsupportedVersion`."""
    if hand_over == "never":
        return
    trust = TrustPolicy.from_toml(hand_over.trust).gateway
    if trust.measurements == ANY or not set(hand_over.tees) <= set(trust.tees):
        raise Malformed(
            "the trust policy of a hand-over names the measurements, and all TEE classes that may receive"
        )


def _keys(
    folder: Path, sealing: Sealing, log: SigningKey, hpke: HpkeKey, statement: statements.Statement
) -> ServiceKeys:
    origin = statements.expect(statement.predicate, statements.ServiceStatement).origin
    if not sealing.has(_SUCCESSOR_KEY):
        return ServiceKeys(
            log=log,
            sealing=hpke,
            body=sealing.secret(f"log bodies of {origin}"),
            tickets=sealing.secret(f"tickets of {origin}"),
            snapshot=sealing.secret(f"snapshots of {origin}"),
            service=statement,
        )
    return ServiceKeys(
        log=log,
        sealing=hpke,
        body=sealing.unseal_secret_key(_BODY_KEY),
        tickets=sealing.unseal_secret_key(_TICKET_KEY),
        snapshot=sealing.unseal_secret_key(_SNAPSHOT_KEY),
        service=statement,
        successor=sha256(sealing.unseal_hpke_key(_SUCCESSOR_KEY).public),
        recovered_by=_holders(folder / HOLDERS_FILE),
    )


def successor_key(folder: Path, sealing: Sealing) -> HpkeKey:
    """The key that another gateway's keys are wrapped to; the same again until they are here.

    Raises `Conflict` where a service is already.
    """
    if (folder / SERVICE_FILE).exists() or (sealing.has(_LOG_KEY) and not sealing.has(_SUCCESSOR_KEY)):
        raise Conflict("there is a service in this folder", hint="receive the other's keys in an empty one")
    if not sealing.has(_SUCCESSOR_KEY):
        sealing.seal_hpke_key(_SUCCESSOR_KEY, HpkeKey.generate())
    return sealing.unseal_hpke_key(_SUCCESSOR_KEY)


Prepare: TypeAlias = Callable[[ServiceKeys], None]
"""What else must be there before a service that came from elsewhere counts."""


def adopt(
    folder: Path,
    sealing: Sealing,
    keys: ServiceKeys,
    *,
    recovery: statements.Statement | None = None,
    prepare: Prepare = lambda keys: None,
) -> None:
    """Seal received keys to this machine. The statement comes last: without it nothing of the rest counts, and whoever
    died before it repeats the whole.

    `recovery` is the set of shares that gave the keys. Raises `KeyRefused` if the keys are not those of the statement.
    """
    check_keys(keys)
    faults.point("succession.opened")
    sealing.seal_signing_key(_LOG_KEY, keys.log)
    sealing.seal_hpke_key(_SEALING_KEY, keys.sealing)
    sealing.seal_secret_key(_BODY_KEY, keys.body)
    sealing.seal_secret_key(_TICKET_KEY, keys.tickets)
    sealing.seal_secret_key(_SNAPSHOT_KEY, keys.snapshot)
    if keys.recovered_by:
        _put(folder / HOLDERS_FILE, "\n".join(keys.recovered_by).encode())
    if recovery is not None:
        write_recovery(folder, recovery)
    prepare(keys)
    faults.point("succession.sealed")
    _write(folder / SERVICE_FILE, keys.service)
    faults.point("succession.adopted")


def check_keys(keys: ServiceKeys) -> None:
    """Raises `KeyRefused` if log and sealing key are not those that the service statement names."""
    said = statements.expect(keys.service.predicate, statements.ServiceStatement)
    if keys.log.public.hex() != said.log_key or b64encode(keys.sealing.public) != said.sealing_key:
        raise KeyRefused("the keys are not those that the service statement names")


def write_recovery(folder: Path, recovery: statements.Statement) -> None:
    """Put the sealed shares beside the service statement, once."""
    _write(folder / RECOVERY_FILE, recovery)


def read_statement(path: Path, kind: Literal["service", "recovery"]) -> statements.Statement:
    """A signed statement in a file. Raises `NotFound`, and what verifying raises."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.STATEMENT_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name}") from None
    return statements.verify(envelope.from_bytes(data), kind)


def _holders(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            return tuple(file.read(limits.STATEMENT_BYTES).decode("ascii", "replace").split())
    except FileNotFoundError:
        return ()


def _write(path: Path, statement: statements.Statement) -> None:
    _put(path, statement.envelope.to_bytes())


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _load(path: Path, log: SigningKey) -> statements.Statement:
    statement = read_statement(path, "service")
    if statement.signer != log.public.hex():
        raise Malformed(
            f"{path.name} is not signed by this service's log key", hint="restore the folder as it was"
        )
    return statement


__all__ = [
    "HANDED",
    "RECOVERY_FILE",
    "SERVICE_FILE",
    "Prepare",
    "Rules",
    "ServiceKeys",
    "Shares",
    "adopt",
    "check_keys",
    "check_rules",
    "open_service",
    "read_statement",
    "successor_key",
    "write_recovery",
]
