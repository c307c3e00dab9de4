"""``mesatee trust explain``: what a trust file accepts, and why it refuses a piece of evidence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from .. import _core
from ..attestation import corpus
from ..attestation.explain import explain as judge
from ..errors import InputError, Malformed
from ..party import files
from ..protocol import limits
from .common import AsJson, emit, line, settings, verb

CBOR_TAG: Final = 6
"""The major type (RFC 8949) with which an extension begins: what is wrong inside of one is said as it is."""
FETCH: Final = "intel|amd|azure"

app = typer.Typer(no_args_is_help=True)


@app.callback()
def trust() -> None:
    """A group of its own, however few verbs it has."""


@app.command(name="explain")
@verb
def explain(
    context: typer.Context,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help="Evidence as a file: a channel certificate, its extension, a bundle, or any format that "
            "`attestation show` knows."
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Judge at this time, ISO 8601 or Unix seconds [now].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say in words what your trust file accepts, and of evidence why it is refused.

    Exit code 1 if the evidence is refused in every role.
    """
    chosen = settings(context)
    policy = chosen.trust()
    file = chosen.trust_file()
    value: dict[str, object] = {"trust": policy.explain(), "digest": policy.digest, "trust_file": str(file)}
    if evidence is None:
        emit(as_json, value, lambda console: _show(console, file, policy.explain(), None))
        return
    moment = corpus.parse_time(at)
    data = files.read(evidence, limits.CASE_FILE_BYTES, "evidence")
    kept = chosen.endorsements()()
    try:
        found = judge(_extension(data) or data, policy, int(time.time()) if moment is None else moment, kept)
    except InputError as error:
        if data and data[0] >> 5 == CBOR_TAG:
            raise
        raise Malformed(
            f"{evidence} is not evidence of a kind that is known here",
            hint="give a channel certificate, its extension, a bundle, or what `mesatee attestation show` knows",
        ) from error
    value["evidence"] = [item.as_dict() for item in found]
    said = [text for item in found for text in item.lines()]
    if any(reason.endswith("missing") for item in found for reason in item.refused):
        said.append(
            f"What is missing is looked for in your store: `mesatee endorsements fetch {FETCH}`, or import."
        )
    emit(as_json, value, lambda console: _show(console, file, policy.explain(), said))
    if all(item.refused for item in found):
        raise typer.Exit(1)


def _extension(data: bytes) -> bytes | None:
    """The evidence in a channel certificate; None for anything else."""
    try:
        ders = _core.pem_certificates(data) if data.lstrip().startswith(b"-----BEGIN CERT") else [data]
        return _core.parse_certificate(ders[0]).evidence if len(ders) == 1 else None
    except InputError:
        return None


def _show(console: Console, file: Path, trusted: list[str], said: list[str] | None) -> None:
    line(console, f"Your trust file {file} says:", "bold")
    for text in trusted:
        line(console, "  " + text)
    if said is not None:
        line(console, "")
        line(console, "Of this evidence:", "bold")
        for text in said:
            line(console, "  " + text)


__all__ = ["app", "explain"]
