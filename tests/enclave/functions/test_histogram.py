"""Counts by bin and category, against numpy and pandas."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from tests.support.shared_tables import everywhere, rows_of

from mesatee.enclave.functions._parties import CATEGORIES
from mesatee.enclave.functions.histogram import BINS, histogram
from mesatee.errors import Malformed
from mesatee.table import Table


def table(**columns):
    return Table(pa.table(columns))


VALUE = st.none() | st.integers(-3, 12).map(float) | st.floats(-2, 11) | st.just(float("nan"))
EDGES = st.lists(st.integers(0, 10).map(float), min_size=2, max_size=8, unique=True).map(sorted)


@settings(deadline=None, max_examples=20)
@given(st.lists(VALUE, max_size=30), EDGES, st.integers(2, 8))
def test_bins_are_those_of_numpy(values, edges, parties):
    frame = pd.DataFrame({"x": pd.array(values, dtype="Float64").astype("float64"), "other": 1})
    present = frame["x"].dropna().to_numpy()
    counts, _ = np.histogram(present, edges)
    for arguments in everywhere(frame, parties):
        found = rows_of(histogram(column="x", edges=edges, **arguments))
        bins, (below, above, null) = found[:-3], found[-3:]
        assert [(row["low"], row["high"], row["rows"]) for row in bins] == list(
            zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
        )
        assert below == {
            "kind": "below",
            "low": None,
            "high": edges[0],
            "rows": int((present < edges[0]).sum()),
        }
        assert above == {
            "kind": "above",
            "low": edges[-1],
            "high": None,
            "rows": int((present > edges[-1]).sum()),
        }
        assert null["rows"] == int(frame["x"].isna().sum())
        assert sum(row["rows"] for row in found) == len(values)


def test_equal_bins_of_real_data():
    frame = datasets.load_diabetes(as_frame=True).frame
    counts, edges = np.histogram(frame["target"], 12, (25, 346))
    for arguments in everywhere(frame, 4):
        found = rows_of(histogram(column="target", bins=12, low=25, high=346, **arguments))
        assert [row["rows"] for row in found] == [*counts.tolist(), 0, 0, 0]
        assert [row["low"] for row in found[:12]] == pytest.approx(edges[:-1].tolist(), rel=1e-15)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.none() | st.sampled_from(["", "a", "é", "漢", "z"]), max_size=30), st.integers(2, 8))
def test_categories_are_counted(values, parties):
    frame = pd.DataFrame({"t": pd.array(values, dtype="string"), "other": 1})
    theirs = {name: int(count) for name, count in frame["t"].value_counts().items()}
    for arguments in everywhere(frame, parties):
        *found, null = rows_of(histogram(column="t", **arguments))
        assert [(row["value"], row["rows"]) for row in found] == sorted(
            theirs.items(), key=lambda p: p[0].encode()
        )
        assert null == {"kind": "null", "value": None, "rows": int(frame["t"].isna().sum())}
        named = rows_of(histogram(column="t", categories=["z", "new", "a"], **arguments))
        assert [row["rows"] for row in named[:3]] == [theirs.get("z", 0), 0, theirs.get("a", 0)]
        assert [row["kind"] for row in named[3:]] == ["other", "null"]
        assert sum(row["rows"] for row in named) == len(values)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([3, 1, 3], [(1, 1), (3, 2)]),
        ([True, False, True], [(False, 1), (True, 2)]),
        ([datetime.date(2021, 1, 1)], [(datetime.date(2021, 1, 1), 1)]),
    ],
)
def test_categories_keep_their_type(values, wanted):
    found = rows_of(histogram({"a": table(x=values)}, column="x"))
    assert [(row["value"], row["rows"]) for row in found[:-1]] == wanted


def test_categories_of_any_type_are_named_by_text():
    found = rows_of(
        histogram({"a": table(x=[1, 2]), "b": table(x=[2.5])}, column="x", categories=[2, 2.5, "7"])
    )
    assert [(row["value"], row["rows"]) for row in found] == [
        ("2", 1),
        ("2.5", 1),
        ("7", 0),
        (None, 1),
        (None, 0),
    ]


def test_rows_by_input():
    found = rows_of(histogram({"b": table(x=[1, 2]), "a": table(x=[1])}, column="input"))
    assert [(row["value"], row["rows"]) for row in found] == [("a", 1), ("b", 2), (None, 0)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name edges, or bins"),
        ({"edges": [1]}, "rising order"),
        ({"edges": [1, 1]}, "rising order"),
        ({"edges": [2, 1]}, "rising order"),
        ({"edges": [1, 2], "bins": 2}, "leave bins"),
        ({"bins": 2}, "given together"),
        ({"bins": 0, "low": 0, "high": 1}, "bins is from 1"),
        ({"bins": BINS + 1, "low": 0, "high": 1}, "bins is from 1"),
        ({"bins": 2, "low": 1, "high": 1}, "low is below high"),
        ({"bins": 9, "low": 1, "high": 1 + 1e-15}, "low is below high"),
        ({"bins": 2, "low": -1e308, "high": 1e308}, "low is below high"),
        ({"edges": [1, 2], "categories": ["a"]}, "exclude each other"),
        ({"categories": []}, "1 to"),
        ({"categories": ["a"] * (CATEGORIES + 1)}, "1 to"),
        ({"categories": [1, "1"]}, "one twice"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        histogram({"a": table(x=[1.5])}, column="x", **arguments)


def test_most_bins():
    found = histogram({"a": table(x=[1.5])}, column="x", bins=BINS, low=0, high=2)
    assert found.num_rows == BINS + 3
