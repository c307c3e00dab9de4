"""SEV-SNP: captured cases, machines of our own, splices, and reports with wrong bits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from tests.support import amd, captured
from tests.support.amd import GENOA, MILAN, START, TURIN
from tests.support.mutate import QUICK, mutated

from mesatee._core import X509, pem_certificates
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.corpus import CorpusPolicy, check_folder
from mesatee.attestation.tee import snp, snp_json, snp_report
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge, TrustError, UnsupportedVersion
from mesatee.protocol import limits

POLICY = CorpusPolicy()
VLEK = 1 << 2
"""KEY_INFO of a report that a cloud's key signed."""
HWID8 = amd.HWID[1:9]


def appraise(
    report: bytes, *certificates: bytes, line: amd.Line = MILAN, at: int | None = START, **more: Any
) -> Verdict:
    return snp.appraise(report, certificates, at, more.get("policy", POLICY), roots=line.roots)


def chain(line: amd.Line = MILAN) -> tuple[bytes, bytes]:
    return line.ask, line.ark


# -- captured cases --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", captured.folders("snp"), ids=lambda folder: folder.name)
def test_captured_case(folder):
    meta, files = captured.load(folder)
    verdict = check_folder({"tee": meta["tee"], "at": meta["at"]}, files)
    assert verdict.tier == meta["expected"]["tier"], verdict.reasons
    if verdict.signature is Answer.AFFIRMED:
        assert verdict.claims["debug"] is meta["claims"]["policy_debug"]
        assert verdict.measurement == meta["claims"]["measurement"]
        assert verdict.claims["report_data"] == meta["report_data"]


def test_splice_report_of_one_machine_with_vcek_of_another():
    at, mine = captured.timed("snp", "trustee-milan-v2")
    _, other = captured.timed("snp", "virtee-milan-v2")
    verdict = snp.check({**mine, "vcek": other["vcek"]}, at, POLICY)
    assert verdict.tier is Status.CONTRAINDICATED
    assert verdict.signature is verdict.chain is Answer.REFUSED
    assert "the VCEK is of another chip than the report" in verdict.reasons


def test_splice_captured_vlek_report_with_the_chain_of_vceks():
    at, mine = captured.timed("snp", "trustee-aws-vlek-milan-v3")
    _, other = captured.timed("snp", "microsoft-milan")
    verdict = snp.check({**mine, "ask_ark": other["ask_ark"]}, at, POLICY)
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_splice_captured_vcek_with_the_root_of_another_product():
    at, mine = captured.timed("snp", "microsoft-milan")
    _, other = captured.timed("snp", "microsoft-genoa")
    files = {"report": mine["report"], "vcek": mine["vcek"], "ask_ark": other["ask_ark"]}
    verdict = snp.check(files, at, POLICY)
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_what_is_missing_is_not_established():
    at, files = captured.timed("snp", "microsoft-genoa")
    verdict = snp.check({role: data for role, data in files.items() if role != "vcek"}, at, POLICY)
    assert (verdict.tier, verdict.chain) == (Status.NONE, Answer.NOT_ESTABLISHED), verdict.reasons
    assert verdict.level == 1


@pytest.mark.parametrize("missing", [{"ask", "ask_ark"}, {"ark", "ask_ark"}, {"ask", "ark", "ask_ark"}])
@pytest.mark.parametrize(
    "name", ["microsoft-milan", "microsoft-genoa", "microsoft-turin", "trustee-aws-vlek-milan-v3"]
)
def test_what_amd_publishes_need_not_come_along(name: str, missing: set[str]):
    at, files = captured.timed("snp", name)
    verdict = snp.check({role: data for role, data in files.items() if role not in missing}, at, POLICY)
    whole = snp.check(files, at, POLICY)
    assert (verdict.tier, verdict.chain) == (Status.AFFIRMING, Answer.AFFIRMED), verdict.reasons
    assert verdict.claims == whole.claims


def test_what_amd_publishes_does_not_replace_what_came():
    at, files = captured.timed("snp", "microsoft-genoa")
    _, other = captured.timed("snp", "microsoft-milan")
    for stray in (
        other["ark"],
        other["ask"],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        verdict = snp.check({"report": files["report"], "vcek": files["vcek"], "ask": stray}, at, POLICY)
        assert verdict.chain is not Answer.AFFIRMED, verdict.reasons


def test_no_time_and_expired():
    _, files = captured.timed("snp", "microsoft-turin")
    assert snp.check(files, None, POLICY).tier is Status.NONE
    assert snp.check(files, 2**33, POLICY).tier is Status.CONTRAINDICATED


# -- wrappings -------------------------------------------------------------------------------------


def wrapped(files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    report, leaf = files["report"], files["vcek"]
    der = [amd.x509.load_pem_x509_certificate(files[role]) for role in ("vcek", "ask", "ark")]
    ders = [item.public_bytes(amd.serialization.Encoding.DER) for item in der]
    offset, table = 24 * 4, b""
    for item in ders:
        table += bytes(range(1, 17)) + struct.pack("<II", offset, len(item))
        offset += len(item)
    table += bytes(24) + b"".join(ders)
    response = struct.pack("<II", 0, 1184) + bytes(24) + report
    chain = files["ask"] + files["ark"]
    text = {
        "report": base64.b64encode(report).decode(),
        "vcekCert": leaf.decode(),
        "certificateChain": chain.decode(),
    }
    return {
        "padded": {"report": report + bytes(2816), "vcek": leaf, "ask_ark": chain},
        "response": {"report": response.ljust(4000, b"\0"), "vcek": leaf, "ask_ark": chain},
        "base64": {"report": base64.b64encode(report), "vcek": base64.b64encode(ders[0]), "ask_ark": chain},
        "hex": {"report": report.hex().encode() + b"\n", "vcek": ders[0].hex().encode(), "ask_ark": chain},
        "other order": {"report": report, "chain": files["ark"] + files["ask"] + leaf},
        "concatenated DER": {"evidence": report, "certs": b"".join(ders)},
        "certificate table": {"outblob": report, "auxblob": table},
        "padded table": {"report": report, "auxblob": table + bytes(100)},
        "extended report": {"report": report + table},
        "JSON": {"evidence": json.dumps(text).encode()},
        "JSON of bytes": {
            "evidence": json.dumps({"r": list(report), "c": [list(der) for der in ders]}).encode()
        },
        "single DER": dict(zip(("report", "a", "b", "c"), [report, *ders], strict=True)),
    }


def test_wrappings_do_not_matter():
    at, files = captured.timed("snp", "microsoft-turin")
    want = snp.check(files, at, POLICY)
    assert want.tier is Status.AFFIRMING
    for name, other in wrapped(files).items():
        found = snp.check(other, at, POLICY)
        assert (found.tier, found.claims) == (Status.AFFIRMING, want.claims), (name, found.reasons)


def fields_of(report: bytes, turin: bool) -> dict[str, Any]:
    names = ("fmc", "bootloader", "tee", "snp", "", "", "", "microcode")
    if not turin:
        names = ("bootloader", "tee", "", "", "", "", "snp", "microcode")

    def tcb(offset: int) -> dict[str, int]:
        return {name: report[offset + place] for place, name in enumerate(names) if name}

    return {
        **{
            name: int.from_bytes(report[at : at + size], "little")
            for name, (at, size) in snp_json._NUMBERS.items()
        },
        **{name: list(report[at : at + size]) for name, (at, size) in snp_json._BYTES.items()},
        **{name: tcb(offset) for name, offset in snp_json._TCBS.items()},
        "signature": {"r": list(report[0x2A0:0x2E8]), "s": list(report[0x2E8:0x330])},
    }


@pytest.mark.parametrize("name", ["microsoft-milan", "microsoft-turin"])
def test_a_report_as_json_of_its_fields(name):
    at, files = captured.timed("snp", name)
    ders = [
        list(item.der)
        for item in map(X509.parse, pem_certificates(files["vcek"] + files["ask"] + files["ark"]))
    ]
    value = {
        "attestation_report": fields_of(files["report"], name.endswith("turin")),
        "cert_chain": [{"cert_type": "OTHER", "data": der} for der in ders],
    }
    verdict = snp.check({"evidence": json.dumps(value).encode()}, at, POLICY)
    assert verdict.tier is Status.AFFIRMING, verdict.reasons
    value["attestation_report"]["report_data"][0] ^= 1
    assert snp.check({"evidence": json.dumps(value).encode()}, at, POLICY).tier is Status.CONTRAINDICATED
    for broken in ({}, {"signature": {}}, {"signature": {"r": [0] * 72, "s": [0] * 72}, "version": -1}):
        with pytest.raises(Malformed):
            snp_json.rebuild(broken)


def test_two_reports_that_differ():
    at, files = captured.timed("snp", "microsoft-milan")
    _, other = captured.timed("snp", "microsoft-genoa")
    verdict = snp.check({**files, "evidence": other["report"]}, at, POLICY)
    assert verdict.tier is Status.CONTRAINDICATED
    assert snp.check({**files, "evidence": files["report"]}, at, POLICY).tier is Status.AFFIRMING


def test_a_nonce_that_came_along():
    report = amd.report(report_data=b"n" * 32 + bytes(32))
    files = {"report": report, "vcek": amd.pem(MILAN.vcek())}
    assert snp.check({**files, "nonce": b"n" * 32}, START, POLICY).binding is Answer.AFFIRMED
    assert snp.check({**files, "nonce": b"6e" * 32}, START, POLICY).binding is Answer.AFFIRMED
    verdict = snp.check({**files, "nonce": b"m" * 32}, START, POLICY)
    assert (verdict.tier, verdict.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)


@pytest.mark.parametrize("nonce", [b"", b" \n", b"n" * (limits.CLAIMS_BYTES + 1)])
def test_a_nonce_that_is_empty_or_too_long_is_refused_by_name(nonce):
    files = {"report": amd.report(), "vcek": amd.pem(MILAN.vcek()), "server_nonce": nonce}
    with pytest.raises(InputError, match="server_nonce"):
        snp.check(files, START, POLICY)


def test_a_nonce_of_any_bytes_is_no_certificate():
    for nonce in (b"\x30\x82" + bytes(30), b"{" + bytes(31), b"n" * limits.CLAIMS_BYTES):
        report = amd.report(report_data=hashlib.sha512(nonce).digest())
        verdict = snp.check({"report": report, "vcek": amd.pem(MILAN.vcek()), "nonce": nonce}, START, POLICY)
        assert verdict.binding is Answer.AFFIRMED, verdict.reasons


def test_a_file_that_ought_to_be_a_certificate():
    at, files = captured.timed("snp", "microsoft-milan")
    for broken in (b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        verdict = snp.check({"report": files["report"], "vcek": broken}, at, POLICY)
        assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED), broken


def test_no_report_at_all():
    with pytest.raises(Malformed):
        snp.check({"vcek": b"x"}, START, POLICY)


# -- machines of our own ---------------------------------------------------------------------------


@pytest.mark.parametrize("line", [MILAN, GENOA, TURIN], ids=lambda line: line.name)
def test_machines_of_our_own(line):
    chip = HWID8 + bytes(56) if line is TURIN else amd.HWID
    verdict = appraise(
        amd.report(line=line, chip_id=chip),
        line.vcek(hwid=HWID8 if line is TURIN else amd.HWID),
        amd.pem(*chain(line)),
        line=line,
    )
    assert verdict.tier is Status.AFFIRMING, verdict.reasons
    assert (verdict.signature, verdict.chain, verdict.level) == (Answer.AFFIRMED, Answer.AFFIRMED, 4)
    assert (verdict.tcb, verdict.revocation) == (Answer.NOT_ESTABLISHED, Answer.NOT_ESTABLISHED)
    assert verdict.claims["platform.product"] == line.name
    assert verdict.claims["snp.tcb.reported.microcode"] == (81 if line is TURIN else 219)


def test_a_cloud_key_of_our_own():
    report = amd.report("cloud", key_info=VLEK, chip_id=bytes(64))
    verdict = appraise(report, MILAN.vlek(), MILAN.asvk, MILAN.ark)
    assert verdict.tier is Status.AFFIRMING, verdict.reasons
    assert verdict.claims["platform.csp"] == "CN=cc-example"


def test_only_the_pinned_root_counts():
    verdict = snp.appraise(amd.report(), [MILAN.vcek(), *chain()], START, POLICY)
    assert (verdict.signature, verdict.chain) == (Answer.AFFIRMED, Answer.REFUSED)
    assert verdict.tier is Status.CONTRAINDICATED


def test_splice_vcek_of_another_tcb():
    # The same chip derives another key for each TCB; a certificate for an old key with the new TCB is a lie.
    for place in range(8):
        tcb = bytearray(amd.MILAN_TCB)
        tcb[place] ^= 1
        verdict = appraise(amd.report(), MILAN.vcek(tcb=bytes(tcb)), *chain())
        assert (verdict.tier, verdict.tcb) == (Status.CONTRAINDICATED, Answer.REFUSED), place
    assert appraise(amd.report(), MILAN.vcek(tcb=amd.TURIN_TCB), *chain()).tier is Status.CONTRAINDICATED


def test_splice_turin_has_its_own_order_of_components():
    chip = HWID8 + bytes(56)
    milan_order = bytes([1, 2, 0, 0, 0, 0, 4, 81])
    verdict = appraise(
        amd.report(line=TURIN, chip_id=chip, tcb=milan_order),
        TURIN.vcek(hwid=HWID8),
        *chain(TURIN),
        line=TURIN,
    )
    assert (verdict.tier, verdict.tcb) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_splice_vcek_of_another_chip():
    other = bytes(64)[:-1] + b"\1"
    verdict = appraise(amd.report(), MILAN.vcek(hwid=other), *chain())
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)
    turin = appraise(
        amd.report(line=TURIN, chip_id=HWID8 + b"\1" + bytes(55)),
        TURIN.vcek(hwid=HWID8),
        *chain(TURIN),
        line=TURIN,
    )
    assert turin.tier is Status.CONTRAINDICATED
    short = appraise(amd.report(chip_id=HWID8 + bytes(56)), MILAN.vcek(hwid=HWID8), *chain())
    assert short.tier is Status.CONTRAINDICATED


def test_a_platform_that_hides_its_chip():
    verdict = appraise(amd.report(chip_id=bytes(64)), MILAN.vcek(), *chain())
    assert verdict.tier is Status.AFFIRMING
    assert "the platform hides its chip (MASK_CHIP_ID)" in verdict.reasons


@pytest.mark.parametrize("key_info", [0, VLEK, 7 << 2, 2 << 2])
def test_splice_the_kind_of_key_must_be_the_one_that_the_report_names(key_info):
    vcek = appraise(amd.report(key_info=key_info), MILAN.vcek(), *chain())
    vlek = appraise(amd.report("cloud", key_info=key_info), MILAN.vlek(), MILAN.asvk, MILAN.ark)
    assert (vcek.tier is Status.AFFIRMING) == (key_info == 0)
    assert (vlek.tier is Status.AFFIRMING) == (key_info == VLEK)


def test_splice_vlek_under_the_chain_of_vceks():
    report = amd.report("cloud", key_info=VLEK)
    for line in (MILAN, GENOA):
        verdict = appraise(report, MILAN.vlek(), *chain(line))
        assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)
    # Even one that the intermediate for chips did sign.
    forged = amd.certificate(
        "SEV-VLEK",
        amd.ec_key("cloud"),
        "SEV-Milan",
        amd.rsa_key("SEV-Milan"),
        ca=False,
        extensions={
            amd.OID + "2": amd.ia5("Milan"),
            **{f"{amd.OID}3.{n}": amd.integer(v) for n, v in {1: 4, 2: 0, 3: 24, 8: 219}.items()},
            amd.OID + "5": amd.ia5("CN=cloud"),
        },
    )
    verdict = appraise(report, forged, *chain())
    assert (verdict.signature, verdict.chain) == (Answer.AFFIRMED, Answer.REFUSED), verdict.reasons


def test_splice_root_of_another_product():
    both = {**MILAN.roots, **GENOA.roots}
    verdict = snp.appraise(amd.report(), [MILAN.vcek(), *chain(GENOA)], START, POLICY, roots=both)
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)
    # A certificate that names another product than its root.
    verdict = appraise(amd.report(line=GENOA), MILAN.vcek(product="Genoa-B0"), *chain())
    assert (verdict.tier, verdict.chain) == (Status.CONTRAINDICATED, Answer.REFUSED)


@pytest.mark.parametrize(
    ("cpu", "line"),
    [
        ((0x19, 0x0F), MILAN),
        ((0x19, 0x10), GENOA),
        ((0x19, 0xA0), GENOA),
        ((0x19, 0xB0), None),
        ((0x17, 1), None),
    ],
)
def test_splice_the_cpu_that_the_report_names_must_be_of_the_product(cpu, line):
    for other in (MILAN, GENOA):
        verdict = appraise(amd.report(line=other, cpu=(*cpu, 0)), other.vcek(), *chain(other), line=other)
        assert (verdict.tier is Status.AFFIRMING) == (other is line)


def test_products_that_share_the_keys_of_genoa():
    for product in ("Genoa-B1", "Bergamo-A2", "Siena"):
        verdict = appraise(amd.report(line=GENOA), GENOA.vcek(product=product), *chain(GENOA), line=GENOA)
        assert verdict.tier is Status.AFFIRMING
    assert appraise(amd.report(), MILAN.vcek(product="Rome"), *chain()).tier is Status.CONTRAINDICATED


def test_debug_is_contraindicated_whatever_is_known():
    assert appraise(amd.report(policy=0xB001F), MILAN.vcek(), *chain()).tier is Status.CONTRAINDICATED
    assert appraise(amd.report(policy=0xB001F)).tier is Status.CONTRAINDICATED
    assert appraise(amd.report()).tier is Status.NONE


def test_values_become_claims():
    report = amd.report(policy=0x7001F, vmpl=2, platform_info=0x24, key_info=1, report_data=b"d" * 64)
    claims = appraise(report, MILAN.vcek(), *chain()).claims
    want = {
        "debug": False,
        "platform.smt": False,
        "policy.smt": True,
        "policy.migration_agent": True,
        "policy.single_socket": False,
        "policy.abi": "0.31",
        "snp.vmpl": 2,
        "report_data": (b"d" * 64).hex(),
        "measurement.code": "11" * 48,
        "measurement.author_key": bytes(48).hex(),
        "platform.chip_id": amd.HWID.hex(),
    }
    assert {name: claims[name] for name in want} == want


@pytest.mark.parametrize("fields", [{"vmpl": 0xFFFFFFFF}, {"vmpl": 4}, {"policy": 0x3001F | 1 << 26}])
def test_what_is_not_known_is_not_affirmed(fields):
    assert appraise(amd.report(**fields), MILAN.vcek(), *chain()).tier is Status.WARNING


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 15])
def test_versions(version):
    verdict = appraise(amd.report(version=version), MILAN.vcek(), *chain())
    assert verdict.tier is Status.AFFIRMING
    assert ("platform.cpuid" in verdict.claims) == (version >= 3)
    assert any("is read as" in reason for reason in verdict.reasons) == (version > 5)


@pytest.mark.parametrize("version", [0, 1, 16, 2**31])
def test_versions_that_are_refused(version):
    with pytest.raises(UnsupportedVersion):
        appraise(amd.report(version=version), MILAN.vcek(), *chain())


def test_revocation():
    good, files = amd.report(), (MILAN.vcek(), *chain())
    assert appraise(good, *files, MILAN.crl()).revocation is Answer.AFFIRMED
    assert appraise(good, *files, MILAN.crl(7)).tier is Status.CONTRAINDICATED
    assert appraise(good, *files, MILAN.crl(at=START - 3 * amd.DAY)).revocation is Answer.NOT_ESTABLISHED
    strict = CorpusPolicy(missing_crl=False)
    assert appraise(good, *files, policy=strict).tier is Status.CONTRAINDICATED
    assert appraise(good, *files, MILAN.crl(), policy=strict).tier is Status.AFFIRMING
    # The list of another product's root says nothing about this one.
    assert appraise(good, *files, GENOA.crl(7)).revocation is Answer.NOT_ESTABLISHED


def test_many_lists_do_not_crowd_out_the_one_that_revokes():
    """None is left out in silence, wherever it stands."""
    good, files = amd.report(), (MILAN.vcek(), *chain())
    many = [MILAN.crl(at=START + n) for n in range(limits.CRLS)]
    assert appraise(good, *files, *many).revocation is Answer.AFFIRMED
    assert appraise(good, *files, *many[1:], MILAN.crl(7)).tier is Status.CONTRAINDICATED
    with pytest.raises(TooLarge, match="none may be left out"):
        appraise(good, *files, *many, MILAN.crl(7))


def test_junk_does_not_displace_the_chain():
    files = (MILAN.vcek(), *chain())
    room = limits.CHAIN_CERTIFICATES - len(files)
    many = [MILAN.vcek(f"chip {n}") for n in range(room + 1)]
    assert appraise(amd.report(), *files, *many[:room]).tier is Status.AFFIRMING
    with pytest.raises(TooLarge, match="none may be left out"):
        appraise(amd.report(), *many, *files)


def test_the_right_certificate_among_several():
    verdict = appraise(
        amd.report(),
        MILAN.vlek(),
        GENOA.vcek("other"),
        MILAN.vcek("other"),
        MILAN.vcek(),
        *chain(),
        MILAN.asvk,
    )
    assert verdict.tier is Status.AFFIRMING, verdict.reasons


@pytest.mark.parametrize(
    "extra",
    [
        {"oid3.1": b"\2\2\0\4"},
        {"oid3.1": b"\2\1\x84"},
        {"oid3.8": b"\2\3\0\0\1"},
        {"oid2": b"\x16\5Milan!"},
        {"oid2": b""},
    ],
)
def test_certificates_with_odd_extensions(extra):
    assert appraise(amd.report(), MILAN.vcek(**extra), *chain()).tier is Status.CONTRAINDICATED


def test_a_report_that_was_not_signed():
    verdict = appraise(amd.report(sign=False, key_info=2), MILAN.vcek(), *chain())
    assert (verdict.tier, verdict.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


def test_bytes_behind_the_signature_and_numbers_too_large():
    report = bytearray(amd.report())
    for place in (0x2A0 + 48, 0x2E8 + 71, 0x330, 0x49F):
        with pytest.raises(Malformed):
            snp_report.parse(bytes(report[:place] + b"\1" + report[place + 1 :]))
    with pytest.raises(Malformed):
        snp_report.parse(bytes(report[:-1]))


# -- wrong bits and hostile bytes ------------------------------------------------------------------


@QUICK
@given(mutated(amd.report()))
def test_hostile_reports(data):
    with contextlib.suppress(InputError):
        appraise(data, MILAN.vcek(), *chain())


@QUICK
@given(mutated(amd.pem(*chain()) + MILAN.vcek()))
def test_hostile_certificates(data):
    verdict = appraise(amd.report(), data)
    assert verdict.tier is not Status.WARNING


@QUICK
@given(mutated(json.dumps({"a": amd.report().hex(), "b": [amd.pem(MILAN.vcek()).decode()]}).encode()))
def test_hostile_wrappings(data):
    with contextlib.suppress(InputError, TrustError):
        snp.check({"evidence": data}, START, POLICY)
