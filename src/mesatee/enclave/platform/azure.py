"""Azure confidential machines: the paravisor's report and a quote by its virtual TPM.

Source: azure-cvm-tooling, az-cvm-vtpm. The guest has no SNP or TDX device: the paravisor below it asked the hardware
for a report over the virtual TPM's keys and keeps it in NV memory of that TPM.

1. Read the report from NV index 0x01400001. Its user data, which NV index 0x01400002 would set, are nobody's business:
   the index is one for the whole machine, so that two processes would wait for each other's.
2. Quote the PCRs with the key at 0x81000003, over our report data: this is what binds our channel, because the
   hardware's report only names the TPM's key.
3. From the machine's metadata service: SNP's certificates, or a quote for TDX's report.

Tested with a real software TPM that holds a captured report at these indices, and a local server in the service's
place. No Azure machine was at hand.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from mesatee import _core
from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform.collect import exactly_64, nonce_of
from mesatee.enclave.platform.kernel import Kernel
from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.quoting import pcr_json, quote_with_pcrs
from mesatee.enclave.platform.tpm.registers import PINNED_PCRS
from mesatee.enclave.platform.tpm.transport import connect
from mesatee.enclave.platform.tpm.wire import Reader
from mesatee.errors import Malformed, NotFound, TooLarge, Unavailable, UnsupportedVersion

REPORT_INDEX: Final = 0x0140_0001
AK_HANDLE: Final = 0x8100_0003
CERTIFICATES_URL: Final = "http://169.254.169.254/metadata/THIM/amd/certification"
QUOTE_URL: Final = "http://169.254.169.254/acc/tdquote"
ANSWER_BYTES: Final = 64 * 1024
"""An answer of the metadata service, in bytes: a TDX quote in base64 has some 7,000."""
SECONDS: Final = 10.0
"""How long the metadata service may take."""
_HARDWARE: Final = 32
_RUNTIME: Final = 1216
_RUNTIME_HEADER: Final = struct.Struct("<IIIII")
_TDREPORT_BYTES: Final = 1024
_SNP: Final = 2
_TDX: Final = 4
_RSASSA: Final = 0x0014


class AzureCollector:
    """Collects from an Azure confidential machine."""

    tee: str = "azure-vtpm"
    level: int = 5
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(
        self,
        where: str = "",
        *,
        root: Path = Path("/"),
        kernel: Kernel | None = None,
        certificates_url: str = CERTIFICATES_URL,
        quote_url: str = QUOTE_URL,
    ) -> None:
        """`where` as in `transport.connect`. Raises `NotFound` if the TPM holds no such report."""
        self._where, self._root, self._kernel = where, root, kernel
        self._certificates_url, self._quote_url = certificates_url, quote_url
        with self._connect() as tpm:
            if tpm.nv_public(REPORT_INDEX) is None:
                raise NotFound("the TPM holds no report of a paravisor: not a confidential machine of Azure")

    def _connect(self) -> Tpm:
        return Tpm(connect(self._where, self._root, self._kernel))

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`."""
        data = exactly_64(report_data)
        with self._connect() as tpm:
            # 1.
            report = tpm.nv_read(REPORT_INDEX)
            kind = _kind(report)
            # 2.
            key = tpm.read_public(AK_HANDLE)
            made, pcrs = quote_with_pcrs(tpm, AK_HANDLE, nonce_of(data), PINNED_PCRS)
        files = {
            "hcl_report": report,
            "quote": made.attest,
            "signature": _raw_rsa(made.signature),
            "pcrs": pcr_json(pcrs),
            "ak_public_pem": key.pem,
        }
        # 3.
        if kind == _SNP:
            files |= self._certificates()
        elif kind == _TDX:
            files["td_quote"] = self._td_quote(report[_HARDWARE : _HARDWARE + _TDREPORT_BYTES])
        else:
            raise UnsupportedVersion(f"a paravisor's report is of type {kind}, neither SNP nor TDX")
        return Bundle(self.tee, files)

    def _certificates(self) -> dict[str, bytes]:
        answer = _fetch("GET", self._certificates_url, {"Metadata": "true"}, b"")
        return {"vcek": _text(answer, "vcekCert"), "ask_ark": _text(answer, "certificateChain")}

    def _td_quote(self, tdreport: bytes) -> bytes:
        body = json.dumps({"report": base64.urlsafe_b64encode(tdreport).rstrip(b"=").decode()}).encode()
        answer = _fetch("POST", self._quote_url, {"Content-Type": "application/json"}, body)
        text = _text(answer, "quote")
        try:
            return base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        except binascii.Error:
            raise Malformed("the metadata service's quote is not base64") from None


def _kind(report: bytes) -> int:
    """Whose hardware's report is in it. Raises `Malformed`."""
    if len(report) < _RUNTIME + _RUNTIME_HEADER.size or not report.startswith(b"HCLA"):
        raise Malformed("the paravisor's report is cut or does not begin as one")
    _, _, kind, _, size = _RUNTIME_HEADER.unpack_from(report, _RUNTIME)
    if size > len(report) - _RUNTIME - _RUNTIME_HEADER.size:
        raise Malformed("the paravisor's report is shorter than it says")
    return int(kind)


def _raw_rsa(signature: bytes) -> bytes:
    """A TPMT_SIGNATURE's RSA bytes, as Azure's own tools carry them."""
    reader = Reader.of(signature)
    if reader.number(2) != _RSASSA:
        raise UnsupportedVersion("Azure's virtual TPM signs by another scheme than RSASSA")
    reader.take(2)
    raw = reader.sized(512)
    reader.done()
    return raw


def _text(answer: dict[str, Any], name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, str) or not value or not value.isascii():
        raise Malformed(f"the metadata service's answer lacks {name!r}")
    return value.encode()


def _fetch(method: str, url: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """One exchange with the metadata service, which answers in plain HTTP on a link-local address.

    Nothing that it says is believed: certificates and quotes are verified like anybody else's.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise Malformed(f"{url!r} is not an address of a metadata service")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=SECONDS)
    try:
        connection.request(method, parts.path or "/", body, headers)
        answer = connection.getresponse()
        content = answer.read(ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the metadata service does not answer: {type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise Unavailable(f"the metadata service answers with status {answer.status}")
    if len(content) > ANSWER_BYTES:
        raise TooLarge(f"the metadata service's answer has more than {ANSWER_BYTES} bytes")
    found = _core.parse_json(content, ANSWER_BYTES, 8)
    if not isinstance(found, dict):
        raise Malformed("the metadata service's answer is not an object")
    return found


__all__ = [
    "AK_HANDLE",
    "CERTIFICATES_URL",
    "QUOTE_URL",
    "REPORT_INDEX",
    "AzureCollector",
]
