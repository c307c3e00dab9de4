"""What supervisor, zygote and child say to each other (ADR 1 "The sandbox").

Small JSON messages, each bounded and checked field by field:

- a `Job` goes from the supervisor to a child, together with file descriptors: the zygote never sees it;
- a `Spare` comes from the zygote with the socket of a child that waits for a job, an `Exit` when a child is
  gone, a `Refused` when the zygote did not understand;
- a `Report` comes from the child and is hostile: everything that is not exactly of the form is `Malformed`.

>>> job = Job("builtin", "echo", inputs={"data": "bytes"}, outputs={"copy": OutputSpec("bytes")})
>>> Job.decode(job.encode()) == job
True
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import environments, limits
from mesatee.protocol.signature import RESERVED_OUTPUT

Executor = Literal["builtin", "python", "mesapy", "wasm", "wasm_compiler"]
"""`wasm_compiler` is the worker's own: it turns a module into compiled code, in a child like any other."""
Format = Literal["csv", "parquet", "arrow", "bytes", "json"]
Failure = Literal[
    "function_raised",
    "wrong_output",
    "bad_argument",
    "bad_input",
    "out_of_memory",
    "out_of_time",
    "out_of_cpu",
    "output_too_large",
    "crashed",
    "cancelled",
]
"""How a run can fail, of the codes in ADR 1; `worker_lost` and `input_corrupt` are the worker's own."""

CHILD_FAILURES: Final[frozenset[Failure]] = frozenset(
    {
        "bad_argument",
        "bad_input",
        "function_raised",
        "out_of_cpu",
        "out_of_memory",
        "out_of_time",
        "output_too_large",
        "wrong_output",
    }
)
"""What a child may say of itself; the rest is seen from outside."""

COMPILES: Final[frozenset[Executor]] = frozenset({"wasm", "wasm_compiler"})
"""Executors whose children make executable memory."""
SpareKind = Literal["general", "wasm"]
"""Which zygote a child comes from: wasmtime makes memory executable, so that no other executor shares one with it."""
COMPILED_OUTPUT: Final = "compiled"
"""The only output of `wasm_compiler`."""
REASON_CHARS: Final = 300
"""Of a refused sandbox's reason, in characters."""
COMMAND_BYTES: Final = 32
"""A command to the zygote, in bytes."""
_MOST_CHILDREN: Final = 2**53
LAYERS: Final = 32
"""Layers that a report may name."""


def spare_kind(executor: Executor) -> SpareKind:
    """The kind of child that runs this executor, and no other does."""
    return "wasm" if executor in COMPILES else "general"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use; all of it is enforced by the kernel or by the supervisor.

    `seconds` of wall clock from the request on, `cpu_seconds` of processor time over all threads,
    `memory_bytes` of address space beyond the warm interpreter and the mapped inputs, `output_bytes` over
    all outputs, `threads` of the function including the first one (Arrow has two helpers beside these, polars one).
    """

    seconds: float = 300.0
    cpu_seconds: int = 300
    memory_bytes: int = 2 * limits.GIB
    output_bytes: int = 256 * limits.MIB
    threads: int = 4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 < self.seconds <= limits.RUN_SECONDS):
            raise Malformed(f"a run takes more than 0 and at most {limits.RUN_SECONDS} seconds")
        _in_range("cpu_seconds", self.cpu_seconds, 1, 64 * limits.RUN_SECONDS)
        _in_range("memory_bytes", self.memory_bytes, limits.MIB, limits.BLOB_BYTES)
        _in_range("output_bytes", self.output_bytes, 1, limits.BLOB_BYTES)
        _in_range("threads", self.threads, 1, 256)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The format of an output and its largest size in bytes (the job's `output_bytes` if None)."""

    format: Format
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        _one_of("the format", self.format, get_args(Format))
        if self.max_bytes is not None:
            _in_range("max_bytes", self.max_bytes, 1, limits.BLOB_BYTES)


@dataclass(frozen=True)
class Job:
    """One run. `code`, `attestation` and `compiled` cross by memory file, everything else in the message.

    `attestation` is the JSON that the child finds at `mesatee.function.FILE`; `compiled` is what the worker's
    own compiling of `code` gave. `environment` names one of those that the supervisor knows, empty for the base.
    `scratch_bytes` is how large the scratch file may become, 0 without one; with one, tables come piece by piece.
    `warm` names the input with the model that the child is to load ahead, before it waits for `GO`; empty without one.
    """

    executor: Executor
    entry: str
    code: bytes = b""
    args: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Format] = field(default_factory=dict)
    outputs: Mapping[str, OutputSpec] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    require: frozenset[str] = frozenset()
    attestation: bytes = b""
    compiled: bytes = field(default=b"", repr=False)
    environment: str = ""
    scratch_bytes: int = 0
    warm: str = ""

    def __post_init__(self) -> None:
        _in_range("scratch_bytes", self.scratch_bytes, 0, limits.SCRATCH_BYTES)
        if self.warm and (self.executor != "builtin" or self.warm not in self.inputs):
            raise Malformed("only a built-in function loads an input ahead")
        _one_of("the executor", self.executor, get_args(Executor))
        if len(self.code) > limits.CODE_BYTES:
            raise TooLarge(f"the code has {len(self.code)} bytes, the limit is {limits.CODE_BYTES}")
        if len(self.attestation) > limits.ATTESTATION_BYTES:
            raise TooLarge(
                f"the attestation has {len(self.attestation)} bytes, the limit is {limits.ATTESTATION_BYTES}"
            )
        for name in (self.entry, *self.inputs, *self.outputs):
            _name(name)
        if not isinstance(self.environment, str):
            raise Malformed("the environment is a name")
        if self.environment:
            environments.check_name(self.environment)
        for group in (self.inputs, self.outputs):
            if len(group) > limits.INPUTS:
                raise TooLarge(f"a job has at most {limits.INPUTS} inputs and as many outputs")
        if RESERVED_OUTPUT in self.outputs:
            raise Malformed(f"the output name {RESERVED_OUTPUT} is reserved")
        for format in self.inputs.values():
            _one_of("the format", format, get_args(Format))
        if len(_dump(dict(self.args))) > limits.ARGUMENTS_BYTES:
            raise TooLarge(f"the arguments have over {limits.ARGUMENTS_BYTES} bytes")
        # Whoever made the job may keep the dictionaries and change them later.
        for name in ("args", "inputs", "outputs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def file_bytes(self) -> int:
        """The largest single output, in bytes."""
        largest = max(
            (spec.max_bytes or self.limits.output_bytes for spec in self.outputs.values()), default=1
        )
        return min(largest, self.limits.output_bytes)

    def encode(self) -> bytes:
        """JSON without what crosses by memory file. Raises `TooLarge`."""
        message = _dump(
            {
                "executor": self.executor,
                "entry": self.entry,
                "args": dict(self.args),
                "inputs": [[name, format] for name, format in self.inputs.items()],
                "outputs": [[name, spec.format, spec.max_bytes] for name, spec in self.outputs.items()],
                "limits": {name: getattr(self.limits, name) for name in _LIMIT_NAMES},
                "require": sorted(self.require),
                "environment": self.environment,
                "scratch_bytes": self.scratch_bytes,
                "warm": self.warm,
            }
        )
        if len(message) > limits.JOB_BYTES:
            raise TooLarge(f"the job has {len(message)} bytes, the limit is {limits.JOB_BYTES}")
        return message

    @classmethod
    def decode(cls, message: bytes) -> Job:
        """The inverse of `encode`; what crosses by memory file stays empty. Raises `Malformed` or `TooLarge`."""
        fields = _object(message, limits.JOB_BYTES, _JOB_NAMES)
        inputs = {_name(name): format for name, format in _rows(fields["inputs"], 2)}
        outputs = {
            _name(name): OutputSpec(format, most) for name, format, most in _rows(fields["outputs"], 3)
        }
        if len(inputs) != len(fields["inputs"]) or len(outputs) != len(fields["outputs"]):
            raise Malformed("two inputs or outputs have one name")
        bounds = fields["limits"]
        if not isinstance(bounds, dict) or set(bounds) != set(_LIMIT_NAMES):
            raise Malformed("the limits are not complete")
        if not isinstance(bounds["seconds"], (int, float)) or not isinstance(fields["args"], dict):
            raise Malformed("the job has a field of another type")
        return cls(
            executor=fields["executor"],
            entry=_name(fields["entry"]),
            args=fields["args"],
            inputs=inputs,
            outputs=outputs,
            limits=Limits(**bounds),
            require=frozenset(_layers(fields["require"])),
            environment=fields["environment"],
            scratch_bytes=fields["scratch_bytes"],
            warm=_name(fields["warm"]) if fields["warm"] else "",
        )


_LIMIT_NAMES: Final = ("seconds", "cpu_seconds", "memory_bytes", "output_bytes", "threads")
_JOB_NAMES: Final = {
    "executor",
    "entry",
    "args",
    "inputs",
    "outputs",
    "limits",
    "require",
    "environment",
    "scratch_bytes",
    "warm",
}


NEXT: Final = b"next"
"""To the zygote, with a child's number: it has been given its job, so make another one."""
KILL: Final = b"kill"
"""To the zygote, with a child's number."""
LOADED: Final = b"loaded"
"""From a child that waits with a model, once it has loaded it."""
GO: Final = b"go"
"""To that child: its inputs are there."""
READY: Final = b"ready"
"""From the zygote, once: everything is imported."""


def command(word: bytes, child: int) -> bytes:
    """A command to the zygote: `NEXT` or `KILL`, and which child."""
    return b"%s %d" % (word, child)


def parse_command(message: bytes) -> tuple[bytes, int]:
    """The inverse of `command`. Raises `Malformed` or `TooLarge`."""
    if len(message) > COMMAND_BYTES:
        raise TooLarge(f"a command has at most {COMMAND_BYTES} bytes")
    word, _, child = message.partition(b" ")
    if word not in (NEXT, KILL) or not child.isdigit():
        raise Malformed("a command is one of two words and a number")
    return word, int(child)


@dataclass(frozen=True, slots=True)
class Spare:
    """A child that waits for its job, on the socket that comes with this. The zygote numbers its children."""

    child: int

    def encode(self) -> bytes:
        """JSON."""
        return _dump({"spare": self.child})


@dataclass(frozen=True, slots=True)
class Refused:
    """The zygote did not understand what it was told, and did nothing."""

    reason: str

    def encode(self) -> bytes:
        """JSON."""
        return _dump({"refused": self.reason[:REASON_CHARS]})


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, as the zygote saw it: 0, or 128 and the signal, or another exit code."""

    child: int
    status: int
    cpu_seconds: float
    max_rss_bytes: int

    def encode(self) -> bytes:
        """JSON."""
        return _dump(
            {"child": self.child, "status": self.status, "cpu": self.cpu_seconds, "rss": self.max_rss_bytes}
        )


def parse_answer(message: bytes) -> Spare | Exit | Refused:
    """What the zygote says. Raises `Malformed` or `TooLarge`."""
    fields = _object(message, limits.JOB_BYTES, None)
    match fields:
        case {"spare": child} if len(fields) == 1:
            _in_range("spare", child, 0, _MOST_CHILDREN)
            return Spare(child)
        case {"refused": str(reason)} if len(fields) == 1 and len(reason) <= REASON_CHARS:
            return Refused(reason)
        case {"child": child, "status": status, "cpu": cpu, "rss": rss} if len(fields) == 4:
            _in_range("child", child, 0, _MOST_CHILDREN)
            _in_range("status", status, 0, 255)
            return Exit(child, status, *_used(cpu, rss))
    raise Malformed("the zygote's answer has another form")


@dataclass(frozen=True, slots=True)
class Report:
    """What a child said: first its layers or why it has none, at last how the function ended.

    `outputs` is None as long as there is no last word. The first line is written before any foreign code
    runs.
    """

    layers: tuple[str, ...] = ()
    refused: str | None = None
    failure: Failure | None = None
    outputs: tuple[str, ...] | None = None
    cpu_seconds: float = 0.0
    max_rss_bytes: int = 0


def ready_line(layers: Iterable[str]) -> bytes:
    """The child's first line: the isolation layers that are active."""
    return _dump({"layers": list(layers)}) + b"\n"


def refused_line(reason: str) -> bytes:
    """The child's first and only line: the sandbox could not be set up."""
    return _dump({"refused": reason[:REASON_CHARS]}) + b"\n"


def last_line(
    failure: Failure | None, outputs: Iterable[str], cpu_seconds: float = 0.0, rss: int = 0
) -> bytes:
    """The child's last line, with what it has used: processor time, and largest resident memory in bytes."""
    return _dump({"failure": failure, "outputs": list(outputs), "cpu": cpu_seconds, "rss": rss}) + b"\n"


def parse_report(data: bytes) -> Report:
    """The report of a child, which is hostile input. Raises `Malformed` or `TooLarge`.

    1. At most `limits.CHILD_REPORT_BYTES`, at most two lines, each ended.
    2. The first line names layers, or the reason why there are none; then nothing follows.
    3. The last line is a failure that a child may name, or the names of all outputs; and what it says to have used.
    """
    # 1.
    if len(data) > limits.CHILD_REPORT_BYTES:
        raise TooLarge(f"a report has at most {limits.CHILD_REPORT_BYTES} bytes")
    if not data:
        return Report()
    *lines, rest = data.split(b"\n")
    if rest or not 1 <= len(lines) <= 2:
        raise Malformed("a report has one or two whole lines")
    # 2.
    first = _object(lines[0], limits.CHILD_REPORT_BYTES, None)
    if set(first) == {"refused"}:
        reason = first["refused"]
        if not isinstance(reason, str) or len(reason) > REASON_CHARS or len(lines) > 1:
            raise Malformed("a refusal is one short text")
        return Report(refused="".join(char if char.isprintable() else "?" for char in reason))
    if set(first) != {"layers"}:
        raise Malformed("a report starts with its layers")
    layers = _layers(first["layers"])
    if len(lines) == 1:
        return Report(layers)
    # 3.
    last = _object(lines[1], limits.CHILD_REPORT_BYTES, {"failure", "outputs", "cpu", "rss"})
    failure, outputs = last["failure"], last["outputs"]
    if failure is not None and (not isinstance(failure, str) or failure not in CHILD_FAILURES):
        raise Malformed("a child cannot end with this failure")
    if not isinstance(outputs, list) or len(outputs) > limits.INPUTS:
        raise Malformed("the outputs are a list of names")
    names = tuple(_name(name) for name in outputs)
    return Report(layers, None, failure, names, *_used(last["cpu"], last["rss"]))


# -- checks ----------------------------------------------------------------------------------------


def _used(cpu: Any, rss: Any) -> tuple[float, int]:
    """Processor time in seconds, and bytes."""
    if isinstance(cpu, bool) or not isinstance(cpu, (int, float)) or not 0 <= cpu <= 2**53:
        raise Malformed("the processor time is not a number")
    _in_range("rss", rss, 0, 2**62)
    return float(cpu), rss


def _dump(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise Malformed("a value is not JSON") from None


def _object(message: bytes, most: int, names: set[str] | None) -> dict[str, Any]:
    if len(message) > most:
        raise TooLarge(f"the message has {len(message)} bytes, the limit is {most}")
    try:
        value = json.loads(
            message.decode("utf-8", "strict"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise Malformed("the message is not JSON") from None
    if not isinstance(value, dict) or (names is not None and set(value) != names):
        raise Malformed("the message has other fields")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON")


def _rows(value: Any, width: int) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) > limits.INPUTS:
        raise Malformed("a list was expected")
    if not all(isinstance(row, list) and len(row) == width for row in value):
        raise Malformed(f"each row has {width} fields")
    return value


def _layers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > LAYERS:
        raise Malformed("the layers are a list of names")
    return tuple(_name(name) for name in value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isidentifier():
        raise Malformed("a name is an ASCII identifier")
    if len(value) > limits.NAME_CHARS:
        raise TooLarge(f"a name has at most {limits.NAME_CHARS} characters")
    return value


def _one_of(what: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise Malformed(f"{what} is one of {', '.join(allowed)}")


def _in_range(what: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Malformed(f"{what} is a number from {least} to {most}")


__all__ = [
    "CHILD_FAILURES",
    "COMMAND_BYTES",
    "COMPILED_OUTPUT",
    "COMPILES",
    "GO",
    "KILL",
    "LAYERS",
    "LOADED",
    "NEXT",
    "READY",
    "REASON_CHARS",
    "Executor",
    "Exit",
    "Failure",
    "Format",
    "Job",
    "Limits",
    "OutputSpec",
    "Refused",
    "Report",
    "Spare",
    "SpareKind",
    "command",
    "last_line",
    "parse_answer",
    "parse_command",
    "parse_report",
    "ready_line",
    "refused_line",
    "spare_kind",
]
