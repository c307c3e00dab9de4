"""Training: data, arguments, files, and what differential privacy changes."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.enclave.functions.test_layers import NETS, made

from mesatee.enclave.functions import _examples, _netfile, _training
from mesatee.enclave.functions._architecture import LAYERS, architecture, parse
from mesatee.enclave.functions._net import Net
from mesatee.enclave.functions.fine_tune_net import fine_tune_net
from mesatee.enclave.functions.train_net import train_net
from mesatee.errors import InputError, Malformed
from mesatee.inference import Model
from mesatee.table import Table

SEED = {"noise": "5a" * 32}
SMALL = [{"layer": "dense", "units": 4}, {"layer": "relu"}, {"layer": "dense", "units": 2}]
DP = {"clip": 1.0, "rate": 0.2, "delta": 1e-5, "noise": 1.0}


def people(rows: int = 60, seed: int = 1) -> Table:
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, rows))
    return Table.from_dict({"a": a, "b": b, "ill": (a + b > 0).astype(int)})


def train(*tables: Table, **given: Any) -> Any:
    asked = {"layers": SMALL, "target": "ill", "where": SEED, "epochs": 2, "batch": 8, **given}
    return train_net({f"t{number}": table for number, table in enumerate(tables)}, **asked)


def test_rows_of_eight_parties_are_put_together_in_the_order_of_their_names() -> None:
    whole = people(80)
    parts = [Table(whole.to_arrow().slice(10 * number, 10)) for number in range(8)]
    given = {f"t{number}": part for number, part in enumerate(parts)}
    asked: dict[str, Any] = {"layers": SMALL, "target": "ill", "where": SEED, "epochs": 2}
    one, other = train_net(given, **asked), train_net(dict(reversed(given.items())), **asked)
    assert one == other == train_net({"all": whole}, **asked)


def test_the_model_takes_rows_as_they_are() -> None:
    """Scaling is part of the model."""
    table = people(300)
    raw = Table.from_dict(
        {"a": table["a"].to_numpy() * 1000 + 5000, "b": table["b"], "c": [3] * 300, "ill": table["ill"]}
    )
    done = train(raw, standardise=True, epochs=30, learning_rate=0.01)
    x = np.column_stack([raw[name].to_numpy() for name in "abc"]).astype(np.float32)
    right = Model(done.model).run(x)[0].argmax(axis=1) == raw["ill"].to_numpy()
    assert right.mean() > 0.95
    assert done.history.to_pandas()["accuracy"].iloc[-1] > 0.95


def test_named_classes_are_in_the_order_that_the_task_says() -> None:
    table = people(200)
    words = Table.from_dict(
        {"a": table["a"], "b": table["b"], "ill": ["yes" if x else "no" for x in table["ill"].to_pylist()]}
    )
    done = train(words, classes=["yes", "no"], epochs=30, learning_rate=0.01)
    x = np.column_stack([table[name].to_numpy() for name in "ab"]).astype(np.float32)
    found = Model(done.model).run(x)[0].argmax(axis=1)
    assert ((found == 0) == (table["ill"].to_numpy() == 1)).mean() > 0.9
    assert json.loads(_netfile.read(done.model)[0])["classes"] == ["yes", "no"]
    numbers = train(table, classes=[1, 0], epochs=1)
    assert json.loads(_netfile.read(numbers.model)[0])["classes"] == [1, 0]


def test_numbers_are_learned_by_mse() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 2))
    table = Table.from_dict({"a": x[:, 0], "b": x[:, 1], "s": x.sum(axis=1), "d": x[:, 0] - x[:, 1]})
    done = train(
        table,
        layers=[{"layer": "dense", "units": 2}],
        target=["s", "d"],
        loss="mse",
        epochs=60,
        learning_rate=0.02,
    )
    np.testing.assert_allclose(
        Model(done.model).run(np.eye(2, dtype=np.float32))[0], [[1, 1], [1, -1]], atol=0.02
    )
    assert done.history["accuracy"].null_count == 60


def test_lists_are_filled_before_their_first_number_and_tensors_are_lists() -> None:
    said = architecture(
        [4], [{"layer": "embedding", "tokens": 9, "units": 2}, {"layer": "flatten"}], "mse", []
    )
    table = Table.from_dict({"x": [[1, 2], [], [3, 4, 5, 6]]})
    assert _examples.rows({"t": table}, ["x"], said, True)[0].tolist() == [
        [0, 0, 1, 2],
        [0, 0, 0, 0],
        [3, 4, 5, 6],
    ]
    plain = architecture([2, 2], [{"layer": "flatten"}], "mse", [])
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    for column in (tensors, pa.array([[0, 1, 2, 3], [4, 5, 6, 7]], pa.list_(pa.int8(), 4))):
        table = Table(pa.table({"x": column}))
        assert _examples.rows({"t": table}, ["x"], plain, True)[0].tolist() == [
            [[0, 1], [2, 3]],
            [[4, 5], [6, 7]],
        ]
        assert _examples.natural_shape({"t": table}, ["x"]) == (4,)


def test_a_part_of_a_column_has_its_own_lists_only() -> None:
    column = pa.array([[1, 2], [3], [4, 5]])
    table = Table(pa.table({"x": column}).slice(1, 2))
    said = architecture([2], [{"layer": "flatten"}], "mse", [])
    assert _examples.rows({"t": table}, ["x"], said, True)[0].tolist() == [[0, 3], [4, 5]]


def test_validation_rows_are_not_learned_from() -> None:
    random = np.random.default_rng(0)
    table = Table.from_dict({"a": random.standard_normal(100), "ill": random.integers(0, 2, 100)})
    layers = [{"layer": "dense", "units": 256}, {"layer": "relu"}, {"layer": "dense", "units": 2}]
    history = train(table, layers=layers, validation=0.3, epochs=150, learning_rate=0.01).history.to_pandas()
    # What is chance cannot be foretold, and can be learned by heart.
    assert history["accuracy"].iloc[-1] > history["validation_accuracy"].iloc[-1] + 0.05
    assert history["validation_loss"].iloc[-1] > history["validation_loss"].min()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target": "no"}, "no columns 'no'"),
        ({"columns": ["a", "ill"]}, "no target is one"),
        ({"columns": ["a", "a"]}, "each named once"),
        ({"shape": [3]}, "have 2 numbers"),
        ({"shape": [1]}, "more than the 1 numbers"),
        ({"shape": [2, 0]}, "shape is one to three"),
        ({"shape": [2**13, 2**13]}, "at most"),
        ({"loss": "hinge"}, "loss is one of"),
        ({"loss": "mse"}, "2 units, and there are 1 targets"),
        ({"classes": ["a", "a"]}, "each once"),
        ({"classes": ["a", 1]}, "all texts or all"),
        ({"classes": [5, 6]}, "not among the classes"),
        ({"layers": []}, "from 1 to 64 layers"),
        ({"layers": [{"layer": "relu"}] * LAYERS + SMALL}, "from 1 to 64 layers"),
        ({"layers": [{"layer": "attention"}]}, "layer 0: there is no such layer"),
        ({"layers": [{"layer": "dense"}]}, "dense needs units"),
        ({"layers": [{"layer": "dense", "units": 0}]}, "units of dense is a whole number from 1 to 4096"),
        ({"layers": [{"layer": "dense", "units": 4097}]}, "units of dense is a whole number from 1 to 4096"),
        ({"layers": [{"layer": "dense", "units": True}]}, "units of dense"),
        ({"layers": [{"layer": "dense", "units": 2, "bias": False}]}, "has no setting 'bias'; it has units"),
        ({"layers": [{"layer": "dropout", "rate": 0.91}, *SMALL]}, "from 0 to 0.9"),
        ({"layers": [*SMALL, {"layer": "embedding", "tokens": 3, "units": 2}]}, "embedding is the first"),
        (
            {"layers": [{"layer": "embedding", "tokens": 3, "units": 2}, {"layer": "flatten"}, *SMALL]},
            "whole numbers",
        ),
        ({"optimiser": "lbfgs"}, "optimiser is one of"),
        ({"learning_rate": 0.0}, "learning_rate is a number above 0"),
        ({"momentum": 0.9}, "for the optimiser sgd"),
        ({"epochs": 0}, "epochs is from 1"),
        ({"epochs": 10_001}, "epochs is from 1"),
        ({"batch": 0}, "batch is from 1"),
        ({"batch": 2**16 + 1}, "batch is from 1"),
        ({"validation": 1.0}, "below 1"),
        ({"validation": 0.001}, "too few rows"),
        ({"seed": -1}, "seed is"),
        ({"clip_norm": 0.0}, "clip_norm is"),
        ({"divide": 0.0}, "divide is"),
        ({"divide": 2.0, "standardise": True}, "neither with standardise"),
        (
            {"optimiser": "sgd", "learning_rate": 100.0, "loss": "mse", "target": ["ill", "big"]},
            "did not stay finite",
        ),
        ({"dp": {"clip": 1.0}}, "dp is"),
        ({"dp": {**DP, "epsilon": 1.0}}, "dp is"),
        ({"dp": {**DP, "rate": 0.0}}, "rate of dp"),
        ({"dp": {**DP, "rate": 1.5}}, "rate of dp"),
        ({"dp": {**DP, "rate": 1e-7}}, "at most 1000000 steps"),
        ({"dp": {**DP, "delta": 0.2}}, "delta of dp"),
        ({"dp": {**DP, "noise": 0.1}}, "at least 0.2"),
        ({"dp": {**DP, "clip": -1.0}}, "clip of dp"),
        ({"dp": DP, "validation": 0.5}, "neither validation"),
        ({"dp": DP, "clip_norm": 1.0}, "neither validation"),
        ({"dp": DP, "standardise": True}, "standardise takes means"),
        ({"dp": DP, "layers": [{"layer": "dropout", "rate": 0.5}, *SMALL]}, "no dropout"),
    ],
)
def test_bad_arguments_are_named(given: dict[str, Any], said: str) -> None:
    table = people()
    if "target" in given and "big" in given["target"]:
        table = Table(table.to_arrow().append_column("big", pa.array(np.arange(60) * 1e12)))
    with pytest.raises(Malformed, match=said):
        train(table, **{"epochs": 30, **given} if "optimiser" in given else given)


@pytest.mark.parametrize(
    ("columns", "given", "said"),
    [
        ({"a": [1, None], "ill": [0, 1]}, {}, "has nulls"),
        ({"a": [1, 2], "ill": [0, None]}, {}, "has nulls"),
        ({"a": [1, float("nan")], "ill": [0, 1]}, {}, "NaN or infinity"),
        ({"a": [1, 1e300], "ill": [0, 1]}, {}, "NaN or infinity"),
        ({"a": ["x", "y"], "ill": [0, 1]}, {}, "numbers, truth values"),
        ({"a": [1, 2], "ill": [0, 2]}, {}, "not from 0 to 1"),
        ({"a": [1, 2], "ill": [-1, 1]}, {}, "not from 0 to 1"),
        ({"a": [1, 2], "ill": [0.0, 1.0]}, {}, "classes are whole numbers"),
        ({"a": [1, 2], "ill": ["n", "y"]}, {}, "named by classes"),
        ({"a": [[1], [2, 3]], "ill": [0, 1]}, {}, "name the shape"),
        ({"a": [[1], [2, 3]], "ill": [0, 1]}, {"shape": [1]}, "more than the 1 numbers"),
        ({"a": [[1], None], "ill": [0, 1]}, {"shape": [1]}, "has nulls"),
        ({"a": [[1], [None]], "ill": [0, 1]}, {"shape": [1]}, "has nulls"),
        ({"a": [[1], [2, 3]], "b": [1, 2], "ill": [0, 1]}, {"shape": [3]}, "several lengths"),
        ({"a": [[[1]], [[2]]], "ill": [0, 1]}, {"shape": [1]}, "numbers, truth values"),
        ({"ill": [0, 1]}, {}, "columns are one or more"),
    ],
)
def test_bad_rows_are_named_without_their_values(columns: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        train(Table.from_dict(columns), **given)


def test_no_rows_are_too_few() -> None:
    empty = Table(people().to_arrow().slice(0, 0))
    with pytest.raises(Malformed, match="too few rows"):
        train(empty)
    assert train(empty, people()) == train(people(), empty)


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_a_file_is_read_as_what_was_written(name: str) -> None:
    net = made(name, np.float32)
    model = net.write()
    again = Net.read(model)
    assert again.said == net.said
    assert all((again.weights[key] == value).all() for key, value in net.weights.items())
    assert parse(net.said.text()) == net.said


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_by_our_own_errors(data: st.DataObject) -> None:
    model = bytearray(made("dense", np.float32).write())
    place = data.draw(st.integers(0, len(model) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "add", "drop"])):
        case "flip":
            model[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del model[place:]
        case "add":
            model[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        case _:
            del model[place]
    try:
        found = Net.read(bytes(model))
    except InputError:
        return
    # A bit of a weight makes another net, which is written in the same way.
    assert found.write() == bytes(model)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_our_own_errors(raw: bytes) -> None:
    with pytest.raises(InputError):
        Net.read(raw)


def test_weights_that_are_not_numbers_are_refused() -> None:
    net = made("dense", np.float32)
    net.weights["0.bias"][0] = np.nan
    with pytest.raises(Malformed, match="not finite"):
        Net.read(net.write())


# -- from a net that is there ----------------------------------------------------------------------


def test_fine_tuning_goes_on_from_the_weights_and_keeps_what_is_frozen() -> None:
    first = train(people(), epochs=5)
    before = Net.read(first.model)
    asked: dict[str, Any] = {"target": "ill", "where": SEED, "epochs": 1}
    tuned = Net.read(fine_tune_net(first.model, people(seed=2), people(seed=3), freeze=1, **asked).model)
    assert (tuned.weights["0.kernel"] == before.weights["0.kernel"]).all()
    assert (tuned.weights["2.kernel"] != before.weights["2.kernel"]).any()
    # A small step away from where it was, not from fresh weights.
    np.testing.assert_allclose(tuned.weights["2.kernel"], before.weights["2.kernel"], atol=0.01)
    with pytest.raises(Malformed, match="no layer that is not frozen"):
        fine_tune_net(first.model, people(), freeze=3, **asked)


def test_a_new_end_has_fresh_weights_and_the_beginning_keeps_its_own() -> None:
    first = train(people(), epochs=5, standardise=True)
    before = Net.read(first.model)
    table = Table(people(seed=2).to_arrow().set_column(2, "ill", pa.array(["a", "b", "c"] * 20)))
    layers = [*SMALL[:-1], {"layer": "dense", "units": 3}]
    asked: dict[str, Any] = {"target": "ill", "where": SEED, "epochs": 1}
    tuned = Net.read(
        fine_tune_net(first.model, table, layers=layers, classes=["a", "b", "c"], freeze=2, **asked).model
    )
    assert tuned.said.classes == ("a", "b", "c")
    assert (tuned.weights["0.kernel"] == before.weights["0.kernel"]).all()
    assert tuned.weights["2.kernel"].shape == (4, 3)
    assert (tuned.scale == before.scale).all()
    with pytest.raises(Malformed, match="from 0 to 2"):
        fine_tune_net(first.model, table, layers=layers, classes=["a", "b", "c"], freeze=3, **asked)
    other = [{"layer": "embedding", "tokens": 3, "units": 2}, {"layer": "flatten"}, *SMALL]
    with pytest.raises(Malformed, match="another input"):
        fine_tune_net(first.model, table, layers=other, **asked)


def test_a_model_of_other_origin_is_no_start() -> None:
    first = train(people()).model
    for model in (b"", b"x", first + b"\0", first.replace(b"mesatee.net", b"someone.net"), first[:-1]):
        with pytest.raises(Malformed, match="start"):
            fine_tune_net(model, people(), target="ill", where=SEED)


# -- differential privacy --------------------------------------------------------------------------


def test_noise_follows_from_the_seed_that_the_gateway_gives() -> None:
    one = train(people(), dp=DP)
    assert train(people(), dp=DP) == one
    assert train(people(), dp=DP, where={"noise": "5b" * 32}).model != one.model
    # Without one each run has noise of its own.
    assert train(people(), dp=DP, where={}).model != train(people(), dp=DP, where={}).model


def test_history_with_dp_says_what_it_cost_and_nothing_of_the_rows() -> None:
    history = train(people(), dp=DP, epochs=3).history
    other = train(people(seed=9), dp=DP, epochs=3).history
    assert history == other
    costs = history["epsilon"].to_pylist()
    assert costs == sorted(costs)
    assert 0 < costs[0] < costs[-1]
    assert history["delta"].to_pylist() == [1e-5] * 3
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert history[name].null_count == 3
    spent = train(people(), dp={"clip": 1.0, "rate": 0.2, "delta": 1e-5, "epsilon": 2.0}, epochs=3).history
    assert 1.95 < spent["epsilon"].to_pylist()[-1] <= 2


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32),
    st.integers(1, 3000),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30, 1e200]),
    st.floats(1e-6, 1e6),
)
def test_a_clipped_row_is_no_longer_than_the_grid_in_exact_integers(
    seed: int, size: int, scale: float, clip: float
) -> None:
    grads = np.random.default_rng(seed).standard_normal((3, size)) * scale
    found = _training.whole(grads, clip)
    for row, ints in zip(grads, found.tolist(), strict=True):
        length = sum(value * value for value in ints)
        assert length <= _training.GRID**2
        real = np.sqrt((row / scale) @ (row / scale)) * scale
        if real > 2 * clip:
            # Nothing is lost but what rounding takes.
            assert length >= (_training.GRID - np.sqrt(size) - 4) ** 2 or size > 10**6
        expected = row * min(1.0, clip / real) / clip * _training.GRID
        np.testing.assert_allclose(ints, expected, atol=2.01)


def test_a_row_without_a_finite_gradient_says_nothing() -> None:
    grads = np.array([[1.0, np.nan], [np.inf, 0.0], [3.0, 4.0]])
    assert _training.whole(grads, 1.0).tolist() == [[0, 0], [0, 0], [629145, 838860]]


def test_one_more_row_moves_the_sum_by_no_more_than_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step, with noise and the choice of rows taken away: what the noise has to cover."""
    sums: list[np.ndarray] = []
    monkeypatch.setattr(
        _training, "discrete_gaussian", lambda stream, sigma, count: np.zeros(count, np.int64)
    )
    monkeypatch.setattr(_training.Stream, "chosen", lambda self, rate, count: np.arange(count))
    monkeypatch.setattr(
        _training._Optimiser,
        "step",
        lambda self, grads: sums.append(np.concatenate([grad.ravel() for grad in grads.values()])),
    )
    table = people(40).to_arrow()
    wild = pa.table({"a": [1e6], "b": [-1e6], "ill": [1]})
    for rows in (
        table,
        pa.concat_tables([wild, table]),
        pa.concat_tables([table.slice(0, 7), table.slice(8)]),
    ):
        train(Table(rows), dp={**DP, "clip": 0.5, "rate": 1.0}, epochs=1, batch=1)
    assert np.linalg.norm(sums[1] - sums[0]) <= 0.5 + 1e-6
    assert np.linalg.norm(sums[1] - sums[0]) > 0.49
    assert 0 < np.linalg.norm(sums[2] - sums[0]) <= 0.5 + 1e-6


def test_the_noise_is_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int]] = []
    real = _training.discrete_gaussian

    def watched(stream: Any, sigma: float, count: int) -> Any:
        asked.append((sigma, count))
        return real(stream, sigma, count)

    monkeypatch.setattr(_training, "discrete_gaussian", watched)
    done = train(people(), dp={**DP, "noise": 2.5}, epochs=2)
    weights = sum(value.size for value in Net.read(done.model).weights.values())
    assert asked == [(2.5 * _training.GRID, weights)] * 10
    assert done.history["noise"].to_pylist() == [2.5, 2.5]


def test_with_dp_frozen_layers_get_no_noise() -> None:
    first = train(people()).model
    before = Net.read(first)
    after = Net.read(
        fine_tune_net(first, people(), target="ill", where=SEED, epochs=1, freeze=1, dp=DP).model
    )
    assert (after.weights["0.kernel"] == before.weights["0.kernel"]).all()
    assert (after.weights["2.kernel"] != before.weights["2.kernel"]).all()


ODD = st.sampled_from([None, float("nan"), float("inf"), 1e300, 0.5, -2.0])
LISTS = st.none() | st.lists(st.none() | st.integers(-1, 4), max_size=5)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(ODD, ODD, st.none() | st.integers(-1, 3)), min_size=1, max_size=8))
def test_with_dp_rows_that_do_not_fit_are_left_out_one_by_one(found: list[Any]) -> None:
    """A run that fails for one row would tell of it, unpaid."""
    said = architecture([2], SMALL, "softmax", [])
    schema = pa.schema([("a", pa.float64()), ("b", pa.float64()), ("ill", pa.int64())])

    def read(rows: list[Any], strict: bool = False) -> Any:
        lines = [dict(zip(schema.names, row, strict=True)) for row in rows]
        tables = {"t": Table(pa.Table.from_pylist(lines, schema))}
        return _examples.read(tables, ["a", "b"], ["ill"], said, 2, strict=strict)

    x, y = read(found)
    assert x.tolist() == [line for row in found for line in read([row])[0].tolist()]
    assert y.tolist() == [line for row in found for line in read([row])[1].tolist()]
    good = [a in (0.5, -2.0) and b in (0.5, -2.0) and c in (0, 1) for a, b, c in found]
    assert len(x) == sum(good)
    if all(good):
        assert (read(found, strict=True)[0] == x).all()
    else:
        with pytest.raises(Malformed):
            read(found, strict=True)


@settings(deadline=None, max_examples=100)
@given(st.lists(LISTS, min_size=1, max_size=8), st.booleans())
def test_with_dp_lists_that_do_not_fit_are_left_out_one_by_one(found: list[Any], fixed: bool) -> None:
    said = architecture(
        [3], [{"layer": "embedding", "tokens": 4, "units": 2}, {"layer": "flatten"}], "mse", []
    )
    kind = pa.list_(pa.int32())
    if fixed:
        kind, found = pa.list_(pa.int32(), 3), [None if row is None else (row * 3)[:3] for row in found]
        found = [None if row is None or len(row) != 3 else row for row in found]
    x, fits = _examples.rows({"t": Table(pa.table({"x": pa.array(found, kind)}))}, ["x"], said, False)
    for row, line, right in zip(found, x.tolist(), fits.tolist(), strict=True):
        good = row is not None and len(row) <= 3 and all(item is not None and 0 <= item < 4 for item in row)
        assert right == good
        assert line == ([0] * (3 - len(row)) + row if good else [0, 0, 0])


def test_with_dp_no_rows_at_all_are_no_failure() -> None:
    empty = Table(people().to_arrow().slice(0, 0))
    assert train(empty, dp=DP).history == train(people(), dp=DP).history
    wrong = Table.from_dict({"a": [1.0], "b": [2.0], "ill": [7]})
    assert train(wrong, dp=DP) == train(empty, dp=DP)


def test_descriptions_are_read_strictly() -> None:
    good = json.loads(made("cnn").said.text())
    for change in (
        {"version": 2},
        {"shape": "x"},
        {"layers": {}},
        {"loss": 1},
        {"more": 1},
        {"layers": [1]},
        {"shape": [2, 7, -6]},
        {"classes": [None]},
    ):
        with pytest.raises(Malformed):
            parse(json.dumps({**copy.deepcopy(good), **change}))
    for text in ("", "[]", "{", "[" * 100_000, "null", '{"version":NaN}'):
        with pytest.raises(Malformed):
            parse(text)
