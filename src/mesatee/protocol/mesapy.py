"""The contract of a function for `mesapy`, the memory-safe Python (design.md section 6, ADR 12).

A typed function as for `python`, whose inputs, arguments and result are bytes or JSON. What the interpreter lacks
is said with its line, by the party that registers and by the child that runs.

>>> derive(b"def count(text: bytes) -> dict:\\n    return {'bytes': len(text)}\\n", "count").inputs[0].kind
'bytes'
>>> derive(b"import numpy\\ndef f(x: bytes) -> bytes:\\n    return x\\n", "f")
Traceback (most recent call last):
    ...
mesatee.errors.Malformed: line 1: mesapy has no module numpy
"""

from __future__ import annotations

import ast
from typing import Final

from mesatee.errors import Malformed
from mesatee.protocol import signature

MODULES: Final = ("datetime", "json", "math", "re", "sys", "typing")
"""What a function may import."""
_CLOCKS: Final = frozenset({"now", "today", "utcnow"})
_LACKS: Final[dict[type[ast.AST], str]] = {
    ast.ClassDef: "classes",
    ast.Delete: "del statement",
    ast.Match: "match statement",
    ast.Yield: "generators",
    ast.YieldFrom: "generators",
    ast.AsyncFunctionDef: "async functions",
    ast.Await: "async functions",
    ast.With: "with statement",
}


def derive(source: bytes, entry: str) -> signature.Signature:
    """The contract of `entry`. Raises `TooLarge`, or `Malformed` with the line of what mesapy lacks."""
    # First, since it parses within limits.
    try:
        said = signature.derive(source, entry)
    except Malformed:
        _check(source)
        raise
    _check(source)
    kinds = {port.kind for port in (*said.inputs, *said.outputs)}
    if said.open_inputs is not None or said.returns != "one" or not kinds <= {"bytes", "json"}:
        raise Malformed(
            f"{entry} takes or returns tables or views, which mesapy does not have",
            hint="take bytes (the file as it is), dict or list, and return one of these",
        )
    if said.attestation is not None:
        raise Malformed(f"{entry} asks where it runs: a mesapy function computes the same everywhere")
    return said


def _check(source: bytes) -> None:
    try:
        tree = ast.parse(source)
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # `signature.derive` has said so.
    for node in nodes:
        line = getattr(node, "lineno", 0)
        lacking = _LACKS.get(type(node))
        if lacking is not None:
            raise Malformed(f"line {line}: mesapy has no {lacking}")
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [node.module or "."]
            case ast.Attribute(attr=attribute) if attribute in _CLOCKS:
                raise Malformed(f"line {line}: mesapy has no clock, so there is no {attribute}")
        for name in names:
            if name not in MODULES:
                raise Malformed(
                    f"line {line}: mesapy has no module {name[:64]}", hint=f"there are {', '.join(MODULES)}"
                )


__all__ = ["MODULES", "derive"]
