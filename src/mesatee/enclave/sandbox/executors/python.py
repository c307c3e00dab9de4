"""The `python` executor: a typed callable in a source file, run by CPython in the sandboxed child."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType
from typing import Final

from mesatee.enclave.sandbox.executors.calling import Call, Failed, explain, explain_error
from mesatee.enclave.sandbox.protocol import Job
from mesatee.errors import InputError
from mesatee.protocol import signature

MODULE: Final = "function"
"""The name of the module that a function's source becomes."""
FILE: Final = "<function>"
"""The file that its tracebacks name."""


def load(job: Job) -> Call:
    """Run the module's top level and find the entry; whatever goes wrong in it is `function_raised`."""
    try:
        contract = signature.derive(job.code, job.entry)
    except InputError as error:
        explain(error.message)
        raise Failed("function_raised") from None
    module = ModuleType(MODULE)
    # Data classes, named tuples and typing look their module up by name.
    sys.modules[MODULE] = module
    text = job.code.decode("utf-8", "replace")
    linecache.cache[FILE] = (len(text), None, text.splitlines(keepends=True), FILE)
    try:
        exec(compile(job.code, FILE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # its purpose
        function = module.__dict__[job.entry]
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001  # foreign code may raise anything, SystemExit too
        explain_error(error)
        raise Failed("function_raised") from None
    if not callable(function):
        explain(f"{job.entry} is not a function once the module has run")
        raise Failed("function_raised")
    return Call(function, contract)
