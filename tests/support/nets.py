"""Small nets in ONNX format, and the real ones that lie in wheels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mesatee.protocol.onnx_writer import FLOAT32, INT64, graph, model, node, tensor, value

OPSETS = {"": 17, "ai.onnx.ml": 3}


def weights(name: str, array: np.ndarray) -> bytes:
    kinds = {"float32": FLOAT32, "int64": INT64}
    return tensor(name, kinds[array.dtype.name], array.shape, array.tobytes())


def net(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    tensors: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    items = [weights(name, array) for name, array in (tensors or {}).items()]
    return model(graph(nodes, inputs, outputs, items), OPSETS)


def linear(matrix: np.ndarray, rows: int | str = "rows") -> bytes:
    """y = x W."""
    many, few = matrix.shape
    return net(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", FLOAT32, (rows, many))],
        [value("y", FLOAT32, (rows, few))],
        {"w": matrix.astype(np.float32)},
    )


def summing() -> bytes:
    """A net with a state: each step adds its piece to what was before, and says the sum times a factor."""
    return net(
        [node("Add", ["piece", "before"], ["after"]), node("Mul", ["after", "factor"], ["said"])],
        [value("piece", FLOAT32, (2,)), value("before", FLOAT32, (2,)), value("factor", FLOAT32, ())],
        [value("said", FLOAT32, (2,)), value("after", FLOAT32, (2,))],
    )
