"""How WebAssembly is compiled and run: settings that make it deterministic, and what they are called by.

Nothing here loads native code: the supervisor asks for wasmtime's version, the child imports it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Final

from mesatee.protocol import limits, wasm
from mesatee.protocol.executors import PACKAGES

RESERVED_BYTES: Final = 4 * limits.GIB
"""Address space reserved for a module's memory: 32 bits reach no further, so that no access needs a check of its
own."""
GUARD_BYTES: Final = 32 * limits.MIB
"""Behind it, and in front: what a constant offset may add."""
SPACE_BYTES: Final = RESERVED_BYTES + 4 * GUARD_BYTES
"""What a run reserves in all, with what wasmtime aligns."""
STACK_BYTES: Final = 512 * limits.KIB
"""A module's own stack; deeper recursion is a trap."""
TABLE_ELEMENTS: Final = 1_000_000
"""Of all tables of a module; 8 bytes each."""

SETTINGS: Final[Mapping[str, bool | int | str]] = MappingProxyType(
    {
        # The same result on every machine.
        "cranelift_nan_canonicalization": True,
        "wasm_relaxed_simd_deterministic": True,
        "shared_memory": False,
        **wasm.FEATURES,
        # No thread, no file.
        "parallel_compilation": False,
        "native_unwind_info": False,
        "cranelift_opt_level": "speed",
        "max_wasm_stack": STACK_BYTES,
        "memory_reservation": RESERVED_BYTES,
        "memory_guard_size": GUARD_BYTES,
        "memory_reservation_for_growth": 0,
        "memory_may_move": False,
        # Would need a memory file, which no child can make.
        "memory_init_cow": False,
    }
)
"""Of wasmtime's `Config`, by the names of its Python package."""


def fingerprint() -> bytes:
    """What compiled code depends on beside the module: wasmtime's version and the settings, as a digest."""
    said = repr((metadata.version(PACKAGES["wasm"]), sorted(SETTINGS.items())))
    return hashlib.sha256(said.encode()).digest()


__all__ = [
    "GUARD_BYTES",
    "RESERVED_BYTES",
    "SETTINGS",
    "SPACE_BYTES",
    "STACK_BYTES",
    "TABLE_ELEMENTS",
    "fingerprint",
]
