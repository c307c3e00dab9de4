from __future__ import annotations

import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support import tokens
from tests.support.mutate import QUICK, mutated

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import dice
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

ROOT_KEY, DEVICE_KEY, ALIAS_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(4))
AT = tokens.START + 60
SHA256, SHA384 = bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040202")


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def fwid(digest: bytes, algorithm: bytes = SHA256) -> bytes:
    return der(0x30, algorithm + der(0x04, digest))


def info(flags: bytes = b"\x04\x00", fwids: tuple[bytes, ...] = (fwid(b"\x01" * 32),)) -> bytes:
    return der(
        0x30,
        der(0x80, b"ACME")
        + der(0x81, b"FPGA 9")
        + der(0x82, b"1.2")
        + der(0x83, b"\x07")
        + der(0x84, b"\x01")
        + der(0x85, b"\x00")
        + der(0xA6, b"".join(fwids))
        + der(0x87, flags)
        + der(0x88, b"vendor")
        + der(0x89, b"type"),
    )


ROOT = tokens.certificate("root", ROOT_KEY, "root", ROOT_KEY)


def build(
    value: bytes | None = None, leaf_signer: object = DEVICE_KEY, identifier: str = dice.TCB_INFO
) -> list[bytes]:
    first = {dice.TCB_INFO: info(fwids=(fwid(b"\x02" * 48, SHA384),))}
    second = {identifier: info() if value is None else value}
    return [
        tokens.certificate("alias", ALIAS_KEY, "device", leaf_signer, ca=False, extensions=second),
        tokens.certificate("device", DEVICE_KEY, "root", ROOT_KEY, extensions=first),
        ROOT,
    ]


CHAIN = build()
PIN = hashlib.sha256(ROOT).digest()


def verify(chain: list[bytes], *roots: bytes, at: int | None = AT) -> dice.Answers:
    return dice.verify(dice.parse(b"".join(chain)), at, roots)


def test_fields_of_a_layer():
    layer = dice.parse_tcb_info(info())
    assert (layer.vendor, layer.model, layer.version) == ("ACME", "FPGA 9", "1.2")
    assert (layer.svn, layer.layer, layer.index) == (7, 1, 0)
    assert layer.fwids == (dice.Fwid("sha256", b"\x01" * 32),)
    assert layer.flags == frozenset()
    assert dice.parse_tcb_info(der(0x30, b"")) == dice.TcbInfo()


def test_a_chain_up_to_a_root_that_the_policy_names():
    answers = verify(CHAIN, PIN)
    assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.AFFIRMED)
    chain = dice.parse(tokens.pem_chain(list(reversed(CHAIN))))
    assert [layer.fwids[0].algorithm for layer in chain.layers] == ["sha384", "sha256"]
    assert dice.claims(chain)["layer1.fwid0"] == "sha256:" + "01" * 32
    assert dice.measurement(chain) == hashlib.sha256(b"\x02" * 48 + b"\x01" * 32).hexdigest()


def test_without_a_root_only_the_signatures_are_proven():
    answers = verify(CHAIN)
    assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.NOT_ESTABLISHED)
    verdict = dice.check({"cert_chain": tokens.pem_chain(CHAIN)}, AT, tokens.POLICY)
    assert (verdict.tier, verdict.level) == (Status.NONE, 1)


def test_the_root_of_another_maker():
    other = tokens.certificate("root", OTHER_KEY, "root", OTHER_KEY)
    assert verify(CHAIN, hashlib.sha256(other).digest()).chain is Answer.REFUSED


def test_an_alias_that_the_device_did_not_sign():
    forged = build(leaf_signer=OTHER_KEY)
    assert verify(forged).signature is Answer.REFUSED
    assert verify(forged, PIN).chain is Answer.REFUSED
    assert verify(forged, PIN).signature is Answer.REFUSED
    verdict = dice.check({"cert_chain": tokens.pem_chain(forged)}, AT, tokens.POLICY)
    assert verdict.tier is Status.CONTRAINDICATED


def test_an_expired_chain():
    for roots in ((PIN,), ()):
        answers = verify(CHAIN, *roots, at=tokens.START + 86_401)
        assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.REFUSED)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (b"\x04\x80", "notConfigured"),
        (b"\x04\x40", "notSecure"),
        (b"\x04\x20", "recovery"),
        (b"\x04\x10", "debug"),
    ],
)
def test_flags_that_speak_against_a_layer(flags: bytes, name: str):
    chain = build(info(flags))
    assert dice.parse_tcb_info(info(flags)).flags == {name}
    verdict = dice.check({"cert_chain": tokens.pem_chain(chain)}, AT, tokens.POLICY)
    assert verdict.tier is Status.CONTRAINDICATED
    assert verdict.claims["debug"] is (name == "debug")


def test_several_layers_in_one_certificate():
    value = der(0x30, info() + info())
    chain = dice.parse(b"".join(build(value, identifier=dice.MULTI_TCB_INFO)))
    assert len(chain.layers) == 3


def test_limit_of_firmware_ids():
    fits = tuple(fwid(bytes([n]) * 32) for n in range(limits.DICE_FWIDS))
    assert len(dice.parse_tcb_info(info(fwids=fits)).fwids) == limits.DICE_FWIDS
    with pytest.raises(TooLarge):
        dice.parse_tcb_info(info(fwids=(*fits, fwid(bytes(32)))))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        info() + b"\0",
        info()[:-1],
        der(0x31, b""),
        der(0x30, der(0x81, b"a") + der(0x80, b"b")),  # out of order
        der(0x30, der(0x80, b"a") + der(0x80, b"b")),
        der(0x30, der(0x04, b"a")),
        der(0x30, der(0x80, b"\xff")),
        der(0x30, der(0x80, b"\n")),
        der(0x30, der(0x80, b"a" * (limits.CLAIM_CHARS + 1))),
        der(0x30, der(0x83, b"\xff")),
        der(0x30, der(0x83, b"")),
        der(0x30, der(0x83, b"\x7f" * 8)),
        der(0x30, der(0xA6, fwid(b"\0" * 31))),
        der(0x30, der(0xA6, fwid(b"\0" * 20, bytes.fromhex("06052b0e03021a")))),
        der(0x30, der(0x87, b"\x08\x00")),
        der(0x30, der(0x87, b"")),
        b"\x30\x81\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x84\x00\x00\x00\x00",
        der(0x30, der(0x02, b"\x02")),
    ],
)
def test_values_that_are_none(value: bytes):
    with pytest.raises(Malformed):
        dice.parse_tcb_info(value)


def test_chains_that_are_none():
    for data in (b"", b"text", tokens.pem_chain([ROOT])):
        with pytest.raises(Malformed):
            dice.parse(data)


@QUICK
@given(mutated(info()) | st.binary(max_size=100))
def test_any_bytes(data: bytes):
    with contextlib.suppress(InputError):
        dice.parse_tcb_info(data)


@QUICK
@given(mutated(b"".join(CHAIN)))
def test_hostile_chains(data: bytes):
    try:
        chain = dice.parse(data)
        answers = dice.verify(chain, AT, (PIN,))
    except InputError:
        return
    if answers.proven:
        whole = {_core.X509.parse(der).tbs for der in CHAIN}
        assert {_core.X509.parse(der).tbs for der in chain.certificates} <= whole
