"""How a service's keys come to another gateway: from its predecessor, or from the holders of shares.

Both only as the service statement says, and both end in `identity.adopt`: sealed to the machine that received them. The
predecessor's part is the monitor's (`Monitor.hand_over`); here are the receiver's, and the making of the shares.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..._core import (
    HpkeKey,
    SecretKey,
    Share,
    SigningKey,
    combine_shares,
    spki,
    split_key,
)
from ...attestation.evidence import Claims
from ...errors import (
    Conflict,
    Denied,
    KeyRefused,
    Malformed,
    MesateeError,
    NotFound,
    Replayed,
)
from ...protocol import envelope as dsse
from ...protocol import limits, statements, wire, wraps
from ...protocol.digests import KEY_WRAP_BYTES, b64decode, b64encode, sha256
from ...protocol.jsonstrict import canonical
from ...protocol.recovery import SUCCESSOR, RecoveryRequest, RecoveryShare
from ...protocol.service import SealedShare, ShareRule
from ..platform.base import Attester
from ..platform.sealing import Sealing
from .identity import (
    HANDED,
    RECOVERY_FILE,
    Prepare,
    ServiceKeys,
    adopt,
    read_statement,
    successor_key,
    write_recovery,
)

TIMEOUT_SECONDS = 30.0
"""For the one request of a hand-over."""
CERTIFICATE_SECONDS = 3_600
"""Life of the receiver's channel certificate."""
_CONTEXT = b"mesatee recovery v1"


# -- hand-over ------------------------------------------------------------------------------------------


def receive(
    folder: Path,
    sealing: Sealing,
    service: str,
    ask: Callable[[bytes], wire.HandOverReply],
    prepare: Prepare = lambda keys: None,
) -> ServiceKeys:
    """Get the keys of the service with the digest `service` from its gateway, and seal them here.

    `ask` brings the public key of 1216 bytes there and the answer back (`enclave/handover.py`). What is lost on the way
    can be asked for again: the key that receives is kept. `prepare` is called before the service counts. Raises
    `Conflict` if a service is in `folder`, `KeyRefused` or `Malformed` for an answer that is not meant for us, and what
    `ask` raises.
    """
    to = successor_key(folder, sealing)
    successor = sha256(to.public)
    reply = ask(to.public)
    statement = statements.verify(dsse.from_dict(reply.service), "service")
    if statement.digest != service:
        raise KeyRefused("the answer is about another service")
    said = statements.expect(statement.predicate, statements.ServiceStatement)
    if set(reply.wraps) != set(HANDED):
        raise Malformed(f"a hand-over has the keys {', '.join(HANDED)}")

    def parts(name: str) -> tuple[bytes, bytes, bytes]:
        binding = wraps.hand_over(said.origin, service, reply.index, successor, name)
        return b64decode(reply.wraps[name], max_bytes=KEY_WRAP_BYTES), binding.info, binding.aad

    keys = ServiceKeys(
        log=to.unwrap_signing_key(*parts("log")),
        sealing=to.unwrap_hpke_key(*parts("sealing")),
        body=to.unwrap_secret_key(*parts("body")),
        tickets=to.unwrap_secret_key(*parts("tickets")),
        snapshot=to.unwrap_secret_key(*parts("snapshot")),
        service=statement,
        successor=successor,
    )
    adopt(folder, sealing, keys, prepare=prepare)
    return keys


def claims_of(key: SigningKey, service: str, to: bytes) -> Claims:
    """What a gateway says of itself that would receive keys under `to`."""
    plain = Claims.of_key(spki(key.public), "gateway", service=service)
    return replace(plain, extra={SUCCESSOR: hashlib.sha256(to).digest()})


# -- shares ---------------------------------------------------------------------------------------------


def share_keys(folder: Path, keys: ServiceKeys, at: int) -> statements.Statement | None:
    """Make the sealed shares of a service whose statement asks for them, unless `folder` has them; None if it does not.

    The recovery key exists for this call only. Raises what verifying the file raises, or `Conflict` for another's.
    """
    said = statements.expect(keys.service.predicate, statements.ServiceStatement)
    if not isinstance(said.share_holders, ShareRule):
        return None
    try:
        found = read_statement(folder / RECOVERY_FILE, "recovery")
    except NotFound:
        pass
    else:
        _check_set(found, keys.service)
        return found
    rule, by = said.share_holders, SecretKey.generate()
    name = os.urandom(32)
    made = split_key(by, rule.k, [holder.age for holder in rule.holders], name)
    recovery = statements.RecoveryStatement(
        origin=said.origin,
        service=keys.service.digest,
        time=at,
        set=name.hex(),
        k=rule.k,
        shares=tuple(
            SealedShare(holder=holder.key, index=index, commitment=commitment.hex(), sealed=b64encode(sealed))
            for holder, (index, commitment, sealed) in zip(rule.holders, made, strict=True)
        ),
        keys={
            one: b64encode(
                getattr(keys, one).export_sealed(by, _context(keys.service.digest, name.hex(), one))
            )
            for one in HANDED
        },
    )
    statement = statements.sign(recovery, keys.log)
    write_recovery(folder, statement)
    return statement


def _context(service: str, set_: str, name: str) -> bytes:
    return _CONTEXT + canonical({"service": service, "set": set_, "key": name})


def _check_set(recovery: statements.Statement, service: statements.Statement) -> statements.RecoveryStatement:
    """The set belongs to the service and has the holders that its statement names. Raises `KeyRefused` or `Denied`."""
    said = statements.expect(service.predicate, statements.ServiceStatement)
    found = statements.expect(recovery.predicate, statements.RecoveryStatement)
    if recovery.signer != said.log_key or found.service != service.digest or found.origin != said.origin:
        raise KeyRefused("these shares are of another service")
    rule = said.share_holders
    if not isinstance(rule, ShareRule):
        raise Denied("this service has no share holders: its service statement says so")
    if found.k != rule.k or [share.holder for share in found.shares] != [one.key for one in rule.holders]:
        raise KeyRefused("these shares have other holders than the service statement names")
    return found


# -- recovery -------------------------------------------------------------------------------------------


def ask_holders(folder: Path, sealing: Sealing, attester: Attester, service: str) -> RecoveryRequest:
    """What a fresh gateway shows the holders. Raises `Conflict` if a service is in `folder`."""
    to, key = successor_key(folder, sealing), SigningKey.generate()
    return RecoveryRequest(
        service=service,
        spki=b64encode(spki(key.public)),
        evidence=b64encode(attester.evidence(claims_of(key, service, to.public))),
        key=b64encode(to.public),
    )


def recover(
    folder: Path,
    sealing: Sealing,
    service: statements.Statement,
    recovery: statements.Statement,
    given: Sequence[RecoveryShare],
    prepare: Prepare = lambda keys: None,
) -> ServiceKeys:
    """Combine shares into the service's keys and seal them here.

    1. The set is the service's own, with the holders and the `k` that its statement names.
    2. Each share is of this set, by one of its holders, wrapped to this gateway by its holder, given once, and what the
       set committed to.
    3. There are `k` of them.
    4. The keys that they open are those of the service statement.

    `prepare` is called before the service counts.

    Raises `KeyRefused` (another's share, or not the one committed to), `Replayed` (a share of another set), `Conflict`
    (given twice), `Denied` (too few, or no shares allowed); each names the holder.
    """
    # 1.
    found = _check_set(recovery, service)
    # 2.
    to = successor_key(folder, sealing)
    shares: dict[str, Share] = {}
    for one in given:
        if one.holder in shares:
            raise Conflict(f"the share of {one.holder[:16]} was given twice")
        shares[one.holder] = _open_share(found, one, to)
    # 3.
    if len(shares) < found.k:
        raise Denied(f"{found.k} shares are needed, {len(shares)} were given")
    by = combine_shares(found.k, list(shares.values()))
    # 4.
    keys = _imported(found, service, by, sha256(to.public), tuple(sorted(shares)))
    adopt(folder, sealing, keys, recovery=recovery, prepare=prepare)
    return keys


def _open_share(found: statements.RecoveryStatement, one: RecoveryShare, to: HpkeKey) -> Share:
    who = one.holder[:16]
    expected = next((share for share in found.shares if share.holder == one.holder), None)
    if expected is None:
        raise KeyRefused(f"{who} is no holder of these shares")
    if one.service != found.service or one.set != found.set:
        raise Replayed(f"the share of {who} is stale: it is of another set")
    binding = wraps.share(found.origin, found.service, found.set, one.holder, sha256(to.public))
    try:
        share = Share.unwrap(to, b64decode(one.wrap, max_bytes=2_048), binding.info, binding.aad)
    except MesateeError as error:
        raise KeyRefused(f"the share of {who} does not open: {error.message}") from None
    if share.context.hex() != found.set:
        raise Replayed(f"the share of {who} is stale: it is of another set")
    if share.index != expected.index or share.commitment.hex() != expected.commitment:
        raise KeyRefused(f"the share of {who} is not the one that this set committed to")
    return share


def _imported(
    found: statements.RecoveryStatement,
    service: statements.Statement,
    by: SecretKey,
    successor: str,
    holders: tuple[str, ...],
) -> ServiceKeys:
    def sealed(name: str) -> tuple[bytes, SecretKey, bytes]:
        if name not in found.keys:
            raise Malformed(f"the set does not hold the {name} key")
        data = b64decode(found.keys[name], max_bytes=limits.SHARE_CHARS)
        return data, by, _context(found.service, found.set, name)

    return ServiceKeys(
        log=SigningKey.import_sealed(*sealed("log")),
        sealing=HpkeKey.import_sealed(*sealed("sealing")),
        body=SecretKey.import_sealed(*sealed("body")),
        tickets=SecretKey.import_sealed(*sealed("tickets")),
        snapshot=SecretKey.import_sealed(*sealed("snapshot")),
        service=service,
        successor=successor,
        recovered_by=holders,
    )


__all__ = ["ask_holders", "claims_of", "receive", "recover", "share_keys"]
