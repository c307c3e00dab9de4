"""The endorsements that this machine keeps: one file in the home folder.

The file is an `attestation.endorsements.Endorsements` as it is exported. It is replaced as a whole, so a reader sees
the old or the new one, and a lock lets one writer work at a time. Nothing in it is secret, but which machines somebody
deals with is nobody's business: mode 0600.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from ..attestation.endorsements import NOTHING, Endorsement, Endorsements, issued
from ..errors import Corrupt, Expired, InputError, MesateeError, TimedOut, TooLarge, UnsupportedVersion
from ..protocol import limits

FILE: Final = "endorsements.json"
LOCK: Final = ".endorsements.lock"
MODE: Final = 0o600
LOCK_SECONDS: Final = 10.0
"""How long a writer waits for another one, in seconds; no writer holds the lock while it waits for a network."""
_POLL_SECONDS: Final = 0.05
_LOGGER = logging.getLogger(__name__)


class Store:
    """The store in one home folder. Holds nothing open; may be used by several processes and threads at once."""

    def __init__(self, home: Path, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = home / FILE
        self._home = home
        self._lock_seconds = lock_seconds

    def load(self) -> Endorsements:
        """What is kept; nothing where there is no file.

        Raises `Corrupt` for a file that was altered or cut, `UnsupportedVersion` for one of another version, and
        `InputError` for one that cannot be read.
        """
        try:
            data = self._read()
        except FileNotFoundError:
            return NOTHING
        except OSError as error:
            raise InputError(
                f"cannot read {self.path}: {error.strerror}",
                hint="the store is a file, not a link: move it away",
            ) from None
        try:
            return Endorsements.parse(data)
        except UnsupportedVersion as error:
            raise UnsupportedVersion(
                f"the store of endorsements {self.path} was written by another version: {error.message}",
                hint="use that version of mesatee, or another home folder",
            ) from None
        except InputError as error:
            raise Corrupt(
                f"the store of endorsements {self.path} is damaged: {error.message}",
                hint=f"move it away, then import an export or fetch again: mv {self.path} {self.path}.damaged",
            ) from None

    def _read(self) -> bytes:
        # A pipe would keep whoever reads it waiting, and a link could lead to one.
        handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return file.read(limits.ENDORSEMENTS_BYTES + 1)

    def update(self, change: Callable[[Endorsements], Endorsements]) -> Endorsements:
        """Replace what is kept by what `change` makes of it, durably, and return that.

        Raises what `load` and `change` raise; `TooLarge` when it would not fit, `TimedOut` when another writer does
        not end, and `InputError` when the folder cannot be written. What was kept stays then.
        """
        with self._locked():
            kept = self.load()
            made = change(kept)
            if made != kept:
                self._write(made)
            return made

    def add(self, items: Iterable[Endorsement]) -> Endorsements:
        """Keep `items` too, each in place of an older one (`Endorsements.merged`). Raises as `update`."""
        new = tuple(items)
        return self.update(lambda kept: kept.merged(new))

    def import_(self, data: bytes, at: int) -> Endorsements:
        """Add an exported collection, at `at` (Unix seconds). Raises as `update`; `Malformed`, `TooLarge` or
        `UnsupportedVersion` for what is no collection, and `Expired` when it claims to come from the future: such
        endorsements could never be replaced by newer ones.
        """
        given = Endorsements.parse(data)
        latest = at + limits.CLOCK_SKEW_SECONDS
        if any(max(item.fetched, issued(item.data).at) > latest for item in given.items):
            raise Expired(
                "the collection has endorsements that were fetched or issued in the future",
                hint="check this machine's clock, or export the collection again",
            )

        def change(kept: Endorsements) -> Endorsements:
            made = kept.merged(given.items)
            for bundle in given.references:
                made = made.with_reference(bundle)
            return made

        return self.update(change)

    def export(self) -> bytes:
        """What is kept, for `import_` elsewhere. Raises as `load`."""
        return self.load().encode()

    def drop_expired(self, at: int) -> tuple[Endorsement, ...]:
        """Drop what is over at `at` (Unix seconds), and return it. Raises as `update`."""
        dropped: list[Endorsement] = []

        def change(kept: Endorsements) -> Endorsements:
            dropped.extend(item for item in kept.items if item.is_over(at))
            return kept.without_expired(at)

        self.update(change)
        return tuple(dropped)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The lock is a file of its own: the store's file is another one after each change.
            handle = os.open(self._home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        except OSError as error:
            raise InputError(f"cannot write into {self._home}: {error.strerror}") from None
        try:
            self._wait(handle)
            yield
        finally:
            os.close(handle)

    def _wait(self, handle: int) -> None:
        deadline = time.monotonic() + self._lock_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimedOut(
                        f"another process has been changing {self.path} for too long",
                        hint="wait for it, or end it",
                    ) from None
            time.sleep(_POLL_SECONDS)

    def _write(self, made: Endorsements) -> None:
        data = made.encode()
        if len(data) > limits.ENDORSEMENTS_BYTES:
            raise TooLarge(
                f"the store would have {len(data)} bytes, the limit is {limits.ENDORSEMENTS_BYTES}",
                hint="drop what is over: mesatee endorsements drop-expired",
            )
        temporary = self.path.with_name(f".{FILE}.{secrets.token_hex(8)}.part")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            folder = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}: {error.strerror}",
                hint="check the folder and the space on the disk",
            ) from None
        finally:
            # Whatever stopped us, no half-written file stays behind.
            with contextlib.suppress(OSError):
                temporary.unlink()


class Current:
    """What a store keeps now: read when it is made, and again whenever the file is another one. Threads may share it.

    Nothing in the file has to be believed, because verifiers check the signatures and times of all that is in it:
    whoever writes it can hold back what is new while what is old is still in time, and no more. So a file that cannot
    be read later on costs no more than new endorsements: what was read before still counts.
    """

    def __init__(self, store: Store) -> None:
        """Raises as `Store.load`: who starts with a damaged file should know."""
        self._store = store
        self._lock = threading.Lock()
        self._seen = self._mark()
        self._kept = store.load()

    def __call__(self) -> Endorsements:
        """The collection. Costs one look at the folder unless the file has changed."""
        with self._lock:
            mark = self._mark()
            if mark != self._seen:
                # Before the file is read: if it changes meanwhile, it is read again the next time.
                self._seen = mark
                try:
                    self._kept = self._store.load()
                except MesateeError as error:
                    _LOGGER.warning("the endorsements that were read before still count: %s", error.message)
            return self._kept

    def _mark(self) -> tuple[int, int, int] | None:
        """What changes with the file; None where there is none."""
        try:
            found = self._store.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


__all__ = ["FILE", "LOCK", "LOCK_SECONDS", "MODE", "Current", "Store"]
