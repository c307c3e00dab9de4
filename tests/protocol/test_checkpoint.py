"""Checkpoints: a signed note whose every line counts."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from tests.support.mutate import QUICK, mutated, noise

from mesatee._core import SigningKey
from mesatee.errors import Malformed, MesateeError, SignatureInvalid, TooLarge
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import limits
from mesatee.protocol.digests import b64decode, b64encode

ORIGIN = "log.example/a"
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
GOOD = cp.sign(ORIGIN, 7, b"\x11" * 32, 1_800_000_000, 3, KEY)


@QUICK
@given(st.integers(0, 10**18), st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.integers(0, 9))
def test_a_signed_head_comes_back(size: int, root: bytes, time: int, epoch: int) -> None:
    signed = cp.sign(ORIGIN, size, root, time, epoch, KEY)
    assert cp.verify(signed.note, ORIGIN, KEY.public) == signed == cp.parse(signed.note)
    assert signed.note.startswith(signed.text + "\n")


def test_the_signature_is_plain_ed25519_over_the_text() -> None:
    encoded = GOOD.note.rstrip("\n").rpartition(" ")[2]
    raw = b64decode(encoded, max_bytes=128)
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(raw[4:], GOOD.text.encode())
    assert raw[:4] == cp.key_hash(ORIGIN, KEY.public)
    assert cp.verifier_key(ORIGIN, KEY.public).split("+")[1] == raw[:4].hex()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n7\n", "\n8\n"),
        ("time 1800000000", "time 1800000001"),
        ("epoch 3", "epoch 4"),
        (b64encode(b"\x11" * 32), b64encode(b"\x12" * 32)),
    ],
)
def test_every_line_is_signed(old: str, new: str) -> None:
    assert old in GOOD.note
    with pytest.raises(SignatureInvalid):
        cp.verify(GOOD.note.replace(old, new, 1), ORIGIN, KEY.public)


def test_another_log_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        cp.verify(GOOD.note, "log.example/b", KEY.public)
    with pytest.raises(SignatureInvalid):
        cp.verify(GOOD.note.replace(ORIGIN, "log.example/b"), "log.example/b", KEY.public)
    with pytest.raises(SignatureInvalid):
        cp.verify(GOOD.note.replace(ORIGIN, "log.example/b", 1), "log.example/b", KEY.public)


def test_another_key_is_refused_even_under_this_keys_hash() -> None:
    foreign = cp.sign(ORIGIN, 7, b"\x11" * 32, 1_800_000_000, 3, OTHER)
    with pytest.raises(SignatureInvalid):
        cp.verify(foreign.note, ORIGIN, KEY.public)
    forged = b64encode(cp.key_hash(ORIGIN, KEY.public) + OTHER.sign(GOOD.text.encode()))
    with pytest.raises(SignatureInvalid):
        cp.verify(f"{GOOD.text}\n\u2014 {ORIGIN} {forged}\n", ORIGIN, KEY.public)


def test_cosignatures_of_others_are_passed_over() -> None:
    line = f"\u2014 witness.example {b64encode(b'abcd' + bytes(72))}\n"
    text, _, signature = GOOD.note.partition("\n\n")
    note = f"{text}\n\n{line}{signature}"
    assert cp.verify(note, ORIGIN, KEY.public).root == GOOD.root
    with pytest.raises(SignatureInvalid):
        cp.verify(f"{text}\n\n{line}", ORIGIN, KEY.public)


def test_as_many_signature_lines_as_allowed_and_one_more() -> None:
    line = f"\u2014 w {b64encode(b'abcd' + bytes(72))}\n"
    assert cp.verify(GOOD.note + line * (cp.MAX_SIGNATURE_LINES - 1), ORIGIN, KEY.public)
    with pytest.raises(TooLarge):
        cp.verify(GOOD.note + line * cp.MAX_SIGNATURE_LINES, ORIGIN, KEY.public)


def test_a_note_of_the_largest_size_and_one_byte_more() -> None:
    def padded(size: int) -> str:
        return GOOD.note + "\n" * (size - len(GOOD.note.encode()))

    assert cp.verify(padded(limits.CHECKPOINT_BYTES), ORIGIN, KEY.public)
    with pytest.raises(TooLarge):
        cp.verify(padded(limits.CHECKPOINT_BYTES + 1), ORIGIN, KEY.public)


BODY = GOOD.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        BODY,
        BODY + "\n",
        GOOD.note.rstrip("\n"),
        GOOD.note.replace("\n7\n", "\n07\n"),
        GOOD.note.replace("\n7\n", "\n+7\n"),
        GOOD.note.replace("\n7\n", "\n-7\n"),
        GOOD.note.replace("\n7\n", "\n7.0\n"),
        GOOD.note.replace("\n7\n", "\n٧\n"),
        GOOD.note.replace("\n7\n", "\n1" + "0" * 19 + "\n"),
        GOOD.note.replace("\n7\n", "\n \n"),
        GOOD.note.replace("time ", "time  "),
        GOOD.note.replace("time ", "when "),
        GOOD.note.replace("epoch ", ""),
        GOOD.note.replace("epoch 3\n", "epoch 3\nmore 1\n"),
        GOOD.note.replace("epoch 3\n", ""),
        GOOD.note.replace(b64encode(b"\x11" * 32), b64encode(b"\x11" * 31)),
        GOOD.note.replace(b64encode(b"\x11" * 32), b64encode(b"\x11" * 33)),
        GOOD.note.replace(b64encode(b"\x11" * 32), "!"),
        GOOD.note.replace(ORIGIN, ""),
        GOOD.note.replace(ORIGIN, "a b"),
        GOOD.note.replace(ORIGIN, "x" * 129),
        GOOD.note.replace("\n", "\r\n"),
        "\n" + GOOD.note,
        GOOD.note.replace("\n\n", "\n"),
        GOOD.note.replace("7", "\ud800"),
    ],
    # The notes differ in each process, and names of tests must not.
    ids=lambda _: "case",
)
def test_what_is_not_a_checkpoint_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        cp.parse(text)


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"- {ORIGIN} AAAA",
        f"\u2014 {ORIGIN}",
        f"\u2014  {ORIGIN} AAAA",
        f"\u2014 {ORIGIN} AAA",
        f"\u2014 {ORIGIN} {b64encode(cp.key_hash(ORIGIN, KEY.public))}",
        f"\u2014 {ORIGIN} {b64encode(cp.key_hash(ORIGIN, KEY.public) + bytes(63))}",
        f"\u2014 {ORIGIN} {b64encode(bytes(129))}",
    ],
    ids=lambda _: "case",
)
def test_a_malformed_signature_line_is_refused(line: str) -> None:
    with pytest.raises(Malformed):
        cp.verify(f"{BODY}\n{line}\n", ORIGIN, KEY.public)


@QUICK
@given(st.one_of(noise(), mutated(GOOD.note.encode())))
def test_hostile_notes_raise_only_our_errors(data: bytes) -> None:
    note = data.decode("utf-8", "surrogateescape")
    try:
        found = cp.verify(note, ORIGIN, KEY.public)
    except MesateeError:
        return
    assert found.text == GOOD.text
