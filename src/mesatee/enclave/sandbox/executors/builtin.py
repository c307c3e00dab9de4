"""The `builtin` executor: functions that are part of MesaTEE, run in the sandboxed child like any other."""

from __future__ import annotations

from mesatee.enclave import functions
from mesatee.enclave.sandbox.executors.calling import Call, Failed, explain
from mesatee.enclave.sandbox.protocol import Job
from mesatee.errors import InputError, NotFound


def load(job: Job) -> Call:
    """Find the function by its name. A built-in says by `InputError` that its input is wrong."""
    try:
        found = functions.find(job.entry)
    except NotFound as error:
        explain(error.message)
        raise Failed("bad_argument") from None
    return Call(found.function, found.signature, input_errors=(InputError,))
