"""Reading inputs, calling a function and writing its outputs, in the sandboxed child (design.md section 6).

All bytes that come in here are hostile, and whatever is found wrong with them becomes a code from the
closed list; the explanation goes to stderr, which is part of `diagnostics` and of nothing else.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mesatee.batches import Batches, Writer
from mesatee.enclave.sandbox.protocol import Failure, Format, Job
from mesatee.errors import InputError
from mesatee.protocol.signature import Kind, Signature
from mesatee.table import FORMATS, Table

_STDERR = 2


@dataclass(frozen=True, slots=True)
class Call:
    """A function that can be called; by `input_errors` it says that its input is wrong."""

    function: Callable[..., Any]
    signature: Signature
    input_errors: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True)
class FileCall:
    """A function that reads and writes its files itself.

    `run` takes arguments, and descriptors of inputs and outputs by name; it may raise `Failed`.
    """

    run: Callable[[Mapping[str, Any], Mapping[str, int], Mapping[str, int]], None]
    signature: Signature


Load = Callable[[Job], Call | FileCall]
"""Turns a job, with its code, into a call. May raise `Failed`."""


class Failed(Exception):
    """The run is over, with a code from the closed list."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure: Failure = failure


def execute(job: Job, load: Load, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Failure | None:
    """Run `job` on open descriptors; returns its failure, or None.

    1. Load the function.
    2. Bind arguments, check inputs.
    3. Call it: one that reads and writes files by itself has all it needs; the others get values.
    4. Check what it returned and write the outputs.
    """
    try:
        # 1.
        call = load(job)
        # 2.
        with _failing("bad_argument", InputError):
            arguments = call.signature.bind(job.args) | _where(job, call.signature)
        with _failing("bad_input", InputError):
            call.signature.check_inputs(inputs)
        # 3.
        if isinstance(call, FileCall):
            with _failing("wrong_output", InputError):
                call.signature.check_outputs(outputs)
            with _failing("function_raised", Exception):
                call.run(arguments, inputs, outputs)
            _check_sizes(job, outputs)
            return None
        values = _read_inputs(job, call.signature, inputs)
        with _failing("function_raised", BaseException), _failing("bad_input", *call.input_errors):
            result = call.function(*values, **arguments)
        # 4.
        with _failing("wrong_output", InputError):
            call.signature.check_outputs(outputs)
        _write_outputs(job, _named(call.signature, result, list(outputs)), outputs, _batched(call, outputs))
    except Failed as failed:
        return failed.failure
    except MemoryError:
        explain("not enough memory")
        return "out_of_memory"
    return None


def _where(job: Job, signature: Signature) -> dict[str, Any]:
    """The argument by which the function asks where it runs, if it does. The bytes are the worker's own."""
    if signature.attestation is None:
        return {}
    if not job.attestation:
        raise InputError(f"{signature.entry} asks where it runs, and this machine does not say")
    return {signature.attestation: json.loads(job.attestation)}


@contextmanager
def _failing(failure: Failure, *kinds: type[BaseException]) -> Iterator[None]:
    """Turn exceptions of these kinds into `failure`, explained on stderr."""
    try:
        yield
    except (Failed, MemoryError):
        raise
    except kinds as error:
        explain_error(error)
        raise Failed(failure) from None


# -- inputs ----------------------------------------------------------------------------------------


def _read_inputs(job: Job, signature: Signature, inputs: Mapping[str, int]) -> list[Any]:
    if signature.open_inputs is not None:
        # What does not fit into memory comes piece by piece; a built-in that spills knows both.
        kind = "batches" if job.scratch_bytes else signature.open_inputs
        # By name, so that the order in which a task was written down changes nothing.
        return [{name: _read(name, job.inputs[name], kind, inputs[name]) for name in sorted(inputs)}]
    return [
        _read(port.name, job.inputs[port.name], port.kind, inputs[port.name]) if port.name in inputs else None
        for port in signature.inputs
    ]


def _read(name: str, format: Format, kind: Kind, fd: int) -> Any:
    size = os.fstat(fd).st_size
    # An empty file cannot be mapped.
    data = mmap.mmap(fd, size, prot=mmap.PROT_READ) if size else b""
    if kind == "view":
        return memoryview(data)
    if kind == "bytes":
        return bytes(data)
    try:
        if kind == "json":
            return json.loads(bytes(data), parse_constant=_no_constant)
        if format not in FORMATS:
            raise ValueError(f"a table is {', '.join(FORMATS)}, not {format}")
        if kind == "batches":
            return Batches.read(data, format)
        return Table.read(data, format)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001
        # Arrow's readers raise many classes; each of them means that these bytes cannot be read.
        explain(f"the input {name} is not readable as {format}: {error}")
        raise Failed("bad_input") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# -- outputs ---------------------------------------------------------------------------------------


def _named(signature: Signature, result: Any, names: list[str]) -> dict[str, Any]:
    match signature.returns:
        case "one":
            return {names[0]: result}
        case "fields":
            fields = getattr(result, "_asdict", None)
            values = fields() if callable(fields) else None
        case "mapping":
            values = result
    if not isinstance(values, dict) or set(values) != set(names):
        explain(f"the function must return exactly the outputs {', '.join(sorted(names))}")
        raise Failed("wrong_output")
    return values


def _batched(call: Call, outputs: Mapping[str, int]) -> frozenset[str]:
    """The outputs that come piece by piece."""
    if call.signature.returns == "one":
        return frozenset(outputs if call.signature.outputs[0].kind == "batches" else ())
    return frozenset(port.name for port in call.signature.outputs if port.kind == "batches")


def _write_outputs(
    job: Job, values: Mapping[str, Any], outputs: Mapping[str, int], batched: frozenset[str]
) -> None:
    for name, fd in outputs.items():
        spec = job.outputs[name]
        most = min(spec.max_bytes or job.limits.output_bytes, job.limits.output_bytes)
        try:
            if name in batched:
                _write_batches(name, values[name], spec.format, fd)
            else:
                _write(name, values[name], spec.format, fd)
        except OSError as error:
            # RLIMIT_FSIZE answers EFBIG; the descriptor is a memory file and has no other way to fail.
            if error.errno != errno.EFBIG and "File too large" not in str(error):
                raise
            explain(f"the output {name} is larger than {most} bytes")
            raise Failed("output_too_large") from None
    _check_sizes(job, outputs)


def _check_sizes(job: Job, outputs: Mapping[str, int]) -> None:
    """Each output within its own limit: RLIMIT_FSIZE knows only the largest."""
    for name, fd in outputs.items():
        most = min(job.outputs[name].max_bytes or job.limits.output_bytes, job.limits.output_bytes)
        if os.fstat(fd).st_size > most:
            explain(f"the output {name} is larger than {most} bytes")
            raise Failed("output_too_large")


def _write(name: str, value: Any, format: Format, fd: int) -> None:
    with os.fdopen(os.dup(fd), "wb") as target:
        match value:
            case bytes() | bytearray() | memoryview():
                target.write(value)
            case Batches() if format in FORMATS:
                _write_batches(name, value, format, fd)
            case Table() if format in FORMATS:
                # Arrow raises the last one for a type that the format has no place for, e.g. lists in CSV.
                with _failing("wrong_output", ValueError, TypeError, NotImplementedError):
                    value.write(target, format)
            case dict() | list() if format == "json":
                with _failing("wrong_output", TypeError, ValueError, RecursionError):
                    _check_json(value)
                    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
                target.write(text.encode())
            case _:
                explain(f"the output {name} is {type(value).__name__}, which cannot be written as {format}")
                raise Failed("wrong_output")


def _write_batches(name: str, value: Any, format: Format, fd: int) -> None:
    """Piece by piece: the function goes on between them, so that what it raises is its own."""
    if format not in FORMATS:
        explain(f"the output {name} comes in batches, which cannot be written as {format}")
        raise Failed("wrong_output")
    with _failing("wrong_output", TypeError):
        pieces = iter(value)
    with os.fdopen(os.dup(fd), "wb") as target, Writer(target, format) as writer:
        while True:
            with _failing("function_raised", BaseException):
                piece = next(pieces, None)
            if piece is None:
                break
            # As in `_write`.
            with _failing("wrong_output", ValueError, TypeError, NotImplementedError):
                writer.write(piece)
        if not writer.written:
            explain(f"the output {name} has no batch, so that nobody knows its columns: yield an empty table")
            raise Failed("wrong_output")


def _check_json(value: Any) -> None:
    """Only what comes back from JSON as it was: json.dumps would quietly turn the key 1 into "1"."""
    match value:
        case None | bool() | int() | str():
            return
        case float() if math.isfinite(value):
            return
        case list():
            for item in value:
                _check_json(item)
        case dict() if all(isinstance(key, str) for key in value):
            for item in value.values():
                _check_json(item)
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")


# -- diagnostics -----------------------------------------------------------------------------------


def explain(text: str) -> None:
    """One line for `diagnostics`."""
    _to_stderr(f"mesatee: {text}\n")


def explain_error(error: BaseException) -> None:
    """The traceback for `diagnostics`, without our own frames."""
    flush()
    try:
        lines = traceback.format_exception(type(error), error, _foreign(error))
    except BaseException:  # noqa: BLE001  # an exception of foreign code may raise even when it is printed
        lines = [f"{type(error).__name__}\n"]
    _to_stderr("".join(lines))


def flush() -> None:
    """Let go of what the function printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S112  # foreign code may have put anything there; only output is lost
            continue


def _foreign(error: BaseException) -> Any:
    """The traceback from the first frame that is not of this file."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename == __file__:
        found = found.tb_next
    return found


def _to_stderr(text: str) -> None:
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    # Not by sys.stderr, which foreign code may have replaced.
    try:
        while data:
            data = data[os.write(_STDERR, data) :]
    except OSError:
        # Diagnostics are a courtesy: foreign code may have closed the descriptor.
        return
