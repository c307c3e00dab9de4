"""What bytes are taken for, through every wrapping."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import captured

from mesatee.attestation import corpus, detect
from mesatee.attestation.appraisal import Status
from mesatee.errors import EvidenceRefused, InputError, Malformed, TooLarge
from mesatee.protocol import limits


def dcap(version: int, tee: int) -> bytes:
    head = version.to_bytes(2, "little") + b"\x02\x00" + tee.to_bytes(4, "little") + bytes(4)
    return head + detect.INTEL_QE_VENDOR + bytes(600)


def with_extension(oid: str, value: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n")])
    start = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, start, start.replace(year=2040))
    builder = builder.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


SNP = (2).to_bytes(4, "little") + bytes(0x30) + (1).to_bytes(4, "little") + bytes(1_184 - 0x38)
NITRO = bytes.fromhex("8444a1013822a0590100a9") + b"\x69module_id" + bytes(200)
LOG = bytes(4) + b"\x03\x00\x00\x00" + bytes(20) + (16).to_bytes(4, "little") + b"Spec ID Event03\x00"
OLD_LOG = b"".join(
    bytes(4) + b"\x08\x00\x00\x00" + bytes([n] * 20) + (5).to_bytes(4, "little") + b"event" for n in range(6)
)
SAMPLES = {
    "quote 3": (dcap(3, 0), "sgx", "quote"),
    "quote 4": (dcap(4, 0x81), "tdx", "quote"),
    "quote 4 of SGX": (dcap(4, 0), "sgx", "quote"),
    "quote 5": (dcap(5, 0x81), "tdx", "quote"),
    "Open Enclave": (
        b"\x01\x00\x00\x00\x02\x00\x00\x00" + (648).to_bytes(8, "little") + dcap(3, 0),
        "sgx",
        "evidence_oe",
    ),
    "SNP": (SNP, "snp", "report"),
    "SNP, padded": (SNP + bytes(100), "snp", "report"),
    "SNP response": (bytes(4) + (1_184).to_bytes(4, "little") + bytes(24) + SNP, "snp", "report"),
    "HCL": (b"HCLA" + bytes(1_300), "azure-vtpm", "hcl_report"),
    "Nitro": (NITRO, "nitro", "document"),
    "Nitro, tagged": (b"\xd2" + NITRO, "nitro", "document"),
    "CCA": (bytes.fromhex("d9018fa219acca") + bytes(200), "cca", "token"),
    "PSA": (bytes.fromhex("d28443a10126a0590200aa19095a") + bytes(200), "psa", "token"),
    "PSA profile 1": (bytes.fromhex("8443a10126a0590200aa3a000124f7") + bytes(200), "psa", "token"),
    "TPM": (bytes.fromhex("ff5443478018") + bytes(100), "tpm", "quote"),
    "TPM2B": (bytes.fromhex("0070ff5443478018") + bytes(100), "tpm", "quote"),
    "log": (LOG + bytes(60), "eventlog", "eventlog"),
    "log of SHA-1": (OLD_LOG, "eventlog", "eventlog"),
    "log of SHA-1, padded": (OLD_LOG + bytes(90), "eventlog", "eventlog"),
    "Keystone": (b"k" * 64 + (32).to_bytes(8, "little") + b"k" * 1_280, "keystone", "report"),
    "SPDM": (b"\x11\xe0\x01\xff" + bytes(33) + b"\x11\x60" + bytes(300), "nvidia-gpu", "spdm"),
    "DICE": (with_extension("2.23.133.5.4.9", b"\xd9\xea\x60" + bytes(99)), "ratls", "certificate"),
    "SGX SDK": (with_extension("1.2.840.113741.1.13.1", dcap(3, 0)), "ratls", "certificate"),
    "Evervault": (with_extension("1.2.3.4", NITRO.hex().encode()), "ratls", "certificate"),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_kind_through_every_wrapping(name: str):
    data, tee, role = SAMPLES[name]
    plain = detect.detect(data)
    assert (plain.tee, plain.role, plain.files[role], plain.wrapping) == (tee, role, data, ())
    for wrapped, wrapping in [
        (data.hex().encode(), ("hex",)),
        (b"0x" + data.hex().upper().encode() + b"\n", ("hex",)),
        (base64.encodebytes(data), ("base64",)),
        (base64.urlsafe_b64encode(data).rstrip(b"="), ("base64",)),
        (b"# a licence\n" + data, ("comment",)),
        (b"\xef\xbb\xbf" + data.hex().encode(), ("hex",)),
        (b"\xef\xbb\xbf" + json.dumps([data.hex()]).encode(), ("JSON", "hex")),
        (json.dumps(data.hex()).encode(), ("JSON", "hex")),
        (json.dumps({"a": [{"quote": data.hex()}]}).encode(), ("JSON", "hex")),
        (json.dumps({"message": list(data)}).encode(), ("JSON",)),
        (
            base64.b64encode(json.dumps([base64.b64encode(data).decode()]).encode()),
            ("base64", "JSON", "base64"),
        ),
    ]:
        found = detect.detect(wrapped)
        assert (found.tee, found.role, found.files[role], found.wrapping) == (tee, role, data, wrapping)
        assert len(found.files) == 1 + ("JSON" in wrapping)


def test_pem_around_a_certificate():
    der = SAMPLES["DICE"][0]
    plain = with_extension("1.2.3.4", b"")
    text = "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(raw).decode()}-----END CERTIFICATE-----\n"
        for raw in (plain, der)
    )
    found = detect.detect(text.encode())
    assert (found.tee, found.files["certificate"], found.wrapping) == ("ratls", der, ("PEM",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"{}",
        b'{"a": 1}',
        b"-----BEGIN CERTIFICATE-----",
        b"#",
        b"# only",
        dcap(9, 0),
        bytes(500),
    ],
)
def test_other_bytes_are_malformed(data: bytes):
    with pytest.raises(Malformed):
        detect.detect(data)


def test_the_pck_extension_is_no_evidence():
    with pytest.raises(Malformed):
        detect.detect(with_extension("1.2.840.113741.1.13.1", bytes.fromhex("3003020101")))


def other(data: bytes) -> bytes:
    """Evidence of the same kind, of another machine."""
    changed = bytearray(data)
    changed[-8] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("name", ["quote 3", "quote 5", "SNP", "HCL", "Nitro", "CCA", "PSA", "Keystone"])
def test_two_pieces_that_differ_are_a_conflict_in_either_order(name: str):
    one = SAMPLES[name][0][:-1] + b"\1"
    pair = [one.hex(), other(one).hex()]
    for value in (pair, pair[::-1], {"a": pair[0], "b": {"c": pair[1]}}, [pair[0], list(other(one))]):
        with pytest.raises(EvidenceRefused, match="two pieces of evidence that differ"):
            detect.detect(json.dumps(value).encode())
    files = {"a": one, "b": other(one)}
    for case in (files, dict(reversed(files.items()))):
        with pytest.raises(EvidenceRefused):
            detect.detect_case(case)
        assert corpus.check(None, case, 0, corpus.CorpusPolicy()).tier is Status.CONTRAINDICATED


def test_two_kinds_that_exclude_each_other_are_a_conflict():
    pair = [SAMPLES["quote 5"][0].hex(), SAMPLES["SNP"][0].hex()]
    for value in (pair, pair[::-1]):
        with pytest.raises(EvidenceRefused, match="snp and tdx"):
            detect.detect(json.dumps(value).encode())


def test_the_same_evidence_twice_and_a_part_beside_its_whole_are_no_conflict():
    quote, snp = SAMPLES["quote 3"][0], SAMPLES["SNP"][0]
    enclave = SAMPLES["Open Enclave"][0]
    for value, tee in (
        ([quote.hex(), base64.b64encode(quote).decode()], "sgx"),
        ([quote.hex(), (quote + bytes(70)).hex(), enclave.hex()], "sgx"),
        ([snp.hex(), SAMPLES["SNP response"][0].hex()], "snp"),
        ([snp.hex(), SAMPLES["HCL"][0].hex()], "azure-vtpm"),
        ([SAMPLES["TPM"][0].hex(), SAMPLES["TPM2B"][0].hex()], "tpm"),
        ([SAMPLES["SPDM"][0].hex(), other(SAMPLES["SPDM"][0]).hex()], "nvidia-gpu"),
    ):
        assert detect.detect(json.dumps(value).encode()).tee == tee


def test_two_certificates_with_evidence_in_one_text_are_a_conflict():
    ders = [SAMPLES[name][0] for name in ("DICE", "SGX SDK")]
    text = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        for der in ders
    )
    with pytest.raises(EvidenceRefused, match="two certificates"):
        detect.detect(text)


def test_integers_of_64_bits_without_a_sign_stand_beside_evidence():
    text = json.dumps({"xfam": 2**64 - 1, "quote": SAMPLES["quote 5"][0].hex()})
    assert detect.detect(text.encode()).tee == "tdx"


def test_limits():
    assert detect.detect(SNP.ljust(limits.CASE_FILE_BYTES, b"\0")).tee == "snp"
    with pytest.raises(TooLarge):
        detect.detect(bytes(limits.CASE_FILE_BYTES + 1))
    wrapped = SNP
    for _ in range(limits.WRAPPINGS):
        wrapped = base64.b64encode(wrapped)
    assert detect.detect(wrapped).tee == "snp"
    with pytest.raises(Malformed):
        detect.detect(base64.b64encode(wrapped))
    quote = base64.b64encode(SNP).decode()
    filler = ["f" * limits.DETECT_CHARS]
    assert detect.detect(json.dumps(filler * (limits.DETECT_LEAVES - 1) + [quote]).encode()).tee == "snp"
    with pytest.raises(Malformed):
        detect.detect(json.dumps(filler * limits.DETECT_LEAVES + [quote]).encode())
    short = bytes.fromhex("ff5443478018") + bytes(44)
    assert len(short.hex()) == limits.DETECT_CHARS
    assert detect.detect(json.dumps([short.hex()]).encode()).tee == "tpm"
    with pytest.raises(Malformed):
        detect.detect(json.dumps([short.hex()[:-2]]).encode())


@pytest.mark.parametrize("piece", [b"#\n", b"[", b"A", b"\x0a", b"-----BEGIN CERTIFICATE-----\n", b"{"])
def test_repetition_costs_time_in_proportion(piece: bytes):
    """Cutting one comment line after the other took hours for 8 MiB of them."""
    started = time.process_time()
    with pytest.raises(Malformed):
        detect.detect(piece * (limits.CASE_FILE_BYTES // len(piece)))
    assert time.process_time() - started < 20


def test_a_case_is_what_contains_the_others():
    files = {"a": SAMPLES["log"][0], "b": SAMPLES["TPM"][0], "c": SAMPLES["HCL"][0], "d": b"?"}
    found = detect.detect_case(files)
    assert found is not None
    assert found.tee == "azure-vtpm"
    assert detect.detect_case({"d": b"?"}) is None


@pytest.mark.parametrize(
    ("name", "tee", "role"),
    [
        ("vcek.pem", "snp", "vcek"),
        ("chain.pem", "snp", "ask_ark"),
        ("cert_chain.pem", "nvidia-gpu", "cert_chain"),
        ("rootcrl.der", "tdx", "root_ca_crl"),
        ("pckcrl", "tdx", "pck_crl"),
        ("tcb_info_v3_fmspc_00606A000000_certs.pem", "sgx", "tcb_chain"),
        ("sample_tcbInfo_response", "tdx", "tcb_info_response"),
        ("qe_identity_v2.json", "sgx", "qe_identity_response"),
        ("ak.pem", "tpm", "ak_public_pem"),
        ("ak_public.tpmt", "tpm", "ak_public_tpmt"),
        ("quote.sig", "tpm", "signature"),
        ("quote-sha256.sig", "tpm", "sig_sha256"),
        ("iak.pem", "psa", "iak_public"),
        ("ta.json", "cca", "trust_anchor_json"),
        ("My Nonce.dat", "tdx", "my_nonce"),
    ],
)
def test_roles_of_collateral(name: str, tee: str, role: str):
    assert detect.role_of(name, tee) == role


def test_captured_evidence_is_recognised():
    captured.need()
    for meta in sorted(captured.FOLDER.glob("*/*/meta.json")):
        case = json.loads(meta.read_text("utf-8"))
        found = detect.detect_case(
            {role: (meta.parent / n).read_bytes() for role, n in case["files"].items()}
        )
        assert found is not None, case["id"]
        assert found.tee == case["tee"], case["id"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 1_500), st.binary(max_size=8))
def test_mutations_raise_our_errors_only(name: str, position: int, patch: bytes):
    data = SAMPLES[name][0]
    mutated = data[:position] + patch + data[position + len(patch) :]
    for form in (mutated, mutated[:position], mutated.hex().encode(), json.dumps([mutated.hex()]).encode()):
        with contextlib.suppress(InputError):
            detect.detect(form)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.text(max_size=80))
def test_noise_raises_our_errors_only(data: bytes, text: str):
    for form in (data, b"#" + data, b"{" + data, b"\x30" + data, text.encode()):
        with contextlib.suppress(InputError):
            detect.detect(form)
    detect.role_of(text, "snp")
