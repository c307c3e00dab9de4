"""Correlations, against scipy and pandas."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import datasets
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.correlation import EXACT_ROWS, METHODS, correlation
from mesatee.errors import Malformed
from mesatee.table import Table

THEIRS = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
NUMBER = st.none() | st.integers(-4, 4).map(float) | st.integers(-(10**6), 10**6).map(lambda n: n / 128)


def table(**columns):
    return Table(pa.table(columns))


def agrees(row, frame, method, p_absolute=1e-12):
    both = frame[[row["x"], row["y"]]].dropna().to_numpy()
    if row["rows"] != len(both):
        return False
    if len(both) < 2 or any(len(set(column)) < 2 for column in both.T):
        return (row["correlation"], row["p_value"], row["log_p_value"]) == (None, None, None)
    theirs = THEIRS[method](*both.T)
    # Of two rows scipy says that p is 1 for some methods; there is no distribution to go by.
    p_value = math.nan if len(both) < 3 and method != "kendall" else theirs[1]
    return close(row["correlation"], theirs[0]) and close(row["p_value"], p_value, 1e-7, p_absolute)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=40), st.integers(2, 8), st.integers(0, 9))
def test_it_is_what_scipy_says(method, rows, parties, seed):
    frame = pd.DataFrame(rows, columns=["x", "y", "z"]).astype(float)
    results = []
    for arguments in everywhere(frame, parties, seed):
        found = correlation(columns=["x", "y", "z"], method=method, **arguments)
        results.append(found)
        assert [(row["x"], row["y"]) for row in rows_of(found)] == list(combinations("xyz", 2))
        assert all(agrees(row, frame, method, 1e-9) for row in rows_of(found))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("method", METHODS)
def test_real_data(method):
    frame = datasets.load_diabetes(as_frame=True).frame
    for arguments in everywhere(frame, 5):
        found = rows_of(correlation(columns=list(frame.columns), method=method, **arguments))
        assert len(found) == 55
        assert all(agrees(row, frame, method) for row in found)
    theirs = frame.corr(method)
    assert all(close(row["correlation"], theirs.loc[row["x"], row["y"]]) for row in found)


@pytest.mark.parametrize("rows", [EXACT_ROWS, EXACT_ROWS + 1])
@pytest.mark.parametrize("swaps", [0, 1, 2, 40])
def test_exact_and_normal_p_values_of_kendall(rows, swaps):
    random = np.random.default_rng(swaps)
    y = np.arange(rows)
    for _ in range(swaps):
        place = random.integers(0, rows - 1)
        y[[place, place + 1]] = y[[place + 1, place]]
    for values in (y, -y):
        (row,) = rows_of(correlation({"a": table(x=np.arange(rows), y=values)}, method="kendall"))
        theirs = stats.kendalltau(np.arange(rows), values)
        assert close(row["correlation"], theirs.statistic)
        assert math.isclose(row["p_value"], theirs.pvalue, rel_tol=1e-9)
        assert close(row["log_p_value"], math.log(row["p_value"]))


def test_near_a_line_no_digits_are_lost():
    x = np.arange(2000.0)
    y = x + np.where(np.arange(2000) % 2, 1e-4, -1e-4)
    (row,) = rows_of(correlation({"a": table(x=x, y=y)}))
    assert row["p_value"] == 0.0
    # r = 1 - rest / 2 with the rest from exact sums: distances to the line over the spread of x.
    rest = 2000 * 1e-8 / ((2000**3 - 2000) / 12)
    statistic = math.sqrt(1998 / rest)
    log_p = math.log(2) + 1998 / 2 * math.log(1998) - 1998 * math.log(statistic)
    log_p -= math.log(1998) + math.lgamma(999) + math.lgamma(0.5) - math.lgamma(999.5) - math.log(2)
    assert row["log_p_value"] == pytest.approx(log_p, rel=1e-4)


def test_points_on_a_line():
    x = np.array([0.1, 0.2, 0.4, 0.7])
    (row,) = rows_of(correlation({"a": table(x=x, y=0.3 - x / 3)}))
    assert (row["correlation"], row["p_value"], row["log_p_value"]) == (-1.0, 0.0, None)
    (row,) = rows_of(correlation({"a": table(x=[1, 2, 4], y=[-2, -4, -8])}))
    assert (row["correlation"], row["p_value"], row["log_p_value"]) == (-1.0, 0.0, None)


def test_large_and_small_numbers(capsys):
    (row,) = rows_of(
        correlation({"a": table(x=[1e200, 3e200, 2e200, 5e200], y=[1e-200, 2e-200, 3e-200, 4e-200])})
    )
    assert close(row["correlation"], stats.pearsonr([1, 3, 2, 5], [1, 2, 3, 4])[0])
    (row,) = rows_of(correlation({"a": table(x=[1e308, 1e308, 1.5e308], y=[1, 2, 3])}))
    assert row["correlation"] is None
    assert "too large" in capsys.readouterr().err


def test_without_names_columns_of_numbers_are_taken():
    found = correlation({"a": table(t=["u", "v"], x=[1, 2], f=[True, False], y=[2.0, 3.0])})
    assert [(row["x"], row["y"]) for row in rows_of(found)] == [("x", "f"), ("x", "y"), ("f", "y")]


def test_many_rows_of_few_values():
    random = np.random.default_rng(1)
    x, y = random.integers(0, 5, 3000), random.integers(0, 700, 3000)
    (row,) = rows_of(correlation({"a": table(x=x, y=y)}, method="kendall"))
    theirs = stats.kendalltau(x, y)
    assert close(row["correlation"], theirs.statistic)
    assert close(row["p_value"], theirs.pvalue)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "cosine"}, "method is one of"),
        ({"columns": ["x"]}, "takes 2 to"),
        ({"columns": ["x", "no"]}, "no column 'no'"),
        ({"columns": ["x", "t"]}, "not numbers"),
        ({}, "takes 2 to"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        correlation({"a": table(x=[1], t=["u"])}, **arguments)
