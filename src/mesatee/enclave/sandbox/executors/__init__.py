"""How a job becomes a call; these modules run in the sandboxed child.

>>> from mesatee.enclave.sandbox.executors import EXECUTORS
>>> sorted(EXECUTORS)
['builtin', 'mesapy', 'python', 'wasm', 'wasm_compiler']
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mesatee.enclave.sandbox.executors import builtin, mesapy, python, wasm
from mesatee.enclave.sandbox.executors.calling import Call, Failed, FileCall, Load, execute, flush

EXECUTORS: Final[Mapping[str, Load]] = MappingProxyType(
    {
        "builtin": builtin.load,
        "mesapy": mesapy.load,
        "python": python.load,
        "wasm": wasm.load,
        "wasm_compiler": wasm.load_compiler,
    }
)
"""Executor -> what turns a job into a call."""

__all__ = ["EXECUTORS", "Call", "Failed", "FileCall", "Load", "execute", "flush"]
