"""The command line: ``mesatee``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..party.config import default_home
from . import attestation, data, endorsements, explain, function, ids, log, recover, service, task, trust
from .common import Settings

app = typer.Typer(
    name="mesatee",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Compute together on data that none of the parties may show the others.\n\n"
        "First steps: `mesatee demo` shows everything once. `mesatee up` starts a service on this machine, "
        "`mesatee id new NAME` makes your keys, `mesatee data put FILE` seals and registers your data, and "
        "`mesatee task new`, `approve`, `run` and `result` carry a computation through.\n\n"
        "Things are named by their name, their digest, or the first six or more digits of it."
    ),
)


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of your keys and settings [$MESATEE_HOME or ~/.local/share/mesatee]."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option("--identity", "-i", envvar="MESATEE_IDENTITY", help="Which of your identities to use."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The service, https://HOST:PORT [from the service file].")
    ] = None,
    trust_file: Annotated[
        Path | None,
        typer.Option("--trust", help="Which machines you trust, as TOML [from the service file]."),
    ] = None,
) -> None:
    """Options of all verbs."""
    context.obj = Settings(home or default_home(), identity, url, trust_file)


app.add_typer(ids.app, name="id", help="Your identities: a name and its keys.")
app.add_typer(data.app, name="data", help="Seal, register and open your data.")
app.add_typer(function.app, name="function", help="Functions that tasks may run.")
app.add_typer(task.app, name="task", help="Agree on a computation, run it, take the result.")
app.add_typer(log.app, name="log", help="The service's public log.")
app.add_typer(recover.app, name="recover", help="Bring a service's keys to another machine.")
app.add_typer(attestation.app, name="attestation", help="Judge captured evidence of machines, offline.")
app.add_typer(
    endorsements.app, name="endorsements", help="What vendors say of machines: fetch, keep, carry offline."
)
app.add_typer(explain.app, name="trust", help="Which machines you trust, and why not others.")
app.command(name="attest")(trust.attest)
app.command(name="verify")(trust.verify)
service.register(app)


def main() -> None:
    """Run the command line; exits with 0, 1 (refused or failed) or 2 (wrong usage)."""
    app(prog_name="mesatee")


if __name__ == "__main__":
    main()

__all__ = ["app", "main"]
