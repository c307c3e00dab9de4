from __future__ import annotations

import hashlib

import pytest
from tests.enclave.platform.conftest import SwTpm

from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS, RUNTIME_PCR, record
from mesatee.enclave.platform.tpm.sealing import RESETTABLE
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.errors import Conflict, Malformed


def test_the_software_is_measured_once_for_a_boot(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        before = tpm.pcr_read(PINNED_PCRS)
        record(tpm, "ab" * 32)
        record(tpm, "ab" * 32)
        after = tpm.pcr_read(PINNED_PCRS)
        once = hashlib.sha256(bytes(32) + hashlib.sha256(b"\xab" * 32).digest()).digest()
        assert after == {**before, RUNTIME_PCR: once}
        with pytest.raises(Conflict, match="already holds"):
            record(tpm, "cd" * 32)
        assert tpm.pcr_read(PINNED_PCRS) == after
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        record(tpm, "cd" * 32)
        for wrong in ("", "AB" * 32, "ab" * 31):
            with pytest.raises(Malformed):
                record(tpm, wrong)


def test_nobody_can_reset_a_register_that_counts() -> None:
    assert max(PINNED_PCRS) < RESETTABLE
    assert {*range(8), RUNTIME_PCR} <= set(PINNED_PCRS)
