"""Compiled WebAssembly, kept by the worker for as long as it lives.

A module is hostile while it is compiled, and compiled code is obeyed without a check when it is loaded. So it is
made in a sandboxed child, kept here under a code that only this process can make, and given to no run but one of
the very same module, wasmtime and settings: what a hostile module does to its compiler, it does to itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import OrderedDict
from typing import Final, NamedTuple

from mesatee import _core
from mesatee.enclave.sandbox import engine
from mesatee.enclave.sandbox.protocol import COMPILED_OUTPUT, Job, OutputSpec
from mesatee.errors import Corrupt
from mesatee.protocol import limits

_LABEL: Final = b"mesatee compiled wasm v1\0"


class Output(NamedTuple):
    """A sealed memory file, and its size in bytes."""

    fd: int
    size: int


def compiler(job: Job) -> Job:
    """The job that compiles the module of `job`, within the same time and memory."""
    bounds = dataclasses.replace(job.limits, output_bytes=limits.COMPILED_BYTES, threads=1)
    return Job(
        "wasm_compiler",
        "compile",
        code=job.code,
        outputs={COMPILED_OUTPUT: OutputSpec("bytes", limits.COMPILED_BYTES)},
        limits=bounds,
        require=job.require,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    code: bytes
    tag: bytes


class CompiledCode:
    """Compiled code by module; what was not used for longest goes first when it grows too large."""

    def __init__(self, most_bytes: int = limits.COMPILED_CACHE_BYTES) -> None:
        self._most = most_bytes
        self._key = _core.SecretKey.generate()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def get(self, module: bytes) -> bytes | None:
        """The compiled code of this module; None if there is none, or none that this process vouches for."""
        name = hashlib.sha256(module).digest()
        kept = self._kept.get(name)
        if kept is None:
            return None
        try:
            self._key.open(kept.tag, _bound(name, kept.code))
        except Corrupt:
            del self._kept[name]
            return None
        self._kept.move_to_end(name)
        return kept.code

    def keep(self, module: bytes, output: Output) -> bytes:
        """Keep what the compiling child wrote; returns it."""
        code = os.pread(output.fd, output.size, 0)
        name = hashlib.sha256(module).digest()
        self._kept[name] = _Kept(code, self._key.seal(b"", _bound(name, code)))
        while sum(len(kept.code) for kept in self._kept.values()) > self._most:
            self._kept.popitem(last=False)
        return code


def _bound(name: bytes, code: bytes) -> bytes:
    """What the code vouches for: module, wasmtime and settings, compiled code."""
    return _LABEL + name + engine.fingerprint() + code


__all__ = ["CompiledCode", "Output", "compiler"]
