"""The formats of hand-over and recovery: what they refuse, and that statements founded without them stay the same."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesatee._core import AgeKey, HpkeKey, SigningKey
from mesatee.errors import Malformed, MesateeError, TooLarge
from mesatee.protocol import limits, statements
from mesatee.protocol.digests import b64encode
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.recovery import RecoveryRequest, RecoveryShare, parse
from mesatee.protocol.service import HandOver, SealedShare, ShareHolder, ShareRule

AGE = [AgeKey.generate().recipient for _ in range(limits.SHARE_HOLDERS + 1)]
LOG, SEALING = SigningKey.generate(), b64encode(HpkeKey.generate().public)


def holders(count: int) -> tuple[ShareHolder, ...]:
    return tuple(ShareHolder(key=f"{at:064x}", age=AGE[at]) for at in range(count))


def service(**changes: object) -> statements.ServiceStatement:
    fields = {
        "origin": "a.example/log",
        "time": 1,
        "log_key": LOG.public.hex(),
        "sealing_key": SEALING,
        "platform_policy": "permit (principal, action, resource);",
        "worker_trust": "version = 1",
        "witnesses": (),
        "share_holders": (),
        "hand_over": "never",
    }
    return statements.ServiceStatement.model_validate({**fields, **changes})


def hand_over(**changes: object) -> HandOver:
    fields = {
        "min_level": 4,
        "tees": ("sev-snp",),
        "measurements": ("ab" * 48,),
        "allow_simulated": False,
        "trust": "version = 1",
    }
    return HandOver.model_validate({**fields, **changes})


@given(k=st.integers(-1, limits.SHARE_HOLDERS + 2), n=st.integers(0, limits.SHARE_HOLDERS + 1))
def test_a_rule_holds_exactly_where_k_is_two_to_n(k: int, n: int) -> None:
    fits = 2 <= k <= n <= limits.SHARE_HOLDERS
    try:
        rule = ShareRule(k=k, holders=holders(n))
    except ValidationError:
        assert not fits
        return
    assert fits
    signed = statements.sign(service(share_holders=rule), LOG)
    again = statements.expect(statements.verify(signed.envelope).predicate, statements.ServiceStatement)
    assert again.share_holders == rule


def test_holders_are_different_parties_with_different_keys() -> None:
    one, two = holders(2)
    for second in (
        ShareHolder(key=one.key, age=two.age),
        ShareHolder(key=two.key, age=one.age),
    ):
        with pytest.raises(ValidationError):
            ShareRule(k=2, holders=(one, second))


@pytest.mark.parametrize(
    "changes",
    [
        {"min_level": 0},
        {"min_level": 6},
        {"tees": ()},
        {"tees": ("none",)},
        {"tees": ("tdx", "tdx")},
        {"measurements": ()},
        {"measurements": ("none",)},
        {"measurements": ("any",)},
        {"measurements": ("ab" * 32, "ab" * 32)},
        {"trust": ""},
        {"more": 1},
    ],
)
def test_open_or_contradicting_hand_over_rules_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        hand_over(**changes)


def test_without_them_the_statement_says_what_it_always_said() -> None:
    """Its digest is in evidence and tasks: fields that are off may not change the bytes."""
    data = statements.payload(service())
    assert b'"hand_over":"never"' in data
    assert b'"share_holders":[]' in data
    signed = statements.sign(service(hand_over=hand_over()), LOG)
    assert statements.verify(signed.envelope).digest != statements.sign(service(), LOG).digest


def test_share_holders_without_a_rule_are_refused() -> None:
    with pytest.raises(ValidationError):
        service(share_holders=holders(2))
    with pytest.raises(ValidationError):
        service(hand_over="always")


def recovery(n: int = 3, k: int = 2, **changes: object) -> statements.RecoveryStatement:
    shares = tuple(
        SealedShare(holder=f"{at:064x}", index=at, commitment=secrets.token_hex(32), sealed=f"AAA{at}")
        for at in range(1, n + 1)
    )
    fields = {
        "origin": "a.example/log",
        "service": "ab" * 32,
        "time": 1,
        "set": "cd" * 32,
        "k": k,
        "shares": shares,
        "keys": {"log": "AAAA"},
    }
    return statements.RecoveryStatement.model_validate({**fields, **changes})


def test_sets_round_trip_and_refuse_doubles() -> None:
    made = statements.sign(recovery(), LOG)
    assert statements.verify(made.envelope, "recovery").predicate == made.predicate
    with pytest.raises(ValidationError):
        recovery(n=2, k=3)
    one, two, _ = recovery().shares
    for name in ("holder", "index", "commitment", "sealed"):
        with pytest.raises(ValidationError):
            recovery(shares=(one, two.model_copy(update={name: getattr(one, name)})))


def test_the_largest_set_fits_a_statement() -> None:
    shares = tuple(
        SealedShare(holder=f"{at:064x}", index=at, commitment=f"{at:064x}", sealed=f"{at:04}" + "A" * 496)
        for at in range(1, limits.SHARE_HOLDERS + 1)
    )
    keys = dict.fromkeys(("log", "sealing", "body", "tickets", "snapshot"), "A" * 84)
    statements.sign(recovery(shares=shares, k=limits.SHARE_HOLDERS, keys=keys), LOG)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_hostile_messages_raise_only_ours(data: bytes) -> None:
    for model in (RecoveryRequest, RecoveryShare):
        with pytest.raises(MesateeError):
            parse(model, data)


def test_a_request_with_the_longest_evidence_is_read() -> None:
    def request(evidence: bytes) -> RecoveryRequest:
        return RecoveryRequest(
            service="ab" * 32, spki="AAAA", evidence=b64encode(evidence), key=SEALING, expires=1
        )

    longest = request(bytes(limits.EVIDENCE_BYTES))
    assert parse(RecoveryRequest, longest.to_bytes()) == longest
    with pytest.raises(TooLarge):
        parse(RecoveryRequest, request(bytes(limits.RECOVERY_MESSAGE_BYTES * 3 // 4)).to_bytes())


@given(
    st.sampled_from(("v", "kind", "service", "set", "request", "holder", "index", "wrap")),
    st.none() | st.integers(),
)
def test_messages_with_other_fields_are_malformed(name: str, value: int | None) -> None:
    share = RecoveryShare(
        service="ab" * 32, set="cd" * 32, request="12" * 32, holder="ef" * 32, index=1, wrap="AAAA"
    )
    assert parse(RecoveryShare, share.to_bytes()) == share
    changed = {**share.model_dump(), name: value}
    if changed == share.model_dump() or (name == "index" and value in range(1, limits.SHARE_HOLDERS + 1)):
        return
    with pytest.raises(Malformed):
        parse(RecoveryShare, canonical(changed))
