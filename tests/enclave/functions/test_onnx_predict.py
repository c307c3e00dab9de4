"""Models on the rows of a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.nets import linear, net

from mesatee.enclave.functions import _threads, onnx_predict
from mesatee.enclave.functions.onnx_predict import onnx_predict as predict
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol.onnx_writer import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    field,
    graph,
    message,
    model,
    node,
    value,
)
from mesatee.table import Table

MATRIX = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
ROWS = Table.from_dict(
    {"id": ["a", "b", "c"], "p": [1, 2, 3], "q": [0.5, None, 1.5], "r": [True, False, True]}
)


def view(data: bytes) -> memoryview:
    return memoryview(data)


def one(operator: str, kind: int, shape: tuple, out: int | None = None, **attributes: object) -> bytes:
    return net(
        [node(operator, ["x"], ["y"], attributes)],  # type: ignore[arg-type]
        [value("x", kind, shape)],
        [value("y", kind if out is None else out, shape)],
    )


@given(st.integers(1, 40), st.integers(1, 45), st.integers(1, 5), st.integers(1, 4))
def test_is_what_numpy_computes_whatever_the_batch(rows: int, batch: int, many: int, few: int) -> None:
    random = np.random.default_rng(rows * 100 + many)
    # Whole numbers, for which sums are exact in any order.
    x, matrix = random.integers(-9, 9, (rows, many)), random.integers(-9, 9, (many, few))
    table = Table.from_dict({f"c{number}": x[:, number] for number in range(many)})
    found = predict(view(linear(matrix)), table, batch=batch).to_arrow()
    assert found.column_names == (["y"] if few == 1 else [f"y_{number}" for number in range(few)])
    assert np.array_equal(np.column_stack([column.to_numpy() for column in found.columns]), x @ matrix)


@given(st.integers(1, 20), st.integers(1, 7))
def test_a_model_for_a_fixed_number_of_rows(rows: int, fixed: int) -> None:
    table = Table.from_dict({name: range(rows) for name in "abc"})
    found = predict(view(linear(MATRIX, fixed)), table).to_dict()
    assert found["y_0"] == [6.0 * number for number in range(rows)]


def test_columns_outputs_and_what_is_kept() -> None:
    found = predict(view(linear(MATRIX)), ROWS, columns=["r", "q", "p"], keep=["id", "p"])
    assert found.columns == ["id", "p", "y_0", "y_1"]
    assert found.to_dict()["id"] == ["a", "b", "c"]
    first, null, last = found.to_dict()["y_0"]
    assert (first, last) == (1 + 1 + 3, 1 + 3 + 9)
    assert np.isnan(null), "a null is NaN"
    assert predict(view(linear(MATRIX)), ROWS, keep=["id"]).columns == ["id", "y_0", "y_1"]


def test_several_inputs_by_name_and_by_columns() -> None:
    both = net(
        [node("Add", ["p", "q"], ["sum"]), node("Sub", ["p", "q"], ["less"])],
        [value("p", FLOAT64, ("rows", 1)), value("q", FLOAT64, ("rows", 1))],
        [value("sum", FLOAT64, ("rows", 1)), value("less", FLOAT64, ("rows", 1))],
    )
    table = Table.from_dict({"p": [1, 2], "q": [0.5, 0.25], "z": [7, 8]})
    assert predict(view(both), table).to_dict() == {"sum": [1.5, 2.25], "less": [0.5, 1.75]}
    assert predict(view(both), table, outputs=["less"]).columns == ["less"]
    other = predict(view(both), table, columns={"p": ["z"], "q": ["p"]}, outputs=["sum"])
    assert other.to_dict() == {"sum": [8.0, 10.0]}


def test_lists_and_many_columns_fill_the_shape_of_an_input() -> None:
    image = net(
        [node("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]}), node("Identity", ["t"], ["y"])],
        [value("x", FLOAT32, ("rows", 2, 3, "any"))],
        [value("y", FLOAT32, ("rows", "any", 2, 3))],
    )
    data = np.arange(24, dtype=np.float32).reshape(2, 12)
    wanted = data.reshape(2, 2, 3, 2).transpose(0, 3, 1, 2).reshape(2, 12)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(data.ravel()), 12)
    for table in (
        Table(pa.table({"pixels": lists})),
        Table(pa.table({"pixels": pa.chunked_array([lists[:1], lists[1:]])})),
        Table.from_dict({f"c{number}": data[:, number] for number in range(12)}),
    ):
        found = predict(view(image), table).to_arrow()
        assert np.array_equal(np.column_stack([column.to_numpy() for column in found.columns]), wanted)


def test_text_and_truth_values() -> None:
    keys = message((1, "keys_strings"), (9, "a"), (9, "b"), (20, 8))
    values = message((1, "values_int64s"), (8, 5), (8, 7), (20, 7))
    encoder = node("LabelEncoder", ["x"], ["y"], {"default_int64": -1}, "ai.onnx.ml") + b"".join(
        field(5, item) for item in (keys, values)
    )
    labels = model(
        graph([encoder], [value("x", 8, ("rows", 1))], [value("y", INT64, ("rows", 1))]),
        {"": 17, "ai.onnx.ml": 3},
    )
    for texts in (pa.array(["b", "a", "z"]), pa.array(["b", "a", "z"]).dictionary_encode()):
        assert predict(view(labels), Table.from_dict({"x": texts})).to_dict() == {"y": [7, 5, -1]}
    assert predict(view(one("Not", BOOL, ("rows",))), ROWS.select(["r"])).to_dict() == {
        "y": [False, True, False]
    }
    with pytest.raises(Malformed, match="int64, and the model's x text"):
        predict(view(labels), ROWS.select(["p"]))
    with pytest.raises(Malformed, match="text knows none"):
        predict(view(labels), Table.from_dict({"x": ["a", None]}))


@pytest.mark.parametrize(
    ("table", "kind", "reason"),
    [
        ({"x": [1.5]}, INT64, "has fractions"),
        ({"x": [1, None]}, INT64, "has nulls"),
        ({"x": [2**31]}, INT32, "too large"),
        ({"x": [-1]}, 12, "too large"),
        ({"x": ["a"]}, FLOAT32, "string, and the model's x float32"),
        ({"x": [[1], [1, 2]]}, FLOAT32, "no number"),
        ({"x": pa.array([1], pa.timestamp("s"))}, FLOAT32, "no number"),
        ({"x": pa.array([[1.0], None], pa.list_(pa.float32(), 1))}, FLOAT32, "nulls among its lists"),
        ({"x": []}, FLOAT32, "null"),
        ({"x": pa.array([], pa.int64())}, FLOAT32, "no row"),
    ],
)
def test_columns_that_do_not_fit_are_refused(table: dict, kind: int, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        predict(view(one("Identity", kind, ("rows", 1))), Table.from_dict(table))


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"batch": 0}, "batch is from"),
        ({"batch": 1_000_001}, "batch is from"),
        ({"threads": 0}, "threads is from 1"),
        ({"threads": 10_000}, "threads is from 1"),
        ({"outputs": ["z"]}, "outputs names some of y"),
        ({"outputs": ["y", "y"]}, "outputs names some of y"),
        ({"keep": ["z"]}, "keep names"),
        ({"keep": ["id", "id"]}, "keep names"),
        ({"columns": ["p"]}, r"takes \(3\) for each row, and 1"),
        ({"columns": ["p", "q", "z"]}, "does not have"),
        ({"columns": {"z": ["p"]}}, "exactly the model's inputs: x"),
        ({"columns": {"x": []}}, "without any"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: dict, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        predict(view(linear(MATRIX)), ROWS, **{"keep": ["id"], **args})


def test_outputs_that_are_not_one_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    total = net(
        [node("ReduceSum", ["x"], ["y"], {"keepdims": 0})],
        [value("x", FLOAT32, ("rows", 1))],
        [value("y", FLOAT32, ())],
    )
    with pytest.raises(Malformed, match="not one for each row"):
        predict(view(total), ROWS.select(["p"]))
    scalar = one("Identity", FLOAT32, ())
    with pytest.raises(Malformed, match="no dimension for rows"):
        predict(view(scalar), ROWS.select(["p"]))
    named = net(
        [node("Identity", ["x"], ["id"])], [value("x", FLOAT32, ("n", 1))], [value("id", FLOAT32, ("n", 1))]
    )
    with pytest.raises(Malformed, match="name of an output"):
        predict(view(named), ROWS.select(["id", "p"]), columns=["p"], keep=["id"])
    monkeypatch.setattr(onnx_predict, "COLUMNS", 1)
    with pytest.raises(TooLarge, match="over 1 numbers"):
        predict(view(linear(MATRIX)), ROWS.select(["p", "q", "r"]))


def test_the_number_of_threads_is_bounded_by_what_the_task_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads._GIVEN, "threads", 2)
    rows = ROWS.select(["p", "q", "r"])
    assert predict(view(linear(MATRIX)), rows, threads=2).num_rows == 3
    with pytest.raises(Malformed, match="from 1 to 2"):
        predict(view(linear(MATRIX)), rows, threads=3)


def test_no_error_has_a_value_or_a_name_from_within_the_model() -> None:
    secret = net(
        [node("Secret", ["x"], ["secret"]), node("Relu", ["secret"], ["y"])],
        [value("x", FLOAT32, ("rows", 3))],
        [value("y", FLOAT32, ("rows", 3))],
    )
    with pytest.raises(InputError) as caught:
        predict(view(secret), ROWS, keep=["id"])
    assert "ecret" not in caught.value.message
