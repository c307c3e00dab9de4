"""Caffe's nets for tests: files by Google's protobuf library, and what Caffe computes, in loops of numpy.

Both follow Caffe's own schema and sources (caffe.proto; pooling_layer.cpp, im2col.cpp, lrn_layer.cpp), and share no
line with the converter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Array = np.ndarray[Any, Any]


def _net_class() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")

    def message(name: str, *fields: tuple[str, int, Any, bool, bool]) -> None:
        made = file.message_type.add(name=name)
        for label, number, kind, many, packed in fields:
            field = made.field.add(name=label, number=number, label=3 if many else 1)
            if isinstance(kind, str):
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
            if packed:
                field.options.packed = True

    text, whole, number = kinds.TYPE_STRING, kinds.TYPE_INT64, kinds.TYPE_FLOAT
    message("BlobShape", ("dim", 1, whole, True, True))
    message(
        "BlobProto",
        ("shape", 7, "BlobShape", False, False),
        ("data", 5, number, True, True),
        ("num", 1, kinds.TYPE_INT32, False, False),
        ("channels", 2, kinds.TYPE_INT32, False, False),
        ("height", 3, kinds.TYPE_INT32, False, False),
        ("width", 4, kinds.TYPE_INT32, False, False),
    )
    message(
        "LayerParameter",
        ("name", 1, text, False, False),
        ("type", 2, text, False, False),
        ("bottom", 3, text, True, False),
        ("top", 4, text, True, False),
        ("blobs", 7, "BlobProto", True, False),
        ("phase", 10, kinds.TYPE_INT32, False, False),
    )
    message(
        "V1LayerParameter",
        ("name", 4, text, False, False),
        ("type", 5, kinds.TYPE_INT32, False, False),
        ("blobs", 6, "BlobProto", True, False),
    )
    message(
        "NetParameter",
        ("name", 1, text, False, False),
        ("layers", 2, "V1LayerParameter", True, False),
        ("layer", 100, "LayerParameter", True, False),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


Net = _net_class()


def caffemodel(weights: Mapping[str, Sequence[Array]], *, older: bool = False) -> bytes:
    """The file of weights; `older` as Caffe wrote it before 2015."""
    net = Net(name="net")
    for name, blobs in weights.items():
        layer = (net.layers if older else net.layer).add(name=name)
        for blob in blobs:
            made = layer.blobs.add()
            made.data.extend(np.asarray(blob, np.float32).ravel().tolist())
            if older:
                padded = (1,) * (4 - np.ndim(blob)) + np.shape(blob)
                made.num, made.channels, made.height, made.width = padded
            else:
                made.shape.dim.extend(np.shape(blob))
    return bytes(net.SerializeToString())


def prototxt(shape: Sequence[int], *layers: tuple[str, str], name: str = "data") -> str:
    """A net of layers one after the other: type, and settings as text."""
    dims = " ".join(f"dim: {size}" for size in shape)
    lines = [f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}']
    below = name
    for number, (kind, said) in enumerate(layers):
        lines.append(
            f'layer {{ name: "l{number}" type: "{kind}" bottom: "{below}" top: "t{number}" {said} }}'
        )
        below = f"t{number}"
    return "\n".join(lines)


def pooled(x: Array, kind: str, kernel: int, stride: int, pad: int, *, up: bool = True) -> Array:
    """As pooling_layer.cpp does it, window by window."""
    _, _, height, width = x.shape
    rounding = math.ceil if up else math.floor

    def steps(length: int) -> int:
        count = rounding((length + 2 * pad - kernel) / stride) + 1
        return count - 1 if pad and (count - 1) * stride >= length + pad else count

    out = np.zeros((*x.shape[:2], steps(height), steps(width)), np.float64)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            top, left = row * stride - pad, column * stride - pad
            bottom, right = min(top + kernel, height + pad), min(left + kernel, width + pad)
            size = (bottom - top) * (right - left)
            window = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            if kind == "MAX":
                out[:, :, row, column] = window.max(axis=(2, 3))
            else:
                out[:, :, row, column] = window.sum(axis=(2, 3)) / size
    return out


def convolved(x: Array, w: Array, b: Array | None, stride: int, pad: int, dilation: int, group: int) -> Array:
    """A convolution, place by place."""
    count, deep, high, wide = w.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows = (x.shape[2] - (dilation * (high - 1) + 1)) // stride + 1
    columns = (x.shape[3] - (dilation * (wide - 1) + 1)) // stride + 1
    out = np.zeros((len(x), count, rows, columns), np.float64)
    each = count // group
    for made in range(count):
        first = made // each * deep
        for row in range(rows):
            for column in range(columns):
                window = x[
                    :,
                    first : first + deep,
                    row * stride : row * stride + dilation * (high - 1) + 1 : dilation,
                    column * stride : column * stride + dilation * (wide - 1) + 1 : dilation,
                ]
                out[:, made, row, column] = (window * w[made]).sum(axis=(1, 2, 3))
    return out if b is None else out + b[:, None, None]


def normalised(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Local response normalisation across channels, as lrn_layer.cpp says it."""
    out = np.zeros(x.shape, np.float64)
    for channel in range(x.shape[1]):
        first, last = max(0, channel - size // 2), min(x.shape[1], channel + size // 2 + 1)
        total = (x[:, first:last].astype(np.float64) ** 2).sum(axis=1)
        out[:, channel] = x[:, channel] / (k + alpha / size * total) ** beta
    return out
