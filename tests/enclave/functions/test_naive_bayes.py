"""Naive Bayes, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.naive_bayes import CategoricalNB, GaussianNB, MultinomialNB
from tests.support.learners import agree, column, one, table, the_same_everywhere

from mesatee.enclave.functions.naive_bayes import naive_bayes
from mesatee.enclave.functions.predict import predict
from mesatee.errors import Malformed


def made(seed: int, rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.normal(size=rows),
            "z": random.normal(size=rows) * 1000,
            "n": random.poisson(2, rows),
            "m": random.poisson(4, rows),
            "c": random.choice(["b", "é", "a b"], rows),
            "d": random.choice([10, 9, 8], rows),
            "y": random.choice(["no", "yes", "perhaps"], rows, p=[0.5, 0.3, 0.2]),
        }
    )
    frame.loc[random.integers(0, rows, 3), "x"] = np.nan
    frame.loc[random.integers(0, rows, 2), "y"] = None
    return frame


def chances(found, classes):
    return np.column_stack([column(found, f"probability.{name}") for name in classes])


@pytest.mark.parametrize(
    ("distribution", "columns"),
    [("gaussian", ["x", "z"]), ("multinomial", ["n", "m"]), ("categorical", ["c", "d"])],
)
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), parties=st.integers(2, 8), alpha=st.sampled_from([0.01, 1.0, 3.0]))
def test_it_is_what_scikit_learn_says(distribution, columns, seed, parties, alpha):
    frame = made(seed)
    full = frame.dropna(subset=[*columns, "y"])
    assume(full.y.value_counts().min() > 1 and full.y.nunique() == 3)
    found = the_same_everywhere(
        naive_bayes,
        frame,
        parties,
        seed,
        target="y",
        columns=columns,
        distribution=distribution,
        alpha=alpha,
    )
    match distribution:
        case "gaussian":
            theirs, matrix = GaussianNB(), full[columns]
        case "multinomial":
            theirs, matrix = MultinomialNB(alpha=alpha), full[columns]
        case _:
            theirs = CategoricalNB(alpha=alpha)
            matrix = np.column_stack([full[name].astype("category").cat.codes for name in columns])
    theirs.fit(matrix, full.y)
    predicted = predict(found.model, table(full), probabilities=True)
    assert agree(chances(predicted, theirs.classes_), theirs.predict_proba(matrix), 1e-7, 1e-12)
    assert predicted["prediction"].to_pylist() == theirs.predict(matrix).tolist()
    features = found.features.to_pandas()
    if distribution == "gaussian":
        assert agree(features["mean"], theirs.theta_.ravel())
        assert agree(features["variance"], theirs.var_.ravel())
    elif distribution == "multinomial":
        assert agree(features["share"], np.exp(theirs.feature_log_prob_).ravel())
    else:
        ours = features[(features["class"] == "yes") & (features["column"] == "c")]
        assert ours["level"].tolist() == sorted(full.c.unique())
        assert agree(
            ours["share"], np.exp(theirs.feature_log_prob_[0][theirs.classes_.tolist().index("yes")])
        )
    assert dict(zip(features["class"], features["rows"], strict=True)) == full.y.value_counts().to_dict()


def test_real_data():
    frame = datasets.load_wine(as_frame=True).frame
    names = [name for name in frame if name != "target"]
    found = the_same_everywhere(naive_bayes, frame, 4, target="target", columns=names)
    theirs = GaussianNB().fit(frame[names], frame.target)
    predicted = predict(found.model, table(frame), probabilities=True)
    assert agree(chances(predicted, [0, 1, 2]), theirs.predict_proba(frame[names]), 1e-6, 1e-12)


def test_levels_are_matched_whatever_their_type():
    """Numbers as categories, which another table has as floating point."""
    frame = pd.DataFrame({"d": [1, 2, 1, 2, 2], "y": [0, 1, 0, 1, 0]})
    found = naive_bayes(one(frame), target="y", columns="d", distribution="categorical")
    again = predict(found.model, table(pd.DataFrame({"d": [1.0, 2.0, 3.0]})))
    assert again["prediction"].to_pylist() == [0, 1, None]


X = {"x": [1.0, 2.0, 3.0, 4.0], "y": [0, 0, 1, 1], "k": [1.0] * 4, "n": [1, -1, 2, 3]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"distribution": "poisson"}, "distribution is one of"),
        ({"alpha": 0.0}, "alpha is from"),
        ({"distribution": "categorical"}, "name the columns"),
        ({"distribution": "multinomial", "columns": "n"}, "counts are 0 or more"),
        ({"columns": "k"}, "all columns are constant"),
        ({"target": "k"}, "1 different values"),
        ({"target": "no"}, "no column 'no'"),
        ({"columns": ["x", "y"]}, "used twice"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        naive_bayes(one(pd.DataFrame(X)), **{"target": "y", **arguments})
