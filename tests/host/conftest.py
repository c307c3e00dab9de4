"""A real host process for the tests."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesatee.enclave.doors import HostClient


class RealHost:
    """Starts, kills and restarts `mesatee.host.server` on one data folder."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "run" / "host.sock"
        self.data = folder / "data"
        self.log = folder / "host.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        arguments = ["--socket", str(self.socket), "--data", str(self.data)]
        return [sys.executable, "-I", "-m", "mesatee.host.server", *arguments]

    def start(self, file_bytes: int | None = None) -> RealHost:
        def limit() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, preexec_fn=limit)
        return self

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=10)

    def client(self, timeout: float = 10.0) -> HostClient:
        return HostClient(self.socket, timeout=timeout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # A Unix socket's path has at most 107 bytes; the name of a test must not count.
    assert len(os.fsencode(tmp_path)) < 90
    return tmp_path


@pytest.fixture
def host(folder: Path) -> Iterator[RealHost]:
    host = RealHost(folder).start()
    yield host
    if host.process is not None and host.process.poll() is None:
        host.kill()
