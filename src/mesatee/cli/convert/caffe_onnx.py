"""Caffe's layers as ONNX operators: a closed list, each exactly as Caffe computes it when a net is used.

Shapes are followed through the net, since Caffe's rules for pooling and flattening hang on them. The first dimension,
the number of rows, stays open unless a layer touches it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Final

from ...errors import Malformed
from ...protocol import onnx_writer as onnx
from . import caffe
from .caffe import Blob, Layer, Net

OPSET: Final = 17
BATCH: Final = "batch"
Shape = tuple[int, ...]


def convert(
    net: Net, weights: Mapping[str, tuple[Blob, ...]], shapes: Mapping[str, Shape] | None = None
) -> bytes:
    """The ONNX model of a net with its weights. `shapes` replaces those of inputs.

    Raises `Malformed`, naming the layer and what of it is not converted.
    """
    return _Converter(net, weights, shapes or {}).run()


class _Converter:
    def __init__(
        self, net: Net, weights: Mapping[str, tuple[Blob, ...]], shapes: Mapping[str, Shape]
    ) -> None:
        self._net = net
        self._weights = weights
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._names: dict[str, str] = {}
        """Blob -> the tensor that it is now: layers in place give it a new one."""
        self._shapes: dict[str, Shape] = {}
        self._count = 0
        self._open = True
        self._inputs = {name: self._input(name, shape, shapes) for name, shape in net.inputs.items()}
        unknown = sorted(set(shapes) - set(net.inputs))
        if unknown:
            raise Malformed(f"the net has no input {unknown[0]}; it has {', '.join(net.inputs)}")

    @staticmethod
    def _input(name: str, said: Shape | None, shapes: Mapping[str, Shape]) -> Shape:
        found = shapes.get(name, said)
        if found is None:
            raise Malformed(
                f"the net is one for training: it does not say the shape of its input {name}",
                hint=f"give the net for use (deploy.prototxt), or --shape {name}=1,3,224,224",
            )
        return caffe.checked(tuple(found))

    def run(self) -> bytes:
        """Each layer in turn; what no layer takes comes out."""
        for name, shape in self._inputs.items():
            self._names[name], self._shapes[name] = name, shape
        # As Caffe has it: what a layer takes is gone, and what it gives is there, in place or not.
        left: dict[str, None] = {}
        for layer in self._net.layers:
            make = _LAYERS.get(layer.kind)
            if make is None:
                raise Malformed(
                    f"the layer {layer.name} is a {layer.kind}, which is not converted",
                    hint=f"layers that are: Data, Input, {', '.join(sorted(_LAYERS))}; a net for use "
                    "(deploy.prototxt) has no losses",
                )
            for bottom in layer.bottoms:
                if bottom not in self._names:
                    raise Malformed(f"the layer {layer.name} takes the blob {bottom}, which nothing gives")
            if not layer.bottoms or not layer.tops:
                raise Malformed(f"the layer {layer.name} has no bottom or no top")
            for top in layer.tops:
                if top in self._names and top not in layer.bottoms:
                    raise Malformed(f"the blob {top} is given twice")
            make(self, layer)
            for bottom in layer.bottoms:
                left.pop(bottom, None)
            left |= dict.fromkeys(layer.tops)
        found = list(left)
        if not found:
            raise Malformed("nothing comes out of the net")
        outputs = []
        for name in found:
            self._nodes.append(onnx.node("Identity", [self._names[name]], [_out(name, self._inputs)]))
            outputs.append(onnx.value(_out(name, self._inputs), onnx.FLOAT32, self._said(self._shapes[name])))
        inputs = [onnx.value(name, onnx.FLOAT32, self._said(shape)) for name, shape in self._inputs.items()]
        return onnx.model(onnx.graph(self._nodes, inputs, outputs, self._tensors), {"": OPSET})

    def _said(self, shape: Shape) -> list[int | str]:
        return [BATCH, *shape[1:]] if self._open else list(shape)

    # -- what layers are made of -------------------------------------------------------------------

    def close(self) -> None:
        """The number of rows is what the net says, since a layer touches it."""
        self._open = False

    def shape(self, layer: Layer, place: int = 0) -> Shape:
        """Of a bottom."""
        return self._shapes[layer.bottoms[place]]

    def fresh(self) -> str:
        """A name that no blob has."""
        self._count += 1
        return f"/{self._count}"

    def constant(self, values: Blob | list[float], shape: Shape) -> str:
        """A tensor of the model's own."""
        name = self.fresh()
        raw = bytes(values.data) if isinstance(values, Blob) else struct.pack(f"<{len(values)}f", *values)
        self._tensors.append(onnx.tensor(name, onnx.FLOAT32, shape, raw))
        return name

    def whole(self, values: list[int]) -> str:
        """A row of whole numbers."""
        name = self.fresh()
        self._tensors.append(
            onnx.tensor(name, onnx.INT64, [len(values)], struct.pack(f"<{len(values)}q", *values))
        )
        return name

    def bottoms(self, layer: Layer, count: int | None = 1) -> list[str]:
        """The tensors that it takes."""
        if count is not None and len(layer.bottoms) != count:
            raise Malformed(
                f"the layer {layer.name} ({layer.kind}) has {len(layer.bottoms)} bottoms, not {count}"
            )
        return [self._names[name] for name in layer.bottoms]

    def add(
        self, operator: str, inputs: list[str], attributes: Mapping[str, onnx.Attribute] | None = None
    ) -> str:
        """One operator; the name of what it gives."""
        name = self.fresh()
        self._nodes.append(onnx.node(operator, inputs, [name], attributes))
        return name

    def give(self, layer: Layer, name: str, shape: Shape) -> None:
        """What a layer of one top gives."""
        if len(layer.tops) != 1:
            raise Malformed(f"the layer {layer.name} ({layer.kind}) has {len(layer.tops)} tops, not 1")
        self.share(layer, name, shape)

    def share(self, layer: Layer, name: str, shape: Shape) -> None:
        """All of its tops are the same."""
        caffe.checked(shape)
        for top in layer.tops:
            self._names[top], self._shapes[top] = name, shape

    def blobs(self, layer: Layer, *counts: int | None) -> list[Blob]:
        """Its weights, of so many numbers each."""
        found = list(self._weights.get(layer.name, ()))
        if len(found) != len(counts):
            raise Malformed(
                f"the weights of the layer {layer.name} ({layer.kind}) are {len(found)} blobs, not {len(counts)}",
                hint="do net and weights belong together?",
            )
        for blob, count in zip(found, counts, strict=True):
            if count is not None and math.prod(blob.shape) != count:
                raise Malformed(
                    f"a blob of the layer {layer.name} ({layer.kind}) has {math.prod(blob.shape)} numbers, "
                    f"not {count}",
                    hint="do net and weights belong together?",
                )
        return found


def _out(name: str, inputs: Mapping[str, Shape]) -> str:
    return f"{name}_out" if name in inputs else name


def _axis(layer: Layer, said: int, rank: int) -> int:
    if not -rank <= said < rank:
        raise Malformed(f"the layer {layer.name} ({layer.kind}) has the axis {said} of {rank}")
    return said % rank


def _pair(
    layer: Layer, message: caffe.Message, name: str, default: int | None, high: str, wide: str
) -> tuple[int, int]:
    """A setting for height and width: one number for both, or two, or by two names."""
    found = caffe.integers(message, name)
    apart = [caffe.integers(message, high), caffe.integers(message, wide)]
    if all(len(item) == 1 for item in apart) and not found:
        pair = (apart[0][0], apart[1][0])
    elif any(apart) or len(found) > 2:
        raise Malformed(f"the layer {layer.name} ({layer.kind}) says its {name} in an odd way")
    elif found:
        pair = (found[0], found[-1])
    elif default is not None:
        pair = (default, default)
    else:
        raise Malformed(f"the layer {layer.name} ({layer.kind}) has no {name}")
    least = 0 if name == "pad" else 1
    if not all(least <= value <= 65_536 for value in pair):
        raise Malformed(f"the layer {layer.name} ({layer.kind}) has a {name} that makes no sense")
    return pair


def _image(made: _Converter, layer: Layer) -> Shape:
    shape = made.shape(layer)
    if len(shape) != 4:
        raise Malformed(f"the layer {layer.name} ({layer.kind}) takes 4 dimensions, not {len(shape)}")
    return shape


_PLACES: Final = ("pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w")


def _convolution(made: _Converter, layer: Layer) -> None:
    known = ("num_output", "bias_term", "pad", "kernel_size", "stride", "dilation", "group", "axis", *_PLACES)
    said = caffe.settings(layer, "convolution_param", known)
    rows, channels, *size = _image(made, layer)
    count, group = caffe.integer(said, "num_output", 0), caffe.integer(said, "group", 1)
    kernel = _pair(layer, said, "kernel_size", None, "kernel_h", "kernel_w")
    stride = _pair(layer, said, "stride", 1, "stride_h", "stride_w")
    pad = _pair(layer, said, "pad", 0, "pad_h", "pad_w")
    dilation = _pair(layer, said, "dilation", 1, "", "")
    if count < 1 or group < 1 or channels % group or count % group or caffe.integer(said, "axis", 1) != 1:
        raise Malformed(
            f"the layer {layer.name} ({layer.kind}) has groups, outputs or an axis that do not fit"
        )
    counts = [count * channels // group * kernel[0] * kernel[1]]
    if caffe.truth(said, "bias_term", True):
        counts.append(count)
    weights, *bias = made.blobs(layer, *counts)
    inputs = made.bottoms(layer)
    inputs.append(made.constant(weights, (count, channels // group, *kernel)))
    inputs += [made.constant(item, (count,)) for item in bias]
    attributes: dict[str, onnx.Attribute] = {
        "dilations": dilation,
        "group": group,
        "kernel_shape": kernel,
        "pads": (*pad, *pad),
        "strides": stride,
    }
    out = [
        (length + 2 * pad[at] - (dilation[at] * (kernel[at] - 1) + 1)) // stride[at] + 1
        for at, length in enumerate(size)
    ]
    if min(out) < 1:
        raise Malformed(
            f"the layer {layer.name} ({layer.kind}) has a kernel that is larger than what it takes"
        )
    made.give(layer, made.add("Conv", inputs, attributes), (rows, count, *out))


def _pooling(made: _Converter, layer: Layer) -> None:
    """Caffe rounds up, and divides a mean by the part of the window that lies over the image and its border."""
    known = ("pool", "pad", "kernel_size", "stride", "global_pooling", "round_mode", *_PLACES)
    said = caffe.settings(layer, "pooling_param", known)
    rows, channels, *size = _image(made, layer)
    kind = caffe.word(said, "pool", "MAX")
    if kind not in ("MAX", "AVE"):
        raise Malformed(f"the layer {layer.name} (Pooling) is {kind}, and MAX and AVE are converted")
    if caffe.truth(said, "global_pooling", False):
        whole = "GlobalMaxPool" if kind == "MAX" else "GlobalAveragePool"
        made.give(layer, made.add(whole, made.bottoms(layer)), (rows, channels, 1, 1))
        return
    kernel = _pair(layer, said, "kernel_size", None, "kernel_h", "kernel_w")
    stride = _pair(layer, said, "stride", 1, "stride_h", "stride_w")
    pad = _pair(layer, said, "pad", 0, "pad_h", "pad_w")
    up = caffe.word(said, "round_mode", "CEIL")
    if up not in ("CEIL", "FLOOR") or any(pad[at] >= kernel[at] for at in range(2)):
        raise Malformed(
            f"the layer {layer.name} (Pooling) rounds oddly, or has a border as wide as its kernel"
        )
    out, more = [], []
    for at, length in enumerate(size):
        room = length + 2 * pad[at] - kernel[at]
        if room < 0:
            raise Malformed(
                f"the layer {layer.name} (Pooling) has a kernel that is larger than what it takes"
            )
        steps = (-(-room // stride[at]) if up == "CEIL" else room // stride[at]) + 1
        # The last window begins within the image or its first border.
        if pad[at] and (steps - 1) * stride[at] >= length + pad[at]:
            steps -= 1
        if (steps - 1) * stride[at] >= length + pad[at]:
            raise Malformed(f"the layer {layer.name} (Pooling) has a window that lies beside what it takes")
        out.append(steps)
        more.append(max(0, (steps - 1) * stride[at] + kernel[at] - length - 2 * pad[at]))
    ends = [pad[at] + more[at] for at in range(2)]
    shape = (rows, channels, *out)
    attributes: dict[str, onnx.Attribute] = {"kernel_shape": kernel, "strides": stride}
    if kind == "MAX":
        # A border is never the largest.
        attributes["pads"] = (*pad, *ends)
        made.give(layer, made.add("MaxPool", made.bottoms(layer), attributes), shape)
        return
    name = made.bottoms(layer)[0]
    if any((*pad, *ends)):
        name = made.add("Pad", [name, made.whole([0, 0, *pad, 0, 0, *ends])])
    name = made.add("AveragePool", [name], attributes)
    shares = [
        [
            min(step * stride[at] + kernel[at], size[at] + 2 * pad[at]) - step * stride[at]
            for step in range(out[at])
        ]
        for at in range(2)
    ]
    window = kernel[0] * kernel[1]
    factors = [window / (high * wide) for high in shares[0] for wide in shares[1]]
    if any(factor != 1 for factor in factors):
        name = made.add("Mul", [name, made.constant(factors, (1, 1, *out))])
    made.give(layer, name, shape)


def _inner_product(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "inner_product_param", ("num_output", "bias_term", "axis", "transpose"))
    shape = made.shape(layer)
    count = caffe.integer(said, "num_output", 0)
    if count < 1 or _axis(layer, caffe.integer(said, "axis", 1), len(shape)) != 1:
        raise Malformed(f"the layer {layer.name} (InnerProduct) has no outputs, or another axis than 1")
    width = math.prod(shape[1:])
    turned = caffe.truth(said, "transpose", False)
    biased = caffe.truth(said, "bias_term", True)
    weights, *bias = made.blobs(layer, count * width, *([count] if biased else []))
    name = made.add("Flatten", made.bottoms(layer), {"axis": 1})
    inputs = [name, made.constant(weights, (width, count) if turned else (count, width))]
    inputs += [made.constant(item, (count,)) for item in bias]
    made.give(layer, made.add("Gemm", inputs, {"transB": 0 if turned else 1}), (shape[0], count))


def _relu(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "relu_param", ("negative_slope",))
    slope = caffe.number(said, "negative_slope", 0.0)
    if slope:
        name = made.add("LeakyRelu", made.bottoms(layer), {"alpha": slope})
    else:
        name = made.add("Relu", made.bottoms(layer))
    made.give(layer, name, made.shape(layer))


def _plain(operator: str, settings: str) -> Callable[[_Converter, Layer], None]:
    def make(made: _Converter, layer: Layer) -> None:
        caffe.settings(layer, settings, ())
        made.give(layer, made.add(operator, made.bottoms(layer)), made.shape(layer))

    return make


def _same(made: _Converter, layer: Layer) -> None:
    """Nothing happens when the net is used."""
    known = ("dropout_ratio",) if layer.kind == "Dropout" else ()
    caffe.settings(layer, "dropout_param", known)
    made.share(layer, made.bottoms(layer)[0], made.shape(layer))


def _softmax(made: _Converter, layer: Layer) -> None:
    shape = made.shape(layer)
    axis = _axis(
        layer, caffe.integer(caffe.settings(layer, "softmax_param", ("axis",)), "axis", 1), len(shape)
    )
    made.give(layer, made.add("Softmax", made.bottoms(layer), {"axis": axis}), shape)


def _lrn(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "lrn_param", ("local_size", "alpha", "beta", "k", "norm_region"))
    if caffe.word(said, "norm_region", "ACROSS_CHANNELS") != "ACROSS_CHANNELS":
        raise Malformed(f"the layer {layer.name} (LRN) is within channels, and across channels is converted")
    size = caffe.integer(said, "local_size", 5)
    if size < 1 or size % 2 == 0:
        raise Malformed(f"the layer {layer.name} (LRN) has an even local_size")
    attributes: dict[str, onnx.Attribute] = {
        "alpha": caffe.number(said, "alpha", 1.0),
        "beta": caffe.number(said, "beta", 0.75),
        "bias": caffe.number(said, "k", 1.0),
        "size": size,
    }
    made.give(layer, made.add("LRN", made.bottoms(layer), attributes), _image(made, layer))


def _concat(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "concat_param", ("axis", "concat_dim"))
    shapes = [made.shape(layer, place) for place in range(len(layer.bottoms))]
    axis = _axis(layer, caffe.integer(said, "axis", caffe.integer(said, "concat_dim", 1)), len(shapes[0]))
    if axis == 0:
        made.close()
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1:
        raise Malformed(f"the layer {layer.name} (Concat) takes shapes that do not fit together")
    whole = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
    made.give(layer, made.add("Concat", made.bottoms(layer, None), {"axis": axis}), whole)


def _eltwise(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "eltwise_param", ("operation", "coeff", "stable_prod_grad"))
    kind = caffe.word(said, "operation", "SUM")
    shapes = {made.shape(layer, place) for place in range(len(layer.bottoms))}
    coefficients = said.get("coeff", [])
    numbers = [float(item) for item in coefficients if isinstance(item, int | float)]
    if len(shapes) != 1 or len(layer.bottoms) < 2 or len(numbers) != len(coefficients):
        raise Malformed(f"the layer {layer.name} (Eltwise) takes several blobs of one shape")
    if kind not in ("SUM", "PROD", "MAX") or (
        numbers and (kind != "SUM" or len(numbers) != len(layer.bottoms))
    ):
        raise Malformed(
            f"the layer {layer.name} (Eltwise) is no sum, product or maximum, or has odd coefficients"
        )
    names = made.bottoms(layer, None)
    if any(value != 1 for value in numbers):
        names = [
            made.add("Mul", [name, made.constant([value], ())])
            for name, value in zip(names, numbers, strict=True)
        ]
    if kind == "PROD":
        name = names[0]
        for other in names[1:]:
            name = made.add("Mul", [name, other])
    else:
        name = made.add("Sum" if kind == "SUM" else "Max", names)
    made.give(layer, name, shapes.pop())


def _batch_norm(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "batch_norm_param", ("use_global_stats", "moving_average_fraction", "eps"))
    if not caffe.truth(said, "use_global_stats", True):
        raise Malformed(f"the layer {layer.name} (BatchNorm) looks at the batch itself, as in training")
    shape = made.shape(layer)
    if len(shape) < 2:
        raise Malformed(f"the layer {layer.name} (BatchNorm) takes at least 2 dimensions")
    channels = shape[1]
    mean, variance, factor = made.blobs(layer, channels, channels, 1)
    (scale,) = struct.unpack("<f", factor.data)
    share = 0.0 if scale == 0 else 1 / scale
    moments = [
        [value * share for value in struct.unpack(f"<{channels}f", item.data)] for item in (mean, variance)
    ]
    names = [made.constant([value] * channels, (channels,)) for value in (1.0, 0.0)]
    names += [made.constant(item, (channels,)) for item in moments]
    attributes: dict[str, onnx.Attribute] = {"epsilon": caffe.number(said, "eps", 1e-5)}
    made.give(layer, made.add("BatchNormalization", made.bottoms(layer) + names, attributes), shape)


def _scale(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "scale_param", ("axis", "num_axes", "bias_term"))
    shape = made.shape(layer)
    axis = _axis(layer, caffe.integer(said, "axis", 1), len(shape))
    if axis == 0 or caffe.integer(said, "num_axes", 1) != 1:
        raise Malformed(f"the layer {layer.name} (Scale) is along other axes than one that is not the rows")
    count = shape[axis]
    biased = caffe.truth(said, "bias_term", False)
    name = made.bottoms(layer)[0]
    along = (count, *([1] * (len(shape) - axis - 1)))
    for operator, blob in zip(("Mul", "Add"), made.blobs(layer, *[count] * (1 + biased)), strict=False):
        name = made.add(operator, [name, made.constant(blob, along)])
    made.give(layer, name, shape)


def _flatten(made: _Converter, layer: Layer) -> None:
    said = caffe.settings(layer, "flatten_param", ("axis", "end_axis"))
    shape = made.shape(layer)
    first = _axis(layer, caffe.integer(said, "axis", 1), len(shape))
    last = _axis(layer, caffe.integer(said, "end_axis", -1), len(shape))
    if last < first:
        raise Malformed(f"the layer {layer.name} (Flatten) ends before it begins")
    _reshaped(
        made, layer, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]), first > 0
    )


def _reshape(made: _Converter, layer: Layer) -> None:
    """0 copies a length, -1 is what is left."""
    said = caffe.settings(layer, "reshape_param", ("shape", "axis", "num_axes"))
    shape = made.shape(layer)
    wanted = caffe.integers(caffe.one(said, "shape"), "dim")
    axis = caffe.integer(said, "axis", 0)
    first = axis if axis >= 0 else len(shape) + axis + 1
    count = caffe.integer(said, "num_axes", -1)
    last = len(shape) if count == -1 else first + count
    if not 0 <= first <= last <= len(shape) or wanted.count(-1) > 1 or any(size < -1 for size in wanted):
        raise Malformed(f"the layer {layer.name} (Reshape) has axes or lengths that make no sense")
    if any(size == 0 and first + place >= last for place, size in enumerate(wanted)):
        raise Malformed(f"the layer {layer.name} (Reshape) copies a length that is not there")
    middle = [shape[first + place] if size == 0 else size for place, size in enumerate(wanted)]
    if -1 in middle:
        known = math.prod(size for size in middle if size != -1)
        middle[middle.index(-1)] = math.prod(shape[first:last]) // known
    keeps = first > 0 or (bool(wanted) and wanted[0] == 0)
    _reshaped(made, layer, (*shape[:first], *middle, *shape[last:]), keeps)


def _reshaped(made: _Converter, layer: Layer, shape: Shape, keeps: bool) -> None:
    """`keeps`: the first dimension stays the number of rows."""
    caffe.checked(shape)
    if math.prod(shape) != math.prod(made.shape(layer)):
        raise Malformed(f"the layer {layer.name} ({layer.kind}) changes how many numbers there are")
    if not keeps:
        made.close()
    wanted = [0, *shape[1:]] if keeps else list(shape)
    made.give(layer, made.add("Reshape", [*made.bottoms(layer), made.whole(wanted)]), shape)


_LAYERS: Final[Mapping[str, Callable[[_Converter, Layer], None]]] = {
    "BatchNorm": _batch_norm,
    "Concat": _concat,
    "Convolution": _convolution,
    "Dropout": _same,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "Pooling": _pooling,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": _plain("Sigmoid", "sigmoid_param"),
    "Softmax": _softmax,
    "Split": _same,
    "TanH": _plain("Tanh", "tanh_param"),
}
KINDS: Final = frozenset({"Data", "Input", *_LAYERS})
"""Layers that are converted."""

__all__ = ["BATCH", "KINDS", "OPSET", "convert"]
