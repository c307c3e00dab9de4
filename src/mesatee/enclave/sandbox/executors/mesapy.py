"""The `mesapy` executor: a typed function run by Monty, a Python interpreter written in Rust (ADR 12).

The interpreter runs in the sandboxed child itself. It has no clock, no chance and no files, and its hashes are
the same everywhere, so that a function computes the same wherever it runs.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from mesatee.enclave.sandbox.executors.calling import Call, Failed, explain
from mesatee.enclave.sandbox.protocol import Job
from mesatee.errors import InputError
from mesatee.extras import missing
from mesatee.protocol import mesapy

FILE: Final = "function.py"
"""The file that its tracebacks name."""
RECURSION: Final = 1_000
"""Calls within each other."""
MEMORY_SHARE: Final = 0.5
"""Of a run's memory, what the interpreter may count for values: it must stop before the kernel does, which would
end the child without a word."""
_INPUT_TOO_LARGE: Final = "invalid input type: memory limit exceeded"
"""What Monty says, by a RuntimeError, of an input that is larger than its limit."""
_NAME: Final = "mesatee_value_"
"""Before the names by which values come in: none that a function would choose."""


def warm_up() -> None:
    """Load the interpreter and run one call. Nothing without it."""
    if missing("mesapy"):
        return
    import pydantic_monty

    pydantic_monty.Monty("1 + x", inputs=["x"]).run(
        inputs={"x": 1}, limits={"max_recursion_depth": RECURSION}
    )


def _print(_: str, text: str) -> None:
    sys.stdout.write(text)


def load(job: Job) -> Call:
    """Parse the source; what it does wrong before it is called is `function_raised`."""
    import pydantic_monty

    try:
        contract = mesapy.derive(job.code, job.entry)
    except InputError as error:
        explain(error.message)
        raise Failed("function_raised") from None
    source = job.code.decode("utf-8", "replace")

    def call(*values: Any, **arguments: Any) -> Any:
        given = {f"{_NAME}{index}": value for index, value in enumerate((*values, *arguments.values()))}
        names = list(given)
        named = [f"{key}={name}" for key, name in zip(arguments, names[len(values) :], strict=True)]
        invoke = f"\n{job.entry}({', '.join([*names[: len(values)], *named])})\n"
        shown = (pydantic_monty.MontyRuntimeError, pydantic_monty.MontySyntaxError)
        try:
            program = pydantic_monty.Monty(source + invoke, script_name=FILE, inputs=names)
            return program.run(
                inputs=given,
                limits={
                    "max_memory": int(job.limits.memory_bytes * MEMORY_SHARE),
                    "max_recursion_depth": RECURSION,
                },
                print_callback=_print,
            )
        except pydantic_monty.MontyError as error:
            # All but an error of values that do not fit carry a traceback.
            explain(error.display() if isinstance(error, shown) else str(error))
            if isinstance(error.exception(), MemoryError) or _INPUT_TOO_LARGE in str(error):
                raise MemoryError from None
            raise Failed("function_raised") from None

    return Call(call, contract)


__all__ = ["load", "warm_up"]
