"""The verbs `mesatee endorsements ...`, against the vendors' services in small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import captured
from tests.support.vendors import (
    CHIP,
    DAY,
    FMSPC,
    NOW,
    Kds,
    Pcs,
    Reply,
    Thim,
    certificate,
    pck,
    pem,
    quote_of,
    report,
)
from typer.testing import CliRunner

from mesatee import _core
from mesatee.attestation import corpus, detect, subjects
from mesatee.attestation.appraisal import Status
from mesatee.attestation.bundle import Bundle
from mesatee.attestation.endorsements import Endorsement
from mesatee.attestation.tee import platform
from mesatee.cli.main import app
from mesatee.endorse import Store

CHAIN = pem(pck(), certificate("Intel SGX PCK Processor CA", "Root"))


class Home:
    """A home folder and the command line in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        words = ["--home", self.path, "endorsements", *arguments]
        done = CliRunner().invoke(app, [str(word) for word in words])
        return done.exit_code, done.stdout

    def json(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        found, text = self.run(*arguments, "--json")
        assert found == code, text
        value: dict[str, Any] = json.loads(text)
        return value

    def error(self, *arguments: str | Path) -> dict[str, str]:
        error: dict[str, str] = self.json(*arguments, code=1)["error"]
        return error


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def pcs() -> Iterator[Pcs]:
    with (made := Pcs(cache=True)).running():
        yield made


@pytest.fixture
def kds() -> Iterator[Kds]:
    with (made := Kds()).running():
        yield made


@pytest.fixture
def thim() -> Iterator[Thim]:
    with (made := Thim()).running():
        yield made


def wrote(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# -- fetch ------------------------------------------------------------------------------------------


def test_fetch_for_a_quote(home: Home, pcs: Pcs, tmp_path: Path):
    quote = wrote(tmp_path / "quote.hex", quote_of(CHAIN, 4, tdx=True).hex().encode())
    value = home.json("fetch", "intel", quote, "--url", pcs.url, "--out", tmp_path / "out")
    assert value["kept"] == len(value["endorsements"]) == 7
    assert {item["tee"] for item in value["endorsements"]} == {"tdx"}
    assert home.store.load().lookup("tdx", FMSPC)["tcb_info_response"] == pcs.tcb["tdx", FMSPC]
    (written,) = (tmp_path / "out").iterdir()
    assert detect.role_of(written.name, "tdx") == "collateral"
    assert json.loads(written.read_bytes())["root_ca_crl"] == pcs.root_crl.hex()
    # What is kept completes evidence of this platform, and of no other.
    bundle = Bundle("tdx", {"quote": quote_of(CHAIN, 4, tdx=True)})
    assert platform.complete(bundle, home.store.load()).files["pck_crl_processor"] == pcs.crls["processor"][0]
    other = Bundle("tdx", {"quote": quote_of(pem(pck("ffffffffffff")), 4, tdx=True)})
    assert "tcb_info_response" not in platform.complete(other, home.store.load()).files
    code, text = home.run("fetch", "intel", quote, "--url", pcs.url)
    assert code == 0
    assert "tcb_info_response" in text


def test_a_time_that_was_given_does_not_keep_newer_ones_out(home: Home, pcs: Pcs, tmp_path: Path):
    quote = wrote(tmp_path / "quote", quote_of(CHAIN))
    value = home.json("fetch", "intel", quote, "--url", pcs.url, "--at", str(NOW + 10 * DAY))
    assert all(item["fetched"] < NOW + DAY for item in value["endorsements"])
    pcs.set_tcb("sgx", end=NOW + 22 * DAY)
    home.json("fetch", "intel", quote, "--url", pcs.url)
    assert home.store.load().lookup("sgx", FMSPC)["tcb_info_response"] == pcs.tcb["sgx", FMSPC]


def test_fetch_for_a_quote_that_other_evidence_holds(home: Home, pcs: Pcs, tmp_path: Path):
    quote = wrote(tmp_path / "td_quote.bin", quote_of(CHAIN, 4, tdx=True))
    value = home.json("fetch", "intel", quote, "--url", pcs.url, "--class", "azure-vtpm", "--early")
    assert {item["tee"] for item in value["endorsements"]} == {"azure-vtpm"}
    assert pcs.asked[0].startswith("/tdx/")
    assert pcs.asked[0].endswith("update=early")
    error = home.error("fetch", "intel", quote, "--url", pcs.url, "--class", "abacus")
    assert error["code"] == "malformed"
    assert "azure-vtpm" in error["hint"]


def test_fetch_for_a_report(home: Home, kds: Kds, tmp_path: Path):
    path = wrote(tmp_path / "report.bin", report())
    value = home.json("fetch", "amd", path, "--url", kds.url, "--out", tmp_path / "out")
    assert [item["role"] for item in value["endorsements"]] == ["crl", "ask_ark", "vcek"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["ask_ark.pem", "crl.der", "vcek.der"]
    assert [detect.role_of(name, "snp") for name in names] == ["ask_ark", "crl", "vcek"]
    files = platform.complete(Bundle("snp", {"report": report()}), home.store.load()).files
    assert set(files) == {"report", "ask_ark", "crl", "vcek"}
    old = wrote(tmp_path / "old.bin", report(version=2))
    assert "--product" in home.error("fetch", "amd", old, "--url", kds.url)["hint"]
    home.json("fetch", "amd", old, "--url", kds.url, "--product", "Milan")


def test_fetch_on_azure(home: Home, thim: Thim, tmp_path: Path):
    value = home.json("fetch", "azure", "--url", thim.url, "--out", tmp_path / "out")
    assert {(item["tee"], item["subject"]) for item in value["endorsements"]} == {
        ("azure-vtpm", CHIP.hex()), ("snp", CHIP.hex())
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ask_ark.pem", "vcek.pem"]
    mine = wrote(tmp_path / "mine", report())
    home.json("fetch", "azure", mine, "--url", thim.url)
    other = wrote(tmp_path / "other", report(chip=b"\xab" * 64))
    assert "another chip" in home.error("fetch", "azure", other, "--url", thim.url)["message"]
    hidden = wrote(tmp_path / "hidden", report(chip=b""))
    assert home.error("fetch", "azure", hidden, "--url", thim.url)["code"] == "not_found"


def test_failures_are_said_and_nothing_is_kept(home: Home, pcs: Pcs, kds: Kds, tmp_path: Path):
    quote = wrote(tmp_path / "quote", quote_of(CHAIN))
    unknown = wrote(tmp_path / "unknown", quote_of(pem(pck("0000000000ff"))))
    snp = wrote(tmp_path / "report", report())
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("intel", unknown, "--url", pcs.url), "not_found"),
        (("intel", snp, "--url", pcs.url), "not_found"),
        (("amd", quote, "--url", kds.url), "not_found"),
        (("intel", wrote(tmp_path / "junk", b"junk"), "--url", pcs.url), "malformed"),
        (("intel", tmp_path / "none", "--url", pcs.url), "not_found"),
        (("intel", quote, "--url", "http://pccs.example"), "malformed"),
        (("intel", quote, "--url", pcs.url, "--root-crl", "ftp://a"), "malformed"),
        (("intel", quote, "--url", pcs.url, "--root-crl", f"{pcs.url}/none"), "not_found"),
        (("intel", quote, "--url", pcs.url, "--ca-file", tmp_path / "none"), "malformed"),
        (("intel", quote, "--url", pcs.url, "--at", "soon"), "malformed"),
        (("intel", quote, "--url", pcs.url, "--at", str(NOW + 21 * DAY)), "expired"),
        (("intel", wrote(tmp_path / "other", quote_of(CHAIN, kind=3)), "--url", pcs.url), "not_found"),
    ]
    for arguments, code in cases:
        found = home.error("fetch", *arguments)
        assert found["code"] == code, (arguments, found)
        assert found["hint"]
    pcs.fail("identity", Reply(status=500))
    assert home.error("fetch", "intel", quote, "--url", pcs.url)["code"] == "unavailable"
    # Three of four answers had come.
    pcs.fail("rootcacrl", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n")
    assert home.error("fetch", "intel", quote, "--url", pcs.url)["code"] == "unavailable"
    assert not home.path.exists()
    home.json("fetch", "intel", quote, "--url", pcs.url)


# -- the store --------------------------------------------------------------------------------------


def test_list_export_import_and_drop(home: Home, tmp_path: Path):
    assert home.json("list") == {"endorsements": [], "references": 0, "digest": home.store.load().digest}
    assert "no endorsement is kept" in home.run("list")[1]
    home.store.add(
        [
            Endorsement("snp", "ab" * 64, "vcek", b"v", NOW, None),
            Endorsement("tdx", "", "root_ca_crl", b"r", NOW, NOW + 50 * DAY),
            Endorsement("tdx", FMSPC, "tcb_info_response", b"t", NOW, NOW - 1),
        ]
    )
    value = home.json("list")
    roles = ["tcb_info_response", "root_ca_crl", "vcek"]
    assert [item["role"] for item in value["endorsements"]] == roles
    assert [item["over"] for item in value["endorsements"]] == [True, False, False]
    assert value["digest"] == home.store.load().digest
    assert "OVER" in home.run("list")[1]
    for days, count in ((0, 1), (49, 1), (51, 2)):
        assert len(home.json("list", "--within", str(days))["endorsements"]) == count
    assert home.run("list", "--within", "-1")[0] == 2

    file = tmp_path / "export.json"
    assert home.json("export", file)["kept"] == 3
    assert file.stat().st_mode & 0o777 == 0o600
    assert home.error("export", file)["code"] == "conflict"
    there = Home(tmp_path / "there")
    assert there.json("import", file) == {"new": 3, "kept": 3, "references": 0}
    assert there.json("import", file) == {"new": 0, "kept": 3, "references": 0}
    assert "3 are kept" in there.run("import", file)[1]
    assert there.error("import", tmp_path / "none")["code"] == "not_found"
    assert there.error("import", wrote(tmp_path / "junk", b"{"))["code"] == "malformed"

    dropped = there.json("drop-expired")
    assert [item["role"] for item in dropped["endorsements"]] == ["tcb_info_response"]
    assert dropped["dropped"] == 1
    assert there.json("drop-expired")["dropped"] == 0
    assert len(there.json("list")["endorsements"]) == 2


def test_an_empty_store_says_how_to_fill_it_and_is_not_exported(home: Home, tmp_path: Path):
    for verb in ("list", "drop-expired"):
        assert "endorse" in home.run(verb)[1]
    error = home.error("export", tmp_path / "x")
    assert (error["code"], "endorsements fetch" in error["hint"]) == ("not_found", True)
    assert not (tmp_path / "x").exists()


def test_a_damaged_store(home: Home):
    home.store.add([Endorsement("snp", "", "ask_ark", b"a", NOW, None)])
    home.store.path.write_bytes(b"{")
    for verb in (["list"], ["drop-expired"], ["export", str(home.path / "x")]):
        error = home.error(*verb)
        assert error["code"] == "corrupt"
        assert str(home.store.path) in error["hint"]


# -- from a vendor to a verdict ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tee", "name"),
    [
        ("tdx", "phala-tdx-v4-b0c06f"),
        ("tdx", "dstack-quote-report-eventlog"),
        ("tdx", "google-v5-90c06f"),
        ("sgx", "phala-sgx-00a067110000"),
    ],
)
def test_what_was_fetched_makes_a_quote_affirming(home: Home, pcs: Pcs, tmp_path: Path, tee: str, name: str):
    at, files = captured.timed(tee, name)
    named = subjects.find(tee, files)
    assert isinstance(named, subjects.IntelPlatform)
    pcs.set_captured(tee, named.fmspc, named.ca, json.loads(files["collateral"]))
    quote = wrote(tmp_path / "quote.bin", files["quote"])
    out = tmp_path / "out"
    # That platform of SGX was not up to date.
    wanted = Status.AFFIRMING if tee == "tdx" else Status.WARNING

    def verdict(*more: str | Path) -> Any:
        words = ["attestation", "verify", quote, "--at", at, "--json", *more]
        done = CliRunner().invoke(app, [str(word) for word in words])
        return json.loads(done.stdout)

    assert verdict()["verdict"] == "none"
    home.json("fetch", "intel", quote, "--url", pcs.url, "--at", str(at), "--out", out)
    assert verdict("--collateral", out)["verdict"] == wanted.value
    # The same from the store, as a channel completes evidence.
    bundle = platform.complete(Bundle(tee, {"quote": files["quote"]}), home.store.load())
    found = corpus.check(tee, bundle.files, at, corpus.CorpusPolicy())
    assert found.tier is wanted, found.reasons


@pytest.mark.parametrize("name", ["microsoft-milan", "microsoft-genoa", "microsoft-turin"])
def test_what_was_fetched_makes_a_report_affirming(home: Home, kds: Kds, tmp_path: Path, name: str):
    at, files = captured.timed("snp", name)
    named = subjects.find("snp", files)
    assert isinstance(named, subjects.AmdPlatform)
    assert named.product is not None
    (der,) = _core.pem_certificates(files["vcek"])
    kds.set_captured(named, named.product, der, files["ask_ark"])
    path, out = wrote(tmp_path / "report.bin", files["report"]), tmp_path / "out"
    home.json("fetch", "amd", path, "--url", kds.url, "--at", str(at), "--out", out)
    # The list of the service in small is of another key, and nobody captured AMD's.
    (out / "crl.der").unlink()
    words = ["attestation", "verify", path, "--at", at, "--json", "--collateral", out]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert json.loads(done.stdout)["verdict"] == "affirming", done.stdout
    bundle = platform.complete(Bundle("snp", {"report": files["report"]}), home.store.load())
    pieces = {role: data for role, data in bundle.files.items() if role != "crl"}
    assert corpus.check("snp", pieces, at, corpus.CorpusPolicy()).tier is Status.AFFIRMING


def test_what_an_azure_machine_fetched_makes_its_evidence_affirming(home: Home, thim: Thim, tmp_path: Path):
    at, files = captured.timed("azure-vtpm", "az-snp-trustee-genoa")
    thim.value |= {"vcekCert": files["vcek"].decode(), "certificateChain": files["ask_ark"].decode()}
    path = wrote(tmp_path / "hcl_report.bin", files["hcl_report"])
    home.json("fetch", "azure", path, "--url", thim.url, "--at", str(at))
    bare = {
        role: data for role, data in files.items() if role in ("hcl_report", "quote", "signature", "pcrs")
    }
    assert corpus.check("azure-vtpm", bare, at, corpus.CorpusPolicy()).tier is Status.NONE
    bundle = platform.complete(Bundle("azure-vtpm", bare), home.store.load())
    found = corpus.check("azure-vtpm", bundle.files, at, corpus.CorpusPolicy())
    assert found.tier is Status.AFFIRMING, found.reasons
