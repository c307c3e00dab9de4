"""A party's identity: three keys under one name, in files that only their owner reads.

The keys stay in the Rust core; Python holds handles. The folder of an identity is::

    <home>/identities/NAME/      mode 0700
        signing.key              Ed25519: who the party is
        age.key                  age X25519: opens the party's own sealed files, also with the `age` tool
        hpke.key                 X-Wing: opens the results that the gateway releases to the party
        checkpoints/             the newest verified checkpoint of each log
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .. import _core
from ..errors import Conflict, InputError, NotFound
from ..protocol import limits
from ..protocol.digests import b64encode
from ..protocol.statements import PartyKeys
from .files import private_folder, sync_folder
from .names import check_name

FOLDER: Final = "identities"
CERTIFICATE_SECONDS: Final = 86_400
"""Life of the certificate that a party makes for its channel, in seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """An identity with its keys by handle."""

    name: str
    folder: Path
    signing: _core.SigningKey = field(repr=False)
    age: _core.AgeKey = field(repr=False)
    hpke: _core.HpkeKey = field(repr=False)

    @classmethod
    def create(cls, home: Path, name: str) -> Identity:
        """Make new keys under a new name.

        Raises `Malformed` for a name that could be a path, and `Conflict` if there is an identity of this
        name.
        """
        check_name(name, "an identity")
        try:
            folder = private_folder(private_folder(home) / FOLDER)
        except OSError as error:
            raise InputError(
                f"cannot write into {home}: {error.strerror}", hint="choose another --home"
            ) from None
        target = folder / name
        if target.exists():
            raise Conflict(f"there is an identity {name} already", hint="choose another name")
        # The keys appear under their name all at once, or not at all.
        making = private_folder(folder / f".{name}.{secrets.token_hex(8)}")
        try:
            for key, file in (
                (_core.SigningKey.generate(), "signing.key"),
                (_core.AgeKey.generate(), "age.key"),
                (_core.HpkeKey.generate(), "hpke.key"),
            ):
                key.save(str(making / file))
            private_folder(making / "checkpoints")
            try:
                making.rename(target)
            except OSError:
                raise Conflict(f"there is an identity {name} already", hint="choose another name") from None
        except BaseException:
            # Whatever stopped us, no half-made identity stays behind.
            shutil.rmtree(making, ignore_errors=True)
            raise
        sync_folder(folder)
        return cls.load(home, name)

    @classmethod
    def load(cls, home: Path, name: str) -> Identity:
        """Raises `NotFound`, `KeyRefused` (a key file that others may read) or `Malformed`."""
        check_name(name, "an identity")
        folder = home / FOLDER / name
        if not folder.is_dir():
            known = ", ".join(names(home))
            raise NotFound(
                f"there is no identity {name}",
                hint=f"known: {known}" if known else f"`mesatee id new {name}` makes it",
            )
        return cls(
            name,
            folder,
            _core.SigningKey.load(str(folder / "signing.key")),
            _core.AgeKey.load(str(folder / "age.key")),
            _core.HpkeKey.load(str(folder / "hpke.key")),
        )

    @property
    def id(self) -> str:
        """The Ed25519 public key in hex: who this is everywhere."""
        return self.signing.public.hex()

    def keys(self) -> PartyKeys:
        """The public keys, as statements carry them."""
        return PartyKeys(
            name=self.name, signing=self.id, age=self.age.recipient, hpke=b64encode(self.hpke.public)
        )

    def certificate(self, now: int) -> bytes:
        """A self-signed channel certificate in DER, valid around `now` (Unix seconds).

        A party shows no evidence.
        """
        start = now - limits.CLOCK_SKEW_SECONDS
        return _core.make_certificate(self.signing, self.name, start, now + CERTIFICATE_SECONDS, None)


def names(home: Path) -> list[str]:
    """The identities below `home`, sorted."""
    folder = home / FOLDER
    if not folder.is_dir():
        return []
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


__all__ = ["CERTIFICATE_SECONDS", "FOLDER", "Identity", "names"]
