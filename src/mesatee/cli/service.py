"""Verbs that run things on this machine. Each lives in a module of its own, imported when it is called."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from ..errors import NotFound
from .common import AsJson, emit, line, settings, verb


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{name}":
            raise
        raise NotFound(f"this installation has no `{name}`", hint="install the whole of MesaTEE") from None


@verb
def up(
    context: typer.Context,
    level: Annotated[
        int | None, typer.Option(help="The least level to prove, 1 to 5 [2, software trust].")
    ] = None,
    attester: Annotated[
        str | None,
        typer.Option(help="auto, none, software, or a TEE class such as tpm; see `mesatee doctor`."),
    ] = None,
    tpm: Annotated[
        str, typer.Option(help="Where the TPM is: a device, or unix:PATH of a simulator [/dev/tpmrm0].")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on [any free one].")] = 0,
    platform_policy: Annotated[
        Path | None, typer.Option(help="A file with the platform's Cedar policy.")
    ] = None,
    succession: Annotated[
        Path | None,
        typer.Option(help="A JSON file: who may receive the service's keys, and who holds shares [nobody]."),
    ] = None,
    no_worker: Annotated[
        bool,
        typer.Option("--no-worker", help="Run no tasks: for a machine whose worker the service refuses."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a service on this machine: gateway, worker and storage. Stop it with Ctrl-C."""
    _module("up").run(
        settings(context).home,
        level=level,
        attester=attester,
        tpm=tpm,
        port=port,
        platform_policy=platform_policy,
        succession=succession,
        with_worker=not no_worker,
        as_json=as_json,
    )


@verb
def demo(
    context: typer.Context,
    keep: Annotated[Path | None, typer.Option(help="A new folder that stays [one that is removed].")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the main job on real data, and everything that must be refused, in a folder of its own."""
    raise typer.Exit(_module("demo").run(as_json=as_json, keep=keep))


@verb
def doctor(
    context: typer.Context,
    tpm: Annotated[
        str, typer.Option(help="Where the TPM is: a device, or unix:PATH of a simulator [/dev/tpmrm0].")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check what this machine offers: isolation, levels, installation."""
    _module("doctor").run(settings(context).home, tpm=tpm, as_json=as_json)


@verb
def inventory(
    context: typer.Context,
    cyclonedx: Annotated[bool, typer.Option("--cyclonedx", help="As a CycloneDX bill of materials.")] = False,
    as_json: AsJson = False,
) -> None:
    """List every native library by process, with version, language and where it is confined."""
    _module("inventory").run(settings(context).home, as_json=as_json, cyclonedx=cyclonedx)


@verb
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Which benchmark; a wrong name lists them.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure, and compare with other software in the same run."""
    _module("bench").run(name, as_json, quick)


@verb
def measure(
    context: typer.Context,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="As a gateway, without the functions' environment.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure this installation: the digest that trust files and tasks name for its worker."""
    from ..enclave.platform import measure as platform

    found = platform.measure(() if gateway else tuple(platform.ENVIRONMENTS))

    def human(console: Console) -> None:
        for text in found.explain():
            line(console, text)

    emit(as_json, found.as_dict(), human)


__all__ = ["bench", "demo", "doctor", "inventory", "measure", "up"]
