"""Where the platform key comes from, under which everything else is sealed.

| provider | the key | what it binds |
| --- | --- | --- |
| `FileKey` | a file of mode 0600 | nothing but the folder (level 2) |
| `TpmKey` | sealed by a TPM to PCRs | this TPM, and the boot that was measured (level 3) |
| `SnpKey` | derived by the SNP firmware | this chip, and the guest's launch measurement and policy (level 4) |
| `SgxKey` | derived by the CPU, through Gramine | this CPU, and the enclave's measurement (level 4 and 5) |

Derived keys are never stored: the same machine gives the same key again. Each key passes through HKDF with a label
of its own, so that the hardware's key itself is used for nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from mesatee import _core
from mesatee.enclave.platform import gramine
from mesatee.enclave.platform.kernel import Kernel, wipe
from mesatee.enclave.platform.sev_guest import MIX_MEASUREMENT, MIX_POLICY, SevGuest
from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.sealing import (
    FILE_BYTES,
    SealedObject,
    seal_new,
    unseal,
)
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.errors import Conflict, NotFound, TooLarge

PLATFORM_KEY: Final = "platform.key"
TPM_KEY: Final = "platform.tpm"
_LABEL: Final = "mesatee platform key v1 "


class PlatformKey(Protocol):
    """Gives one machine's key, the same at each start."""

    @property
    def name(self) -> str:
        """E.g. ``tpm``, for a message."""

    def open(self, folder: Path) -> _core.SecretKey:
        """The key; made at the first call for a folder. Raises `KeyRefused` if this machine, or what booted on
        it, is not the one that it was made for, and `NotFound` or `Unavailable` without the hardware.
        """


class FileKey:
    """A key file. Its owner, and root, can copy it."""

    name: str = "file"

    def open(self, folder: Path) -> _core.SecretKey:
        """See `PlatformKey.open`."""
        path = str(folder / PLATFORM_KEY)
        try:
            return _core.SecretKey.load(path)
        except NotFound:
            key = _core.SecretKey.generate()
        try:
            key.save(path)
        except Conflict:
            # Another process was first: its key counts.
            return _core.SecretKey.load(path)
        return key


class TpmKey:
    """A random key that the TPM gives back only while the PCRs are as they were."""

    name: str = "tpm"

    def __init__(
        self,
        where: str = "",
        pcrs: Iterable[int] = PINNED_PCRS,
        *,
        root: Path = Path("/"),
        kernel: Kernel | None = None,
    ) -> None:
        """`where` as in `tpm.transport.connect`. A key that is sealed to other registers than `pcrs` is refused."""
        self._where, self._root, self._kernel = where, root, kernel
        self._pcrs = tuple(pcrs)

    def open(self, folder: Path) -> _core.SecretKey:
        """See `PlatformKey.open`."""
        path = folder / TPM_KEY
        with Tpm(connect(self._where, self._root, self._kernel)) as tpm:
            if (sealed := _read(path)) is None:
                write_new(path, seal_new(tpm, self._pcrs).encode())
                # Whoever was first: what lies there now counts.
                sealed = _read(path)
            if sealed is None:
                raise NotFound(f"{path.name} vanished while the key was made")
            return unseal(tpm, sealed, self._pcrs).derive(_LABEL + self.name)


class SnpKey:
    """A key that the SNP firmware derives from the chip's endorsement key.

    By default launch measurement and guest policy are mixed in. New firmware may give another endorsement key and
    so another key: hand the sealed keys over, or have shares of them, before the host is updated.
    """

    name: str = "snp"

    def __init__(
        self,
        mix: int = MIX_MEASUREMENT | MIX_POLICY,
        *,
        vmpl: int = 0,
        root: Path = Path("/"),
        kernel: Kernel | None = None,
    ) -> None:
        """`mix`: the fields of AMD 56860, table 19; `vmpl` the privilege level that this guest runs at."""
        self._device = SevGuest(root=root, kernel=kernel)
        self._mix, self._vmpl = mix, vmpl

    def open(self, folder: Path) -> _core.SecretKey:
        """See `PlatformKey.open`."""
        return _core.SecretKey.adopt(self._device.derived_key(self._mix, self._vmpl)).derive(
            _LABEL + self.name
        )


class SgxKey:
    """The sealing key of the enclave's measurement, which Gramine asks the CPU for: 128 bits."""

    name: str = "sgx"

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None) -> None:
        """Nothing is read yet."""
        self._root, self._kernel = root, kernel

    def open(self, folder: Path) -> _core.SecretKey:
        """See `PlatformKey.open`."""
        short = gramine.sealing_key(root=self._root, kernel=self._kernel)
        # HKDF takes any input; filled up with zeros its strength is that of the 16 bytes.
        full = short + bytes(32 - len(short))
        wipe(short)
        return _core.SecretKey.adopt(full).derive(_LABEL + self.name)


def _read(path: Path) -> SealedObject | None:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(raw) > FILE_BYTES:
        raise TooLarge(f"{path.name} has more than {FILE_BYTES} bytes")
    return SealedObject.parse(raw)


def write_new(path: Path, data: bytes) -> None:
    """Create a file of mode 0600, whole and durable, unless there is one already."""
    with contextlib.suppress(FileExistsError):
        _put(path, data, replace=False)


def write(path: Path, data: bytes) -> None:
    """Replace a file of mode 0600 atomically and durably."""
    _put(path, data, replace=True)


def _put(path: Path, data: bytes, *, replace: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
            temporary.unlink()
    except BaseException:
        # Whatever stopped us, no half-written file stays behind.
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


__all__ = ["PLATFORM_KEY", "TPM_KEY", "FileKey", "PlatformKey", "SgxKey", "SnpKey", "TpmKey", "write"]
