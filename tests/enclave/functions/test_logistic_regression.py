"""Logistic regression, against statsmodels and scikit-learn."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from tests.support.learners import agree, column, one, the_same_everywhere
from tests.support.shared_tables import by_columns

from mesatee.enclave.functions.logistic_regression import logistic_regression
from mesatee.errors import Malformed
from mesatee.protocol import learned


def made(seed: int, rows: int = 80) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.integers(-3, 4, rows).astype(float),
            "z": random.normal(size=rows),
            "c": random.choice(["b", "é", "a b"], rows),
            "w": random.uniform(0.1, 3, rows),
        }
    )
    odds = 0.3 + 0.5 * frame.x - frame.z + (frame.c == "é")
    frame["y"] = np.where(random.uniform(size=rows) < 1 / (1 + np.exp(-odds)), "yes", "no")
    frame.loc[random.integers(0, rows, 3), "x"] = np.nan
    frame.loc[random.integers(0, rows, 2), "y"] = None
    return frame


def encoded(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    full = frame.dropna()
    matrix = np.column_stack([full.x, full.z, full.c == "b", full.c == "é"]).astype(float)
    return matrix, (full.y == "yes").to_numpy().astype(float), full.w.to_numpy()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans())
def test_it_is_what_statsmodels_says(seed, parties, weighted):
    frame = made(seed)
    matrix, y, w = encoded(frame)
    assume(min(y.sum(), (1 - y).sum()) > 10)
    found = the_same_everywhere(
        logistic_regression,
        frame,
        parties,
        seed,
        target="y",
        columns=["x", "z", "c"],
        weights="w" if weighted else None,
    )
    design = sm.add_constant(matrix)
    family = sm.families.Binomial()
    theirs = sm.GLM(y, design, family, var_weights=w if weighted else None).fit(tol=1e-15, maxiter=100)
    for name, expected in (
        ("estimate", theirs.params),
        ("standard_error", theirs.bse),
        ("statistic", theirs.tvalues),
        ("p_value", theirs.pvalues),
        ("low", theirs.conf_int()[:, 0]),
        ("high", theirs.conf_int()[:, 1]),
    ):
        assert agree(column(found.coefficients, name), expected, 1e-7)
    assert agree(np.exp(column(found.coefficients, "log_p_value")), theirs.pvalues, 1e-7)
    (fit,) = found.fit.to_arrow().to_pylist()
    assert (fit["rows"], fit["events"], fit["degrees"]) == (len(y), y.sum(), theirs.df_resid)
    if not weighted:
        logit = sm.Logit(y, design).fit(disp=0, tol=1e-14)
        for name, expected in (
            ("log_likelihood", logit.llf),
            ("null_log_likelihood", logit.llnull),
            ("pseudo_r_squared", logit.prsquared),
            ("statistic", logit.llr),
            ("p_value", logit.llr_pvalue),
            ("aic", logit.aic),
        ):
            assert agree(fit[name], expected, 1e-6, 1e-7), name


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 100.0]), st.booleans())
def test_the_penalty_is_that_of_scikit_learn(seed, penalty, scale):
    frame = made(seed)
    matrix, y, w = encoded(frame)
    assume(0 < y.sum() < len(y))
    found = logistic_regression(
        one(frame), target="y", columns=["x", "z", "c"], penalty=penalty, scale=scale, weights="w"
    )
    by = matrix.std(axis=0) if scale else np.ones(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-13, max_iter=500)
        theirs.fit(matrix / by, y, sample_weight=w)
    ours = column(found.coefficients, "estimate")
    assert agree(ours, [*theirs.intercept_, *(theirs.coef_[0] / by)], 1e-6, 1e-7)
    assert found.fit["p_value"].to_pylist() == [None]
    # Errors by the formula itself.
    design = sm.add_constant(matrix)
    chance = 1 / (1 + np.exp(-design @ ours))
    information = design.T @ (design * (w * chance * (1 - chance))[:, None])
    inverse = np.linalg.inv(information + np.diag([0, *(penalty * by**2)]))
    errors = np.sqrt(np.diag(inverse @ information @ inverse))
    assert agree(column(found.coefficients, "standard_error"), errors, 1e-6)
    assert agree(found.fit["degrees"].to_pylist()[0], len(y) - np.trace(inverse @ information), 1e-8)


@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_breast_cancer_by_columns_of_three_parties(penalty):
    """Thirty columns of very different size, that go together closely: to the same coefficients as centrally."""
    frame = datasets.load_breast_cancer(as_frame=True).frame
    names = [name for name in frame if name != "target"]
    tables, keys = by_columns(frame, 3)
    found = logistic_regression(
        tables, target="target", columns=names, penalty=penalty, how="columns", key=keys
    )
    central = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-14, max_iter=1000)
    central.fit(frame[names], frame.target)
    ours = column(found.coefficients, "estimate")
    assert agree(ours, [*central.intercept_, *central.coef_[0]], 1e-8, 1e-9)
    alone = logistic_regression(one(frame), target="target", columns=names, penalty=penalty)
    assert alone == found


def test_the_event_is_the_last_value_or_the_one_that_is_asked_for():
    frame = made(1)
    last = logistic_regression(one(frame), target="y", columns=["x", "z"])
    first = logistic_regression(one(frame), target="y", columns=["x", "z"], event="no")
    assert agree(column(first.coefficients, "estimate"), -column(last.coefficients, "estimate"))
    assert learned.read(last.model).classes == ("no", "yes")
    assert learned.read(first.model).classes == ("yes", "no")
    truths = frame.dropna().assign(n=lambda f: (f.y == "yes") * 7, y=lambda f: f.y == "yes")
    for name, event, labels in (("y", None, (False, True)), ("n", 7, (0, 7)), ("n", "0", (7, 0))):
        found = logistic_regression(one(truths), target=name, columns=["x", "z"], event=event)
        assert learned.read(found.model).classes == labels
        assert [type(label) for label in learned.read(found.model).classes] == [type(labels[0])] * 2


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1]),
        ([1, 2, 3, 3, 5, 6], [0, 0, 0, 1, 1, 1]),
        ([0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1]),
        ([1e-9, 2e-9, 3e-9, 4e6, 5e6, 6e6], [0, 1, 0, 1, 1, 1]),
    ],
)
def test_separation_is_refused_and_no_trouble_with_a_penalty(x, y):
    frame = pd.DataFrame({"x": x, "y": y})
    with pytest.raises(Malformed, match=r"no finite optimum.* 'x'") as caught:
        logistic_regression(one(frame), target="y")
    assert "penalty" in caught.value.hint
    found = logistic_regression(one(frame), target="y", penalty=1.0, scale=True)
    assert np.isfinite(column(found.coefficients, "estimate")).all()


def test_separation_by_all_columns_together():
    """No column of breast cancer tells all outcomes, and all thirty together do."""
    frame = datasets.load_breast_cancer(as_frame=True).frame
    with pytest.raises(Malformed, match="no finite optimum"):
        logistic_regression(one(frame), target="target")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(4, 14), st.integers(1, 3))
def test_separation_is_found_if_and_only_if_it_is_there(seed, rows, width):
    """By brute force: a direction that parts the classes exists, or none does (a linear program says which)."""
    from scipy.optimize import linprog

    random = np.random.default_rng(seed)
    matrix = random.integers(-2, 3, (rows, width)).astype(float)
    y = random.integers(0, 2, rows)
    design = np.column_stack([np.ones(rows), matrix])
    assume(len(set(y)) == 2 and np.linalg.matrix_rank(design) == width + 1 and rows > width + 1)
    towards = design * (2 * y - 1)[:, None]
    way = linprog(-towards.sum(axis=0), A_ub=-towards, b_ub=np.zeros(rows), bounds=(-1, 1))
    frame = pd.DataFrame({f"x{n}": matrix[:, n] for n in range(width)} | {"y": y})
    names = [f"x{n}" for n in range(width)]
    assume(all(frame[name].nunique() > 1 for name in names))
    if -way.fun > 1e-6:
        with pytest.raises(Malformed, match="no finite optimum"):
            logistic_regression(one(frame), target="y", columns=names)
        return
    found = logistic_regression(one(frame), target="y", columns=names)
    estimates = column(found.coefficients, "estimate")
    # At an optimum the pulls of all rows cancel.
    assert np.abs(design.T @ (y - 1 / (1 + np.exp(-design @ estimates)))).max() < 1e-8


def test_chances_that_are_nearly_certain():
    """Standard errors of coefficients of which most rows say next to nothing."""
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(-30, 1, 500), random.normal(30, 1, 500), random.normal(0, 1, 50)])
    y = random.uniform(size=len(x)) < 1 / (1 + np.exp(-2 * x))
    found = logistic_regression(one(pd.DataFrame({"x": x, "y": y})), target="y")
    theirs = sm.Logit(y.astype(float), sm.add_constant(x)).fit(disp=0, tol=1e-14)
    assert agree(column(found.coefficients, "estimate"), theirs.params, 1e-7)
    assert agree(column(found.coefficients, "standard_error"), theirs.bse, 1e-7)


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        ({"y": [1, 1, 1, 1]}, {}, "1 different values .* not two"),
        ({"y": [1, 2, 3, 1]}, {}, "3 different values"),
        ({"y": [None] * 4}, {}, "0 different values"),
        ({"y": [0, 1, 0, 1]}, {"event": 2}, "event is no value"),
        ({"y": [0, 1, 0, 1], "x": [math.inf, 1, 2, 3]}, {}, "infinite"),
        ({"y": [[1], [2], [1], [2]]}, {}, "categories are text"),
        ({"y": [0, 1, 0, 1], "x": [1.0, 1.0, 1.0, 1.0]}, {"penalty": 1.0}, "constant"),
    ],
)
def test_what_is_refused(columns, arguments, said):
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 2.0], **columns})
    with pytest.raises(Malformed, match=said):
        logistic_regression(one(frame), target="y", **arguments)
