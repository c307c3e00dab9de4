"""Clusters around centres, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from tests.support.learners import agree, column, one, table, the_same_everywhere

from mesatee.enclave.functions.k_means import ROUNDS, STARTS, k_means
from mesatee.enclave.functions.predict import predict
from mesatee.errors import Malformed
from mesatee.protocol import limits


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 8), st.booleans())
def test_it_is_an_end_of_lloyds_algorithm_and_the_same_everywhere(seed, clusters, parties, scale):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.integers(0, 6, 60).astype(float),
            "z": random.normal(size=60) * 100,
            "b": random.integers(0, 2, 60).astype(bool),
        }
    )
    frame.loc[3, "x"] = np.nan
    asked = {"columns": ["x", "z", "b"], "clusters": clusters, "scale": scale, "starts": 2}
    found = the_same_everywhere(k_means, frame, parties, seed, **asked)
    full = frame.dropna().astype(float).to_numpy()
    names = ["x", "z", "b"]
    centres = np.column_stack([column(found.clusters, name) for name in names])
    labels = column(predict(found.model, table(frame.dropna())), "prediction").astype(int)
    assert found.clusters["cluster"].to_pylist() == list(range(1, clusters + 1))
    sizes = found.clusters["rows"].to_pylist()
    assert sizes == np.bincount(labels, minlength=clusters + 1)[1:].tolist()
    assert sizes == sorted(sizes, reverse=True)
    # Each centre is the mean of its rows, and each row's centre is the nearest.
    by = full.std(axis=0) if scale else np.ones(3)
    away = (((full[:, None] - centres[None]) / by) ** 2).sum(axis=2)
    assert agree(
        np.sqrt(away.min(axis=1)), column(predict(found.model, table(frame.dropna())), "distance"), 1e-8, 1e-6
    )
    for number in range(clusters):
        mine = full[labels == number + 1]
        assert agree(mine.mean(axis=0), centres[number], 1e-9, 1e-9)
        assert agree(
            away[labels == number + 1, number].sum(),
            found.clusters["inertia"].to_pylist()[number],
            1e-6,
            1e-6,
        )


@pytest.mark.parametrize("load", [datasets.load_iris, datasets.load_wine])
def test_real_data(load):
    frame = load(as_frame=True).frame.drop(columns="target")
    names = list(frame.columns)
    found = the_same_everywhere(k_means, frame, 3, clusters=3, columns=names, scale=True, starts=20, seed=4)
    ready = StandardScaler().fit_transform(frame)
    theirs = KMeans(3, n_init=20, random_state=4, tol=0).fit(ready)
    assert agree(sum(found.clusters["inertia"].to_pylist()), theirs.inertia_, 1e-9)
    predicted = column(predict(found.model, table(frame)), "prediction").astype(int)
    # The same parts, by other numbers.
    pairs = set(zip(predicted, theirs.labels_, strict=True))
    assert len(pairs) == 3


def test_a_seed_gives_the_same_and_others_may_give_others():
    frame = pd.DataFrame(
        {"x": np.random.default_rng(0).uniform(size=200), "y": np.random.default_rng(1).uniform(size=200)}
    )
    results = {k_means(one(frame), clusters=7, starts=1, seed=seed).model for seed in (1, 1, 2, 3)}
    assert 1 < len(results) <= 3


X = {"x": [1.0, 2.0, 2.0, None]}


@pytest.mark.parametrize(
    ("columns", "arguments", "said"),
    [
        (X, {"clusters": 3}, "2 different rows cannot make 3"),
        (X, {"clusters": 0}, "clusters is from 1 to 1000"),
        (X, {"clusters": limits.LEARNED_GROUPS + 1}, "clusters is from 1 to 1000"),
        (X, {"clusters": 1, "starts": STARTS + 1}, "starts is from"),
        (X, {"clusters": 1, "seed": -1}, "seed is from 0"),
        (X, {"clusters": 1, "columns": ["y"]}, "no column 'y'"),
        ({"x": [None, None]}, {"clusters": 1}, "0 rows"),
        ({"x": [1.0, 1.0]}, {"clusters": 1, "scale": True}, "constant"),
        ({"x": ["u", "v"]}, {"clusters": 1}, "no column of numbers"),
        ({"x": ["u", "v"]}, {"clusters": 1, "columns": "x"}, "not numbers"),
        ({"x": [1.0, math.inf]}, {"clusters": 1}, "infinite"),
        ({"rows": [1.0, 2.0]}, {"clusters": 1}, "'rows' has a name of the output"),
    ],
)
def test_what_is_refused(columns, arguments, said):
    with pytest.raises(Malformed, match=said):
        k_means(one(pd.DataFrame(columns)), **arguments)


def test_a_limit_of_rounds_is_there():
    assert ROUNDS >= 100
    assert k_means(one(pd.DataFrame(X)), clusters=2, starts=STARTS).clusters["rows"].to_pylist() == [2, 1]
