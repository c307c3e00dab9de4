"""What a party remembers of each log: the newest checkpoint that it has verified, across sessions.

This is what makes a rollback visible to its owner: a log that is shorter than, or different from, what was
verified before is refused. A memory file that does not parse is an error, never an empty memory.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..errors import Corrupt, ForkDetected, KeyRefused, MesateeError, NotFound
from ..protocol import checkpoint as cp
from ..protocol import limits
from ..protocol.digests import is_hex, sha256
from ..protocol.jsonstrict import canonical, parse_object
from . import files

VERSION: Final = 1
_MEMBERS: Final = {"version", "log_key", "note"}


class CheckpointMemory:
    """The memory of one log in the folder of one identity."""

    def __init__(self, folder: Path, origin: str) -> None:
        """`folder` is the identity's; `origin` the log's name. Raises `Malformed`."""
        self.origin = cp.check_origin(origin)
        # An origin has slashes: its digest is the file's name.
        self._path = folder / "checkpoints" / f"{sha256(origin.encode())[:32]}.json"

    def load(self, log_key: bytes) -> cp.Checkpoint | None:
        """The remembered checkpoint, verified again; None if this log was never met.

        Raises `Corrupt` for a file that was altered, and `KeyRefused` if the log had another key.
        """
        try:
            data = files.read(self._path, 2 * limits.CHECKPOINT_BYTES, "checkpoint memory")
        except NotFound:
            return None
        try:
            value = parse_object(data, limit=2 * limits.CHECKPOINT_BYTES)
            if set(value) != _MEMBERS or value["version"] != VERSION or isinstance(value["version"], bool):
                raise self._corrupt("it is not of this version")
            key, note = value["log_key"], value["note"]
            if not isinstance(key, str) or not is_hex(key, 32) or not isinstance(note, str):
                raise self._corrupt("it has no key or checkpoint")
            kept = cp.verify(note, self.origin, bytes.fromhex(key))
        except Corrupt:
            raise
        except MesateeError as error:
            raise self._corrupt(error.message) from None
        if key != log_key.hex():
            raise KeyRefused(
                f"the log {self.origin} is signed by another key than before",
                hint=f"if the service was set up anew, remove {self._path} and pin the new key",
            )
        return kept

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(
            f"the remembered checkpoint of {self.origin} was altered: {why}",
            hint=f"restore {self._path} from a copy; without it a rollback of the log cannot be noticed",
        )

    def remember(self, checkpoint: cp.Checkpoint, log_key: bytes) -> cp.Checkpoint:
        """Keep a checkpoint that was verified to extend the kept one; returns what is kept now.

        Another process of the same identity may have gone further meanwhile: then its checkpoint stays.
        Raises `ForkDetected` for two roots of one size, and what `load` raises.
        """
        with self._locked():
            kept = self.load(log_key)
            if kept is not None:
                if kept.size == checkpoint.size and kept.root != checkpoint.root:
                    raise ForkDetected(
                        f"the log {self.origin} has two different trees of {kept.size} entries"
                    )
                if (kept.size, kept.time) >= (checkpoint.size, checkpoint.time):
                    return kept
            value = {"version": VERSION, "log_key": log_key.hex(), "note": checkpoint.note}
            files.write(self._path, canonical(value))
            return checkpoint

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = files.private_folder(self._path.parent)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


__all__ = ["VERSION", "CheckpointMemory"]
