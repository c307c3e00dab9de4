"""Which machine evidence is of; nothing that evidence holds may raise."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured
from tests.support.vendors import (
    CHIP,
    FMSPC,
    TURIN_CHIP,
    TURIN_TCB,
    certificate,
    pck,
    pem,
    quote_of,
    report,
    tlv,
)

from mesatee import _core
from mesatee.attestation import corpus, subjects
from mesatee.attestation.subjects import AmdPlatform, IntelPlatform
from mesatee.attestation.tee import azure, dcap, snp_files
from mesatee.errors import Malformed


def hcl_report(hardware: bytes, kind: int) -> bytes:
    """Head, hardware report, and what follows up to the kind of hardware."""
    return (
        b"HCLA"
        + bytes(28)
        + hardware.ljust(azure.HARDWARE_BYTES, b"\0")
        + struct.pack("<5I", 20, 1, kind, 1, 0)
    )


CHAIN = pem(pck(), certificate("Intel SGX PCK Processor CA", "Root"))


@pytest.mark.parametrize(("version", "tdx"), [(3, False), (4, False), (4, True), (5, False), (5, True)])
def test_quotes_of_every_version(version: int, tdx: bool):
    tee = "tdx" if tdx else "sgx"
    quote = quote_of(CHAIN + b"\0", version, tdx)
    for files in (
        {"quote": quote},
        {"quote": quote + bytes(70)},
        {"any": bytes((1, 0, 0, 0, 2, 0, 0, 0)) + bytes(8) + quote},
        {"a": b"junk", "b": quote},
    ):
        assert subjects.find(tee, files) == IntelPlatform(FMSPC, "processor")
        assert corpus.subject(tee, files) == FMSPC


def test_the_order_of_the_chain_and_the_other_authority():
    chain = pem(certificate("Intel SGX PCK Platform CA", "Root"), pck("00606a000000", "Platform"))
    assert subjects.find("sgx", {"quote": quote_of(chain)}) == IntelPlatform("00606a000000", "platform")


def test_the_named_role_comes_first():
    files = {"a": quote_of(pem(pck("ffffffffffff"))), "quote": quote_of(CHAIN)}
    assert subjects.subject("sgx", files) == FMSPC


@pytest.mark.parametrize(
    "wrap", [bytes, lambda quote: quote.hex().encode(), lambda quote: json.dumps([quote.hex()])]
)
def test_a_second_quote_does_not_steer_the_subject(wrap):
    """The verifier judges the piece that is called evidence, and never looks at the other."""
    real, decoy = quote_of(CHAIN), quote_of(pem(pck("ffffffffffff")))
    wrapped = wrap(real)
    files = {"a": decoy, "evidence": wrapped if isinstance(wrapped, bytes) else wrapped.encode()}
    assert dcap.open_case(files).quote[: len(real)] == real
    assert subjects.subject("sgx", files) == FMSPC


def test_a_second_report_does_not_steer_the_subject():
    other = report(chip=bytes(64)[:-1] + b"\x01")
    for files in ({"report": report(), "a": other}, {"report": report().hex().encode(), "a": other}):
        assert snp_files.open_case(files).report == report()
        assert subjects.subject("snp", files) == CHIP.hex()


def test_a_pck_certificate_beside_the_quote_names_the_platform():
    """Quotes of other certification types carry none; the verifier finds it in the same way."""
    assert subjects.subject("sgx", {"quote": quote_of(bytes(404), kind=3), "x": pem(pck())}) == FMSPC


def test_quotes_that_name_no_platform():
    # Certification data of another kind, or none that can be read.
    for quote in (
        quote_of(CHAIN, kind=3),
        quote_of(b""),
        quote_of(b"nothing"),
        quote_of(pem(certificate("a", "Root"))),
        quote_of(pem(pck(ca="Other"))),
        quote_of(CHAIN, 6),
    ):
        assert subjects.find("sgx", {"quote": quote}) is None
        assert subjects.subject("sgx", {"quote": quote}) == ""


@pytest.mark.parametrize(
    "extension",
    [
        b"",
        b"\x04\x00",
        tlv(0x30) + tlv(0x30),
        b"\x30\x05\x06",
        b"\x30\x80\x00\x00",
        b"\x30\x84\xff\xff\xff\xff",
        tlv(0x30, tlv(0x30, bytes.fromhex("060a2a864886f84d010d01040405"), bytes(5))),
        tlv(0x30, tlv(0x30, bytes.fromhex("060a2a864886f84d010d0104"), tlv(2, bytes(6)))),
        tlv(0x30, tlv(0x30, bytes.fromhex("060a2a864886f84d010d0103"), tlv(4, bytes(6)))),
    ],
)
def test_extensions_that_name_no_platform(extension: bytes):
    der = certificate("PCK", "Intel SGX PCK Platform CA", _1_2_840_113741_1_13_1=extension)
    with pytest.raises(Malformed):
        subjects.pck_platform(_core.X509.parse(der))


def test_reports():
    levels = {"blSPL": 4, "teeSPL": 0, "snpSPL": 24, "ucodeSPL": 219}
    milan = AmdPlatform("Milan", CHIP.hex(), levels, vlek=False)
    assert subjects.find("snp", {"report": report()}) == milan
    response = bytes(4) + (1_184).to_bytes(4, "little") + bytes(24) + report()
    assert subjects.find("snp", {"any": response}) == milan
    hcl = hcl_report(report(), azure.SNP)
    assert subjects.find("azure-vtpm", {"hcl_report": hcl}) == milan
    assert corpus.subject("azure-vtpm", {"hcl_report": hcl}) == CHIP.hex()
    turin = subjects.find("snp", {"r": report(5, (0x1A, 2), TURIN_CHIP, TURIN_TCB)})
    levels = {"fmcSPL": 1, "blSPL": 2, "teeSPL": 3, "snpSPL": 4, "ucodeSPL": 81}
    assert turin == AmdPlatform("Turin", TURIN_CHIP.hex(), levels, vlek=False)


@pytest.mark.parametrize(
    ("version", "cpu", "product"),
    [
        (2, (0x19, 1), None),
        (3, (0x19, 0x0F), "Milan"),
        (3, (0x19, 0x10), "Genoa"),
        (3, (0x19, 0xAF), "Genoa"),
        (3, (0x19, 0x20), None),
        (5, (0x1A, 0x11), "Turin"),
        (5, (0x1A, 0x20), None),
        (5, (0x17, 1), None),
    ],
)
def test_products(version: int, cpu: tuple[int, int], product: str | None):
    found = subjects.find("snp", {"report": report(version, cpu)})
    assert isinstance(found, AmdPlatform)
    assert found.product == product


def test_a_providers_key_and_a_hidden_chip():
    found = subjects.find("snp", {"report": report(vlek=True, chip=b"")})
    assert isinstance(found, AmdPlatform)
    assert (found.vlek, found.subject) == (True, "")


def test_azure_machines_of_intel():
    quote = quote_of(CHAIN, 4, tdx=True)
    files = {"hcl_report": hcl_report(b"", azure.TDX), "td_quote": quote}
    assert subjects.subject("azure-vtpm", files) == FMSPC
    # Of the two kinds of hardware the one counts that the report names, whatever stands in its place.
    assert subjects.subject("azure-vtpm", {**files, "hcl_report": hcl_report(report(), azure.TDX)}) == FMSPC
    assert (
        subjects.subject("azure-vtpm", {**files, "hcl_report": hcl_report(report(), azure.SNP)}) == CHIP.hex()
    )
    assert subjects.subject("azure-vtpm", {**files, "hcl_report": hcl_report(report(), 9)}) == ""


@pytest.mark.parametrize("tee", ["nitro", "cca", "tpm", "keystone", "unheard-of"])
def test_classes_without_a_name(tee: str):
    assert corpus.subject(tee, {"quote": quote_of(CHAIN), "report": report()}) == ""


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [quote_of(CHAIN), quote_of(CHAIN, 5, tdx=True), report(), hcl_report(report(), azure.SNP)]
    ),
    st.integers(0, 6_000),
    st.binary(max_size=8),
    st.booleans(),
)
def test_nothing_raises(sample: bytes, position: int, noise: bytes, cut: bool):
    data = sample[:position] + noise + (b"" if cut else sample[position + len(noise) :])
    for tee in ("sgx", "tdx", "snp", "azure-vtpm"):
        assert set(subjects.subject(tee, {"quote": data})) <= set("0123456789abcdef")


def test_captured_evidence_names_its_platform():
    captured.need()
    folders = captured.folders("tdx") + captured.folders("sgx")
    named = 0
    for folder in folders:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        files = {role: (folder / file).read_bytes() for role, file in meta["files"].items()}
        found = subjects.subject(meta["tee"], files)
        if found and "collateral" in files:
            collateral = json.loads(files["collateral"])
            assert isinstance(collateral["tcb_info"], str), folder
            assert json.loads(collateral["tcb_info"])["fmspc"].lower() == found, folder
            named += 1
    assert named >= 10
