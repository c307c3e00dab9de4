"""``mesatee id``: make and show identities."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from ..party.identity import Identity, names
from .common import AsJson, emit, facts, line, settings, short, table, verb

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("new")
@verb
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, _ . and -.")],
    as_json: AsJson = False,
) -> None:
    """Make an identity: a signing key, an age key and a post-quantum key for results."""
    made = Identity.create(settings(context).home, name)
    value = {**made.keys().model_dump(mode="json"), "id": made.id, "folder": str(made.folder)}

    def human(console: Console) -> None:
        line(console, f"{name} is {made.id}")
        line(console, f"Keys are in {made.folder}; whoever has them is {name}. Keep a copy.")

    emit(as_json, value, human)


@app.command("show")
@verb
def show(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which identity; yours if there is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the public keys of an identity."""
    chosen = settings(context)
    found = Identity.load(chosen.home, name) if name else chosen.identity()
    keys = found.keys()
    value = {**keys.model_dump(mode="json"), "id": found.id, "folder": str(found.folder)}
    rows = [
        ("name", found.name),
        ("id", found.id),
        ("age recipient", keys.age),
        ("result key", short(keys.hpke) + "... (X-Wing, 1216 bytes)"),
        ("folder", found.folder),
    ]
    emit(as_json, value, lambda console: facts(console, rows))


@app.command("list")
@verb
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List your identities."""
    home = settings(context).home
    found = [Identity.load(home, name) for name in names(home)]
    value = {"identities": [{"name": item.name, "id": item.id} for item in found]}
    rows = [(item.name, item.id) for item in found]
    emit(
        as_json,
        value,
        lambda console: table(console, ("name", "id"), rows, "No identity yet: `mesatee id new NAME`."),
    )


__all__ = ["app"]
