"""Generalised linear models, against statsmodels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import PoissonRegressor
from tests.support.learners import agree, column, one, the_same_everywhere

from mesatee.enclave.functions._glm import DEFAULT_LINK, FAMILIES
from mesatee.enclave.functions.glm import glm
from mesatee.errors import Malformed
from mesatee.protocol import learned

THEIRS: dict[str, Any] = {
    "identity": sm.families.links.Identity,
    "log": sm.families.links.Log,
    "logit": sm.families.links.Logit,
    "probit": sm.families.links.Probit,
    "cloglog": sm.families.links.CLogLog,
    "inverse": sm.families.links.InversePower,
    "inverse_squared": sm.families.links.InverseSquared,
}
PAIRS = [
    ("gaussian", "identity"),
    ("gaussian", "log"),
    ("gaussian", "inverse"),
    ("binomial", "logit"),
    ("binomial", "probit"),
    ("binomial", "cloglog"),
    ("poisson", "log"),
    ("poisson", "identity"),
    ("gamma", "inverse"),
    ("gamma", "log"),
    ("gamma", "identity"),
    ("inverse_gaussian", "inverse_squared"),
    ("inverse_gaussian", "inverse"),
    ("inverse_gaussian", "log"),
    ("inverse_gaussian", "identity"),
    ("negative_binomial", "log"),
]
ALPHA = 0.5


def family_of(name: str, link: str) -> Any:
    classes = {
        "gaussian": sm.families.Gaussian,
        "binomial": sm.families.Binomial,
        "poisson": sm.families.Poisson,
        "gamma": sm.families.Gamma,
        "inverse_gaussian": sm.families.InverseGaussian,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "negative_binomial":
            return sm.families.NegativeBinomial(link=THEIRS[link](), alpha=ALPHA)
        return classes[name](link=THEIRS[link]())


def made(family: str, link: str, seed: int, rows: int = 150) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.integers(0, 5, rows) / 4,
            "z": random.uniform(size=rows),
            "c": random.choice(["b", "é"], rows),
            "e": random.uniform(0, 0.3, rows),
            "w": random.integers(1, 5, rows).astype(float),
        }
    )
    predictor = 1 + 0.5 * frame.x + 0.3 * frame.z + 0.4 * (frame.c == "é") + frame.e
    if family == "binomial":
        predictor -= 1.3
    mean = THEIRS[link]().inverse(predictor.to_numpy())
    draw = {
        "gaussian": lambda: random.normal(mean, 0.05),
        "binomial": lambda: random.binomial(frame.w.astype(int), mean) / frame.w,
        "poisson": lambda: random.poisson(mean),
        "gamma": lambda: random.gamma(5, mean / 5),
        "inverse_gaussian": lambda: random.wald(mean, 9),
        "negative_binomial": lambda: random.poisson(random.gamma(1 / ALPHA, mean * ALPHA)),
    }
    frame["y"] = np.asarray(draw[family](), float)
    frame.loc[random.integers(0, rows, 3), "z"] = np.nan
    return frame


@pytest.mark.parametrize(("family", "link"), PAIRS)
@settings(deadline=None, max_examples=4)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_it_is_what_statsmodels_says(family, link, seed, parties):
    frame = made(family, link, seed)
    found = the_same_everywhere(
        glm,
        frame,
        parties,
        seed,
        target="y",
        family=family,
        link=link,
        columns=["x", "z", "c"],
        offset="e",
        weights="w",
        alpha=ALPHA,
    )
    full = frame.dropna()
    matrix = sm.add_constant(np.column_stack([full.x, full.z, full.c == "é"]).astype(float))
    estimated = family in ("gaussian", "gamma", "inverse_gaussian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sm.GLM(
            full.y.to_numpy(),
            matrix,
            family_of(family, link),
            offset=full.e.to_numpy(),
            var_weights=full.w.to_numpy(),
        ).fit(tol=1e-15, maxiter=300, use_t=estimated)
    for name, expected in (
        ("estimate", theirs.params),
        ("standard_error", theirs.bse),
        ("low", theirs.conf_int()[:, 0]),
        ("high", theirs.conf_int()[:, 1]),
        ("p_value", theirs.pvalues),
    ):
        assert agree(column(found.coefficients, name), expected, 1e-5, 1e-6)
    (fit,) = found.fit.to_arrow().to_pylist()
    assert fit["degrees"] == theirs.df_resid
    for name, expected in (
        ("deviance", theirs.deviance),
        ("null_deviance", theirs.null_deviance),
        ("pearson", theirs.pearson_chi2),
        ("dispersion", theirs.scale),
    ):
        assert agree(fit[name], expected, 1e-6), name
    document = learned.read(found.model)
    assert (document.family, document.link, document.offset) == (family, link, "e")


def test_visits_to_doctors():
    """The RAND health insurance experiment: 20,190 rows, as in statsmodels' own examples of Poisson regression."""
    data = sm.datasets.randhie.load_pandas().data
    names = [name for name in data if name != "mdvis"]
    found = glm(one(data), target="mdvis", family="poisson", columns=names)
    theirs = sm.GLM(data.mdvis, sm.add_constant(data[names]), sm.families.Poisson()).fit(tol=1e-14)
    assert agree(column(found.coefficients, "estimate"), theirs.params, 1e-9)
    assert agree(column(found.coefficients, "standard_error"), theirs.bse, 1e-9)
    assert agree(found.fit["deviance"].to_pylist(), [theirs.deviance], 1e-12)


def test_chances_that_are_certain_but_for_rounding():
    """Rows whose chance of the other outcome is too small for a number stopped the search."""
    random = np.random.default_rng(3)
    x = random.uniform(0, 1, 120)
    y = (random.uniform(size=120) < -np.expm1(-np.exp(9 * x - 2))).astype(float)
    x = np.append(x, [3.0, 4.0])
    y = np.append(y, [1.0, 1.0])
    found = glm(one(pd.DataFrame({"x": x, "y": y})), target="y", family="binomial", link="cloglog")
    family = sm.families.Binomial(sm.families.links.CLogLog())
    theirs = sm.GLM(y, sm.add_constant(x), family).fit(tol=1e-14, maxiter=500)
    assert agree(column(found.coefficients, "estimate"), theirs.params, 1e-6)
    assert agree(column(found.coefficients, "standard_error"), theirs.bse, 1e-6)


def test_a_penalty_as_in_scikit_learn():
    frame = made("poisson", "log", 5).dropna()
    found = glm(one(frame), target="y", family="poisson", columns=["x", "z"], penalty=3.0)
    theirs = PoissonRegressor(alpha=3.0 / len(frame), solver="newton-cholesky", tol=1e-12)
    theirs.fit(frame[["x", "z"]], frame.y)
    ours = column(found.coefficients, "estimate")
    assert agree(ours, [theirs.intercept_, *theirs.coef_], 1e-8)


def test_without_an_intercept():
    frame = made("poisson", "log", 7).dropna()
    found = glm(one(frame), target="y", family="poisson", columns=["x", "z"], intercept=False)
    theirs = sm.GLM(frame.y, frame[["x", "z"]], sm.families.Poisson()).fit(tol=1e-14)
    assert agree(column(found.coefficients, "estimate"), theirs.params)
    assert agree(column(found.coefficients, "standard_error"), theirs.bse)
    assert agree(
        found.fit["null_deviance"].to_pylist(),
        [2 * (np.where(frame.y > 0, frame.y * np.log(frame.y.clip(1)), 0) - (frame.y - 1)).sum()],
    )


def test_usual_links():
    for family in FAMILIES:
        frame = made(family, "log" if family != "binomial" else "logit", 3)
        found = glm(one(frame), target="y", family=family, columns="x", weights="w")
        assert learned.read(found.model).link == DEFAULT_LINK[family]


COUNTS = {"x": [0.0, 1, 2, 3, 4, 5], "c": list("uuuvvv")}


@pytest.mark.parametrize(
    ("y", "arguments", "said"),
    [
        ([1, 2, 3, 0, 0, 0], {"family": "poisson", "columns": "c"}, "no finite optimum.* 'c'"),
        ([0, 0, 0, 1, 1, 1], {"family": "binomial", "link": "probit"}, "no finite optimum"),
        ([0, 0, 0, 1, 1, 1], {"family": "binomial", "link": "cloglog"}, "no finite optimum"),
        ([0, 0, 0, 1, 1, 1], {"family": "binomial", "link": "identity"}, "does not converge"),
        ([0, 0, 0, 1, 1, 1], {"family": "binomial", "link": "log"}, "does not converge"),
        ([0, 0, 0, 0, 0, 0], {"family": "poisson"}, "no finite optimum|does not converge"),
        ([0, 1, 2, 3, 4, 5], {"family": "gamma"}, "not above 0"),
        ([0, 1, 2, 3, 4, -5], {"family": "poisson"}, "not 0 or more"),
        ([0, 1, 2, 1, 0, 1], {"family": "binomial"}, "not from 0 to 1"),
        ([1, 2, 3, 4, 5, 6], {"family": "normal"}, "family is one of"),
        ([1, 2, 3, 4, 5, 6], {"family": "poisson", "link": "logit"}, "link of poisson is one of"),
        ([1, 2, 3, 4, 5, 6], {"family": "negative_binomial", "alpha": 0.0}, "alpha is above 0"),
        ([1, 2, 3, 4, 5, 6], {"family": "poisson", "offset": "x", "columns": "x"}, "used twice"),
    ],
)
def test_what_is_refused(y, arguments, said):
    frame = pd.DataFrame({**COUNTS, "y": y})
    with pytest.raises(Malformed, match=said):
        glm(one(frame), target="y", **arguments)
