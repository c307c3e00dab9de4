"""A captured event log, extended event by event into a software TPM, gives the captured machine's PCRs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.support import captured

from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.quoting import EVENT_LOG, TpmCollector
from mesatee.enclave.platform.tpm.transport import connect

CASES = ["google-rhel8-uefi", "google-ubuntu-1804-amd-sev", "google-cos-93-amd-sev"]
_SIZES = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64}
_NO_ACTION = 3


def sha256_events(log: bytes) -> list[tuple[int, bytes]]:
    """PCR and digest of each event (PC Client Platform Firmware Profile, section 10.2)."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(log[at : at + size], "little")

    events: list[tuple[int, bytes]] = []
    at = 32 + number(28, 4)
    while at + 12 <= len(log):
        pcr, kind, count = number(at, 4), number(at + 4, 4), number(at + 8, 4)
        at += 12
        for _ in range(count):
            size = _SIZES[number(at, 2)]
            if number(at, 2) == 0x000B and kind != _NO_ACTION:
                events.append((pcr, log[at + 2 : at + 2 + size]))
            at += 2 + size
        at += 4 + number(at, 4)
    return events


@pytest.mark.parametrize("case", CASES)
def test_replay(swtpm: SwTpm, tmp_path: Path, case: str) -> None:
    captured.need()
    folder = captured.FOLDER / "eventlog" / case
    log = (folder / "eventlog.bin").read_bytes()
    path = tmp_path / EVENT_LOG
    path.parent.mkdir(parents=True)
    path.write_bytes(log)
    with Tpm(connect(swtpm.address)) as tpm:
        for pcr, digest in sha256_events(log):
            tpm.pcr_extend(pcr, digest)
    files = TpmCollector(swtpm.address, root=tmp_path).collect(bytes(64)).files
    assert files["eventlog"] == log
    expected = json.loads((folder / "pcrs.json").read_text())["sha256"]
    ours = json.loads(files["pcrs"])["sha256"]
    extended = {str(pcr) for pcr, _ in sha256_events(log)} & set(expected)
    assert len(extended) >= 8
    assert {pcr: ours[pcr] for pcr in extended} == {pcr: expected[pcr] for pcr in extended}
