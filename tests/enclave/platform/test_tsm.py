from __future__ import annotations

import errno
import ssl

import pytest
from tests.enclave.platform.fakes import ROOT, FakeKernel, TsmFolder, certificate_table
from tests.support import captured

from mesatee.enclave.platform import tsm
from mesatee.enclave.platform.tsm import TsmCollector
from mesatee.errors import Malformed, MesateeError, NotFound, TooLarge, Unavailable, UnsupportedVersion

DATA = bytes(range(64))
END = "-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsm, "WAIT_SECONDS", 0.0)


def machine(folder: TsmFolder) -> FakeKernel:
    kernel = FakeKernel()
    kernel.folders.append(folder)
    return kernel


def collector(folder: TsmFolder, **options: int) -> TsmCollector:
    return TsmCollector(root=ROOT, kernel=machine(folder), **options)


@pytest.mark.parametrize(
    ("provider", "tee", "role"),
    [("sev_guest", "snp", "report"), ("tdx_guest", "tdx", "quote"), ("arm_cca_guest", "cca", "token")],
)
def test_each_provider(provider: str, tee: str, role: str) -> None:
    folder = TsmFolder(provider)
    found = collector(folder).collect(DATA)
    assert found.tee == tee
    assert dict(found.files) == {role: b"report for 0:" + DATA + bytes(1000)}
    assert not folder.entries, "entries stay until somebody removes them"


def test_short_reads_are_put_together() -> None:
    assert collector(TsmFolder(piece=1)).collect(DATA) == collector(TsmFolder(piece=4096)).collect(DATA)


def test_the_certificate_table_goes_into_the_bundle() -> None:
    table = certificate_table(
        {
            "63da758d-e664-4564-adc5-f4b93be8accd": b"vcek",
            "4ab7b379-bbac-4fe4-a02f-05aef327c782": b"ask",
            "c0b406a4-a803-4952-9743-3fb6014cd0ae": b"ark",
        }
    )
    files = collector(TsmFolder(aux=table)).collect(DATA).files
    assert sorted(files) == ["ask_ark", "report", "vcek"]
    assert files["vcek"] == b"vcek"
    assert files["ask_ark"].count(b"BEGIN CERTIFICATE") == 2
    # Older kernels have no such attribute for this provider.
    assert sorted(collector(TsmFolder(aux=None)).collect(DATA).files) == ["report"]
    with pytest.raises(Malformed):
        collector(TsmFolder(aux=table[:100])).collect(DATA)


def test_a_captured_report_and_its_certificates() -> None:
    """The bundle's pieces are what the captured case has under the same names."""
    captured.need()
    case = captured.FOLDER / "snp" / "google-milan-v2"
    report, vcek = (case / "report.bin").read_bytes(), (case / "vcek.der").read_bytes()
    chain = (case / "chain.pem").read_bytes()
    ask, ark = (ssl.PEM_cert_to_DER_cert(each + END) for each in chain.decode().split(END)[:2])
    folder = TsmFolder(
        aux=certificate_table(
            {
                "c0b406a4-a803-4952-9743-3fb6014cd0ae": ark,
                "63da758d-e664-4564-adc5-f4b93be8accd": vcek,
                "4ab7b379-bbac-4fe4-a02f-05aef327c782": ask,
            }
        )
    )
    folder.report = lambda entry: report  # type: ignore[method-assign]
    files = collector(folder).collect(DATA).files
    assert (files["report"], files["vcek"]) == (report, vcek)
    assert files["ask_ark"].split() == chain.split()


def test_privlevel_is_text_and_counts_as_a_write() -> None:
    files = collector(TsmFolder(), privlevel=2).collect(DATA).files
    assert files["report"].startswith(b"report for 2:")
    folder = TsmFolder()
    folder.floor = 3
    with pytest.raises(Unavailable, match="EINVAL"):
        collector(folder, privlevel=2).collect(DATA)
    assert not folder.entries
    for level in (-1, 4):
        with pytest.raises(Malformed):
            collector(TsmFolder(), privlevel=level)


def test_a_report_that_somebody_else_asked_for_is_not_taken() -> None:
    folder = TsmFolder()
    folder.interference = 2
    assert collector(folder).collect(DATA).files["report"].startswith(b"report for 0:" + DATA)
    assert folder.made == 3
    folder.interference = tsm.ATTEMPTS
    with pytest.raises(Unavailable, match="somebody else"):
        collector(folder).collect(DATA)
    assert not folder.entries


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT])
def test_a_busy_device_is_asked_again(code: int) -> None:
    folder = TsmFolder()
    folder.failures = [code] * (tsm.ATTEMPTS - 1)
    assert collector(folder).collect(DATA).tee == "snp"
    folder.failures = [code] * tsm.ATTEMPTS
    with pytest.raises(Unavailable):
        collector(folder).collect(DATA)
    assert not folder.entries


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EFBIG, errno.ENOTTY])
def test_other_errors_are_reported_at_once(code: int) -> None:
    folder = TsmFolder()
    folder.failures = [code, 0]
    with pytest.raises(Unavailable, match=errno.errorcode[code]):
        collector(folder).collect(DATA)
    assert len(folder.failures) == 1
    assert not folder.entries


def test_data_that_configfs_dropped_at_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of the write at the close goes nowhere: only the generation tells."""
    from tests.enclave.platform import fakes

    folder = TsmFolder()
    mine = collector(folder)

    def dropped(self: fakes.InBlob) -> None:
        self.entry.inblob = b"what an earlier write left"

    monkeypatch.setattr(fakes.InBlob, "close", dropped)
    with pytest.raises(Unavailable, match="did not take our data"):
        mine.collect(DATA)


def test_sizes() -> None:
    for size in (0, 63, 65):
        with pytest.raises(Malformed):
            collector(TsmFolder()).collect(bytes(size))
    folder = TsmFolder()
    folder.report = lambda entry: bytes(tsm.OUTBLOB_BYTES)  # type: ignore[method-assign]
    assert len(collector(folder).collect(DATA).files["report"]) == tsm.OUTBLOB_BYTES
    folder.report = lambda entry: bytes(tsm.OUTBLOB_BYTES + 1)  # type: ignore[method-assign]
    with pytest.raises(TooLarge):
        collector(folder).collect(DATA)
    folder.report = lambda entry: b""  # type: ignore[method-assign]
    with pytest.raises(MesateeError):
        collector(folder).collect(DATA)


def test_no_provider_or_an_unknown_one() -> None:
    with pytest.raises(NotFound):
        TsmCollector(root=ROOT, kernel=FakeKernel())
    with pytest.raises(NotFound, match="ENXIO"):
        collector(TsmFolder(None))
    with pytest.raises(UnsupportedVersion):
        collector(TsmFolder("another_guest"))


def test_the_provider_may_not_change() -> None:
    folder = TsmFolder()
    mine = collector(folder)
    folder.provider = "tdx_guest"
    with pytest.raises(Unavailable, match="another provider"):
        mine.collect(DATA)


@pytest.mark.parametrize("filling", [b"", b"\xff" * 5000, bytes(5000)])
def test_a_tdx_guest_adds_its_event_log(filling: bytes) -> None:
    kernel = machine(TsmFolder("tdx_guest"))
    kernel.put("sys/firmware/acpi/tables/data/CCEL", b"events" + filling)
    files = TsmCollector(root=ROOT, kernel=kernel).collect(DATA).files
    assert files["ccel"] == b"events"
