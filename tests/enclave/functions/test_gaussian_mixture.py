"""Mixtures of normal distributions, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.mixture import GaussianMixture
from tests.support.learners import agree, column, one, table, the_same_everywhere

from mesatee.enclave.functions.gaussian_mixture import COVARIANCES, STARTS, gaussian_mixture
from mesatee.enclave.functions.predict import predict
from mesatee.errors import Malformed
from mesatee.protocol import learned


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("parties", "seed"), [(2, 0), (8, 3)])
def test_it_is_what_scikit_learn_says(covariance, parties, seed):
    frame = datasets.load_iris(as_frame=True).frame.drop(columns="target")
    names = list(frame.columns)
    asked = {"components": 3, "columns": names, "covariance": covariance, "seed": seed}
    found = the_same_everywhere(gaussian_mixture, frame, parties, seed, **asked)
    # In the order in which the function puts rows, as the first clustering depends on it.
    ready = frame.sort_values(names).to_numpy()
    theirs = GaussianMixture(3, covariance_type=covariance, random_state=seed, max_iter=500).fit(ready)
    order = np.argsort(-theirs.weights_, kind="stable")
    assert agree(column(found.components, "weight"), theirs.weights_[order], 1e-9)
    means = np.column_stack([column(found.components, name) for name in names])
    assert agree(means, theirs.means_[order], 1e-9)
    predicted = predict(found.model, table(pd.DataFrame(ready, columns=names)), probabilities=True)
    chances = np.column_stack([column(predicted, f"probability.{n}") for n in (1, 2, 3)])
    assert agree(chances, theirs.predict_proba(ready)[:, order], 1e-6, 1e-9)
    labels = column(predicted, "prediction").astype(int)
    assert (labels == np.argsort(order)[theirs.predict(ready)] + 1).all()
    assert found.components["rows"].to_pylist() == np.bincount(labels, minlength=4)[1:].tolist()
    (fit,) = found.fit.to_arrow().to_pylist()
    assert agree(fit["log_likelihood"], theirs.score(ready), 1e-9)
    assert agree([fit["aic"], fit["bic"]], [theirs.aic(ready), theirs.bic(ready)], 1e-9)
    assert (fit["rows"], fit["rounds"], fit["converged"]) == (150, theirs.n_iter_, 1)


def test_scaled_columns_have_means_in_their_own_units():
    frame = datasets.load_wine(as_frame=True).frame[["alcohol", "proline"]]
    found = gaussian_mixture(one(frame), components=2, scale=True)
    weights = column(found.components, "weight")
    for name in frame:
        assert agree(weights @ column(found.components, name), frame[name].mean(), 1e-6)
    document = learned.read(found.model)
    assert isinstance(document, learned.GaussianMixture)
    assert document.scale == pytest.approx(tuple(frame.std(ddof=0)))


def test_one_component_is_mean_and_covariance():
    frame = datasets.load_wine(as_frame=True).frame[["alcohol", "ash"]]
    found = gaussian_mixture(one(frame), components=1)
    document = learned.read(found.model)
    assert isinstance(document, learned.GaussianMixture)
    assert agree(document.covariances[0], np.cov(frame.T, ddof=0) + 1e-6 * np.eye(2))


def test_a_component_for_each_row():
    frame = pd.DataFrame({"x": [0.0, 1.0, 5.0]})
    found = gaussian_mixture(one(frame), components=3)
    assert found.components["rows"].to_pylist() == [1, 1, 1]
    assert found.components["x"].to_pylist() == pytest.approx([0.0, 1.0, 5.0])


X = {"x": [1.0, 2.0, 2.0, None], "weight": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"components": 0}, "components is from 1"),
        ({"components": 3}, "2 different rows cannot make 3"),
        ({"components": 4}, "too few"),
        ({"components": 1, "covariance": "round"}, "covariance is one of"),
        ({"components": 1, "starts": STARTS + 1}, "starts is from"),
        ({"components": 1, "tolerance": 0.0}, "tolerance is from"),
        ({"components": 1, "columns": "weight"}, "'weight' has a name of the output"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        gaussian_mixture(one(pd.DataFrame(X)), **{"columns": "x", **arguments})
