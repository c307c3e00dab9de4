"""``mesatee endorsements``: what vendors say of machines, collected ahead of time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console

from ..attestation import corpus, detect, subjects
from ..attestation.endorsements import Endorsement, Endorsements
from ..attestation.evidence import PLATFORM_TEES
from ..endorse import Service, Store, amd, azure, intel
from ..endorse.service import base_address, tls
from ..errors import Malformed, NotFound
from ..party import files
from ..protocol import limits
from .common import AsJson, emit, line, moment, settings, size, table, verb

DAY: Final = 86_400
DAYS: Final = 36_500
"""How far ahead `list --within` looks, in days: vendors' roots live for decades."""
SUBJECT_SHOWN: Final = 12
"""Hex digits of a subject that tables show."""

app = typer.Typer(no_args_is_help=True)
fetch = typer.Typer(no_args_is_help=True)
app.add_typer(fetch, name="fetch", help="Ask a vendor's service for what a verifier needs.")


class ProductName(StrEnum):
    """Products as AMD's service names them."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


Evidence = Annotated[
    Path, typer.Argument(help="Evidence as a file, in any format that `attestation show` knows.")
]
Url = Annotated[
    str | None, typer.Option(help="Base address of the service or of a cache of it [the vendor's].")
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca-file", help="CA certificates for TLS to the service, PEM [this machine's]."),
]
At = Annotated[str | None, typer.Option(help="Take this as the time, ISO 8601 or Unix seconds [now].")]
Out = Annotated[
    Path | None,
    typer.Option(help="Also write files into this folder, as `attestation verify --collateral` takes them."),
]
Class = Annotated[
    str | None, typer.Option("--class", help="Class of evidence that they are kept for [that of FILE].")
]


HOW_TO_GET: Final = (
    "`mesatee endorsements fetch intel|amd|azure` gets some, `import` takes those of another machine"
)
NONE_KEPT: Final = f"no endorsement is kept: {HOW_TO_GET}"


# -- the store --------------------------------------------------------------------------------------


@app.command(name="list")
@verb
def list_(
    context: typer.Context,
    within: Annotated[
        int | None,
        typer.Option(min=0, max=DAYS, help="Only what will be over within so many days, or is already."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what is kept, what ends first at the top."""
    now = int(time.time())
    kept = Store(settings(context).home).load()
    items = list(kept.items) if within is None else [i for i in kept.items if i.is_over(now + within * DAY)]
    empty = NONE_KEPT if not kept.items else f"none of the {len(kept.items)} that are kept is over by then"
    _emit(as_json, items, now, {"references": len(kept.references), "digest": kept.digest}, empty)


@app.command(name="import")
@verb
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A collection, as `export` writes it.")],
    as_json: AsJson = False,
) -> None:
    """Add a collection; of two of a kind the one stays that is newer by its issuer's word."""
    store = Store(settings(context).home)
    before = store.load()
    data = files.read(file, limits.ENDORSEMENTS_BYTES, "collection")
    kept = store.import_(data, int(time.time()))
    new = [item for item in kept.items if item not in before.items]
    value = {"new": len(new), "kept": len(kept.items), "references": len(kept.references)}
    emit(as_json, value, lambda console: line(console, f"{len(new)} are new, {len(kept.items)} are kept."))


@app.command(name="export")
@verb
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; a file that exists is not replaced.")],
    as_json: AsJson = False,
) -> None:
    """Write all that is kept to one file, for `import` on another machine."""
    kept = Store(settings(context).home).load()
    if not kept.items and not kept.references:
        raise NotFound("no endorsement is kept, so there is nothing to export", hint=HOW_TO_GET)
    data = kept.encode()
    files.write(file, data, exclusive=True)
    value = {"kept": len(kept.items), "references": len(kept.references), "bytes": len(data)}
    emit(as_json, value, lambda console: line(console, f"{len(kept.items)} endorsements, {size(len(data))}."))


@app.command(name="drop-expired")
@verb
def drop_expired(context: typer.Context, as_json: AsJson = False) -> None:
    """Drop what is over."""
    now = int(time.time())
    dropped = Store(settings(context).home).drop_expired(now)
    _emit(as_json, dropped, now, {"dropped": len(dropped)}, "no endorsement that is kept is over")


# -- services ---------------------------------------------------------------------------------------


@fetch.command(name="intel")
@verb
def fetch_intel(
    context: typer.Context,
    evidence: Evidence,
    url: Url = None,
    root_crl: Annotated[
        str | None,
        typer.Option(help="Address of the root CA's revocation list [of the vendor or the cache]."),
    ] = None,
    early: Annotated[
        bool, typer.Option("--early", help="Newest TCB information, before owners had time to update.")
    ] = False,
    ca_file: CaFile = None,
    kept_for: Class = None,
    out: Out = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Fetch TCB information, QE identity and revocation lists for the platform of a quote.

    Asks Intel's provisioning service (PCS), or a cache that speaks its version 4 (PCCS, Azure's).
    """
    asked = _Asked.of(evidence, kept_for, at)
    platform = asked.platform
    if not isinstance(platform, subjects.IntelPlatform):
        raise _no_platform(evidence, "a quote of SGX or TDX with its PCK certificate")
    tee: intel.IntelTee = "sgx" if asked.found.tee == "sgx" else "tdx"
    where = intel.Addresses.of(url)
    if root_crl is not None:
        where = intel.Addresses(where.base, base_address(root_crl))
    with Service("Intel's service", context=tls(ca_file)) as service:
        items = intel.fetch(
            service,
            platform,
            tee,
            asked.at,
            store_as=asked.kept_for,
            addresses=where,
            update="early" if early else "standard",
        )
    if out is not None:
        files.write(files.private_folder(out) / "collateral.json", intel.collateral(items, platform))
    _keep(context, items, asked.at, as_json)


@fetch.command(name="amd")
@verb
def fetch_amd(
    context: typer.Context,
    evidence: Evidence,
    url: Url = None,
    product: Annotated[
        ProductName | None, typer.Option(help="For reports of version 2, which do not name it.")
    ] = None,
    ca_file: CaFile = None,
    kept_for: Class = None,
    out: Out = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the chip's certificate, the chain above it and the revocation list for an SEV-SNP report.

    Asks AMD's key distribution service (KDS), or a cache of it.
    """
    asked = _Asked.of(evidence, kept_for, at)
    platform = asked.platform
    if not isinstance(platform, subjects.AmdPlatform):
        raise _no_platform(evidence, "a report of SEV-SNP")
    chosen = next((name for name in subjects.PRODUCTS if name == product), None)
    with Service("AMD's service", context=tls(ca_file)) as service:
        items = amd.fetch(service, platform, asked.kept_for, asked.at, base=url, product=chosen)
    _write_out(out, items)
    _keep(context, items, asked.at, as_json)


@fetch.command(name="azure")
@verb
def fetch_azure(
    context: typer.Context,
    evidence: Annotated[
        Path | None,
        typer.Argument(help="Evidence of this machine; certificates of another chip are refused."),
    ] = None,
    url: Url = None,
    out: Out = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the certificates of the Azure machine that this runs on, from its metadata service (THIM)."""
    expected: str | None = None
    now = _time(at)
    if evidence is not None:
        platform = _Asked.of(evidence, None, at).platform
        if not isinstance(platform, subjects.AmdPlatform) or not platform.chip_id:
            raise _no_platform(evidence, "a report of SEV-SNP with a chip id")
        expected = platform.chip_id
    with Service("Azure's metadata service") as service:
        items = azure.fetch(service, now, base=url, expected=expected)
    _write_out(out, items)
    _keep(context, items, now, as_json)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the evidence says of what to fetch."""

    found: detect.Found
    platform: subjects.Platform | None
    kept_for: str
    at: int

    @classmethod
    def of(cls, evidence: Path, kept_for: str | None, at: str | None) -> _Asked:
        found = detect.detect(files.read(evidence, limits.CASE_FILE_BYTES, "evidence"))
        chosen = kept_for or found.tee
        if chosen not in PLATFORM_TEES:
            known = ", ".join(sorted(PLATFORM_TEES))
            raise Malformed(
                f"no endorsements are kept for evidence of class {chosen[:40]!r}",
                hint=f"name one by --class: {known}",
            )
        return cls(found, subjects.find(found.tee, found.files), chosen, _time(at))


def _time(at: str | None) -> int:
    return int(time.time()) if at is None else cast(int, corpus.parse_time(at))


def _no_platform(evidence: Path, wanted: str) -> NotFound:
    return NotFound(
        f"{evidence} does not name a platform: {wanted} is needed",
        hint="`mesatee attestation show FILE` says what a file is",
    )


def _keep(context: typer.Context, items: tuple[Endorsement, ...], at: int, as_json: bool) -> None:
    # A time that was given must not make them look newer than what will be fetched later.
    now = int(time.time())
    items = tuple(replace(item, fetched=min(item.fetched, now)) for item in items)
    kept: Endorsements = Store(settings(context).home).add(items)
    _emit(as_json, items, at, {"kept": len(kept.items)})


def _write_out(out: Path | None, items: Iterable[Endorsement]) -> None:
    if out is None:
        return
    folder = files.private_folder(out)
    # Azure's are kept for two classes, with the same bytes.
    for role, data in {item.role: item.data for item in items}.items():
        ending = "der" if data[:1] == b"\x30" else "pem"
        files.write(folder / f"{role}.{ending}", data)


# -- output -----------------------------------------------------------------------------------------


def _emit(
    as_json: bool, items: Iterable[Endorsement], now: int, more: dict[str, Any], empty: str = NONE_KEPT
) -> None:
    ordered = sorted(items, key=lambda item: (item.expires is None, item.expires or 0, item.key))
    value = {"endorsements": [_as_dict(item, now) for item in ordered], **more}

    def human(console: Console) -> None:
        rows = [
            (
                item.tee,
                item.subject[:SUBJECT_SHOWN] or "all",
                item.role,
                size(len(item.data)),
                moment(item.expires),
                "OVER" if item.is_over(now) else "",
            )
            for item in ordered
        ]
        heads = ("class", "machine", "role", "size", "newer one at", "")
        table(console, heads, rows, empty)

    emit(as_json, value, human)


def _as_dict(item: Endorsement, now: int) -> dict[str, Any]:
    return {
        "tee": item.tee,
        "subject": item.subject,
        "role": item.role,
        "bytes": len(item.data),
        "sha256": hashlib.sha256(item.data).hexdigest(),
        "fetched": item.fetched,
        "expires": item.expires,
        "over": item.is_over(now),
    }


__all__ = ["app"]
