"""What executes functions, and which of it is installed here.

>>> missing("python") is None
True
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Final, Literal

Executor = Literal["builtin", "python", "mesapy", "wasm"]
"""What a function statement may name."""

PACKAGES: Final[Mapping[str, str]] = MappingProxyType({"mesapy": "pydantic-monty", "wasm": "wasmtime"})
"""Executor -> the distribution that it needs beside the base install; the extra has the executor's name."""


def missing(executor: str) -> str | None:
    """Why this executor is not here, in a sentence; None if it is."""
    package = PACKAGES.get(executor)
    if package is None:
        return None
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"the executor {executor} needs the package {package}: pip install 'mesatee[{executor}]'"
    return None


__all__ = ["PACKAGES", "Executor", "missing"]
