"""SGX and TDX on evidence of real machines, and against another implementation.

The evidence stays where it is: these tests are skipped where the folder is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dcap_qvl as oracle
import pytest
from tests.support import captured

from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.tee import dcap, dcap_collateral, dcap_quote, dcap_tcb
from mesatee.attestation.verdict import Verdict

POLICY = corpus.CorpusPolicy()
ARGUED = {
    "sgx/openenclave-evidence-endorsements": (
        Status.CONTRAINDICATED,
        "its attributes have the debug bit, and the corpus policy contraindicates debug",
    )
}
"""Cases whose expectation we hold to be wrong: our verdict, and why."""


@dataclass(frozen=True)
class Case:
    meta: dict[str, Any]
    files: dict[str, bytes]
    at: int | None

    @property
    def id(self) -> str:
        return str(self.meta["id"])

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = self.meta["expected"]
        return found

    def verdict(self, files: dict[str, bytes] | None = None, at: int | None = None) -> Verdict:
        return corpus.check(self.meta["tee"], files or self.files, at or self.at, POLICY)


def cases() -> Iterator[Case]:
    for folder in [*captured.folders("sgx"), *captured.folders("tdx")]:
        meta, files = captured.load(folder)
        yield Case(meta, files, corpus.parse_time(meta["at"]))


CASES = {case.id: case for case in cases()}
every = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
good = pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if c.expected["tier"] in ("affirming", "warning")],
    ids=lambda case: case.id,
)


@captured.needed
@every
def test_the_tier_is_the_expected_one(case: Case) -> None:
    found = case.verdict()
    if case.id in ARGUED:
        tier, why = ARGUED[case.id]
        assert found.tier is tier, why
    elif case.expected["tier"] is not None:
        assert found.tier == case.expected["tier"], found.reasons
    else:
        assert found.tier is not Status.AFFIRMING
    if "tcb_status" in case.expected:
        assert found.tcb_status == case.expected["tcb_status"]
        assert found.claims["tcb.advisories"] == ",".join(sorted(case.expected["advisory_ids"]))
    if case.expected.get("signature") == "valid":
        assert (found.signature, found.chain) == (Answer.AFFIRMED, Answer.AFFIRMED)


@captured.needed
@every
def test_the_claims_are_those_that_were_read_by_hand(case: Case) -> None:
    found, claims = case.verdict().claims, case.meta["claims"]
    names = {"mrenclave": "measurement.code", "mrtd": "measurement.code", "mrsigner": "measurement.signer"}
    names |= {"rtmr3": "tdx.rtmr3", "tee_tcb_svn": "tdx.tee_tcb_svn", "debug": "debug"}
    for theirs, ours in names.items():
        if theirs in claims:
            assert found[ours] == claims[theirs]
    assert str(found["report_data"]).startswith(case.meta["report_data"])


@captured.needed
@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if "collateral" in c.files], ids=lambda case: case.id
)
def test_the_other_implementation_agrees(case: Case) -> None:
    """Where it errs because of our separate answers (debug, no level), the tier is contraindicated."""
    try:
        collateral = oracle.QuoteCollateralV3.from_json(case.files["collateral"].decode())
        theirs = oracle.verify(case.files["quote"], collateral, case.at)
    except ValueError:
        assert case.verdict().tier in (Status.CONTRAINDICATED, Status.NONE)
        return
    ours = case.verdict({"quote": case.files["quote"], "collateral": case.files["collateral"]})
    assert ours.tcb_status == theirs.status
    assert ours.claims["tcb.advisories"] == ",".join(sorted(theirs.advisory_ids))


@captured.needed
@good
def test_without_collateral_the_same_quote_has_no_tier(case: Case) -> None:
    found = case.verdict({"quote": case.files["quote"]})
    assert (found.tier, found.signature, found.chain) == (Status.NONE, Answer.AFFIRMED, Answer.AFFIRMED)


@captured.needed
@good
def test_collateral_means_the_same_in_any_shape(case: Case) -> None:
    bundle = json.loads(case.files["collateral"])
    expected = case.verdict({"quote": case.files["quote"], "collateral": case.files["collateral"]})
    parts = {name: value.encode() for name, value in bundle.items() if name.endswith(("crl", "chain"))}
    for name, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        answer = f'{{"{member}":{bundle[name]},"signature":"{bundle[name + "_signature"]}"}}'
        parts[name] = answer.encode()
    der = {name: bytes.fromhex(bundle[name]) for name in ("pck_crl", "root_ca_crl")}
    camel = {"".join(w.title() for w in name.split("_")): value for name, value in bundle.items()}
    shapes = [
        parts,
        parts | der,
        {f"file{index}": data for index, data in enumerate((parts | der).values())},
        {"all": json.dumps(camel, indent=2).encode()},
        {"all": json.dumps([bundle]).encode()},
        {"tcb": json.dumps({"x": json.loads(parts["tcb_info"])}, indent=1).encode()}
        | {**parts, "tcb_info": b""},
    ]
    for shape in shapes:
        found = case.verdict({"quote": case.files["quote"], **shape})
        assert (found.tier, found.tcb_status, found.claims) == (
            expected.tier,
            expected.tcb_status,
            expected.claims,
        )


@captured.needed
def test_collateral_of_another_platform_is_refused() -> None:
    pairs = [
        ("tdx/phala-tdx-v4-b0c06f", "tdx/google-v5-90c06f"),
        ("tdx/phala-tdx-v4-b0c06f", "sgx/phala-sgx-00a067110000"),
        ("sgx/phala-sgx-00a067110000", "tdx/phala-tdx-v4-b0c06f"),
    ]
    for mine, theirs in pairs:
        files = {"quote": CASES[mine].files["quote"], "collateral": CASES[theirs].files["collateral"]}
        found = CASES[mine].verdict(files, CASES[theirs].at)
        assert (found.tier, found.tcb) == (Status.CONTRAINDICATED, Answer.REFUSED)


@captured.needed
def test_the_parts_of_two_machines_do_not_make_a_quote() -> None:
    mine, theirs = CASES["tdx/phala-tdx-v4-b0c06f"], CASES["tdx/dstack-quote-report-eventlog"]
    a, b = mine.files["quote"], theirs.files["quote"]
    # Header and body of one, signature data of the other.
    spliced = a[: 48 + 584] + b[48 + 584 :]
    found = mine.verdict(mine.files | {"quote": spliced})
    assert (found.tier, found.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)
    start, key = 48 + 584 + 4, 64
    swapped = a[: start + 64] + b[start + 64 : start + 64 + key] + a[start + 64 + key :]
    found = mine.verdict(mine.files | {"quote": swapped})
    assert (found.tier, found.signature) == (Status.CONTRAINDICATED, Answer.REFUSED)


@captured.needed
def test_an_event_log_that_leads_elsewhere_is_refused() -> None:
    case = CASES["tdx/dstack-quote-report-eventlog"]
    report = json.loads(case.files["quote_report"])
    assert case.verdict().replay is Answer.AFFIRMED
    log = json.loads(report["event_log"])
    for changed in (
        log[:-1],
        [*log[:-1], log[-1] | {"event_payload": "00"}],
        [log[0] | {"imr": 9}, *log[1:]],
        [log[1], log[0], *log[2:]],
    ):
        text = json.dumps(report | {"event_log": json.dumps(changed)}).encode()
        found = case.verdict(case.files | {"quote_report": text})
        assert (found.tier, found.replay) == (Status.CONTRAINDICATED, Answer.REFUSED)


@captured.needed
def test_a_ccel_log_must_lead_to_the_registers() -> None:
    case = CASES["tdx/google-v4-cos113-ccel"]
    assert case.verdict().replay is Answer.AFFIRMED
    eventlog: Any = importlib.import_module("mesatee.attestation.tee.eventlog")
    log = case.files["ccel"]
    digest = next(event.digests["sha384"] for event in eventlog.parse(log).events if event.extends)
    for changed in (log.replace(digest, bytes(48)), b"junk"):
        found = case.verdict(case.files | {"ccel": changed})
        assert (found.tier, found.replay) == (Status.CONTRAINDICATED, Answer.REFUSED)


@captured.needed
def test_another_nonce_is_refused() -> None:
    case = CASES["tdx/google-v4-cos113-ccel"]
    assert case.verdict().binding is Answer.AFFIRMED
    found = case.verdict(case.files | {"nonce": b"\x01" * 64})
    assert (found.tier, found.binding) == (Status.CONTRAINDICATED, Answer.REFUSED)


# -- parsing ------------------------------------------------------------------------------------------


@captured.needed
@every
def test_quote_and_collateral_are_read(case: Case) -> None:
    opened = dcap.open_case(case.files)
    assert dcap_quote.parse(opened.quote).length <= len(opened.quote)
    pool = dcap_collateral.gather(opened.others)
    if "collateral" in case.files:
        assert pool.tcb_infos
        assert pool.identities
        for item in pool.tcb_infos:
            assert dcap_tcb.parse_tcb_info(item.text).levels
