from __future__ import annotations

import errno
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.enclave.platform.fakes import ROOT, FakeKernel, File, error

from mesatee.enclave.platform.tpm.transport import DEVICE, DeviceTransport, SocketTransport, connect
from mesatee.errors import Malformed, NotFound, TimedOut, Unavailable

COMMAND = bytearray.fromhex("80010000000a00000144")
ANSWER = bytes.fromhex("80010000000c00000000abcd")


class TpmDevice(File):
    """/dev/tpmrm0 (drivers/char/tpm/tpm-dev-common.c): one write, then its response, in as many reads as wanted."""

    def __init__(self, answer: bytes = ANSWER, piece: int = 4096, takes: int | None = None) -> None:
        self.answer, self.piece, self.takes = answer, piece, takes
        self.waiting = b""

    def write(self, data: bytes) -> int:
        if self.waiting:
            raise error(errno.EBUSY)
        self.waiting = self.answer
        return len(data) if self.takes is None else self.takes

    def readinto(self, room: bytearray) -> int:
        part = self.waiting[: min(self.piece, len(room))]
        room[: len(part)] = part
        self.waiting = self.waiting[len(part) :]
        return len(part)


def device(made: File) -> DeviceTransport:
    kernel = FakeKernel()
    kernel.files[DEVICE.as_posix()] = lambda: made
    found = connect("", ROOT, kernel)
    assert isinstance(found, DeviceTransport)
    return found


@pytest.mark.parametrize("piece", [10, 11, 4096])
def test_a_response_in_pieces(piece: int) -> None:
    found = device(TpmDevice(piece=piece))
    assert found.transmit(COMMAND) == ANSWER
    assert found.transmit(COMMAND) == ANSWER
    found.close()


def test_the_device_fails() -> None:
    with pytest.raises(NotFound):
        DeviceTransport(ROOT / DEVICE, FakeKernel())
    with pytest.raises(Unavailable, match="took 4 of 10"):
        device(TpmDevice(takes=4)).transmit(COMMAND)
    busy = TpmDevice()
    busy.waiting = b"another's response"
    with pytest.raises(Unavailable, match="EBUSY"):
        device(busy).transmit(COMMAND)
    # A driver that gave up has nothing to read: the parser refuses what is empty.
    assert device(TpmDevice(answer=b"")).transmit(COMMAND) == b""


def served(answers: list[bytes], stay: bool = False) -> str:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(100)
            for answer in answers:
                connection.sendall(answer)
            if stay:
                connection.recv(100)

    threading.Thread(target=serve, daemon=True).start()
    return f"tcp:127.0.0.1:{listener.getsockname()[1]}"


def test_a_socket_that_dribbles() -> None:
    found = SocketTransport(served([ANSWER[:3], ANSWER[3:11], ANSWER[11:]]))
    assert found.transmit(COMMAND) == ANSWER
    found.close()


def test_a_socket_that_misbehaves() -> None:
    with pytest.raises(Unavailable, match="in the middle"):
        SocketTransport(served([ANSWER[:5]])).transmit(COMMAND)
    for size in (9, 4097, 0xFFFFFFFF):
        with pytest.raises(Malformed):
            SocketTransport(served([b"\x80\x01" + size.to_bytes(4) + bytes(4)])).transmit(COMMAND)
    with pytest.raises(TimedOut):
        SocketTransport(served([], stay=True), seconds=0.1).transmit(COMMAND)


def test_a_simulator_that_is_busy_with_others(tmp_path: Path) -> None:
    """It takes one connection after the other, and few may wait for their turn."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(f"{tmp_path}/s")
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{tmp_path}/s")
        threading.Timer(0.3, listener.accept).start()
        SocketTransport(f"unix:{tmp_path}/s", seconds=5.0).close()


def test_addresses(tmp_path: Path) -> None:
    for bad in ("tcp:127.0.0.1:0", "tcp:127.0.0.1:x", "tcp:127.0.0.1:65536"):
        with pytest.raises(Malformed):
            connect(bad)
    with pytest.raises(Unavailable):
        connect(f"unix:{tmp_path}/absent")
    with pytest.raises(Malformed):
        SocketTransport("http:x")
    with pytest.raises(NotFound):
        connect(str(tmp_path / "absent"))
