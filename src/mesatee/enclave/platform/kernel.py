"""The few system calls by which attesters talk to the kernel, behind one small interface.

Every attester reaches its device through a `Kernel`. `Linux` is the real one. Most of these devices exist on
no ordinary machine, so the tests put an object in its place that answers the same calls as the interface's
documents say, errors and short reads included; it is a fake of the kernel's interface, not of our code.

`ctypes` is not used: it would load libffi into the gateway. `array.array` gives buffers with known addresses.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from mesatee.errors import NotFound, TooLarge, Unavailable

_PIECE: Final = 4096
"""One read, in bytes: pseudo files give a page at a time."""
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR})


class Kernel(Protocol):
    """Calls raise `OSError`, as the system's do."""

    def open(self, path: Path, flags: int) -> int:
        """A file descriptor."""

    def close(self, handle: int) -> None:
        """Give the descriptor back. Some pseudo files act only now."""

    def readinto(self, handle: int, room: bytearray) -> int:
        """How many bytes were read into the front of `room`; 0 at the end."""

    def write(self, handle: int, data: bytes | bytearray) -> int:
        """How many bytes the kernel took."""

    def ioctl(self, handle: int, request: int, argument: bytearray) -> int:
        """The result; `argument` is changed in place, also when the call fails."""

    def map(self, handle: int, size: int) -> mmap.mmap:
        """Memory shared with the device."""

    def mkdir(self, path: Path) -> None:
        """Make a folder."""

    def rmdir(self, path: Path) -> None:
        """Remove a folder."""


class Linux:
    """The kernel that runs this process."""

    def open(self, path: Path, flags: int) -> int:
        """See `Kernel.open`."""
        return os.open(path, flags | os.O_CLOEXEC)

    def close(self, handle: int) -> None:
        """See `Kernel.close`."""
        os.close(handle)

    def readinto(self, handle: int, room: bytearray) -> int:
        """See `Kernel.readinto`."""
        return os.readv(handle, [room])

    def write(self, handle: int, data: bytes | bytearray) -> int:
        """See `Kernel.write`."""
        return os.write(handle, data)

    def ioctl(self, handle: int, request: int, argument: bytearray) -> int:
        """See `Kernel.ioctl`."""
        result: int = fcntl.ioctl(handle, request, argument, True)
        return result

    def map(self, handle: int, size: int) -> mmap.mmap:
        """See `Kernel.map`."""
        return mmap.mmap(handle, size)

    def mkdir(self, path: Path) -> None:
        """See `Kernel.mkdir`."""
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        """See `Kernel.rmdir`."""
        path.rmdir()


class Buffer:
    """Memory at a fixed address, which an ioctl's argument can point to."""

    def __init__(self, content: bytes) -> None:
        self._array = array("B", content)

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        return self._array.buffer_info()[0]

    def __len__(self) -> int:
        return len(self._array)

    def __bytes__(self) -> bytes:
        return self._array.tobytes()

    def move(self, start: int, end: int) -> bytearray:
        """Take bytes out: they are zeros here afterwards."""
        with memoryview(self._array) as view:
            taken = bytearray(view[start:end])
        for index in range(start, end):
            self._array[index] = 0
        return taken


@contextlib.contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn what the kernel says into our errors: `NotFound` for an absent device, else `Unavailable`.

    `what` names the interface. The kernel's text says nothing of the bytes that were passed.
    """
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "no error number")
        text = f"{what}: {error.strerror or error} ({name})"
        if error.errno in _ABSENT:
            raise NotFound(text, hint="`mesatee doctor` lists the interfaces of this machine") from None
        raise Unavailable(text) from None


@contextlib.contextmanager
def opened(kernel: Kernel, path: Path, flags: int) -> Iterator[int]:
    """A descriptor for the time of the block."""
    handle = kernel.open(path, flags)
    try:
        yield handle
    finally:
        kernel.close(handle)


def read_file(kernel: Kernel, path: Path, limit: int) -> bytearray:
    """All of a file, however short each read is. Raises `TooLarge` over `limit` bytes, and `OSError`."""
    content = bytearray()
    room = bytearray(_PIECE)
    with opened(kernel, path, os.O_RDONLY) as handle:
        while count := kernel.readinto(handle, room):
            with memoryview(room) as view:
                content += view[:count]
            if len(content) > limit:
                raise TooLarge(f"{path.name} has more than {limit} bytes")
    return content


def read_secret(kernel: Kernel, path: Path, limit: int) -> bytearray:
    """All of a file that holds a secret, with no other copy of it. Raises as `read_file`."""
    # Never grown, for a buffer that grows leaves a copy where it was before.
    room, piece, filled = bytearray(limit + 1), bytearray(limit + 1), 0
    with opened(kernel, path, os.O_RDONLY) as handle:
        while filled <= limit and (count := kernel.readinto(handle, piece)):
            count = min(count, len(room) - filled)
            with memoryview(piece) as view:
                room[filled : filled + count] = view[:count]
            filled += count
    content = room[:filled]
    wipe(room)
    wipe(piece)
    if filled > limit:
        wipe(content)
        raise TooLarge(f"{path.name} has more than {limit} bytes")
    return content


def write_file(kernel: Kernel, path: Path, data: bytes) -> None:
    """Write by one call, as pseudo files ask for. Raises `Unavailable` if not all was taken, and `OSError`."""
    with opened(kernel, path, os.O_WRONLY) as handle:
        taken = kernel.write(handle, data)
    if taken != len(data):
        raise Unavailable(f"{path.name} took {taken} of {len(data)} bytes")


def wipe(secret: bytearray) -> None:
    """Overwrite with zeros."""
    secret[:] = bytes(len(secret))


__all__ = [
    "Buffer",
    "Kernel",
    "Linux",
    "opened",
    "read_file",
    "read_secret",
    "reported",
    "wipe",
    "write_file",
]
