"""Entry points of the service's processes: ``python -I -X pycache_prefix=FOLDER -m mesatee.cli.processes ROLE CONFIG``,
ROLE gateway or worker, and FOLDER one for the byte code of what was measured.

This is where an untrusted host's doors are put into the hands of gateway and worker. Nothing that is not memory-safe is
imported here: no command line library, no numpy, no database. A process stops cleanly on SIGTERM and when its standard
input ends, and leaves when that takes too long, so that nothing outlives its launcher. The kernel's signal at a
parent's death is of no use here: it comes when the *thread* that started a process ends, and leaves no time for a
commit. A process says one JSON line on standard output when it is ready; its log goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from .._core import protect_process
from ..attestation.trust import TrustPolicy
from ..enclave.doors import HostClient
from ..enclave.gateway.forks import ForkProofs
from ..enclave.gateway.gateway import TICKET_AGAIN, Gateway, GatewayConfig
from ..enclave.gateway.identity import open_service, write_recovery
from ..enclave.gateway.monitor import LEASE_SECONDS
from ..enclave.platform import bytecode
from ..enclave.platform.environments import Environments
from ..enclave.sandbox.supervisor import Supervisor
from ..enclave.worker.client import GatewayClient
from ..enclave.worker.worker import Worker
from ..endorse.store import Current, Store
from ..errors import Malformed, MesateeError
from ..protocol import limits
from ..protocol.environments import BASE, FOLDER
from ..protocol.jsonstrict import parse_object
from ..protocol.model import Model, validate
from ..protocol.service import SuccessionRules
from . import attesters

ENVIRONMENT = BASE
"""The function environment that every worker offers, and that is part of its measurement."""
WORKER_END_SECONDS = 1.0
"""How long a stopping worker gets to end its child. Nothing that it has must be saved: an attempt that is not handed in
is made again. Without a bound it would wait for the answer of a queue or a gateway, which may be gone."""
GATEWAY_END_SECONDS = 8.0
"""How long a stopping gateway gets for its last commit and snapshot, if the host answers at all; below the time after
which its launcher kills it. What was acknowledged is durable already."""


class ProcessConfig(Model):
    """What the launcher tells a process. No secret among it."""

    folder: str
    host_socket: str
    origin: str
    listen_host: str
    listen_port: int
    attester: str
    """``none``, ``software``, or the class of TEE of this machine; see `attesters`."""
    tpm: str = ""
    """Where the TPM is; empty for the machine's own."""
    home: str
    """Folder that keeps the endorsements of others."""
    platform_policy: str
    worker_trust: str
    gateway_trust: str
    lease_seconds: Annotated[int, Field(ge=1, le=limits.LEASE_SECONDS)] = LEASE_SECONDS
    """How long a worker holds a run without renewing."""
    succession: SuccessionRules = SuccessionRules()
    """Who may receive the service's keys."""


GARBAGE: Final = 20_000
"""So many objects more than were before, and the gateway looks for garbage that reference counts do not find."""


def _ready(**facts: Any) -> None:
    print(json.dumps({"event": "ready", **facts}), flush=True)


class Lifeline:
    """Ends this process on SIGTERM and when its launcher is gone, in any state that it is in.

    Before `serve` there is nothing to save, and it leaves at once. Ctrl-C is the launcher's to handle.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._seconds = 0.0
        self._stop: Callable[[], None] = lambda: None
        for target in (self._read, self._watch):
            threading.Thread(target=target, name="lifeline", daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())

    def serve(self, stop: Callable[[], None], seconds: float) -> None:
        """From now on ask by `stop` first, and leave after `seconds` whatever still waits for whom."""
        self._seconds, self._stop = seconds, stop

    def _read(self) -> None:
        while os.read(0, 1):
            pass
        self._over.set()

    def _watch(self) -> None:
        self._over.wait()
        self._stop()
        time.sleep(self._seconds)
        # A process that has ended by itself meanwhile has taken this thread with it.
        os._exit(0)


def gateway(config: ProcessConfig, lifeline: Lifeline) -> None:
    """Run a gateway."""
    doors = HostClient(config.host_socket)
    folder = Path(config.folder)
    mine = attesters.attester(config.attester, folder, (), config.tpm)
    sealing = attesters.sealing(config.attester, folder, config.tpm)
    keys = open_service(
        folder / "enclave",
        sealing,
        config.origin,
        config.platform_policy,
        config.worker_trust,
        int(time.time()),
        hand_over=config.succession.hand_over,
        share_holders=config.succession.share_holders,
    )
    where = GatewayConfig(config.listen_host, config.listen_port, config.lease_seconds)
    forks = ForkProofs(folder / "enclave")
    service = Gateway(
        where, keys, mine, *_three(doors), forks, endorsements=Current(Store(Path(config.home)))
    )
    asyncio.run(_serve(service, folder / "enclave", lifeline))


def _three(doors: HostClient) -> tuple[Any, Any, Any]:
    return doors.records, doors.queue, doors.blobs


async def _serve(service: Gateway, folder: Path, lifeline: Lifeline) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # A loop that is closed has served to its end.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(service.stop)

    def ready(port: int) -> None:
        # What the state holds by now stays. Requests make few cycles, and each look for some passes all that is young.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE)
        if service.shares is not None:
            write_recovery(folder, service.shares)
        _ready(
            port=port,
            service=service.service_digest,
            log_key=service.log.public.hex(),
            halted=service.monitor.ended,
        )

    lifeline.serve(stop, GATEWAY_END_SECONDS)
    await service.run(ready)


def worker(config: ProcessConfig, lifeline: Lifeline) -> None:
    """Run a worker."""
    doors = HostClient(config.host_socket)
    mine = attesters.attester(config.attester, Path(config.folder), (ENVIRONMENT,), config.tpm)
    # Those that the operator built are found without a new start, and measured before each use.
    built = Environments(Path(config.home) / FOLDER, mine.environments[ENVIRONMENT])

    def environments() -> dict[str, str]:
        return {**mine.environments, **built.current()}

    trust = TrustPolicy.from_toml(config.gateway_trust)
    kept = Current(Store(Path(config.home)))
    client = GatewayClient(config.listen_host, config.listen_port, mine, trust, environments, kept)
    # A ticket comes back to the queue before the run's lease ends, so that the next worker finds it at once.
    patience = config.lease_seconds * TICKET_AGAIN
    service = Worker(client, doors.queue, doors.blobs, Supervisor(environments=built.folder), built, patience)
    lifeline.serve(service.stop, WORKER_END_SECONDS)
    service.run(lambda: _ready(measurement=mine.measurement, environments=environments()))


def main() -> int:
    """Run the process that the arguments name."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    for noisy in ("httpx", "httpcore", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        lifeline = Lifeline()
        bytecode.check()
        role, path = sys.argv[1:]
        data = Path(path).read_bytes()[: limits.REQUEST_BYTES]
        config = validate(ProcessConfig, parse_object(data), "configuration")
        protect_process()
        run = {"gateway": gateway, "worker": worker}.get(role)
        if run is None:
            raise Malformed(f"unknown process {role!r}")
        run(config, lifeline)
    except MesateeError as error:
        print(json.dumps({"event": "stopped", **error.as_dict()}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
