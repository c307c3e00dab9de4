from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.enclave.platform.conftest import SwTpm

from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.sealing import FILE_BYTES, SealedObject, seal_new, unseal
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.errors import KeyRefused, Malformed, MesateeError, TooLarge

EXAMPLE = SealedObject((0, 7), b"private", b"public").encode()


def same(one: object, other: object) -> bool:
    return other.open(one.seal(b"body", b""), b"") == b"body"  # type: ignore[attr-defined]


def test_the_same_boot_gives_the_same_key(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = SealedObject.parse(seal_new(tpm, [0, 7]).encode())
        key = unseal(tpm, sealed)
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        assert same(key, unseal(tpm, sealed))
        tpm.pcr_extend(7, bytes(32))
        with pytest.raises(KeyRefused, match="PCRs"):
            unseal(tpm, sealed)
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        assert same(key, unseal(tpm, sealed))
        assert not same_or_corrupt(key, unseal(tpm, seal_new(tpm, [0, 7])))


def same_or_corrupt(one: object, other: object) -> bool:
    with contextlib.suppress(MesateeError):
        return same(one, other)
    return False


def test_another_tpm_does_not_open_it(swtpm: SwTpm, certified: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = seal_new(tpm)
    with Tpm(connect(certified.address)) as other, pytest.raises(KeyRefused, match="another TPM"):
        unseal(other, sealed)


def test_sealing_to_the_next_boot(swtpm: SwTpm) -> None:
    after = hashlib.sha256(bytes(32) + b"\1" * 32).digest()
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = seal_new(tpm, [4, 7], {4: after})
        with pytest.raises(KeyRefused):
            unseal(tpm, sealed)
        tpm.pcr_extend(4, b"\1" * 32)
        assert unseal(tpm, sealed)
        with pytest.raises(Malformed):
            seal_new(tpm, [4, 7], {5: after})


def test_only_pcrs_that_nobody_can_reset(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        assert seal_new(tpm, [15])
        for pcrs in ([], [16], [23], [0, 16]):
            with pytest.raises(Malformed):
                seal_new(tpm, pcrs)


def test_the_file() -> None:
    assert SealedObject.parse(EXAMPLE) == SealedObject((0, 7), b"private", b"public")
    for bad in (
        b"",
        b"[]",
        EXAMPLE[:-1],
        EXAMPLE.replace(b"v1", b"v2"),
        EXAMPLE.replace(b"[0, 7]", b"[0, true]"),
        EXAMPLE.replace(b"[0, 7]", b"[16]"),
        EXAMPLE.replace(b"70726976", b"7072697g"),
        EXAMPLE.replace(b'"pcrs"', b'"PCRs"'),
    ):
        with pytest.raises(MesateeError):
            SealedObject.parse(bad)
    with pytest.raises(TooLarge):
        SealedObject.parse(bytes(FILE_BYTES + 1))


@given(st.integers(min_value=0, max_value=len(EXAMPLE) - 1), st.integers(min_value=0, max_value=255))
def test_altered_files(at: int, value: int) -> None:
    with contextlib.suppress(MesateeError):
        SealedObject.parse(EXAMPLE[:at] + bytes([value]) + EXAMPLE[at + 1 :])
