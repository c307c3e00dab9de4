"""Functions: read their contract from source, register them, and show others what they would approve."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, Literal, cast

from .. import _core
from ..errors import DigestMismatch, Malformed, NotFound
from ..protocol import limits, mesapy, signature, statements, wasm, wire
from ..protocol.digests import sha256
from ..protocol.examples import Example
from ..protocol.model import TableFormat
from ..protocol.statements import Argument, Port
from . import executors, files, names
from .data import wrap_for_service
from .session import Posted, Session

_FORMAT_OF_KIND: Final[Mapping[str, TableFormat]] = MappingProxyType(
    {"table": "csv", "batches": "csv", "bytes": "bytes", "view": "bytes", "json": "json"}
)
_TYPES: Final = ("str", "int", "float", "bool", "list", "dict")


@dataclass(frozen=True, slots=True)
class Contract:
    """What a function statement says of the function's signature."""

    executor: str
    entry: str
    inputs: tuple[Port, ...]
    variadic: bool
    arguments: tuple[Argument, ...]
    outputs: tuple[Port, ...]


_SHIPPED: Final = Path(__file__).parent.parent / "enclave" / "functions"
"""The sources of the built-in functions, which are read here and never run: a worker that says it has this measured
version has the same ones.
"""


def builtins() -> tuple[str, ...]:
    """The names of the functions that every worker has: one for each module that is not private, sorted."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("[!_]*.py") if path.stem != "registry"))


def shipped(name: str) -> Contract:
    """The contract of a built-in function. Raises `NotFound`."""
    if name not in builtins():
        raise NotFound(f"there is no built-in function {name!r}", hint=f"there are {', '.join(builtins())}")
    return replace(contract((_SHIPPED / f"{name}.py").read_bytes(), name), executor="builtin")


def contract(
    source: bytes,
    entry: str | None = None,
    *,
    outputs: Sequence[str] = (),
    formats: Mapping[str, TableFormat] | None = None,
    executor: Literal["python", "mesapy"] = "python",
) -> Contract:
    """The contract of a Python function, from its source, which is parsed and never run.

    `outputs` names the outputs of a function that returns a dict of tables; `formats` gives single outputs
    another format than csv for tables, bytes and json for the rest. Raises `Malformed` or `TooLarge`, for mesapy
    also of what it lacks, and `Unavailable` without its package.
    """
    entry = entry or only_function(source)
    if executor == "mesapy":
        found = mesapy.derive(source, entry)
        executors.check_mesapy(source)
    else:
        found = signature.derive(source, entry)
    if found.returns == "mapping":
        if not outputs:
            raise Malformed(
                f"{found.entry} returns a dict, so its outputs must be named",
                hint="name them by --output NAME",
            )
        ports = {names.check_name(name, "an output"): "csv" for name in outputs}
    else:
        if outputs:
            raise Malformed(f"the outputs of {found.entry} follow from its annotation")
        ports = {port.name: _FORMAT_OF_KIND[port.kind] for port in found.outputs}
    for name, format in (formats or {}).items():
        if name not in ports:
            raise Malformed(f"{found.entry} has no output {name!r}", hint=f"it has {', '.join(ports)}")
        ports[name] = format
    return Contract(
        executor,
        found.entry,
        tuple(
            Port(name=port.name, format=_FORMAT_OF_KIND[port.kind], optional=port.optional)
            for port in found.inputs
        ),
        found.open_inputs is not None,
        tuple(_argument(item) for item in found.arguments),
        tuple(Port(name=name, format=cast(TableFormat, format)) for name, format in ports.items()),
    )


def module(code: bytes, text: bytes | None = None) -> tuple[bytes, Contract]:
    """A WebAssembly module with its contract, which is `text` if the module carries none.

    Raises `Malformed`, `TooLarge`, or `Unavailable` without the executor's package.
    """
    whole = code if text is None else wasm.attach(code, text)
    found = wasm.derive(whole)
    executors.check_module(whole, found)
    inputs, arguments, outputs = executors.ports(found)
    return whole, Contract("wasm", found.signature.entry, inputs, False, arguments, outputs)


def _argument(found: signature.Argument) -> Argument:
    """A statement knows six types, and one for unions of them; None is for an argument that may be left out."""
    outer = found.type
    while "[" in outer:
        # What is in brackets has unions of its own.
        outer = re.sub(r"\[[^\[\]]*\]", "", outer)
    parts = {part.strip() for part in outer.split(" | ")}
    kinds = parts - {"None"}
    if not kinds or not kinds <= set(_TYPES) or ("None" in parts and found.required):
        raise Malformed(
            f"the argument {found.name} is of type {found.type}",
            hint=f"use one of {', '.join(_TYPES)}; `| None` only with a default",
        )
    kind = kinds.pop() if len(kinds) == 1 else "json"
    return Argument(name=found.name, type=kind, required=found.required, default=found.default)  # type: ignore[arg-type]  # one of the seven


def only_function(source: bytes) -> str:
    """The name of the only public top-level function.

    Raises `Malformed` if there is none, or more than one.
    """
    if len(source) > limits.CODE_BYTES:
        raise Malformed(f"the source has more than {limits.CODE_BYTES} bytes")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Malformed("the source is not Python") from None
    found = [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    if len(found) != 1:
        listed = ", ".join(found[:10]) or "none"
        raise Malformed(f"the file has these public functions: {listed}", hint="name one by --entry")
    return found[0]


@dataclass(frozen=True, slots=True)
class CallRules:
    """Who may name a function in tasks (names of parties; None: everybody), how many runs each of them has (None: any
    number), whether it is the newer version of one that its owner has registered under its name, and the digest of the
    only environment in which it runs (None: any).
    """

    callers: tuple[str, ...] | None = None
    quota: int | None = None
    new_version: bool = False
    environment: str | None = None


OPEN: Final = CallRules()


def read_file(
    path: Path,
    entry: str | None = None,
    *,
    executor: str | None = None,
    contract_file: Path | None = None,
    outputs: Sequence[str] = (),
    formats: Mapping[str, TableFormat] | None = None,
) -> tuple[bytes, Contract, str]:
    """The code in a Python file or a WebAssembly module, its contract, and the name that it has by default.

    Nothing of it runs. Raises as `put`, but `Conflict`.
    """
    source = files.read(path, limits.CODE_BYTES, "function file")
    if executor is None:
        executor = "wasm" if source.startswith(wasm.PREAMBLE[:4]) else "python"
    if executor == "wasm":
        if entry or outputs or formats:
            raise Malformed(
                "entry, outputs and formats of a module stand in its contract",
                hint="write them into the TOML file that --contract names",
            )
        text = None
        if contract_file is not None:
            text = files.read(contract_file, limits.CONTRACT_BYTES, "contract file")
        source, said = module(source, text)
        default = path.stem.replace("-", "_")
    elif contract_file is not None:
        raise Malformed("the contract of a Python function is its annotations", hint="leave --contract out")
    else:
        python: Literal["python", "mesapy"] = "mesapy" if executor == "mesapy" else "python"
        said = contract(source, entry, outputs=outputs, formats=formats, executor=python)
        default = said.entry
    return source, said, default


def put(
    session: Session,
    path: Path,
    name: str | None = None,
    *,
    entry: str | None = None,
    private: bool = False,
    executor: str | None = None,
    contract_file: Path | None = None,
    outputs: Sequence[str] = (),
    formats: Mapping[str, TableFormat] | None = None,
    rules: CallRules = OPEN,
    examples: Sequence[Example] = (),
) -> Posted:
    """Register a Python file or a WebAssembly module, with examples of what it gives.

    Public code is stored as it is; private code is sealed and opens only in attested workers.

    Raises `Malformed`, `TooLarge`, `NotFound`, `Unavailable` if the executor's package is not here, or
    `Conflict` if a function of this name is in use and `rules` call it no newer version.
    """
    source, said, default = read_file(
        path, entry, executor=executor, contract_file=contract_file, outputs=outputs, formats=formats
    )
    name = _checked_name(session, default if name is None else name, rules)
    if private:
        code = _put_private(session, source)
    else:
        code = statements.CodeRef(sha256=sha256(source), size=len(source), wrap=None)
        _upload(session, code.sha256, source)
    return _post(session, name, said, private, code, rules, examples)


def put_builtin(
    session: Session,
    builtin: str,
    name: str | None = None,
    *,
    rules: CallRules = OPEN,
    examples: Sequence[Example] = (),
) -> Posted:
    """Register a function that every worker has, so that tasks can name it.

    Raises `NotFound` or `Conflict`.
    """
    said = shipped(builtin)
    name = _checked_name(session, builtin if name is None else name, rules)
    return _post(session, name, said, False, None, rules, examples)


def _checked_name(session: Session, name: str, rules: CallRules) -> str:
    names.check_name(name, "a function")
    names.check_version(session.functions(), session.identity.id, name, "function", rules.new_version)
    return name


def _put_private(session: Session, source: bytes) -> statements.CodeRef:
    with _memory(source) as plain, _memory(b"") as file:
        sealed = _core.age_seal(plain.fileno(), file.fileno(), [session.identity.age.recipient])
        session.upload(sealed.digest, file, sealed.size)
    wrap = wrap_for_service(session, sealed.file_key, sealed.digest)
    return statements.CodeRef(sha256=sealed.digest, size=sealed.size, wrap=wrap)


def _upload(session: Session, digest: str, source: bytes) -> None:
    with _memory(source) as file:
        session.upload(digest, file, len(source))


def _memory(content: bytes) -> BinaryIO:
    file = cast(BinaryIO, os.fdopen(os.memfd_create("mesatee-code", os.MFD_CLOEXEC), "w+b"))
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _post(
    session: Session,
    name: str,
    said: Contract,
    private: bool,
    code: statements.CodeRef | None,
    rules: CallRules,
    examples: Sequence[Example],
) -> Posted:
    callers = None if rules.callers is None else tuple(session.party(item).id for item in rules.callers)
    return session.post(
        statements.FunctionStatement,
        name=name,
        executor=said.executor,
        entry=said.entry,
        private=private,
        code=code,
        inputs=said.inputs,
        variadic=said.variadic,
        arguments=said.arguments,
        outputs=said.outputs,
        callers=callers,
        quota=rules.quota,
        examples=tuple(examples),
        environment=rules.environment,
    )


def find(session: Session, wanted: str, *, own: bool = False, in_use: bool = False) -> wire.FunctionView:
    """A function by name, digest, prefix, or ``OWNER/NAME``. Raises `NotFound`, `Conflict`, and `Denied` for one of
    somebody else where it must be one's `own`.
    """
    items = [item for item in session.functions() if not (in_use and item.retired)]
    return names.find_owned(items, wanted, "function", only=session.identity.id if own else None)


def retire(session: Session, wanted: str) -> Posted:
    """Take one's own function out of use."""
    return session.post(
        statements.RetireStatement, target=find(session, wanted, own=True, in_use=True).digest
    )


def suspend(session: Session, wanted: str, *, suspended: bool) -> Posted:
    """Take one's own function out of use for a while, or back."""
    target = find(session, wanted, own=True, in_use=True).digest
    return session.post(statements.SuspendStatement, target=target, suspended=suspended)


@dataclass(frozen=True, slots=True)
class Shown:
    """A function, verified from the log. `code` is None for builtins and for others' private functions."""

    digest: str
    owner: str
    owner_name: str
    said: statements.FunctionStatement
    code: bytes | None


def show(session: Session, view: wire.FunctionView) -> Shown:
    """The function's statement, verified from the log, and its code, checked against the digest in it.

    Raises `NotFound` for a private function of somebody else, `DigestMismatch`, and what `Session.statement`
    raises.
    """
    statement = session.statement(view.index, "function", view.digest)
    said = statement.predicate
    if not isinstance(said, statements.FunctionStatement) or statement.signer != view.owner:
        raise DigestMismatch("the function's statement is not by the owner that the gateway names")
    return Shown(view.digest, view.owner, view.owner_name, said, _code(session, statement.signer, said))


def _code(session: Session, owner: str, said: statements.FunctionStatement) -> bytes | None:
    if said.code is None or (said.private and owner != session.identity.id):
        return None
    pieces = bytearray()
    session.download(said.code.sha256, pieces.extend, said.code.size)
    if sha256(bytes(pieces)) != said.code.sha256:
        raise DigestMismatch("the stored code is not that of the function's statement")
    if not said.private:
        return bytes(pieces)
    with _memory(bytes(pieces)) as sealed, _memory(b"") as plain:
        _core.age_open(sealed.fileno(), plain.fileno(), session.identity.age, limits.CODE_BYTES)
        plain.seek(0)
        return plain.read()


__all__ = [
    "OPEN",
    "CallRules",
    "Contract",
    "Shown",
    "builtins",
    "contract",
    "find",
    "module",
    "only_function",
    "put",
    "put_builtin",
    "read_file",
    "retire",
    "shipped",
    "show",
    "suspend",
]
