"""Hostile clients of a real host process: they lose their connection, and nobody else notices."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesatee.errors import HostFailed
from mesatee.host import LocalBlobs
from mesatee.host import connection as connection_module
from mesatee.host.connection import Connection, Doors
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Record
from mesatee.protocol.frames import Frame, Op

DIGEST = bytes(32)


class Client:
    """Speaks frames, or anything else."""

    def __init__(self, host: Any) -> None:
        with host.client() as client:
            client.records.head()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(host.socket))
        self._decoder = frames.Decoder()

    def send(self, *parts: bytes | Frame) -> None:
        try:
            for part in parts:
                self._socket.sendall(frames.encode(part) if isinstance(part, Frame) else part)
        except ConnectionError:
            # The host may hang up at the first wrong byte.
            pass

    def answers(self) -> list[Frame]:
        """All frames until the host hangs up."""
        found: list[Frame] = []
        try:
            while data := self._socket.recv(65536):
                found += self._decoder.feed(data)
        except ConnectionError:
            pass
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"MTEE\x01" + bytes(11),
        frames.HEADER.pack(b"MTEE", frames.VERSION, Op.DATA, 1, 1, 0xFFFFFFFF),
        frames.HEADER.pack(b"MTEE", frames.VERSION, 0x77, 0, 1, 0),
        frames.encode(Frame(Op.OK, 1)),
        frames.encode(Frame(Op.END, 1)),
        frames.encode(Frame(Op.DATA, 1, (b"x",))),
        os.urandom(5000),
    ],
)
def test_what_is_no_request_ends_the_connection(host: Any, data: bytes) -> None:
    client = Client(host)
    client.send(data)
    (answer,) = client.answers()
    assert (answer.op, answer.request) == (Op.ERROR, 0)


APPEND = Frame(Op.APPEND, 1, (frames.pack_int(0), frames.pack_int(2), b"head"))
RECORDS = frames.records_frame(1, [Record(bytes(64), b"")] * 2)
PUT = Frame(Op.BLOB_PUT, 1, (DIGEST, frames.pack_int(10)))


@pytest.mark.parametrize(
    "sent",
    [
        [APPEND, Frame(Op.HEAD, 1)],
        [APPEND, Frame(Op.RECORDS, 1)],
        [APPEND, frames.records_frame(2, [Record(bytes(64), b"")] * 2)],
        [APPEND, frames.records_frame(1, [Record(bytes(64), b"")] * 3)],
        [Frame(Op.APPEND, 1, (frames.pack_int(0), frames.pack_int(limits.LOG_BATCH + 1), b""))],
        [Frame(Op.APPEND, 1, (b"\xff" * 8, frames.pack_int(2), b"")), RECORDS, b"x" * 16],
        [PUT, Frame(Op.HEAD, 1)],
        [PUT, Frame(Op.DATA, 2, (b"x",))],
        [PUT, Frame(Op.DATA, 1, (b"x" * 11,))],
        [Frame(Op.BLOB_PUT, 1, (DIGEST, frames.pack_int(limits.BLOB_BYTES + 1)))],
    ],
)
def test_a_request_that_breaks_the_protocol_within_is_refused_and_changes_nothing(
    host: Any, sent: list[Any]
) -> None:
    client = Client(host)
    client.send(*sent)
    answers = client.answers()
    assert answers
    assert all(answer.op is Op.ERROR for answer in answers)
    with host.client() as other:
        assert other.records.head() == (0, b"")
    assert not [path for path in (host.data / "blobs").rglob("*") if path.is_file()]


def test_half_a_request_changes_nothing(host: Any) -> None:
    for sent in (
        [APPEND],
        [frames.encode(APPEND), frames.encode(RECORDS)[:-1]],
        [PUT, Frame(Op.DATA, 1, (b"x",))],
    ):
        client = Client(host)
        client.send(*sent)
        client.close()
    with host.client() as other:
        assert other.records.head() == (0, b"")
    deadline = time.monotonic() + 5
    while list((host.data / "blobs" / "tmp").iterdir()):
        assert time.monotonic() < deadline


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(min_size=1, max_size=200), st.sampled_from([APPEND, PUT, RECORDS, Frame(Op.HEAD, 1)]), st.data()
)
def test_altered_requests_never_stop_the_host(
    host: Any, noise: bytes, frame: Frame, data: st.DataObject
) -> None:
    whole = bytearray(frames.encode(frame))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at : at + len(noise)] = noise
    client = Client(host)
    client.send(bytes(whole))
    client.close()
    assert host.process.poll() is None


def test_a_client_that_stands_still_within_a_request_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module.limits, "HOST_STALL_SECONDS", 0.2)
    shut = HostFailed("not here")
    for part in (b"MTEE", frames.encode(APPEND), frames.encode(APPEND) + b"M"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(part)
            start = time.monotonic()
            Connection(theirs, Doors(shut, shut, shut), lambda *_, **__: None).run()
            assert 0.1 < time.monotonic() - start < 2


def test_a_reader_that_stands_still_is_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module.limits, "HOST_STALL_SECONDS", 0.2)
    data = bytes(4 * limits.BLOB_CHUNK_BYTES)
    blobs = LocalBlobs(folder / "blobs")
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(digest, [data], len(data))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fields = (bytes.fromhex(digest), frames.pack_int(0), frames.pack_int(len(data)))
        ours.sendall(frames.encode(Frame(Op.BLOB_GET, 1, fields)))
        start = time.monotonic()
        Connection(theirs, Doors(HostFailed("x"), HostFailed("x"), blobs), lambda *_, **__: None).run()
        assert 0.1 < time.monotonic() - start < 2
