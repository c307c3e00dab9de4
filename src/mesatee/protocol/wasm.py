"""The contract of a WebAssembly module, in its custom section ``mesatee`` (design.md section 6, ADR 12).

A module has no signature that names inputs and outputs, so it carries one as TOML. It is part of the module's
bytes: the digest that owners approve covers it, and the party that registers and the child that runs derive the
same from it.

>>> text = b'''
... [inputs]
... text = "bytes"
... stop = {format = "csv", optional = true}
... [arguments]
... top = {type = "int", default = 10}
... [outputs]
... words = "csv"
... '''
>>> found = derive(attach(b"\\0asm\\1\\0\\0\\0", text))
>>> found.signature.entry, dict(found.formats), sorted(found.optional)
('_start', {'text': 'bytes', 'stop': 'csv', 'words': 'csv'}, ['stop'])
>>> found.signature.bind({})
{'top': 10}

Source: WebAssembly core specification 2.0, section 5.5 (binary format of modules).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, get_args

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.model import TableFormat
from mesatee.protocol.signature import Signature, from_dict

SECTION: Final = "mesatee"
ENTRY: Final = "_start"
"""What is called if the contract names no other export: the start of a WASI command."""
PREAMBLE: Final = b"\0asm\1\0\0\0"
"""Magic number and version of a core module; a component has another version."""
WASI: Final = "wasi_snapshot_preview1"
"""The only module that may be imported from."""
WASI_FUNCTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "args_get": "ii",
        "args_sizes_get": "ii",
        "clock_res_get": "ii",
        "clock_time_get": "iIi",
        "environ_get": "ii",
        "environ_sizes_get": "ii",
        "fd_advise": "iIIi",
        "fd_allocate": "iII",
        "fd_close": "i",
        "fd_datasync": "i",
        "fd_fdstat_get": "ii",
        "fd_fdstat_set_flags": "ii",
        "fd_fdstat_set_rights": "iII",
        "fd_filestat_get": "ii",
        "fd_filestat_set_size": "iI",
        "fd_filestat_set_times": "iIIi",
        "fd_pread": "iiiIi",
        "fd_prestat_dir_name": "iii",
        "fd_prestat_get": "ii",
        "fd_pwrite": "iiiIi",
        "fd_read": "iiii",
        "fd_readdir": "iiiIi",
        "fd_renumber": "ii",
        "fd_seek": "iIii",
        "fd_sync": "i",
        "fd_tell": "ii",
        "fd_write": "iiii",
        "path_create_directory": "iii",
        "path_filestat_get": "iiiii",
        "path_filestat_set_times": "iiiiIIi",
        "path_link": "iiiiiii",
        "path_open": "iiiiiIIii",
        "path_readlink": "iiiiii",
        "path_remove_directory": "iii",
        "path_rename": "iiiiii",
        "path_symlink": "iiiii",
        "path_unlink_file": "iii",
        "poll_oneoff": "iiii",
        "proc_exit": "i",
        "proc_raise": "i",
        "random_get": "ii",
        "sched_yield": "",
        "sock_accept": "iii",
        "sock_recv": "iiiiii",
        "sock_send": "iiiii",
        "sock_shutdown": "ii",
    }
)
"""Each function's parameters: i for i32, I for i64. All return an i32 but `proc_exit`, which does not return."""

FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "wasm_component_model": False,
        "wasm_gc": False,
        "wasm_memory64": False,
        "wasm_multi_memory": False,
        # Two threads would make a result depend on chance.
        "wasm_threads": False,
        "wasm_stack_switching": False,
    }
)
"""What modules may use, as far as it differs from wasmtime's defaults; names of wasmtime's configuration."""
_CUSTOM: Final = 0
_LEB_BYTES: Final = 5
"""Of a 32-bit number."""
_KINDS: Final[Mapping[str, str]] = MappingProxyType({"bytes": "bytes", "json": "json"})
_TYPES: Final = ("str", "int", "float", "bool", "list", "dict")
"""What a function statement knows."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a module takes and gives; `formats` of inputs and outputs by name. `fuel` is how many steps of the machine
    a run may take, about one for each instruction, the same number on every machine; None for as many as its time
    allows. `seconds` is how long it may take, of wall-clock time from its start on; None for as long as its task
    allows, which ends it in any case.
    """

    signature: Signature
    formats: Mapping[str, TableFormat]
    fuel: int | None = None
    seconds: float | None = None

    @property
    def optional(self) -> frozenset[str]:
        """Inputs that a task may leave out; then there is no such file."""
        return frozenset(port.name for port in self.signature.inputs if port.optional)


def derive(module: bytes) -> Contract:
    """The contract in a module, which is read and never run.

    Raises `TooLarge` over `limits.CODE_BYTES`, and `Malformed` when this is no module, or without exactly one
    contract that makes sense.
    """
    return parse(contract_text(module))


def contract_text(module: bytes) -> bytes:
    """The contract in a module, as it was written. Raises as `derive` does."""
    found = [content for name, content in _custom_sections(module) if name == SECTION.encode()]
    if len(found) != 1:
        raise Malformed(
            f"the module has {len(found) or 'no'} sections {SECTION!r}",
            hint="write inputs, arguments and outputs into a TOML file and name it by --contract",
        )
    return found[0]


def attach(module: bytes, contract: bytes) -> bytes:
    """The module with this contract. Raises `Malformed` or `TooLarge`, also if it has one already."""
    parse(contract)
    if any(name == SECTION.encode() for name, _ in _custom_sections(module)):
        raise Malformed(
            f"the module has a section {SECTION!r} already", hint="register it without --contract"
        )
    content = _leb(len(SECTION)) + SECTION.encode() + contract
    whole = module + bytes([_CUSTOM]) + _leb(len(content)) + content
    if len(whole) > limits.CODE_BYTES:
        raise TooLarge(f"the module has {len(whole)} bytes, the limit is {limits.CODE_BYTES}")
    return whole


def parse(text: bytes) -> Contract:
    """A contract from its TOML. Raises `Malformed` or `TooLarge`."""
    if len(text) > limits.CONTRACT_BYTES:
        raise TooLarge(f"the contract has {len(text)} bytes, the limit is {limits.CONTRACT_BYTES}")
    try:
        fields = tomllib.loads(text.decode("utf-8", "strict"))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the contract is not TOML: {str(error)[:200]}") from None
    unknown = set(fields) - {"entry", "fuel", "seconds", "inputs", "arguments", "outputs"}
    if unknown:
        raise Malformed(
            f"the contract has unknown fields: {', '.join(sorted(unknown))[:200]}",
            hint="it has entry, fuel, seconds, [inputs], [arguments] and [outputs]",
        )
    inputs = _ports(fields.get("inputs", {}), "an input")
    outputs = _ports(fields.get("outputs", {}), "an output")
    if any(optional for _, optional in outputs.values()):
        raise Malformed("an output is never optional")
    if shared := set(inputs) & set(outputs):
        raise Malformed(f"an input and an output have one name: {', '.join(sorted(shared))[:200]}")
    signature = from_dict(
        {
            "entry": fields.get("entry", ENTRY),
            "inputs": [
                {"name": name, "kind": _kind(format), "optional": optional}
                for name, (format, optional) in inputs.items()
            ],
            "open_inputs": None,
            "arguments": [_argument(name, value) for name, value in _table(fields.get("arguments", {}))],
            "outputs": [{"name": name, "kind": _kind(format)} for name, (format, _) in outputs.items()],
            "returns": "fields",
            "attestation": None,
        }
    )
    formats = {name: format for name, (format, _) in {**inputs, **outputs}.items()}
    return Contract(
        signature, MappingProxyType(formats), _fuel(fields.get("fuel")), _seconds(fields.get("seconds"))
    )


def _fuel(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= limits.FUEL:
        raise Malformed(f"fuel is a number of instructions from 1 to {limits.FUEL}")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    # Not a number is not in any range.
    if type(value) not in (int, float) or not 0 < value <= limits.RUN_SECONDS:
        raise Malformed(f"seconds is a number above 0 and at most {limits.RUN_SECONDS}")
    return float(value)


def _table(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise Malformed("inputs, arguments and outputs are TOML tables")
    yield from value.items()


def _ports(value: Any, what: str) -> dict[str, tuple[TableFormat, bool]]:
    ports = {}
    for name, said in _table(value):
        fields = {"format": said} if isinstance(said, str) else said
        if not isinstance(fields, dict) or set(fields) - {"format", "optional"}:
            raise Malformed(f'{what} is a format, or {{format = "csv", optional = true}}')
        format: Any = fields.get("format")
        optional = fields.get("optional", False)
        if format not in get_args(TableFormat) or not isinstance(optional, bool):
            raise Malformed(f"the format of {what} is one of {', '.join(get_args(TableFormat))}")
        ports[name] = (format, optional)
    return ports


def _kind(format: str) -> str:
    return _KINDS.get(format, "table")


def _argument(name: str, said: Any) -> dict[str, Any]:
    fields = {"type": said} if isinstance(said, str) else said
    if not isinstance(fields, dict) or set(fields) - {"type", "default"} or fields.get("type") not in _TYPES:
        raise Malformed(
            f'an argument is a type, or {{type = "int", default = 1}}; types are {", ".join(_TYPES)}'
        )
    required = "default" not in fields
    return {"name": name, "type": fields["type"], "required": required} | (
        {} if required else {"default": fields["default"]}
    )


# -- the binary format -----------------------------------------------------------------------------


def _custom_sections(module: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each custom section. Raises `Malformed` or `TooLarge`."""
    if len(module) > limits.CODE_BYTES:
        raise TooLarge(f"the module has {len(module)} bytes, the limit is {limits.CODE_BYTES}")
    if not module.startswith(PREAMBLE):
        raise Malformed(
            "this is not a WebAssembly core module", hint="compile for wasm32-wasip1; components are not run"
        )
    at = len(PREAMBLE)
    while at < len(module):
        kind = module[at]
        size, start = _read_leb(module, at + 1)
        at = start + size
        if at > len(module):
            raise Malformed("the module is cut off")
        if kind == _CUSTOM:
            length, begin = _read_leb(module, start)
            if begin + length > at:
                raise Malformed("a custom section has no whole name")
            yield module[begin : begin + length], module[begin + length : at]


def _read_leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned 32-bit LEB128 number, and what follows it."""
    value = 0
    for index in range(_LEB_BYTES):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            if value >> 32:
                break
            return value, at + index + 1
    raise Malformed("the module has a number that is none")


def _leb(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


__all__ = [
    "ENTRY",
    "FEATURES",
    "PREAMBLE",
    "SECTION",
    "WASI",
    "WASI_FUNCTIONS",
    "Contract",
    "attach",
    "contract_text",
    "derive",
    "parse",
]
