"""Containers of collateral, and the limits of the pool."""

from __future__ import annotations

import json
import struct
import urllib.parse
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.attestation.tee.dcap_collateral import Collateral, Signed, forget, gather, strip_comments
from mesatee.errors import TooLarge
from mesatee.protocol import limits

SIGNATURE = bytes(range(64))
TCB_INFO = Signed(b'{"version":3,"a":[1,{"b":"}"}]}', SIGNATURE)
IDENTITY = Signed(b'{"version":2}', SIGNATURE)
ANSWERS = {
    "tcb_info": b'{"tcbInfo":' + TCB_INFO.text + b',"signature":"' + SIGNATURE.hex().encode() + b'"}',
    "qe_identity": b'{"enclaveIdentity":'
    + IDENTITY.text
    + b',"signature":"'
    + SIGNATURE.hex().encode()
    + b'"}',
}


def dump(blobs: list[bytes], version: int = 0x00010003) -> bytes:
    pairs = [number for blob in blobs for number in (0x7F00_0000_0000, len(blob))]
    return struct.pack("<II14Q", version, 0x81, *pairs) + b"".join(blobs)


def open_enclave(items: list[bytes]) -> bytes:
    offsets = [sum(map(len, items[:index])) for index in range(len(items))]
    table = struct.pack(f"<{len(items)}I", *offsets)
    body = table + b"".join(items)
    return struct.pack("<IIII", 1, 2, len(body), len(items)) + body


TCB, QE = ANSWERS["tcb_info"] + b"\0", ANSWERS["qe_identity"] + b"\0"


@pytest.mark.parametrize(
    "files",
    [
        ANSWERS,
        {"x": dump([b"", b"", b"", b"", TCB, b"", QE])},
        {"x": dump([b"", b"", b"", b"", TCB, b"", QE], 3).hex().encode()},
        {
            "x": b"# comment\n# more\n"
            + open_enclave([b"\1\0\0\0", TCB, b"", b"", b"", b"", QE, b"", b"2026"])
        },
        {"x": json.dumps({name: answer.decode() for name, answer in ANSWERS.items()}).encode()},
        {
            "x": json.dumps(
                {
                    "tcb_info": TCB_INFO.text.decode(),
                    "tcb_info_signature": SIGNATURE.hex(),
                    "qe_identity": IDENTITY.text.decode(),
                    "qe_identity_signature": list(SIGNATURE),
                }
            ).encode()
        },
    ],
)
def test_statements_are_kept_byte_for_byte(files: dict[str, bytes]) -> None:
    found = gather(files)
    assert found.tcb_infos == [TCB_INFO]
    assert found.identities == [IDENTITY]


def test_a_prettily_printed_statement_is_also_tried_without_its_spaces() -> None:
    text = json.dumps(json.loads(ANSWERS["tcb_info"]), indent=2).encode()
    assert gather({"x": text}).tcb_infos[-1] == TCB_INFO


def test_statements_without_signature_are_noted() -> None:
    found = gather({"x": b'{"tcbLevels": []}'})
    assert not found.tcb_infos
    assert found.notes == ["x has TCB levels, and no signature"]


def test_chains_are_found_in_any_encoding() -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a, b")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(9))
    certificate = builder.sign(key, hashes.SHA256())
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    der = certificate.public_bytes(serialization.Encoding.DER)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(start)
        .next_update(start + datetime.timedelta(9))
        .sign(key, hashes.SHA256())
    )
    for data in (pem, pem + b"\0", der, der + b"\0\0", der.hex().encode(), urllib.parse.quote(pem).encode()):
        assert [c.der for c in gather({"x": data}).certificates] == [der]
    for data in (
        der + der,
        der + der + b"\0",
        (der + der).hex().encode(),
        b"\xef\xbb\xbf" + der.hex().encode(),
    ):
        assert [c.der for c in gather({"tcb_chain": data}).certificates] == [der]
    for data in (
        pem.replace(b"\n", b"\\n"),
        json.dumps([pem.decode()] * 2).encode(),
        json.dumps(pem.decode()).encode(),
    ):
        assert [c.der for c in gather({"x": data}).certificates] == [der]
    assert gather({"tcb_chain": pem}).signer_chain
    assert not gather({"pck_chain": pem}).signer_chain
    expected = crl.public_bytes(serialization.Encoding.DER)
    both = gather({"x": der + expected})
    assert ([c.der for c in both.certificates], both.crls) == ([der], [expected])
    for data in (
        expected,
        expected + b"\0",
        expected.hex().encode(),
        crl.public_bytes(serialization.Encoding.PEM),
    ):
        assert gather({"x": data}).crls == [expected]


def test_the_pool_is_bounded() -> None:
    def many(count: int) -> Collateral:
        answers = [b'{"tcbInfo":{"n":%d},"signature":"00"}' % n for n in range(count)]
        return gather({str(n): answer for n, answer in enumerate(answers)})

    assert len(many(limits.COLLATERAL_STATEMENTS).tcb_infos) == limits.COLLATERAL_STATEMENTS
    with pytest.raises(TooLarge, match="TCB infos"):
        many(limits.COLLATERAL_STATEMENTS + 1)
    padded = ANSWERS["tcb_info"].ljust(limits.COLLATERAL_BYTES)
    assert gather({"x": padded}).tcb_infos
    assert not gather({"x": padded + b" "}).tcb_infos


def test_the_search_in_json_is_bounded() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + ANSWERS["tcb_info"] + b"}" * levels

    # The answer itself is one level.
    assert gather({"x": nested(limits.COLLATERAL_DEPTH - 1)}).tcb_infos == [TCB_INFO]
    found = gather({"x": nested(limits.COLLATERAL_DEPTH)})
    assert not found.tcb_infos
    assert found.notes


@pytest.mark.parametrize("version", [0, 2, 9])
def test_dumps_of_other_versions_are_passed_over(version: int) -> None:
    assert not gather({"x": dump([b"", b"", b"", b"", TCB, b"", QE], version)}).tcb_infos


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_broken_containers_raise_nothing(data: Any) -> None:
    seeds = [dump([b"", b"", b"", b"", TCB, b"", QE]), open_enclave([b"\1\0\0\0", TCB, *[b""] * 7]), TCB]
    seed = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(3):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    gather({"x": bytes(seed), "y": bytes(seed[: data.draw(st.integers(0, len(seed)))])})


def test_numbers_of_64_bits_and_a_byte_order_mark_are_no_obstacle() -> None:
    assert gather(
        {"x": b'\xef\xbb\xbf{"n":18446744073709551615,"a":' + ANSWERS["tcb_info"] + b"}"}
    ).tcb_infos == [TCB_INFO]


def test_the_number_of_values_in_one_file_is_bounded() -> None:
    value = b"\x30\x81\x80" + bytes(128)
    assert not any("more than" in note for note in gather({"x": value * limits.CHAIN_CERTIFICATES}).notes)
    assert any("more than" in note for note in gather({"x": value * (limits.CHAIN_CERTIFICATES + 1)}).notes)


def test_comments_are_stripped() -> None:
    assert strip_comments(b"# a\n# b\nc#\n") == b"c#\n"
    assert strip_comments(b"# a") == b""


def test_files_that_came_before_are_not_taken_apart_anew_and_pools_are_apart():
    files = {"x": TCB, "y": b'{"tcbLevels": []}'}
    first = gather(files)
    first.tcb_infos.clear()
    first.note("another")
    again = gather(files)
    forget()
    assert again == gather(files)
    assert again.notes == gather({"y": files["y"]}).notes
    # The same piece in two files is there once, as it always was.
    assert gather({"x": TCB, "z": TCB}).tcb_infos == gather({"x": TCB}).tcb_infos
