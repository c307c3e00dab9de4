"""``mesatee function``: register functions, and read those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from ..errors import Malformed
from ..party import functions
from ..protocol import limits, wasm
from ..protocol.environments import BASE
from ..protocol.executors import Executor
from ..protocol.model import TableFormat
from ..protocol.statements import FunctionStatement
from . import examples
from .codeoptions import ContractFile, Entry, ExecutorName, OutputFormats, OutputNames
from .common import AsJson, Settings, emit, line, pairs, settings, short, table, verb
from .data import in_use, table_format
from .trial import try_out

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command("test")(try_out)


@app.command("put")
@verb
def put(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A Python file, a WebAssembly module, or the name of a built-in function, such as psi."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name [the function's].")] = None,
    entry: Entry = None,
    private: Annotated[
        bool, typer.Option("--private", help="Seal the code: it opens only in attested workers.")
    ] = False,
    executor: ExecutorName = None,
    contract: ContractFile = None,
    output: OutputNames = None,
    format: OutputFormats = None,
    caller: Annotated[
        list[str] | None,
        typer.Option(help="A party whose tasks may name it [everybody's]; may be repeated."),
    ] = None,
    quota: Annotated[
        int | None,
        typer.Option(min=1, max=limits.RUNS, help="Runs that each other party has of it [any number]."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            help="The only environment that it runs in: a digest, or the name of one built here by `mesatee env` [any]."
        ),
    ] = None,
    new_version: Annotated[
        bool,
        typer.Option("--new-version", help="It is the newer version of your function of this name."),
    ] = False,
    example: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file that `function test --save-example` wrote: others see it and can repeat it; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a function: its inputs, arguments and outputs are read from its annotations or, for a module,
    from its contract. The code is not run.
    """
    if executor not in (None, *get_args(Executor)) or executor == "builtin":
        raise Malformed(
            f"there is no executor {executor!r} for a file", hint="there are python, mesapy and wasm"
        )
    chosen: dict[str, TableFormat] = {}
    for port, text in pairs(format or [], "a format").items():
        found = table_format(text)
        if found is not None:
            chosen[port] = found
    signed = [examples.load(path) for path in example or ()]
    chosen_settings = settings(context)
    rules = functions.CallRules(
        tuple(caller) if caller else None, quota, new_version, named(chosen_settings, environment)
    )
    with chosen_settings.session() as session:
        if source in functions.builtins() and not Path(source).exists():
            posted = functions.put_builtin(session, source, name, rules=rules, examples=signed)
        else:
            posted = functions.put(
                session,
                Path(source),
                name,
                entry=entry,
                private=private,
                executor=executor,
                contract_file=contract,
                outputs=output or (),
                formats=chosen,
                rules=rules,
                examples=signed,
            )
        view = functions.find(session, posted.digest)
    value = {"index": posted.index, **view.model_dump(mode="json")}

    def human(console: Console) -> None:
        line(console, f"function {view.name} is {posted.digest}, log entry {posted.index}")

    emit(as_json, value, human)


def named(chosen: Settings, environment: str | None) -> str | None:
    """The digest of an environment that was named on the command line, if it was. Raises as `environments.resolve`."""
    if environment is None:
        return None
    service = chosen.service_file()
    if environment == BASE and service is not None:
        return service.environment
    # Not at the top: it can measure, which needs a part of the enclave that no party's verb loads.
    from . import environments

    return environments.resolve(chosen.home, environment)


def _said(said: FunctionStatement) -> dict[str, Any]:
    dumped = said.model_dump(mode="json")
    names = (
        "name",
        "executor",
        "entry",
        "private",
        "inputs",
        "variadic",
        "arguments",
        "outputs",
        "callers",
        "quota",
    )
    dumped.setdefault("environment", None)
    return {
        **{key: dumped[key] for key in (*names, "environment")},
        "code": said.code.sha256 if said.code else None,
        "examples": dumped.get("examples", []),
    }


def describe(said: FunctionStatement) -> str:
    """One line: what it takes and gives."""
    # In brackets what a task may leave out.
    names = [f"[{port.name}]" if port.optional else port.name for port in said.inputs]
    inputs = "any inputs" if said.variadic else ", ".join(names) or "no input"
    arguments = ", ".join(
        f"{item.name}: {item.type}" + ("" if item.required else f" = {item.default!r}")
        for item in said.arguments
    )
    outputs = ", ".join(f"{port.name} ({port.format})" for port in said.outputs)
    return f"{said.entry}({inputs}{'; ' + arguments if arguments else ''}) -> {outputs}"


@app.command("list")
@verb
def list_(
    context: typer.Context,
    retired: Annotated[bool, typer.Option("--retired", help="Also those out of use.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the functions that you may see."""
    with settings(context).session() as session:
        found = [item for item in session.functions() if retired or not item.retired]
    value = {"functions": [item.model_dump(mode="json") for item in found]}
    rows = [
        (
            item.name,
            item.owner_name,
            short(item.digest),
            item.executor,
            "private" if item.private else "public",
            item.version,
            in_use(item),
        )
        for item in found
    ]
    columns = ("name", "owner", "digest", "executor", "code", "version", "in use")
    emit(
        as_json,
        value,
        lambda console: table(console, columns, rows, "No function yet: `mesatee function put FILE`."),
    )


@app.command("show")
@verb
def show(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="Name, OWNER/NAME or digest.")],
    as_json: AsJson = False,
) -> None:
    """Show a function and its code, checked against the digest that you would approve."""
    with settings(context).session() as session:
        found = functions.show(session, functions.find(session, function))
    code = shown_code(found)
    value = {"digest": found.digest, "owner": found.owner, **_said(found.said), "source": code}
    emit(as_json, value, lambda console: show_function(console, found))


def shown_code(found: functions.Shown) -> str | None:
    """Source as it is; of a module, its contract."""
    if found.code is None:
        return None
    if found.said.executor == "wasm":
        return wasm.contract_text(found.code).decode("utf-8", "replace")
    return found.code.decode("utf-8", "replace")


def show_function(console: Console, found: functions.Shown) -> None:
    """A function with its code. Characters that would change how a terminal shows it are written out."""
    line(
        console,
        f"{found.said.name} by {found.owner_name} ({short(found.owner)}), {found.said.executor}",
        "bold",
    )
    line(console, describe(found.said))
    line(console, f"digest {found.digest}")
    if found.said.examples:
        named = ", ".join(item.name for item in found.said.examples)
        line(console, f"examples: {named}; `mesatee function test {short(found.digest)}` repeats them")
    if found.said.environment is not None:
        line(console, f"runs in the environment {found.said.environment} alone")
    code = shown_code(found)
    if code is not None:
        what = "module, of which this is the contract" if found.said.executor == "wasm" else "code"
        line(console, f"{what}, sha256 {found.said.code.sha256 if found.said.code else '-'}:")
        for text in code.rstrip("\n").split("\n"):
            line(console, "  | " + text)
    elif found.said.executor == "builtin":
        line(console, "The code is part of the worker, so it is in the worker's measurement.")
    else:
        line(console, "The code is private: its owner approves each task that uses it.")


@app.command("rm")
@verb
def rm(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="Name or digest of your function.")],
    as_json: AsJson = False,
) -> None:
    """Take your function out of use."""
    with settings(context).session() as session:
        posted = functions.retire(session, function)
    value = {"digest": posted.digest, "index": posted.index}
    emit(
        as_json,
        value,
        lambda console: line(console, f"{function} is out of use since log entry {posted.index}"),
    )


@app.command("disable")
@verb
def disable(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="Name or digest of your function.")],
    as_json: AsJson = False,
) -> None:
    """Take your function out of use for a while: until you enable it no task names it, and no run begins or gets
    keys. What runs already runs on.
    """
    _suspend(context, function, True, as_json)


@app.command("enable")
@verb
def enable(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="Name or digest of your function.")],
    as_json: AsJson = False,
) -> None:
    """Bring your function back into use."""
    _suspend(context, function, False, as_json)


def _suspend(context: typer.Context, function: str, suspended: bool, as_json: bool) -> None:
    with settings(context).session() as session:
        posted = functions.suspend(session, function, suspended=suspended)
    value = {"digest": posted.digest, "index": posted.index, "suspended": suspended}
    state = "out of use for now" if suspended else "in use again"
    emit(as_json, value, lambda console: line(console, f"{function} is {state}, log entry {posted.index}"))


__all__ = ["app", "describe", "show_function"]
