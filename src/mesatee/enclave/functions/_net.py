"""A neural net: its layers with weights, its loss, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from mesatee.enclave.functions import _layers, _netfile
from mesatee.enclave.functions._architecture import ELEMENTS, PARAMETERS, Architecture, parse
from mesatee.enclave.functions._layers import Array, Layer
from mesatee.enclave.functions._recurrent import Gru, Lstm
from mesatee.errors import Malformed

INPUT: Final = "input"
OUTPUTS: Final = {"softmax": "probabilities", "binary": "probability", "mse": "prediction"}
"""Loss -> the name of the model's output."""
SHIFT: Final = "input.shift"
SCALE: Final = "input.scale"
_LAYERS: Final[Mapping[str, type[Layer]]] = {
    "average_pool": _layers.Pool,
    "conv2d": _layers.Conv2d,
    "dense": _layers.Dense,
    "dropout": _layers.Dropout,
    "embedding": _layers.Embedding,
    "flatten": _layers.Flatten,
    "gru": Gru,
    "layer_norm": _layers.LayerNorm,
    "lstm": Lstm,
    "max_pool": _layers.Pool,
    "relu": _layers.Activation,
    "sigmoid": _layers.Activation,
    "tanh": _layers.Activation,
}


class Net:
    """Layers that fit each other, and their weights by name: ``3.kernel`` is that of layer 3, counted from 0."""

    def __init__(self, said: Architecture, random: np.random.Generator, dtype: Any = np.float32) -> None:
        """With fresh weights. Raises `Malformed`, naming the layer that does not fit."""
        self.said = said
        self.layers: list[Layer] = []
        shape = said.shape
        count = 0
        for number, spec in enumerate(said.layers):
            try:
                layer = _LAYERS[spec["layer"]](spec, shape)
            except Malformed as error:
                raise Malformed(f"layer {number}: {error.message}") from None
            shape = layer.shape
            count += sum(math.prod(size) for size in layer.weights.values())
            if math.prod(shape) > ELEMENTS or count > PARAMETERS:
                raise Malformed(
                    f"layer {number} makes the net too large: {PARAMETERS} weights, and {ELEMENTS} numbers "
                    "between two layers, are the limit"
                )
            self.layers.append(layer)
        self._check_end(shape)
        self.dtype = dtype
        self.weights: dict[str, Array] = {}
        for number, layer in enumerate(self.layers):
            for name, value in layer.begin(random).items():
                self.weights[f"{number}.{name}"] = value.astype(dtype)
        # One number for all, or one for each column of a vector.
        self.shift, self.scale = np.zeros(1, np.float32), np.ones(1, np.float32)

    def _check_end(self, shape: tuple[int, ...]) -> None:
        said = self.said
        if len(shape) != 1:
            raise Malformed(
                f"the net ends with the shape {list(shape)}: the last layer gives one vector a row"
            )
        if said.loss == "binary" and shape != (1,):
            raise Malformed("with the loss binary the last layer has one unit")
        if said.loss == "softmax" and (shape[0] < 2 or (said.classes and len(said.classes) != shape[0])):
            raise Malformed(
                f"with the loss softmax the last layer has one unit for each class, and two at least: "
                f"there are {shape[0]} units and {len(said.classes) or 'no'} names of classes"
            )

    @property
    def outputs(self) -> int:
        """Numbers that it gives for each row."""
        return self.layers[-1].shape[0]

    def named(self, number: int) -> list[str]:
        """The names of one layer's weights."""
        return [f"{number}.{name}" for name in self.layers[number].weights]

    def _of(self, number: int) -> dict[str, Array]:
        return {name: self.weights[f"{number}.{name}"] for name in self.layers[number].weights}

    def prepared(self, x: Array) -> Array:
        """Rows as the first layer takes them: tokens as they are, measures shifted and scaled."""
        if self.said.tokens is not None:
            return x.astype(np.int64)
        found: Array = ((x.astype(np.float32) - self.shift) / self.scale).astype(self.dtype)
        return found

    def forward(
        self, x: Array, random: np.random.Generator | None = None, each: bool = False
    ) -> tuple[Array, list[Any]]:
        """What comes out of the last layer for prepared rows, and what `backward` needs."""
        kept = []
        for number, layer in enumerate(self.layers):
            x, memory = layer.forward(x, self._of(number), random, each)
            kept.append(memory)
        return x, kept

    def backward(self, d: Array, kept: list[Any], each: bool = False, frozen: int = 0) -> dict[str, Array]:
        """Gradients by name of weight, for all layers but the first `frozen`; with `each`, for each row."""
        grads: dict[str, Array] = {}
        for number in reversed(range(frozen, len(self.layers))):
            d, found = self.layers[number].backward(d, kept[number], self._of(number), each)
            grads |= {f"{number}.{name}": value for name, value in found.items()}
        return grads

    # -- as a file ---------------------------------------------------------------------------------

    def write(self) -> bytes:
        """As ONNX: rows as they are in, probabilities or predictions out."""
        graph = _netfile.Graph()
        tokens = self.said.tokens is not None
        at = INPUT
        if not tokens:
            shift, scale = graph.constant(SHIFT, self.shift), graph.constant(SCALE, self.scale)
            at = graph.node("Sub", [at, shift], "input.shifted")
            at = graph.node("Div", [at, scale], "input.scaled")
        for number, layer in enumerate(self.layers):
            names = {
                name: graph.constant(f"{number}.{name}", self.weights[f"{number}.{name}"].astype(np.float32))
                for name in layer.weights
            }
            at = layer.write(graph, str(number), at, names)
        end = OUTPUTS[self.said.loss]
        match self.said.loss:
            case "softmax":
                graph.node("Softmax", [at], end, axis=-1)
            case "binary":
                graph.node("Sigmoid", [at], end)
            case _:
                graph.node("Identity", [at], end)
        return graph.model(
            (INPUT, "int64" if tokens else "float32", ["rows", *self.said.shape]),
            (end, "float32", ["rows", self.outputs]),
            self.said.text(),
        )

    @classmethod
    def read(cls, model: bytes) -> Net:
        """A net that `write` has written. Raises `Malformed` for any other bytes."""
        text, tensors = _netfile.read(model)
        net = cls(parse(text), np.random.default_rng(0))
        for name, value in net.weights.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise Malformed(f"start has no weights {name} of the shape {list(value.shape)}")
            if not np.isfinite(tensors[name]).all():
                raise Malformed(f"start has weights {name} that are not finite")
            net.weights[name] = tensors[name]
        if net.said.tokens is None:
            net.place(tensors.get(SHIFT), tensors.get(SCALE))
        if net.write() != model:
            raise Malformed("start was changed after train_net or fine_tune_net made it")
        return net

    def place(self, shift: Array | None, scale: Array | None) -> None:
        """Set what is done to rows before the first layer. Raises `Malformed`."""
        fits = {(1,), self.said.shape[-1:]}
        if shift is None or scale is None or shift.shape not in fits or scale.shape not in fits:
            raise Malformed("start does not say how rows are scaled")
        if not (np.isfinite(shift).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise Malformed("start scales rows by numbers that are not above 0")
        self.shift, self.scale = shift.astype(np.float32), scale.astype(np.float32)


def loss(said: Architecture, logits: Array, y: Array) -> tuple[Array, Array, Array | None]:
    """For each row: the loss, its gradient by `logits`, and whether the answer is right (None for mse)."""
    match said.loss:
        case "softmax":
            moved = logits - logits.max(axis=1, keepdims=True)
            sums = np.exp(moved).sum(axis=1, keepdims=True)
            chances = np.exp(moved) / sums
            rows = np.arange(len(y))
            losses = np.log(sums[:, 0]) - moved[rows, y]
            right = logits.argmax(axis=1) == y
            chances[rows, y] -= 1
            return losses, chances, right
        case "binary":
            z = logits[:, 0]
            losses = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
            return losses, (_layers.sigmoid(logits) - y[:, None]).astype(logits.dtype), (z > 0) == (y > 0.5)
    away = logits - y
    return (away * away).mean(axis=1), 2 * away / logits.shape[1], None


__all__ = ["INPUT", "OUTPUTS", "Net", "loss"]
