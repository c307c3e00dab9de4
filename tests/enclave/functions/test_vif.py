"""Variance inflation factors, against statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from statsmodels.stats.outliers_influence import variance_inflation_factor
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.vif import vif
from mesatee.errors import Malformed
from mesatee.table import Table

VALUE = st.none() | st.integers(-50, 50).map(lambda n: n / 4)


def table(**columns):
    return Table(pa.table(columns))


def theirs_of(frame):
    whole = sm.add_constant(frame.dropna().to_numpy(), has_constant="add")
    return [variance_inflation_factor(whole, place + 1) for place in range(frame.shape[1])]


@pytest.mark.parametrize(
    "load", [datasets.load_diabetes, datasets.load_iris, datasets.load_wine, sm.datasets.randhie.load_pandas]
)
def test_real_data(load):
    frame = load(as_frame=True).frame if load.__module__.startswith("sklearn") else load().data[:3000]
    frame = frame.astype(float)
    theirs = theirs_of(frame)
    for arguments in everywhere(frame, 4):
        found = {row["column"]: row for row in rows_of(vif(columns=list(frame.columns), **arguments))}
        for name, factor in zip(frame.columns, theirs, strict=True):
            assert found[name]["rows"] == len(frame)
            assert close(found[name]["vif"], factor, 1e-9)
            assert close(found[name]["tolerance"], 1 / factor, 1e-9)
            assert close(found[name]["r_squared"], 1 - 1 / factor, 1e-9)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(VALUE, VALUE, VALUE), max_size=30), st.integers(2, 8), st.integers(0, 9))
def test_it_is_what_statsmodels_says(rows, parties, seed):
    frame = pd.DataFrame(rows, columns=["x", "y", "z"]).astype(float)
    complete = frame.dropna()
    results = []
    for arguments in everywhere(frame, parties, seed):
        results.append(vif(columns=["x", "y", "z"], **arguments))
    assert results[0] == results[1] == results[2]
    found = rows_of(results[0])
    assert {row["rows"] for row in found} == {len(complete)}
    varied = [name for name in frame if complete[name].nunique() > 1]
    assert all(row["tolerance"] is None for row in found if row["column"] not in varied)
    away = (complete[varied] - complete[varied].mean()).to_numpy()
    if len(varied) == 3 and len(complete) > 3 and np.linalg.cond(away) < 1e4:
        for row, factor in zip(found, theirs_of(frame), strict=True):
            assert close(row["vif"], factor, 1e-7)


def test_columns_that_follow_from_others(capsys):
    random = np.random.default_rng(0)
    a, b, c = random.normal(size=(3, 200))
    frame = pd.DataFrame(
        {"a": a, "sum": a + 2 * b, "b": b, "c": c, "d": c + random.normal(size=200), "k": 0.1}
    )
    found = {row["column"]: row for row in rows_of(vif({"all": Table.from_pandas(frame)}))}
    assert {name: row["tolerance"] for name, row in found.items() if name in ("a", "sum", "b")} == {
        "a": 0.0,
        "sum": 0.0,
        "b": 0.0,
    }
    assert all(found[name]["vif"] is None for name in ("a", "b", "sum", "k"))
    assert (found["k"]["tolerance"], found["a"]["r_squared"]) == (None, 1.0)
    factors = theirs_of(frame[["a", "b", "c", "d"]])
    assert close(found["c"]["vif"], factors[2])
    assert close(found["d"]["vif"], factors[3])
    said = capsys.readouterr().err
    assert "'k' is null: it is constant" in said
    assert "'sum' is null: it follows from other columns" in said


def test_nearly_the_same():
    random = np.random.default_rng(0)
    x = random.normal(size=500)
    frame = pd.DataFrame({"x": x, "y": x + 1e-3 * random.normal(size=500)})
    row, _ = rows_of(vif({"a": Table.from_pandas(frame)}))
    assert close(row["vif"], theirs_of(frame)[0], 1e-8)


def test_few_rows_tell_nothing():
    for rows in range(4):
        found = rows_of(
            vif({"a": table(x=[1.0, 2.0, 5.0][:rows], y=[3.0, 1.0, 2.0][:rows], z=[0.0, 7.0, 1.0][:rows])})
        )
        assert all(row["vif"] is None for row in found), rows
    assert [row["vif"] for row in rows_of(vif({"a": table(x=[1.5e308, 1.5e308, 1e308], y=[1, 2, 4])}))] == [
        None,
        1.0,
    ]


def test_what_is_refused():
    with pytest.raises(Malformed, match="takes 2 to"):
        vif({"a": table(x=[1])})
    with pytest.raises(Malformed, match="infinite"):
        vif({"a": table(x=[1, np.inf], y=[1, 2])})
