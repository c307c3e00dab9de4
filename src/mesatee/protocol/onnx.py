"""Reads a model in ONNX format and refuses what is wrong with it, before any library for such models sees it.

The wire format alone, in Python: no tensor's data is copied or decoded, so that 100 MB take milliseconds. What the
operators of a known domain do with their inputs is not judged here: that is ONNX Runtime's, in the sandbox. Whether
weights are numbers is looked at where numpy is (`mesatee.inference.check`); `Model.floats` says where they stand.

>>> read(b"no model")
Traceback (most recent call last):
mesatee.errors.Malformed: the model has the field 13, which is none of the format's
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mesatee.errors import Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits
from mesatee.protocol import onnx_schema as schema
from mesatee.protocol.onnx_order import check_order
from mesatee.protocol.onnx_tensors import Found, sparse, tensor
from mesatee.protocol.protobuf import Reader, Span

IR_VERSIONS: Final = range(3, 14)
"""Of the format itself; older ones say types in another way."""
OPSETS: Final[Mapping[str, range]] = MappingProxyType(
    {"": range(7, 27), "ai.onnx.ml": range(1, 6), "com.microsoft": range(1, 2)}
)
"""Sets of operators that ONNX Runtime has built in, and their versions. The first is also called ai.onnx."""
FORBIDDEN: Final = frozenset({("com.microsoft", "EPContext")})
"""Operators that read a file whose name the model says."""
DYNAMIC: Final = frozenset({("", "RegexFullMatch"), ("", "StringSplit")})
"""Operators whose string attributes are patterns and separators, which may look like a path."""
PATH: Final = re.compile(rb"(?:file:|[A-Za-z]:)?[/\\].|~[/\\]|\.{1,2}[/\\]|.*[/\\]\.\.[/\\]|.*\0", re.S)
"""A string that begins or goes on like the name of a file."""
PATH_NAMES: Final = re.compile(
    r"(^|_)(path|file|filename|filepath|folder|directory|uri|url|library|location)$"
)
"""Names of attributes that no operator of the known sets has, and by which others ask for files."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: numpy's name of its type (`string` for text; sequence, map or optional for what is no
    tensor), and its shape: a number, a name, or None where nothing is said. The shape is None without a rank."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Model:
    """What a model says of itself."""

    size: int
    """Of the file, in bytes."""
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[Port, ...]
    """Those that must be given; the ones with a value of their own are left out."""
    outputs: tuple[Port, ...]
    operators: Mapping[str, int]
    """How often each operator stands in it, subgraphs and functions included."""
    nodes: int
    parameters: int
    """Elements of all tensors that the model holds."""
    floats: tuple[tuple[str, int, int], ...] = field(repr=False)
    """Type, first byte and the one after the last of each floating-point tensor's data."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: all but `floats`."""
        return {
            "size": self.size,
            "ir_version": self.ir_version,
            "opsets": dict(self.opsets),
            "producer": self.producer,
            "inputs": [_port_dict(port) for port in self.inputs],
            "outputs": [_port_dict(port) for port in self.outputs],
            "operators": dict(self.operators),
            "nodes": self.nodes,
            "parameters": self.parameters,
        }


def read(data: bytes | bytearray | memoryview) -> Model:
    """Read a model and check all that can be checked without numpy.

    1. Its size, its fields, and no training information.
    2. The version of the format and of each set of operators; no set that is not built in.
    3. The functions that it brings: nodes like any other, no function of a built-in set, none that calls itself, and
       no more nodes than `limits.ONNX_NODES` once all are unfolded.
    4. The graph (`_Checker.graph`): each name given once and before it is used, no cycle; tensors whose shape fits
       their data, in the model itself; no string that names a file.
    5. What goes in and out.

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion`, with the reason. No name from the model and no value stands
    in a message: its owner may be somebody else than who reads it.
    """
    view = memoryview(data).cast("B")
    # 1.
    if not view:
        raise Malformed("the model is empty")
    if len(view) > limits.ONNX_BYTES:
        raise TooLarge(f"the model has {len(view)} bytes, the limit is {limits.ONNX_BYTES}")
    reader = Reader(view, limits.ONNX_FIELDS, limits.ONNX_STRING_BYTES)
    fields = reader.read((0, len(view)), schema.MODEL, "the model")
    if fields.get("training_info"):
        raise Malformed("the model carries training information: export it for inference")
    if "graph" not in fields:
        raise Malformed("the model has no graph: it is cut off, or no ONNX")
    # 2.
    version = fields.get("ir_version", 0)
    if version not in IR_VERSIONS:
        raise UnsupportedVersion(
            f"the model's format has version {version}, and {IR_VERSIONS[0]} to {IR_VERSIONS[-1]} are known"
        )
    checker = _Checker(reader)
    functions = [
        reader.read(span, schema.FUNCTION, f"function {number}")
        for number, span in enumerate(fields.get("functions", ()))
    ]
    own = {item.get("domain", "") for item in functions}
    opsets = _opsets(reader, fields.get("opset_import", ()), own)
    # 3.
    checker.functions(functions, own)
    # 4.
    graph = checker.graph(fields["graph"], 1, "the graph", opsets)
    if graph.free:
        raise Malformed(f"the graph uses {len(graph.free)} names that nothing gives")
    checker.unfolded(graph.calls)
    # 5.
    return Model(
        size=len(view),
        ir_version=version,
        opsets=MappingProxyType(opsets),
        producer=" ".join(filter(None, (fields.get("producer_name"), fields.get("producer_version"))))[
            : limits.ONNX_NAME_BYTES
        ],
        inputs=graph.inputs,
        outputs=graph.outputs,
        operators=MappingProxyType(dict(sorted(checker.operators.items()))),
        nodes=sum(checker.operators.values()),
        parameters=checker.found.parameters,
        floats=tuple(checker.found.floats),
    )


@dataclass(slots=True)
class _Graph:
    """What a graph that was checked has to do with what is around it."""

    free: set[str]
    """Names that it uses and does not give."""
    calls: Counter[tuple[str, str, str]]
    """Nodes by domain, operator and overload, those of its subgraphs included."""
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()


class _Checker:
    """Goes through one model."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._functions: dict[tuple[str, str, str], Counter[tuple[str, str, str]]] = {}
        self._known: frozenset[tuple[str, str, str]] = frozenset()
        self._nodes = 0
        self.operators: Counter[str] = Counter()
        self.found = Found()

    # -- functions -----------------------------------------------------------------------------------

    def functions(self, functions: list[dict[str, Any]], own: set[str]) -> None:
        """Check each; remembers what it calls."""
        names = [
            (item.get("domain", ""), item.get("name", ""), item.get("overload", "")) for item in functions
        ]
        if len(set(names)) != len(names):
            raise Malformed("two functions of the model have one name")
        if any(_plain(domain) in OPSETS for domain, _, _ in names):
            raise Malformed("a function of the model takes the place of a built-in operator")
        self._known = frozenset(names)
        for number, (name, item) in enumerate(zip(names, functions, strict=True)):
            what = f"function {number}"
            opsets = _opsets(self._reader, item.get("opset_import", ()), own)
            calls: Counter[tuple[str, str, str]] = Counter()
            free: set[str] = set()
            for span in item.get("attribute_proto", ()):
                # Defaults of its attributes, which may be graphs.
                _, inner = self._attribute(span, what, True, 1, opsets, ("", ""))
                calls.update(inner.calls)
                free |= inner.free
            given = item.get("input", [])
            graph = self._nodes_of(
                item.get("node", ()), _once(given, set(), what), 1, what, opsets, in_function=True
            )
            if graph.free or free or not set(item.get("output", ())) <= graph.given:
                raise Malformed(f"{what} uses a name that nothing gives")
            self._functions[name] = graph.calls + calls

    def unfolded(self, calls: Counter[tuple[str, str, str]]) -> None:
        """Count nodes as they are once each call is replaced by what it calls. Raises `Malformed` for a circle, and
        `TooLarge`."""
        sizes: dict[tuple[str, str, str], int] = {}
        # By rounds rather than by recursion: as many as functions call each other in depth.
        left = dict(self._functions)
        while left:
            ready = [name for name, inner in left.items() if all(key not in left for key in inner)]
            if not ready:
                raise Malformed("functions of the model call each other in a circle")
            for name in ready:
                sizes[name] = self._total(left[name], sizes)
            for name in ready:
                del left[name]
        self._total(calls, sizes)

    def _total(self, calls: Counter[tuple[str, str, str]], sizes: Mapping[tuple[str, str, str], int]) -> int:
        total = sum(times * (1 + sizes.get(key, 0)) for key, times in calls.items())
        if total > limits.ONNX_NODES:
            raise TooLarge(f"the model unfolds to more than {limits.ONNX_NODES} nodes")
        return total

    # -- graphs --------------------------------------------------------------------------------------

    def graph(
        self, span: Span, depth: int, what: str, opsets: Mapping[str, int], inside: bool = False
    ) -> _Graph:
        """1. How deep it stands. 2. What it is given, once each: inputs, and tensors of its own, which may be an
        input's default. 3. Its nodes. 4. Its outputs, each given by one of these, once each. 5. What it says of other
        values."""
        # 1.
        if depth > limits.ONNX_DEPTH:
            raise TooLarge(f"the model has graphs within graphs, more than {limits.ONNX_DEPTH} deep")
        reader = self._reader
        fields = reader.read(span, schema.GRAPH, what)
        # 2.
        inputs = [
            self._port(item, f"input {n} of {what}", depth == 1)
            for n, item in enumerate(_few(fields, "input"))
        ]
        given = _once((port.name for port in inputs), set(), f"the inputs of {what}")
        tensors: set[str] = set()
        for number, item in enumerate(fields.get("initializer", ())):
            name = tensor(reader, item, f"tensor {number} of {what}", self.found)
            _once((name,), tensors, f"the tensors of {what}")
        for number, item in enumerate(fields.get("sparse_initializer", ())):
            name = sparse(reader, item, f"sparse tensor {number} of {what}", self.found)
            _once((name,), tensors, f"the tensors of {what}")
        # 3.
        graph = self._nodes_of(
            fields.get("node", ()), given | tensors, depth, what, opsets, in_function=inside
        )
        # 4.
        outputs = [
            self._port(item, f"output {n} of {what}", depth == 1)
            for n, item in enumerate(_few(fields, "output"))
        ]
        named = _once((port.name for port in outputs), set(), f"the outputs of {what}")
        if not named <= graph.given:
            if depth == 1 and not inside:
                raise Malformed(f"an output of {what} is given by nothing")
            graph.free |= named - graph.given
        if depth == 1 and not outputs:
            raise Malformed(f"{what} has no output")
        # 5.
        for number, item in enumerate(fields.get("value_info", ())):
            self._port(item, f"value {number} of {what}", False)
        return _Graph(
            graph.free,
            graph.calls,
            tuple(port for port in inputs if port.name not in tensors),
            tuple(outputs),
        )

    def _nodes_of(
        self,
        spans: Iterable[Span],
        given: set[str],
        depth: int,
        what: str,
        opsets: Mapping[str, int],
        *,
        in_function: bool,
    ) -> _Nodes:
        """Each node by itself, then all of them: no name given twice, no cycle."""
        names = set(given)
        needs: list[set[str]] = []
        gives: list[list[str]] = []
        calls: Counter[tuple[str, str, str]] = Counter()
        for number, span in enumerate(spans):
            self._nodes += 1
            if self._nodes > limits.ONNX_NODES:
                raise TooLarge(f"the model has more than {limits.ONNX_NODES} nodes")
            place = f"node {number} of {what}"
            fields = self._reader.read(span, schema.NODE, place)
            inner = self._node(fields, depth, place, opsets, in_function)
            calls.update(inner.calls)
            needs.append({name for name in fields.get("input", ()) if name} | inner.free)
            gives.append([name for name in fields.get("output", ()) if name])
            names = _once(gives[-1], names, what)
        free = set().union(*needs) - names if needs else set()
        check_order(needs, gives, what)
        return _Nodes(free, calls, names)

    def _node(
        self, fields: dict[str, Any], depth: int, place: str, opsets: Mapping[str, int], in_function: bool
    ) -> _Graph:
        domain, operator = _plain(fields.get("domain", "")), fields.get("op_type", "")
        key = (fields.get("domain", ""), operator, fields.get("overload", ""))
        if not operator or len(operator) > limits.ONNX_NAME_BYTES:
            raise Malformed(f"{place} names no operator")
        if key not in self._known:
            if domain not in OPSETS:
                raise Malformed(
                    f"{place} is an operator of an unknown set (a custom operator): only those built into "
                    "ONNX Runtime are run"
                )
            if domain not in opsets:
                raise Malformed(f"{place} is of a set of operators that the model does not import")
        if (domain, operator) in FORBIDDEN:
            raise Malformed(f"{place} is {operator}, which reads a file that the model names")
        for ports in ("input", "output"):
            _few(fields, ports, place)
        self.operators[f"{domain}.{operator}" if domain else operator] += 1
        free: set[str] = set()
        calls = Counter({key: 1})
        names: set[str] = set()
        for span in fields.get("attribute", ()):
            name, inner = self._attribute(span, place, in_function, depth, opsets, (domain, operator))
            _once((name,), names, f"the attributes of {place}")
            free |= inner.free
            calls.update(inner.calls)
        return _Graph(free, calls)

    def _attribute(
        self,
        span: Span,
        place: str,
        in_function: bool,
        depth: int,
        opsets: Mapping[str, int],
        operator: tuple[str, str],
    ) -> tuple[str, _Graph]:
        """Its name, and what its graphs use. One value, of the type that it says; nothing that names a file."""
        what = f"an attribute of {place}"
        fields = self._reader.read(span, schema.ATTRIBUTE, what)
        name, kind = fields.get("name", ""), fields.get("type", 0)
        there = [key for key in schema.ATTRIBUTE_FIELDS.values() if key in fields]
        if "ref_attr_name" in fields:
            if not in_function or there:
                raise Malformed(f"{what} refers to another one, which only a function's may")
            return name, _Graph(set(), Counter())
        wanted = schema.ATTRIBUTE_FIELDS.get(kind)
        # A list may be empty, and a number, a text or so that is the default may be left out.
        if (
            wanted is None
            or there not in ([wanted], [])
            or (not there and wanted in ("t", "g", "tp", "sparse_tensor"))
        ):
            raise Malformed(f"{what} has a value of another type than it says")
        if PATH_NAMES.search(name.lower()):
            raise Malformed(f"{what} asks for a file: a model must be whole in itself")
        if wanted in ("s", "f", "floats"):
            self._plain_value(fields, wanted, what, operator)
        free: set[str] = set()
        calls: Counter[tuple[str, str, str]] = Counter()
        for item in fields.get("graphs", [fields["g"]] if "g" in fields else []):
            inner = self.graph(item, depth + 1, f"a graph in {place}", opsets, in_function)
            free |= inner.free
            calls.update(inner.calls)
        for item in fields.get("tensors", [fields["t"]] if "t" in fields else []):
            tensor(self._reader, item, what, self.found)
        for item in fields.get(
            "sparse_tensors", [fields["sparse_tensor"]] if "sparse_tensor" in fields else []
        ):
            sparse(self._reader, item, what, self.found)
        for item in fields.get("type_protos", [fields["tp"]] if "tp" in fields else []):
            self._type(item, what, limits.ONNX_TYPE_DEPTH)
        return name, _Graph(free, calls)

    def _plain_value(self, fields: dict[str, Any], wanted: str, what: str, operator: tuple[str, str]) -> None:
        if wanted == "s":
            if operator not in DYNAMIC and PATH.match(fields.get("s", b"")):
                raise Malformed(f"{what} names a file: a model must be whole in itself")
            return
        values = fields.get("floats", [fields.get("f", 0.0)])
        if any(math.isnan(value) for value in values):
            raise Malformed(f"{what} is not a number (NaN)")

    # -- types -----------------------------------------------------------------------------------------

    def _port(self, span: Span, what: str, typed: bool) -> Port:
        fields = self._reader.read(span, schema.VALUE, what)
        name = fields.get("name", "")
        if not name or len(name.encode()) > limits.ONNX_NAME_BYTES:
            raise Malformed(f"{what} has no name, or one of over {limits.ONNX_NAME_BYTES} bytes")
        if "type" not in fields:
            # Within subgraphs types follow from what they are given.
            if typed:
                raise Malformed(f"{what} has no type")
            return Port(name, "", None)
        dtype, shape = self._type(fields["type"], what, limits.ONNX_TYPE_DEPTH)
        if typed and dtype in ("", "tensor"):
            raise Malformed(f"{what} has no type")
        return Port(name, dtype, shape)

    def _type(self, span: Span, what: str, levels: int) -> tuple[str, tuple[int | str | None, ...] | None]:
        if not levels:
            raise TooLarge(f"{what} is of types within types, more than {limits.ONNX_TYPE_DEPTH} deep")
        fields = self._reader.read(span, schema.TYPE, f"the type of {what}")
        kinds = [key for key in fields if key != "denotation"]
        if len(kinds) > 1:
            raise Malformed(f"{what} is of two types")
        if not kinds:
            return "", None
        (kind,) = kinds
        if kind in ("tensor_type", "sparse_tensor_type"):
            inner = self._reader.read(fields[kind], schema.TENSOR_TYPE, f"the type of {what}")
            dtype = inner.get("elem_type", 0)
            if dtype and dtype not in schema.DTYPES:
                raise UnsupportedVersion(f"{what} is of the data type {dtype}, which is not known")
            shape = self._shape(inner["shape"], what) if "shape" in inner else None
            name = schema.DTYPES[dtype][0] if dtype else "tensor"
            return (name if kind == "tensor_type" else "sparse"), shape
        if kind == "map_type":
            inner = self._reader.read(fields[kind], schema.MAP_TYPE, f"the type of {what}")
            below = inner.get("value_type")
        else:
            below = self._reader.read(fields[kind], schema.ELEMENT_TYPE, f"the type of {what}").get(
                "elem_type"
            )
        if below is not None:
            self._type(below, what, levels - 1)
        return kind.removesuffix("_type"), None

    def _shape(self, span: Span, what: str) -> tuple[int | str | None, ...]:
        spans = self._reader.read(span, schema.SHAPE, f"the shape of {what}").get("dim", ())
        if len(spans) > limits.ONNX_RANK:
            raise TooLarge(f"{what} has {len(spans)} dimensions, the limit is {limits.ONNX_RANK}")
        found: list[int | str | None] = []
        elements = 1
        for item in spans:
            fields = self._reader.read(item, schema.DIMENSION, f"the shape of {what}")
            if {"dim_value", "dim_param"} <= set(fields):
                raise Malformed(f"a dimension of {what} is said twice")
            size = fields.get("dim_value")
            # Some exporters write -1 for what they do not know.
            if size in (None, -1):
                found.append(fields.get("dim_param") or None)
                continue
            if size < 0:
                raise Malformed(f"a dimension of {what} is negative")
            elements *= max(1, size)
            if elements > limits.ONNX_ELEMENTS:
                raise TooLarge(f"{what} has more than {limits.ONNX_ELEMENTS} elements")
            found.append(size)
        return tuple(found)


@dataclass(slots=True)
class _Nodes:
    free: set[str]
    calls: Counter[tuple[str, str, str]]
    given: set[str]


def _opsets(reader: Reader, spans: Iterable[Span], own: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for span in spans:
        fields = reader.read(span, schema.OPSET, "a set of operators")
        domain, version = fields.get("domain", ""), fields.get("version", 0)
        plain = _plain(domain)
        if plain in found:
            raise Malformed("the model imports a set of operators twice")
        known = OPSETS.get(plain)
        if known is None and domain not in own:
            # Imported and perhaps not used: exporters do that. A node of it is refused.
            continue
        if known is not None and version not in known:
            raise UnsupportedVersion(
                f"the model wants version {version} of the operators {plain or 'ai.onnx'}, "
                f"and {known[0]} to {known[-1]} are run: export it for one of these"
            )
        found[plain] = version
    if not found:
        raise Malformed("the model imports no set of operators")
    return found


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _few(fields: dict[str, Any], name: str, what: str = "the model") -> list[Any]:
    found: list[Any] = fields.get(name, [])
    if len(found) > limits.ONNX_PORTS:
        raise TooLarge(f"{what} has {len(found)} {name}s, the limit is {limits.ONNX_PORTS}")
    return found


def _once(names: Iterable[str], into: set[str], what: str) -> set[str]:
    """`into` with these names. Raises `Malformed` when one is there already, or is too long."""
    for name in names:
        if name in into:
            raise Malformed(f"in {what} a name is given twice")
        if len(name) > limits.ONNX_NAME_BYTES:
            raise TooLarge(f"in {what} a name is longer than {limits.ONNX_NAME_BYTES} characters")
        into.add(name)
    return into


def _port_dict(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.dtype,
        "shape": None if port.shape is None else list(port.shape),
    }


__all__ = ["IR_VERSIONS", "OPSETS", "Model", "Port", "read"]
