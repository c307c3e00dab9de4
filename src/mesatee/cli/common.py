"""What all verbs share: settings, sessions, output as text or JSON, and errors without tracebacks."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from ..attestation.trust import TrustPolicy
from ..endorse.store import Current, Store
from ..errors import InputError, Malformed, MesateeError, NotFound
from ..party import config
from ..party.http import visible
from ..party.identity import Identity, names
from ..party.session import Session
from ..protocol import limits
from ..protocol.jsonstrict import parse

DIGEST_SHOWN: Final = 12
"""Hex digits of a digest that tables show; six are enough to name a thing again."""

PIPE_COLUMNS: Final = 4_096
"""Width of a line where no terminal limits it."""

P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@dataclass(slots=True)
class Settings:
    """The options that stand before the verb."""

    home: Path
    name: str | None
    given_url: str | None
    given_trust: Path | None

    def identity(self) -> Identity:
        """The identity of ``--identity``, or the only one there is. Raises `NotFound` or `Malformed`."""
        if self.name is not None:
            return Identity.load(self.home, self.name)
        known = names(self.home)
        if not known:
            raise NotFound("you have no identity yet", hint="`mesatee id new NAME` makes one")
        if len(known) > 1:
            raise Malformed(
                f"you have several identities: {', '.join(known)}", hint="say which: `mesatee -i NAME ...`"
            )
        return Identity.load(self.home, known[0])

    def service_file(self) -> config.ServiceFile | None:
        """The service file of the home folder, if there is one."""
        return config.read_service_file(self.home)

    def url(self) -> str:
        """Raises `NotFound` when nothing says where the service is."""
        if self.given_url:
            return self.given_url
        found = self.service_file()
        if found is None:
            raise NotFound(
                f"there is no service file in {self.home}",
                hint="name the service by --url, or start one: `mesatee up`",
            )
        return found.url

    def trust_file(self) -> Path:
        """Raises `NotFound` when there is no trust file: nothing is trusted by default."""
        if self.given_trust:
            return self.given_trust
        found = self.service_file()
        path = found.trust if found is not None else self.home / "trust.toml"
        if found is None and not path.exists():
            raise NotFound(
                "there is no trust file",
                hint="name it by --trust; you get it from the operator. Or start a service here: `mesatee up`",
            )
        return path

    def trust(self) -> TrustPolicy:
        """Raises as `trust_file` and `config.read_trust`."""
        return config.read_trust(self.trust_file())

    def session(self) -> Session:
        """A session that connects when it is entered."""
        return Session(self.url(), self.identity(), self.trust(), endorsements=self.endorsements())

    def endorsements(self) -> Current:
        """What this home folder keeps of what vendors say of machines. Raises as `Store.load`."""
        return Current(Store(self.home))


def settings(context: typer.Context) -> Settings:
    """The settings of this call."""
    found = context.find_object(Settings)
    if found is None:
        raise Malformed("a verb was called without the command line's options")
    return found


# -- output ----------------------------------------------------------------------------------------


def out() -> Console:
    """For results. In a pipe nothing is folded: a program, or grep, reads whole lines."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def err() -> Console:
    """For everything else."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit(as_json: bool, value: dict[str, Any], human: Callable[[Console], None]) -> None:
    """Print a result: one JSON object, or what `human` prints."""
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=True, sort_keys=True) + "\n")
        sys.stdout.flush()
    else:
        human(out())


def say(text: str) -> None:
    """One line for people, on standard error."""
    err().print(Text(visible(text)))


def line(console: Console, text: str, style: str = "") -> None:
    """One line; nothing in `text` is markup or control."""
    console.print(Text(visible(text), style=style))


def table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table, or `empty` if there is nothing to show."""
    rows = list(rows)
    if not rows:
        line(console, empty)
        return
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(str(cell))) for cell in row))
    console.print(made)


def facts(console: Console, rows: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line, so that a digest stays in one piece."""
    width = max(len(visible(name)) for name, _ in rows)
    for name, value in rows:
        console.print(Text.assemble((f"{visible(name):<{width}}  ", "bold"), visible(str(value))))


def short(digest: str) -> str:
    """The front of a digest."""
    return digest[:DIGEST_SHOWN]


def moment(at: int | None) -> str:
    """A time in UTC."""
    if at is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(min(at, 2**37)))


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal; nothing elsewhere. Yields what is told of bytes done."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda done: bars.update(bar, completed=done)


# -- errors ----------------------------------------------------------------------------------------


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """A verb of the command line: failures become two lines (or one JSON object) and exit code 1."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MesateeError as error:
            failure = error
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
            failure = InputError(what, hint="check the path, its permissions and the space on the disk")
        except RecursionError:
            failure = InputError("the input is nested too deeply")
        # A person who types a command is never shown a traceback; a developer asks for it by MESATEE_DEBUG.
        except Exception as error:
            if isinstance(error, (typer.Exit, typer.Abort)) or type(error).__module__.startswith(
                ("typer", "click")
            ):
                raise
            if os.environ.get("MESATEE_DEBUG") == "1":
                raise
            failure = MesateeError(
                f"internal error: {type(error).__name__}",
                hint="run it again with MESATEE_DEBUG=1 and report it",
            )
        if os.environ.get("MESATEE_DEBUG") == "1":
            raise failure
        fail(failure, as_json=bool(kwargs.get("as_json")))
        raise typer.Exit(1)

    return run


def fail(error: MesateeError, *, as_json: bool) -> None:
    """Say what was wrong and what to do next."""
    if as_json:
        sys.stdout.write(json.dumps({"error": error.as_dict()}, sort_keys=True) + "\n")
        sys.stdout.flush()
        return
    console = err()
    console.print(Text.assemble(("error: ", "bold red"), visible(_one_line(error.message))))
    console.print(Text.assemble(("hint: ", "bold"), visible(_one_line(error.hint))))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def pair(text: str, what: str) -> tuple[str, str]:
    """``NAME=VALUE``. Raises `Malformed`."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise Malformed(f"{what} is written NAME=VALUE, not {visible(text)[:64]!r}")
    return name, value


def pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """Several ``NAME=VALUE``, each name once. Raises `Malformed`."""
    found: dict[str, str] = {}
    for item in items:
        name, value = pair(item, what)
        if name in found:
            raise Malformed(f"{what} {visible(name)[:64]!r} is given twice")
        found[name] = value
    return found


def typed(types: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a function by their types: text for those of type str; for all others JSON."""
    found: dict[str, Any] = {}
    for name, text in given.items():
        if types.get(name) == "str":
            found[name] = text
            continue
        try:
            found[name] = parse(text.encode(), limit=limits.ARGUMENTS_BYTES)
        except MesateeError:
            found[name] = text
        if types.get(name) == "float" and isinstance(found[name], int) and not isinstance(found[name], bool):
            found[name] = float(found[name])
    return found


__all__ = [
    "AsJson",
    "Settings",
    "emit",
    "err",
    "facts",
    "fail",
    "line",
    "moment",
    "out",
    "pair",
    "pairs",
    "progress",
    "say",
    "settings",
    "short",
    "size",
    "table",
    "typed",
    "verb",
]
