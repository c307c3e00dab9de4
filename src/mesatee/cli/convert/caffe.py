"""Caffe's nets, read strictly: the net as text (prototxt), its weights as a protocol buffer (caffemodel).

Written from Caffe's published schema (caffe.proto, BSD). The text says what is computed; of the weights' file only
names and blobs are taken. `caffe_onnx` makes ONNX of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

from ...errors import Malformed, TooLarge
from ...protocol import limits
from ...protocol.protobuf import Reader, Schema
from .prototext import TEXT_BYTES, Message, Value, Word, parse

LAYERS: Final = 4_096
"""Layers of one net; the largest that people share have some 1,000."""
BLOBS: Final = 8
"""Blobs of weights of one layer; the layers that we know have at most three."""
RANK: Final = 8
FIELDS: Final = 1 << 20
"""Fields of a file of weights: its numbers stand packed, in one field a blob."""
_PARAMETERS: Final = range(12, 400)
"""Numbers of a layer's own settings, which the text says too."""

_NET: Final[Schema] = {
    1: ("name", "text"),
    2: ("older layers", "spans"),
    3: ("input", "texts"),
    4: ("input_dim", "ints"),
    5: ("force_backward", "int"),
    6: ("state", "skip"),
    7: ("debug_info", "int"),
    8: ("input_shape", "skips"),
    100: ("layer", "spans"),
}
_LAYER: Final[Schema] = {
    **{number: (f"setting {number}", "skips") for number in _PARAMETERS},
    1: ("name", "text"),
    2: ("type", "text"),
    3: ("bottom", "texts"),
    4: ("top", "texts"),
    5: ("loss_weight", "floats"),
    6: ("param", "skips"),
    7: ("blobs", "spans"),
    8: ("include", "skips"),
    9: ("exclude", "skips"),
    10: ("phase", "int"),
    11: ("propagate_down", "ints"),
}
_OLDER: Final[Schema] = {
    **{number: (f"setting {number}", "skips") for number in range(1, 100)},
    2: ("bottom", "texts"),
    3: ("top", "texts"),
    4: ("name", "text"),
    5: ("type", "int"),
    6: ("blobs", "spans"),
    7: ("blobs_lr", "floats"),
    8: ("weight_decay", "floats"),
    35: ("loss_weight", "floats"),
    1002: ("blob_share_mode", "ints"),
}
_BLOB: Final[Schema] = {
    1: ("num", "int"),
    2: ("channels", "int"),
    3: ("height", "int"),
    4: ("width", "int"),
    5: ("data", "spans"),
    6: ("diff", "skips"),
    7: ("shape", "span"),
    8: ("double_data", "skips"),
    9: ("double_diff", "skips"),
}
_SHAPE: Final[Schema] = {1: ("dim", "ints")}
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Blob:
    """Weights: their shape, and their numbers as float32, little end first."""

    shape: tuple[int, ...]
    data: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the text; `settings` are those of its kind, checked where they are used."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class Net:
    """What the text says for inference."""

    inputs: Mapping[str, tuple[int, ...] | None]
    """Name -> shape; None where only a training net's source of data knows it."""
    layers: tuple[Layer, ...]


def read_net(text: str) -> Net:
    """A net as it stands for inference: layers that are for training alone are left out.

    Raises `Malformed` or `TooLarge`.
    """
    whole = parse(text)
    if "layers" in whole:
        raise Malformed(
            "the net is written in Caffe's older form (`layers`)",
            hint="bring it into today's by Caffe's own tool upgrade_net_proto_text",
        )
    _only(
        whole, ("name", "input", "input_dim", "input_shape", "layer", "state", "force_backward", "debug_info")
    )
    inputs = _inputs(whole)
    layers = []
    found = messages(whole, "layer")
    if len(found) > LAYERS:
        raise TooLarge(f"the net has {len(found)} layers, the limit is {LAYERS}")
    for message in found:
        layer = Layer(
            text_of(message, "name", "a layer"),
            text_of(message, "type", "a layer"),
            texts(message, "bottom"),
            texts(message, "top"),
            message,
        )
        if not _in_use(message):
            continue
        if layer.kind in ("Input", "Data"):
            _source(layer, inputs)
            continue
        layers.append(layer)
    if not inputs:
        raise Malformed(
            "the net has no input",
            hint="give the net for use (deploy.prototxt), which has an Input layer, or `input:`",
        )
    if not layers:
        raise Malformed("the net has no layer beside its inputs")
    return Net(inputs, tuple(layers))


def _in_use(message: Message) -> bool:
    """Whether a layer stands when the net is used (phase TEST)."""
    included = [word(rule, "phase", "") for rule in messages(message, "include")]
    excluded = [word(rule, "phase", "") for rule in messages(message, "exclude")]
    return (not included or any(phase in ("", "TEST") for phase in included)) and "TEST" not in excluded


def _inputs(whole: Message) -> dict[str, tuple[int, ...] | None]:
    names = texts(whole, "input")
    shapes = [_shape(item) for item in messages(whole, "input_shape")]
    flat = integers(whole, "input_dim")
    if flat:
        if shapes or len(flat) != 4 * len(names):
            raise Malformed("input_dim gives four lengths for each input")
        shapes = [checked(tuple(flat[at : at + 4])) for at in range(0, len(flat), 4)]
    if len(shapes) != len(names):
        raise Malformed("each input has one shape")
    return dict(zip(names, shapes, strict=True))


def _source(layer: Layer, inputs: dict[str, tuple[int, ...] | None]) -> None:
    if layer.bottoms or not layer.tops:
        raise Malformed(f"the layer {layer.name} is an input: it has tops and no bottom")
    if layer.kind == "Data":
        # The second top are the labels of training data, which nobody has who uses the net.
        inputs[layer.tops[0]] = None
        return
    settings = one(layer.message, "input_param")
    shapes = [_shape(item) for item in messages(settings, "shape")]
    if len(shapes) == 1:
        shapes *= len(layer.tops)
    if len(shapes) != len(layer.tops):
        raise Malformed(f"the layer {layer.name} has one shape for each top")
    inputs.update(zip(layer.tops, shapes, strict=True))


def _shape(message: Message) -> tuple[int, ...]:
    _only(message, ("dim",))
    return checked(tuple(integers(message, "dim")))


def checked(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of positive lengths that some machine could hold. Raises `Malformed` or `TooLarge`."""
    if not 1 <= len(shape) <= RANK or any(size < 1 for size in shape):
        raise Malformed(f"a shape has 1 to {RANK} lengths, each at least 1")
    if prod(shape) > limits.ONNX_BYTES:
        raise TooLarge("a blob of the net is larger than any that could be held")
    return shape


def read_weights(data: bytes) -> dict[str, tuple[Blob, ...]]:
    """Layer -> its blobs. Raises `Malformed` or `TooLarge`."""
    if len(data) > limits.ONNX_BYTES:
        raise TooLarge(f"the weights have {len(data)} bytes, the limit is {limits.ONNX_BYTES}")
    view = memoryview(data)
    reader = Reader(view, FIELDS)
    net = reader.read((0, len(data)), _NET, "the file of weights")
    found: dict[str, tuple[Blob, ...]] = {}
    spans = [(span, _LAYER) for span in net.get("layer", ())]
    spans += [(span, _OLDER) for span in net.get("older layers", ())]
    if len(spans) > LAYERS:
        raise TooLarge(f"the file of weights has {len(spans)} layers, the limit is {LAYERS}")
    for number, (span, schema) in enumerate(spans):
        what = f"layer {number} of the weights"
        layer = reader.read(span, schema, what)
        blobs = layer.get("blobs", [])
        if len(blobs) > BLOBS:
            raise TooLarge(f"{what} has {len(blobs)} blobs, the limit is {BLOBS}")
        name = layer.get("name", "")
        if blobs and name in found:
            raise Malformed(f"{what} has the name of another one")
        if blobs:
            found[name] = tuple(_blob(reader, view, item, what) for item in blobs)
    if not found:
        raise Malformed("the file of weights has none", hint="is it a caffemodel?")
    return found


def _blob(reader: Reader, view: memoryview, span: tuple[int, int], what: str) -> Blob:
    message = reader.read(span, _BLOB, f"a blob of {what}")
    pieces = message.get("data", [])
    if len(pieces) != 1:
        raise Malformed(f"a blob of {what} has no float32 numbers, or several times")
    start, end = pieces[0]
    if "shape" in message:
        shape = tuple(reader.read(message["shape"], _SHAPE, f"a shape of {what}").get("dim", []))
    else:
        shape = tuple(message.get(name, 1) for name in ("num", "channels", "height", "width"))
    checked(shape)
    if prod(shape) * _FLOAT_BYTES != end - start:
        raise Malformed(f"a blob of {what} has another number of values than its shape says")
    return Blob(shape, view[start:end])


# -- fields of the text ----------------------------------------------------------------------------


def _only(message: Message, known: tuple[str, ...]) -> None:
    for name in message:
        if name not in known:
            raise Malformed(f"the net has the field {name}, which is not known here")


def settings(layer: Layer, name: str, known: tuple[str, ...]) -> Message:
    """The settings of a layer's kind, which may have only `known` fields, and those that matter in training alone."""
    found = one(layer.message, name)
    _only_of(layer, found, (*known, "weight_filler", "bias_filler", "filler", "engine"))
    _only_of(
        layer,
        layer.message,
        (
            "name",
            "type",
            "bottom",
            "top",
            "include",
            "exclude",
            "param",
            "phase",
            "loss_weight",
            "propagate_down",
            name,
        ),
    )
    return found


def _only_of(layer: Layer, message: Message, known: tuple[str, ...]) -> None:
    for name in message:
        if name not in known:
            raise Malformed(
                f"the layer {layer.name} ({layer.kind}) has the setting {name}, which is not converted"
            )


def one(message: Message, name: str) -> Message:
    """The message of this name, or an empty one."""
    found = messages(message, name)
    if len(found) > 1:
        raise Malformed(f"the field {name} stands twice")
    return found[0] if found else {}


def messages(message: Message, name: str) -> list[Message]:
    """All messages of this name."""
    found = [item for item in message.get(name, []) if isinstance(item, dict)]
    if len(found) != len(message.get(name, [])):
        raise Malformed(f"the field {name} is a message in braces")
    return found


def _single(message: Message, name: str) -> Value | None:
    found = message.get(name, [])
    if len(found) > 1:
        raise Malformed(f"the field {name} stands twice")
    return found[0] if found else None


def texts(message: Message, name: str) -> tuple[str, ...]:
    """Quoted texts."""
    found = message.get(name, [])
    if any(isinstance(item, Word) or not isinstance(item, str) or not item for item in found):
        raise Malformed(f"the field {name} is a text in quotes")
    return tuple(str(item) for item in found)


def text_of(message: Message, name: str, what: str) -> str:
    """One quoted text."""
    found = texts(message, name)
    if len(found) != 1:
        raise Malformed(f"{what} has no {name}, or several")
    return found[0]


def integers(message: Message, name: str) -> list[int]:
    """Whole numbers."""
    found: list[Any] = message.get(name, [])
    if any(not isinstance(item, int) for item in found):
        raise Malformed(f"the field {name} is a whole number")
    return found


def integer(message: Message, name: str, default: int) -> int:
    """One whole number."""
    found = integers(message, name)
    if len(found) > 1:
        raise Malformed(f"the field {name} stands twice")
    return found[0] if found else default


def number(message: Message, name: str, default: float) -> float:
    """One number."""
    value = _single(message, name)
    if value is None:
        return default
    if not isinstance(value, int | float):
        raise Malformed(f"the field {name} is a number")
    return float(value)


def word(message: Message, name: str, default: str) -> str:
    """One bare word."""
    value = _single(message, name)
    if value is None:
        return default
    if not isinstance(value, Word):
        raise Malformed(f"the field {name} is a word of its list")
    return str(value)


def truth(message: Message, name: str, default: bool) -> bool:
    """True or false."""
    said = word(message, name, "true" if default else "false")
    if said not in ("true", "false"):
        raise Malformed(f"the field {name} is true or false")
    return said == "true"


__all__ = [
    "BLOBS",
    "LAYERS",
    "RANK",
    "TEXT_BYTES",
    "Blob",
    "Layer",
    "Message",
    "Net",
    "checked",
    "integer",
    "integers",
    "number",
    "one",
    "read_net",
    "read_weights",
    "settings",
    "truth",
    "word",
]
