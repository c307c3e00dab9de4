from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.enclave.platform.conftest import SwTpm

from mesatee.enclave.platform.tpm.commands import Created, Tpm
from mesatee.enclave.platform.tpm.public import sealed_template, storage_template
from mesatee.enclave.platform.tpm.sealing import FILE_BYTES, SealedObject, pcr_policy, seal_new, unseal
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import OWNER
from mesatee.errors import KeyRefused, Malformed, MesateeError, TooLarge

OBJECT = SealedObject((0, 7), Created(b"private", b"area", b"creation", b"ticket"))
EXAMPLE = OBJECT.encode()


def same(one: object, other: object) -> bool:
    return other.open(one.seal(b"body", b""), b"") == b"body"  # type: ignore[attr-defined]


def test_the_same_boot_gives_the_same_key(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = SealedObject.parse(seal_new(tpm, [0, 7]).encode())
        key = unseal(tpm, sealed, [0, 7])
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        assert same(key, unseal(tpm, sealed, [0, 7]))
        tpm.pcr_extend(7, bytes(32))
        with pytest.raises(KeyRefused, match="PCRs"):
            unseal(tpm, sealed, [0, 7])
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        assert same(key, unseal(tpm, sealed, [0, 7]))
        assert not same_or_corrupt(key, unseal(tpm, seal_new(tpm, [0, 7]), [0, 7]))


def same_or_corrupt(one: object, other: object) -> bool:
    with contextlib.suppress(MesateeError):
        return same(one, other)
    return False


def test_another_tpm_does_not_open_it(swtpm: SwTpm, certified: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = seal_new(tpm)
    with Tpm(connect(certified.address)) as other, pytest.raises(KeyRefused, match="another TPM"):
        unseal(other, sealed)


def test_an_object_that_another_system_planted(swtpm: SwTpm) -> None:
    """Whoever boots something else can seal a secret that he knows to the PCRs of our system."""
    with Tpm(connect(swtpm.address)) as tpm:
        ours = tpm.pcr_read([7])
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        tpm.pcr_extend(7, b"the attacker's system".ljust(32))
        with tpm.primary(OWNER, storage_template()) as parent:
            template = sealed_template(pcr_policy(ours))
            planted = SealedObject((7,), tpm.create_sealed(parent.handle, template, bytearray(32), [7]))
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        with pytest.raises(KeyRefused, match="made under other PCRs"):
            unseal(tpm, planted, [7])
        # Creation data that says otherwise is not what the TPM made a ticket for.
        genuine = seal_new(tpm, [7])
        mixed = dataclasses.replace(planted.made, creation=genuine.made.creation)
        with pytest.raises(KeyRefused, match="did not make"):
            unseal(tpm, SealedObject((7,), mixed), [7])
        mixed = dataclasses.replace(mixed, ticket=genuine.made.ticket)
        with pytest.raises(KeyRefused, match="did not make"):
            unseal(tpm, SealedObject((7,), mixed), [7])


def test_an_object_that_a_password_opens_too(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm, tpm.primary(OWNER, storage_template()) as parent:
        template = bytearray(sealed_template(pcr_policy(tpm.pcr_read([7]))))
        template[7] |= 1 << 6  # userWithAuth
        made = tpm.create_sealed(parent.handle, bytes(template), bytearray(32), [7])
        with pytest.raises(KeyRefused, match="sealed otherwise"):
            unseal(tpm, SealedObject((7,), made), [7])


def test_the_file_does_not_choose_the_registers(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        sealed = seal_new(tpm, [15])
        assert unseal(tpm, sealed, [15])
        with pytest.raises(KeyRefused, match="sealed to PCR 15, not to 0, 1, 2"):
            unseal(tpm, sealed)


def test_only_pcrs_that_nobody_can_reset(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        assert seal_new(tpm, [15])
        for pcrs in ([], [16], [23], [0, 16]):
            with pytest.raises(Malformed):
                seal_new(tpm, pcrs)


def test_the_file() -> None:
    assert SealedObject.parse(EXAMPLE) == OBJECT
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
