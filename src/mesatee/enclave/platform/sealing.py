"""The gateway's long-lived keys at rest, sealed under this machine's platform key.

What it protects at level 2: a copy of the folder without ``platform.key`` (a backup, another machine's disk)
is useless, a sealed key cannot be renamed into another's place, altered or carried to another installation,
and a process with other code does not open it by mistake. What it does not: the platform key is a file of
mode 0600 on the same machine. Its operator, or malware of the same user, can read it and name any
measurement, because no hardware compares the context with what really runs. From level 3 on the platform key
comes from hardware (`keys`), and what that compares binds: a TPM the boot, SNP and SGX the code itself.

File format: one line ``mesatee sealed key v1 KIND MEASUREMENT`` and the bytes of `SecretKey.seal`, whose
additional data is the canonical JSON of all that the key is bound to. The line only serves the error message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from mesatee import _core
from mesatee.attestation.evidence import unhex
from mesatee.enclave.platform.keys import PLATFORM_KEY, FileKey, PlatformKey, write
from mesatee.errors import KeyRefused, Malformed, NotFound, TooLarge
from mesatee.protocol import limits

SEALED_KEY_BYTES: Final = 4 * limits.KIB
"""One sealed key file, in bytes: the largest key is 32 bytes of seed with some 130 bytes around it."""
_MAGIC: Final = "mesatee sealed key v1"
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class _Sealable(Protocol):
    def export_sealed(self, by: _core.SecretKey, context: bytes) -> bytes: ...


_Key = TypeVar("_Key")


class Sealing:
    """Seals and unseals keys in one folder, bound to one measurement and one installation."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        measurement: str,
        installation: str,
        platform_key: PlatformKey | None = None,
    ) -> None:
        """Open the folder (made with mode 0700 if absent) and its platform key (made if absent).

        `measurement` and `installation` (the installation key's fingerprint) are hex digests. `platform_key`
        says where that key comes from, by default a file; see `keys` for what the others raise.
        """
        unhex(measurement), unhex(installation)
        self._folder = Path(folder)
        self._measurement = measurement
        self._installation = installation
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._by = (platform_key or FileKey()).open(self._folder)

    def has(self, name: str) -> bool:
        """Whether a sealed key of this name is there."""
        return self._path(name).exists()

    def seal_signing_key(self, name: str, key: _core.SigningKey) -> None:
        """Write an Ed25519 key, replacing one of the same name, all or nothing."""
        self._seal("signing", name, key)

    def seal_hpke_key(self, name: str, key: _core.HpkeKey) -> None:
        """Write an HPKE key, replacing one of the same name, all or nothing."""
        self._seal("hpke", name, key)

    def seal_secret_key(self, name: str, key: _core.SecretKey) -> None:
        """Write a symmetric key that is not derived here, replacing one of the same name, all or nothing."""
        self._seal("secret", name, key)

    def unseal_signing_key(self, name: str) -> _core.SigningKey:
        """Raises `NotFound`, `KeyRefused` (another measurement or machine), `SealedDataCorrupt` or
        `Malformed`.
        """
        return self._unseal("signing", name, _core.SigningKey.import_sealed)

    def unseal_hpke_key(self, name: str) -> _core.HpkeKey:
        """Raises as `unseal_signing_key`."""
        return self._unseal("hpke", name, _core.HpkeKey.import_sealed)

    def unseal_secret_key(self, name: str) -> _core.SecretKey:
        """Raises as `unseal_signing_key`."""
        return self._unseal("secret", name, _core.SecretKey.import_sealed)

    def secret(self, label: str) -> _core.SecretKey:
        """A symmetric key for one purpose, e.g. sealing log bodies; the same again for the same binding."""
        return self._by.derive(self._context("secret", label).decode())

    def reseal(self, name: str, target: Sealing) -> None:
        """Hand a key over to another measurement, e.g. after an update that the owners approved."""
        kind, _, _ = _read(self._path(name))
        if kind == "signing":
            target.seal_signing_key(name, self.unseal_signing_key(name))
        elif kind == "secret":
            target.seal_secret_key(name, self.unseal_secret_key(name))
        else:
            target.seal_hpke_key(name, self.unseal_hpke_key(name))

    def _path(self, name: str) -> Path:
        if not 1 <= len(name) <= limits.NAME_CHARS or not set(name) <= _NAME:
            raise Malformed("a sealed key's name is not of lower-case letters, digits and hyphens")
        return self._folder / f"{name}.sealed"

    def _context(self, kind: str, name: str) -> bytes:
        bound = {
            "format": _MAGIC,
            "installation": self._installation,
            "kind": kind,
            "measurement": self._measurement,
            "name": name,
        }
        return json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()

    def _seal(self, kind: str, name: str, key: _Sealable) -> None:
        sealed = key.export_sealed(self._by, self._context(kind, name))
        write(self._path(name), f"{_MAGIC} {kind} {self._measurement}\n".encode() + sealed)

    def _unseal(self, kind: str, name: str, load: Callable[[bytes, _core.SecretKey, bytes], _Key]) -> _Key:
        found, measurement, sealed = _read(self._path(name))
        if found != kind:
            raise KeyRefused(f"sealed key {name!r} is of kind {found}, not {kind}")
        if measurement != self._measurement:
            raise KeyRefused(
                f"key {name!r} is sealed to measurement {measurement}; this process has {self._measurement}",
                hint="the code, interpreter or libraries changed: start the former version, or reseal it",
            )
        return load(sealed, self._by, self._context(kind, name))


def _read(path: Path) -> tuple[str, str, bytes]:
    """Kind, measurement and sealed bytes."""
    try:
        with path.open("rb") as file:
            raw = file.read(SEALED_KEY_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no sealed key {path.stem!r}") from None
    if len(raw) > SEALED_KEY_BYTES:
        raise TooLarge(f"sealed key {path.stem!r} has more than {SEALED_KEY_BYTES} bytes")
    line, newline, sealed = raw.partition(b"\n")
    words = line.decode("ascii", "replace").removeprefix(_MAGIC + " ").split(" ")
    if not newline or not line.startswith(_MAGIC.encode() + b" ") or len(words) != 2:
        raise Malformed(f"sealed key {path.stem!r} does not begin with its format line")
    if words[0] not in ("signing", "hpke", "secret"):
        raise Malformed(f"sealed key {path.stem!r} is of an unknown kind")
    unhex(words[1])
    return words[0], words[1], sealed


__all__ = ["PLATFORM_KEY", "SEALED_KEY_BYTES", "Sealing"]
