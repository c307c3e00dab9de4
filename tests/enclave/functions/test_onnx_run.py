"""Models on tensors from files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.nets import linear, net, summing

from mesatee import tensors
from mesatee.enclave.functions import onnx_run
from mesatee.enclave.functions.onnx_run import onnx_run as run
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol.onnx_writer import FLOAT32, node, value

MATRIX = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
STATE = {"after": "before"}


def given_back(model: bytes, given_tensors: dict, **args: object) -> dict[str, np.ndarray]:
    data = tensors.write({name: np.asarray(array) for name, array in given_tensors.items()})
    return tensors.read(run(memoryview(model), memoryview(data), **args))  # type: ignore[arg-type]


@given(st.integers(1, 12), st.integers(0, 14))
def test_batches_change_nothing(rows: int, batch: int) -> None:
    x = np.arange(3 * rows).reshape(rows, 3)
    assert np.array_equal(given_back(linear(MATRIX), {"x": x}, batch=batch)["y"], x @ MATRIX)


@given(st.integers(1, 10), st.booleans())
def test_a_state_goes_from_step_to_step(steps: int, first: bool) -> None:
    pieces = np.arange(2 * steps, dtype=np.float32).reshape(steps, 2)
    start = np.array([5, -5], np.float32) if first else np.zeros(2, np.float32)
    given_tensors = {"piece": pieces, "factor": np.float32(2), **({"before": start} if first else {})}
    found = given_back(summing(), given_tensors, state=STATE)
    sums = start + pieces.cumsum(axis=0)
    assert np.array_equal(found["said"], 2 * sums)
    assert np.array_equal(found["after"], sums[-1])
    # What goes on from the last state says the same as all at once.
    if steps > 1:
        head = given_back(summing(), {**given_tensors, "piece": pieces[:1]}, state=STATE)
        tail = given_back(
            summing(), {**given_tensors, "piece": pieces[1:], "before": head["after"]}, state=STATE
        )
        assert np.array_equal(tail["after"], found["after"])
    assert list(given_back(summing(), given_tensors, state=STATE, outputs=["said"])) == ["said"]


def test_the_state_of_a_model_that_leaves_its_size_open_must_be_given() -> None:
    opened = net(
        [node("Add", ["piece", "before"], ["after"])],
        [value("piece", FLOAT32, ("n",)), value("before", FLOAT32, ("n",))],
        [value("after", FLOAT32, ("n",))],
    )
    pieces = np.ones((3, 4), np.float32)
    with pytest.raises(Malformed, match="give the first state"):
        given_back(opened, {"piece": pieces}, state=STATE)
    found = given_back(opened, {"piece": pieces, "before": np.zeros(4, np.float32)}, state=STATE)
    assert found["after"].tolist() == [3.0] * 4


FACTOR, PIECES = np.float32(1), np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("given_tensors", "args", "reason"),
    [
        ({"x": PIECES}, {"state": STATE}, "no inputs"),
        ({"piece": PIECES}, {"state": STATE}, "no tensor for the inputs factor"),
        ({"piece": PIECES, "factor": FACTOR}, {"state": {"z": "before"}}, "state maps outputs"),
        ({"piece": PIECES, "factor": FACTOR}, {"state": {"after": "z"}}, "state maps outputs"),
        (
            {"piece": PIECES, "factor": FACTOR},
            {"state": {"after": "before", "said": "before"}},
            "two outputs",
        ),
        ({"piece": PIECES[0], "factor": FACTOR}, {"state": STATE}, "one number of steps"),
        ({"piece": PIECES[:0], "factor": FACTOR}, {"state": STATE}, "0 steps"),
        ({"piece": PIECES, "factor": np.ones(2, np.float32)}, {"state": STATE}, "one number of steps"),
        ({"piece": PIECES, "factor": FACTOR}, {"state": STATE, "batch": 2}, "leave batch out"),
        ({"piece": PIECES, "factor": FACTOR}, {"batch": -1}, "batch is 0"),
        ({"piece": PIECES, "factor": FACTOR, "before": PIECES}, {"batch": 2}, "one number of rows"),
        ({"piece": PIECES, "factor": FACTOR, "before": PIECES}, {}, "has the shape"),
        ({"piece": PIECES, "factor": FACTOR}, {"outputs": ["z"]}, "outputs names some"),
    ],
)
def test_what_does_not_fit_is_refused(given_tensors: dict, args: dict, reason: str) -> None:
    with pytest.raises((Malformed, TooLarge), match=reason):
        given_back(summing(), given_tensors, **args)


def test_steps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_run, "STEPS", 3)
    given_back(summing(), {"piece": PIECES, "factor": FACTOR}, state=STATE)
    monkeypatch.setattr(onnx_run, "STEPS", 2)
    with pytest.raises(TooLarge, match="3 steps"):
        given_back(summing(), {"piece": PIECES, "factor": FACTOR}, state=STATE)


def test_outputs_of_another_number_of_rows_or_shape() -> None:
    total = net(
        [node("ReduceSum", ["x"], ["y"], {"keepdims": 0})],
        [value("x", FLOAT32, ("n",))],
        [value("y", FLOAT32, ())],
    )
    with pytest.raises(Malformed, match="not one for each row"):
        given_back(total, {"x": np.ones(4, np.float32)}, batch=2)
