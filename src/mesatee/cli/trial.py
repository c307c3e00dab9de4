"""``mesatee function test``: run a function on this machine, on mock data or on files of one's own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer
from rich.console import Console

from ..enclave.sandbox.protocol import Limits
from ..enclave.sandbox.supervisor import Supervisor
from ..errors import Conflict, InputError, Malformed, NotFound
from ..party import data, files, functions
from ..party import mock as made_up
from ..party.session import Session
from ..protocol import limits
from ..protocol.examples import Example
from ..protocol.executors import Executor
from ..protocol.failures import MEANINGS
from ..protocol.model import TableFormat
from ..protocol.statements import Port
from . import examples, local
from .codeoptions import ContractFile, Entry, ExecutorName, OutputFormats, OutputNames
from .common import AsJson, Settings, emit, facts, line, pairs, settings, short, size, typed, verb
from .mock import ROWS, Missing, MockRows, Seed, share

SHOWN_BYTES: Final = 2_000
"""Of an output that is text, on a terminal; `--out` writes all of it."""
TEXT: Final = frozenset({"csv", "json", "bytes"})


@verb
def try_out(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A Python file, a WebAssembly module, a built-in function, or a registered one (NAME, digest)."
        ),
    ],
    given: Annotated[
        list[str] | None,
        typer.Option("--in", help="INPUT=FILE: a file of your own on this machine; may be repeated."),
    ] = None,
    mock: Annotated[
        bool, typer.Option("--mock", help="Mock data of the dataset of the same name for each other input.")
    ] = False,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=[OWNER/]DATASET: mock data of this dataset; may be repeated."),
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option(help="ARGUMENT=VALUE, as JSON or text; repeatable.")
    ] = None,
    rows: MockRows = ROWS,
    seed: Seed = 0,
    missing: Missing = "0",
    entry: Entry = None,
    executor: ExecutorName = None,
    contract: ContractFile = None,
    output: OutputNames = None,
    format: OutputFormats = None,
    repeat: Annotated[
        bool,
        typer.Option(
            "--examples", help="Repeat the examples that are signed with the function [if nothing is given]."
        ),
    ] = False,
    example: Annotated[
        list[Path] | None, typer.Option(help="Repeat the example in this file; may be repeated.")
    ] = None,
    save_example: Annotated[
        Path | None, typer.Option(help="Write what went in and came out as an example, for `function put`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the outputs into this new folder.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, max=limits.RUN_SECONDS, help="Limit of the time.")] = 600,
    memory_mib: Annotated[
        int, typer.Option(min=64, max=1024 * 1024, help="Limit of the memory, in MiB.")
    ] = 2048,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Run a function on this machine, in the sandbox that a worker has, and show all that it says.

    It sees mock data, or files of yours that you name; nothing is sent. In a task others see of a failure its code
    alone.
    """
    bounds = Limits(
        seconds=seconds,
        cpu_seconds=min(seconds * threads, limits.RUN_SECONDS),
        memory_bytes=memory_mib * limits.MIB,
        threads=threads,
    )
    with _Desk(settings(context)) as desk:
        code = desk.code(source, entry, executor, contract, output or (), format or ())
        wanted = _Mock(rows, seed, share(missing))
        inputs = {
            name: _file(code.contract, name, Path(path)) for name, path in pairs(given or [], "--in").items()
        }
        inputs |= desk.mocked(code.contract, inputs, pairs(dataset or [], "--dataset"), mock, wanted)
    alone = not (given or dataset or mock or arg)
    if example or repeat or (alone and code.examples):
        if mock or dataset or arg or out or save_example:
            raise Malformed(
                "examples have data and arguments of their own",
                hint="leave the other options out; --in gives files that examples name by digest",
            )
        _repeat(
            code,
            [*map(examples.load, example or ()), *(() if example else code.examples)],
            inputs,
            bounds,
            as_json,
        )
        return
    types = {item.name: item.type for item in code.contract.arguments}
    arguments = typed(types, pairs(arg or [], "--arg"))
    local.check(code.contract, inputs, arguments)
    if save_example is not None and save_example.exists():
        raise InputError(f"{save_example} exists already", hint="name a new file by --save-example")
    if out is not None and out.exists():
        raise InputError(f"{out} exists already", hint="name a new folder by --out")
    with Supervisor() as supervisor:
        ran = local.run(supervisor, code, inputs, arguments, bounds)
    if out is not None and ran.failure is None:
        _write(out, ran)
    if save_example is not None and ran.failure is None:
        examples.save(save_example, inputs, arguments, ran)
    emit(as_json, _value(code, inputs, arguments, ran), lambda console: _show(console, code, inputs, ran))
    if ran.failure is not None:
        raise typer.Exit(1)


def _repeat(
    code: local.Code,
    chosen: Sequence[Example],
    given: Mapping[str, local.Given],
    bounds: Limits,
    as_json: bool,
) -> None:
    """Repeat examples; exits with 1 unless each came out as it was signed."""
    if not chosen:
        raise NotFound(f"the function {code.title} has no examples", hint="name a file by --example")
    with Supervisor() as supervisor:
        found = examples.repeat(
            chosen, given, lambda inputs, arguments: local.run(supervisor, code, inputs, arguments, bounds)
        )
    value = {"function": code.title, "examples": [item.as_dict() for item in found]}
    emit(as_json, value, lambda console: examples.show(console, found))
    if any(item.state != "same" for item in found):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Mock:
    """How much mock data, and which."""

    rows: int
    seed: int
    missing: Fraction


class _Desk:
    """Reads functions and makes mock data; a session is opened when something of a service is needed first."""

    def __init__(self, chosen: Settings) -> None:
        self._chosen = chosen
        self._session: Session | None = None

    def __enter__(self) -> _Desk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.__exit__(None, None, None)

    def session(self, what: str) -> Session:
        """Raises `NotFound` naming what it was needed for, if no service is known."""
        if self._session is None:
            try:
                session = self._chosen.session()
            except NotFound as error:
                raise NotFound(f"{what} needs a service: {error.message}", hint=error.hint) from None
            session.__enter__()
            self._session = session
        return self._session

    def code(
        self,
        source: str,
        entry: str | None,
        executor: str | None,
        contract: Path | None,
        outputs: Sequence[str],
        formats: Sequence[str],
    ) -> local.Code:
        """A file, a builtin, or a function of the registry whose code one may read."""
        if executor not in (None, *get_args(Executor)) or executor == "builtin":
            raise Malformed(
                f"there is no executor {executor!r} for a file", hint="there are python, mesapy and wasm"
            )
        path = Path(source)
        if path.exists():
            found, said, name = functions.read_file(
                path,
                entry,
                executor=executor,
                contract_file=contract,
                outputs=outputs,
                formats=_formats(formats),
            )
            return local.Code(name, found, said)
        if entry or executor or contract or outputs or formats:
            raise NotFound(f"there is no file {source}", hint="options of a file need one; check the path")
        if source in functions.builtins():
            return local.Code(source, b"", functions.shipped(source))
        if path.suffix in (".py", ".wasm"):
            raise NotFound(f"there is no file {source}", hint="check the path")
        session = self.session(f"a function that is no file ({source})")
        shown = functions.show(session, functions.find(session, source))
        if shown.code is None and shown.said.executor != "builtin":
            raise InputError(
                f"the code of {shown.said.name} is private, so it cannot run here",
                hint="ask its owner to test it, or for a public function",
            )
        contract_said = local.contract_of(shown.said)
        return local.Code(shown.said.name, shown.code or b"", contract_said, shown.said.examples)

    def mocked(
        self,
        said: functions.Contract,
        given: dict[str, local.Given],
        named: dict[str, str],
        every: bool,
        wanted: _Mock,
    ) -> dict[str, local.Given]:
        """Mock data: of the datasets that are named, and, if `every` is asked for, for each other input."""
        twice = sorted(set(given) & set(named))
        if twice:
            raise Malformed(f"the input {twice[0]} is given as a file and as mock data of a dataset")
        found = {name: self._dataset(name, text, wanted) for name, text in named.items()}
        if every:
            for port in said.inputs:
                if port.name not in given and port.name not in found and not port.optional:
                    found[port.name] = self._by_contract(port, wanted)
        return found

    def _dataset(self, name: str, text: str, wanted: _Mock) -> local.Given:
        session = self.session(f"mock data for the input {name}")
        view = data.find(session, text)
        said = made_up.statement(session, view)
        made = made_up.make(said, wanted.rows, wanted.seed, wanted.missing)
        content = io.BytesIO()
        made_up.write(made, said, content)
        origin = f"mock data of {view.owner_name}/{said.name}, {wanted.rows} rows, seed {wanted.seed}"
        return local.Given(said.format, content.getvalue(), origin, True)

    def _by_contract(self, port: Port, wanted: _Mock) -> local.Given:
        """A contract does not say what columns a table has: the dataset of the input's name does."""
        if port.format == "bytes":
            text = "".join(f"{made_up.PREFIX}{number}\n" for number in range(wanted.rows))
            return local.Given("bytes", text.encode(), f"{wanted.rows} lines of mock text", True)
        try:
            return self._dataset(port.name, port.name, wanted)
        except (Conflict, NotFound) as error:
            raise type(error)(
                f"no mock data for the input {port.name}: {error.message}",
                hint=f"name the dataset by --dataset {port.name}=DATASET, or a file by --in {port.name}=FILE",
            ) from None


def _formats(texts: Sequence[str]) -> dict[str, TableFormat]:
    from .data import table_format

    found: dict[str, TableFormat] = {}
    for port, text in pairs(texts, "a format").items():
        format = table_format(text)
        if format is not None:
            found[port] = format
    return found


def _file(said: functions.Contract, name: str, path: Path) -> local.Given:
    """A file by its extension, or else of the format that the contract names."""
    declared: TableFormat = next((port.format for port in said.inputs if port.name == name), "csv")
    format: TableFormat = (
        declared if declared in ("bytes", "json") else data.FORMATS.get(path.suffix.lower(), declared)
    )
    if not path.is_file():
        raise NotFound(f"there is no file {path} for the input {name}", hint="check the path")
    return local.Given(format, path, f"file {path}", False)


def _write(folder: Path, ran: local.Ran) -> None:
    folder.mkdir(parents=True)
    for name, made in ran.outputs.items():
        with files.replacing(folder / f"{name}.{'bin' if made.format == 'bytes' else made.format}") as file:
            file.write(made.content)


# -- what is shown ---------------------------------------------------------------------------------


def _value(
    code: local.Code, inputs: dict[str, local.Given], arguments: dict[str, Any], ran: local.Ran
) -> dict[str, Any]:
    return {
        "function": code.title,
        "executor": code.contract.executor,
        "entry": code.contract.entry,
        "inputs": {
            name: {"format": given.format, "origin": given.origin, "mock": given.mock}
            for name, given in inputs.items()
        },
        "arguments": arguments,
        "failure": ran.failure,
        "meaning": None if ran.failure is None else MEANINGS[ran.failure],
        "outputs": {
            name: {
                "format": made.format,
                "size": len(made.content),
                "sha256": made.digest,
                "text": _text(made),
            }
            for name, made in ran.outputs.items()
        },
        "diagnostics": ran.diagnostics,
        "seconds": round(ran.usage.seconds, 6),
        "cpu_seconds": round(ran.usage.cpu_seconds, 6),
        "memory_bytes": ran.usage.max_rss_bytes,
        "layers": list(ran.layers),
    }


def _text(made: local.Made) -> str | None:
    """The front of an output that is text; None for others."""
    if made.format not in TEXT:
        return None
    try:
        return made.content[:SHOWN_BYTES].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        # The cut may have gone through a character; anything else is no text.
        return made.content[: error.start].decode() if error.start > SHOWN_BYTES - 4 else None


def _show(console: Console, code: local.Code, inputs: dict[str, local.Given], ran: local.Ran) -> None:
    line(console, f"{code.title}, {code.contract.executor}, run on this machine", "bold")
    for name, given in inputs.items():
        line(console, f"input {name}: {given.format}, {given.origin}")
    for name, made in ran.outputs.items():
        line(
            console,
            f"output {name}: {made.format}, {size(len(made.content))}, sha256 {short(made.digest)}",
            "bold",
        )
        _lines(console, _text(made))
        if len(made.content) > SHOWN_BYTES or _text(made) is None:
            line(console, "  (not shown whole: --out FOLDER writes it)")
    if ran.diagnostics:
        line(console, "diagnostics: stdout, stderr and traceback", "bold")
        _lines(console, ran.diagnostics)
    rows: list[tuple[str, object]] = [
        ("time", f"{ran.usage.seconds:.3f} s, of the processor {ran.usage.cpu_seconds:.3f} s"),
        ("memory at most", size(ran.usage.max_rss_bytes)),
        ("sandbox", ", ".join(ran.layers) or "-"),
    ]
    if ran.failure is None:
        rows.append(("ended", "well"))
    else:
        rows.append(("failed", f"{ran.failure}: {MEANINGS[ran.failure]}"))
        rows.append(("others see", f"{ran.failure}, and nothing else, unless they receive `diagnostics`"))
    facts(console, rows)


def _lines(console: Console, text: str | None) -> None:
    for part in (text or "").rstrip("\n").split("\n") if text else ():
        line(console, "  | " + part)


__all__ = ["try_out"]
