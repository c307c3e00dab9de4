from __future__ import annotations

import errno

import pytest
from tests.enclave.platform.fakes import ROOT, FakeKernel, SevGuestDevice, certificate_table

from mesatee.enclave.platform import sev_guest, snp_certs
from mesatee.enclave.platform.sev_guest import SevGuest, SevGuestCollector
from mesatee.errors import Malformed, NotFound, TooLarge, Unavailable

DATA = bytes(range(64))
VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sev_guest, "WAIT_SECONDS", 0.0)


def machine(device: SevGuestDevice) -> FakeKernel:
    kernel = FakeKernel()
    kernel.files["dev/sev-guest"] = lambda: device
    return kernel


def guest(device: SevGuestDevice) -> SevGuest:
    return SevGuest(root=ROOT, kernel=machine(device))


def test_a_report_carries_the_data_and_the_level() -> None:
    report = guest(SevGuestDevice()).report(DATA, 2)
    assert len(report) == 1184
    assert report.startswith(b"SNP2")
    assert report[0x50:0x90] == DATA


def test_the_collector_adds_the_certificates() -> None:
    device = SevGuestDevice(certificate_table({VCEK: b"vcek"}))
    found = SevGuestCollector(root=ROOT, kernel=machine(device)).collect(DATA)
    assert (found.tee, sorted(found.files)) == ("snp", ["report", "vcek"])
    # A host need not have any.
    assert sorted(SevGuestCollector(root=ROOT, kernel=machine(SevGuestDevice())).collect(DATA).files) == [
        "report"
    ]


def test_a_table_that_needs_more_room_is_asked_for_again() -> None:
    kernel = machine(SevGuestDevice(certificate_table({VCEK: bytes(30_000)})))
    files = SevGuestCollector(root=ROOT, kernel=kernel).collect(DATA).files
    assert len(files["vcek"]) == 30_000
    assert not kernel.handles
    for size in (snp_certs.TABLE_BYTES + 1, 1 << 22):
        with pytest.raises(TooLarge):
            guest(SevGuestDevice(bytes(size))).extended_report(DATA)


def test_a_busy_host() -> None:
    assert guest(SevGuestDevice(busy=sev_guest.ATTEMPTS - 1)).report(DATA)
    with pytest.raises(Unavailable, match="busy"):
        guest(SevGuestDevice(busy=sev_guest.ATTEMPTS)).report(DATA)


def test_failures() -> None:
    device = SevGuestDevice()
    device.fails = errno.EIO
    with pytest.raises(Unavailable, match="EIO"):
        guest(device).report(DATA)
    device.fails = errno.ENOTTY
    with pytest.raises(Unavailable):
        guest(device).derived_key(1)
    device.fails = None
    device.status = 0x16
    with pytest.raises(Unavailable, match="0x16"):
        guest(device).report(DATA)
    with pytest.raises(Unavailable):
        guest(device).derived_key(1)
    device.status, device.size = 0, 1183
    with pytest.raises(Malformed):
        guest(device).report(DATA)
    with pytest.raises(Malformed):
        guest(device).report(DATA[:-1])
    with pytest.raises(NotFound):
        SevGuest(root=ROOT, kernel=FakeKernel()).report(DATA)


def test_firmware_errors_are_named() -> None:
    class Failing(SevGuestDevice):
        def ioctl(self, request: int, argument: bytearray) -> int:
            return self._codes(argument, 0x1B, 0, errno.EIO)

    with pytest.raises(Unavailable, match="firmware error 0x1b"):
        guest(Failing()).report(DATA)


def test_derived_keys() -> None:
    device = SevGuestDevice()
    mix = sev_guest.MIX_MEASUREMENT | sev_guest.MIX_POLICY
    assert guest(device).derived_key(mix, vmpl=1, svn=2, tcb=3) == device.key
    assert device.asked == [(0, 0, 9, 1, 2, 3)]
    device.key = bytes(32)
    with pytest.raises(Unavailable):
        guest(device).derived_key(mix)
