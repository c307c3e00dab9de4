"""Least squares and ridge regression, against statsmodels and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.linear_model import Ridge
from tests.support.learners import agree, column, one, the_same_everywhere

from mesatee.enclave.functions.linear_regression import linear_regression
from mesatee.errors import Malformed
from mesatee.protocol import learned


def made(seed: int, rows: int = 40) -> pd.DataFrame:
    """Numbers with ties, a column of text, missing values and weights."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.integers(-3, 4, rows).astype(float),
            "z": random.normal(size=rows) * 10.0 ** random.integers(-3, 4),
            "c": random.choice(["b", "é", "a b"], rows),
            "w": random.uniform(0.1, 3, rows),
        }
    )
    frame["y"] = 3 + frame.x - frame.z / frame.z.std() + (frame.c == "é") * 2 + random.normal(size=rows)
    frame.loc[random.integers(0, rows, 3), "x"] = np.nan
    frame.loc[random.integers(0, rows, 2), "c"] = None
    return frame


def encoded(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    full = frame.dropna()
    matrix = np.column_stack([np.ones(len(full)), full.x, full.z, full.c == "b", full.c == "é"]).astype(float)
    return matrix, full.y.to_numpy(), full.w.to_numpy()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.booleans())
def test_it_is_what_statsmodels_says(seed, parties, weighted, intercept):
    frame = made(seed)
    matrix, y, w = encoded(frame)
    if not intercept:
        matrix = matrix[:, 1:]
    found = the_same_everywhere(
        linear_regression,
        frame,
        parties,
        seed,
        target="y",
        columns=["x", "z", "c"],
        weights="w" if weighted else None,
        intercept=intercept,
        confidence=0.9,
    )
    if not weighted:
        w = np.ones(len(y))
    theirs = sm.WLS(y, matrix, weights=w, hasconst=intercept).fit()
    table = found.coefficients
    assert table["term"].to_pylist() == ["(intercept)"] * intercept + ["x", "z", "c", "c"]
    assert table["level"].to_pylist()[-2:] == ["b", "é"]
    assert table["reference"].to_pylist()[-2:] == ["a b", "a b"]
    assert table["rows"].to_pylist()[-2:] == [int(value) for value in matrix[:, -2:].sum(axis=0)]
    for name, expected in (
        ("estimate", theirs.params),
        ("standard_error", theirs.bse),
        ("statistic", theirs.tvalues),
        ("p_value", theirs.pvalues),
        ("low", theirs.conf_int(0.1)[:, 0]),
        ("high", theirs.conf_int(0.1)[:, 1]),
    ):
        assert agree(column(table, name), expected)
    assert agree(np.exp(column(table, "log_p_value")), theirs.pvalues)
    (fit,) = found.fit.to_arrow().to_pylist()
    assert (fit["rows"], fit["degrees"]) == (len(y), theirs.df_resid)
    for name, expected in (
        ("standard_deviation", math.sqrt(theirs.scale)),
        ("r_squared", theirs.rsquared),
        ("adjusted_r_squared", theirs.rsquared_adj),
        ("f_statistic", theirs.fvalue),
        ("f_p_value", theirs.f_pvalue),
        ("log_likelihood", theirs.llf),
        ("aic", theirs.aic),
    ):
        assert agree(fit[name], expected), name


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 100.0]), st.booleans())
def test_ridge_is_that_of_scikit_learn(seed, penalty, scale):
    frame = made(seed).dropna()
    matrix, y, w = encoded(frame)
    found = linear_regression(
        one(frame), target="y", columns=["x", "z", "c"], penalty=penalty, scale=scale, weights="w"
    )
    raw = matrix[:, 1:]
    by = raw.std(axis=0) if scale else np.ones(raw.shape[1])
    theirs = Ridge(alpha=penalty, solver="cholesky").fit(raw / by, y, sample_weight=w)
    ours = column(found.coefficients, "estimate")
    assert agree(ours[1:], theirs.coef_ / by, 1e-7)
    assert agree(ours[0], theirs.intercept_, 1e-7)
    # Errors by the formula itself: the estimates are a matrix times the target.
    pull = np.diag(np.concatenate([[0], np.full(raw.shape[1], penalty) * by**2]))
    hat = np.linalg.solve(matrix.T @ (matrix * w[:, None]) + pull, (matrix * w[:, None]).T)
    left = y - matrix @ ours
    degrees = len(y) - np.trace(matrix @ hat)
    spread = (w * left**2).sum() / degrees
    errors = np.sqrt(np.diag(hat @ np.diag(1 / w) @ hat.T) * spread)
    assert agree(column(found.coefficients, "standard_error"), errors, 1e-6)
    assert agree(found.fit["degrees"].to_pylist()[0], degrees, 1e-8)


@pytest.mark.parametrize("parties", [2, 8])
def test_real_data(parties):
    frame = datasets.load_diabetes(as_frame=True).frame
    names = [name for name in frame if name != "target"]
    found = the_same_everywhere(linear_regression, frame, parties, target="target", columns=names)
    theirs = sm.OLS(frame.target, sm.add_constant(frame[names])).fit()
    assert agree(column(found.coefficients, "estimate"), theirs.params, 1e-10)
    assert agree(column(found.coefficients, "p_value"), theirs.pvalues, 1e-9)
    document = learned.read(found.model)
    assert isinstance(document, learned.Linear)
    assert [document.intercept, *document.coefficients] == found.coefficients["estimate"].to_pylist()
    assert (document.family, document.link, document.classes, document.offset) == (
        "gaussian",
        "identity",
        None,
        None,
    )


def test_longley_whose_columns_nearly_follow_from_each_other():
    """The classic test of least squares, to the digits that its authors computed by hand (NIST StRD)."""
    data = sm.datasets.longley.load_pandas().data
    found = linear_regression(one(data), target="TOTEMP")
    certified = [
        -3482258.63459582,
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
    ]
    assert agree(column(found.coefficients, "estimate"), certified, 1e-9)
    assert agree(found.fit["standard_deviation"].to_pylist(), [304.854073561965], 1e-9)


def test_a_large_mean_costs_no_digits():
    x = np.arange(20.0)
    frame = pd.DataFrame({"x": x + 1e9, "y": 2 * x + np.sin(x)})
    plain = pd.DataFrame({"x": x, "y": frame.y})
    far, near = (linear_regression(one(item), target="y").coefficients for item in (frame, plain))
    assert agree(column(far, "standard_error")[1], column(near, "standard_error")[1], 1e-10)


def test_a_perfect_fit_has_no_tests(capsys):
    x = np.arange(6.0)
    found = linear_regression(one(pd.DataFrame({"x": x, "y": 2 * x + 1})), target="y")
    assert agree(column(found.coefficients, "estimate"), [1, 2])
    assert found.coefficients["p_value"].to_pylist() == [None, None]
    (fit,) = found.fit.to_arrow().to_pylist()
    assert (fit["r_squared"], fit["f_statistic"], fit["log_likelihood"]) == (1.0, None, None)
    assert "perfect but for rounding" in capsys.readouterr().err


def test_a_mean_alone_and_a_reference_of_one_s_own():
    frame = pd.DataFrame({"y": [1.0, 2.0, 6.0, 7.0], "c": ["u", "v", "u", "v"], "k": [1, 2, 2, 1]})
    found = linear_regression(one(frame[["y"]]), target="y")
    assert found.coefficients["estimate"].to_pylist() == [4.0]
    assert found.fit["r_squared"].to_pylist() == [0.0]
    found = linear_regression(
        one(frame), target="y", columns=["c", "k"], categorical="k", reference={"c": "v", "k": 2}
    )
    assert found.coefficients["level"].to_pylist() == [None, "u", "1"]
    assert found.coefficients["reference"].to_pylist() == [None, "v", "2"]


def test_what_is_left_out_is_said(capsys):
    frame = pd.DataFrame(
        {"x": [1, 2, None, 4, 5, 7], "y": [1, 3, 2, 5, None, 6], "t": list("uvwuvw"), "w": [1, 1, 1, 1, 1, 0]}
    )
    linear_regression(one(frame), target="y", weights="w")
    said = capsys.readouterr().err
    assert "4 rows used, 2 left out because of nulls" in said
    assert "1 rows left out because their weight is 0" in said
    assert "1 columns that are no numbers are not used" in said


X = [1.0, 2.0, 3.0, 5.0, 6.0]
Y = [1.0, 3.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("frame", "arguments", "said"),
    [
        ({"x": X}, {}, "no column 'y'"),
        ({"x": X, "y": Y}, {"columns": ["y"]}, "used twice"),
        ({"x": X, "y": Y}, {"weights": "y"}, "different columns"),
        ({"x": X, "y": list("abcde")}, {}, "'y' of only is .*string, not numbers"),
        ({"x": X, "y": Y, "k": [2.0] * 5}, {}, "'k' is constant"),
        ({"x": X, "y": Y, "c": ["u"] * 5}, {"columns": ["c"]}, "'c' has the same level"),
        ({"x": X, "y": Y, "x2": [2 * x + 1 for x in X]}, {}, "'x2' follows from others"),
        ({"x": X[:2], "y": Y[:2]}, {}, "2 rows .* too few for 2 coefficients"),
        ({"x": [None] * 5, "y": Y}, {}, "0 rows .* too few"),
        ({"x": X, "y": Y}, {"penalty": -1.0}, "penalty is 0 or more"),
        ({"x": X, "y": Y}, {"confidence": 1.0}, "confidence lies between"),
        ({"x": X, "y": Y, "w": [-1, 1, 1, 1, 1]}, {"weights": "w"}, "weight is below 0"),
        ({"x": [1e200, 1, 2, 3, 4], "y": Y}, {}, "scale the columns"),
        ({"x": [math.inf, 1, 2, 3, 4], "y": Y}, {}, "infinite"),
        ({"x": X, "y": Y}, {"reference": {"x": 1}}, "column of numbers"),
        ({"x": X, "y": Y}, {"reference": {"z": 1}}, "reference names 'z'"),
        ({"x": X, "y": Y}, {"categorical": "x", "reference": {"x": 9}}, "a level that no row has"),
        ({"x": X, "y": Y, "z": Y}, {"columns": "x", "categorical": "z"}, "no column of this model"),
        ({"y": Y}, {"intercept": False}, "needs a column"),
        ({"x": [0.0] * 5, "y": Y}, {"intercept": False}, "0 everywhere"),
    ],
)
def test_what_is_refused(frame, arguments, said):
    with pytest.raises(Malformed, match=said):
        linear_regression(one(pd.DataFrame(frame)), target="y", **arguments)


def test_collinear_columns_are_no_trouble_with_a_penalty():
    frame = pd.DataFrame({"x": X, "y": Y, "x2": [2 * x for x in X]})
    found = linear_regression(one(frame), target="y", penalty=1.0)
    theirs = Ridge(alpha=1.0).fit(frame[["x", "x2"]], frame.y)
    assert agree(column(found.coefficients, "estimate")[1:], theirs.coef_)
