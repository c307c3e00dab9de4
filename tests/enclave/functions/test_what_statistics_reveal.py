"""What all statistics have in common: counts of people in each row, no value that nobody asked for, and their words."""

from __future__ import annotations

import decimal
import importlib
import inspect
import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.shared_tables import rows_of

from mesatee.enclave import functions
from mesatee.errors import Malformed
from mesatee.table import Table

CASES: dict[str, dict[str, Any]] = {
    "describe": {"columns": ["x", "y"], "extremes": False},
    "histogram": {"column": "x", "edges": [0, 5]},
    "correlation": {"columns": ["x", "y"]},
    "crosstab": {"row": "arm", "column": "hit"},
    "chi_square": {"row": "arm", "column": "hit"},
    "t_test": {"column": "x", "other": "y"},
    "vif": {"columns": ["x", "y"]},
    "woe": {"columns": "x", "target": "hit", "edges": {"x": [3]}},
    "kaplan_meier": {"duration": "x", "event": "hit", "group": "arm", "times": [3]},
    "log_rank": {"duration": "x", "event": "hit", "group": "arm"},
}
CANARY = "canary"
NUMBERS = [70_001.25, 70_002.25, 70_003.25, 70_004.25, 70_005.25, 70_006.25]


def people(**columns):
    return Table(
        pa.table(
            {
                "id": [f"{CANARY}-{number}" for number in range(6)],
                "secret": [f"{CANARY}!{number}" for number in range(6)],
                "other": NUMBERS,
                **columns,
            }
        )
    )


LEFT = {"x": [1.0, 2.0, 4.0, 4.5, 5.0, 7.0], "arm": list("uuuvvv")}
RIGHT = {"y": [2.0, 1.5, 4.0, 9.0, 3.0, 6.0], "hit": [0, 1, 1, 0, 1, 0]}


@pytest.fixture(params=["rows", "columns"])
def given_(request) -> dict[str, Any]:
    if request.param == "rows":
        half = people(**LEFT, **RIGHT)
        return {"inputs": {"a": half, "b": half}}
    return {"inputs": {"a": people(**LEFT), "b": people(**RIGHT)}, "how": "columns", "key": "id"}


def test_these_are_all():
    having = {
        name
        for name in functions.names()
        if "_parties import"
        in inspect.getsource(importlib.import_module(f"mesatee.enclave.functions.{name}"))
    }
    # It learns from rows: what it gives is a model.
    assert having - {"gbdt_train"} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_keys_and_other_columns_comes_out(name, given_, capsys):
    found = functions.find(name).function(**given_, **CASES[name])
    text = io.BytesIO()
    found.write(text, "csv")
    said = text.getvalue().decode() + "".join(capsys.readouterr())
    assert found.num_rows > 0
    for secret in (CANARY, *map(str, NUMBERS), *(str(int(number)) for number in NUMBERS)):
        assert secret not in said


@pytest.mark.parametrize("name", CASES)
def test_each_row_says_how_many_people_are_behind_it(name, given_):
    module = importlib.import_module(f"mesatee.enclave.functions.{name}")
    assert module.GROUP_SIZE == "rows"
    column = functions.find(name).function(**given_, **CASES[name])["rows"]
    assert column.type == pa.int64()
    assert column.null_count == 0


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_rows_and_inputs_does_not_show(name, given_):
    run = functions.find(name).function
    turned = {
        party: Table(table.to_arrow().take(pa.array([3, 1, 5, 0, 4, 2])))
        for party, table in reversed(given_["inputs"].items())
    }
    assert run(**given_, **CASES[name]) == run(**{**given_, "inputs": turned}, **CASES[name])


def test_the_words_about_inputs_are_the_same_everywhere():
    def about(name: str) -> str:
        text = functions.find(name).reveals
        return text[text.index("`how` is") :].split("\n\n")[0]

    assert len({about(name) for name in CASES}) == 1


@pytest.mark.parametrize("name", CASES)
def test_errors_hold_no_values(name):
    """Text where numbers are asked for, and numbers that are none of the allowed ones."""
    columns = {"x": [f"{CANARY}{n}" for n in range(6)], "arm": [[CANARY]] * 6, "y": NUMBERS, "hit": NUMBERS}
    arguments = {**CASES[name], **({"columns": ["x"], "edges": {"x": [3]}} if name == "woe" else {})}
    if name == "describe":
        columns["x"] = [float("inf"), *NUMBERS[1:]]
    with pytest.raises(Malformed) as caught:
        functions.find(name).function({"a": people(**columns)}, **arguments)
    said = caught.value.message + (caught.value.hint or "")
    assert CANARY not in said
    assert "7000" not in said


ODD = st.sampled_from(
    [
        pa.array([1.0, None, float("nan"), -0.0]),
        pa.array([1e308, -1e308, 5e-324, 1e308]),
        pa.array([float("inf"), 1.0, 2.0, 3.0]),
        pa.array([0, 1, 1, 0], pa.uint8()),
        pa.array([2**64 - 1, 0, None, 1], pa.uint64()),
        pa.array([3, 1, 2, 3], pa.int32()),
        pa.array([2, 2, 2, 2]),
        pa.array([True, False, None, True]),
        pa.array(["u", "", None, "é"]),
        pa.array(["v", "u", "v", "w"]).dictionary_encode(),
        pa.array(["1", "2", "3", "4"], pa.string_view()),
        pa.array([b"x", b"", None, b"y"]),
        pa.array([[1], [], None, [2, 3]]),
        pa.array([{"a": 1}, None, {"a": 2}, {"a": 3}]),
        pa.nulls(4),
        pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5"), decimal.Decimal("-1.5")]),
        pa.array([1, 2, None, 3], pa.timestamp("s", "Europe/Zurich")),
        pa.array([1, 2, 1, 3], pa.timestamp("ns")),
        pa.array([1, 2, None, 3], pa.date64()),
        pa.array([1, 2, None, 3], pa.time32("s")),
        pa.array([1, 2, None, 3], pa.duration("s")),
        pa.array([1.0, 2.0, None, 4.0], pa.float16()),
    ]
)
NAMES = ("x", "y", "arm", "hit")


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=40)
@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, ODD)),
    st.none() | st.fixed_dictionaries(dict.fromkeys(NAMES, ODD)),
    st.integers(0, 4),
    st.booleans(),
)
def test_whatever_the_columns_are_only_our_errors_are_raised(name, first, second, rows, beside):
    second = second or first
    ids = pa.array(range(4))
    a = Table(pa.table({**first, "id": ids}).slice(0, rows))
    b = Table(pa.table({**second, "id": ids}))
    how: dict[str, Any] = {"inputs": {"a": a, "b": b}}
    asked = CASES[name]
    if beside:
        b = Table(pa.table({**{f"{column}2": values for column, values in second.items()}, "id": ids}))
        how = {"inputs": {"a": a, "b": b}, "how": "columns", "key": "id"}
        renamed = {"y": "y2", "hit": "hit2"}
        asked = {
            key: [renamed.get(item, item) for item in value]
            if isinstance(value, list)
            else renamed.get(value, value)
            if isinstance(value, str)
            else value
            for key, value in asked.items()
        }
    try:
        found = functions.find(name).function(**how, **asked)
    except Malformed:
        return
    rows_of(found)
    assert min(found["rows"].to_pylist(), default=0) >= 0
