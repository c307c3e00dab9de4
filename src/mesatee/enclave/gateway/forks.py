"""The proofs of forks that this gateway has met, kept over its restarts (design, "Rollback and forks").

A proof is a checkpoint that this log's key signed and that the log, as the host gives it back, does not extend. It
speaks for itself, so it is kept as it is: nobody without the log's key can make one, and each start decides anew with
all of them. With the log that was signed the gateway serves again; no log extends proofs of two different ones. Who
owns the folder can delete the file, as a host can lose anything: then the next statement of a party that remembers is
the proof again.

The checkpoint that ends the part of a gateway that handed its keys over is kept the same way: with a log from before
that, it stops too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ...errors import LogCorrupt, MesateeError
from ...protocol import limits
from ...protocol.jsonstrict import canonical, parse_object
from ...protocol.model import Model, validate

FORKS_FILE: Final = "forks.json"
"""The name of the file in the folder of the service's keys."""
PROOFS: Final = 64
"""Proofs kept, oldest first. When there are so many the newest takes the last place: it may be the end of this
gateway's own part of the log, after which nothing comes."""
FORKS_BYTES: Final = PROOFS * 2 * limits.CHECKPOINT_BYTES


class _Kept(Model):
    """The file."""

    proofs: tuple[str, ...]


class ForkProofs:
    """The kept proofs of one service."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FORKS_FILE

    def read(self) -> tuple[str, ...]:
        """Signed checkpoints as text, to be verified by whoever uses them.

        Raises `LogCorrupt` for a file that is not ours: it is there because there was a proof.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(FORKS_BYTES + 1)
        except FileNotFoundError:
            return ()
        try:
            value = parse_object(data, limit=FORKS_BYTES)
            return validate(_Kept, value, self._path.name).proofs
        except MesateeError as error:
            raise LogCorrupt(
                f"the kept proofs of forks cannot be read: {error.message}",
                hint=f"a fork was met before: restore {self._path.name} as it was",
            ) from None

    def keep(self, proof: str) -> None:
        """Add a proof, durably. Raises `OSError` when the folder cannot be written."""
        kept = self.read()
        if proof in kept:
            return
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(canonical({"proofs": [*kept[: PROOFS - 1], proof]}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


__all__ = ["FORKS_BYTES", "FORKS_FILE", "PROOFS", "ForkProofs"]
