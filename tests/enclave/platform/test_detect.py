from __future__ import annotations

from pathlib import Path

import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.enclave.platform.fakes import ROOT, FakeKernel, File, Gramine, NsmDevice, SevGuestDevice, TsmFolder

from mesatee.enclave.platform import CompositeCollector, detect


def test_an_ordinary_machine(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert len(found) == 8
    assert not [each for each in found if each.present]
    assert all(len(each.reason) > 10 for each in found), "each says why"
    assert [each.level for each in found] == [5, 4, 4, 4, 4, 4, 3, 1]


def test_this_machine() -> None:
    for each in detect():
        assert each.reason


def test_an_snp_guest() -> None:
    kernel = FakeKernel()
    kernel.folders.append(TsmFolder())
    kernel.files["dev/sev-guest"] = SevGuestDevice
    found = detect(ROOT, kernel)
    assert [(each.interface, each.tee) for each in found if each.present] == [
        ("configfs-tsm", "snp"),
        ("/dev/sev-guest", "snp"),
    ]
    assert found[0].open is not None
    assert found[0].open().collect(bytes(64)).tee == "snp"
    assert not kernel.handles


def test_a_guest_with_a_tpm(swtpm: SwTpm) -> None:
    kernel = FakeKernel()
    kernel.folders.append(TsmFolder("tdx_guest"))
    found = detect(ROOT, kernel, swtpm.address)
    assert [(each.level, each.tee) for each in found if each.present] == [
        (5, "tdx+tpm"),
        (4, "tdx"),
        (3, "tpm"),
    ]
    assert "simulator" in next(each.reason for each in found if each.tee == "tpm")
    assert found[0].open is not None
    collector = found[0].open()
    assert isinstance(collector, CompositeCollector)
    assert "tpm.quote" in collector.collect(bytes(64)).files


@pytest.mark.parametrize(("path", "tee"), [("dev/nsm", "nitro"), ("dev/tee0", "optee")])
def test_devices(path: str, tee: str) -> None:
    kernel = FakeKernel()
    kernel.files[path] = NsmDevice if tee == "nitro" else File
    assert [each.tee for each in detect(ROOT, kernel) if each.present] == [tee]


def test_gramine() -> None:
    kernel = FakeKernel()
    Gramine(kernel)
    assert [each.tee for each in detect(ROOT, kernel) if each.present] == ["sgx"]
    Gramine(kernel, b"none")
    reason = next(each.reason for each in detect(ROOT, kernel) if each.tee == "sgx")
    assert "'none'" in reason


def test_a_tpm_device_that_does_not_answer() -> None:
    kernel = FakeKernel()
    kernel.files["dev/tpmrm0"] = File
    found = {each.tee: each for each in detect(ROOT, kernel)}
    assert not found["tpm"].present
    assert not found["azure-vtpm"].present
    assert "EINVAL" in found["tpm"].reason
