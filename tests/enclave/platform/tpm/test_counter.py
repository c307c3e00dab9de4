from __future__ import annotations

import pytest
from tests.enclave.platform.conftest import SwTpm

from mesatee.enclave.platform.tpm.commands import NV_AUTH_READ, NV_AUTH_WRITE, Tpm
from mesatee.enclave.platform.tpm.counter import INDEX, NvCounter
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.errors import Conflict, Malformed, NotFound


def test_it_counts_up_and_survives_a_restart(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        counter = NvCounter(tpm)
        first = counter.create()
        assert [counter.increment() for _ in range(3)] == [first + 1, first + 2, first + 3]
        with pytest.raises(Conflict):
            counter.create()
    swtpm.restart()
    with Tpm(connect(swtpm.address)) as tpm:
        counter = NvCounter(tpm)
        assert counter.read() == first + 3
        assert counter.increment() == first + 4


def test_removing_it_does_not_set_it_back(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        counter = NvCounter(tpm)
        counter.create()
        highest = [counter.increment() for _ in range(5)][-1]
        tpm.nv_undefine(INDEX)
        with pytest.raises(NotFound):
            counter.read()
        assert counter.create() > highest


def test_an_ordinary_index_is_no_counter(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        tpm.nv_define(INDEX, NV_AUTH_READ | NV_AUTH_WRITE, 8)
        tpm.nv_write(INDEX, bytes(8))
        for use in (NvCounter(tpm).read, NvCounter(tpm).increment):
            with pytest.raises(Malformed):
                use()
        with pytest.raises(Conflict):
            NvCounter(tpm).create()


def test_a_simulator_says_so(swtpm: SwTpm) -> None:
    with Tpm(connect(swtpm.address)) as tpm:
        assert NvCounter(tpm).simulated
