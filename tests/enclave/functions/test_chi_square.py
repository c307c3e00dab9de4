"""Chi-square tests, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_gbsg2, load_rossi
from scipy import stats
from scipy.stats.contingency import association
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.chi_square import chi_square
from mesatee.errors import Malformed
from mesatee.table import Table

UNDEFINED = dict.fromkeys(["statistic", "degrees", "p_value", "log_p_value", "smallest_expected", "effect"])


def table(**columns):
    return Table(pa.table(columns))


def agrees(row, counts, yates):
    theirs = stats.chi2_contingency(counts, correction=yates)
    return (
        row["rows"] == counts.sum()
        and row["degrees"] == theirs.dof
        and close(row["statistic"], theirs.statistic)
        and close(row["p_value"], theirs.pvalue)
        and close(row["log_p_value"], math.log(theirs.pvalue) if theirs.pvalue else math.nan)
        and close(row["smallest_expected"], theirs.expected_freq.min())
        and close(row["effect"], association(counts, "cramer"), 1e-9, 1e-7)
    )


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.none() | st.sampled_from("abé"), st.none() | st.integers(0, 3)), max_size=40),
    st.integers(2, 8),
    st.booleans(),
)
def test_independence_is_what_scipy_says(rows, parties, yates):
    frame = pd.DataFrame(rows, columns=["t", "n"]).astype({"t": "string", "n": "Int64"})
    counts = pd.crosstab(frame["t"], frame["n"]).to_numpy()
    for arguments in everywhere(frame, parties):
        (row,) = rows_of(chi_square(row="t", column="n", yates=yates, **arguments))
        if min(counts.shape) < 2:
            assert row == {"rows": int(counts.sum()), **UNDEFINED}
        else:
            assert agrees(row, counts, yates)


@pytest.mark.parametrize("yates", [True, False])
def test_real_data(yates):
    frame = load_gbsg2()
    for column in ("menostat", "tgrade", "cens"):
        counts = pd.crosstab(frame["horTh"], frame[column]).to_numpy()
        for arguments in everywhere(frame[["horTh", column]], 2):
            (row,) = rows_of(chi_square(row="horTh", column=column, yates=yates, **arguments))
            assert agrees(row, counts, yates)


@pytest.mark.parametrize("shares", [{}, {"0": 1.0, "1": 3.0}, {"0": 0.9, "1": 0.05, "2": 0.05}])
def test_goodness_of_fit_is_what_scipy_says(shares):
    values = load_rossi()[["fin", "mar"]]
    observed = [int((values["mar"] == number).sum()) for number in range(max(2, len(shares)))]
    given_ = np.array(list(shares.values()) or [1.0, 1.0])
    expected = given_ / given_.sum() * len(values)
    theirs = stats.chisquare(observed, expected)
    for arguments in everywhere(values, 3):
        (row,) = rows_of(chi_square(row="mar", expected=shares, **arguments))
        assert (row["rows"], row["degrees"]) == (len(values), len(observed) - 1)
        assert close(row["statistic"], theirs.statistic)
        assert close(row["p_value"], theirs.pvalue, 1e-9, 0)
        assert close(row["smallest_expected"], expected.min())
        assert close(row["effect"], math.sqrt(theirs.statistic / len(values)))


def test_a_p_value_too_small_for_a_number_has_its_logarithm():
    both = ["a"] * 2000 + ["b"] * 2000
    (row,) = rows_of(chi_square({"a": table(x=both, y=both)}, row="x", column="y", yates=False))
    assert (row["statistic"], row["p_value"], row["effect"]) == (4000.0, 0.0, 1.0)
    assert row["log_p_value"] == pytest.approx(math.log(2) + stats.norm.logcdf(-math.sqrt(4000)), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"row": "one", "column": "y"}, "fewer than two values"),
        ({"row": "y", "column": "none"}, "fewer than two values"),
        ({"row": "y", "expected": {"1": 1.0, "3": 1.0}}, "does not name"),
        ({"row": "one"}, "fewer than two values"),
        ({"row": "none", "expected": {"a": 1.0, "b": 1.0}}, "no values"),
    ],
)
def test_what_is_undefined_is_null_and_said(arguments, said, capsys):
    given_ = {"a": table(one=["u"] * 3, y=[1, 2, 2], none=pa.nulls(3, pa.string()))}
    (row,) = rows_of(chi_square(given_, **arguments))
    assert {name: row[name] for name in UNDEFINED} == UNDEFINED
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"row": "x", "column": "x"}, "different columns"),
        ({"row": "x", "column": "y", "expected": {"u": 1.0}}, "is for one column"),
        ({"row": "x", "expected": {"u": 0.0, "v": 1.0}}, "above 0"),
        ({"row": "no"}, "no column"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        chi_square({"a": table(x=["u", "v"], y=[1, 2])}, **arguments)
