"""``mesatee env``: build, list and remove environments for Python functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .common import AsJson, emit, line, say, settings, short, size, table, verb

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Name of the environment.")]


@app.command("build")
@verb
def build(
    context: typer.Context,
    name: Name,
    lock: Annotated[
        Path, typer.Option(help="A requirements file: NAME==VERSION with --hash=sha256:... for each wheel.")
    ],
    find_links: Annotated[
        Path | None,
        typer.Option(help="A folder with the wheels, instead of where pip is configured to find them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build an environment from a lock: wheels only, each by its hash, over the base. No code of it is run.

    A running worker on this machine finds it by itself. Whoever builds it from the same lock over the same base gets
    the same digest, which tasks name.
    """
    from . import environments

    made = environments.build(settings(context).home, name, lock, find_links=find_links, say=say)

    def human(console: Console) -> None:
        line(console, f"environment {name} is {made.digest}")
        line(console, f"{len(made.packages)} packages, {made.files} files, {size(made.bytes)}")

    emit(as_json, made.model_dump(mode="json"), human)


@app.command("list")
@verb
def list_(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Measure each, and say which a worker would not use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the environments of this machine, beside the base that every worker has."""
    from . import environments

    found = environments.listed(settings(context).home, check=check)
    rows = [
        (
            item.name,
            short(item.manifest.digest) if item.manifest else "-",
            len(item.manifest.packages) if item.manifest else "-",
            size(item.manifest.bytes) if item.manifest else "-",
            item.problem or ("whole" if check else "not checked"),
        )
        for item in found
    ]
    emit(
        as_json,
        {"environments": [item.as_dict() for item in found]},
        lambda console: table(
            console,
            ("name", "digest", "packages", "size", "state"),
            rows,
            "None beside the base: `mesatee env build NAME --lock FILE` makes one.",
        ),
    )


@app.command("remove")
@verb
def remove(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Remove an environment: workers here offer it no more."""
    from . import environments

    environments.remove(settings(context).home, name)
    emit(as_json, {"removed": name}, lambda console: line(console, f"environment {name} was removed"))


__all__ = ["app"]
