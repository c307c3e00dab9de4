from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.enclave.platform.fakes import certificate_table

from mesatee.enclave.platform import snp_certs
from mesatee.errors import Malformed, MesateeError, TooLarge

VCEK, ARK = "63da758d-e664-4564-adc5-f4b93be8accd", "c0b406a4-a803-4952-9743-3fb6014cd0ae"


@pytest.mark.parametrize("little", [False, True])
def test_both_orders_of_a_guid(little: bool) -> None:
    table = certificate_table(
        {VCEK: b"one", ARK: b"two", "11111111-2222-3333-4444-555555555555": b"?"}, little
    )
    assert snp_certs.parse(table) == {"vcek": b"one", "ark": b"two"}


def test_a_certificate_in_pem_stays() -> None:
    pem = snp_certs.pem(b"der")
    assert snp_certs.pem(pem) == pem
    assert snp_certs.pieces(certificate_table({ARK: pem})) == {"ask_ark": pem}


def test_refused() -> None:
    table = certificate_table({VCEK: b"one"})
    assert snp_certs.parse(b"") == {}
    for bad in (table[:24], table[:30], table[:-1]):
        with pytest.raises(Malformed):
            snp_certs.parse(bad)
    twice = table[:24] + table[:24] + bytes(24) + b"one" * 20
    with pytest.raises(Malformed, match="twice"):
        snp_certs.parse(twice)
    with pytest.raises(TooLarge):
        snp_certs.parse(bytes(snp_certs.TABLE_BYTES + 1))
    many = (b"\1" * 16 + struct.pack("<II", 24, 0)) * 17 + bytes(24)
    with pytest.raises(TooLarge, match="entries"):
        snp_certs.parse(many)


@given(st.binary(max_size=200))
def test_hostile_tables(table: bytes) -> None:
    with contextlib.suppress(MesateeError):
        snp_certs.parse(table)
