"""Support vector machines, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from tests.support.learners import agree, column, one, table, the_same_everywhere

from mesatee.enclave.functions import svm as module
from mesatee.enclave.functions.predict import predict
from mesatee.enclave.functions.svm import svm
from mesatee.errors import Malformed
from mesatee.protocol import learned


def sorted_(frame: pd.DataFrame) -> pd.DataFrame:
    """In the order in which the function puts rows: libsvm's last digits depend on it."""
    return frame.sort_values(list(frame.columns))


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("classes", [2, 3, 5])
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), parties=st.integers(2, 8), scale=st.booleans())
def test_classes_are_those_of_scikit_learn(kernel, classes, seed, parties, scale):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": random.normal(size=80), "z": random.integers(0, 4, 80) / 2})
    frame["y"] = (frame.x * 2 + frame.z + random.normal(size=80)).rank().floordiv(81 / classes).astype(int)
    found = the_same_everywhere(
        svm, frame, parties, seed, target="y", columns=["x", "z"], kernel=kernel, scale=scale, c=2.0
    )
    ready = sorted_(frame)
    points = ready[["x", "z"]].to_numpy()
    if scale:
        points = StandardScaler().fit_transform(points)
    theirs = SVC(C=2.0, kernel=kernel, gamma="scale").fit(points, ready.y)
    predicted = predict(found.model, table(ready))
    decision = theirs.decision_function(points)
    # Where a decision is nearly 0 rounding may turn it.
    if classes == 2:
        assert agree(column(predicted, "decision"), decision, 1e-6, 1e-6)
    sure = np.abs(decision).reshape(len(points), -1).min(axis=1) > 1e-6
    assert (column(predicted, "prediction") == theirs.predict(points))[sure].all()
    assert found.fit["vectors"].to_pylist() == theirs.n_support_.tolist()
    assert found.fit["rows"].to_pylist() == ready.y.value_counts().sort_index().tolist()


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("gamma", [None, 0.3])
def test_numbers_are_those_of_scikit_learn(kernel, gamma):
    frame = datasets.load_diabetes(as_frame=True).frame[["bmi", "bp", "s5", "target"]]
    found = the_same_everywhere(
        svm,
        frame,
        3,
        target="target",
        kind="number",
        columns=["bmi", "bp", "s5"],
        kernel=kernel,
        gamma=gamma,
        epsilon=5.0,
        c=10.0,
    )
    ready = sorted_(frame)
    points = StandardScaler().fit_transform(ready[["bmi", "bp", "s5"]])
    theirs = SVR(C=10.0, epsilon=5.0, kernel=kernel, gamma=gamma or "scale").fit(points, ready.target)
    ours = column(predict(found.model, table(ready)), "prediction")
    assert agree(ours, theirs.predict(points), 1e-7)
    assert found.fit.to_dict() == {"rows": [442], "vectors": [len(theirs.support_)]}


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_real_data(kernel):
    data = datasets.load_iris(as_frame=True).frame
    data["kind"] = np.array(["setosa", "versicolor", "virginica"])[data.target]
    names = list(data.columns[:4])
    found = svm(one(data), target="kind", columns=names, kernel=kernel)
    points = StandardScaler().fit_transform(data[names])
    theirs = SVC(kernel=kernel).fit(points, data.kind)
    ours = predict(found.model, table(data))["prediction"].to_pylist()
    assert np.mean(np.array(ours) == theirs.predict(points)) > 0.99
    assert np.mean(np.array(ours) == data.kind) > 0.95


def test_a_linear_machine_keeps_no_rows_and_another_does():
    data = datasets.load_iris(as_frame=True).frame
    linear = learned.read(svm(one(data), target="target", kernel="linear").model)
    radial = learned.read(svm(one(data), target="target", scale=False).model)
    assert isinstance(linear, learned.Svm)
    assert linear.vectors is None
    assert len(linear.weights) == 3
    assert isinstance(radial, learned.Svm)
    rows = {tuple(row) for row in data.drop(columns="target").to_numpy().tolist()}
    assert set(radial.vectors or ()) <= rows


def test_levels_become_features():
    frame = pd.DataFrame({"c": list("uvwuvw"), "y": [1.0, 2, 3, 1, 2, 3]})
    found = svm(
        one(frame),
        target="y",
        kind="number",
        columns="c",
        kernel="linear",
        scale=False,
        epsilon=0.01,
        c=100.0,
    )
    (feature,) = learned.read(found.model).columns
    assert (feature.levels, feature.reference) == (("u", "v", "w"), None)
    assert agree(column(predict(found.model, table(frame)), "prediction"), frame.y, 1e-1)


X = {"x": [1.0, 2.0, 3.0, 4.0], "y": ["u", "u", "v", "v"], "k": [1.0] * 4}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "both"}, "kind is one of"),
        ({"kernel": "poly"}, "kernel is one of"),
        ({"c": 0.0}, "c is from"),
        ({"gamma": -1.0}, "gamma is from"),
        ({"gamma": 0.0}, "gamma is above 0"),
        ({"epsilon": -1.0}, "epsilon is from"),
        ({"kind": "number"}, "not numbers"),
        ({"target": "k", "columns": "x"}, "1 different values"),
        ({"columns": "k"}, "constant"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        svm(one(pd.DataFrame(X)), **{"target": "y", **arguments})


def test_rows_are_limited(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 4)
    assert svm(one(pd.DataFrame(X)), target="y", columns="x").fit["rows"].to_pylist() == [2, 2]
    monkeypatch.setattr(module, "ROWS", 3)
    with pytest.raises(Malformed, match="4 rows are too many"):
        svm(one(pd.DataFrame(X)), target="y", columns="x")
