from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.enclave.platform.fakes import ROOT, FakeKernel, Gramine, SevGuestDevice

from mesatee import _core
from mesatee.enclave.platform.keys import (
    PLATFORM_KEY,
    TPM_KEY,
    FileKey,
    PlatformKey,
    SgxKey,
    SnpKey,
    TpmKey,
)
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.sealing import seal_new
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.errors import Corrupt, KeyRefused, Malformed, MesateeError, NotFound, Unavailable

ONE, TWO, HERE = "01" * 32, "02" * 32, "0a" * 32


def same(one: _core.SecretKey, other: _core.SecretKey) -> bool:
    try:
        return other.open(one.seal(b"body", b""), b"") == b"body"
    except Corrupt:
        return False


def snp(key: bytes = bytes(range(32))) -> SnpKey:
    device = SevGuestDevice()
    device.key = key
    kernel = FakeKernel()
    kernel.files["dev/sev-guest"] = lambda: device
    return SnpKey(root=ROOT, kernel=kernel)


def sgx(key: bytes = bytes(range(16))) -> SgxKey:
    kernel = FakeKernel()
    Gramine(kernel, key=key)
    return SgxKey(root=ROOT, kernel=kernel)


@pytest.mark.parametrize("make", [snp, sgx])
def test_a_derived_key_is_the_same_again_and_leaves_no_file(make: object, tmp_path: Path) -> None:
    assert callable(make)
    assert same(make().open(tmp_path), make().open(tmp_path))
    assert not same(
        make().open(tmp_path), make(b"another machine!" * (2 if make is snp else 1)).open(tmp_path)
    )
    assert not list(tmp_path.iterdir())


def test_no_two_providers_give_the_same_key(tmp_path: Path) -> None:
    """Even if two machines' secrets were equal bytes: each has a label of its own."""
    zeros = snp(bytes(range(16)) + bytes(16)).open(tmp_path)
    assert not same(zeros, sgx().open(tmp_path))
    assert not same(zeros, _core.SecretKey.adopt(bytearray(range(16)) + bytearray(16)))


def test_hardware_that_is_not_there(tmp_path: Path) -> None:
    providers: list[PlatformKey] = [
        SnpKey(root=ROOT, kernel=FakeKernel()),
        SgxKey(root=ROOT, kernel=FakeKernel()),
        TpmKey(root=ROOT, kernel=FakeKernel()),
    ]
    for provider in providers:
        with pytest.raises(NotFound):
            provider.open(tmp_path)
    with pytest.raises(Unavailable):
        snp(bytes(32)).open(tmp_path)
    assert not list(tmp_path.iterdir())


def test_keys_sealed_under_a_tpm(swtpm: SwTpm, tmp_path: Path) -> None:
    log = _core.SigningKey.generate()
    Sealing(tmp_path, ONE, HERE, TpmKey(swtpm.address)).seal("keys", {"log": log}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.sealed", TPM_KEY]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    # After a restart of the machine with the same boot.
    swtpm.restart()
    assert (
        Sealing(tmp_path, ONE, HERE, TpmKey(swtpm.address)).unseal("keys").signing("log").public == log.public
    )
    with pytest.raises(KeyRefused):
        Sealing(tmp_path, TWO, HERE, TpmKey(swtpm.address)).unseal("keys").signing("log")
    # Another boot: nothing is opened at all.
    with Tpm(connect(swtpm.address)) as tpm:
        tpm.pcr_extend(9, b"another kernel".ljust(32))
    with pytest.raises(KeyRefused, match="PCRs"):
        Sealing(tmp_path, ONE, HERE, TpmKey(swtpm.address))


def test_an_object_sealed_to_other_registers_is_refused(swtpm: SwTpm, tmp_path: Path) -> None:
    """Another system seals a secret that it knows, to a register that it leaves as ours does, and plants the file."""
    swtpm.extend(4, b"the attacker's system")
    with Tpm(connect(swtpm.address)) as tpm:
        (tmp_path / TPM_KEY).write_bytes(seal_new(tpm, [15]).encode())
    swtpm.restart()
    with pytest.raises(KeyRefused, match="sealed to PCR 15"):
        TpmKey(swtpm.address).open(tmp_path)
    # Sealed to the right registers it was made under the wrong ones.
    swtpm.extend(4, b"the attacker's system")
    (tmp_path / TPM_KEY).unlink()
    TpmKey(swtpm.address).open(tmp_path)
    swtpm.restart()
    with pytest.raises(KeyRefused, match="PCRs"):
        TpmKey(swtpm.address).open(tmp_path)


@pytest.mark.parametrize("register", [1, 3, 12, 13, 14])
def test_keys_are_sealed_to_what_evidence_pins(swtpm: SwTpm, tmp_path: Path, register: int) -> None:
    """Among them the kernel's command line, and the measurement of this software."""
    TpmKey(swtpm.address).open(tmp_path)
    swtpm.extend(register, b"something else")
    with pytest.raises(KeyRefused, match="PCRs"):
        TpmKey(swtpm.address).open(tmp_path)


def test_the_folder_on_another_machine(swtpm: SwTpm, certified: SwTpm, tmp_path: Path) -> None:
    Sealing(tmp_path, ONE, HERE, TpmKey(swtpm.address)).seal("keys", {"log": _core.SigningKey.generate()}, {})
    with pytest.raises(KeyRefused):
        Sealing(tmp_path, ONE, HERE, TpmKey(certified.address))
    # Without the TPM's file a new key is made, which opens nothing that was sealed.
    (tmp_path / TPM_KEY).unlink()
    with pytest.raises(Corrupt):
        Sealing(tmp_path, ONE, HERE, TpmKey(swtpm.address)).unseal("keys").signing("log")


def test_each_altered_byte_of_the_tpms_file_is_refused(swtpm: SwTpm, tmp_path: Path) -> None:
    TpmKey(swtpm.address).open(tmp_path)
    path = tmp_path / TPM_KEY
    raw = path.read_bytes()
    for index in range(0, len(raw), 7):
        path.write_bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
        with pytest.raises(MesateeError):
            TpmKey(swtpm.address).open(tmp_path)
    path.write_bytes(raw)
    TpmKey(swtpm.address).open(tmp_path)


def test_providers_do_not_mix(swtpm: SwTpm, tmp_path: Path) -> None:
    key = _core.SigningKey.generate()
    Sealing(tmp_path, ONE, HERE).seal("keys", {"log": key}, {})
    for provider in (TpmKey(swtpm.address), snp(), sgx()):
        with pytest.raises(Corrupt):
            Sealing(tmp_path, ONE, HERE, provider).unseal("keys").signing("log")
    assert Sealing(tmp_path, ONE, HERE, FileKey()).unseal("keys").signing("log").public == key.public
    assert (tmp_path / PLATFORM_KEY).exists()


def test_reseal_from_a_file_to_hardware(swtpm: SwTpm, tmp_path: Path) -> None:
    """How an installation moves up a level."""
    key = _core.SigningKey.generate()
    before = Sealing(tmp_path / "before", ONE, HERE)
    before.seal("keys", {"log": key}, {})
    after = Sealing(tmp_path / "after", ONE, HERE, TpmKey(swtpm.address))
    before.reseal("keys", after)
    assert after.unseal("keys").signing("log").public == key.public


def test_an_adopted_buffer_is_wiped() -> None:
    room = bytearray(b"s" * 32)
    key = _core.SecretKey.adopt(room)
    assert room == bytes(32)
    assert same(key, _core.SecretKey.adopt(bytearray(b"s" * 32)))
    for size in (0, 31, 33):
        room = bytearray(b"s" * size)
        with pytest.raises(Malformed):
            _core.SecretKey.adopt(room)
        assert room == bytes(size)


CHILD = """
import sys
from pathlib import Path
from mesatee.enclave.platform.keys import TpmKey
from mesatee.enclave.platform.tpm import sealing
masked = bytes.fromhex(sys.argv[3])
def chosen():
    room = bytearray(32)
    for index, byte in enumerate(masked):
        room[index] = byte ^ 0x5A
    return room
sealing._random = chosen
key = TpmKey(sys.argv[1]).open(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""


def writable(pid: int) -> bytes:
    """Everything in a process's writable memory."""
    found = b""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:  # noqa: PTH123
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if rights.startswith("rw") and "[v" not in line:
                memory.seek(start)
                found += memory.read(end - start)
    return found


def test_the_unsealed_secret_does_not_stay_in_memory(swtpm: SwTpm, tmp_path: Path) -> None:
    """The secret is one that we chose, handed to the child in disguise, so that it can be looked for."""
    secret = os.urandom(32)
    masked = bytes(byte ^ 0x5A for byte in secret)
    command = [sys.executable, "-c", CHILD, swtpm.address, str(tmp_path), masked.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        memory = writable(child.pid)
        child.stdin.close()
    assert masked in memory, "the search finds what is there"
    assert memory.count(secret) == 0
