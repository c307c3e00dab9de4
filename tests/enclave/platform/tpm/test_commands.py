"""Against a real software TPM."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.enclave.platform.tpm.test_quoting import credential, spoiled

from mesatee.enclave.platform.tpm import commands
from mesatee.enclave.platform.tpm.commands import (
    NV_AUTH_READ,
    NV_AUTH_WRITE,
    NV_OWNER_READ,
    NV_OWNER_WRITE,
    Tpm,
)
from mesatee.enclave.platform.tpm.public import (
    Algorithm,
    ak_template,
    ek_template,
    sealed_template,
    storage_template,
)
from mesatee.enclave.platform.tpm.sealing import pcr_policy
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import ENDORSEMENT, OWNER, u32
from mesatee.errors import KeyRefused, Malformed, NotFound, TooLarge, Unavailable

ALGORITHMS: tuple[Algorithm, ...] = ("ecc", "rsa")


@pytest.fixture
def tpm(swtpm: SwTpm) -> Iterator[Tpm]:
    with Tpm(connect(swtpm.address)) as found:
        yield found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_template_gives_the_same_key(tpm: Tpm, algorithm: Algorithm) -> None:
    names = []
    for _ in range(2):
        with tpm.primary(ENDORSEMENT, ak_template(algorithm)) as key:
            assert tpm.read_public(key.handle) == key.public
            names.append(key.public.name)
    assert names[0] == names[1]


def held(tpm: Tpm) -> list[int]:
    """Sessions loaded and active, and room for objects (TPM_PT_HR_LOADED, _ACTIVE, _TRANSIENT_AVAIL)."""
    found = tpm.properties(0x203, 8)
    return [found[name] for name in (0x203, 0x205, 0x207)]


def test_nothing_stays_loaded(tpm: Tpm, tmp_path: Path) -> None:
    """A TPM without resource manager has room for three objects and as many sessions."""
    before = held(tpm)
    for _ in range(5):
        with (
            tpm.primary(ENDORSEMENT, ak_template("ecc")) as ak,
            tpm.primary(ENDORSEMENT, ek_template("ecc")) as ek,
        ):
            blob, encrypted = credential(tmp_path, ek.public, ak.public.name, b"secret")
            assert tpm.activate_credential(ak.handle, ek.handle, blob, encrypted) == b"secret"
            with pytest.raises(KeyRefused):
                tpm.activate_credential(ak.handle, ek.handle, spoiled(blob), encrypted)
            with pytest.raises(Unavailable):
                tpm.quote(ek.handle, b"", [0])
    with pytest.raises(ZeroDivisionError), tpm.primary(ENDORSEMENT, ak_template("ecc")):
        1 / 0  # noqa: B018
    assert held(tpm) == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_credential_is_for_one_pair_of_keys(tpm: Tpm, tmp_path: Path, algorithm: Algorithm) -> None:
    with tpm.primary(ENDORSEMENT, ek_template(algorithm)) as ek:
        with tpm.primary(ENDORSEMENT, ak_template(algorithm)) as ak:
            blob, encrypted = credential(tmp_path, ek.public, ak.public.name, bytes(range(32)))
            assert tpm.activate_credential(ak.handle, ek.handle, blob, encrypted) == bytes(range(32))
        with tpm.primary(OWNER, ak_template(algorithm)) as other, pytest.raises(KeyRefused):
            # Same template, another hierarchy: another key.
            tpm.activate_credential(other.handle, ek.handle, blob, encrypted)


def test_pcrs(tpm: Tpm) -> None:
    values = tpm.pcr_read(range(24))
    assert list(values) == list(range(24))
    assert values[0] == bytes(32)
    assert values[17] == b"\xff" * 32
    tpm.pcr_extend(8, b"\1" * 32)
    assert tpm.pcr_read([8]) == {8: hashlib.sha256(bytes(32) + b"\1" * 32).digest()}
    with pytest.raises(NotFound, match="bank"):
        tpm.pcr_read([0], bank=0x0012)
    with pytest.raises(Unavailable, match="PCR_EXTEND"):
        tpm.pcr_extend(8, b"short")


def test_sealed_objects(tpm: Tpm) -> None:
    # The TPM opens it below: so this is the digest that the TPM computes, too.
    policy = pcr_policy(tpm.pcr_read([0, 7]))
    secret = bytearray(b"k" * 32)
    with tpm.primary(OWNER, storage_template()) as parent:
        made = tpm.create_sealed(parent.handle, sealed_template(policy), secret, [0, 7])
        assert secret == bytes(32), "it was wiped"
        assert b"k" * 32 not in made.private + made.area
        assert tpm.unseal(parent.handle, made, [0, 7]) == b"k" * 32
        with pytest.raises(KeyRefused, match="POLICY_FAIL"):
            tpm.unseal(parent.handle, made, [0])
        altered = dataclasses.replace(made, private=spoiled(made.private))
        with pytest.raises(KeyRefused, match="INTEGRITY"):
            tpm.unseal(parent.handle, altered, [0, 7])
        for field, value in (
            ("creation", spoiled(made.creation)),
            ("ticket", spoiled(made.ticket)),
            ("ticket", b""),
            ("ticket", spoiled(made.ticket, 0)),
        ):
            with pytest.raises(KeyRefused, match="did not make"):
                tpm.unseal(parent.handle, dataclasses.replace(made, **{field: value}), [0, 7])
        tpm.pcr_extend(7, b"x" * 32)
        with pytest.raises(KeyRefused, match="POLICY_FAIL"):
            tpm.unseal(parent.handle, made, [0, 7])


def test_nv_of_any_size(tpm: Tpm) -> None:
    index = 0x01800001
    assert tpm.nv_public(index) is None
    with pytest.raises(NotFound):
        tpm.nv_read(index)
    with pytest.raises(NotFound):
        tpm.nv_write(index, b"x")
    for attributes in (NV_AUTH_READ | NV_AUTH_WRITE, NV_OWNER_READ | NV_OWNER_WRITE):
        for size in (1, 512, 513, 1200):
            tpm.nv_define(index, attributes, size)
            with pytest.raises(NotFound):
                tpm.nv_read(index)
            content = bytes(each & 0xFF for each in range(size))
            tpm.nv_write(index, content)
            assert tpm.nv_read(index) == content
            tpm.nv_undefine(index)


def test_an_nv_index_that_is_too_large(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    tpm.nv_define(0x01800001, NV_AUTH_READ | NV_AUTH_WRITE, 100)
    tpm.nv_write(0x01800001, bytes(100))
    monkeypatch.setattr(commands, "NV_BYTES", 100)
    assert len(tpm.nv_read(0x01800001)) == 100
    monkeypatch.setattr(commands, "NV_BYTES", 99)
    with pytest.raises(TooLarge):
        tpm.nv_read(0x01800001)


def test_no_key_at_a_handle(tpm: Tpm) -> None:
    with pytest.raises(NotFound):
        tpm.read_public(0x81000003)


def test_what_it_calls_itself(tpm: Tpm) -> None:
    assert tpm.vendor() == "IBM SW   TPM"


class Scripted:
    """A transport that plays a TPM which answers wrongly."""

    def __init__(self, *answers: str) -> None:
        self.answers = [bytearray.fromhex(each) for each in answers]
        self.sent = 0

    def transmit(self, command: bytearray) -> bytearray:
        self.sent += 1
        return self.answers.pop(0) if len(self.answers) > 1 else bytearray(self.answers[0])

    def close(self) -> None:
        pass


AGAIN = "80010000000a00000922"
HANDLES = "80010000000a0000018b"


def test_a_tpm_that_asks_for_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WAIT_SECONDS", 0.0)
    patient = Scripted(*[AGAIN] * (commands.ATTEMPTS - 1), HANDLES)
    assert Tpm(patient).nv_public(1) is None
    forever = Scripted(AGAIN)
    with pytest.raises(Unavailable, match="RETRY"):
        Tpm(forever).nv_public(1)
    assert forever.sent == commands.ATTEMPTS


def test_a_tpm_that_lies() -> None:
    # NV_ReadPublic of another index.
    area = u32(2) + b"\0\x0b" + bytes(4) + b"\0\0" + b"\0\x08"
    body = len(area).to_bytes(2) + area + b"\0\0"
    with pytest.raises(Malformed, match="another NV index"):
        Tpm(Scripted((b"\x80\x01" + u32(10 + len(body)) + bytes(4) + body).hex())).nv_public(1)
    # PCR_Read that gives nothing, or more digests than it selected.
    for count in (0, 3):
        body = bytes(4) + bytes.fromhex("00000001000b03010000") + u32(count) + (b"\0\x20" + bytes(32)) * count
        answer = (b"\x80\x01" + u32(10 + len(body)) + bytes(4) + body).hex()
        with pytest.raises(NotFound):
            Tpm(Scripted(answer)).pcr_read([0, 1])
