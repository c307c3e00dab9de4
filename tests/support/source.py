"""The source tree as syntax: who imports what, who calls what."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mesatee

ROOT = Path(mesatee.__file__).parent


class Module(NamedTuple):
    """One module of ours."""

    name: str
    path: Path
    tree: ast.Module
    lines: list[str]

    @property
    def place(self) -> str:
        """Its path below the package, e.g. ``enclave/gateway/monitor.py``."""
        return self.path.relative_to(ROOT).as_posix()


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every module of the package."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(text), text.splitlines()))
    return tuple(found)


def below(*places: str) -> list[Module]:
    """Modules in these folders or files."""
    return [
        module
        for module in modules()
        if any(module.place == place or module.place.startswith(place + "/") for place in places)
    ]


class Import(NamedTuple):
    """``from module import name``, or ``import module`` with no name."""

    module: str
    name: str


def imports(module: Module) -> Iterator[Import]:
    """All imports of a module in absolute form, those in functions and for type checkers too."""
    package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                yield Import(source, alias.name)


def targets(module: Module) -> set[str]:
    """The modules of ours that a module imports, as far as names can tell."""
    known = {item.name for item in modules()} | {"mesatee._core"}
    found = set()
    for item in imports(module):
        whole = f"{item.module}.{item.name}" if item.name else item.module
        if whole in known:
            found.add(whole)
        elif item.module in known:
            found.add(item.module)
    return found


def calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    """Each call with its dotted name as written, e.g. ``self._log.append``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def attributes(module: Module) -> set[str]:
    """Names of all attributes that a module reads or calls."""
    return {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
