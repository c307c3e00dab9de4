"""Splices by name: where each TEE's test of each is, and those over captured evidence of two machines at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.support import captured, tokens

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Status

HERE = Path(__file__).parent / "tee"
NAMED = {
    "chain of one machine with the report of another": {
        "sgx and tdx": ("test_dcap", "test_the_pck_chain_of_another_machine_is_refused"),
        "snp": ("test_snp", "test_splice_report_of_one_machine_with_vcek_of_another"),
        "nitro": ("test_nitro", "test_a_captured_document_with_the_certificate_of_another"),
        "tpm": ("test_tpm", "test_quote_of_one_tpm_with_the_key_of_another"),
        "azure-vtpm, the vTPM": ("test_azure", "test_a_quote_of_another_vtpm"),
        "azure-vtpm, the TD": ("test_azure", "test_a_td_quote_of_another_machine"),
        "cca": ("test_cca", "test_platform_token_signed_by_a_key_that_is_no_anchor"),
        "psa": ("test_psa", "test_another_devices_key"),
        "keystone": ("test_keystone", "test_a_report_of_one_monitor_under_the_device_of_another"),
        "nvidia-gpu": ("test_nvidia", "test_a_captured_exchange_with_the_chain_of_another_device"),
        "dice": ("test_dice", "test_an_alias_that_the_device_did_not_sign"),
        "optee": ("test_optee", "test_another_nonce_digest_or_key"),
    },
    "evidence of one key on another's channel": {
        "every TEE": ("test_platform", "test_evidence_of_one_key_on_anothers_channel"),
        "ratls": ("test_ratls", "test_splice_captured_evidence_of_one_key_on_the_certificate_of_another"),
        "cca": ("test_cca", "test_the_platform_vouches_for_another_realm_key_with_both_signatures_valid"),
    },
    "old evidence with a new nonce": {
        "every TEE": ("test_platform", "test_old_evidence_with_a_new_nonce"),
        "tdx": ("test_dcap_verify", "test_another_nonce_is_refused"),
        "tpm": ("test_tpm", "test_old_quote_with_a_new_nonce"),
        "azure-vtpm": ("test_azure", "test_an_old_quote_with_a_new_nonce"),
        "nvidia-gpu": ("test_nvidia", "test_a_captured_exchange_with_another_nonce"),
        "optee": ("test_optee", "test_another_nonce_digest_or_key"),
    },
    "a log that replays, but to other PCRs": {
        "eventlog": ("test_eventlog", "test_a_log_that_replays_but_to_other_pcrs_is_refused"),
        "tpm": ("test_tpm", "test_log_that_replays_but_to_other_pcrs"),
        "tdx": ("test_dcap_events", "test_any_other_log_is_refused"),
    },
    "part of another machine in a composite": {
        "tpm": ("test_composite", "test_splice_tpm_part_of_another_machine"),
        "cuckoo": ("test_composite", "test_splice_the_cuckoo_names_the_tpm_that_it_asks"),
        "processor": ("test_composite", "test_splice_processor_part_of_another_machine"),
        "gpu": ("test_composite", "test_splice_gpu_of_another_machine"),
    },
    "old part in a composite": {
        "tpm": ("test_composite", "test_splice_replayed_tpm_part"),
        "tpm alone": ("test_composite", "test_splice_tpm_evidence_that_stood_alone"),
        "gpu": ("test_composite", "test_splice_replayed_gpu_part"),
    },
    "composite without a part, or with one twice": {
        "tpm": ("test_composite", "test_stripped_tpm_part_is_another_class_and_refused"),
        "one gpu of two": ("test_composite", "test_stripped_gpu_of_two_is_refused"),
        "twice": ("test_composite", "test_a_doubled_gpu_is_refused"),
        "class": ("test_composite", "test_a_doubled_or_turned_part_is_no_class"),
    },
    "level 5 without TPM evidence of the outer system": {
        "composite": ("test_composite", "test_level_5_needs_an_enrolled_machine"),
        "azure-vtpm": ("test_azure", "test_level_5_needs_the_quote_and_its_values"),
    },
}


@pytest.mark.parametrize(
    ("module", "name"),
    [place for tees in NAMED.values() for place in tees.values()],
    ids=[f"{splice}: {tee}" for splice, tees in NAMED.items() for tee in tees],
)
def test_each_splice_has_its_test(module: str, name: str) -> None:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def at(folder: Path) -> int | None:
    return corpus.question((folder / "meta.json").read_bytes()).at


def refused(tee: str, folder: Path, **spliced: bytes) -> None:
    """Control: at that time, the case's own files count."""
    files = captured.load(folder)[1]
    whole = tokens.appraise(tee, files, at(folder))
    assert whole is not None
    assert whole.tier in (Status.AFFIRMING, Status.WARNING)
    verdict = tokens.appraise(tee, {**files, **spliced}, at(folder))
    assert verdict is None or verdict.tier not in (Status.AFFIRMING, Status.WARNING)


def good(tee: str) -> list[Path]:
    """Folders of one TEE whose evidence counts."""
    found = [
        folder
        for folder in captured.folders(tee)
        if captured.load(folder)[0]["expected"]["tier"] in (Status.AFFIRMING, Status.WARNING)
    ]
    captured.need()
    assert found
    return found


@pytest.mark.parametrize(("tee", "other"), [("sgx", "tdx"), ("tdx", "sgx")])
def test_splice_captured_collateral_of_the_other_tee(tee: str, other: str) -> None:
    theirs = captured.load(good(other)[0])[1]
    for folder in good(tee):
        if set(captured.load(folder)[1]) == {"quote", "collateral"}:
            refused(tee, folder, collateral=theirs["collateral"])


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_splice_captured_quote_with_the_signature_and_chain_of_another(tee: str) -> None:
    """The signed part of one machine's quote before the signature and the chain of another's, as its case has it."""
    quotes = [
        files["quote"] for folder in captured.folders(tee) if "quote" in (files := captured.load(folder)[1])
    ]
    tried = 0
    for folder in good(tee):
        own = captured.load(folder)[1]["quote"]
        # Header of 48 bytes, then a body: of 384 in version 3, 584 in version 4, and of a stated length in version 5.
        end = {3: 432, 4: 632}.get(int.from_bytes(own[:2], "little")) or 54 + int.from_bytes(
            own[50:54], "little"
        )
        for other in quotes:
            if other[:2] == own[:2] and other[:end] != own[:end]:
                tried += 1
                refused(tee, folder, quote=other[:end] + own[end:])
    assert tried


def test_splice_captured_snp_reports_under_the_chain_of_each_other() -> None:
    reports = [captured.load(folder)[1]["report"] for folder in good("snp")]
    for folder in good("snp"):
        own = captured.load(folder)[1]["report"]
        for report in reports:
            # The same machine may have two cases, and its chain then is that of both reports.
            if report[416:480] != own[416:480]:
                refused("snp", folder, report=report)


@pytest.mark.parametrize("tee", ["sgx", "tdx", "snp", "nitro", "cca", "psa"])
def test_level_5_needs_evidence_of_the_outer_system(tee: str) -> None:
    for folder in good(tee):
        verdict = tokens.appraise(tee, captured.load(folder)[1], at(folder))
        assert verdict is not None
        assert verdict.level < 5
