"""Files on the owner's own machine: written all or nothing, read within bounds."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import Conflict, InputError, NotFound, TooLarge

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner reads; one that exists is left as it is."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    return path


def sync_folder(path: Path) -> None:
    """Make a rename in `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """A new file of mode 0600 that takes the place of `path` when the block ends well, and leaves no trace
    when not.

    With `exclusive` a file that is already there is never replaced. Raises `Conflict`, and `InputError` when
    the folder cannot be written.
    """
    if exclusive and path.exists():
        raise _exists(path)
    temporary = path.with_name(f".{path.name[:128]}.{secrets.token_hex(8)}.part")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise InputError(f"cannot write into {path.parent}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            # A hard link fails if somebody made the file meanwhile; a rename would overwrite it.
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise _exists(path) from None
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        # Whatever stopped us, no half-written file stays behind.
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _exists(path: Path) -> Conflict:
    return Conflict(f"{path} exists already", hint="choose another name, or remove it first")


def write(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write `data` to `path`, all or nothing, durably, mode 0600."""
    with replacing(path, exclusive=exclusive) as file:
        file.write(data)


def read(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a small file. Raises `NotFound`, `TooLarge` or `InputError`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no {what} {path}", hint="check the path") from None
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder, and not a file with the {what}", hint="name a file in it"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot read the {what} {path}: {error.strerror}", hint="check the path and its permissions"
        ) from None
    if len(data) > limit:
        raise TooLarge(f"the {what} {path} has more than {limit} bytes")
    return data


__all__ = ["PRIVATE_FILE", "PRIVATE_FOLDER", "private_folder", "read", "replacing", "sync_folder", "write"]
