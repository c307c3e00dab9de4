"""The client against hosts that lie, stall, break and restart: our errors only, in bounded time."""

from __future__ import annotations

import contextlib
import doctest
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesatee.enclave import doors
from mesatee.enclave.doors import HostClient
from mesatee.errors import Conflict, DigestMismatch, HostFailed, Malformed, MesateeError, NotFound, TimedOut
from mesatee.host.server import HostServer
from mesatee.protocol import frames, limits
from mesatee.protocol.doors import Record
from mesatee.protocol.frames import Frame, Op

CHUNK = limits.BLOB_CHUNK_BYTES
DIGEST = "0" * 64
RECORD = Record(b"\x07" * 64, b"body")
Answer = Callable[[Frame, socket.socket], None]


class FakeHost:
    """Reads one frame after the other and hands each to `answer`, which does as it likes."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self._answer = answer
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        decoder = frames.Decoder()
        with client, contextlib.suppress(OSError, StopIteration):
            while data := client.recv(decoder.wanted):
                for frame in decoder.feed(data):
                    self._answer(frame, client)

    def close(self) -> None:
        # A shutdown wakes the thread within accept; closing alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[[Answer], HostClient]]:
    hosts: list[FakeHost] = []
    clients: list[HostClient] = []

    def make(answer: Answer, timeout: float = 0.3) -> HostClient:
        hosts.append(FakeHost(tmp_path / f"fake{len(hosts)}.sock", answer))
        clients.append(HostClient(hosts[-1].path, timeout=timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    for host in hosts:
        host.close()


CALLS: list[Callable[[HostClient], object]] = [
    lambda client: client.records.head(),
    lambda client: client.records.read(0, 3),
    lambda client: client.records.append(0, [RECORD], b"head"),
    lambda client: client.queue.put(b"ticket"),
    lambda client: client.queue.lease(1, 0),
    lambda client: client.queue.renew("lease", 1),
    lambda client: client.queue.ack("lease"),
    lambda client: client.blobs.put(DIGEST, [bytes(CHUNK)] * 3, 3 * CHUNK),
    lambda client: list(client.blobs.get(DIGEST, 0, 10)),
    lambda client: client.blobs.size(DIGEST),
]
IDS = ["head", "read", "append", "put", "lease", "renew", "ack", "blob_put", "blob_get", "blob_size"]


def _reply(op: Op, *fields: bytes, request: int | None = None) -> Answer:
    def answer(frame: Frame, sock: socket.socket) -> None:
        sock.sendall(frames.encode(Frame(op, frame.request if request is None else request, fields)))

    return answer


def _raw(data: bytes) -> Answer:
    return lambda _, sock: sock.sendall(data)


def _hang_up(_: Frame, sock: socket.socket) -> None:
    sock.close()
    raise StopIteration


def _crumbs(frame: Frame, sock: socket.socket) -> None:
    """A byte at a time, for ever."""
    for byte in frames.encode(Frame(Op.HEAD_IS, frame.request, (bytes(8), bytes(4000)))):
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


HOSTILE: dict[str, Answer] = {
    "garbage": _raw(b"\xff" * 100),
    "http": _raw(b"HTTP/1.1 200 OK\r\n\r\n"),
    "oversize": _raw(frames.HEADER.pack(b"MTEE", frames.VERSION, Op.DATA, 1, 1, 0xFFFFFFFF)),
    "version": _raw(frames.HEADER.pack(b"MTEE", 9, Op.OK, 0, 1, 0)),
    "opcode": _raw(frames.HEADER.pack(b"MTEE", frames.VERSION, 0x99, 0, 1, 0)),
    "a request": _reply(Op.HEAD),
    "data": _reply(Op.DATA, b"x"),
    "number": _reply(Op.OK, request=77),
    "number zero": _reply(Op.OK, request=0),
    "silence": lambda *_: None,
    "hang up": _hang_up,
    "half": lambda frame, sock: sock.sendall(frames.encode(Frame(Op.OK, frame.request))[:-1]),
    "crumbs": _crumbs,
    "foreign error": _reply(Op.ERROR, b"fork_detected", b"halt at once\x1b[31m"),
    "refusal of the connection": _reply(Op.ERROR, b"conflict", b"go away", request=0),
}


@pytest.mark.parametrize("call", CALLS, ids=IDS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers(
    fake: Callable[[Answer], HostClient], kind: str, call: Callable[[HostClient], object]
) -> None:
    client = fake(HOSTILE[kind])
    start = time.monotonic()
    # `Conflict` is what an append may be told at any time; it then reads the head.
    allowed = (
        (HostFailed, TimedOut, Conflict) if kind == "refusal of the connection" else (HostFailed, TimedOut)
    )
    with pytest.raises(allowed) as caught:
        call(client)
    assert time.monotonic() - start < 3
    assert caught.value.hint
    assert "\x1b" not in caught.value.message


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(Op), st.lists(st.binary(max_size=70), max_size=4), st.sampled_from(CALLS))
def test_any_well_formed_frame_as_answer(
    fake: Callable[[Answer], HostClient], op: Op, fields: list[bytes], call: Callable[[HostClient], object]
) -> None:
    def answer(frame: Frame, sock: socket.socket) -> None:
        payload = b"".join([len(field).to_bytes(4, "big") for field in fields] + fields)
        sock.sendall(
            frames.HEADER.pack(b"MTEE", frames.VERSION, op, len(fields), frame.request, len(payload))
            + payload
        )
        raise StopIteration

    with contextlib.suppress(MesateeError):
        call(fake(answer))


def _integer(value: int) -> bytes:
    return value.to_bytes(8, "big")


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        (_reply(Op.HEAD_IS, _integer(2**63), b""), CALLS[0]),
        (_reply(Op.RECORDS, *(RECORD * 4)), CALLS[1]),
        (_reply(Op.LEASED, b"../../x", b"ticket"), CALLS[4]),
        (_reply(Op.LEASED, b"\xff", b"ticket"), CALLS[4]),
        (_reply(Op.SIZE, _integer(limits.BLOB_BYTES + 1)), CALLS[9]),
        (_reply(Op.SIZE, _integer(11)), CALLS[8]),
        (_reply(Op.SIZE, _integer(2**64 - 1)), CALLS[8]),
        (_reply(Op.ERROR, b"conflict", b"x"), CALLS[0]),
        (_reply(Op.ERROR, b"not_found", b"x"), CALLS[2]),
        (_reply(Op.ERROR, b"digest_mismatch", b"x"), CALLS[9]),
        (_reply(Op.ERROR, b"malformed", b"x"), CALLS[3]),
    ],
)
def test_answers_that_do_not_fit_the_question(
    fake: Callable[[Answer], HostClient], answer: Answer, call: Callable[[HostClient], object]
) -> None:
    with pytest.raises(HostFailed):
        call(fake(answer))


@pytest.mark.parametrize(
    ("code", "call", "error"),
    [
        (b"conflict", CALLS[2], Conflict),
        (b"not_found", CALLS[5], NotFound),
        (b"not_found", CALLS[6], NotFound),
        (b"not_found", CALLS[8], NotFound),
        (b"digest_mismatch", CALLS[7], DigestMismatch),
    ],
)
def test_refusals_that_the_doors_name(
    fake: Callable[[Answer], HostClient],
    code: bytes,
    call: Callable[[HostClient], object],
    error: type[Exception],
) -> None:
    with pytest.raises(error, match="the host says: no"):
        call(fake(_reply(Op.ERROR, code, b"no")))


@pytest.mark.parametrize(
    "sizes", [[1, 2 * CHUNK - 1], [CHUNK, CHUNK - 1, 1], [CHUNK]], ids=["crumb", "short", "cut"]
)
def test_blob_chunks_must_be_full(fake: Callable[[Answer], HostClient], sizes: list[int]) -> None:
    def answer(frame: Frame, sock: socket.socket) -> None:
        sock.sendall(frames.encode(Frame(Op.SIZE, frame.request, (_integer(2 * CHUNK),))))
        for size in sizes:
            with contextlib.suppress(MesateeError):
                sock.sendall(frames.encode(Frame(Op.DATA, frame.request, (bytes(size),))))
        sock.close()
        raise StopIteration

    stream = fake(answer).blobs.get(DIGEST)
    with pytest.raises(HostFailed):
        list(stream)
    assert list(stream) == []


def test_a_host_that_does_not_read(fake: Callable[[Answer], HostClient]) -> None:
    client = fake(lambda *_: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(TimedOut):
        client.blobs.put(DIGEST, [bytes(CHUNK)] * 8, 8 * CHUNK)
    with pytest.raises(TimedOut):
        client.records.append(0, [Record(bytes(64), bytes(60_000))] * 200, b"head")
    assert time.monotonic() - start < 3


def test_no_host(tmp_path: Path) -> None:
    client = HostClient(tmp_path / "none", timeout=0.5)
    with pytest.raises(HostFailed, match="no host process"):
        client.queue.put(b"x")
    (tmp_path / "file").write_text("")
    # On a busy machine the time may be over within a try.
    with pytest.raises((HostFailed, TimedOut)):
        HostClient(tmp_path / "file", timeout=0.1).records.head()
    with pytest.raises((HostFailed, TimedOut)):
        HostClient(tmp_path / ("x" * 200), timeout=0.1).records.head()
    with pytest.raises(Malformed):
        HostClient(tmp_path / "none", timeout=0)
    client.close()
    with pytest.raises(HostFailed, match="closed"):
        client.records.head()


# -- lost answers, with a real host behind ------------------------------------------------------------------


class Lossy:
    """Between client and host: passes requests on, and loses the answers whose numbers are in `lose`."""

    def __init__(self, path: Path, target: Path, lose: set[int], *, hang: bool = False) -> None:
        self._target = target
        self._lose = lose
        self._hang = hang
        self.asked: list[Op] = []
        self._fake = FakeHost(path, self._pass_on)
        self._request: list[Frame] = []
        self.close = self._fake.close

    def _pass_on(self, frame: Frame, client: socket.socket) -> None:
        self._request.append(frame)
        first = self._request[0]
        if first.op is Op.APPEND and len(self._request) == 1 and frames.unpack_int(first.fields[1]):
            return
        self.asked.append(first.op)
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(str(self._target))
            host.sendall(b"".join(map(frames.encode, self._request)))
            self._request = []
            decoder = frames.Decoder()
            complete: list[Frame] = []
            while not complete:
                complete = decoder.feed(host.recv(decoder.wanted))
        if len(self.asked) in self._lose:
            if self._hang:
                return
            client.close()
            raise StopIteration
        client.sendall(frames.encode(complete[0]))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Path]:
    server = HostServer(tmp_path / "run" / "s", tmp_path / "data")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path / "run" / "s"
    server.stop()
    thread.join()


def _records(count: int) -> list[Record]:
    return [Record(os.urandom(64), os.urandom(50)) for _ in range(count)]


def _lossy(tmp_path: Path, real: Path, *lose: int) -> tuple[Lossy, HostClient]:
    path = tmp_path / "lossy.sock"
    return Lossy(path, real, set(lose)), HostClient(path, timeout=1)


@pytest.mark.parametrize("records", [[RECORD], _records(5), []], ids=["one", "five", "head only"])
def test_an_append_whose_answer_is_lost_happened_once(
    tmp_path: Path, real: Path, records: list[Record]
) -> None:
    lossy, client = _lossy(tmp_path, real, 1)
    client.records.append(0, records, b"head")
    assert client.records.head() == (len(records), b"head")
    assert client.records.read(0, 10) == records
    assert lossy.asked.count(Op.APPEND) == 1


def test_an_append_whose_answer_does_not_come_in_time_happened_once(tmp_path: Path, real: Path) -> None:
    path = tmp_path / "lossy.sock"
    lossy = Lossy(path, real, {1}, hang=True)
    client = HostClient(path, timeout=0.3)
    records = _records(3)
    client.records.append(0, records, b"head")
    assert client.records.read(0, 10) == records
    assert lossy.asked == [Op.APPEND, Op.HEAD, Op.READ, Op.READ]
    lossy.close()


def test_an_append_whose_answer_is_lost_while_another_one_took_the_place(tmp_path: Path, real: Path) -> None:
    other = HostClient(real)
    other.records.append(0, _records(2), b"other")
    _, client = _lossy(tmp_path, real, 1)
    for records in (_records(1), _records(2), _records(3), []):
        with pytest.raises(Conflict):
            client.records.append(0, records, b"mine")
    assert other.records.head() == (2, b"other")


def test_an_append_whose_answer_is_lost_and_that_others_have_extended(tmp_path: Path, real: Path) -> None:
    lossy, client = _lossy(tmp_path, real, 1)
    other = HostClient(real)
    mine, theirs = _records(2), _records(2)
    original = client.records.head

    def head_after_others() -> tuple[int, bytes]:
        if other.records.head()[0] == 2:
            other.records.append(2, theirs, b"theirs")
        return original()

    client.records.head = head_after_others  # type: ignore[method-assign]
    client.records.append(0, mine, b"mine")
    assert other.records.read(0, 10) == mine + theirs
    assert lossy.asked.count(Op.APPEND) == 1


def test_an_append_that_got_lost_on_the_way_is_sent_again(fake: Callable[[Answer], HostClient]) -> None:
    appended: list[Frame] = []

    def answer(frame: Frame, sock: socket.socket) -> None:
        if frame.op is Op.HEAD:
            _reply(Op.HEAD_IS, _integer(0), b"")(frame, sock)
        elif frame.op is Op.RECORDS:
            appended.append(frame)
            if len(appended) == 1:
                _hang_up(frame, sock)
            _reply(Op.OK)(frame, sock)

    fake(answer).records.append(0, [RECORD], b"head")
    assert len(appended) == 2


def test_reads_and_renew_and_ack_are_repeated(tmp_path: Path, real: Path) -> None:
    lossy, client = _lossy(tmp_path, real, 1, 2, 4, 6, 9)
    assert client.records.head() == (0, b"")
    assert lossy.asked == [Op.HEAD] * 3
    HostClient(real).queue.put(b"ticket")
    with pytest.raises(HostFailed):
        client.queue.lease(1, 0)
    assert lossy.asked == [Op.HEAD] * 3 + [Op.QUEUE_LEASE]
    lease = client.queue.lease(60, 5)
    assert lease is not None
    client.queue.renew(lease.id, 60)
    client.records.head()
    client.queue.ack(lease.id)
    with pytest.raises(NotFound):
        client.queue.ack(lease.id)


def test_put_of_a_ticket_is_not_repeated(tmp_path: Path, real: Path) -> None:
    lossy, client = _lossy(tmp_path, real, 1)
    with pytest.raises(HostFailed):
        client.queue.put(b"ticket")
    assert lossy.asked == [Op.QUEUE_PUT]


def test_idle_connections_are_few_and_used_again(
    fake: Callable[[Answer], HostClient], tmp_path: Path
) -> None:
    host = FakeHost(tmp_path / "count.sock", _reply(Op.HEAD_IS, _integer(0), b""))
    client = HostClient(host.path)
    for _ in range(20):
        client.records.head()
    assert host.connections == 1
    client.close()
    host.close()


def test_the_client_loads_no_parser_of_databases() -> None:
    code = (
        "import sys; before = set(sys.modules); import mesatee.enclave.doors\n"
        "ours = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(ours - set(sys.stdlib_module_names)))\n"
        "print('sqlite3' in sys.modules or '_sqlite3' in sys.modules, 'mesatee.host' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "mesatee\nFalse False\n"


def test_doctest() -> None:
    assert doctest.testmod(doors).failed == 0
