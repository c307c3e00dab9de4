"""``mesatee log check --stored``: the operator's full check of what a stopped service has stored.

The stores are read through the host process and its doors, as the gateway reads them: no database is parsed where the
service's keys are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..enclave.doors import HostClient
from ..enclave.gateway.audit import Audited, audit
from ..enclave.gateway.identity import SERVICE_FILE, open_service
from ..enclave.gateway.log import Log
from ..errors import Conflict, NotFound
from ..protocol import limits
from ..protocol.jsonstrict import parse_object
from ..protocol.model import validate
from . import attesters
from .up import Founded, Process


def check(home: Path) -> Audited:
    """Derive everything again from what the service in ``home/service`` has stored, and compare.

    Raises `NotFound` if there is none, `Conflict` while it runs, `LogCorrupt` and `HostFailed` for what is wrong, and
    what unsealing its keys raises.
    """
    folder = home / "service"
    path = folder / "founded.json"
    if not path.exists() or not (folder / "enclave" / SERVICE_FILE).exists():
        raise NotFound(
            f"no service was founded in {folder}", hint="name its home: `mesatee --home DIR log check`"
        )
    data = path.read_bytes()[: limits.REQUEST_BYTES]
    founded = validate(Founded, parse_object(data), path.name)
    with _alone(folder), _host(folder) as doors:
        keys = open_service(
            folder / "enclave",
            attesters.sealing(founded.chosen, folder, founded.tpm),
            founded.origin,
            founded.platform_policy,
            founded.worker_trust,
            int(time.time()),
            hand_over=founded.succession.hand_over,
            share_holders=founded.succession.share_holders,
        )
        return audit(Log(founded.origin, doors.records, keys.body, keys.log), doors.blobs, keys)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No service runs there meanwhile."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict(
            f"a service runs in {folder}", hint="stop it first: what is stored changes meanwhile"
        ) from None
    finally:
        os.close(lock)


@contextmanager
def _host(folder: Path) -> Iterator[HostClient]:
    runtime = Path(tempfile.mkdtemp(prefix="mesatee-"))
    path = runtime / "host.sock"
    command = [sys.executable, "-I", "-B", "-m", "mesatee.host.server", "--lifeline"]
    command += ["--socket", str(path), "--data", str(folder / "host")]
    host = Process("host", command, folder / "log" / "host.log")
    try:
        host.start()
        client = HostClient(path)
        try:
            yield client
        finally:
            client.close()
    finally:
        host.stop()
        shutil.rmtree(runtime, ignore_errors=True)


__all__ = ["check"]
