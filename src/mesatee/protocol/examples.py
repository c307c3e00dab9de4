"""Examples: what a function's owner signs that it gives for small inputs, so that others can see it do so.

They are part of the signed function statement. An input stands in the statement itself or is named by its digest; what
must come out is named by the digest of each output. A function that does not give the same bytes each time, by clock,
chance or another version of a library, has no examples that keep. Everybody who may read the statement sees them: they
are made up, never of real data.

>>> example = Example.model_validate(
...     {
...         "name": "two",
...         "arguments": {},
...         "inputs": {"data": Inline(format="bytes", data="YWI=")},
...         "outputs": {"result": "00" * 32},
...     }
... )
>>> example.inputs["data"].digest[:8]
'fb8e20fc'
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from ..errors import Malformed
from . import limits
from .digests import Hex32, Name, b64decode, sha256
from .jsonstrict import canonical
from .model import Model, TableFormat, read

_BASE64_CHARS: Final = (limits.EXAMPLE_INPUT_BYTES + 2) // 3 * 4


def _base64(text: str) -> str:
    try:
        b64decode(text, max_bytes=limits.EXAMPLE_INPUT_BYTES)
    except Malformed as error:
        raise ValueError(error.message) from None
    return text


class Inline(Model):
    """A small input, whole, in base64."""

    format: TableFormat
    data: Annotated[str, StringConstraints(max_length=_BASE64_CHARS), AfterValidator(_base64)]

    @property
    def content(self) -> bytes:
        """The bytes."""
        return b64decode(self.data, max_bytes=limits.EXAMPLE_INPUT_BYTES)

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        return sha256(self.content)


class ByDigest(Model):
    """An input that whoever wants to repeat the example has to have."""

    format: TableFormat
    sha256: Hex32

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        return self.sha256


Input: TypeAlias = Inline | ByDigest


class Example(Model):
    """Arguments, inputs, and what must come out."""

    name: Name
    arguments: dict[Name, JsonValue]
    inputs: Annotated[dict[Name, Input], Field(max_length=limits.INPUTS)]
    outputs: Annotated[dict[Name, Hex32], Field(min_length=1, max_length=limits.INPUTS)]
    """SHA-256 of each output that is compared."""

    @model_validator(mode="after")
    def _small(self) -> Example:
        if len(canonical(self.arguments)) > limits.ARGUMENTS_BYTES:
            raise ValueError(f"arguments have at most {limits.ARGUMENTS_BYTES} bytes")
        return self


def check(
    examples: tuple[Example, ...],
    *,
    required: Iterable[str],
    inputs: Iterable[str] | None,
    arguments: Iterable[str],
    outputs: Iterable[str],
) -> None:
    """Whether they can be examples of a function with these ports; `inputs` is None for one that takes any names.

    Raises `ValueError`.
    """
    if len({item.name for item in examples}) != len(examples):
        raise ValueError("each example has a name of its own")
    if len(canonical([item.model_dump(mode="json") for item in examples])) > limits.EXAMPLES_BYTES:
        raise ValueError(
            f"examples have at most {limits.EXAMPLES_BYTES} bytes in all: name large inputs by their digest"
        )
    for item in examples:
        for what, given, known in (
            ("input", item.inputs, inputs),
            ("argument", item.arguments, arguments),
            ("output", item.outputs, outputs),
        ):
            unknown = [] if known is None else sorted(set(given) - set(known))
            if unknown:
                raise ValueError(f"example {item.name}: the function has no {what} {unknown[0]}")
        lacking = sorted(set(required) - set(item.inputs))
        if lacking:
            raise ValueError(f"example {item.name}: missing input {lacking[0]}")


def parse(data: bytes) -> Example:
    """An example file: the JSON of one example. Raises `Malformed` or `TooLarge`."""
    return read(Example, data, "example", limit=limits.EXAMPLES_BYTES + limits.ARGUMENTS_BYTES)


def encode(example: Example) -> bytes:
    """The inverse of `parse`."""
    dumped: dict[str, Any] = example.model_dump(mode="json")
    return canonical(dumped) + b"\n"


__all__ = ["ByDigest", "Example", "Inline", "Input", "check", "encode", "parse"]
