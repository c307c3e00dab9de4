"""Keys in use: every wrap opens for what it was made for, and every ticket is this gateway's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from tests.support.gateway import NOW, ORIGIN, Desk, Member, SealedFile, make_keys, seal
from tests.support.mutate import QUICK, mutated, noise

from mesatee._core import HpkeKey, SecretKey
from mesatee.enclave.gateway.keyring import Keyring, Upload, attempt_key
from mesatee.enclave.gateway.permit import Action, Mint
from mesatee.errors import Denied, Expired, KeyRefused, Malformed, MesateeError, Replayed
from mesatee.protocol import limits, wraps
from mesatee.protocol.digests import HPKE_PUBLIC_BYTES, b64decode, b64encode
from mesatee.protocol.jsonstrict import canonical

MINT = Mint()
RUN, OTHER = "0a" * 32, "0b" * 32
KEYS = make_keys()
SEALING, TICKETS = KEYS.sealing, KEYS.tickets
KEYRING = Keyring(KEYS)
ALICE, BOB = Member("alice"), Member("bob")
DESK = Desk(ORIGIN, "00" * 32, SEALING.public, lambda: "", lambda: NOW)


def upload(owner: Member = ALICE, sealed: SealedFile | None = None, **changes: Any) -> Upload:
    sealed = sealed or seal(b"x")
    fields = {"owner": owner.id, "blob": sealed.digest, "wrap": owner.upload(DESK, sealed)}
    return Upload(**{**fields, **changes})


def check(item: Upload) -> None:
    KEYRING.check_upload(MINT.permit(Action.REGISTER, item.blob, 0), item)


def test_an_owners_own_wrap_is_accepted() -> None:
    check(upload())


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: upload(owner=ALICE, wrap=upload(owner=BOB).wrap),
        lambda: upload(blob="0c" * 32),
        lambda: replace(upload(), owner=BOB.id),
        lambda: upload(wrap=_wrap_for("log.example/other")),
        lambda: upload(wrap=_wrap_to(HpkeKey.generate().public)),
        lambda: upload(wrap=_as_result()),
        lambda: upload(wrap=b64encode(bytes(1152))),
        lambda: upload(wrap=b64encode(bytes(1151))),
        lambda: upload(wrap=""),
        lambda: upload(wrap="!"),
    ],
    ids=[
        "by another owner",
        "of another blob",
        "taken over by another owner",
        "for another log",
        "to another gateway",
        "for another purpose",
        "zeros",
        "short",
        "empty",
        "no base64",
    ],
)
def test_any_other_wrap_is_refused(foreign: Callable[[], Upload]) -> None:
    with pytest.raises((KeyRefused, Malformed)):
        check(foreign())


def _wrap_for(origin: str) -> str:
    sealed = seal(b"x")
    return b64encode(sealed.key.wrap(SEALING.public, *wraps.upload(origin, ALICE.id, sealed.digest)))


def _wrap_to(public: bytes) -> str:
    sealed = seal(b"x")
    return b64encode(sealed.key.wrap(public, *wraps.upload(ORIGIN, ALICE.id, sealed.digest)))


def _as_result() -> str:
    sealed = seal(b"x")
    binding = wraps.attempt_output(ORIGIN, RUN, 1, "x", sealed.digest)
    return b64encode(sealed.key.wrap(SEALING.public, *binding))


def test_every_power_wants_its_own_permit() -> None:
    item = upload()
    wrong = [
        MINT.permit(Action.READ, item.blob, 0),
        MINT.permit(Action.REGISTER, RUN, 0),
        MINT.permit(Action.RELEASE_KEY, OTHER, 0),
        MINT.permit(Action.INVOKE, OTHER, 0),
    ]
    for permit in wrong:
        for use in (
            lambda permit: KEYRING.check_upload(permit, item),
            lambda permit: KEYRING.release_inputs(permit, RUN, {}, SEALING.public),
            lambda permit: KEYRING.release_outputs(permit, RUN, 1, {}, ALICE.id, SEALING.public),
            lambda permit: KEYRING.check_output(permit, RUN, 1, "x", item.blob, item.wrap),
            lambda permit: KEYRING.ticket(permit, RUN, NOW),
        ):
            with pytest.raises(Denied):
                use(permit)


def test_released_inputs_open_for_this_attempt_only() -> None:
    attempt, sealed = HpkeKey.generate(), seal(b"x")
    item = upload(sealed=sealed)
    permit = MINT.permit(Action.RELEASE_KEY, RUN, 17)
    (wrap,) = KEYRING.release_inputs(permit, RUN, {"left": item}, attempt.public).values()
    raw = b64decode(wrap, max_bytes=2_000)
    attempt.unwrap_file_key(raw, *wraps.attempt_input(ORIGIN, RUN, 17, "left", sealed.digest))
    for key, binding in (
        (HpkeKey.generate(), wraps.attempt_input(ORIGIN, RUN, 17, "left", sealed.digest)),
        (attempt, wraps.attempt_input(ORIGIN, RUN, 18, "left", sealed.digest)),
        (attempt, wraps.attempt_input(ORIGIN, OTHER, 17, "left", sealed.digest)),
        (attempt, wraps.attempt_input(ORIGIN, RUN, 17, "right", sealed.digest)),
        (attempt, wraps.upload(ORIGIN, ALICE.id, sealed.digest)),
    ):
        with pytest.raises(KeyRefused):
            key.unwrap_file_key(raw, *binding)


def test_a_result_opens_for_its_receiver_only() -> None:
    sealed = seal(b"x")
    inner = wraps.attempt_output(ORIGIN, RUN, 5, "result", sealed.digest)
    held = {"result": (sealed.digest, b64encode(sealed.key.wrap(SEALING.public, *inner)))}

    def released(fence: int) -> str:
        permit = MINT.permit(Action.RELEASE_RESULT, RUN, 9)
        return KEYRING.release_outputs(permit, RUN, fence, held, ALICE.id, ALICE.hpke.public)["result"]

    raw = b64decode(released(5), max_bytes=2_000)
    ALICE.hpke.unwrap_file_key(raw, *wraps.result(ORIGIN, RUN, "result", sealed.digest, ALICE.id))
    for key, to in ((BOB.hpke, ALICE.id), (ALICE.hpke, BOB.id), (BOB.hpke, BOB.id)):
        with pytest.raises(KeyRefused):
            key.unwrap_file_key(raw, *wraps.result(ORIGIN, RUN, "result", sealed.digest, to))
    with pytest.raises(KeyRefused):
        released(6)


# -- tickets -------------------------------------------------------------------------------------------


def ticket(expires: int = NOW + 10) -> bytes:
    return KEYRING.ticket(MINT.permit(Action.INVOKE, RUN, 0), RUN, expires)


def test_a_ticket_comes_back() -> None:
    found = KEYRING.read_ticket(ticket(), NOW)
    assert (found.run, found.expires) == (RUN, NOW + 10)
    assert RUN.encode() not in ticket()
    assert len(ticket()) < limits.TICKET_BYTES


def test_a_ticket_expires() -> None:
    KEYRING.read_ticket(ticket(), NOW + 9)
    with pytest.raises(Expired):
        KEYRING.read_ticket(ticket(), NOW + 10)


def test_a_forged_ticket_is_refused() -> None:
    plain = canonical({"run": RUN, "expires": NOW + 10})
    good = ticket()
    for forged in (
        b"",
        b"x",
        plain,
        good[:-1],
        good + b"\0",
        good[:20] + bytes([good[20] ^ 1]) + good[21:],
        SecretKey.generate().seal(plain, b"mesatee ticket v1"),
        TICKETS.seal(plain, b"something else"),
        bytes(limits.TICKET_BYTES),
    ):
        with pytest.raises(Replayed):
            KEYRING.read_ticket(forged, NOW)
    with pytest.raises(Malformed):
        KEYRING.read_ticket(bytes(limits.TICKET_BYTES + 1), NOW)


@QUICK
@given(noise() | mutated(ticket()))
def test_hostile_tickets_raise_only_our_errors(data: bytes) -> None:
    try:
        assert KEYRING.read_ticket(data, NOW).run == RUN
    except MesateeError:
        return


def test_an_attempt_key_has_exactly_its_length() -> None:
    assert attempt_key(b64encode(SEALING.public)) == SEALING.public
    with pytest.raises(KeyRefused):
        attempt_key(b64encode(bytes(HPKE_PUBLIC_BYTES - 1)))
    for text in (b64encode(bytes(HPKE_PUBLIC_BYTES + 1)), "x", "=" * 1_624):
        with pytest.raises(Malformed):
            attempt_key(text)
