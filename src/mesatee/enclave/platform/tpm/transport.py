"""Where commands go: the kernel's resource manager, or a simulator's socket.

- ``/dev/tpmrm0`` (Linux): one write is one command, one read gives its response. Objects and sessions belong to
  the open file and are flushed when it is closed.
- A socket of swtpm (``--server type=tcp`` or ``type=unixio``): the same bytes as a stream, so the size in the
  header says where a response ends. There is no resource manager: what is made must be flushed.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from pathlib import Path
from typing import Final, Protocol

from mesatee.enclave.platform.kernel import Kernel, Linux, reported, wipe
from mesatee.enclave.platform.tpm.wire import HEADER_BYTES, MESSAGE_BYTES
from mesatee.errors import Malformed, TimedOut, Unavailable

DEVICE: Final = Path("dev/tpmrm0")
"""The resource manager, below the root of the file system."""
SECONDS: Final = 120.0
"""How long a command may take: a discrete TPM needs up to a minute for an RSA key."""


class Transport(Protocol):
    """Carries one command at a time."""

    def transmit(self, command: bytearray) -> bytearray:
        """The response's bytes, not parsed. Raises `Unavailable` or `Malformed`."""

    def close(self) -> None:
        """Give the connection back."""


class DeviceTransport:
    """The kernel's character device."""

    def __init__(self, path: Path = Path("/") / DEVICE, kernel: Kernel | None = None) -> None:
        """Raises `NotFound` without a device, `Unavailable` when it is taken or not ours to open."""
        self._kernel = kernel or Linux()
        self._name = str(path)
        with reported(self._name):
            self._handle = self._kernel.open(path, os.O_RDWR)

    def transmit(self, command: bytearray) -> bytearray:
        """See `Transport.transmit`."""
        with reported(self._name):
            taken = self._kernel.write(self._handle, command)
            if taken != len(command):
                raise Unavailable(f"{self._name} took {taken} of {len(command)} bytes")
            room = bytearray(MESSAGE_BYTES)
            count = self._kernel.readinto(self._handle, room)
            # Older drivers give a response in pieces when it is longer than they like.
            while HEADER_BYTES <= count < min(_announced(room), MESSAGE_BYTES):
                more = bytearray(MESSAGE_BYTES - count)
                got = self._kernel.readinto(self._handle, more)
                if got == 0:
                    break
                room[count : count + got] = more[:got]
                wipe(more)
                count += got
        found = room[:count]
        wipe(room)
        return found

    def close(self) -> None:
        """See `Transport.close`."""
        self._kernel.close(self._handle)


class SocketTransport:
    """A simulator's data socket."""

    def __init__(self, address: str, seconds: float = SECONDS) -> None:
        """`address` is ``unix:PATH`` or ``tcp:HOST:PORT``. Raises `Unavailable` or `Malformed`."""
        self._name = address
        kind, _, where = address.partition(":")
        try:
            if kind == "unix":
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                # A simulator serves one connection after the other. Without waiting, the next one is refused (EAGAIN).
                wait = struct.pack("@ll", math.ceil(seconds), 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
                self._socket.connect(where)
                self._socket.settimeout(seconds)
            elif kind == "tcp":
                host, _, port = where.rpartition(":")
                self._socket = socket.create_connection((host, _port(port)), seconds)
            else:
                raise Malformed(f"{address!r} is neither unix:PATH nor tcp:HOST:PORT")
        except OSError as error:
            raise Unavailable(f"the TPM's socket {address} cannot be reached: {error.strerror}") from None

    def transmit(self, command: bytearray) -> bytearray:
        """See `Transport.transmit`."""
        try:
            self._socket.sendall(command)
            header = bytearray(HEADER_BYTES)
            self._fill(memoryview(header))
            size = _announced(header)
            if not HEADER_BYTES <= size <= MESSAGE_BYTES:
                raise Malformed(f"a TPM response says that it has {size} bytes")
            room = bytearray(size)
            room[:HEADER_BYTES] = header
            self._fill(memoryview(room)[HEADER_BYTES:])
            return room
        except TimeoutError:
            raise TimedOut(f"the TPM at {self._name} does not answer") from None
        except OSError as error:
            raise Unavailable(f"the TPM's socket {self._name} failed: {error.strerror}") from None

    def _fill(self, room: memoryview) -> None:
        filled = 0
        while filled < len(room):
            got = self._socket.recv_into(room[filled:])
            if got == 0:
                raise Unavailable(f"the TPM at {self._name} closed the connection in the middle")
            filled += got

    def close(self) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(OSError):
            self._socket.close()


def _announced(room: bytearray) -> int:
    return int.from_bytes(room[2:6])


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise Malformed(f"{text!r} is not a port")
    return int(text)


def connect(where: str = "", root: Path = Path("/"), kernel: Kernel | None = None) -> Transport:
    """The TPM at ``unix:PATH``, ``tcp:HOST:PORT`` or a device's path; by default the machine's own."""
    if where.startswith(("unix:", "tcp:")):
        return SocketTransport(where)
    return DeviceTransport(Path(where) if where else root / DEVICE, kernel)


__all__ = ["DEVICE", "DeviceTransport", "SocketTransport", "Transport", "connect"]
