"""Gradients against differences, results against ONNX Runtime, and rows against other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier

from mesatee.enclave.functions import _training
from mesatee.enclave.functions._architecture import KINDS, architecture
from mesatee.enclave.functions._net import Net, loss
from mesatee.errors import Malformed
from mesatee.inference import Model

DENSE = {"layer": "dense", "units": 3}
NETS: dict[str, tuple[list[int], list[dict[str, Any]]]] = {
    "dense": ([5], [{"layer": "dense", "units": 7}, {"layer": "tanh"}, DENSE]),
    "cnn": (
        [2, 7, 6],
        [
            {"layer": "conv2d", "filters": 3},
            {"layer": "relu"},
            {"layer": "max_pool"},
            {"layer": "flatten"},
            DENSE,
        ],
    ),
    "strided": (
        [1, 9, 8],
        [
            {"layer": "conv2d", "filters": 4, "kernel": 4, "stride": 2, "padding": "same"},
            {"layer": "sigmoid"},
            {"layer": "conv2d", "filters": 2, "kernel": 2, "stride": 3, "padding": "valid"},
            {"layer": "flatten"},
            DENSE,
        ],
    ),
    "average": (
        [2, 5, 7],
        [
            {"layer": "average_pool", "size": 2},
            {"layer": "conv2d", "filters": 2, "kernel": 1},
            {"layer": "flatten"},
            DENSE,
        ],
    ),
    "norm": ([4], [{"layer": "dense", "units": 6}, {"layer": "layer_norm"}, {"layer": "relu"}, DENSE]),
    "lstm": ([5, 3], [{"layer": "lstm", "units": 4}, DENSE]),
    "lstms": (
        [4, 2],
        [{"layer": "lstm", "units": 3, "sequences": True}, {"layer": "lstm", "units": 2}, DENSE],
    ),
    "gru": ([5, 3], [{"layer": "gru", "units": 4}, DENSE]),
    "grus": (
        [4, 2],
        [
            {"layer": "dense", "units": 3},
            {"layer": "gru", "units": 3, "sequences": True},
            {"layer": "layer_norm"},
            {"layer": "gru", "units": 2},
            DENSE,
        ],
    ),
    "tokens": ([6], [{"layer": "embedding", "tokens": 5, "units": 3}, {"layer": "gru", "units": 4}, DENSE]),
    "bag": ([6], [{"layer": "embedding", "tokens": 5, "units": 3}, {"layer": "flatten"}, DENSE]),
    "dropout": ([5], [{"layer": "dense", "units": 7}, {"layer": "dropout", "rate": 0.5}, DENSE]),
}
ROWS = 5


def made(name: str, dtype: Any = np.float64, loss: str = "softmax", seed: int = 3) -> Net:
    shape, layers = NETS[name]
    if loss == "binary":
        layers = [*layers[:-1], {"layer": "dense", "units": 1}]
    net = Net(architecture(shape, layers, loss, []), np.random.default_rng(seed), dtype)
    random = np.random.default_rng(seed + 1)
    for key, value in net.weights.items():
        # No weight is 0, so that nothing is right by being nothing.
        net.weights[key] = (value + random.uniform(-0.3, 0.3, value.shape)).astype(dtype)
    return net


def some_rows(net: Net, seed: int = 5, rows: int = ROWS) -> Any:
    random = np.random.default_rng(seed)
    if net.said.tokens is not None:
        return random.integers(0, net.said.tokens, (rows, *net.said.shape))
    return random.standard_normal((rows, *net.said.shape)).astype(net.dtype)


def some_targets(net: Net, rows: int = ROWS) -> Any:
    random = np.random.default_rng(9)
    if net.said.loss == "mse":
        return random.standard_normal((rows, net.outputs)).astype(net.dtype)
    return random.integers(0, 2 if net.said.loss == "binary" else net.outputs, rows)


def test_every_layer_is_in_some_net() -> None:
    assert {layer["layer"] for _, layers in NETS.values() for layer in layers} == set(KINDS)


@pytest.mark.parametrize("kind", ["softmax", "binary", "mse"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_differences(name: str, kind: str) -> None:
    net = made(name, loss=kind)
    x, y = some_rows(net), some_targets(net)

    def dropout() -> np.random.Generator:
        return np.random.default_rng(1)

    def each_loss() -> Any:
        return loss(net.said, net.forward(x, dropout())[0], y)[0]

    logits, kept = net.forward(x, dropout())
    grads = net.backward(loss(net.said, logits, y)[1], kept)
    logits, kept = net.forward(x, dropout(), each=True)
    single = net.backward(loss(net.said, logits, y)[1], kept, each=True)
    assert set(grads) == set(net.weights) == set(single)
    random = np.random.default_rng(2)
    step = 1e-6
    for key, value in net.weights.items():
        assert single[key].shape == (ROWS, *value.shape)
        np.testing.assert_allclose(single[key].sum(axis=0), grads[key], rtol=1e-9, atol=1e-12)
        for place in random.choice(value.size, min(6, value.size), replace=False):
            at = np.unravel_index(place, value.shape)
            before = value[at]
            value[at] = before + step
            up = each_loss()
            value[at] = before - step
            down = each_loss()
            value[at] = before
            np.testing.assert_allclose(
                single[key][(slice(None), *at)], (up - down) / (2 * step), rtol=2e-4, atol=2e-8
            )


@pytest.mark.parametrize("kind", ["softmax", "binary", "mse"])
@pytest.mark.parametrize("name", NETS)
def test_onnx_runtime_computes_what_the_net_computes(name: str, kind: str) -> None:
    net = made(name, np.float32, kind)
    net.shift, net.scale = np.array([0.25], np.float32), np.array([1.5], np.float32)
    x = some_rows(net, rows=64)
    logits, _ = net.forward(net.prepared(x))
    expected = {
        "softmax": lambda: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        "binary": lambda: 1 / (1 + np.exp(-logits)),
        "mse": lambda: logits,
    }[kind]()
    model = Model(net.write())
    (found,) = model.run(x)
    assert found.shape == (64, net.outputs)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    # One row alone, too.
    np.testing.assert_allclose(model.run(x[:1])[0], expected[:1], atol=1e-5, rtol=1e-5)
    assert (
        model.outputs[0].name
        == {"softmax": "probabilities", "binary": "probability", "mse": "prediction"}[kind]
    )


@pytest.mark.parametrize("name", [name for name in NETS if name != "dropout"])
def test_what_a_row_says_does_not_depend_on_the_others(name: str) -> None:
    """To the last bit: otherwise one more row would change what the others add, beyond what noise covers."""
    net = made(name, np.float32)
    x, y = some_rows(net, rows=67), some_targets(net, 67)
    names = list(net.weights)
    together = _training.each_gradient(net, x, y, names, 0)
    for place in (0, 1, 31, 66):
        alone = _training.each_gradient(net, x[place : place + 1], y[place : place + 1], names, 0)
        assert (alone[0] == together[place]).all(), place
        assert (_training.whole(alone, 0.1)[0] == _training.whole(together, 0.1)[place]).all()
    order = np.random.default_rng(0).permutation(67)[:50]
    assert (_training.each_gradient(net, x[order], y[order], names, 0) == together[order]).all()


SIZE = st.sampled_from([1, 2, 3, 8, 17, 33])
STEPS = st.sampled_from([1, 2, 7, 40, 130])
CELL = st.sampled_from(["lstm", "gru"])


@st.composite
def some_nets(draw: st.DrawFn) -> tuple[list[int], list[dict[str, Any]]]:
    end = {"layer": "dense", "units": draw(st.sampled_from([2, 3, 11]))}
    match draw(st.sampled_from(["plain", "images", "sequences", "tokens"])):
        case "plain":
            return [draw(SIZE)], [
                {"layer": "dense", "units": draw(SIZE)},
                {"layer": draw(st.sampled_from(["tanh", "relu", "sigmoid"]))},
                {"layer": "layer_norm"},
                end,
            ]
        case "images":
            side = st.sampled_from([5, 8, 13])
            first = {
                "filters": draw(SIZE),
                "kernel": draw(st.integers(1, 5)),
                "stride": draw(st.integers(1, 2)),
            }
            pool = draw(st.sampled_from(["max_pool", "average_pool"]))
            return [draw(st.integers(1, 3)), draw(side), draw(side)], [
                {"layer": "conv2d", **first},
                {"layer": "tanh"},
                {"layer": pool},
                {"layer": "conv2d", "filters": draw(SIZE)},
                {"layer": "flatten"},
                end,
            ]
        case "sequences":
            return [draw(STEPS), draw(SIZE)], [
                {"layer": draw(CELL), "units": draw(SIZE), "sequences": True},
                {"layer": "layer_norm"},
                {"layer": draw(CELL), "units": draw(SIZE)},
                end,
            ]
    return [draw(STEPS)], [
        {"layer": "embedding", "tokens": draw(st.sampled_from([3, 50])), "units": draw(SIZE)},
        {"layer": draw(CELL), "units": draw(SIZE)},
        end,
    ]


@settings(deadline=None, max_examples=60)
@given(some_nets(), st.integers(2, 40), st.integers(0, 2**32))
def test_what_a_row_says_does_not_depend_on_the_others_in_nets_of_any_size(
    said: tuple[list[int], list[dict[str, Any]]], rows: int, seed: int
) -> None:
    net = Net(architecture(*said, "softmax", []), np.random.default_rng(seed))
    x, names = some_rows(net, seed, rows), list(net.weights)
    y = np.random.default_rng(seed).integers(0, net.outputs, rows)
    together = _training.each_gradient(net, x, y, names, 0)
    for place in (0, rows // 2, rows - 1):
        alone = _training.each_gradient(net, x[place : place + 1], y[place : place + 1], names, 0)
        assert (alone[0] == together[place]).all()


def test_a_large_net_says_the_same_of_a_row_too() -> None:
    """With matrices as large as libraries cut into blocks."""
    layers = [{"layer": "dense", "units": 300}, {"layer": "tanh"}, {"layer": "dense", "units": 129}, DENSE]
    net = Net(architecture([257], layers, "softmax", []), np.random.default_rng(0))
    x, y = some_rows(net, rows=40), some_targets(net, 40)
    together = _training.each_gradient(net, x, y, list(net.weights), 0)
    for place in (0, 7, 39):
        alone = _training.each_gradient(net, x[place : place + 1], y[place : place + 1], list(net.weights), 0)
        assert (alone[0] == together[place]).all()


def test_gradient_descent_moves_as_scikit_learn_does() -> None:
    random = np.random.default_rng(4)
    x, y = random.standard_normal((30, 6)), random.integers(0, 3, 30)
    theirs = MLPClassifier(
        (8, 5),
        activation="tanh",
        solver="sgd",
        learning_rate_init=0.1,
        momentum=0.0,
        alpha=0.0,
        batch_size=30,
    )
    theirs.partial_fit(x, y, classes=[0, 1, 2])
    layers = [
        {"layer": "dense", "units": 8},
        {"layer": "tanh"},
        {"layer": "dense", "units": 5},
        {"layer": "tanh"},
        DENSE,
    ]
    net = Net(architecture([6], layers, "softmax", []), random, np.float64)
    for number, kernel, bias in zip((0, 2, 4), theirs.coefs_, theirs.intercepts_, strict=True):
        net.weights[f"{number}.kernel"], net.weights[f"{number}.bias"] = kernel.copy(), bias.copy()
    plan = _training.Plan("sgd", 0.1, 0.0, None, 20, 30, 0.0, 0)
    # Rows as single precision has them, as ours are.
    x = x.astype(np.float32).astype(np.float64)
    for _ in range(20):
        theirs.partial_fit(x, y)
    _training.train(net, x, y, plan)
    for number, kernel, bias in zip((0, 2, 4), theirs.coefs_, theirs.intercepts_, strict=True):
        np.testing.assert_allclose(net.weights[f"{number}.kernel"], kernel, atol=1e-10)
        np.testing.assert_allclose(net.weights[f"{number}.bias"], bias, atol=1e-10)


def test_adam_moves_as_scikit_learn_does() -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((30, 6)).astype(np.float32).astype(np.float64)
    y = random.integers(0, 3, 30)
    net = Net(
        architecture([6], [{"layer": "dense", "units": 5}, {"layer": "relu"}, DENSE], "softmax", []),
        random,
        np.float64,
    )
    theirs = MLPClassifier(
        (5,), activation="relu", solver="adam", learning_rate_init=0.01, alpha=0.0, batch_size=30
    )
    theirs.partial_fit(x, y, classes=[0, 1, 2])
    # It was begun by a step of its own.
    optimiser = theirs._optimizer
    optimiser.t, optimiser.ms, optimiser.vs = (
        0,
        [np.zeros_like(value) for value in optimiser.ms],
        [np.zeros_like(value) for value in optimiser.vs],
    )
    for number, kernel, bias in zip((0, 2), theirs.coefs_, theirs.intercepts_, strict=True):
        net.weights[f"{number}.kernel"], net.weights[f"{number}.bias"] = kernel.copy(), bias.copy()
    for _ in range(15):
        theirs.partial_fit(x, y)
    _training.train(net, x, y, _training.Plan("adam", 0.01, 0.0, None, 15, 30, 0.0, 0))
    # Its small constant stands at another place.
    for number, kernel in zip((0, 2), theirs.coefs_, strict=True):
        np.testing.assert_allclose(net.weights[f"{number}.kernel"], kernel, atol=2e-5)


def test_dropout_does_nothing_outside_of_training() -> None:
    net = made("dropout")
    x = some_rows(net)
    quiet, _ = net.forward(x)
    plain = x @ net.weights["0.kernel"] + net.weights["0.bias"]
    np.testing.assert_allclose(quiet, plain @ net.weights["2.kernel"] + net.weights["2.bias"])
    loud = [net.forward(x, np.random.default_rng(seed))[0] for seed in range(3000)]
    np.testing.assert_allclose(np.mean(loud, axis=0), quiet, atol=0.2)
    assert np.std(loud, axis=0).min() > 0.01


@pytest.mark.parametrize(
    ("shape", "layers", "loss", "classes", "said"),
    [
        ([5], [{"layer": "conv2d", "filters": 2}, DENSE], "softmax", [], "layer 0: conv2d takes images"),
        ([1, 4, 4], [DENSE], "softmax", [], "layer 0: dense takes vectors"),
        ([5], [{"layer": "lstm", "units": 2}, DENSE], "softmax", [], "layer 0: lstm takes sequences"),
        ([5, 2], [DENSE], "softmax", [], "ends with the shape"),
        (
            [1, 4, 4],
            [{"layer": "conv2d", "filters": 2, "kernel": 5, "padding": "valid"}],
            "mse",
            [],
            "kernel of 5",
        ),
        ([1, 3, 9], [{"layer": "max_pool", "size": 4}], "mse", [], "the size 4"),
        ([5], [DENSE], "binary", [], "one unit"),
        ([5], [DENSE], "softmax", ["a", "b"], "3 units and 2 names"),
        ([5], [{"layer": "dense", "units": 1}], "softmax", [], "two at least"),
        ([4096], [{"layer": "dense", "units": 4096}, DENSE], "softmax", [], "too large"),
    ],
)
def test_layers_that_do_not_fit_are_named(shape, layers, loss, classes, said) -> None:
    with pytest.raises(Malformed, match=said):
        Net(architecture(shape, layers, loss, classes), np.random.default_rng(0))
