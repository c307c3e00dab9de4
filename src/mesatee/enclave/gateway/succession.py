"""How a service's keys come to another gateway: from its predecessor, or from the holders of shares.

Both only as the service statement says, and both end in `identity.adopt`: sealed to the machine that received them.
Here is the receiver's part. The predecessor's, and the making of the shares, are the monitor's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..._core import HpkeKey, SecretKey, Share, SigningKey, combine_shares, spki
from ...attestation.evidence import Claims
from ...errors import Conflict, Denied, Expired, KeyRefused, Malformed, MesateeError, Replayed
from ...protocol import envelope as dsse
from ...protocol import limits, statements, wire, wraps
from ...protocol.digests import KEY_WRAP_BYTES, b64decode, b64encode, sha256
from ...protocol.recovery import SUCCESSOR, RecoveryRequest, RecoveryShare, check_set, key_context
from ..platform.base import Attester
from ..platform.sealing import Sealing
from .identity import (
    HANDED,
    Asked,
    Prepare,
    ServiceKeys,
    adopt,
    await_shares,
    awaited_shares,
    hand_over_key,
)
from .tenure import Received

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
    to = hand_over_key(sealing)
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
        received=Received(successor=successor),
    )
    adopt(folder, sealing, keys, prepare=prepare)
    return keys


def claims_of(key: SigningKey, service: str, to: bytes) -> Claims:
    """What a gateway says of itself that would receive keys under `to`."""
    plain = Claims.of_key(spki(key.public), "gateway", service=service)
    return replace(plain, extra={SUCCESSOR: hashlib.sha256(to).digest()})


# -- recovery -------------------------------------------------------------------------------------------


def ask_holders(sealing: Sealing, attester: Attester, service: str, at: int) -> RecoveryRequest:
    """What a fresh gateway shows the holders, made at `at` (Unix seconds). An earlier request counts no more.

    Raises `Conflict` if a service is in the folder, or was to be handed over to it.
    """
    to, key = HpkeKey.generate(), SigningKey.generate()
    request = RecoveryRequest(
        service=service,
        spki=b64encode(spki(key.public)),
        evidence=b64encode(attester.evidence(claims_of(key, service, to.public))),
        key=b64encode(to.public),
        expires=at + limits.RECOVERY_SECONDS,
    )
    await_shares(sealing, to, Asked(request=request.digest, service=service, expires=request.expires))
    return request


def recover(
    folder: Path,
    sealing: Sealing,
    service: statements.Statement,
    recovery: statements.Statement,
    given: Sequence[RecoveryShare],
    at: int,
    prepare: Prepare = lambda keys: None,
) -> ServiceKeys:
    """Combine shares into the service's keys and seal them here, at `at` (Unix seconds).

    1. The set is the service's own, with the holders and the `k` that its statement names.
    2. This gateway asked for them, for this service, and its request has not expired.
    3. Each share is of this set, by one of its holders, wrapped to this gateway by its holder for that request, given
       once, and what the set committed to.
    4. There are `k` of them.
    5. The keys that they open are those of the service statement.

    `prepare` is called before the service counts.

    Raises `KeyRefused` (another's share, or not the one committed to), `Replayed` (a share of another set or for
    another request), `Conflict` (given twice), `Expired`, `Denied` (too few, or no shares allowed); each names the
    holder; `StateError` if nobody was asked.
    """
    # 1.
    found = check_set(recovery, service)
    # 2.
    to, asked = awaited_shares(sealing)
    if asked.service != service.digest:
        raise Replayed("the request of this gateway was for another service")
    if at >= asked.expires:
        raise Expired("the request has expired", hint="ask the holders anew: `mesatee recover ask`")
    # 3.
    shares: dict[str, Share] = {}
    for one in given:
        if one.holder in shares:
            raise Conflict(f"the share of {one.holder[:16]} was given twice")
        shares[one.holder] = _open_share(found, one, to, asked.request)
    # 4.
    if len(shares) < found.k:
        raise Denied(f"{found.k} shares are needed, {len(shares)} were given")
    by = combine_shares(found.k, list(shares.values()))
    # 5.
    received = Received(successor=sha256(to.public), holders=tuple(sorted(shares)), shares=recovery.digest)
    keys = _imported(found, service, by, received)
    adopt(folder, sealing, keys, recovery=recovery, prepare=prepare)
    return keys


def _open_share(found: statements.RecoveryStatement, one: RecoveryShare, to: HpkeKey, request: str) -> Share:
    who = one.holder[:16]
    expected = next((share for share in found.shares if share.holder == one.holder), None)
    if expected is None:
        raise KeyRefused(f"{who} is no holder of these shares")
    if one.service != found.service or one.set != found.set:
        raise Replayed(f"the share of {who} is stale: it is of another set")
    if one.request != request:
        raise Replayed(
            f"the share of {who} was given for another request", hint="show that holder the newest request"
        )
    binding = wraps.share(found.origin, found.service, found.set, one.holder, request)
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
    found: statements.RecoveryStatement, service: statements.Statement, by: SecretKey, received: Received
) -> ServiceKeys:
    def sealed(name: str) -> tuple[bytes, SecretKey, bytes]:
        if name not in found.keys:
            raise Malformed(f"the set does not hold the {name} key")
        data = b64decode(found.keys[name], max_bytes=limits.SHARE_CHARS)
        return data, by, key_context(found.service, found.set, name)

    return ServiceKeys(
        log=SigningKey.import_sealed(*sealed("log")),
        sealing=HpkeKey.import_sealed(*sealed("sealing")),
        body=SecretKey.import_sealed(*sealed("body")),
        tickets=SecretKey.import_sealed(*sealed("tickets")),
        snapshot=SecretKey.import_sealed(*sealed("snapshot")),
        service=service,
        received=received,
    )


__all__ = ["ask_holders", "claims_of", "receive", "recover"]
