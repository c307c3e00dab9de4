"""The contract of a Python function, read from its source without running it (design.md section 6).

A function's positional parameters are its inputs, its keyword-only parameters its arguments, and what it
returns its outputs. An input that is annotated ``Table | None`` may be left out. The party that registers a
function and the child that runs it derive the same `Signature`.

>>> source = '''
... def overlap(left: Table, right: Table, *, key: str = "id") -> Table:
...     ...
... '''
>>> found = derive(source, "overlap")
>>> [port.name for port in found.inputs], found.arguments[0].type, found.returns
(['left', 'right'], 'str', 'one')
>>> found.bind({})
{'key': 'id'}
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits

Kind = Literal["table", "bytes", "json", "batches", "view"]
"""What a function gets or gives: `batches` is a table piece by piece, `view` the bytes of a file without a copy."""
Returns = Literal["one", "fields", "mapping"]

DEFAULT_OUTPUT: Final = "result"
"""The name of the only output of a function that returns one value; a task may give it another."""
RESERVED_OUTPUT: Final = "diagnostics"
"""Message, traceback, stdout and stderr of a run: no function can return an output of this name."""

ATTESTATION: Final = "Attestation"
"""The annotation of the parameter in which a function is told where it runs, see `mesatee.function`."""

_KINDS: Final[dict[str, Kind]] = {
    "Table": "table",
    "Batches": "batches",
    "bytes": "bytes",
    "memoryview": "view",
    "dict": "json",
    "list": "json",
}
_MAPPED: Final[tuple[Kind, ...]] = ("table", "bytes")
"""What a function may take by any name."""
_TAKES: Final = "Table, Batches, bytes, memoryview, dict or list"
_SCALARS: Final = frozenset({"str", "int", "float", "bool", "None", "Any"})
_TYPE_DEPTH: Final = 8
_INTEGER_RANGE: Final = range(-(2**63), 2**63)
"""Integers as strict JSON carries them."""


@dataclass(frozen=True, slots=True)
class Port:
    """A named input or output; a task need not give an optional input, which is None then."""

    name: str
    kind: Kind
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """A keyword-only parameter; `type` is a normalised annotation such as ``int | None``."""

    name: str
    type: str
    required: bool
    default: Any = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes and returns.

    `open_inputs` is the kind of all inputs when the function takes a mapping of any names. `returns` is
    ``one`` (a value), ``fields`` (a NamedTuple) or ``mapping`` (a dict whose names the task fixes;
    `outputs` is empty).
    """

    entry: str
    inputs: tuple[Port, ...]
    open_inputs: Kind | None
    arguments: tuple[Argument, ...]
    outputs: tuple[Port, ...]
    returns: Returns
    attestation: str | None = None
    """The keyword-only parameter in which the worker says where the function runs; no task can give it."""

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with defaults filled in. Raises `Malformed` for unknown, missing or mistyped ones."""
        known = {argument.name: argument for argument in self.arguments}
        for name in values:
            if name not in known:
                raise Malformed(f"{self.entry} has no argument {_shown(name)}")
        bound: dict[str, Any] = {}
        for name, argument in known.items():
            if name in values:
                bound[name] = _typed(values[name], _parse_type(argument.type), name)
            elif argument.required:
                raise Malformed(f"the argument {name} is missing")
            else:
                bound[name] = argument.default
        return bound

    def check_inputs(self, names: Iterable[str]) -> None:
        """Raises `Malformed` if these are not the function's inputs."""
        given = set(names)
        if self.open_inputs is not None:
            if not given:
                raise Malformed(f"{self.entry} needs at least one input")
            return
        wanted = {port.name for port in self.inputs}
        needed = {port.name for port in self.inputs if not port.optional}
        if not needed <= given <= wanted:
            left_out = f" and may do without {_listed(wanted - needed)}" if wanted != needed else ""
            raise Malformed(
                f"{self.entry} takes the inputs {_listed(wanted)}{left_out}, not {_listed(given)}"
            )

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raises `Malformed` if a task cannot ask this function for outputs of these names."""
        given = set(names)
        if RESERVED_OUTPUT in given:
            raise Malformed(f"the output name {RESERVED_OUTPUT} is reserved")
        if not given:
            raise Malformed("at least one output is needed")
        wanted = {port.name for port in self.outputs}
        if self.returns == "one" and len(given) != 1:
            raise Malformed(f"{self.entry} returns one output, the task names {_listed(given)}")
        if self.returns == "fields" and given != wanted:
            raise Malformed(f"{self.entry} returns the outputs {_listed(wanted)}, not {_listed(given)}")

    def as_dict(self) -> dict[str, Any]:
        """The form that a function statement carries."""
        return {
            "entry": self.entry,
            "inputs": [
                {"name": port.name, "kind": port.kind, "optional": port.optional} for port in self.inputs
            ],
            "open_inputs": self.open_inputs,
            "arguments": [_argument_dict(argument) for argument in self.arguments],
            "outputs": [{"name": port.name, "kind": port.kind} for port in self.outputs],
            "returns": self.returns,
            "attestation": self.attestation,
        }


def _argument_dict(argument: Argument) -> dict[str, Any]:
    found: dict[str, Any] = {"name": argument.name, "type": argument.type, "required": argument.required}
    return found if argument.required else {**found, "default": argument.default}


def from_dict(value: Any) -> Signature:
    """The inverse of `Signature.as_dict` on hostile input. Raises `Malformed`."""
    fields = _members(
        value, {"entry", "inputs", "open_inputs", "arguments", "outputs", "returns", "attestation"}
    )
    open_inputs, returns = fields["open_inputs"], fields["returns"]
    if open_inputs is not None and (not isinstance(open_inputs, str) or open_inputs not in _MAPPED):
        raise Malformed("open_inputs is not a kind of input")
    if not isinstance(returns, str) or returns not in get_args(Returns):
        raise Malformed("returns is not one, fields or mapping")
    signature = Signature(
        entry=_name(fields["entry"]),
        inputs=_ports(fields["inputs"], inputs=True),
        open_inputs=open_inputs,
        arguments=tuple(_argument(item) for item in _items(fields["arguments"])),
        outputs=_ports(fields["outputs"], inputs=False),
        returns=returns,  # type: ignore[arg-type]  # checked against the literal's values above
        attestation=None if fields["attestation"] is None else _name(fields["attestation"]),
    )
    return _checked(signature)


def _members(value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise Malformed(f"a JSON object with exactly {_listed(names)} was expected")
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > limits.INPUTS:
        raise Malformed(f"a list of at most {limits.INPUTS} was expected")
    return value


def _ports(value: Any, *, inputs: bool) -> tuple[Port, ...]:
    ports = []
    for item in _items(value):
        fields = _members(item, {"name", "kind", "optional"} if inputs else {"name", "kind"})
        kind, optional = fields["kind"], fields.get("optional", False)
        if not isinstance(kind, str) or kind not in get_args(Kind) or not isinstance(optional, bool):
            raise Malformed(f"an input or output is one of {', '.join(get_args(Kind))}")
        ports.append(Port(_name(fields["name"]), kind, optional))  # type: ignore[arg-type]  # checked above
    return tuple(ports)


def _argument(value: Any) -> Argument:
    required = value.get("required") if isinstance(value, dict) else None
    names = {"name", "type", "required"} | ({"default"} if required is False else set())
    fields = _members(value, names)
    if not isinstance(required, bool) or not isinstance(fields["type"], str):
        raise Malformed("an argument has a type and says whether it is required")
    name, kind = _name(fields["name"]), _parse_type(fields["type"])
    default = None if required else _typed(fields["default"], kind, name)
    return Argument(name, str(kind), required, default)


# -- from source -----------------------------------------------------------------------------------


def derive(source: str | bytes, entry: str) -> Signature:
    """The contract of the function `entry` in `source`, which is parsed and never run.

    Raises `TooLarge` over `limits.CODE_BYTES`, and `Malformed` when the source does not parse or the
    function does not keep to the contract: a plain top-level ``def``, every parameter and the result
    annotated.
    """
    try:
        return _derive(_parse(source), entry)
    except RecursionError:
        # A chain such as a | b | c ... may parse and still be deeper than we can walk.
        raise Malformed("an expression is nested too deeply") from None


def _derive(tree: ast.Module, entry: str) -> Signature:
    _name(entry)
    bindings = [node for node in tree.body if entry in _bound_names(node)]
    if not bindings:
        raise Malformed(f"the source has no top-level function {entry}")
    if len(bindings) > 1 or not isinstance(bindings[0], ast.FunctionDef):
        raise Malformed(f"{entry} must be defined once, by a plain def at the top level")
    function = bindings[0]
    if function.decorator_list:
        raise Malformed(
            f"{entry} has a decorator, which could change what it takes: call the decorated one inside"
        )
    inputs, open_inputs = _inputs(function)
    outputs, returns = _outputs(function, tree)
    arguments, attestation = _arguments(function)
    return _checked(Signature(entry, inputs, open_inputs, arguments, outputs, returns, attestation))


def _parse(source: str | bytes) -> ast.Module:
    raw = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    if len(raw) > limits.CODE_BYTES:
        raise TooLarge(f"the source has {len(raw)} bytes, the limit is {limits.CODE_BYTES}")
    try:
        return ast.parse(raw, "<function>")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise Malformed(f"the source is not Python{f' (line {line})' if line else ''}") from None


def _bound_names(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds, as far as one can see without running it."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(alias.asname or alias.name).split(".")[0] for alias in names}
        case _:
            return {
                inner.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            }


def _inputs(function: ast.FunctionDef) -> tuple[tuple[Port, ...], Kind | None]:
    arguments = function.args
    if arguments.vararg or arguments.kwarg:
        raise Malformed(f"{function.name} takes * or **: name every input; dict[str, Table] takes any")
    parameters = [*arguments.posonlyargs, *arguments.args]
    defaults = dict(zip(reversed(parameters), reversed(arguments.defaults), strict=False))
    if len(parameters) == 1 and not defaults:
        open_kind = _mapped_kind(_annotation(parameters[0].annotation, parameters[0].arg))
        if open_kind is not None:
            return (), open_kind
    ports = []
    for parameter in parameters:
        annotation = _annotation(parameter.annotation, parameter.arg)
        optional, inner = _optional(annotation)
        kind = _KINDS.get(_head(inner))
        if kind is None or _mapped_kind(inner) is not None:
            raise Malformed(
                f"the input {parameter.arg} must be annotated {_TAKES}",
                hint="an input that may be missing is `Table | None`; dict[str, Table] takes any, as the only input",
            )
        default = defaults.get(parameter)
        if default is not None and not (
            optional and isinstance(default, ast.Constant) and default.value is None
        ):
            raise Malformed(
                f"{function.name} has an input with a default: put arguments behind *",
                hint="an input that may be missing is `Table | None`, and may have the default None",
            )
        ports.append(Port(_name(parameter.arg), kind, optional))
    return tuple(ports), None


def _optional(node: ast.expr) -> tuple[bool, ast.expr]:
    """Whether an annotation is a union with None, and what it is beside that."""
    match node:
        case ast.Subscript(slice=inner) if _head(node) == "Optional":
            return True, inner
        case ast.BinOp(op=ast.BitOr()):
            parts = _union(node)
            rest = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
            if len(rest) == 1 and len(parts) == 2:
                return True, rest[0]
    return False, node


def _arguments(function: ast.FunctionDef) -> tuple[tuple[Argument, ...], str | None]:
    found = []
    attestation = None
    for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        name = _name(parameter.arg)
        annotation = _annotation(parameter.annotation, name)
        if _head(annotation) == ATTESTATION:
            if attestation is not None or default is not None:
                raise Malformed(f"{function.name} asks once where it runs, without a default")
            attestation = name
            continue
        kind = _type_of(annotation)
        if default is None:
            found.append(Argument(name, str(kind), required=True))
            continue
        try:
            value = ast.literal_eval(default)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise Malformed(f"the default of {name} is not a constant") from None
        found.append(Argument(name, str(kind), required=False, default=_typed(value, kind, name)))
    return tuple(found), attestation


def _outputs(function: ast.FunctionDef, tree: ast.Module) -> tuple[tuple[Port, ...], Returns]:
    annotation = _annotation(function.returns, "the result")
    head = _head(annotation)
    if _mapped_kind(annotation) is not None:
        return (), "mapping"
    kind = _KINDS.get(head)
    if kind is not None:
        return (Port(DEFAULT_OUTPUT, kind),), "one"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == head]
    if len(classes) == 1 and any(_head(base) == "NamedTuple" for base in classes[0].bases):
        return tuple(_field(node) for node in classes[0].body if isinstance(node, ast.AnnAssign)), "fields"
    raise Malformed(f"{function.name} must return {_TAKES}, dict[str, Table] or a NamedTuple of these")


def _field(node: ast.AnnAssign) -> Port:
    if not isinstance(node.target, ast.Name):
        raise Malformed("a NamedTuple has plain fields")
    kind = _KINDS.get(_head(_annotation(node.annotation, node.target.id)))
    if kind is None:
        raise Malformed(f"the output {node.target.id} must be annotated {_TAKES}")
    return Port(node.target.id, kind)


def _annotation(node: ast.expr | None, name: str) -> ast.expr:
    if node is None:
        raise Malformed(f"{name} has no annotation")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _parse_expression(node.value)
    return node


def _parse_expression(text: str) -> ast.expr:
    if len(text) > limits.COLUMN_CHARS:
        raise Malformed("an annotation is too long")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Malformed("an annotation is not Python") from None


def _head(node: ast.expr) -> str:
    """``Table`` of ``Table``, ``mesatee.table.Table`` and ``Table[...]``; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {"Dict": "dict", "List": "list"}.get(name, name)
        case ast.Subscript(value=value):
            return _head(value)
        case _:
            return ""


def _mapped_kind(node: ast.expr) -> Kind | None:
    """The kind of ``dict[str, Table]``, ``dict[str, bytes]`` and unions of these; None for plain JSON."""
    match node:
        case ast.Subscript(slice=ast.Tuple(elts=[key, value])) if _head(node) in ("dict", "Mapping"):
            kinds = [_KINDS.get(_head(part)) for part in _union(value)]
            if "batches" in kinds or "view" in kinds:
                raise Malformed("a dict of inputs or outputs holds Table or bytes")
            if _head(key) == "str" and ("table" in kinds or "bytes" in kinds):
                return "table" if "table" in kinds else "bytes"
    return None


def _union(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return [*_union(left), *_union(right)]
        case _:
            return [node]


# -- types of arguments ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Type:
    """A union of scalars, lists and dicts with string keys."""

    name: str
    parts: tuple[_Type, ...] = ()

    def __str__(self) -> str:
        match self.name:
            case "union":
                return " | ".join(map(str, self.parts))
            case "list":
                return f"list[{self.parts[0]}]"
            case "dict":
                return f"dict[str, {self.parts[0]}]"
            case _:
                return self.name


def _parse_type(text: str) -> _Type:
    return _type_of(_parse_expression(text))


def _type_of(node: ast.expr, depth: int = 0) -> _Type:
    if depth > _TYPE_DEPTH:
        raise Malformed("an annotation is nested too deeply")
    match node:
        case ast.Constant(value=None):
            return _Type("None")
        case ast.BinOp(op=ast.BitOr()):
            parts = tuple(_type_of(part, depth + 1) for part in _union(node))
            return _Type("union", parts)
        case ast.Subscript(slice=inner) if _head(node) == "Optional":
            return _Type("union", (_type_of(inner, depth + 1), _Type("None")))
        case ast.Subscript(slice=inner) if _head(node) == "list":
            return _Type("list", (_type_of(inner, depth + 1),))
        case ast.Subscript(slice=ast.Tuple(elts=[key, value])) if (
            _head(node) == "dict" and _head(key) == "str"
        ):
            return _Type("dict", (_type_of(value, depth + 1),))
        case ast.Name() | ast.Attribute():
            head = _head(node)
            if head in ("list", "dict"):
                return _Type(head, (_Type("Any"),))
            if head in _SCALARS:
                return _Type(head)
    raise Malformed(
        "an argument is a str, int, float, bool, None, list[...], dict[str, ...] or a union of these"
    )


def _typed(value: Any, kind: _Type, name: str) -> Any:
    """`value` as `kind`; only an int becomes a float. Raises `Malformed`."""
    found, result = _fit(value, kind, 0)
    if not found:
        raise Malformed(f"the argument {name} is not of type {kind}")
    return result


def _fit(value: Any, kind: _Type, depth: int) -> tuple[bool, Any]:
    if depth > limits.JSON_DEPTH:
        return False, None
    match kind.name, value:
        case "union", _:
            # An exact part first, so that 1 stays an int in float | int.
            fits = [part for part in kind.parts if _fit(value, part, depth + 1)[0]]
            exact = [part for part in fits if part.name == type(value).__name__]
            chosen = (exact or fits)[:1]
            return _fit(value, chosen[0], depth + 1) if chosen else (False, None)
        case "Any", _:
            return _is_json(value, depth), value
        case "None", None:
            return True, None
        case ("str", str()) | ("bool", bool()):
            return True, value
        case "int", int():
            return not isinstance(value, bool) and value in _INTEGER_RANGE, value
        case "float", int() | float():
            if isinstance(value, bool) or not (isinstance(value, float) or value in _INTEGER_RANGE):
                return False, None
            return math.isfinite(value), float(value)
        case "list", list():
            items = [_fit(item, kind.parts[0], depth + 1) for item in value]
            return all(item[0] for item in items), [item[1] for item in items]
        case "dict", dict():
            if not all(isinstance(key, str) for key in value):
                return False, None
            pairs = {key: _fit(item, kind.parts[0], depth + 1) for key, item in value.items()}
            return all(pair[0] for pair in pairs.values()), {key: pair[1] for key, pair in pairs.items()}
        case _:
            return False, None


def _is_json(value: Any, depth: int) -> bool:
    if depth > limits.JSON_DEPTH:
        return False
    match value:
        case None | bool() | str():
            return True
        case int():
            return value in _INTEGER_RANGE
        case float():
            return math.isfinite(value)
        case list():
            return all(_is_json(item, depth + 1) for item in value)
        case dict():
            return all(isinstance(key, str) and _is_json(item, depth + 1) for key, item in value.items())
        case _:
            return False


# -- names -----------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier() or not value.isascii():
        raise Malformed("a name is not an ASCII identifier")
    if len(value) > limits.NAME_CHARS:
        raise TooLarge(f"a name has {len(value)} characters, the limit is {limits.NAME_CHARS}")
    return value


def _checked(signature: Signature) -> Signature:
    """Bounds and uniqueness, the same for source and for statements."""
    for group in (signature.inputs, signature.arguments, signature.outputs):
        names = [item.name for item in group]
        if len(names) > limits.INPUTS:
            raise TooLarge(f"{signature.entry} has over {limits.INPUTS} inputs, outputs or arguments")
        if len(set(names)) != len(names):
            raise Malformed(f"{signature.entry} has two inputs, outputs or arguments of one name")
    if signature.open_inputs is not None and signature.inputs:
        raise Malformed("a function with inputs of any name has no named ones")
    taken = {argument.name for argument in signature.arguments}
    if signature.attestation in taken:
        raise Malformed(f"{signature.entry} has two arguments of one name")
    if {port.name for port in signature.inputs} & (taken | {signature.attestation}):
        raise Malformed(f"{signature.entry} has an input and an argument of one name")
    if any(_name(port.name) == RESERVED_OUTPUT for port in signature.outputs):
        raise Malformed(f"the output name {RESERVED_OUTPUT} is reserved")
    wanted = {
        "one": len(signature.outputs) == 1,
        "fields": bool(signature.outputs),
        "mapping": not signature.outputs,
    }
    if not wanted[signature.returns]:
        raise Malformed(f"{signature.entry} does not name the outputs that it returns")
    return signature


def _shown(text: Any) -> str:
    return repr(str(text)[: limits.NAME_CHARS])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(str(name)[: limits.NAME_CHARS] for name in sorted(names)[: limits.INPUTS]) or "none"


__all__ = [
    "ATTESTATION",
    "DEFAULT_OUTPUT",
    "RESERVED_OUTPUT",
    "Argument",
    "Kind",
    "Port",
    "Returns",
    "Signature",
    "derive",
    "from_dict",
]
