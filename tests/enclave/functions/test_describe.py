"""Columns in a few numbers, against pandas."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.describe import QUANTILES, describe
from mesatee.errors import Malformed
from mesatee.table import Table

NUMBER = st.none() | st.floats(-1e6, 1e6) | st.integers(-5, 5).map(float) | st.just(float("nan"))
TEXT = st.none() | st.sampled_from(["", "a", "A", "é", "漢字", "\U0001f600", "a\u0301"])


def table(**columns):
    return Table(pa.table(columns))


def agrees(row, series):
    theirs = series.describe()
    return (
        row["rows"] == series.count()
        and row["nulls"] == series.isna().sum()
        and all(close(row[ours], theirs.get(name, None)) for ours, name in (("mean", "mean"), ("std", "std")))
        and all(
            row[ours] == (theirs[name] if len(series.dropna()) else None)
            for ours, name in (("min", "min"), ("max", "max"))
        )
        and all(close(row[f"q{q}"], series.quantile(q)) for q in (0.25, 0.5, 0.75))
    )


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(NUMBER, NUMBER, TEXT), max_size=25), st.integers(2, 8), st.integers(0, 9))
def test_it_is_what_pandas_says(rows, parties, seed):
    frame = pd.DataFrame(rows, columns=["x", "y", "t"]).astype({"x": float, "y": float, "t": "string"})
    results = []
    for arguments in everywhere(frame, parties, seed):
        found = describe(columns=["x", "y", "t"], **arguments)
        results.append(found)
        x, y, text = rows_of(found)
        assert agrees(x, frame["x"])
        assert agrees(y, frame["y"])
        assert (text["rows"], text["distinct"]) == (frame["t"].count(), frame["t"].nunique())
        assert text["mean"] is None
    assert results[0] == results[1] == results[2]


def test_real_data():
    frame = datasets.load_breast_cancer(as_frame=True).frame
    for arguments in everywhere(frame, 3):
        for row in rows_of(describe(columns=list(frame.columns), **arguments)):
            assert agrees(row, frame[row["column"]]), row["column"]


def test_types_of_columns(capsys):
    found = describe(
        {
            "a": table(
                truth=[True, None, True],
                day=[datetime.date(2020, 1, 1)] * 2 + [datetime.date(2020, 1, 2)],
                parts=[[1], [], None],
                nothing=pa.nulls(3),
                whole=[1, 2, 4],
                text=pa.array(["x", "x", "y"]).dictionary_encode(),
            )
        }
    )
    rows = {row["column"]: row for row in rows_of(found)}
    assert {name: (row["type"], row["rows"], row["distinct"]) for name, row in rows.items()} == {
        "truth": ("truth", 2, 1),
        "day": ("time", 3, 2),
        "parts": ("other", 2, None),
        "nothing": ("number", 0, None),
        "whole": ("number", 3, None),
        "text": ("text", 3, 2),
    }
    assert (rows["truth"]["mean"], rows["whole"]["q0.5"], rows["day"]["mean"]) == (1.0, 2.0, None)
    assert "'parts' is list" in capsys.readouterr().err


def test_what_is_undefined_is_null_and_said(capsys):
    one = rows_of(describe({"a": table(x=[3.0], y=pa.array([None], pa.float64()))}))
    assert [(row["mean"], row["std"]) for row in one] == [(3.0, None), (None, None)]
    said = capsys.readouterr().err
    assert "std of 'x' null: it takes two values" in said
    assert "mean, std of 'y' null: there is no value" in said
    (large,) = rows_of(describe({"a": table(x=[1e308, -1e308])}, quantiles=[0.5]))
    assert (large["mean"], large["std"], large["q0.5"]) == (0.0, None, None)
    assert "std, q0.5 of 'x' null: values are too large" in capsys.readouterr().err
    constant = rows_of(describe({"a": table(x=[0.1] * 3)}))[0]
    assert (constant["mean"], constant["std"]) == (0.1, 0.0)


def test_without_extremes():
    found = describe({"a": table(x=[1, 2, 3])}, extremes=False, quantiles=[0.1])
    assert found.columns == ["column", "type", "rows", "nulls", "distinct", "mean", "std", "q0.1"]
    with pytest.raises(Malformed, match="are extremes"):
        describe({"a": table(x=[1])}, extremes=False, quantiles=[0, 0.5])


def test_what_is_refused():
    one = {"a": table(x=[1])}
    for wrong in ([1.5], [-0.1]):
        with pytest.raises(Malformed, match="between 0 and 1"):
            describe(one, quantiles=wrong)
    with pytest.raises(Malformed, match="different ones"):
        describe(one, quantiles=[0.5, 0.5])
    assert len(describe(one, quantiles=[n / 200 for n in range(QUANTILES)]).columns) == 9 + QUANTILES
    with pytest.raises(Malformed, match="at most"):
        describe(one, quantiles=[n / 200 for n in range(QUANTILES + 1)])
    with pytest.raises(Malformed, match="number, text: they need one type"):
        describe({"a": table(x=[1]), "b": table(x=["1"])})
    with pytest.raises(Malformed, match="infinite"):
        describe({"a": table(x=[np.inf])})


def test_parts_of_truth_values_and_numbers_are_numbers():
    (row,) = rows_of(describe({"a": table(x=[True]), "b": table(x=[3])}))
    assert (row["type"], row["mean"]) == ("number", 2.0)
