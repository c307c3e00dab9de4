"""The `wasm` executor: a WASI module, compiled in one sandboxed child and run in another (ADR 12).

The engine and the host functions are made once, in a zygote that has no other children. A run loads the compiled
code that the worker vouches for, instantiates it with a memory of its own and calls its entry. wasmtime is loaded
here and nowhere in the worker.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from mesatee.enclave.sandbox import engine
from mesatee.enclave.sandbox.executors import wasi
from mesatee.enclave.sandbox.executors.calling import Failed, FileCall, explain
from mesatee.enclave.sandbox.executors.deadline import Deadline, Late
from mesatee.enclave.sandbox.protocol import COMPILED_OUTPUT, Job
from mesatee.errors import InputError
from mesatee.extras import missing
from mesatee.protocol import wasm
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.signature import Port, Signature

if TYPE_CHECKING:
    import wasmtime

_SEED_LABEL: Final = b"mesatee wasm seed v1\0"
_PAGE_BYTES: Final = 65_536
_WARM: Final = """
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $random (i32.const 0) (i32.const 8)))))
"""
_WARM_CONTRACT: Final = b'[inputs]\ndata = "bytes"\n[outputs]\nresult = "bytes"\n'
_WARM_RUNS: Final = 2
"""The second one finds what the first one made."""
_COMPILING: Final = Signature("compile", (), None, (), (Port(COMPILED_OUTPUT, "bytes"),), "fields")


class Engine:
    """wasmtime's engine with our settings, and a linker whose functions lead to the world of the present run.

    With `counts` its code counts what it does, for modules whose contract gives them so much fuel and no more. With
    `timed` its code looks at the engine's epoch, for those whose contract says how many seconds they take.
    """

    def __init__(self, counts: bool = False, timed: bool = False) -> None:
        import wasmtime

        self.wasmtime = wasmtime
        config = wasmtime.Config()
        for name, value in engine.SETTINGS.items():
            setattr(config, name, value)
        config.consume_fuel = counts
        config.epoch_interruption = timed
        self.engine = wasmtime.Engine(config)
        self.linker = wasmtime.Linker(self.engine)
        self.world: wasi.Wasi | None = None
        types = {"i": wasmtime.ValType.i32(), "I": wasmtime.ValType.i64()}
        for name, parameters in wasm.WASI_FUNCTIONS.items():
            results = [] if name == "proc_exit" else [types["i"]]
            kind = wasmtime.FuncType([types[letter] for letter in parameters], results)
            self.linker.define_func(wasm.WASI, name, kind, self._function(name, bool(results)))

    def _function(self, name: str, answers: bool) -> Callable[..., int | None]:
        call = wasi.function(name)

        def called(*arguments: int) -> int | None:
            if self.world is None:
                raise RuntimeError("a module called before it had a run")
            answer = call(self.world, arguments)
            self.world.check()
            return answer if answers else None

        return called

    def compile(self, module: bytes) -> bytes:
        """Compiled code. Raises `wasmtime.WasmtimeError`."""
        return bytes(self.wasmtime.Module(self.engine, module).serialize())

    def run(
        self,
        compiled: bytes,
        entry: str,
        memory_bytes: int,
        world: Callable[[Memory], wasi.Wasi],
        fuel: int | None = None,
        seconds: float | None = None,
    ) -> Ended:
        """Instantiate, call `entry`; what goes wrong is in the answer, never raised but for `MemoryError`. `fuel` for
        an engine that counts, `seconds` for one that is timed: whatever ends later has failed.

        The module's memory lives as long as the answer: a child ends with it, and frees nothing before.
        """
        module = self.wasmtime.Module.deserialize(self.engine, compiled)
        store = self.wasmtime.Store(self.engine)
        store.set_limits(
            memory_size=memory_bytes, table_elements=engine.TABLE_ELEMENTS, instances=1, tables=64, memories=1
        )
        if fuel is not None:
            store.set_fuel(fuel)
        if seconds is not None:
            # Relative to the epoch as it is, so before anything can advance it.
            store.set_epoch_deadline(1)
        memory = Memory(store, self.wasmtime.WasmtimeError)
        self.world = made = world(memory)
        with Deadline(seconds, self.engine.increment_epoch) as deadline:
            made.check = deadline.check
            ended = self._call(store, module, entry, memory, made, fuel)
            if not deadline.over():
                return ended
        # Where it was, which the trap says, helps its author.
        where = f", {ended.wrong}" if ended.wrong else ""
        return replace(
            ended, wrong=f"the module has used its {seconds} seconds{where}", full=False, late=True
        )

    def _call(
        self,
        store: wasmtime.Store,
        module: wasmtime.Module,
        entry: str,
        memory: Memory,
        made: wasi.Wasi,
        fuel: int | None,
    ) -> Ended:
        try:
            instance = self.linker.instantiate(store, module)
            exports = instance.exports(store)
            found = exports.get("memory")
            if isinstance(found, self.wasmtime.Memory):
                memory.memory = found
            start = exports.get(entry)
            if not isinstance(start, self.wasmtime.Func):
                return Ended(made, f"the module exports no function {entry}", False)
            start(store)
        except wasi.Exited as ended:
            if ended.code == 0:
                return Ended(made, None, False)
            return Ended(made, f"the module exited with {ended.code}", memory.full())
        except Late:
            return Ended(made, "in a host function", False)
        except (self.wasmtime.WasmtimeError, self.wasmtime.Trap) as error:
            text = str(error)
            if fuel is not None and store.get_fuel() == 0:
                return Ended(made, f"the module has used its fuel of {fuel}", False, spent=True)
            return Ended(made, text, memory.full() or ("limit" in text and memory.memory is None))
        finally:
            self.world = None
        return Ended(made, None, False)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: what the module did outside; what went wrong, or None; whether its memory, its fuel or its
    seconds were used up.
    """

    world: wasi.Wasi
    wrong: str | None
    full: bool
    spent: bool = False
    late: bool = False


class Memory:
    """The module's memory as it is now; it moves and grows only while the module runs."""

    def __init__(self, store: wasmtime.Store, failed: type[Exception]) -> None:
        """`failed` is what the library raises for a memory that may not grow."""
        self._store, self._failed = store, failed
        self.memory: wasmtime.Memory | None = None
        self._seen = (0, 0)
        self._view = memoryview(b"")

    def __call__(self) -> memoryview | None:
        """All of it; None before the module is there."""
        if self.memory is None:
            return None
        pointer = ctypes.cast(self.memory.data_ptr(self._store), ctypes.c_void_p).value or 0
        now = (pointer, self.memory.data_len(self._store))
        if now != self._seen:
            self._seen = now
            self._view = memoryview((ctypes.c_ubyte * now[1]).from_address(pointer)).cast("B")
        return self._view

    def full(self) -> bool:
        """Whether the module could not have had one page more."""
        if self.memory is None:
            return False
        try:
            self.memory.grow(self._store, 1)
        except self._failed:
            return True
        return False


_ENGINES: Final[dict[tuple[bool, bool], Engine]] = {}


def prepared(counts: bool = False, timed: bool = False) -> Engine:
    """The engine of this process; made once, the one that neither counts nor is timed in the zygote for all
    children."""
    found = _ENGINES.get((counts, timed))
    if found is None:
        found = _ENGINES[counts, timed] = Engine(counts, timed)
    return found


def _warm_world(memory: Memory) -> wasi.Wasi:
    return wasi.Wasi(memory, {}, {}, b"{}", b"")


def warm_up() -> None:
    """Compile a module and run it, as jobs do, and leave nothing of it. Nothing without the package."""
    if missing("wasm"):
        return
    found = prepared()
    compiled = found.compile(bytes(found.wasmtime.wat2wasm(_WARM)))
    for _ in range(_WARM_RUNS):
        found.run(compiled, wasm.ENTRY, _PAGE_BYTES, _warm_world)
    wasm.derive(wasm.attach(wasm.PREAMBLE, _WARM_CONTRACT))


def load_compiler(job: Job) -> FileCall:
    """The job that compiles: its code is the module, its only output the compiled code."""

    def run(_: Mapping[str, Any], __: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        found = _engine(_contract(job))
        try:
            compiled = found.compile(job.code)
        except found.wasmtime.WasmtimeError as error:
            explain(f"the module cannot be compiled: {error}")
            raise Failed("function_raised") from None
        rest = memoryview(compiled)
        while rest:
            rest = rest[os.write(outputs[COMPILED_OUTPUT], rest) :]

    return FileCall(run, _COMPILING)


def _engine(contract: wasm.Contract) -> Engine:
    """The one whose code this contract needs: no other one loads it."""
    return prepared(contract.fuel is not None, contract.seconds is not None)


def _contract(job: Job) -> wasm.Contract:
    try:
        return wasm.derive(job.code)
    except InputError as error:
        explain(error.message)
        raise Failed("function_raised") from None


def load(job: Job) -> FileCall:
    """A module that has been compiled: its contract says what it takes and gives."""
    contract = _contract(job)
    if contract.signature.entry != job.entry:
        explain(f"the contract names the entry {contract.signature.entry}, not {job.entry}")
        raise Failed("function_raised")

    def run(args: Mapping[str, Any], inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        encoded = canonical(dict(args))
        seed = hashlib.sha256(_SEED_LABEL + hashlib.sha256(job.code).digest() + encoded).digest()
        ended = _engine(contract).run(
            job.compiled,
            job.entry,
            job.limits.memory_bytes,
            lambda memory: wasi.Wasi(memory, inputs, outputs, encoded, seed),
            contract.fuel,
            contract.seconds,
        )
        world = ended.world
        if ended.wrong is not None:
            explain(ended.wrong)
            if world.too_large:
                raise Failed("output_too_large")
            if ended.spent:
                raise Failed("out_of_cpu")
            if ended.late:
                raise Failed("out_of_time")
            raise Failed("out_of_memory" if ended.full else "function_raised")
        if world.too_large:
            # It went on as if nothing had happened: what is in the file is not what it wrote.
            raise Failed("output_too_large")
        left_out = sorted(set(outputs) - world.written)
        if left_out:
            explain(f"the module wrote no /out/{', /out/'.join(left_out)}")
            raise Failed("wrong_output")

    return FileCall(run, contract.signature)


__all__ = ["Ended", "Engine", "Memory", "load", "load_compiler", "prepared", "warm_up"]
