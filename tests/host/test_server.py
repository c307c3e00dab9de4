"""The host process as a whole: start, stop, kill -9, a full disk, damage, and strangers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesatee.enclave.doors import HostClient
from mesatee.errors import Conflict, HostFailed, MesateeError, NotFound, TooLarge
from mesatee.host.server import SOCKET_PATH_BYTES, HostServer, serve
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Record
from mesatee.protocol.frames import Frame, Op

CHUNK = limits.BLOB_CHUNK_BYTES
Host = Any
"""`RealHost` of conftest.py, which test modules cannot import."""


def _record(number: int) -> Record:
    return Record(number.to_bytes(64, "big"), os.urandom(500))


def _wait(client: HostClient) -> None:
    """Until the host answers."""
    client.records.head()


def _events(host: Host) -> list[dict[str, object]]:
    return [json.loads(line) for line in host.log.read_text().splitlines()]


# -- start and stop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop(host: Host, number: int) -> None:
    with host.client() as client:
        client.records.append(0, [_record(0)], b"secret head")
        client.queue.put(b"secret ticket")
        assert host.stop(number) == 0
    assert not host.socket.exists()
    assert [event["event"] for event in _events(host)] == ["ready", "stopped"]
    assert "secret" not in host.log.read_text()
    host.start()
    with host.client() as client:
        assert client.records.head() == (1, b"secret head")


def test_stop_ends_waiting_leases_and_half_a_blob(host: Host) -> None:
    client = host.client()
    _wait(client)
    failures: list[MesateeError] = []

    def lease() -> None:
        try:
            client.queue.lease(60, 60)
        except MesateeError as error:
            failures.append(error)

    def slow() -> Iterator[bytes]:
        yield bytes(CHUNK)
        yield bytes(CHUNK)
        stopped.wait(20)
        yield bytes(CHUNK)

    def put() -> None:
        try:
            client.blobs.put("0" * 64, slow(), 100 * CHUNK)
        except MesateeError as error:
            failures.append(error)

    stopped = threading.Event()
    threads = [threading.Thread(target=lease), threading.Thread(target=put)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    start = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - start < 3
    stopped.set()
    for thread in threads:
        thread.join()
    assert [type(error) for error in failures] == [HostFailed, HostFailed]
    assert not list((host.data / "blobs" / "tmp").iterdir())


def test_modes(host: Host) -> None:
    with host.client() as client:
        client.queue.put(b"x")
        client.blobs.put(hashlib.sha256(b"x").hexdigest(), [b"x"], 1)
    for path in [host.socket, host.socket.parent, host.data, *host.data.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.socket.parent.stat().st_mode) == 0o700


def test_two_hosts_on_one_folder(host: Host, folder: Path) -> None:
    with host.client() as client:
        _wait(client)
        for place in (folder / "other" / "s", host.socket):
            with pytest.raises(Conflict):
                HostServer(place, host.data)
        with pytest.raises(Conflict):
            HostServer(host.socket, folder / "other-data")
        second = subprocess.run(host.command(), capture_output=True, text=True, timeout=30)
        assert second.returncode == 2
        assert json.loads(second.stderr)["code"] == "conflict"
        client.queue.put(b"the first one still serves")


def test_a_killed_host_leaves_nothing_that_stops_the_next(host: Host) -> None:
    with host.client() as client:
        _wait(client)
        host.kill()
        assert host.socket.exists()
        host.start()
        _wait(client)


def test_places_that_are_refused(folder: Path) -> None:
    open_folder = folder / "open"
    open_folder.mkdir()
    open_folder.chmod(0o750)
    with pytest.raises(HostFailed, match="others can reach"):
        HostServer(open_folder / "s", folder / "data")
    with pytest.raises(HostFailed, match="others can reach"):
        HostServer(folder / "run" / "s", open_folder)
    (folder / "run").mkdir(0o700, exist_ok=True)
    (folder / "run" / "file").write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        HostServer(folder / "run" / "file", folder / "data")
    assert (folder / "run" / "file").read_text() == "precious"
    room = SOCKET_PATH_BYTES - len(os.fsencode(folder)) - len("/run/")
    with pytest.raises(TooLarge):
        HostServer(folder / "run" / ("s" * (room + 1)), folder / "data")
    fitting = HostServer(folder / "run" / ("s" * room), folder / "data")
    fitting.stop()
    fitting.serve_forever()


def test_serve_in_a_thread(folder: Path) -> None:
    servers: list[HostServer] = []
    ready = threading.Event()

    def started(server: HostServer) -> None:
        servers.append(server)
        ready.set()

    thread = threading.Thread(target=serve, args=(folder / "run" / "s", folder / "data", started))
    thread.start()
    assert ready.wait(10)
    with HostClient(folder / "run" / "s") as client:
        client.queue.put(b"x")
    servers[0].stop()
    servers[0].stop()
    thread.join(10)
    assert not thread.is_alive()
    servers[0].stop()


# -- kill -9 -----------------------------------------------------------------------------------------


def test_acknowledged_appends_survive_kill(host: Host) -> None:
    with host.client() as client:
        for round_number in range(4):
            _wait(client)
            killer = threading.Timer(0.15, host.kill)
            start = client.records.head()[0]
            acknowledged = start
            killer.start()
            try:
                while True:
                    batch = [_record(acknowledged + number) for number in range(5)]
                    _direct_append(host, acknowledged, batch)
                    acknowledged += 5
            except (OSError, EOFError):
                killer.join()
            host.start()
            count, head = client.records.head()
            # The one that was under way is there as a whole or not at all.
            assert count in (acknowledged, acknowledged + 5), round_number
            assert head == (b"head %d" % count if count else b"")
            found: list[Record] = []
            while part := client.records.read(len(found), 512):
                found += part
            assert [int.from_bytes(record.entry, "big") for record in found] == list(range(count))


def _direct_append(host: Host, expected: int, batch: list[Record]) -> None:
    """One append without the client's own recovery, so that an acknowledgement is really one."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(host.socket))
        head = b"head %d" % (expected + len(batch))
        sock.sendall(b"".join(map(frames.encode, frames.append_frames(1, expected, batch, head))))
        assert _answer(sock) == Frame(Op.OK, 1)


def _answer(sock: socket.socket) -> Frame:
    decoder = frames.Decoder()
    while True:
        data = sock.recv(decoder.wanted)
        if not data:
            raise EOFError
        if complete := decoder.feed(data):
            return complete[0]


def test_the_client_rides_over_kills(host: Host) -> None:
    """Appends go on while the host is killed and started anew; each is there once, in order."""
    done = threading.Event()
    sent: list[Record] = []

    def reaper() -> None:
        for _ in range(4):
            # No append meets two of them: how often one is tried is bounded.
            before = len(sent)
            while len(sent) <= before and not done.is_set():
                time.sleep(0.01)
            time.sleep(0.1)
            host.kill()
            host.start()
        done.set()

    with host.client() as client:
        _wait(client)
        thread = threading.Thread(target=reaper)
        thread.start()
        try:
            while not done.is_set():
                batch = [_record(len(sent) + number) for number in range(3)]
                client.records.append(len(sent), batch, b"head")
                sent += batch
        finally:
            done.set()
            thread.join()
        found: list[Record] = []
        while part := client.records.read(len(found), 512):
            found += part
        assert found == sent
        assert len(sent) > 10


def test_blobs_and_kill(host: Host) -> None:
    whole = os.urandom(2 * CHUNK)
    half = os.urandom(4 * CHUNK)
    client = host.client(timeout=5)
    client.blobs.put(hashlib.sha256(whole).hexdigest(), [whole], len(whole))

    def source() -> Iterator[bytes]:
        yield half[:CHUNK]
        yield half[CHUNK : 2 * CHUNK]
        temporary = host.data / "blobs" / "tmp"
        deadline = time.monotonic() + 5
        while (
            not [path for path in temporary.iterdir() if path.stat().st_size] and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        host.kill()
        yield half[2 * CHUNK :]

    with pytest.raises(HostFailed):
        client.blobs.put(hashlib.sha256(half).hexdigest(), source(), len(half))
    assert list((host.data / "blobs" / "tmp").iterdir())
    host.start()
    assert b"".join(client.blobs.get(hashlib.sha256(whole).hexdigest())) == whole
    with pytest.raises(NotFound):
        client.blobs.size(hashlib.sha256(half).hexdigest())
    assert not list((host.data / "blobs" / "tmp").iterdir())


def test_tickets_and_leases_survive_kill(host: Host) -> None:
    with host.client() as client:
        client.queue.put(b"one")
        client.queue.put(b"two")
        lease = client.queue.lease(60, 0)
        assert lease is not None
        host.kill()
        host.start()
        second = client.queue.lease(60, 0)
        assert second is not None
        assert second.ticket == b"two"
        client.queue.ack(lease.id)


def test_a_worker_that_goes_while_it_waits_holds_no_ticket(host: Host) -> None:
    with host.client() as client:
        _wait(client)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(host.socket))
            fields = (frames.pack_seconds(600), frames.pack_seconds(600))
            sock.sendall(frames.encode(Frame(Op.QUEUE_LEASE, 1, fields)))
            time.sleep(0.2)
        client.queue.put(b"ticket")
        lease = client.queue.lease(60, 5)
        assert lease is not None
        assert lease.ticket == b"ticket"


# -- a full disk ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    target = folder / "disk"
    target.mkdir(0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(target)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield target
    subprocess.run(["umount", "-l", str(target)], check=True)


def test_disk_full(host: Host, small_disk: Path) -> None:
    host.stop()
    host.data = small_disk
    host.start()
    _fill(host)


def test_file_size_limit_counts_as_disk_full(host: Host) -> None:
    host.stop()
    host.start(file_bytes=4 * limits.MIB)
    _fill(host)


def _fill(host: Host) -> None:
    client = host.client()
    _wait(client)
    small = b"already there"
    client.blobs.put(hashlib.sha256(small).hexdigest(), [small], len(small))
    client.records.append(0, [_record(0)], b"head 1")
    large = os.urandom(8 * CHUNK)
    for _ in range(2):
        # The host says so before it has seen all, and more than the socket's buffer is still to come.
        with pytest.raises(HostFailed, match="disk full"):
            client.blobs.put(hashlib.sha256(large).hexdigest(), [large], len(large))
        with pytest.raises(NotFound):
            client.blobs.size(hashlib.sha256(large).hexdigest())
        assert not list((host.data / "blobs" / "tmp").iterdir())
    assert b"".join(client.blobs.get(hashlib.sha256(small).hexdigest())) == small

    count = 1
    with pytest.raises(HostFailed):  # noqa: PT012  Which append is the first to fail is not known.
        while True:
            client.records.append(
                count, [Record(bytes(64), os.urandom(60_000))] * 8, b"head %d" % (count + 8)
            )
            count += 8
            assert count < 1000
    found = client.records.head()
    assert found == (count, b"head %d" % count)
    assert len(client.records.read(count - 1, 10)) == 1
    assert any("disk full" in str(event.get("reason")) for event in _events(host))
    assert host.stop() == 0


def test_after_space_was_freed_it_goes_on(host: Host, small_disk: Path) -> None:
    host.stop()
    host.data = small_disk
    host.start()
    client = host.client()
    _wait(client)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="space"), ballast.open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))
    big = [Record(bytes(64), os.urandom(60_000))] * 8
    with pytest.raises(HostFailed, match="disk full"):
        client.records.append(0, big, b"head")
    with pytest.raises(HostFailed, match="disk full"):  # noqa: PT012
        for _ in range(1000):
            client.queue.put(bytes(limits.TICKET_BYTES))
    ballast.unlink()
    assert client.records.head() == (0, b"")
    client.records.append(0, big, b"head")
    client.queue.put(b"ticket")
    assert client.records.head() == (8, b"head")


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"this is no database" * 500, bytes(8192), b"SQLite format 3\x00" + b"\xff" * 8000]
)
def test_a_damaged_database_closes_its_own_door_only(host: Host, content: bytes) -> None:
    with host.client() as client:
        client.records.append(0, [_record(0)], b"head")
        host.stop()
        (host.data / "records.sqlite").write_bytes(content)
        host.start()
        for _ in range(2):
            with pytest.raises(HostFailed, match="damaged"):
                client.records.head()
            with pytest.raises(HostFailed, match="damaged"):
                client.records.append(0, [_record(0)], b"head")
        client.queue.put(b"ticket")
        client.blobs.put(hashlib.sha256(b"x").hexdigest(), [b"x"], 1)
    assert (host.data / "records.sqlite").read_bytes() == content
    assert host.stop() == 0
    assert any(event["event"] == "store_failed" for event in _events(host))


# -- strangers ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_another_user_is_refused_even_if_the_socket_is_open_to_him(host: Host) -> None:
    with host.client() as client:
        _wait(client)
    modes = {path: path.stat().st_mode for path in [host.socket, *host.socket.parents]}
    for path, mode in modes.items():
        if not mode & 0o001:
            path.chmod(mode | 0o011)
    host.socket.chmod(0o666)
    code = (
        "import os, socket, sys; os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.settimeout(10); print(s.recv(1000)); print(s.recv(1))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code, str(host.socket)], capture_output=True, text=True, timeout=30
    )
    for path, mode in modes.items():
        path.chmod(mode)
    assert "serves another user" in result.stdout, result.stderr
    assert result.stdout.endswith("b''\n")


def test_too_many_connections(host: Host) -> None:
    client = host.client()
    _wait(client)
    client.close()
    with contextlib.ExitStack() as stack:
        for _ in range(limits.HOST_CONNECTIONS):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(host.socket))
        time.sleep(0.2)
        with pytest.raises(HostFailed, match="too many connections"):
            host.client().records.head()
    time.sleep(0.2)
    _wait(host.client())
