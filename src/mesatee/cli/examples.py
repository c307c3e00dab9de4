"""Examples of functions on the command line: read from files, made from a run that went well, repeated and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console

from ..errors import DigestMismatch, Malformed
from ..party import files
from ..protocol import examples as form
from ..protocol import limits
from ..protocol.digests import b64encode
from ..protocol.model import validate
from . import local
from .common import line, say, short

Run = Callable[[Mapping[str, local.Given], Mapping[str, Any]], local.Ran]
FILE_BYTES: Final = limits.EXAMPLES_BYTES + limits.ARGUMENTS_BYTES


@dataclass(frozen=True, slots=True)
class Repeated:
    """How an example ended. `outputs` has, for each output, the digest that was signed and the one that came out."""

    name: str
    state: Literal["same", "differs", "failed", "skipped"]
    reason: str
    outputs: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    diagnostics: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        outputs = {name: {"expected": old, "got": new} for name, (old, new) in self.outputs.items()}
        return {**asdict(self), "outputs": outputs}


def load(path: Path) -> form.Example:
    """Raises `NotFound`, `Malformed` or `TooLarge`, naming the file."""
    data = files.read(path, FILE_BYTES, "example file")
    try:
        return form.parse(data)
    except Malformed as error:
        raise Malformed(
            f"{path}: {error.message}", hint="`mesatee function test ... --save-example FILE` writes one"
        ) from None


def save(
    path: Path, inputs: Mapping[str, local.Given], arguments: Mapping[str, Any], ran: local.Ran
) -> form.Example:
    """Write an example of a run that went well; inputs that are too large to stand in it are named by digest.

    Raises `Conflict` if the file exists, and `Malformed` for arguments or a name that cannot be signed.
    """
    chosen: dict[str, Any] = {}
    for name, given in inputs.items():
        content = given.content if isinstance(given.content, bytes) else given.content.read_bytes()
        small = len(content) <= limits.EXAMPLE_INPUT_BYTES
        what = {"data": b64encode(content)} if small else {"sha256": local.digest_of(given)}
        chosen[name] = {"format": given.format, **what}
    example = validate(
        form.Example,
        {
            "name": path.name.split(".")[0],
            "arguments": dict(arguments),
            "inputs": chosen,
            "outputs": {name: made.digest for name, made in ran.outputs.items()},
        },
        "example",
    )
    with files.replacing(path, exclusive=True) as file:
        file.write(form.encode(example))
    for name, item in example.inputs.items():
        if isinstance(item, form.Inline) and not inputs[name].mock:
            say(
                f"warning: {path} has the whole of {inputs[name].origin} in it: once it is registered with the "
                "function, whoever may see the function reads it"
            )
    return example


def repeat(examples: Sequence[form.Example], given: Mapping[str, local.Given], run: Run) -> list[Repeated]:
    """Run each example and compare. `given` are files for inputs that are named by digest.

    Raises `DigestMismatch` for a file that no example names, and what `run` raises besides our errors of inputs.
    """
    pool = {local.digest_of(item): item for item in given.values()}
    wanted = {item.digest for example in examples for item in example.inputs.values()}
    for item in given.values():
        if local.digest_of(item) not in wanted:
            raise DigestMismatch(
                f"{item.origin} is no input of the examples", hint="an example names its inputs by SHA-256"
            )
    return [_repeat(example, pool, run) for example in examples]


def _repeat(example: form.Example, pool: Mapping[str, local.Given], run: Run) -> Repeated:
    inputs: dict[str, local.Given] = {}
    for name, item in example.inputs.items():
        if isinstance(item, form.Inline):
            inputs[name] = local.Given(item.format, item.content, "of the example", False)
        elif item.digest in pool:
            inputs[name] = local.Given(
                item.format, pool[item.digest].content, pool[item.digest].origin, False
            )
        else:
            return Repeated(
                example.name, "skipped", f"give the file with SHA-256 {item.digest} by --in {name}=FILE"
            )
    try:
        ran = run(inputs, example.arguments)
    except (Malformed, DigestMismatch) as error:
        return Repeated(example.name, "failed", error.message)
    if ran.failure is not None:
        return Repeated(example.name, "failed", ran.failure, diagnostics=ran.diagnostics)
    outputs = {
        name: (digest, ran.outputs[name].digest if name in ran.outputs else None)
        for name, digest in example.outputs.items()
    }
    wrong = [name for name, (old, new) in outputs.items() if old != new]
    if wrong:
        return Repeated(
            example.name,
            "differs",
            f"not the bytes that were signed: {', '.join(wrong)}",
            outputs,
            ran.diagnostics,
        )
    return Repeated(example.name, "same", "", outputs)


def show(console: Console, found: Sequence[Repeated]) -> None:
    """One line for each, and what it printed where it did not come out the same."""
    for item in found:
        line(
            console,
            f"example {item.name}: {item.state}" + (f", {item.reason}" if item.reason else ""),
            "bold",
        )
        for name, (old, new) in item.outputs.items():
            same = "as signed" if old == new else f"signed was {short(old)}"
            line(console, f"  output {name}: {short(new or '-')}, {same}")
        for text in item.diagnostics.rstrip("\n").split("\n") if item.diagnostics else ():
            line(console, "  | " + text)


__all__ = ["FILE_BYTES", "Repeated", "load", "repeat", "save", "show"]
