"""The gateway's long-lived keys at rest, sealed under this machine's platform key.

What it protects at level 2: a copy of the folder without ``platform.key`` (a backup, another machine's disk)
is useless, a sealed key cannot be put into another's place or another file, altered or carried to another
installation, and a process with other code does not open it by mistake. What it does not: the platform key is a
file of mode 0600 on the same machine. Its operator, or malware of the same user, can read it and name any
measurement, because no hardware compares the context with what really runs. From level 3 on the platform key
comes from hardware (`keys`), and what that compares binds: a TPM the boot, SNP and SGX the code itself.

Keys that belong together are one file, together with facts that are no secret and that every one of them is bound to.
File format: one line ``mesatee sealed keys v2 MEASUREMENT``, then canonical JSON: the facts, and by name each key's
kind and the bytes of `SecretKey.seal`, whose additional data is the canonical JSON of all that the key is bound to.
The line only serves the error message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from mesatee import _core
from mesatee.attestation.evidence import unhex
from mesatee.enclave.platform.keys import PLATFORM_KEY, FileKey, PlatformKey, write
from mesatee.errors import KeyRefused, Malformed, NotFound, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.digests import b64decode, b64encode, sha256
from mesatee.protocol.jsonstrict import canonical, parse_object
from mesatee.protocol.model import Model, validate

SEALED_KEYS_BYTES: Final = limits.STATEMENT_BYTES + 16 * limits.KIB
"""One file of sealed keys, in bytes: a statement among its facts, and a few keys of some 130 bytes each."""
_SEALED_KEY_BYTES: Final = 1_024
_MAGIC: Final = "mesatee sealed keys v2"
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

Key = _core.SigningKey | _core.HpkeKey | _core.SecretKey
K = TypeVar("K", _core.SigningKey, _core.HpkeKey, _core.SecretKey)
_KINDS: Final[Mapping[str, type[Key]]] = {
    "signing": _core.SigningKey,
    "hpke": _core.HpkeKey,
    "secret": _core.SecretKey,
}


class _SealedKey(Model):
    kind: Literal["signing", "hpke", "secret"]
    sealed: str


class _File(Model):
    facts: dict[str, Any]
    keys: dict[str, _SealedKey]


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Keys that were sealed together, by name, and the facts that they are bound to."""

    keys: Mapping[str, Key]
    facts: Mapping[str, Any]

    def signing(self, name: str) -> _core.SigningKey:
        """Raises `KeyRefused` if there is no Ed25519 key of this name."""
        return self._get(name, _core.SigningKey)

    def hpke(self, name: str) -> _core.HpkeKey:
        """Raises `KeyRefused` if there is no HPKE key of this name."""
        return self._get(name, _core.HpkeKey)

    def secret(self, name: str) -> _core.SecretKey:
        """Raises `KeyRefused` if there is no symmetric key of this name."""
        return self._get(name, _core.SecretKey)

    def _get(self, name: str, kind: type[K]) -> K:
        found = self.keys.get(name)
        if not isinstance(found, kind):
            raise KeyRefused(f"there is no {kind.__name__} {name!r} among these sealed keys")
        return found


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

    def names(self) -> tuple[str, ...]:
        """The names of all files of sealed keys in the folder, of whatever version."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.sealed")))

    def has(self, name: str) -> bool:
        """Whether a file of sealed keys of this name is there."""
        return self._path(name).exists()

    def seal(self, name: str, keys: Mapping[str, Key], facts: Mapping[str, Any]) -> None:
        """Write keys with the facts that they are bound to, replacing a file of the same name, all or nothing.

        Raises `TooLarge` for what `unseal` would not read.
        """
        bound = sha256(canonical(dict(facts)))
        sealed = {}
        for key_name, key in keys.items():
            kind = next(kind for kind, of in _KINDS.items() if isinstance(key, of))
            data = key.export_sealed(self._by, self._context(name, kind, key_name, bound))
            sealed[key_name] = {"kind": kind, "sealed": b64encode(data)}
        raw = f"{_MAGIC} {self._measurement}\n".encode() + canonical({"facts": dict(facts), "keys": sealed})
        if len(raw) > SEALED_KEYS_BYTES:
            raise TooLarge(f"sealed keys {name!r} have more than {SEALED_KEYS_BYTES} bytes")
        write(self._path(name), raw)

    def unseal(self, name: str) -> Unsealed:
        """All keys of a file. Raises `NotFound`, `KeyRefused` (another measurement or machine), `SealedDataCorrupt`,
        `Malformed` or `TooLarge`.
        """
        measurement, found = _read(self._path(name))
        if measurement != self._measurement:
            raise KeyRefused(
                f"keys {name!r} are sealed to measurement {measurement}; this process has {self._measurement}",
                hint="the code, interpreter or libraries changed: start the former version, or reseal them",
            )
        bound = sha256(canonical(found.facts))
        keys = {}
        for key_name, one in found.keys.items():
            data = b64decode(one.sealed, max_bytes=_SEALED_KEY_BYTES)
            context = self._context(name, one.kind, key_name, bound)
            keys[key_name] = _KINDS[one.kind].import_sealed(data, self._by, context)
        return Unsealed(keys, found.facts)

    def remove(self, name: str) -> None:
        """Forget sealed keys, if they are there."""
        self._path(name).unlink(missing_ok=True)

    def reseal(self, name: str, target: Sealing) -> None:
        """Hand keys over to another measurement, e.g. after an update that the owners approved."""
        found = self.unseal(name)
        target.seal(name, found.keys, found.facts)

    def _path(self, name: str) -> Path:
        if not 1 <= len(name) <= limits.NAME_CHARS or not set(name) <= _NAME:
            raise Malformed("a name of sealed keys is not of lower-case letters, digits and hyphens")
        return self._folder / f"{name}.sealed"

    def _context(self, name: str, kind: str, key: str, facts: str) -> bytes:
        return canonical(
            {
                "facts": facts,
                "format": _MAGIC,
                "installation": self._installation,
                "key": key,
                "kind": kind,
                "measurement": self._measurement,
                "name": name,
            }
        )


def _read(path: Path) -> tuple[str, _File]:
    """Measurement and contents, nothing of it verified yet."""
    try:
        with path.open("rb") as file:
            raw = file.read(SEALED_KEYS_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there are no sealed keys {path.stem!r}") from None
    if len(raw) > SEALED_KEYS_BYTES:
        raise TooLarge(f"sealed keys {path.stem!r} have more than {SEALED_KEYS_BYTES} bytes")
    line, newline, rest = raw.partition(b"\n")
    measurement = line.decode("ascii", "replace").removeprefix(_MAGIC + " ")
    if not newline or not line.startswith(_MAGIC.encode() + b" "):
        raise Malformed(
            f"sealed keys {path.stem!r} do not begin with the line of this format",
            hint="they may be of an older version: found a new service in another folder",
        )
    unhex(measurement)
    return measurement, validate(_File, parse_object(rest, limit=SEALED_KEYS_BYTES), "sealed keys")


__all__ = ["PLATFORM_KEY", "SEALED_KEYS_BYTES", "Key", "Sealing", "Unsealed"]
