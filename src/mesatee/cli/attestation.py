"""``mesatee attestation``: judge captured evidence of machines, offline."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from .. import attestation as _package
from ..attestation import corpus, detect
from ..attestation.appraisal import LEVELS, Answer, Status
from ..attestation.endorsements import beside, free_name
from ..attestation.evidence import PLATFORM_TEES
from ..attestation.trust import TrustPolicy
from ..attestation.verdict import Verdict
from ..errors import InputError, Malformed, NotFound, TooLarge
from ..party import files
from ..protocol import limits
from .common import AsJson, emit, facts, line, settings, table, verb

META: Final = "meta.json"
ANSWERS_COLUMNS: Final = 84
"""What the answers of a case take beside its id, in columns."""
POLICY: Final = "evidence-corpus.toml"

app = typer.Typer(no_args_is_help=True)

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="What evidence must show, as TOML [the built-in corpus policy]."),
]


def read_policy(path: Path | None) -> corpus.CorpusPolicy:
    """The policy of a file, or the one that comes with the package. Raises `InputError` or `NotFound`."""
    chosen = path or Path(_package.__file__).with_name(POLICY)
    text = files.read(chosen, limits.TRUST_POLICY_BYTES, "policy")
    try:
        return corpus.CorpusPolicy.from_toml(text)
    except InputError as error:
        failure = error
    try:
        TrustPolicy.from_toml(text)
    except InputError:
        raise type(failure)(
            f"{chosen}: {failure.message}",
            hint=f"it says what src/mesatee/attestation/{POLICY} says, in its words",
        ) from None
    raise Malformed(
        f"{chosen} is a trust policy, and captured evidence is judged by another kind",
        hint="`mesatee --trust FILE trust explain --evidence FILE` judges by a trust policy",
    )


# -- check ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with its verdict."""

    id: str
    verdict: Verdict
    meta: bytes | None
    """Where its expectation is read from, once all cases are judged."""


@app.command(name="check")
@verb
def check(
    folder: Annotated[Path, typer.Argument(help="A folder with cases at any depth; a case has a meta.json.")],
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Judge every case in a folder, and then compare with what the cases expect.

    A case is a folder with a meta.json that names its files by role, its TEE and the time at which to judge.
    Exit code 0 if every folder could be walked; verdicts that disagree are listed.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", hint="check the path")
    rules = read_policy(policy)
    # Pass 1: all verdicts, from evidence alone. Pass 2: what the cases expect.
    judged = [judge(path, folder, rules) for path in find(folder)]
    cases = [case_dict(item) for item in judged]
    value = {"cases": cases, "counts": count(cases)}
    emit(as_json, value, lambda console: _show_cases(console, value))


def find(folder: Path) -> Iterator[Path]:
    """Folders with a meta.json, in order of their names; links to folders are not followed. Raises `TooLarge`."""
    found = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        if META in names:
            found += 1
            if found > limits.CASES:
                raise TooLarge(f"more than {limits.CASES} cases")
            yield Path(root)


def judge(case: Path, top: Path, policy: corpus.CorpusPolicy) -> Judged:
    """The verdict on one case; what cannot be read is a reason, never an exception."""
    name = case.relative_to(top).as_posix()
    try:
        meta = _read(case, META, limits.CASE_META_BYTES)
    except InputError as error:
        return Judged(name, corpus.plain_verdict(Status.NONE, f"{META}: {error.message}"), None)
    except NotFound as error:
        return Judged(name, corpus.plain_verdict(Status.NONE, f"{META}: {error.message}"), None)
    try:
        asked = corpus.question(meta)
    except InputError as error:
        return Judged(name, corpus.plain_verdict(Status.NONE, f"{META}: {error.message}"), meta)
    found: dict[str, bytes] = {}
    notes: list[str] = []
    for role, file in asked.names.items():
        try:
            found[role] = _read(case, file, limits.CASE_FILE_BYTES)
        except TooLarge as error:
            refused = corpus.plain_verdict(Status.CONTRAINDICATED, f"the file of {role}: {error.message}")
            return Judged(asked.id or name, refused, meta)
        except (InputError, NotFound) as error:
            # Optional collateral may be missing; without the evidence itself a verifier establishes nothing.
            notes.append(f"the file of {role} is passed over: {error.message}")
    if not found:
        verdict = corpus.plain_verdict(Status.NONE, "the case has no file that could be read")
    else:
        verdict = corpus.check(asked.tee, found, asked.at, policy)
    return Judged(asked.id or name, replace(verdict, reasons=(*verdict.reasons, *notes)), meta)


def _read(case: Path, name: str, limit: int) -> bytes:
    path = case / name
    # A link could lead anywhere, and a pipe would never end.
    if not path.resolve().is_relative_to(case.resolve()):
        raise Malformed("it leads out of the case's folder")
    if path.exists() and not path.is_file():
        raise Malformed("it is not a file")
    try:
        return files.read(path, limit, "file")
    except OSError as error:
        raise Malformed(f"it cannot be read: {error.strerror}") from None


def case_dict(judged: Judged) -> dict[str, Any]:
    """One case of the JSON output; the second pass, which reads what the case expects."""
    value = judged.verdict.as_dict()
    value = {"id": judged.id, "verdict": value.pop("tier"), **value}
    expected = corpus.expectation(judged.meta) if judged.meta is not None else None
    if expected is not None:
        value["expected"] = None if expected.tier is None else expected.tier.value
        if expected.tier is not None:
            value["agrees"] = expected.tier is judged.verdict.tier
    return value


def count(cases: list[dict[str, Any]]) -> dict[str, int]:
    """Cases by tier, and by whether they are as expected."""
    tiers = Counter(case["verdict"] for case in cases)
    agrees = [case.get("agrees") for case in cases]
    return {
        **{tier.value: tiers[tier.value] for tier in Status},
        "agree": agrees.count(True),
        "disagree": agrees.count(False),
        "without_expectation": agrees.count(None),
    }


def _show_cases(console: Console, value: Mapping[str, Any]) -> None:
    cases = value["cases"]
    words = {True: "as expected", False: "DISAGREES", None: ""}
    rows = [
        (
            case["id"],
            case["verdict"],
            case["signature"],
            case["chain"],
            case["tcb_status"] or case["tcb"],
            case["level"],
            words[case.get("agrees")],
        )
        for case in cases
    ]
    if max((len(case["id"]) for case in cases), default=0) > console.width - ANSWERS_COLUMNS:
        # A path that is broken into pieces cannot be copied: it gets a line of its own.
        for name, *answers in rows:
            line(console, name)
            line(console, "  " + ", ".join(str(item) for item in answers if item != ""))
    else:
        heads = ("case", "verdict", "signature", "chain", "TCB", "level", "")
        table(console, heads, rows, f"there is no case here: no folder in it has a {META}")
    for case in cases:
        unread = [reason for reason in case["reasons"] if reason.startswith(f"{META}: ")]
        if case.get("agrees") is False or unread:
            but = f"{case['verdict']}, but expected {case['expected']}" if not unread else "not judged"
            line(console, "")
            line(console, f"{case['id']}: {but}", "bold red")
            for reason in unread or case["reasons"]:
                line(console, f"  - {reason}")
    line(console, "")
    line(console, ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in value["counts"].items()))


# -- verify and show --------------------------------------------------------------------------------


@app.command(name="verify")
@verb
def verify(
    context: typer.Context,
    evidence: Annotated[Path, typer.Argument(help="Evidence as a file, in any format that `show` knows.")],
    at: Annotated[
        str | None, typer.Option(help="Judge at this time, ISO 8601 or Unix seconds [now].")
    ] = None,
    policy: PolicyFile = None,
    collateral: Annotated[
        Path | None,
        typer.Option(
            help="Folder with certificates, revocation lists, TCB information, logs [your endorsements]."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge one piece of evidence. Exit code 1 unless it is affirming."""
    rules = read_policy(policy)
    moment = int(time.time()) if at is None else corpus.parse_time(at)
    found = detect.detect(files.read(evidence, limits.CASE_FILE_BYTES, "evidence"))
    given: Mapping[str, bytes] = found.files
    if collateral is not None:
        given = beside(_collateral(collateral, found.tee), given)
    elif found.tee in PLATFORM_TEES:
        # Only what is about this machine, or about all of its class.
        kept = settings(context).endorsements()()
        given = beside(kept.lookup(found.tee, corpus.subject(found.tee, found.files)), given)
    judged = Judged(evidence.name, corpus.check(found.tee, given, moment, rules), None)
    value = {**case_dict(judged), "tee": found.tee, "kind": found.kind, "at": moment}

    def human(console: Console) -> None:
        _show_verdict(console, judged.verdict, found, given)
        timed = (judged.verdict.chain, judged.verdict.revocation, judged.verdict.tcb)
        if at is None and Answer.REFUSED in timed:
            line(
                console,
                "It was judged as of now: what has expired since it was made counts again with --at TIME.",
            )

    emit(as_json, value, human)
    if judged.verdict.tier is not Status.AFFIRMING:
        raise typer.Exit(1)


def _collateral(folder: Path, tee: str) -> dict[str, bytes]:
    """Each file of a folder under a role from its name. Raises `NotFound` or `TooLarge`."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", hint="check the path")
    found: dict[str, bytes] = {}
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != META]
    if len(paths) > limits.CASE_FILES:
        raise TooLarge(f"a collateral folder has {limits.CASE_FILES} files at most")
    for path in paths:
        # Two files of one role are both kept, so that nothing that was given is dropped.
        role = free_name(detect.role_of(path.name, tee), found)
        found[role] = files.read(path, limits.CASE_FILE_BYTES, "collateral")
    return found


@app.command(name="show")
@verb
def show(
    evidence: Annotated[Path, typer.Argument(help="Evidence as a file.")], as_json: AsJson = False
) -> None:
    """Say what a file is and what it claims, without judging it."""
    data = files.read(evidence, limits.CASE_FILE_BYTES, "evidence")
    found = detect.detect(data)
    verdict = corpus.check(found.tee, found.files, None, read_policy(None))
    value = {
        "tee": found.tee,
        "kind": found.kind,
        "wrapping": list(found.wrapping),
        "roles": {role: len(content) for role, content in found.files.items()},
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "measurement": verdict.measurement,
        "claims": dict(verdict.claims),
        "notes": list(verdict.reasons),
    }

    def human(console: Console) -> None:
        wrapped = f" in {' in '.join(reversed(found.wrapping))}" if found.wrapping else ""
        facts(
            console,
            [
                ("kind", found.kind + wrapped),
                ("TEE class", found.tee),
                ("bytes", len(data)),
                ("SHA-256", value["sha256"]),
                ("measurement", verdict.measurement or "none"),
                *verdict.claims.items(),
            ],
        )
        line(console, "Nothing here was judged: `mesatee attestation verify` does.")

    emit(as_json, value, human)


def _show_verdict(
    console: Console, verdict: Verdict, found: detect.Found, given: Mapping[str, bytes]
) -> None:
    rows: list[tuple[str, object]] = [
        ("verdict", verdict.tier.value + (", SIMULATED" if verdict.simulated else "")),
        ("level", f"{verdict.level} ({LEVELS[verdict.level]})"),
        ("kind", found.kind),
        ("signature", verdict.signature.value),
        ("chain", verdict.chain.value),
        ("revocation", verdict.revocation.value),
        ("TCB", verdict.tcb_status or verdict.tcb.value),
        ("replay", verdict.replay.value),
        ("binding", verdict.binding.value),
        ("measurement", verdict.measurement or "none"),
        ("files", ", ".join(sorted(given))),
        *verdict.claims.items(),
    ]
    facts(console, rows)
    for reason in verdict.reasons:
        line(console, f"- {reason}")


__all__ = ["app", "case_dict", "count", "find", "judge", "read_policy"]
