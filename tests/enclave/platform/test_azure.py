"""A real software TPM that holds what Azure's holds, and a local server in the metadata service's place."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.enclave.platform.tpm.test_quoting import quoted
from tests.support import captured

from mesatee.attestation.evidence import report_data
from mesatee.enclave.platform import azure
from mesatee.enclave.platform.azure import AK_HANDLE, REPORT_INDEX, AzureCollector
from mesatee.enclave.platform.tpm.commands import NV_OWNER_READ, NV_OWNER_WRITE, Tpm
from mesatee.enclave.platform.tpm.public import ak_template
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import OWNER, PASSWORD, Code, u32
from mesatee.errors import (
    Malformed,
    MesateeError,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedVersion,
)

DATA = report_data(b"claims")
TDREPORT = bytes(range(256)) * 4


def hcl(kind: int, user_data: bytes | None, hardware: bytes = b"") -> bytes:
    """A paravisor's report as captured ones are laid out, but of the 2048 bytes that swtpm takes."""
    claims: dict[str, object] = {"keys": []}
    if user_data is not None:
        claims["user-data"] = user_data.hex().upper()
    text = json.dumps(claims).encode()
    head = struct.pack("<IIIII", 20 + len(text), 1, kind, 1, len(text))
    return (b"HCLA".ljust(32, b"\0") + hardware.ljust(1184, b"\0") + head + text).ljust(2048, b"\0")


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.content: bytes | None = None
        self.asked: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: dict[str, str]) -> None:
        body = self.server.content if self.server.content is not None else json.dumps(content).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        assert self.headers["Metadata"] == "true"
        self.answer({"vcekCert": "-----BEGIN vcek", "certificateChain": "-----BEGIN chain", "tcbm": "DB"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["report"]
        self.server.asked.append(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        self.answer({"quote": base64.urlsafe_b64encode(b"\xfb\xff quote").rstrip(b"=").decode()})


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def provision(address: str, report: bytes) -> None:
    with Tpm(connect(address)) as tpm:
        with tpm.primary(OWNER, ak_template("rsa")) as key:
            tpm._do(Code.EVICT_CONTROL, [OWNER, key.handle], u32(AK_HANDLE), [PASSWORD])
        tpm.nv_define(REPORT_INDEX, NV_OWNER_READ | NV_OWNER_WRITE, len(report))
        tpm.nv_write(REPORT_INDEX, report)


def collector(swtpm: SwTpm, service: Service) -> AzureCollector:
    return AzureCollector(
        swtpm.address,
        certificates_url=service.url + "/metadata/THIM/amd/certification",
        quote_url=service.url + "/acc/tdquote",
    )


def test_snp(swtpm: SwTpm, service: Service) -> None:
    provision(swtpm.address, hcl(2, DATA))
    found = collector(swtpm, service).collect(DATA)
    files = found.files
    assert found.tee == "azure-vtpm"
    assert sorted(files) == ["ak_public_pem", "ask_ark", "hcl_report", "pcrs", "quote", "signature", "vcek"]
    assert (files["hcl_report"], files["vcek"]) == (hcl(2, DATA), b"-----BEGIN vcek")
    assert len(files["signature"]) == 256, "raw RSA bytes, as Azure's tools have them"
    assert quoted(files)[0] == DATA[:32]
    assert list(json.loads(files["pcrs"])["sha256"]) == [str(pcr) for pcr in PINNED_PCRS]


def test_a_report_with_the_user_data_of_another_process(swtpm: SwTpm, service: Service) -> None:
    """The index of the user data is one for the whole machine: we do not write it, and the quote is over ours."""
    provision(swtpm.address, hcl(2, b"somebody else's".ljust(64)))
    assert quoted(collector(swtpm, service).collect(DATA).files)[0] == DATA[:32]
    with Tpm(connect(swtpm.address)) as tpm:
        assert tpm.nv_public(0x0140_0002) is None


def test_tdx(swtpm: SwTpm, service: Service) -> None:
    provision(swtpm.address, hcl(4, DATA, TDREPORT))
    files = collector(swtpm, service).collect(DATA).files
    assert files["td_quote"] == b"\xfb\xff quote"
    assert service.asked == [TDREPORT]


@pytest.mark.parametrize(
    ("report", "refused"),
    [
        (hcl(3, DATA), UnsupportedVersion),
        (b"ALCH" + hcl(2, DATA)[4:], Malformed),
        (hcl(2, DATA)[:1230], Malformed),
        (hcl(2, DATA)[:1240], Malformed),
    ],
)
def test_reports_that_are_refused(
    swtpm: SwTpm, service: Service, report: bytes, refused: type[MesateeError]
) -> None:
    provision(swtpm.address, report)
    with pytest.raises(refused):
        collector(swtpm, service).collect(DATA)


def test_a_service_that_fails(swtpm: SwTpm, service: Service) -> None:
    provision(swtpm.address, hcl(2, DATA))
    mine = collector(swtpm, service)
    for content, refused in (
        (b"not json", Malformed),
        (b"[]", Malformed),
        (b"{}", Malformed),
        (b'{"vcekCert": 1, "certificateChain": "x"}', Malformed),
        (b" " * (azure.ANSWER_BYTES + 1), TooLarge),
    ):
        service.content = content
        with pytest.raises(refused):
            mine.collect(DATA)
    service.status = 500
    with pytest.raises(Unavailable, match="500"):
        mine.collect(DATA)
    absent = AzureCollector(swtpm.address, certificates_url="http://127.0.0.1:9/x")
    with pytest.raises(Unavailable):
        absent.collect(DATA)
    with pytest.raises(Malformed):
        AzureCollector(swtpm.address, certificates_url="https://x/").collect(DATA)


def test_an_ordinary_tpm(swtpm: SwTpm) -> None:
    with pytest.raises(NotFound):
        AzureCollector(swtpm.address)


def test_a_captured_report(swtpm: SwTpm, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a real machine: 2600 bytes, more than swtpm's NV memory takes, so they are put where it is read."""
    captured.need()
    folder = captured.FOLDER / "azure-vtpm" / "az-snp-trustee-v2"
    report = (folder / "hcl_report.bin").read_bytes()
    provision(swtpm.address, bytes(8))
    monkeypatch.setattr(Tpm, "nv_read", lambda self, index: report)
    found = collector(swtpm, service).collect(DATA)
    assert found.files["hcl_report"] == report
