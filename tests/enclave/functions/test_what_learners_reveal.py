"""What all learners have in common: no key or other column in what comes out, no order of rows, and their words."""

from __future__ import annotations

import importlib
import inspect
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.enclave.functions.test_what_statistics_reveal import ODD

from mesatee.enclave import functions
from mesatee.errors import Malformed
from mesatee.protocol import protection
from mesatee.table import Table

CASES: dict[str, dict[str, Any]] = {
    "linear_regression": {"target": "y", "columns": ["x", "arm"]},
    "logistic_regression": {"target": "hit", "columns": ["x"], "penalty": 1.0},
    "glm": {"target": "y", "family": "gamma", "link": "log", "columns": ["x"]},
    "k_means": {"columns": ["x", "y"], "clusters": 2},
    "naive_bayes": {"target": "arm", "columns": ["x", "y"]},
    "svm": {"target": "arm", "columns": ["x", "y"]},
    "gaussian_mixture": {"columns": ["x", "y"], "components": 1},
    "pca_model": {"columns": ["x", "y"]},
    "dbscan": {"columns": ["x", "y"], "distance": 2.0, "neighbours": 2, "keep": "tag"},
}
CANARY = "canary"
NUMBERS = [70_001.25, 70_002.25, 70_003.25, 70_004.25, 70_005.25, 70_006.25, 70_007.25, 70_008.25]


def people(**columns: Any) -> Table:
    rows = range(len(NUMBERS))
    return Table(
        pa.table(
            {
                "id": [f"{CANARY}-{number}" for number in rows],
                "secret": [f"{CANARY}!{number}" for number in rows],
                "other": NUMBERS,
                **columns,
            }
        )
    )


LEFT: dict[str, Any] = {"x": [1.0, 2.0, 4.0, 4.5, 5.0, 7.0, 2.5, 3.0], "arm": list("uuuvvvuv")}
RIGHT: dict[str, Any] = {
    "y": [2.0, 1.5, 4.0, 9.0, 3.0, 6.0, 1.0, 8.0],
    "hit": [0, 1, 1, 0, 1, 0, 1, 0],
    "tag": list("abcdefgh"),
}


@pytest.fixture(params=["rows", "columns"])
def given_(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "rows":
        half = people(**LEFT, **RIGHT)
        return {"inputs": {"a": half, "b": half}}
    return {"inputs": {"a": people(**LEFT), "b": people(**RIGHT)}, "how": "columns", "key": "id"}


def outputs(found: Any) -> dict[str, Any]:
    return {"result": found} if isinstance(found, Table) else found._asdict()


def test_these_are_all() -> None:
    having = {
        name
        for name in functions.names()
        if "_design import" in inspect.getsource(importlib.import_module(f"mesatee.enclave.functions.{name}"))
    }
    assert having == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_nothing_of_keys_and_other_columns_comes_out(name: str, given_: dict[str, Any], capsys: Any) -> None:
    text = io.BytesIO()
    for value in outputs(functions.find(name).function(**given_, **CASES[name])).values():
        if isinstance(value, Table):
            # Labels by density are for each row, and name it.
            value = Table(value.to_arrow().drop_columns([c for c in value.columns if c == "id"]))
            assert value.num_rows > 0
            value.write(text, "csv")
        else:
            text.write(value)
    said = text.getvalue().decode() + "".join(capsys.readouterr())
    for secret in (CANARY, *map(str, NUMBERS), *(str(int(number)) for number in NUMBERS)):
        assert secret not in said


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_rows_and_inputs_does_not_show(name: str, given_: dict[str, Any]) -> None:
    run = functions.find(name).function
    turned = {
        party: Table(table.to_arrow().take(pa.array([3, 1, 5, 0, 7, 4, 2, 6])))
        for party, table in reversed(given_["inputs"].items())
    }
    assert run(**given_, **CASES[name]) == run(**{**given_, "inputs": turned}, **CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_tables_say_how_many_rows_there_are(name: str, given_: dict[str, Any]) -> None:
    if name == "dbscan":
        return
    for output, value in outputs(functions.find(name).function(**given_, **CASES[name])).items():
        if output != "model":
            assert value["rows"].type == pa.int64()
            assert value["rows"].null_count == 0


def test_the_words_about_inputs_are_those_of_the_statistics() -> None:
    def about(name: str) -> str:
        text = functions.find(name).reveals
        return text[text.index("`how` is") :].split("\n\n")[0]

    assert {about(name) for name in CASES} == {about("describe")}


def test_no_learner_counts_as_one_that_lets_only_groups_out() -> None:
    """A coefficient is no group of rows, and a model is no table: data with a least group never gets to them."""
    assert not protection.GROUPED & {*CASES, "predict"}
    for name in CASES:
        kinds = {port.name: port.kind for port in functions.find(name).signature.outputs}
        assert kinds.pop("model", "bytes") == "bytes"
        assert set(kinds.values()) == {"table"}


@pytest.mark.parametrize("name", CASES)
def test_errors_hold_no_values(name: str) -> None:
    """Text where numbers are asked for, and a class or level that stands alone."""
    rows = len(NUMBERS)
    columns: dict[str, Any] = {
        "x": [f"{CANARY}{n}" for n in range(rows)],
        "arm": [CANARY] * rows,
        "y": NUMBERS,
        "hit": [CANARY] * rows,
        "tag": range(rows),
    }
    if name in ("linear_regression", "glm", "svm"):
        columns["y"] = [float("inf"), *NUMBERS[1:]]
    with pytest.raises(Malformed) as caught:
        functions.find(name).function({"a": people(**columns)}, **CASES[name])
    said = caught.value.message + (caught.value.hint or "")
    assert CANARY not in said
    assert "7000" not in said


NAMES = ("x", "y", "arm", "hit", "tag")


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=25)
@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, ODD)),
    st.none() | st.fixed_dictionaries(dict.fromkeys(NAMES, ODD)),
    st.integers(0, 4),
)
def test_whatever_the_columns_are_only_our_errors_are_raised(
    name: str, first: dict[str, Any], second: dict[str, Any] | None, rows: int
) -> None:
    a = Table(pa.table(first).slice(0, rows))
    b = Table(pa.table(second or first))
    try:
        found = functions.find(name).function({"a": a, "b": b}, **CASES[name])
    except Malformed:
        return
    for value in outputs(found).values():
        if name == "dbscan":
            # What is kept is kept as it is.
            value = Table(value.to_arrow().drop_columns("tag"))
        listed = numbers(value.to_dict() if isinstance(value, Table) else json.loads(value))
        assert np.isfinite(listed).all()
