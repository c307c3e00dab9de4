"""Quotes of a real TPM 2.0 implementation, swtpm, made by tpm2-tools: skipped where these are not installed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support import captured

from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import CorpusPolicy, plain_verdict
from mesatee.attestation.tee import tpm
from mesatee.attestation.verdict import Verdict
from mesatee.errors import MesateeError

TOOLS = ("swtpm", "tpm2_createek", "tpm2_createak", "tpm2_quote", "tpm2_pcrread", "tpm2_pcrextend")
MEASURED = ((0, b"firmware"), (4, b"kernel"), (7, bytes(4)))
WAIT_SECONDS = 10


@dataclass
class Machine:
    """A running swtpm with an attestation key under its endorsement key."""

    folder: Path

    def run(self, *command: str) -> bytes:
        """One of tpm2-tools. There is no resource manager, so what it left in the TPM is flushed by hand."""
        try:
            return self._run(*command)
        finally:
            self._run("tpm2_flushcontext", "--transient-object")
            self._run("tpm2_flushcontext", "--loaded-session")

    def _run(self, *command: str) -> bytes:
        environment = os.environ | {"TPM2TOOLS_TCTI": f"swtpm:path={self.folder / 'tpm.sock'}"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stderr.decode("utf-8", "replace"))
        return done.stdout

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def make_key(self, algorithm: str, scheme: str) -> None:
        self.run("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
        self.run(
            *("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", algorithm, "-g", "sha256"),
            *("-s", scheme, "-u", "ak.pub", "-n", "ak.name"),
        )

    def quote(self, nonce: bytes, selection: str = "sha256:all") -> dict[str, bytes]:
        self.run(
            *("tpm2_quote", "-c", "ak.ctx", "-l", selection, "-q", nonce.hex()),
            *("-m", "quote.msg", "-s", "quote.sig", "-g", "sha256", "-o", "quote.pcrs"),
        )
        return {
            "quote": self.read("quote.msg"),
            "signature": self.read("quote.sig"),
            "ak_public_tpmt": self.read("ak.pub"),
            "pcrs": self.run("tpm2_pcrread", "sha256"),
            "nonce": nonce,
        }

    def boot(self) -> bytes:
        """Extend what a firmware would, and keep its log."""
        spec = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + struct.pack("<IHHB", 1, 11, 32, 0)
        log = struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(spec)) + spec
        for register, data in MEASURED:
            digest = hashlib.sha256(data).digest()
            self.run("tpm2_pcrextend", f"{register}:sha256={digest.hex()}")
            log += struct.pack("<IIIH", register, 1, 1, 11) + digest + struct.pack("<I", len(data)) + data
        return log


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Machine]:
    folder.mkdir()
    socket = folder / "tpm.sock"
    process = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}"),
            *("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"),
            *("--flags", "not-need-init,startup-clear"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not socket.exists() and time.monotonic() < deadline:
            assert process.poll() is None, "swtpm ended at once"
            time.sleep(0.02)
        yield Machine(folder)
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """One with an RSA key, one with a key on P-256."""
    captured.programs(*TOOLS)
    folder = tmp_path_factory.mktemp("swtpm")
    with running(folder / "1") as first, running(folder / "2") as second:
        first.make_key("rsa", "rsassa")
        second.make_key("ecc", "ecdsa")
        yield first, second


def judge(files: Mapping[str, bytes]) -> Verdict:
    try:
        return tpm.check(files, None, CorpusPolicy())
    except MesateeError as error:
        return plain_verdict(Status.CONTRAINDICATED, error.message)


def test_real_quotes(machines: tuple[Machine, Machine]):
    for machine in machines:
        log = machine.boot()
        files = machine.quote(secrets.token_bytes(32)) | {"eventlog": log}
        verdict = judge(files)
        assert verdict.tier is Status.AFFIRMING, verdict.reasons
        assert verdict.level == 3
        assert {verdict.signature, verdict.chain, verdict.replay, verdict.binding} == {Answer.AFFIRMED}
        assert judge(files | {"nonce": secrets.token_bytes(32)}).binding is Answer.REFUSED
        # An extension that the log does not have: the log no longer leads to the quoted value.
        machine.run("tpm2_pcrextend", f"4:sha256={'11' * 32}")
        later = machine.quote(secrets.token_bytes(32)) | {"eventlog": log}
        assert judge(later).replay is Answer.REFUSED
        assert judge(later | {"pcrs": files["pcrs"]}).tier is Status.CONTRAINDICATED


def test_quote_of_one_real_tpm_with_the_key_of_another(machines: tuple[Machine, Machine]):
    first, second = (machine.quote(b"nonce") for machine in machines)
    assert judge(first).tier is judge(second).tier is Status.AFFIRMING
    verdict = judge(first | {"ak_public_tpmt": second["ak_public_tpmt"]})
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_a_real_key_signs_what_is_not_the_tpms(machines: tuple[Machine, Machine]):
    """TPM2_Sign by the restricted key itself: the TPM does it only for data without its magic number."""
    machine = machines[0]
    files = machine.quote(b"nonce")
    forged = b"\0TCG" + files["quote"][4:]
    (machine.folder / "forged").write_bytes(forged)
    machine.run("tpm2_hash", "-C", "o", "-g", "sha256", "-o", "hash", "-t", "ticket", "forged")
    sign = (
        "tpm2_sign",
        "-c",
        "ak.ctx",
        "-g",
        "sha256",
        "-s",
        "rsassa",
        "-d",
        "-t",
        "ticket",
        "-o",
        "sig",
        "hash",
    )
    machine.run(*sign)
    verdict = judge(files | {"quote": forged, "signature": machine.read("sig")})
    assert verdict.tier is Status.CONTRAINDICATED
    assert any("not made by a TPM" in line for line in verdict.reasons)
    # With the magic number in front, it gives no ticket, and the key refuses.
    (machine.folder / "forged").write_bytes(files["quote"])
    machine.run("tpm2_hash", "-C", "o", "-g", "sha256", "-o", "hash", "-t", "ticket", "forged")
    with pytest.raises(AssertionError):
        machine.run(*sign)


def test_a_real_key_that_is_not_restricted(machines: tuple[Machine, Machine]):
    machine = machines[0]
    machine.run("tpm2_createprimary", "-C", "o", "-c", "primary.ctx")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    machine.run(
        *("tpm2_create", "-C", "primary.ctx", "-G", "rsa:rsassa-sha256", "-a", attributes),
        *("-u", "free.pub", "-r", "free.priv"),
    )
    machine.run("tpm2_load", "-C", "primary.ctx", "-u", "free.pub", "-r", "free.priv", "-c", "free.ctx")
    files = machine.quote(b"nonce")
    (machine.folder / "forged").write_bytes(files["quote"])
    machine.run("tpm2_sign", "-c", "free.ctx", "-g", "sha256", "-s", "rsassa", "-o", "free.sig", "forged")
    verdict = judge(
        files | {"signature": machine.read("free.sig"), "ak_public_tpmt": machine.read("free.pub")}
    )
    assert verdict.tier is Status.CONTRAINDICATED
    assert "the attestation key is not restricted" in verdict.reasons


def test_single_registers(machines: tuple[Machine, Machine]):
    files = machines[0].quote(b"nonce", "sha256:0,7")
    verdict = judge(files)
    assert (verdict.tier, verdict.level) == (Status.AFFIRMING, 1)
    dumped = judge(files | {"pcrs": machines[0].read("quote.pcrs")})
    assert (dumped.tier, dumped.claims) == (Status.AFFIRMING, verdict.claims)
    names = ("quote.msg", "quote.sig", "quote.pcrs")
    triple = b"r" + b":".join(base64.b64encode(machines[0].read(name)) for name in names)
    envelope = json.dumps({"results": {"quote": triple.decode()}}).encode()
    for form in (triple, envelope):
        keylime = judge({"quote": form, "aik_tpm": base64.b64encode(files["ak_public_tpmt"])})
        assert (keylime.tier, keylime.claims) == (Status.AFFIRMING, verdict.claims), keylime.reasons
    assert {name for name in verdict.claims if ".pcr." in name} == {"tpm.pcr.sha256.0", "tpm.pcr.sha256.7"}
