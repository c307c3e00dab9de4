"""The share holder's part in recovering a service: open the share here, wrap it to a gateway that is trusted."""

from __future__ import annotations

import hashlib

from .._core import AgeKey, Share
from ..attestation.appraisal import Appraisal
from ..attestation.evidence import decode
from ..attestation.trust import TrustPolicy
from ..attestation.verify import appraise
from ..errors import EvidenceRefused, Expired, KeyRefused, Replayed
from ..protocol import limits, statements, wraps
from ..protocol.digests import HPKE_PUBLIC_BYTES, b64decode, b64encode
from ..protocol.recovery import SUCCESSOR, RecoveryRequest, RecoveryShare, check_set


def check_request(request: RecoveryRequest, service: str, trust: TrustPolicy, at: int) -> Appraisal:
    """Judge the gateway that asks, by the holder's own trust policy, at `at` (Unix seconds).

    Raises `EvidenceRefused` and what appraising raises; `Replayed` for a request that is for another service, `Expired`
    for one whose time is over, or ends later than any request's.
    """
    if request.service != service:
        raise Replayed("the request is for another service than the shares")
    if not at < request.expires <= at + limits.RECOVERY_SECONDS + limits.CLOCK_SKEW_SECONDS:
        raise Expired(
            "the request has expired, or ends later than a request may",
            hint="let that gateway ask anew: `mesatee recover ask`; check this machine's clock",
        )
    evidence = b64decode(request.evidence, max_bytes=limits.CERTIFICATE_BYTES)
    found = appraise(evidence, b64decode(request.spki, max_bytes=1_024), trust, at, "gateway")
    if found.service != service:
        raise EvidenceRefused("the gateway's evidence is for another service")
    vouched = decode(evidence).claims.extra.get(SUCCESSOR)
    if vouched != hashlib.sha256(_key(request)).digest():
        raise EvidenceRefused("the gateway's evidence does not vouch for the key of the request")
    return found


def give_share(
    service: statements.Statement,
    recovery: statements.Statement,
    request: RecoveryRequest,
    holder: str,
    key: AgeKey,
    trust: TrustPolicy,
    at: int,
) -> RecoveryShare:
    """The share of `holder` (an identity key, hex), wrapped to the gateway that asks, for this request alone.

    1. The set is the service's own, with the holders and the `k` that its statement names.
    2. The gateway is one that the holder trusts for that service, its evidence vouches for the key of the request, and
       the request has not expired.
    3. The holder has a share in this set, which opens with `key` and is what the set committed to.
    4. It is wrapped to that gateway alone; its plaintext never leaves the Rust core.

    Raises what `check_set` and `check_request` raise, `KeyRefused` or `SealedDataCorrupt`.
    """
    # 1.
    said = check_set(recovery, service)
    # 2.
    check_request(request, said.service, trust, at)
    # 3.
    mine = next((share for share in said.shares if share.holder == holder), None)
    if mine is None:
        raise KeyRefused(f"{holder[:16]} is no holder of these shares")
    share = Share.open(b64decode(mine.sealed, max_bytes=limits.SHARE_CHARS), key)
    if share.commitment.hex() != mine.commitment or share.context.hex() != said.set:
        raise KeyRefused("the sealed share is not the one that this set committed to")
    # 4.
    binding = wraps.share(said.origin, said.service, said.set, holder, request.digest)
    wrap = share.wrap(_key(request), binding.info, binding.aad)
    return RecoveryShare(
        service=said.service,
        set=said.set,
        request=request.digest,
        holder=holder,
        index=share.index,
        wrap=b64encode(wrap),
    )


def _key(request: RecoveryRequest) -> bytes:
    return b64decode(request.key, max_bytes=HPKE_PUBLIC_BYTES)


__all__ = ["check_request", "give_share"]
