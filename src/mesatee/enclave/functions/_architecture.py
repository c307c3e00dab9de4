"""What a neural net of ours is made of: a closed list of layers with bounded sizes, read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mesatee.errors import Malformed

LAYERS: Final = 64
"""Layers of one net."""
PARAMETERS: Final = 2**23
"""Weights of one net, each of 4 bytes: training holds some six numbers for each."""
ELEMENTS: Final = 2**22
"""Numbers of one row, as it enters the net and between two layers."""
UNITS: Final = 4_096
TOKENS: Final = 2**17
"""Of a vocabulary."""
CLASSES: Final = 1_024
"""That are named; of numbered ones there may be as many as units."""
LOSSES: Final = ("softmax", "binary", "mse")
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int
    default: int | None = None

    def read(self, value: Any) -> int:
        """Raises `ValueError`."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise ValueError(f"is a whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    default: bool = False

    def read(self, value: Any) -> bool:
        """Raises `ValueError`."""
        if not isinstance(value, bool):
            raise ValueError("is true or false")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]
    default: str

    def read(self, value: Any) -> str:
        """Raises `ValueError`."""
        if value not in self.words:
            raise ValueError(f"is one of {', '.join(self.words)}")
        return str(value)


@dataclass(frozen=True, slots=True)
class Share:
    """A share, from 0 to nine tenths."""

    default: None = None

    def read(self, value: Any) -> float:
        """Raises `ValueError`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 0.9:
            raise ValueError("is a number from 0 to 0.9")
        return float(value)


Field = Whole | Flag | Choice | Share
_UNITS: Final = Whole(1, UNITS)
_RECURRENT: Final[Mapping[str, Field]] = {"units": _UNITS, "sequences": Flag()}

KINDS: Final[Mapping[str, Mapping[str, Field]]] = MappingProxyType(
    {
        "average_pool": {"size": Whole(2, 16, 2)},
        "conv2d": {
            "filters": Whole(1, 1_024),
            "kernel": Whole(1, 15, 3),
            "stride": Whole(1, 8, 1),
            "padding": Choice(("same", "valid"), "same"),
        },
        "dense": {"units": _UNITS},
        "dropout": {"rate": Share()},
        "embedding": {"tokens": Whole(1, TOKENS), "units": _UNITS},
        "flatten": {},
        "gru": _RECURRENT,
        "layer_norm": {},
        "lstm": _RECURRENT,
        "max_pool": {"size": Whole(2, 16, 2)},
        "relu": {},
        "sigmoid": {},
        "tanh": {},
    }
)
"""Layer -> its settings."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A net without its weights: the shape of a row, layers with all of their settings, loss and names of classes."""

    shape: Shape
    layers: tuple[Mapping[str, Any], ...]
    loss: str
    classes: tuple[Any, ...]

    def text(self) -> str:
        """The one JSON text of it, which `parse` reads."""
        said = {
            "version": VERSION,
            "shape": list(self.shape),
            "layers": self.layers_as_given(),
            "loss": self.loss,
            "classes": list(self.classes),
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def layers_as_given(self) -> list[dict[str, Any]]:
        """Layers as a task says them."""
        return [dict(layer) for layer in self.layers]

    @property
    def tokens(self) -> int | None:
        """How many tokens a row's numbers may be; None if they are measures."""
        first = self.layers[0]
        return int(first["tokens"]) if first["layer"] == "embedding" else None


def architecture(
    shape: Sequence[Any], layers: Sequence[Any], loss: Any, classes: Sequence[Any]
) -> Architecture:
    """Check all of it but how layers fit each other, which `Net` says. Raises `Malformed`."""
    size = Whole(1, ELEMENTS)
    if not 1 <= len(shape) <= 3 or not all(_fits(size, item) for item in shape):
        raise Malformed("shape is one to three whole numbers above 0, such as [1, 28, 28]")
    if math.prod(shape) > ELEMENTS:
        raise Malformed(f"a row has at most {ELEMENTS} numbers")
    if not 1 <= len(layers) <= LAYERS:
        raise Malformed(f"a net has from 1 to {LAYERS} layers")
    if loss not in LOSSES:
        raise Malformed(f"loss is one of {', '.join(LOSSES)}")
    named = tuple(classes)
    if len(named) > CLASSES or not all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in named
    ):
        raise Malformed(f"classes are at most {CLASSES} texts or whole numbers")
    if len({type(item) for item in named}) > 1 or len(set(named)) != len(named):
        raise Malformed("classes are all texts or all whole numbers, each once")
    if named and loss != "softmax":
        raise Malformed("classes are named for the loss softmax only")
    return Architecture(
        tuple(shape),
        tuple(_layer(number, layer) for number, layer in enumerate(layers)),
        str(loss),
        named,
    )


def parse(text: str) -> Architecture:
    """The inverse of `Architecture.text`, on hostile text. Raises `Malformed`."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("the model's description of its net is not JSON") from None
    if not isinstance(said, dict) or set(said) != {"version", "shape", "layers", "loss", "classes"}:
        raise Malformed("the model's description of its net is not of this kind")
    if said["version"] != VERSION:
        raise Malformed(f"the model's description of its net is not of version {VERSION}")
    if not all(isinstance(said[name], list) for name in ("shape", "layers", "classes")):
        raise Malformed("the model's description of its net is not of this kind")
    return architecture(said["shape"], said["layers"], said["loss"], said["classes"])


def _fits(field: Field, value: Any) -> bool:
    try:
        field.read(value)
    except ValueError:
        return False
    return True


def _layer(number: int, given: Any) -> Mapping[str, Any]:
    where = f"layer {number}"
    if not isinstance(given, dict) or not isinstance(given.get("layer"), str):
        raise Malformed(f'{where} is an object such as {{"layer": "dense", "units": 10}}')
    fields = KINDS.get(given["layer"])
    if fields is None:
        raise Malformed(f"{where}: there is no such layer; there are {', '.join(KINDS)}")
    if unknown := sorted(set(given) - set(fields) - {"layer"}):
        raise Malformed(
            f"{where}: {given['layer']} has no setting {str(unknown[0])[:40]!r}; it has {_named(fields)}"
        )
    found: dict[str, Any] = {"layer": given["layer"]}
    for name, field in fields.items():
        value = given.get(name, field.default)
        if value is None:
            raise Malformed(f"{where}: {given['layer']} needs {name}")
        try:
            found[name] = field.read(value)
        except ValueError as error:
            raise Malformed(f"{where}: {name} of {given['layer']} {error}") from None
    if number and given["layer"] == "embedding":
        raise Malformed(f"{where}: an embedding is the first layer")
    return MappingProxyType(found)


def _named(fields: Mapping[str, Field]) -> str:
    return ", ".join(fields) or "none"


__all__ = [
    "CLASSES",
    "ELEMENTS",
    "KINDS",
    "LAYERS",
    "LOSSES",
    "PARAMETERS",
    "Architecture",
    "architecture",
    "parse",
]
