"""Running a function on this machine, as a worker would: the same supervisor, sandbox, limits and conversions.

Nothing of it leaves this machine, and nothing that the function says is kept from whoever runs it: the data are their
own, or mock data.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from .. import _core
from ..enclave.gateway.rules import check_arguments
from ..enclave.sandbox.protocol import Failure, Job, Limits, OutputSpec
from ..enclave.sandbox.supervisor import Outcome, Supervisor, Usage
from ..errors import Malformed, NotFound
from ..extras import missing
from ..party.functions import Contract
from ..protocol import limits
from ..protocol.digests import sha256
from ..protocol.examples import Example
from ..protocol.jsonstrict import canonical
from ..protocol.model import TableFormat
from ..protocol.statements import FunctionStatement

HERE: Final = canonical(
    {
        "version": 1,
        **dict.fromkeys(("run", "task", "function", "environment", "key"), "00" * 32),
        "fence": 0,
        "attempt": 1,
        "tee": "none",
        "level": 1,
        "simulated": True,
        "measurement": "none",
        "evidence": "",
        "claims": {"pubkey_hash": "00" * 32, "role": "worker", "environments": {}},
    }
)
"""What a function that asks where it runs is told here: a machine that proves nothing, and digests of nothing."""


@dataclass(frozen=True, slots=True)
class Code:
    """A function that can be run here."""

    title: str
    source: bytes = field(repr=False)
    contract: Contract
    examples: tuple[Example, ...] = ()
    """Those that its owner signed with it."""


@dataclass(frozen=True, slots=True)
class Given:
    """An input: its format, and a file or bytes. `origin` says in words what it is."""

    format: TableFormat
    content: Path | bytes = field(repr=False)
    origin: str
    mock: bool


@dataclass(frozen=True, slots=True)
class Made:
    """An output."""

    format: str
    content: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        return sha256(self.content)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended; outputs only if it succeeded."""

    failure: Failure | None
    outputs: Mapping[str, Made]
    diagnostics: str
    layers: tuple[str, ...]
    usage: Usage


def contract_of(said: FunctionStatement) -> Contract:
    """The contract that a function statement carries."""
    return Contract(said.executor, said.entry, said.inputs, said.variadic, said.arguments, said.outputs)


def check(
    contract: Contract, inputs: Mapping[str, Given] | Sequence[str], arguments: Mapping[str, Any]
) -> None:
    """Whether a task with these inputs and arguments could be registered. Raises `Malformed`."""
    known = {port.name for port in contract.inputs}
    required = {port.name for port in contract.inputs if not port.optional}
    given = set(inputs)
    if not required <= given:
        raise Malformed(
            f"missing input {', '.join(sorted(required - given))}",
            hint="give a file by --in NAME=FILE, or mock data by --mock or --dataset NAME=DATASET",
        )
    if contract.variadic and not given:
        raise Malformed(
            "the function takes inputs of any names, and none is given", hint="e.g. --in left=FILE"
        )
    if not contract.variadic and not given <= known:
        listed = ", ".join(sorted(known)) or "none"
        raise Malformed(
            f"the function has no input {', '.join(sorted(given - known))}", hint=f"its inputs: {listed}"
        )
    # Exactly the gateway's own rule; it looks at the arguments that a statement declares, and at nothing else.
    check_arguments(cast(FunctionStatement, contract), dict(arguments))


def run(
    supervisor: Supervisor,
    code: Code,
    inputs: Mapping[str, Given],
    arguments: Mapping[str, Any],
    bounds: Limits,
) -> Ran:
    """Run it once. Raises `Malformed`, `TooLarge`, `NotFound`, and `SandboxFailed` if there is no sandbox here."""
    said = code.contract
    check(said, inputs, arguments)
    lacking = missing(said.executor)
    if lacking is not None:
        raise NotFound(lacking, hint="install it and try again")
    job = Job(
        executor=cast(Any, said.executor),
        entry=said.entry,
        code=code.source,
        args=arguments,
        inputs={name: given.format for name, given in inputs.items()},
        outputs={
            port.name: OutputSpec(format=port.format, max_bytes=bounds.output_bytes) for port in said.outputs
        },
        limits=bounds,
        attestation=HERE,
    )
    with ExitStack() as stack:
        opened = {name: _sealed(stack, given) for name, given in inputs.items()}
        outcome = stack.enter_context(supervisor.run(job, opened))
        return Ran(
            outcome.failure,
            _taken(outcome, job),
            outcome.diagnostics.decode("utf-8", "replace"),
            outcome.layers,
            outcome.usage,
        )


def _sealed(stack: ExitStack, given: Given) -> int:
    fd = _core.memfd("input")
    stack.callback(os.close, fd)
    with os.fdopen(os.dup(fd), "wb") as target:
        if isinstance(given.content, bytes):
            target.write(given.content)
        else:
            try:
                source = given.content.open("rb")
            except OSError as error:
                raise NotFound(
                    f"cannot read {given.content}: {error.strerror}", hint="check the path"
                ) from None
            with source:
                shutil.copyfileobj(source, target, limits.MIB)
    _core.memfd_seal(fd)
    return fd


def _taken(outcome: Outcome, job: Job) -> dict[str, Made]:
    if outcome.failure is not None:
        return {}
    return {
        name: Made(job.outputs[name].format, os.pread(output.fd, output.size, 0))
        for name, output in outcome.outputs.items()
    }


def digest_of(given: Given) -> str:
    """SHA-256 of an input, hex. Raises `NotFound`."""
    if isinstance(given.content, bytes):
        return sha256(given.content)
    try:
        with given.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotFound(f"cannot read {given.content}: {error.strerror}", hint="check the path") from None


__all__ = ["HERE", "Code", "Given", "Made", "Ran", "check", "contract_of", "digest_of", "run"]
