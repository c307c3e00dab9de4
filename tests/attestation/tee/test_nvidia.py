from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from tests.support import captured, tokens
from tests.support.mutate import QUICK, mutated

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import check_folder
from mesatee.attestation.tee import nvidia, spdm
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

ROOT_KEY, DEVICE_KEY, LEAF_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(4))
ROOT = tokens.certificate("root", ROOT_KEY, "root", ROOT_KEY)
DEVICE = tokens.certificate("device", DEVICE_KEY, "root", ROOT_KEY)
LEAF = tokens.certificate("gpu", LEAF_KEY, "device", DEVICE_KEY, ca=False)
OTHER = tokens.certificate("gpu", OTHER_KEY, "device", DEVICE_KEY, ca=False)
CHAIN = tokens.pem_chain([LEAF, DEVICE, ROOT])
PIN = hashlib.sha256(ROOT).digest()
AT = tokens.START + 60
NONCE = b"\x07" * 32


def block(index: int, value: bytes = b"\x05" * 48, kind: int = 1) -> bytes:
    inner = bytes([index - 1 & 0x7F]) + len(value).to_bytes(2, "little") + value
    return bytes([index, kind]) + len(inner).to_bytes(2, "little") + inner


def opaque(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for kind, value in fields
    )


def build(
    key: Any = LEAF_KEY,
    nonce: bytes = NONCE,
    blocks: tuple[bytes, ...] = (block(1), block(2)),
    more: bytes = opaque((3, b"550.1\0")),
    head: bytes = bytes.fromhex("11e001ff"),
    slot: int = 0,
    answer: bytes = bytes.fromhex("11600000"),
    count: int | None = None,
) -> bytes:
    record = b"".join(blocks)
    signed = head + nonce + bytes([slot]) + answer + bytes([len(blocks) if count is None else count])
    signed += len(record).to_bytes(3, "little") + record + b"\x09" * 32
    signed += len(more).to_bytes(2, "little") + more
    return signed + tokens.raw_sign(key, -35, signed)


WHOLE = build()


def verify(exchange: bytes, chain: bytes = CHAIN, nonce: bytes | None = NONCE, at: int | None = AT) -> Any:
    return nvidia.verify([nvidia.parse_device(exchange, chain, nonce)], at, PIN)


def item(exchange: bytes, **changes: Any) -> dict[str, Any]:
    found = {
        "arch": "HOPPER",
        "certificate": base64.b64encode(CHAIN).decode(),
        "evidence": base64.b64encode(exchange).decode(),
        "nonce": NONCE.hex(),
    }
    return found | changes


def test_a_device_of_our_own():
    answers = verify(build())
    assert (answers.signature, answers.chain, answers.binding) == (Answer.AFFIRMED,) * 3


def test_captured_cases():
    tokens.agree("nvidia-gpu")


def test_only_the_pinned_root_counts():
    files = {"spdm": build(), "cert_chain": CHAIN}
    verdict = nvidia.check(files, AT, tokens.POLICY)
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_another_nonce():
    answers = verify(build(), nonce=b"\x08" * 32)
    assert (answers.signature, answers.binding) == (Answer.AFFIRMED, Answer.REFUSED)


def test_a_captured_exchange_with_another_nonce():
    meta, files = captured.case("nvidia-gpu", "nvidia-hopper-590")
    value = json.loads(files["evidence_json"])
    value[0]["nonce"] = "00" * 32
    changed = {"evidence_json": json.dumps(value).encode()}
    assert check_folder({"tee": "nvidia-gpu", "at": meta["at"]}, changed).tier is Status.CONTRAINDICATED
    changed = {"spdm": files["spdm"], "cert_chain": files["cert_chain"], "nonce": b"00" * 32}
    assert check_folder({"tee": "nvidia-gpu", "at": meta["at"]}, changed).tier is Status.CONTRAINDICATED


def test_the_chain_of_another_device():
    answers = verify(build(), tokens.pem_chain([OTHER, DEVICE, ROOT]))
    assert answers.signature is Answer.REFUSED


def test_a_captured_exchange_with_the_chain_of_another_device():
    meta, files = captured.case("nvidia-gpu", "nvidia-hopper-590")
    _, other = captured.case("nvidia-gpu", "nvidia-hopper-cert-hold")
    changed = {"spdm": files["spdm"], "cert_chain": other["cert_chain"]}
    verdict = check_folder({"tee": "nvidia-gpu", "at": meta["at"]}, changed)
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_one_bad_device_spoils_the_machine():
    good = nvidia.parse_device(build(), CHAIN, NONCE)
    bad = nvidia.parse_device(build(OTHER_KEY), CHAIN, NONCE)
    assert nvidia.verify([good, bad], AT, PIN).signature is Answer.REFUSED


def test_firmware_that_the_certificate_is_not_for():
    # CompositeDeviceID, as NVIDIA has it under the identifier of DiceTcbInfo.
    firmware = b"\x0b" * 48
    fwid = bytes.fromhex("303d06096086480165030402020430") + firmware
    inner = bytes.fromhex("020101") + tokens.spki(DEVICE_KEY) + fwid
    value = b"\x30\x81" + bytes([len(inner)]) + inner
    leaf = tokens.certificate(
        "gpu", LEAF_KEY, "device", DEVICE_KEY, ca=False, extensions={"2.23.133.5.4.1": value}
    )
    chain = tokens.pem_chain([leaf, DEVICE, ROOT])
    for reported, binding in ((firmware, Answer.AFFIRMED), (b"\x0c" * 48, Answer.REFUSED)):
        answers = verify(build(more=opaque((20, reported))), chain)
        assert answers.binding is binding, answers.reasons


def test_without_certificates_or_time_nothing_is_established():
    verdict = nvidia.check({"spdm": build()}, AT, tokens.POLICY)
    assert (verdict.tier, verdict.signature) == (Status.NONE, Answer.NOT_ESTABLISHED)
    assert verify(build(), at=None).chain is Answer.NOT_ESTABLISHED


def test_chains_in_any_order_and_form():
    for certificates in ([ROOT, DEVICE, LEAF], [DEVICE, LEAF, ROOT]):
        for chain in (
            tokens.pem_chain(certificates),
            b"".join(certificates),
            base64.b64encode(b"".join(certificates)),
            base64.b64encode(tokens.pem_chain(certificates)),
        ):
            answers = verify(build(), chain)
            assert (answers.signature, answers.chain) == (Answer.AFFIRMED, Answer.AFFIRMED)


def test_json_of_several_projects():
    one, nonce = item(build()), NONCE.hex()
    without = {key: value for key, value in one.items() if key != "nonce"}
    for value in (
        one,
        [one, one],
        {"nonce": nonce, "arch": "HOPPER", "evidence_list": [without]},
        {"device_evidence_list": [one | {"uuid": "GPU-1"}]},
    ):
        found = nvidia.parse_json(json.dumps(value).encode())
        assert all(device.nonce == NONCE for device in found)
        assert nvidia.verify(found, AT, PIN).binding is Answer.AFFIRMED
        assert (
            nvidia.check({"gpu": json.dumps(value).encode()}, AT, tokens.POLICY).tier
            is Status.CONTRAINDICATED
        )


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [1],
        [{"evidence": 1}],
        [item(b"", arch="\n")],
        [item(build(), nonce=1)],
        [item(build(), certificate=1)],
    ],
)
def test_json_that_is_no_evidence(value: Any):
    with pytest.raises((Malformed, UnsupportedVersion)):
        nvidia.parse_json(json.dumps(value).encode())


def test_json_in_wrappings():
    text = json.dumps([item(WHOLE)]).encode()
    inner = json.dumps({"gpu": base64.b64encode(text).decode(), "text": text.decode()}).encode()
    for data in (text.hex().encode(), base64.b64encode(text), inner):
        found = nvidia.parse_json(data)
        assert {device.nonce for device in found} == {NONCE}
        assert nvidia.verify(found, AT, PIN).signature is Answer.AFFIRMED


def test_limit_of_json():
    text = json.dumps([item(WHOLE)]).encode()
    nvidia.parse_json(text.ljust(limits.GPU_EVIDENCE_BYTES))
    with pytest.raises(TooLarge):
        nvidia.parse_json(text.ljust(limits.GPU_EVIDENCE_BYTES + 1))


def test_limit_of_devices():
    nvidia.parse_json(json.dumps([item(build())] * limits.GPUS).encode())
    with pytest.raises(TooLarge):
        nvidia.parse_json(json.dumps([item(build())] * (limits.GPUS + 1)).encode())


def test_bytes_after_the_signature_count_for_nothing():
    assert spdm.parse(WHOLE + b"padding", 96) == spdm.parse(WHOLE, 96)
    assert spdm.parse(build().ljust(limits.SPDM_BYTES, b"\0"), 96).nonce == NONCE
    with pytest.raises(TooLarge):
        spdm.parse(build().ljust(limits.SPDM_BYTES + 1, b"\0"), 96)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"head": bytes.fromhex("12e001ff")}, UnsupportedVersion),
        ({"head": bytes.fromhex("11e000ff")}, Malformed),  # no signature was asked for
        ({"head": bytes.fromhex("11e00101")}, Malformed),  # one measurement was asked for
        ({"answer": bytes.fromhex("117f0000")}, UnsupportedVersion),
        ({"slot": 1}, Malformed),
        ({"count": 1}, Malformed),
        ({"count": 3}, Malformed),
        ({"blocks": (block(1), block(1))}, Malformed),
        ({"blocks": (block(1, kind=2),)}, UnsupportedVersion),
        ({"more": b"\x01\x00\xff\x00"}, Malformed),
        ({"more": b"\x01"}, Malformed),
    ],
)
def test_exchanges_that_are_none(change: dict[str, Any], error: type[InputError]):
    with pytest.raises(error):
        nvidia.parse_device(build(**change), CHAIN)


def test_an_exchange_cut_short():
    whole = build()
    for size in range(len(whole)):
        with pytest.raises((Malformed, UnsupportedVersion)):
            spdm.parse(whole[:size], 96)


def signed_parts(device: nvidia.Device) -> list[bytes]:
    return [_core.X509.parse(der).tbs for der in device.certificates]


def mutation(every: bool) -> None:
    whole = nvidia.parse_device(WHOLE, CHAIN, NONCE)
    for changed in tokens.flipped(WHOLE, every):
        with contextlib.suppress(InputError):
            assert verify(changed).signature is Answer.REFUSED
    for changed in tokens.flipped(CHAIN, every):
        with contextlib.suppress(InputError):
            if verify(WHOLE, changed).proven:
                assert signed_parts(nvidia.parse_device(WHOLE, changed)) == signed_parts(whole)
    meta, files = captured.case("nvidia-gpu", "nvidia-hopper-590")
    signed = {"cert_chain": files["cert_chain"]}
    for changed in tokens.flipped(files["spdm"], every):
        verdict = check_folder({"tee": "nvidia-gpu", "at": meta["at"]}, {**signed, "spdm": changed})
        assert verdict.tier is Status.CONTRAINDICATED


def test_no_flipped_bit_keeps_the_signature():
    mutation(every=False)


@pytest.mark.slow
def test_no_flipped_bit_at_all_keeps_the_signature():
    mutation(every=True)


@QUICK
@given(mutated(WHOLE))
def test_hostile_bytes(data: bytes):
    with contextlib.suppress(InputError):
        assert not verify(data).proven or data[: len(WHOLE)] == WHOLE
