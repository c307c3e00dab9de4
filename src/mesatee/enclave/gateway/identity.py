"""The service's long-lived keys and its signed statement about itself.

Made once and sealed by the platform (`enclave/platform/sealing.py`) in one file: all keys, bound to this code, this
installation, the service statement, and how the keys came here. Everything that decides on the service's side stands in
the statement; a gateway asked to start with other rules refuses, because owners have sealed their keys to the rules
that they read. No key ever serves a second statement: they are made for one and open for no other. Keys that came from
another gateway, or from the holders of shares, are kept the same way; `succession` brings them here.

``service.json`` is a copy of the statement for others to read. What counts is the sealed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ..._core import HpkeKey, SecretKey, SigningKey
from ...attestation.trust import ANY, TrustPolicy
from ...errors import Conflict, KeyRefused, Malformed, NotFound, StateError
from ...protocol import checkpoint, envelope, limits, statements
from ...protocol.digests import Hex32, b64encode
from ...protocol.model import Model, Time, validate
from ...protocol.service import HandOver, ShareHolder, ShareRule
from .. import faults
from ..platform.keys import write
from ..platform.sealing import Sealing
from .tenure import Received

_SERVICE, _SUCCESSOR = "service", "successor"
"""Names of sealed keys: the service's own, and the one that another gateway's keys are awaited under."""
SERVICE_FILE: Final = "service.json"
RECOVERY_FILE: Final = "recovery.json"
"""The sealed shares. It may be copied anywhere: only `k` holders together open it."""

HANDED: Final = ("log", "sealing", "body", "tickets", "snapshot")
"""The keys that pass to a successor, by their names in `ServiceKeys`."""

Rules = Literal["never"] | HandOver
Shares = tuple[ShareHolder, ...] | ShareRule


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """All keys of one service, by handle, and its statement. `received` is None where this gateway made them itself."""

    log: SigningKey
    sealing: HpkeKey
    body: SecretKey
    tickets: SecretKey
    snapshot: SecretKey
    service: statements.Statement
    received: Received | None = None

    @property
    def said(self) -> statements.ServiceStatement:
        """What the service says of itself."""
        return statements.expect(self.service.predicate, statements.ServiceStatement)


class _Facts(Model):
    """What a service's sealed keys are bound to."""

    service: dict[str, Any]
    received: Received | None


class Asked(Model):
    """What share holders were asked: the request's digest, for which service, and until when (Unix seconds)."""

    request: Hex32
    service: Hex32
    expires: Time


class _Awaited(Model):
    """What a successor's key is bound to; `asked` is None for a hand-over."""

    asked: Asked | None


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

    Raises `Conflict` if it was founded under other rules; `StateError` where a hand-over to this folder was begun and
    not finished, and where something of a service is left that does not make one; and what unsealing raises.
    """
    checkpoint.check_origin(origin)
    check_rules(hand_over)
    wanted: dict[str, Any] = {
        "origin": origin,
        "platform_policy": platform_policy,
        "worker_trust": worker_trust,
        "share_holders": share_holders,
        "hand_over": hand_over,
    }
    if not sealing.has(_SERVICE):
        _check_nothing_left(folder, sealing)
        _keep(sealing, _found(at, wanted))
    # Of no use once the keys are here.
    sealing.remove(_SUCCESSOR)
    keys = _load(sealing)
    for name, value in wanted.items():
        if getattr(keys.said, name) != value:
            raise Conflict(
                f"this service was founded with another {name.replace('_', ' ')}",
                hint="owners sealed their data to the rules they read: start it as it was, or found a new service "
                "in another folder (`mesatee --home DIR up`)",
            )
    write(folder / SERVICE_FILE, keys.service.envelope.to_bytes())
    return keys


def _found(at: int, rules: dict[str, Any]) -> ServiceKeys:
    log, sealing = SigningKey.generate(), HpkeKey.generate()
    said = statements.ServiceStatement(
        time=at, log_key=log.public.hex(), sealing_key=b64encode(sealing.public), witnesses=(), **rules
    )
    return ServiceKeys(
        log=log,
        sealing=sealing,
        body=SecretKey.generate(),
        tickets=SecretKey.generate(),
        snapshot=SecretKey.generate(),
        service=statements.sign(said, log),
    )


def _check_nothing_left(folder: Path, sealing: Sealing) -> None:
    """A service is founded where none was. Raises `StateError`."""
    if sealing.has(_SUCCESSOR):
        raise StateError(
            "this gateway was made to receive a service's keys and has not received them yet",
            hint="repeat the hand-over or the recovery; to found a new service, use another folder",
        )
    left = [f"{name}.sealed" for name in sealing.names()]
    left += [name for name in (SERVICE_FILE, RECOVERY_FILE) if (folder / name).exists()]
    if left:
        raise StateError(
            f"in this folder is a part of a service, or one of an older version: {', '.join(left)}",
            hint="restore the folder as it was, or found a new service in another one (`mesatee --home DIR up`)",
        )


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


def _load(sealing: Sealing) -> ServiceKeys:
    found = sealing.unseal(_SERVICE)
    facts = validate(_Facts, found.facts, "sealed keys")
    keys = ServiceKeys(
        log=found.signing("log"),
        sealing=found.hpke("sealing"),
        body=found.secret("body"),
        tickets=found.secret("tickets"),
        snapshot=found.secret("snapshot"),
        service=statements.verify(envelope.from_dict(facts.service), "service"),
        received=facts.received,
    )
    check_keys(keys)
    return keys


def _keep(sealing: Sealing, keys: ServiceKeys) -> None:
    """All of a service in one file, which is there as a whole or not at all."""
    received = keys.received.model_dump(mode="json") if keys.received else None
    facts = {"service": keys.service.envelope.as_dict(), "received": received}
    sealing.seal(_SERVICE, {name: getattr(keys, name) for name in HANDED}, facts)


def hand_over_key(sealing: Sealing) -> HpkeKey:
    """The key that a predecessor's keys are wrapped to; the same again until they are here, for an answer that is lost
    must be good when it comes again. Raises `Conflict` where a service is already.
    """
    _check_no_service(sealing)
    if sealing.has(_SUCCESSOR):
        found = sealing.unseal(_SUCCESSOR)
        if validate(_Awaited, found.facts, "sealed keys").asked is None:
            return found.hpke("key")
    key = HpkeKey.generate()
    sealing.seal(_SUCCESSOR, {"key": key}, {"asked": None})
    return key


def await_shares(sealing: Sealing, key: HpkeKey, asked: Asked) -> None:
    """Keep the key of a request to share holders. What was given for an earlier request opens no more.

    Raises `Conflict` where a service is already, and where a hand-over was begun.
    """
    _check_no_service(sealing)
    if sealing.has(_SUCCESSOR):
        before = validate(_Awaited, sealing.unseal(_SUCCESSOR).facts, "sealed keys")
        if before.asked is None:
            raise Conflict(
                "a hand-over to this gateway was begun", hint="repeat it, or recover in another folder"
            )
    sealing.seal(_SUCCESSOR, {"key": key}, {"asked": asked.model_dump(mode="json")})


def awaited_shares(sealing: Sealing) -> tuple[HpkeKey, Asked]:
    """The key of the newest request, and what was asked. Raises `Conflict` where a service is already, and `StateError`
    if nobody was asked.
    """
    _check_no_service(sealing)
    if sealing.has(_SUCCESSOR):
        found = sealing.unseal(_SUCCESSOR)
        asked = validate(_Awaited, found.facts, "sealed keys").asked
        if asked is not None:
            return found.hpke("key"), asked
    raise StateError(
        "this gateway has not asked the holders of shares", hint="make a request first: `mesatee recover ask`"
    )


def _check_no_service(sealing: Sealing) -> None:
    if set(sealing.names()) - {_SUCCESSOR}:
        raise Conflict("there is a service in this folder", hint="receive the other's keys in an empty one")


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
    """Seal received keys to this machine. The sealed file comes last of what a start needs: without it nothing of the
    rest counts, and whoever died before it repeats the whole. What comes after it, a start does if it is missing.

    `recovery` is the set of shares that gave the keys. Raises `KeyRefused` if the keys are not those of the statement.
    """
    check_keys(keys)
    faults.point("succession.opened")
    if recovery is not None:
        write_recovery(folder, recovery)
    prepare(keys)
    faults.point("succession.prepared")
    _keep(sealing, keys)
    faults.point("succession.sealed")
    write(folder / SERVICE_FILE, keys.service.envelope.to_bytes())
    faults.point("succession.adopted")
    sealing.remove(_SUCCESSOR)


def check_keys(keys: ServiceKeys) -> None:
    """Raises `KeyRefused` if log and sealing key are not those that the service statement names."""
    if keys.log.public.hex() != keys.said.log_key or b64encode(keys.sealing.public) != keys.said.sealing_key:
        raise KeyRefused("the keys are not those that the service statement names")


def write_recovery(folder: Path, recovery: statements.Statement) -> None:
    """Put the sealed shares beside the service statement."""
    write(folder / RECOVERY_FILE, recovery.envelope.to_bytes())


def read_statement(path: Path, kind: Literal["service", "recovery"]) -> statements.Statement:
    """A signed statement in a file. Raises `NotFound`, and what verifying raises."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.STATEMENT_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name}") from None
    return statements.verify(envelope.from_bytes(data), kind)


__all__ = [
    "HANDED",
    "RECOVERY_FILE",
    "SERVICE_FILE",
    "Asked",
    "Prepare",
    "Rules",
    "ServiceKeys",
    "Shares",
    "adopt",
    "await_shares",
    "awaited_shares",
    "check_keys",
    "check_rules",
    "hand_over_key",
    "open_service",
    "read_statement",
    "write_recovery",
]
