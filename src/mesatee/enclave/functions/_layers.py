"""Layers of neural nets: forward, backward, and as ONNX.

A layer works on arrays of the shape (rows, *its own shape). With `each`, gradients of weights have one entry
for each row, and are computed by operations whose result for one row does not depend, to the last bit, on which
other rows there are: that is what bounds what a single row can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from mesatee.enclave.functions._netfile import Graph
from mesatee.errors import Malformed

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]
Shape = tuple[int, ...]

EPSILON: Final = 1e-5
"""Added to a variance before its root, in layer_norm."""


class Layer(ABC):
    """One layer of a net: `shape` of what comes out of it for each row, and `weights`, name -> shape."""

    def __init__(self, spec: Mapping[str, Any], shape: Shape) -> None:
        """Raises `Malformed` for what a row of `shape` does not fit."""
        self.spec = spec
        self.before = self.shape = shape
        self.weights: dict[str, Shape] = {}
        self.fit()

    def fit(self) -> None:  # noqa: B027  # a layer without weights that keeps the shape says nothing
        """Say shape and weights."""

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        """Weights to begin with, in double precision."""
        return {}

    @abstractmethod
    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        """The result, and what `backward` needs; `random` is given in training alone."""

    @abstractmethod
    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        """From the gradient of the result that of the input, and those of the weights."""

    @abstractmethod
    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        """Add nodes to the graph; `given` is what comes in, `w` names the weights. Returns what comes out."""

    def needs(self, sizes: tuple[int, ...], what: str) -> None:
        """Raises `Malformed` unless the shape has one of these numbers of sizes."""
        if len(self.before) not in sizes:
            raise Malformed(
                f"{self.spec['layer']} takes {what}, and gets the shape {list(self.before)} for each row"
            )


def times(x: Array, w: Array, each: bool) -> Array:
    """x @ w for rows (rows, n) or (rows, steps, n); with `each` every row is a product of its own."""
    product: Array = np.matmul(x[:, None, :], w)[:, 0] if each and x.ndim == 2 else np.matmul(x, w)
    return product


def outer(left: Array, right: Array, each: bool) -> Array:
    """The gradient of `w` in left = right @ w.T, summed over steps, and without `each` over rows as well."""
    if left.ndim == 2:
        left, right = left[:, None, :], right[:, None, :]
    product: Array
    if each:
        product = np.matmul(left.transpose(0, 2, 1), right)
        return product
    product = left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
    return product


def added(d: Array, each: bool) -> Array:
    """A bias' gradient: `d` summed over all axes but the last one, and with `each` but the first."""
    total: Array = d.sum(axis=tuple(range(1 if each else 0, d.ndim - 1)))
    return total


def sigmoid(x: Array) -> Array:
    """Without overflow."""
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


def _uniform(random: np.random.Generator, shape: Shape, bound: float) -> Array:
    return random.uniform(-bound, bound, shape)


class Dense(Layer):
    """x @ kernel + bias, on the last axis of vectors or of each step of a sequence."""

    def fit(self) -> None:
        self.needs((1, 2), "vectors or sequences (put flatten before it)")
        units = self.spec["units"]
        self.weights = {"kernel": (self.before[-1], units), "bias": (units,)}
        self.shape = (*self.before[:-1], units)

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        inside, units = self.weights["kernel"]
        # Glorot and Bengio 2010.
        return {
            "kernel": _uniform(random, (inside, units), math.sqrt(6 / (inside + units))),
            "bias": np.zeros(units),
        }

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        return times(x, w["kernel"], each) + w["bias"], x

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        grads = {"kernel": outer(kept, d, each), "bias": added(d, each)}
        return times(d, w["kernel"].T, each), grads

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        product = graph.node("MatMul", [given, w["kernel"]], f"{name}.product")
        return graph.node("Add", [product, w["bias"]], f"{name}.output")


class Conv2d(Layer):
    """Square filters over images of the shape (channels, height, width)."""

    def fit(self) -> None:
        self.needs((3,), "images of the shape [channels, height, width]")
        channels, height, width = self.before
        size, stride = self.spec["kernel"], self.spec["stride"]
        whole = size - 1 if self.spec["padding"] == "same" else 0
        self.low, self.high = whole // 2, whole - whole // 2
        if min(height, width) + whole < size:
            raise Malformed(f"conv2d has a kernel of {size}, and gets images of {height} x {width}")
        self.tall, self.wide = (height + whole - size) // stride + 1, (width + whole - size) // stride + 1
        filters = self.spec["filters"]
        self.weights = {"kernel": (filters, channels, size, size), "bias": (filters,)}
        self.shape = (filters, self.tall, self.wide)

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        filters, channels, size, _ = self.weights["kernel"]
        # He et al. 2015.
        bound = math.sqrt(6 / (channels * size * size))
        return {"kernel": _uniform(random, self.weights["kernel"], bound), "bias": np.zeros(filters)}

    def _windows(self, image: Array) -> list[tuple[int, int, Array]]:
        """For each place of the filter a view of the pixels that it meets there."""
        size, stride = self.spec["kernel"], self.spec["stride"]
        return [
            (
                row,
                column,
                image[
                    :,
                    :,
                    row : row + stride * self.tall : stride,
                    column : column + stride * self.wide : stride,
                ],
            )
            for row in range(size)
            for column in range(size)
        ]

    def _padded(self, rows: int, dtype: Any) -> Array:
        channels, height, width = self.before
        more = self.low + self.high
        # Room for the last step of a stride, so that every window has the same shape.
        spare = self.spec["stride"]
        return np.zeros((rows, channels, height + more + spare, width + more + spare), dtype)

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        rows, channels = x.shape[:2]
        size = self.spec["kernel"]
        image = self._padded(rows, x.dtype)
        image[:, :, self.low : self.low + x.shape[2], self.low : self.low + x.shape[3]] = x
        parts = np.empty((rows, channels, size, size, self.tall, self.wide), x.dtype)
        for row, column, window in self._windows(image):
            parts[:, :, row, column] = window
        parts = parts.reshape(rows, channels * size * size, self.tall * self.wide)
        kernel = w["kernel"].reshape(len(w["kernel"]), -1)
        found = np.matmul(kernel, parts) + w["bias"][:, None]
        return found.reshape(rows, *self.shape), parts

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        rows, size = len(d), self.spec["kernel"]
        kernel = w["kernel"].reshape(len(w["kernel"]), -1)
        flat = d.reshape(rows, len(kernel), -1)
        change = np.matmul(flat, kept.transpose(0, 2, 1))
        whole = change if each else change.sum(axis=0)
        grads = {
            "kernel": whole.reshape(*whole.shape[:-1], *w["kernel"].shape[1:]),
            "bias": flat.sum(axis=2) if each else flat.sum(axis=(0, 2)),
        }
        parts = np.matmul(kernel.T, flat).reshape(rows, self.before[0], size, size, self.tall, self.wide)
        image = self._padded(rows, d.dtype)
        for row, column, window in self._windows(image):
            window += parts[:, :, row, column]
        height, width = self.before[1:]
        return image[:, :, self.low : self.low + height, self.low : self.low + width], grads

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        size, stride = self.spec["kernel"], self.spec["stride"]
        pads = [self.low, self.low, self.high, self.high]
        return graph.node(
            "Conv",
            [given, w["kernel"], w["bias"]],
            f"{name}.output",
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=pads,
        )


class Pool(Layer):
    """The largest, or the mean, of each square of `size`; what is left over at the far edges is dropped."""

    def fit(self) -> None:
        self.needs((3,), "images of the shape [channels, height, width]")
        channels, height, width = self.before
        size = self.spec["size"]
        self.shape = (channels, height // size, width // size)
        if min(self.shape) < 1:
            raise Malformed(
                f"{self.spec['layer']} has the size {size}, and gets images of {height} x {width}"
            )

    def _squares(self, x: Array) -> Array:
        """Shape (rows, channels, height, width, size * size)."""
        size = self.spec["size"]
        channels, tall, wide = self.shape
        cut = x[:, :, : tall * size, : wide * size].reshape(-1, channels, tall, size, wide, size)
        return cut.transpose(0, 1, 2, 4, 3, 5).reshape(-1, channels, tall, wide, size * size)

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        squares = self._squares(x)
        if self.spec["layer"] == "average_pool":
            return squares.mean(axis=-1, dtype=x.dtype), None
        place = squares.argmax(axis=-1)[..., None]
        return np.take_along_axis(squares, place, axis=-1)[..., 0], place

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        size = self.spec["size"]
        channels, tall, wide = self.shape
        squares = np.zeros((*d.shape, size * size), d.dtype)
        if kept is None:
            squares[...] = d[..., None] / (size * size)
        else:
            np.put_along_axis(squares, kept, d[..., None], axis=-1)
        cut = squares.reshape(-1, channels, tall, wide, size, size).transpose(0, 1, 2, 4, 3, 5)
        found = np.zeros((len(d), *self.before), d.dtype)
        found[:, :, : tall * size, : wide * size] = cut.reshape(-1, channels, tall * size, wide * size)
        return found, {}

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        size = self.spec["size"]
        kind = "AveragePool" if self.spec["layer"] == "average_pool" else "MaxPool"
        return graph.node(kind, [given], f"{name}.output", kernel_shape=[size, size], strides=[size, size])


class Flatten(Layer):
    """All numbers of a row as one vector."""

    def fit(self) -> None:
        self.shape = (math.prod(self.before),)

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        return x.reshape(len(x), -1), None

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        return d.reshape(len(d), *self.before), {}

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        return graph.node("Flatten", [given], f"{name}.output", axis=1)


class Activation(Layer):
    """relu, tanh or sigmoid of every number."""

    _OPERATORS: ClassVar = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        match self.spec["layer"]:
            case "relu":
                found = np.maximum(x, 0)
            case "tanh":
                found = np.tanh(x)
            case _:
                found = sigmoid(x)
        return found, found

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        match self.spec["layer"]:
            case "relu":
                return d * (kept > 0), {}
            case "tanh":
                return d * (1 - kept * kept), {}
        return d * kept * (1 - kept), {}

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        return graph.node(self._OPERATORS[self.spec["layer"]], [given], f"{name}.output")


class Dropout(Layer):
    """In training a random share of the numbers is 0, and the others are larger; otherwise nothing happens."""

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        rate = self.spec["rate"]
        if random is None or rate == 0:
            return x, None
        mask = (random.random(x.shape, np.float32) >= rate).astype(x.dtype) / (1 - rate)
        return x * mask.astype(x.dtype), mask.astype(x.dtype)

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        return (d if kept is None else d * kept), {}

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        return given


class LayerNorm(Layer):
    """Mean 0 and variance 1 of the last axis, then a scale and a shift for each place (Ba, Kiros, Hinton 2016)."""

    def fit(self) -> None:
        self.needs((1, 2), "vectors or sequences")
        self.weights = {"scale": self.before[-1:], "shift": self.before[-1:]}

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        return {"scale": np.ones(self.before[-1]), "shift": np.zeros(self.before[-1])}

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + x.dtype.type(EPSILON))
        normal = centred / deviation
        return normal * w["scale"] + w["shift"], (normal, deviation)

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        normal, deviation = kept
        grads = {"scale": added(d * normal, each), "shift": added(d, each)}
        inner = d * w["scale"]
        along = (inner * normal).mean(axis=-1, keepdims=True)
        return (inner - inner.mean(axis=-1, keepdims=True) - normal * along) / deviation, grads

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        return graph.node(
            "LayerNormalization", [given, w["scale"], w["shift"]], f"{name}.output", axis=-1, epsilon=EPSILON
        )


class Embedding(Layer):
    """A vector of its own for each token."""

    def fit(self) -> None:
        self.needs((1,), "rows of tokens, of the shape [length]")
        self.weights = {"vectors": (self.spec["tokens"], self.spec["units"])}
        self.shape = (*self.before, self.spec["units"])

    def begin(self, random: np.random.Generator) -> dict[str, Array]:
        tokens, units = self.weights["vectors"]
        return {"vectors": random.standard_normal((tokens, units)) / math.sqrt(units)}

    def forward(
        self, x: Array, w: Weights, random: np.random.Generator | None, each: bool
    ) -> tuple[Array, Any]:
        return w["vectors"][x], x

    def backward(self, d: Array, kept: Any, w: Weights, each: bool) -> tuple[Array, dict[str, Array]]:
        tokens, units = w["vectors"].shape
        if not each:
            found = np.zeros((tokens, units), d.dtype)
            np.add.at(found, kept, d)
            return np.zeros(kept.shape, d.dtype), {"vectors": found}
        found = np.zeros((len(d), tokens, units), d.dtype)
        np.add.at(found, (np.arange(len(d))[:, None], kept), d)
        return np.zeros(kept.shape, d.dtype), {"vectors": found}

    def write(self, graph: Graph, name: str, given: str, w: Mapping[str, str]) -> str:
        return graph.node("Gather", [w["vectors"], given], f"{name}.output", axis=0)


__all__ = [
    "Activation",
    "Array",
    "Conv2d",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Layer",
    "LayerNorm",
    "Pool",
    "Shape",
    "Weights",
    "added",
    "outer",
    "sigmoid",
    "times",
]
