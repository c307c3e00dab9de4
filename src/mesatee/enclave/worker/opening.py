"""Opening a sealed file that the host hands over in pieces, into a memory file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from typing import Final

from ..._core import FileKey, age_open
from ...errors import DigestMismatch, MesateeError
from ...protocol import limits

WHOLE_BYTES: Final = 16 * limits.MIB
"""A file of up to so many bytes is read whole: a pipe costs more time than it saves."""


def read_whole(pieces: Iterable[bytes], sha256: str, size: int) -> bytes:
    """The `size` bytes, which the host does not choose. Raises `DigestMismatch`, and what `pieces` raises."""
    data = _joined(pieces, size)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _mismatch()
    return data


def open_into(target: int, pieces: Iterable[bytes], sha256: str, size: int, key: FileKey) -> None:
    """Write the plaintext of the sealed file of `size` bytes to the open file `target`.

    Raises `DigestMismatch`, what `age_open` raises, and what `pieces` raises; `target` may have a part then.
    """
    if size > WHOLE_BYTES:
        _stream(target, pieces, sha256, size, key)
        return
    data = _joined(pieces, size)
    found: list[str] = []
    # Neither of both needs the interpreter meanwhile.
    digester = threading.Thread(target=lambda: found.append(hashlib.sha256(data).hexdigest()), daemon=True)
    digester.start()
    try:
        age_open(data, target, key, size)
    finally:
        digester.join()
    if found != [sha256]:
        raise _mismatch()


def _joined(pieces: Iterable[bytes], size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise _mismatch()
        parts.append(piece)
    # A single one is not copied.
    return b"".join(parts)


def _stream(target: int, pieces: Iterable[bytes], sha256: str, size: int, key: FileKey) -> None:
    """Read, digest and open at the same time."""
    reader, writer = os.pipe()
    failed: list[BaseException] = []

    def feed() -> None:
        digest = hashlib.sha256()
        try:
            with os.fdopen(writer, "wb", buffering=0) as pipe:
                for piece in pieces:
                    digest.update(piece)
                    view = memoryview(piece)
                    while view:
                        view = view[pipe.write(view) or 0 :]
            if digest.hexdigest() != sha256:
                failed.append(_mismatch())
        except BrokenPipeError:
            # The reader found the bytes to be wrong and says so itself.
            pass
        except MesateeError as error:
            failed.append(error)

    feeder = threading.Thread(target=feed, name="feed", daemon=True)
    feeder.start()
    try:
        age_open(reader, target, key, size)
    finally:
        os.close(reader)
        feeder.join()
    if failed:
        raise failed[0]


def _mismatch() -> DigestMismatch:
    return DigestMismatch("the host's file is not the one that was named")


__all__ = ["WHOLE_BYTES", "open_into", "read_whole"]
