"""Cases, the policy that they are judged by, and what no check can talk its way around."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mesatee.attestation
from mesatee.attestation import corpus
from mesatee.attestation.appraisal import Answer, Status
from mesatee.attestation.verdict import Verdict
from mesatee.errors import (
    InputError,
    Malformed,
    MesateeError,
    SignatureInvalid,
    TooLarge,
    Unavailable,
    UnsupportedVersion,
)
from mesatee.protocol import limits

POLICY = (Path(mesatee.attestation.__file__).parent / "evidence-corpus.toml").read_bytes()
GOOD = replace(
    corpus.plain_verdict(Status.AFFIRMING),
    signature=Answer.AFFIRMED,
    chain=Answer.AFFIRMED,
    level=4,
    claims={"a": 1},
)
FILES = {"report": b"bytes"}


def use(monkeypatch: pytest.MonkeyPatch, check: corpus.Check) -> None:
    monkeypatch.setattr(corpus, "CHECKS", {**corpus.CHECKS, "snp": check})


def test_the_shipped_policy_is_the_default():
    assert corpus.CorpusPolicy.from_toml(POLICY) == corpus.CorpusPolicy()
    refused = POLICY.replace(b'missing_crl = "allowed"', b'missing_crl = "refused"')
    assert corpus.CorpusPolicy.from_toml(refused) == corpus.CorpusPolicy(missing_crl=False)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"version = 1", b"version = 2", UnsupportedVersion),
        (b"version = 1", b"", UnsupportedVersion),
        (b"version = 1", b"version = 1\nmore = 1", UnsupportedVersion),
        (b'debug = "contraindicated"', b'debug = "affirming"', UnsupportedVersion),
        (b'debug = "contraindicated"', b"", Malformed),
        (b'missing_crl = "allowed"', b"missing_crl = true", Malformed),
        (b'missing_crl = "allowed"', b"missing_crl = []", Malformed),
        (b'missing_crl = "allowed"', b'missing_crl = "allowed"\nother = 1', Malformed),
        (b"[evidence]", b"evidence = 1\n[evidence]", Malformed),
        (b"version", b"\xff", Malformed),
        (b"version = 1", b"version = " + b"[" * 20_000, Malformed),
        (b"version", b"#" * limits.TRUST_POLICY_BYTES + b"\nversion", TooLarge),
    ],
)
def test_policies_are_read_strictly(old: bytes, new: bytes, error: type[MesateeError]):
    assert old in POLICY
    with pytest.raises(error):
        corpus.CorpusPolicy.from_toml(POLICY.replace(old, new))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_policies_of_noise(noise: bytes):
    for text in (noise, POLICY + noise):
        with contextlib.suppress(InputError):
            corpus.CorpusPolicy.from_toml(text)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (None, None),
        (7, 7),
        (7.9, 7),
        (-1.5, -2),
        ("1700000000", 1_700_000_000),
        ("2022-10-13T08:58:02.136000+00:00", 1_665_651_482),
        ("2022-10-13T08:58:02Z", 1_665_651_482),
        ("2022-10-13T10:58:02+02:00", 1_665_651_482),
        ("2022-10-13 08:58:02", 1_665_651_482),
        ("2022-10-13", 1_665_619_200),
    ],
)
def test_times(value: object, at: int | None):
    assert corpus.parse_time(value) == at


@pytest.mark.parametrize(
    "value", [True, "", "soon", "-", [], {}, float("nan"), float("inf"), 2**63, "9" * 40, "²"]
)
def test_what_is_no_time(value: object):
    with pytest.raises(Malformed):
        corpus.parse_time(value)


def meta(**values: Any) -> bytes:
    return json.dumps(values).encode()


def test_a_question_is_all_but_the_answer():
    asked = corpus.question(
        meta(id="a", tee="snp", files={"report": "sub/r.bin"}, at=5, expected={"tier": "none"}, tcb=2**64 - 1)
    )
    assert asked == corpus.Question("a", "snp", {"report": "sub/r.bin"}, 5)
    assert corpus.question(b"{}") == corpus.Question(None, None, {}, None)
    assert not {"expected", "verified_by", "claims"} & set(corpus.Question.__slots__)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"at": ' + b"9" * 9_000 + b"}",
        meta(at="soon"),
        meta(tee=7),
        meta(id="x" * 257),
        meta(files=[]),
        meta(files={"a": 7}),
        *(
            meta(files={"a": name})
            for name in ("", "/etc/passwd", "../x", "a/../b", ".", "a//b", "a\\b", "a\0b")
        ),
    ],
)
def test_what_is_no_question(bad: bytes):
    with pytest.raises(Malformed):
        corpus.question(bad)


def test_limits_of_questions():
    most = {f"r{n}": "f" for n in range(limits.CASE_FILES)}
    assert len(corpus.question(meta(files=most)).names) == limits.CASE_FILES
    with pytest.raises(TooLarge):
        corpus.question(meta(files={**most, "one": "f"}))
    assert corpus.question(b"{}".ljust(limits.CASE_META_BYTES))
    with pytest.raises(TooLarge):
        corpus.question(b"{}".ljust(limits.CASE_META_BYTES + 1))


def test_expectations():
    assert corpus.expectation(meta(expected={"tier": "warning"})) == corpus.Expectation(Status.WARNING)
    assert corpus.expectation(meta(expected={"tier": None})) == corpus.Expectation(None)
    for nothing in (b"", b"[", meta(), meta(expected={}), meta(expected=7), meta(expected={"tier": "fine"})):
        assert corpus.expectation(nothing) is None


def test_a_check_sees_role_bytes_and_time_alone(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def check(files: Mapping[str, bytes], at: int | None, policy: corpus.CorpusPolicy) -> Verdict:
        seen.append((dict(files), at, policy))
        return GOOD

    use(monkeypatch, check)
    found = corpus.check_folder({"tee": "snp", "at": "1970-01-01", "expected": {"tier": "none"}}, FILES)
    assert found == GOOD
    assert seen == [(FILES, 0, corpus.CorpusPolicy())]


def test_what_is_not_built_in_is_said(monkeypatch: pytest.MonkeyPatch):
    assert corpus.check_folder({"tee": "x"}, FILES).reasons == ("no verifier for x is built in",)
    assert corpus.check_folder({}, FILES).tier is Status.NONE
    assert corpus.check_folder({"at": "soon", "tee": "snp"}, FILES).tier is Status.NONE
    missing = corpus._lazy("abacus", "abacus")({}, None, corpus.CorpusPolicy())
    assert (missing.tier, missing.reasons) == (Status.NONE, ("no verifier for abacus is built in",))


def test_without_a_name_the_contents_decide(monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, lambda files, at, policy: replace(GOOD, claims={"roles": ",".join(sorted(files))}))
    report = (2).to_bytes(4, "little") + bytes(0x30) + (1).to_bytes(4, "little") + bytes(1_184 - 0x38)
    for tee in (None, "sev"):
        found = corpus.check_folder({"tee": tee}, {"blob": report.hex().encode()})
        assert found.tier is Status.AFFIRMING
        assert found.claims["roles"] == "blob,report"
        assert found.reasons == ("taken for snp by its contents: SNP report version 2",)


@pytest.mark.parametrize(
    ("error", "tier"),
    [
        (Malformed("torn"), Status.CONTRAINDICATED),
        (SignatureInvalid("forged"), Status.CONTRAINDICATED),
        (Unavailable("later"), Status.NONE),
        (IndexError("a flaw"), Status.NONE),
        (RecursionError(), Status.NONE),
    ],
)
def test_what_a_check_raises_is_a_verdict(monkeypatch: pytest.MonkeyPatch, error: Exception, tier: Status):
    def check(files: Mapping[str, bytes], at: int | None, policy: corpus.CorpusPolicy) -> Verdict:
        raise error

    use(monkeypatch, check)
    found = corpus.check("snp", FILES, None, corpus.CorpusPolicy())
    assert (found.tier, found.level) == (tier, 1)
    assert found.reasons[0] in (str(error), f"internal error: {type(error).__name__}")


def test_large_files_are_not_shown_to_a_check(monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, lambda files, at, policy: GOOD)
    policy = corpus.CorpusPolicy()
    assert corpus.check("snp", {"a": bytes(limits.CASE_FILE_BYTES)}, None, policy).tier is Status.AFFIRMING
    over = corpus.check("snp", {"a": bytes(limits.CASE_FILE_BYTES + 1)}, None, policy)
    assert over.tier is Status.CONTRAINDICATED


@pytest.mark.parametrize("name", ["signature", "chain", "revocation", "replay", "binding"])
@pytest.mark.parametrize("tier", [Status.AFFIRMING, Status.WARNING])
def test_no_check_affirms_over_a_refusal(monkeypatch: pytest.MonkeyPatch, name: str, tier: Status):
    use(monkeypatch, lambda files, at, policy: replace(GOOD, tier=tier, **{name: Answer.REFUSED}))
    found = corpus.check("snp", FILES, None, corpus.CorpusPolicy())
    assert (found.tier, found.level) == (Status.CONTRAINDICATED, 1)


@pytest.mark.parametrize("name", ["signature", "chain"])
def test_no_check_affirms_without_signature_and_chain(monkeypatch: pytest.MonkeyPatch, name: str):
    use(monkeypatch, lambda files, at, policy: replace(GOOD, **{name: Answer.NOT_ESTABLISHED}))
    assert corpus.check("snp", FILES, None, corpus.CorpusPolicy()).tier is Status.NONE


def test_a_policy_may_ask_for_revocation_lists(monkeypatch: pytest.MonkeyPatch):
    policy = corpus.CorpusPolicy(missing_crl=False)
    use(monkeypatch, lambda files, at, policy: GOOD)
    assert corpus.check("snp", FILES, None, policy).tier is Status.CONTRAINDICATED
    use(monkeypatch, lambda files, at, policy: replace(GOOD, revocation=Answer.AFFIRMED))
    assert corpus.check("snp", FILES, None, policy).tier is Status.AFFIRMING


def test_every_name_has_a_check():
    assert sorted(corpus.CHECKS) == [
        "azure-vtpm",
        "cca",
        "eventlog",
        "keystone",
        "nitro",
        "nvidia-gpu",
        "optee",
        "psa",
        "ratls",
        "sgx",
        "snp",
        "tdx",
        "tpm",
    ]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(corpus.CHECKS)), st.binary(max_size=200), st.one_of(st.none(), st.integers()))
def test_noise_is_never_affirmed(tee: str, noise: bytes, at: int | None):
    roles = ("quote", "report", "document", "token", "hcl_report", "eventlog", "spdm", "certificate")
    found = corpus.check(tee, dict.fromkeys(roles, noise), at, corpus.CorpusPolicy())
    assert found.tier in (Status.NONE, Status.CONTRAINDICATED)
    assert not any(reason.startswith("internal error") for reason in found.reasons)
