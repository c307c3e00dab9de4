"""The command line: ``mesatee``.

A verb's module is imported when the verb is called: most need a part of MesaTEE only, and help needs none.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "id": ("ids", "Your identities: a name and its keys."),
    "data": ("data", "Seal, register and open your data."),
    "function": ("function", "Functions that tasks may run."),
    "model": ("model", "Models: import, test, seal and register them."),
    "env": ("env", "Environments: packages that Python functions may import."),
    "task": ("task", "Agree on a computation, run it, take the result."),
    "log": ("log", "The service's public log."),
    "recover": ("recover", "Bring a service's keys to another machine."),
    "attestation": ("attestation", "Judge captured evidence of machines, offline."),
    "endorsements": ("endorsements", "What vendors say of machines: fetch, keep, carry offline."),
    "trust": ("explain", "Which machines you trust, and why not others."),
}
"""Groups of verbs: the module whose `app` has them, and what they are for."""
SINGLE: Final[Mapping[str, tuple[str, str]]] = {
    "attest": ("trust", "Ask a service for its evidence, and say what it proves."),
    "verify": ("trust", "Verify a receipt offline, and compare the outputs beside it."),
    "up": ("service", "Start a service on this machine."),
    "demo": ("service", "Show the main job, and all that must be refused."),
    "doctor": ("service", "Check what this machine offers, and why not more."),
    "measure": ("service", "Measure this installation, for trust files and tasks."),
    "inventory": ("service", "List the native libraries of each process."),
    "bench": ("service", "Measure, and compare with other software."),
}
"""Single verbs: the module whose function of this name it is, and one line about it."""
BEFORE: Final = frozenset({"-i", "--home", "--identity", "--trust", "--url"})
"""Options that stand before the verb."""
USAGE_HINT: Final = "`mesatee --help` and `mesatee VERB --help` say what there is"


class _Verbs(Mapping[str, Any]):
    """Name of a verb or group -> its command, made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*SINGLE, *GROUPS))

    def __len__(self) -> int:
        return len(SINGLE) + len(GROUPS)

    def __contains__(self, name: object) -> bool:
        return name in SINGLE or name in GROUPS


def _command(name: str) -> Any:
    """Raises `KeyError` for what is no verb."""
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    module, help = SINGLE.get(name) or GROUPS[name]
    found = importlib.import_module(f".{module}", __package__)
    if name in SINGLE:
        holder.command(name=name)(getattr(found, name))
    else:
        holder.add_typer(found.app, name=name, help=help, cls=WholeGroup)
    return typer.main.get_group(holder).commands[name]


class WholeGroup(TyperGroup):
    """Its verbs are listed with the whole first sentence of their help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Where Click would cut the sentence at the width of the line."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _sentence(command.help or "")) for name, command in self.commands.items()]
            )


def _sentence(text: str) -> str:
    """The first one of a docstring, on one line."""
    line = " ".join(text.split("\n\n")[0].split())
    end = line.find(". ")
    return line if end < 0 else line[: end + 1]


class LazyGroup(TyperGroup):
    """The verbs by name; listing them imports none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Verbs()  # type: ignore[assignment]  # nothing is added later

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One whole sentence for each."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in {**SINGLE, **GROUPS}.items()])


app = typer.Typer(
    name="mesatee",
    cls=LazyGroup,
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
        "Things are named by NAME, OWNER/NAME, their digest, or the first six or more digits of it."
    ),
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mesatee {version('mesatee')}")
        raise typer.Exit


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
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Say which version this is."),
    ] = False,
) -> None:
    """Options of all verbs."""
    from ..party.config import default_home
    from .common import Settings

    context.obj = Settings(home or default_home(), identity, url, trust_file)


def main() -> None:
    """Run the command line; exits with 0, 1 (refused or failed) or 2 (wrong usage)."""
    try:
        code = app(prog_name="mesatee", standalone_mode=False)
    except typer.Abort:
        print("Aborted!", file=sys.stderr)
        sys.exit(1)
    # The base of usage errors is not public; all that it has are these three.
    except Exception as error:
        if not all(hasattr(error, name) for name in ("exit_code", "format_message", "show")):
            raise
        sys.exit(_misused(error, sys.argv[1:]))
    sys.exit(code if isinstance(code, int) else 0)


def _misused(error: Any, words: list[str]) -> int:
    """Say what was wrong with the words; one JSON object if they ask for it. Returns the exit code."""
    message, hint = error.format_message(), ""
    wrong = str(getattr(error, "option_name", ""))
    if wrong in BEFORE:
        hint = f"write {wrong} before the verb: `mesatee {wrong} ... {words[0]} ...`"
    if "--json" in words:
        said = {"code": "usage", "message": message, "hint": hint or USAGE_HINT}
        print(json.dumps({"error": said}, sort_keys=True))
        return int(error.exit_code)
    error.show()
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return int(error.exit_code)


if __name__ == "__main__":
    main()

__all__ = ["app", "main"]
