"""The host process: three stores behind one Unix socket (design, section 2 and "Embedded and at scale").

    python -I -m mesatee.host.server --socket PATH --data DIR

It is untrusted: it sees ciphertext and signed statements only. What it guards is its own good order: one
instance per data folder (a lock that the kernel drops with the process), a socket that only its own user
reaches (folder 0700, socket 0600, and SO_PEERCRED for each connection), and a clean end on SIGTERM and
SIGINT. Its log is one JSON object a line on stderr, without contents.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from mesatee.errors import Conflict, HostFailed, MesateeError, TooLarge
from mesatee.host.blobs.local import LocalBlobs
from mesatee.host.connection import Connection, Doors
from mesatee.host.queue.sqlite import SqliteQueue
from mesatee.host.records.sqlite import SqliteRecords
from mesatee.host.storage import disk_failed
from mesatee.protocol import limits

SOCKET_PATH_BYTES: Final = 107
"""Longest path of a Unix socket, in bytes: `sun_path` of unix(7) without its final zero."""
STOP_SECONDS: Final = 3.0
"""How long a stopping host lets running requests end."""
_UCRED: Final = struct.Struct("3i")

EXIT_REFUSED: Final = 2
"""Exit status when the host cannot start: the last line of the log says why."""


def log(event: str, **fields: str | int | float) -> None:
    """One line of JSON on stderr, in one write so that lines of several threads do not mix."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"at": at, "event": event, "pid": os.getpid(), **fields})
    try:
        os.write(2, line.encode() + b"\n")
    except OSError:
        # A closed or full stderr must not end the service, and there is nowhere else to say it.
        return


class HostServer:
    """The three stores of a data folder, served on a Unix socket."""

    def __init__(self, socket_path: str | os.PathLike[str], data_dir: str | os.PathLike[str]) -> None:
        """Take the folder and the socket, open the stores.

        Raises `Conflict` if another instance is alive, `HostFailed` if the folder cannot be used or others
        can reach it, `TooLarge` if the socket's path is too long. A store that is damaged closes only its
        own door.
        """
        self._path = Path(socket_path)
        self._data = Path(data_dir)
        self._threads: dict[threading.Thread, socket.socket] = {}
        self._guard = threading.Lock()
        try:
            self._lock = _take_lock(self._data)
            try:
                self._listener = _listen(self._path)
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise disk_failed(error, "opening the host's folder") from None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._doors = Doors(
            _open("records", lambda: SqliteRecords(self._data / "records.sqlite")),
            _open("queue", lambda: SqliteQueue(self._data / "queue.sqlite")),
            _open("blobs", lambda: LocalBlobs(self._data / "blobs")),
        )

    def serve_forever(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until `stop`; then end running requests, close the stores and give back lock and socket."""
        log("ready", socket=str(self._path))
        if ready is not None:
            ready()
        try:
            while True:
                readable, _, _ = select.select([self._listener.fileno(), self._wake_read], [], [])
                if self._wake_read in readable:
                    break
                self._accept()
        finally:
            self._close()

    def stop(self) -> None:
        """Make `serve_forever` return.

        May be called from a signal handler and from any thread, more than once.
        """
        try:
            os.write(self._wake_write, b"x")
        except OSError:
            # The pipe is full (a stop is on its way) or closed (it has happened).
            return

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            # Out of descriptors, or the client is gone already; do not spin on what does not pass by itself.
            log("accept_failed", reason=error.strerror or type(error).__name__)
            time.sleep(0.05)
            return
        thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
        with self._guard:
            busy = len(self._threads) >= limits.HOST_CONNECTIONS
            if not busy:
                self._threads[thread] = client
        if busy:
            Connection(client, self._doors, log).refuse(HostFailed("too many connections"))
            client.close()
            return
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            connection = Connection(client, self._doors, log)
            if _peer_uid(client) != os.geteuid():
                connection.refuse(HostFailed("this host serves another user"))
            else:
                connection.run()
        except Exception as error:  # noqa: BLE001  A fault of this program in one request must not end the others' service.
            log("internal_error", kind=type(error).__name__)
        finally:
            with self._guard:
                del self._threads[threading.current_thread()]
            client.close()

    def _close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._end_connections()
        for door in (self._doors.records_or_error, self._doors.queue_or_error):
            if isinstance(door, SqliteRecords | SqliteQueue):
                door.close()
        os.close(self._lock)
        # A late `stop` must not write into whatever gets these numbers next.
        wake_write, self._wake_write = self._wake_write, -1
        os.close(self._wake_read)
        os.close(wake_write)
        log("stopped")

    def _end_connections(self) -> None:
        # Reading ends at once, so that idle threads go; answers may still be sent, until the time is over.
        self._shut_down(socket.SHUT_RD)
        deadline = time.monotonic() + STOP_SECONDS
        while self._threads and time.monotonic() < deadline:
            time.sleep(0.01)
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        with self._guard:
            for client in self._threads.values():
                try:
                    client.shutdown(how)
                except OSError:
                    # The client was first.
                    continue


def serve(
    socket_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    ready: Callable[[HostServer], None] | None = None,
) -> None:
    """Serve until somebody calls `stop` on the server that `ready` is given once it listens.

    Raises as `HostServer`.
    """
    server = HostServer(socket_path, data_dir)
    server.serve_forever(None if ready is None else lambda: ready(server))


def _take_lock(data: Path) -> int:
    """The lock on the data folder; the kernel releases it with the process, however that ends."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(data)
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"another host process uses {data}", hint="stop that one, or give this one a folder of its own"
        ) from None
    return descriptor


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise TooLarge(f"the socket's path is over {SOCKET_PATH_BYTES} bytes", hint="choose a shorter folder")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path.parent)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        # Between bind and chmod nobody else gets here: the folder is 0700.
        path.chmod(0o600)
        listener.listen(limits.HOST_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise HostFailed(f"others can reach {folder}", hint=f"make it your own and `chmod 700 {folder}`")


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed host left.

    Raises `Conflict` if somebody answers there, or if it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Conflict(f"{path} is not a socket", hint="choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            # A full backlog or no answer in time: somebody listens.
            pass
    raise Conflict(f"another process listens on {path}", hint="stop that one, or choose another path")


def _peer_uid(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


_Store = TypeVar("_Store")


def _open(name: str, make: Callable[[], _Store]) -> _Store | HostFailed:
    try:
        return make()
    except HostFailed as error:
        log("store_failed", store=name, reason=error.message, hint=error.hint)
        return error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mesatee.host.server", description="The untrusted store of MesaTEE."
    )
    parser.add_argument(
        "--socket", required=True, metavar="PATH", help="Unix socket to serve, in a folder of its own"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the databases and blobs")
    parser.add_argument("--lifeline", action="store_true", help="stop when standard input ends")
    options = parser.parse_args(arguments)
    try:
        server = HostServer(options.socket, options.data)
    except MesateeError as error:
        log("refused", code=error.code, reason=error.message, hint=error.hint)
        return EXIT_REFUSED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if options.lifeline:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_await_end, args=(server,), name="lifeline", daemon=True).start()
    server.serve_forever(_say_ready)
    return 0


def _await_end(server: HostServer) -> None:
    while os.read(0, 1):
        pass
    server.stop()


def _say_ready() -> None:
    print(json.dumps({"event": "ready"}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
