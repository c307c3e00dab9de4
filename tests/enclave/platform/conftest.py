"""A real software TPM, as a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import captured

from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.transport import connect


class SwTpm:
    """swtpm with its state in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/socket"

    def start(self) -> None:
        """PCRs begin at zero, as after a reset of the machine."""
        (self.folder / "socket").unlink(missing_ok=True)
        server = f"type=unixio,path={self.folder}/socket"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}", "--server", server]
        self.process = subprocess.Popen(
            [*command, "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(1000):
            # Its name is there before anybody listens.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"{self.folder}/socket")
                return
            time.sleep(0.01)
        pytest.fail("swtpm does not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def extend(self, pcr: int, measured: bytes) -> None:
        """By SHA-256 of `measured`, as firmware, boot loader or kernel would."""
        with Tpm(connect(self.address)) as tpm:
            tpm.pcr_extend(pcr, hashlib.sha256(measured).digest())

    def wipe(self) -> None:
        """Another TPM in its place."""
        self.stop()
        for path in self.folder.glob("tpm2-*"):
            path.unlink()
        self.start()


@contextlib.contextmanager
def swtpm_running() -> Iterator[SwTpm]:
    """A fresh TPM. Its folder has a short name: a socket's path has at most 107 bytes."""
    captured.programs("swtpm")
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        tpm = SwTpm(Path(folder))
        tpm.start()
        try:
            yield tpm
        finally:
            tpm.stop()


@pytest.fixture
def swtpm() -> Iterator[SwTpm]:
    with swtpm_running() as tpm:
        yield tpm


@pytest.fixture(scope="module")
def certified() -> Iterator[SwTpm]:
    """A TPM whose endorsement keys a local authority has certified, as a manufacturer does."""
    captured.programs("swtpm", "swtpm_setup", "swtpm_localca")
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        ca = folder / "ca"
        ca.mkdir()
        (folder / "localca.conf").write_text(
            f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\n"
            f"issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
        )
        (folder / "localca.options").write_text("")
        (folder / "setup.conf").write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config = {folder}/localca.conf\n"
            f"create_certs_tool_options = {folder}/localca.options\n"
        )
        command = ["swtpm_setup", "--tpm2", "--tpmstate", name, "--create-ek-cert", "--lock-nvram"]
        subprocess.run(
            [*command, "--config", f"{folder}/setup.conf"], check=True, capture_output=True, timeout=60
        )
        tpm = SwTpm(folder)
        tpm.start()
        try:
            yield tpm
        finally:
            tpm.stop()
