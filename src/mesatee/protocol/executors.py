"""What executes functions, by the names that statements use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

Executor = Literal["builtin", "python", "mesapy", "wasm"]
"""What a function statement may name."""

PACKAGES: Final[Mapping[str, str]] = MappingProxyType({"mesapy": "pydantic-monty", "wasm": "wasmtime"})
"""Executor -> the distribution that it needs beside the base install; the extra has the executor's name."""

__all__ = ["PACKAGES", "Executor"]
