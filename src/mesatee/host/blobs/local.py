"""The blobs door on a folder: ``ab/cd/<64 hex digits>``, and ``tmp/`` for what is still arriving.

A blob appears by rename after its bytes are on the disk and their digest was checked, so no reader ever
sees half of one. A put of a blob that is already there takes the same way, bytes, checks and all: the
caller hears of wrong bytes in either case, and a damaged file is healed by putting it again. Readers keep
the file that they have open.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mesatee.errors import DigestMismatch, HostFailed, NotFound
from mesatee.host.storage import disk_failed, fsync_folder, make_folder
from mesatee.protocol import frames, limits

_TEMPORARY: Final = "tmp"


class LocalBlobs:
    """`doors.Blobs` in a folder that no other process uses."""

    def __init__(self, folder: Path) -> None:
        """Use or create `folder` and remove what unfinished puts left. Raises `HostFailed`."""
        self._folder = folder
        self._temporary = folder / _TEMPORARY
        try:
            make_folder(folder)
            make_folder(self._temporary)
            for stale in self._temporary.iterdir():
                stale.unlink()
        except OSError as error:
            raise disk_failed(error, "opening the blob folder") from None

    def _path(self, digest: str) -> Path:
        # The only place where a name from outside becomes a path: nothing but 64 hex digits gets here.
        frames.check_digest(digest)
        return self._folder / digest[:2] / digest[2:4] / digest

    def put(self, digest: str, chunks: Iterable[bytes], size: int) -> None:
        """See `doors.Blobs`; returns after fsync. Raises `DigestMismatch`, `HostFailed`, `Malformed`,
        `TooLarge`.

        What `chunks` itself raises passes through, and nothing is kept.
        """
        target = self._path(digest)
        frames.check_size(size)
        temporary = self._temporary / secrets.token_hex(16)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_failed(error, "storing a blob") from None
        try:
            try:
                self._write(descriptor, digest, chunks, size)
            finally:
                os.close(descriptor)
            self._publish(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write(self, descriptor: int, digest: str, chunks: Iterable[bytes], size: int) -> None:
        hasher = hashlib.sha256()
        written = 0
        for chunk in chunks:
            written += len(chunk)
            if written > size:
                raise DigestMismatch(f"more bytes than the {size} of this blob")
            hasher.update(chunk)
            try:
                _write_all(descriptor, chunk)
            except OSError as error:
                raise disk_failed(error, "storing a blob") from None
        if written != size:
            raise DigestMismatch(f"{written} bytes, the blob has {size}")
        if hasher.hexdigest() != digest:
            raise DigestMismatch("the bytes are not those of the digest")
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise disk_failed(error, "storing a blob") from None

    def _publish(self, temporary: Path, target: Path) -> None:
        try:
            make_folder(target.parent.parent)
            make_folder(target.parent)
            temporary.rename(target)
            fsync_folder(target.parent)
        except OSError as error:
            raise disk_failed(error, "storing a blob") from None

    def get(self, digest: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See `doors.Blobs`; past the end there are no bytes.

        Raises `NotFound` (at once), `HostFailed`, `Malformed`.
        """
        return self.open(digest, start, length)[1]

    def open(self, digest: str, start: int = 0, length: int | None = None) -> tuple[int, Iterator[bytes]]:
        """As `get`, with the number of bytes that will come; every chunk but the last is full."""
        most = frames.check_range(start, length)
        descriptor, size = self._open(digest)
        count = min(most, max(0, size - start))
        return count, _Chunks(descriptor, start, count)

    def size(self, digest: str) -> int:
        """See `doors.Blobs`. Raises `NotFound`, `HostFailed`, `Malformed`."""
        descriptor, size = self._open(digest)
        os.close(descriptor)
        return size

    def discard(self, digest: str) -> None:
        """See `doors.Blobs`; who reads it now reads on. Raises `HostFailed`, `Malformed`."""
        try:
            self._path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise disk_failed(error, "removing a blob") from None

    def _open(self, digest: str) -> tuple[int, int]:
        path = self._path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no blob {digest}") from None
        except OSError as error:
            raise disk_failed(error, "opening a blob") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise HostFailed(f"blob {digest} is not a file", hint="look into the host's blob folder")
        return descriptor, status.st_size


class _Chunks:
    """Reads a range of an open file; closes it at the end, or when nobody wants the rest."""

    def __init__(self, descriptor: int, start: int, count: int) -> None:
        self._descriptor = descriptor
        self._position = start
        self._left = count

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        if self._descriptor < 0 or not self._left:
            self.close()
            raise StopIteration
        wanted = min(self._left, limits.BLOB_CHUNK_BYTES)
        try:
            chunk = os.pread(self._descriptor, wanted, self._position)
        except OSError as error:
            self.close()
            raise disk_failed(error, "reading a blob") from None
        if len(chunk) != wanted:
            self.close()
            raise HostFailed("the blob was cut while it was read")
        self._position += wanted
        self._left -= wanted
        return chunk

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


__all__ = ["LocalBlobs"]
