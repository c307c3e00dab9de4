"""Caffe's nets: read strictly, and converted so that ONNX Runtime computes what Caffe does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.caffe import Array, Net, caffemodel, convolved, normalised, pooled, prototxt

from mesatee.cli.convert import caffe, caffe_onnx
from mesatee.errors import Malformed, MesateeError, TooLarge
from mesatee.inference import Model
from mesatee.protocol import onnx

RANDOM = np.random.default_rng(11)


def run(
    text: str,
    weights: Mapping[str, Sequence[Array]],
    *inputs: Array,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    older: bool = False,
) -> list[Array]:
    """Converted, checked by the strict reader, and run by ONNX Runtime."""
    found = caffe.read_weights(caffemodel(weights, older=older)) if weights else {}
    data = caffe_onnx.convert(caffe.read_net(text), found, shapes)
    onnx.read(data)
    return Model(data).run(*(value.astype(np.float32) for value in inputs))


def close(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["MAX", "AVE"]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
)
def test_pooling_is_caffe_s(
    kind: str, kernel: int, stride: int, pad: int, height: int, width: int, up: bool
) -> None:
    """Which rounds up, and counts a border into a mean as far as it goes."""
    mode = "" if up else "round_mode: FLOOR"
    said = f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} {mode} }}"
    text = prototxt((2, 3, height, width), ("Pooling", said))
    x = RANDOM.standard_normal((2, 3, height, width)).astype(np.float32)
    beside = any(
        pad == 0 and up and math.ceil((length - kernel) / stride) * stride >= length
        for length in (height, width)
    )
    if pad >= kernel or min(height, width) + 2 * pad < kernel or beside:
        with pytest.raises(Malformed):
            run(text, {}, x)
        return
    (found,) = run(text, {}, x)
    close(found, pooled(x, kind, kernel, stride, pad, up=up))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_convolution_is_caffe_s(
    kernel: int, stride: int, pad: int, dilation: int, group: int, biased: bool
) -> None:
    x = RANDOM.standard_normal((2, 2 * group, 8, 7)).astype(np.float32)
    w = RANDOM.standard_normal((3 * group, 2, kernel, kernel)).astype(np.float32)
    b = RANDOM.standard_normal(3 * group).astype(np.float32) if biased else None
    said = (
        f"convolution_param {{ num_output: {3 * group} kernel_size: {kernel} stride: {stride} pad: {pad} "
        f"dilation: {dilation} group: {group} bias_term: {str(biased).lower()} weight_filler {{ type: 'xavier' }} }}"
    )
    weights = {"l0": [w] if b is None else [w, b]}
    (found,) = run(prototxt(x.shape, ("Convolution", said)), weights, x)
    close(found, convolved(x, w, b, stride, pad, dilation, group))


def test_a_convolution_that_is_not_square() -> None:
    x = RANDOM.standard_normal((1, 1, 6, 9)).astype(np.float32)
    w = RANDOM.standard_normal((2, 1, 3, 1)).astype(np.float32)
    said = (
        "convolution_param { num_output: 2 kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 bias_term: false }"
    )
    (found,) = run(prototxt(x.shape, ("Convolution", said)), {"l0": [w]}, x)
    wanted = convolved(x, w, None, 1, 0, 1, 1)[:, :, :, ::2]
    close(found, wanted)


ONE: dict[str, tuple[tuple[str, str], list[Array], Any]] = {
    "ReLU": (("ReLU", ""), [], lambda x: np.maximum(x, 0)),
    "leaky": (
        ("ReLU", "relu_param { negative_slope: 0.25 }"),
        [],
        lambda x: np.where(x > 0, x, 0.25 * x),
    ),
    "Sigmoid": (("Sigmoid", ""), [], lambda x: 1 / (1 + np.exp(-x))),
    "TanH": (("TanH", ""), [], np.tanh),
    "Dropout": (("Dropout", "dropout_param { dropout_ratio: 0.9 }"), [], lambda x: x),
    "Softmax": (("Softmax", ""), [], lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    "LRN": (
        ("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }"),
        [],
        lambda x: normalised(x, 3, 0.5, 0.6, 2),
    ),
    "Flatten": (("Flatten", ""), [], lambda x: x.reshape(len(x), -1)),
    "Flatten 2": (
        ("Flatten", "flatten_param { axis: 2 end_axis: 3 }"),
        [],
        lambda x: x.reshape(*x.shape[:2], -1),
    ),
    "Reshape": (
        ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"),
        [],
        lambda x: x.reshape(len(x), -1, 2),
    ),
    "Reshape 2": (
        ("Reshape", "reshape_param { axis: 1 num_axes: 1 shape { dim: 2 dim: 2 } }"),
        [],
        lambda x: x.reshape(len(x), 2, 2, *x.shape[2:]),
    ),
    "BatchNorm": (
        ("BatchNorm", "batch_norm_param { eps: 0.01 }"),
        [np.array([2.0, 4, -2, 0]), np.array([4.0, 2, 1, 8]), np.array([2.0])],
        lambda x: (
            (x - np.array([1.0, 2, -1, 0])[:, None, None])
            / np.sqrt(np.array([2.0, 1, 0.5, 4]) + 0.01)[:, None, None]
        ),
    ),
    "Scale": (
        ("Scale", "scale_param { bias_term: true }"),
        [np.array([1.0, -2, 0.5, 3]), np.array([0.0, 1, 2, 3])],
        lambda x: x * np.array([1.0, -2, 0.5, 3])[:, None, None] + np.array([0.0, 1, 2, 3])[:, None, None],
    ),
    "global": (
        ("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
        [],
        lambda x: x.mean(axis=(2, 3), keepdims=True),
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_a_layer_is_caffe_s(name: str) -> None:
    layer, weights, does = ONE[name]
    x = RANDOM.standard_normal((3, 4, 5, 6)).astype(np.float32)
    (found,) = run(prototxt(x.shape, layer), {"l0": weights} if weights else {}, x)
    close(found, does(x.astype(np.float64)))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_an_inner_product_is_caffe_s(turned: bool, older: bool) -> None:
    x = RANDOM.standard_normal((3, 2, 2, 3)).astype(np.float32)
    w, b = RANDOM.standard_normal((5, 12)), RANDOM.standard_normal(5)
    said = f"inner_product_param {{ num_output: 5 transpose: {str(turned).lower()} }}"
    weights = {"l0": [w.T if turned else w, b]}
    (found,) = run(prototxt(x.shape, ("InnerProduct", said)), weights, x, older=older)
    close(found, x.reshape(3, -1) @ w.T + b)


def branches(join: str) -> str:
    return (
        prototxt((2, 3, 4, 4))
        + f"""
    layer {{ name: "a" type: "Sigmoid" bottom: "data" top: "a" }}
    layer {{ name: "b" type: "TanH" bottom: "data" top: "b" }}
    layer {{ name: "c" {join} bottom: "a" bottom: "b" top: "c" }}
    """
    )


@pytest.mark.parametrize(
    ("join", "does"),
    [
        ('type: "Concat"', lambda a, b: np.concatenate([a, b], axis=1)),
        ('type: "Concat" concat_param { axis: 3 }', lambda a, b: np.concatenate([a, b], axis=3)),
        ('type: "Concat" concat_param { axis: 0 }', lambda a, b: np.concatenate([a, b], axis=0)),
        ('type: "Eltwise"', lambda a, b: a + b),
        ('type: "Eltwise" eltwise_param { coeff: 2 coeff: -1.5 }', lambda a, b: 2 * a - 1.5 * b),
        ('type: "Eltwise" eltwise_param { operation: PROD }', lambda a, b: a * b),
        ('type: "Eltwise" eltwise_param { operation: MAX }', np.maximum),
    ],
)
def test_branches_join_as_in_caffe(join: str, does: Any) -> None:
    x = RANDOM.standard_normal((2, 3, 4, 4)).astype(np.float32)
    (found,) = run(branches(join), {}, x)
    close(found, does(1 / (1 + np.exp(-x)), np.tanh(x)))


def test_layers_in_place_and_those_for_training() -> None:
    """In place, a layer changes a blob for those after it alone; layers for training are not there."""
    text = (
        prototxt((1, 2, 3, 3))
        + """
    layer { name: "a" type: "TanH" bottom: "data" top: "a" }
    layer { name: "keep" type: "Sigmoid" bottom: "a" top: "early" }
    layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
    layer { name: "d" type: "Dropout" bottom: "a" top: "a" include { phase: TRAIN } }
    layer { name: "noise" type: "DummyData" top: "noise" exclude { phase: TEST } }
    """
    )
    x = RANDOM.standard_normal((1, 2, 3, 3)).astype(np.float32)
    model = Model(caffe_onnx.convert(caffe.read_net(text), {}))
    found = dict(zip([item.name for item in model.outputs], model.run(x), strict=True))
    assert set(found) == {"a", "early"}
    close(found["a"], np.maximum(np.tanh(x), 0))
    close(found["early"], 1 / (1 + np.exp(-np.tanh(x))))


def test_the_number_of_rows_stays_open_unless_a_layer_touches_it() -> None:
    free = onnx.read(caffe_onnx.convert(caffe.read_net(prototxt((1, 3, 4, 4), ("ReLU", ""))), {}))
    assert free.inputs[0].shape == ("batch", 3, 4, 4)
    fixed = prototxt((2, 3, 4, 4), ("Reshape", "reshape_param { shape { dim: 1 dim: -1 } }"))
    assert onnx.read(caffe_onnx.convert(caffe.read_net(fixed), {})).inputs[0].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    "head",
    [
        'input: "data" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4',
        'input: "data" input_shape { dim: 1 dim: 2 dim: 3 dim: 4 }',
    ],
)
def test_older_ways_to_say_an_input(head: str) -> None:
    net = caffe.read_net(head + ' layer { name: "r" type: "ReLU" bottom: "data" top: "r" }')
    assert net.inputs == {"data": (1, 2, 3, 4)}


def test_a_net_for_training_needs_the_shape_of_its_data() -> None:
    text = """
    layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "/data/db" } }
    layer { name: "r" type: "ReLU" bottom: "data" top: "r" }
    """
    with pytest.raises(Malformed, match="does not say the shape of its input data") as refused:
        run(text, {})
    assert "--shape data=" in (refused.value.hint or "")
    x = RANDOM.standard_normal((2, 3)).astype(np.float32)
    (found,) = run(text, {}, x, shapes={"data": (1, 3)})
    close(found, np.maximum(x, 0))


CONVOLUTION = "convolution_param { num_output: 2 kernel_size: 3 %s }"
BAD: dict[str, tuple[str, str]] = {
    "an unknown layer": (prototxt((1, 2), ("Python", 'python_param { module: "os" }')), "is a Python, which"),
    "a loss": (prototxt((1, 2), ("SoftmaxWithLoss", "")), "is a SoftmaxWithLoss, which"),
    "a setting": (prototxt((1, 2), ("ReLU", "relu_param { slope: 1 }")), "has the setting slope"),
    "settings of another": (prototxt((1, 2), ("ReLU", "lrn_param { k: 1 }")), "has the setting lrn_param"),
    "the older form": ('layers { name: "a" type: RELU }', "older form"),
    "no input": ('layer { name: "a" type: "ReLU" bottom: "x" top: "y" }', "has no input"),
    "no layer": (prototxt((1, 2)), "no layer beside its inputs"),
    "a blob from nowhere": (
        prototxt((1, 2)) + ' layer { name: "a" type: "ReLU" bottom: "x" top: "y" }',
        "takes the blob x, which nothing gives",
    ),
    "a cycle": (
        prototxt((1, 2))
        + ' layer { name: "a" type: "Eltwise" bottom: "data" bottom: "b" top: "a" }'
        + ' layer { name: "b" type: "ReLU" bottom: "a" top: "b" }',
        "takes the blob b, which nothing gives",
    ),
    "a blob twice": (
        prototxt((1, 2), ("ReLU", "")) + ' layer { name: "a" type: "ReLU" bottom: "data" top: "t0" }',
        "given twice",
    ),
    "a huge input": (prototxt((1, 100_000, 100_000), ("ReLU", "")), "larger than any"),
    "a length of 0": (prototxt((0, 2), ("ReLU", "")), "at least 1"),
    "a negative length": (prototxt((-1, 2), ("ReLU", "")), "at least 1"),
    "too many dimensions": (prototxt((1,) * 9, ("ReLU", "")), "1 to 8 lengths"),
    "a kernel of 0": (
        prototxt((1, 2, 4, 4), ("Pooling", "pooling_param { kernel_size: 0 }")),
        "makes no sense",
    ),
    "a kernel that is too large": (
        prototxt((1, 2, 4, 4), ("Pooling", "pooling_param { kernel_size: 5 }")),
        "larger than what it takes",
    ),
    "no kernel": (prototxt((1, 2, 4, 4), ("Pooling", "")), "has no kernel_size"),
    "a random pool": (
        prototxt((1, 2, 4, 4), ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }")),
        "STOCHASTIC",
    ),
    "a text for a number": (
        prototxt((1, 2, 4, 4), ("Pooling", 'pooling_param { kernel_size: "2" }')),
        "whole number",
    ),
    "a number twice": (
        prototxt((1, 2, 4, 4), ("LRN", "lrn_param { local_size: 3 local_size: 5 }")),
        "stands twice",
    ),
    "no weights": (prototxt((1, 2, 4, 4), ("Convolution", CONVOLUTION % "")), "are 0 blobs, not 2"),
    "groups that do not fit": (
        prototxt((1, 3, 4, 4), ("Convolution", CONVOLUTION % "group: 2")),
        "groups, outputs or an axis",
    ),
    "within channels": (
        prototxt((1, 2, 4, 4), ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }")),
        "across channels is converted",
    ),
    "a reshape": (
        prototxt((1, 6), ("Reshape", "reshape_param { shape { dim: 0 dim: 4 } }")),
        "how many numbers",
    ),
    "an axis": (prototxt((1, 6), ("Softmax", "softmax_param { axis: 2 }")), "axis 2 of 2"),
    "batch statistics": (
        prototxt((1, 2, 3, 3), ("BatchNorm", "batch_norm_param { use_global_stats: false }")),
        "as in training",
    ),
    "shapes that do not join": (
        prototxt((1, 2), ("ReLU", ""))
        + ' layer { name: "p" type: "Reshape" bottom: "data" top: "p" reshape_param { shape { dim: 2 dim: 1 } } }'
        + ' layer { name: "e" type: "Eltwise" bottom: "t0" bottom: "p" top: "e" }',
        "of one shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_net_that_is_not_converted_says_why(name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(MesateeError, match=said) as refused:
        run(text, {})
    assert refused.value.hint


def test_weights_of_another_net_are_refused() -> None:
    text = prototxt((1, 4), ("InnerProduct", "inner_product_param { num_output: 3 }"))
    for blobs in ([np.zeros((3, 5)), np.zeros(3)], [np.zeros((3, 4))], [np.zeros((3, 4)), np.zeros(4)]):
        with pytest.raises(Malformed, match="blob") as refused:
            run(text, {"l0": blobs}, np.zeros((1, 4)))
        assert "belong together" in (refused.value.hint or "")


def test_damaged_weights_are_refused() -> None:
    whole = caffemodel({"a": [np.ones((2, 3)), np.ones(2)]})
    assert caffe.read_weights(whole)["a"][0].shape == (2, 3)
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            caffe.read_weights(whole[:cut])
    net = Net(name="net")
    layer = net.layer.add(name="a")
    blob = layer.blobs.add()
    blob.shape.dim.extend([2, 2])
    blob.data.extend([1.0, 2.0, 3.0])
    with pytest.raises(Malformed, match="another number of values"):
        caffe.read_weights(net.SerializeToString())
    blob.shape.dim[:] = [-1, -3]
    with pytest.raises(Malformed, match="at least 1"):
        caffe.read_weights(net.SerializeToString())
    blob.shape.dim[:] = [2**40, 2**40]
    with pytest.raises(TooLarge):
        caffe.read_weights(net.SerializeToString())
    with pytest.raises(Malformed):
        caffe.read_weights(b"")
    blob.shape.dim[:] = [3]
    net.layer.append(layer)
    with pytest.raises(Malformed, match="name of another"):
        caffe.read_weights(net.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_weights_are_only_our_errors_come_out(data: Any) -> None:
    whole = bytearray(caffemodel({"a": [np.ones((2, 2))], "b": [np.ones(3)]}))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    try:
        found = caffe.read_weights(bytes(whole))
    except MesateeError:
        return
    for blobs in found.values():
        for blob in blobs:
            assert len(blob.data) == 4 * math.prod(blob.shape)
