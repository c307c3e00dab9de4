"""Server processes of the benches: ``python -I -m mesatee.cli.bench.servers KIND FOLDER``.

``tcp``, ``tls`` and ``attested`` answer small requests, one connection at a time, in the same loop, so that
only the channel differs. ``app`` is the bare peer of the gateway bench. Each says its port in one JSON line
and stops when its standard input ends.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ... import _core
from ...attestation.evidence import Claims, Role
from ...attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from ...attestation.verify import AppraisalCache
from ...enclave.platform.measure import measure
from ...enclave.platform.software import SoftwareAttester, installation_key
from ...errors import Unavailable

MESSAGE_BYTES: Final = 64
"""A small request, and its answer, in bytes."""
SERVICE: Final = "5e" * 32
"""Stands for a service statement's digest: the channel servers serve no log."""
INSTALLATION_KEY: Final = "installation.key"
CERTIFICATE_SECONDS: Final = 3_600


class Attested:
    """One end of an attested channel: a fresh channel key, software evidence for `role`, and a policy for
    the other end.

    Both ends pin this installation, as an embedded service does.
    """

    def __init__(self, folder: Path, role: Role) -> None:
        attester = SoftwareAttester(installation_key(folder / INSTALLATION_KEY), measure(()))
        pins: dict[str, Any] = {
            "tees": ("software",),
            "minimum_level": 2,
            "measurements": (attester.measurement,),
            "installation_keys": (attester.fingerprint,),
        }
        self.key = _core.SigningKey.generate()
        service = SERVICE if role == "gateway" else None
        evidence = attester.evidence(Claims.of_key(_core.spki(self.key.public), role, service=service))
        now = int(time.time())
        self.certificate = _core.make_certificate(
            self.key, "bench", now - 60, now + CERTIFICATE_SECONDS, evidence
        )
        self._trust = TrustPolicy(gateway=GatewayTrust(**pins, service=(SERVICE,)), worker=RoleTrust(**pins))
        self._other: Role = "worker" if role == "gateway" else "gateway"
        self._cache = AppraisalCache()

    def appraise(self, peer: _core.PeerCertificate) -> object:
        """Appraise the other end, as gateway and party do."""
        return self._cache.appraise(peer.evidence, peer.spki, self._trust, int(time.time()), self._other)


def echo(end: socket.socket) -> None:
    """Answer every request on one connection until the other end closes it."""
    with end:
        try:
            while (data := end.recv(MESSAGE_BYTES)) and len(data) == MESSAGE_BYTES:
                end.sendall(data)
        except OSError:
            # A client that leaves without a goodbye is no concern of the measurement.
            return


def _bound() -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, each answer waits 40
    # ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    _ready(listener.getsockname()[1])
    return listener


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        end, _ = listener.accept()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield end


def _ready(port: int) -> None:
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)


def tcp(_folder: Path) -> None:
    """Plain TCP."""
    for end in _accepted(_bound()):
        echo(end)


def tls(folder: Path) -> None:
    """Mutual TLS 1.3 as Python's ssl does it, without resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    for end in _accepted(_bound()):
        try:
            echo(context.wrap_socket(end, server_side=True))
        except OSError:
            end.close()


def attested(folder: Path) -> None:
    """The attested channel."""
    mine = Attested(folder, "gateway")
    listener = _core.Listener("127.0.0.1", 0, mine.certificate, mine.key, mine.appraise)
    _ready(listener.port)
    try:
        while True:
            connection = listener.accept(None)
            if connection is not None:
                echo(socket.socket(fileno=connection.detach()))
    except Unavailable:
        return


def app(folder: Path) -> None:
    """A Starlette app behind uvicorn, h11 and Python's ssl, which takes a body and answers as the gateway
    would.

    It checks, decides and stores nothing: what the gateway adds is what the bench wants to see.
    """
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    answer = (folder / "answer.json").read_bytes()

    async def post(request: Request) -> Response:
        parts = [part async for part in request.stream()]
        return Response(answer if parts else b"{}", 200, media_type="application/json")

    listener = _bound()
    config = uvicorn.Config(
        Starlette(routes=[Route("/v1/statements", post, methods=["POST"])]),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ssl_certfile=folder / "server.pem",
        ssl_keyfile=str(folder / "server.key"),
    )
    uvicorn.Server(config).run([listener])


KINDS: Final[dict[str, Callable[[Path], None]]] = {"app": app, "attested": attested, "tcp": tcp, "tls": tls}


def main() -> int:
    """Serve until standard input ends."""
    kind, folder = sys.argv[1:]

    def watch() -> None:
        while os.read(0, 1):
            pass
        # There is nothing to finish or to save.
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    KINDS[kind](Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
