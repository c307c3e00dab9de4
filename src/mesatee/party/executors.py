"""What is wrong with a module or a mesapy function is said when it is registered, not when it runs.

Modules are validated by wasmtime, mesapy functions parsed and type-checked by their interpreter, on their owner's
own machine; nothing of them runs.
"""

from __future__ import annotations

from typing import Final

from ..errors import Malformed, Unavailable
from ..extras import missing
from ..protocol import wasm
from ..protocol.statements import Argument, Port

_SCRIPT: Final = "function.py"


def ports(contract: wasm.Contract) -> tuple[tuple[Port, ...], tuple[Argument, ...], tuple[Port, ...]]:
    """Inputs, arguments and outputs as a function statement names them."""
    said = contract.signature
    inputs = tuple(
        Port(name=port.name, format=contract.formats[port.name], optional=port.name in contract.optional)
        for port in said.inputs
    )
    arguments = tuple(
        # A bare list or dict takes anything; the statement's types have no parts.
        Argument.model_validate(
            {
                "name": item.name,
                "type": item.type.partition("[")[0],
                "required": item.required,
                "default": item.default,
            }
        )
        for item in said.arguments
    )
    outputs = tuple(Port(name=port.name, format=contract.formats[port.name]) for port in said.outputs)
    return inputs, arguments, outputs


def check_module(module: bytes, contract: wasm.Contract) -> None:
    """Whether a worker can run this module.

    1. It is valid, with the features that workers allow.
    2. It imports functions of WASI preview 1 and nothing else.
    3. It exports its memory, and the entry as a function without parameters and results.

    Raises `Malformed`, or `Unavailable` without wasmtime.
    """
    reason = missing("wasm")
    if reason is not None:
        raise Unavailable(reason)
    import wasmtime

    # 1.
    config = wasmtime.Config()
    for name, value in wasm.FEATURES.items():
        setattr(config, name, value)
    try:
        found = wasmtime.Module(wasmtime.Engine(config), module)
    except wasmtime.WasmtimeError as error:
        raise Malformed(f"the module is not valid: {str(error).partition(chr(10))[0][:200]}") from None
    # 2.
    for item in found.imports:
        name = item.name or ""
        if item.module != wasm.WASI or name not in wasm.WASI_FUNCTIONS:
            raise Malformed(
                f"the module imports {item.module[:64]!r} {name[:64]!r}, which no worker has",
                hint=f"compile for wasm32-wasip1: only functions of {wasm.WASI} are there",
            )
        letters = [{"i32": "i", "i64": "I"}.get(str(kind), "?") for kind in _parameters(item.type)]
        if "".join(letters) != wasm.WASI_FUNCTIONS[name]:
            raise Malformed(f"the module imports {name} with other parameters than WASI preview 1 has")
    # 3.
    exports = {item.name: item.type for item in found.exports}
    entry = exports.get(contract.signature.entry)
    if not isinstance(entry, wasmtime.FuncType) or entry.params or entry.results:
        raise Malformed(
            f"the module exports no function {contract.signature.entry} without parameters and results",
            hint="a WASI command exports _start; name another one as entry in the contract",
        )
    if found.imports and not isinstance(exports.get("memory"), wasmtime.MemoryType):
        raise Malformed("the module does not export its memory as `memory`, as WASI asks for")


def check_mesapy(source: bytes) -> None:
    """Whether the interpreter takes this source, by its own parser and type checker.

    Raises `Malformed` with the line, or `Unavailable` without the interpreter.
    """
    reason = missing("mesapy")
    if reason is not None:
        raise Unavailable(reason)
    import pydantic_monty

    text = source.decode("utf-8", "replace")
    try:
        pydantic_monty.Monty(text, script_name=_SCRIPT, type_check=True)
    except pydantic_monty.MontyTypingError as error:
        # function.py:LINE:COLUMN: error[...] what is wrong
        first = error.display("concise").strip().partition("\n")[0]
        _, line, _, said = [*first.split(":", 3), "", "", ""][:4]
        raise Malformed(f"line {line}: {said.strip()[:200]}") from None
    except (pydantic_monty.MontyRuntimeError, pydantic_monty.MontySyntaxError) as error:
        frames = error.traceback()
        where = f"line {frames[-1].line}: " if frames else ""
        raise Malformed(f"{where}{error.display('msg')[:200]}") from None


def _parameters(kind: object) -> list[object]:
    return list(getattr(kind, "params", ["?"]))


__all__ = ["check_mesapy", "check_module", "ports"]
