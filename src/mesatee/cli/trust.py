"""``mesatee attest`` and ``mesatee verify``: judge a machine, judge a receipt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import _core
from ..attestation.appraisal import LEVELS, Answer, Appraisal
from ..attestation.verify import appraise, examine
from ..channel.client import reach
from ..errors import Malformed, MesateeError
from ..party import config, files, results
from ..party.identity import CERTIFICATE_SECONDS
from ..party.verify import verify_bundle
from ..protocol import limits, wire
from ..protocol.jsonstrict import parse_object
from ..protocol.model import validate
from . import taskview
from .common import AsJson, emit, facts, fail, line, moment, settings, verb


@verb
def attest(
    context: typer.Context,
    url: Annotated[str | None, typer.Argument(help="https://HOST:PORT [from the service file].")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a service for its evidence and say what it proves.

    No data is sent. Exit code 1 if your trust refuses it.
    """
    chosen = settings(context)
    trust = chosen.trust()
    where = config.endpoint(url or chosen.url())
    now = int(time.time())
    kept = chosen.endorsements()()
    shown: list[Appraisal] = []
    refusal: list[MesateeError] = []

    def judge(peer: _core.PeerCertificate) -> Appraisal:
        # Examining decides nothing; the connection carries no request, whatever the verdict is.
        shown.append(examine(peer.evidence, peer.spki, trust, now, "gateway", kept))
        try:
            return appraise(peer.evidence, peer.spki, trust, now, "gateway", kept)
        except MesateeError as error:
            refusal.append(error)
            raise

    # Nobody in particular asks: a fresh key shows the service nothing of who it is.
    key = _core.SigningKey.generate()
    certificate = _core.make_certificate(
        key, "attest", now - limits.CLOCK_SKEW_SECONDS, now + CERTIFICATE_SECONDS, None
    )
    try:
        reach(where.host, where.port, certificate, key, judge).close()
    except MesateeError as error:
        if not shown:
            raise
        refusal = refusal or [error]
    found = shown[0]
    value = {
        "accepted": not refusal,
        "appraisal": found.as_dict(),
        "trust": trust.explain(),
        "trust_file": str(chosen.trust_file()),
        "error": refusal[0].as_dict() if refusal else None,
    }
    if not refusal:
        del value["error"]
    why = _without(refusal[0].message, found.level_reason) if refusal else None
    emit(as_json, value, lambda console: _show(console, found, trust.explain(), chosen.trust_file(), why))
    if refusal:
        if not as_json:
            fail(type(refusal[0])(why or "", hint=refusal[0].hint), as_json=False)
        raise typer.Exit(1)


def _without(message: str, reason: str) -> str:
    """A refusal without what the level means: that is said once, above."""
    return message.replace(f": {reason}", "").replace(f"; {reason}", "")


def _show(console: Console, found: Appraisal, trusted: list[str], file: Path, refusal: str | None) -> None:
    said = "accepts this gateway." if refusal is None else f"refuses this gateway: {refusal}."
    line(console, f"Your trust file {file} {said}", "bold green" if refusal is None else "bold red")
    no_hardware = "" if found.hardware else ": no hardware takes part"
    rows = [
        ("status", found.status.value + no_hardware),
        ("level", f"{found.level} ({LEVELS[found.level]})"),
        ("what that means", found.level_reason),
        ("TEE class", found.tee + (", SIMULATED" if found.simulated else "")),
        ("measurement", found.measurement or "none"),
        ("service statement", found.service or "none"),
        ("signature", found.signature.value),
        ("chain", found.chain.value),
        ("TCB status", _answer(found.tcb, f"nobody spoke of the TCB of this machine of class {found.tee}")),
        ("policy", found.policy.value),
        (
            "freshness",
            _answer(found.freshness, "such evidence has no date; nonces showed that the key is live"),
        ),
        ("counts until", moment(found.expires)),
    ]
    facts(console, rows)
    for reason in found.reasons:
        if reason != found.level_reason:
            line(console, f"- {reason}")
    line(console, "")
    line(console, "It says:", "bold")
    for text in trusted:
        line(console, "  " + text)


def _answer(answer: Answer, why: str) -> str:
    """With the reason where something is not established."""
    return f"{answer.value}: {why}" if answer is Answer.NOT_ESTABLISHED else answer.value


@verb
def verify(
    context: typer.Context,
    receipt: Annotated[Path, typer.Argument(help="A receipt bundle, as `task result` writes it.")],
    as_json: AsJson = False,
) -> None:
    """Verify a receipt bundle offline, with nothing but your trust file, and compare the outputs beside it.

    A receipt names the sealed outputs. The opened ones are compared with the digests that `task result` noted when it
    wrote them.
    """
    chosen = settings(context)
    trust = chosen.trust()
    try:
        value = parse_object(
            files.read(receipt, limits.RESPONSE_BYTES, "receipt"), limit=limits.RESPONSE_BYTES
        )
        bundle = validate(wire.Bundle, value, "receipt bundle")
    except Malformed as error:
        raise Malformed(
            f"{receipt} is not a receipt: {error.message}",
            hint=f"give it the {results.RECEIPT_FILE} that `mesatee task result` wrote",
        ) from None
    found = verify_bundle(bundle, trust, int(time.time()), chosen.endorsements()())

    compared = results.compare(receipt)

    def human(console: Console) -> None:
        line(console, "The receipt is valid.", "bold green")
        taskview.show_receipt(console, found)
        line(console, _of_files(compared), "bold")

    emit(as_json, {"valid": True, "receipt": found.as_dict(), "files": compared}, human)


def _of_files(compared: list[str] | None) -> str:
    if not compared:
        return "No file beside it was compared: a receipt names the sealed outputs."
    return f"Beside it, unaltered since `task result` wrote them: {', '.join(compared)}."


__all__ = ["attest", "verify"]
