"""scikit-learn's models as documents: what comes out says what the library says, to the last bits."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import datasets, ensemble, linear_model, tree

from mesatee._core import TreeModel
from mesatee.cli.convert import confined
from mesatee.protocol import learned

CANCER = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
IRIS = datasets.load_iris(return_X_y=True)
DIABETES = datasets.load_diabetes(return_X_y=True)
HOLES = np.where(np.random.default_rng(3).random(DIABETES[0].shape) < 0.1, np.nan, DIABETES[0])


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The converter's script, here in the test's own process: these pickles are its own."""
    sys.path.insert(0, str(confined.SCRIPTS))
    try:
        yield importlib.import_module("mesatee_sklearn")
    finally:
        sys.path.remove(str(confined.SCRIPTS))


TREES: dict[str, Callable[[], Any]] = {
    "tree, classes": lambda: tree.DecisionTreeClassifier(max_depth=5).fit(*CANCER),
    "tree, missing": lambda: tree.DecisionTreeRegressor(max_depth=7).fit(HOLES, DIABETES[1]),
    "tree, two targets": lambda: tree.DecisionTreeRegressor(max_depth=4).fit(
        DIABETES[0], np.stack([DIABETES[1], -DIABETES[1]], axis=1)
    ),
    "forest, classes": lambda: ensemble.RandomForestClassifier(12, random_state=1).fit(*IRIS),
    "forest, missing": lambda: ensemble.RandomForestRegressor(9, random_state=1).fit(HOLES, DIABETES[1]),
    "extra trees": lambda: ensemble.ExtraTreesClassifier(9, random_state=1).fit(*CANCER),
    "boosted": lambda: ensemble.GradientBoostingClassifier(n_estimators=15).fit(*CANCER),
    "boosted, three": lambda: ensemble.GradientBoostingClassifier(n_estimators=9).fit(*IRIS),
    "boosted, exponential": lambda: ensemble.GradientBoostingClassifier(
        loss="exponential", n_estimators=9
    ).fit(*CANCER),
    "boosted, from zero": lambda: ensemble.GradientBoostingRegressor(n_estimators=15, init="zero").fit(
        *DIABETES
    ),
    "histogram": lambda: ensemble.HistGradientBoostingClassifier(max_iter=12).fit(*CANCER),
    "histogram, three": lambda: ensemble.HistGradientBoostingClassifier(max_iter=9).fit(*IRIS),
    "histogram, missing": lambda: ensemble.HistGradientBoostingRegressor(max_iter=12).fit(HOLES, DIABETES[1]),
    "histogram, categories": lambda: ensemble.HistGradientBoostingRegressor(
        max_iter=12, categorical_features=[0]
    ).fit(np.column_stack([np.arange(len(DIABETES[1])) % 7, HOLES[:, 1:]]), DIABETES[1]),
    "histogram, poisson": lambda: ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=12).fit(
        HOLES, DIABETES[1]
    ),
}


def converted(script: Any, model: Any, folder: Path, **job: Any) -> dict[str, Any]:
    path = folder / "model.joblib"
    joblib.dump(model, path)
    found: dict[str, Any] = script.convert({"model": str(path), **job})
    return found


@pytest.mark.parametrize("name", TREES)
def test_trees_say_what_the_library_says(script: Any, tmp_path: Path, name: str) -> None:
    """On thresholds, beside them, and where values are missing."""
    from mesatee import tensors

    model = TREES[name]()
    made = converted(script, model, tmp_path)
    assert made["kind"] == "trees"
    rows = tensors.read(made["files"]["sample"])["rows"]
    wanted = tensors.read(made["files"]["expected"])["prediction"]
    forest = TreeModel(made["files"]["model"])
    columns = [rows[:, place].astype(np.float64) for place in range(rows.shape[1])]
    found = np.frombuffer(forest.predict(columns, len(rows))).reshape(len(rows), -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert len(np.unique(wanted)) > 3
    if hasattr(model, "feature_names_in_"):
        assert forest.names == list(CANCER[0].columns)
    if "missing" in name:
        assert np.isnan(rows).any()


def test_linear_models_become_documents(script: Any, tmp_path: Path) -> None:
    labels = np.where(CANCER[1], "yes", "no")
    logit = linear_model.LogisticRegression(solver="newton-cholesky").fit(CANCER[0], labels)
    made = converted(script, logit, tmp_path)
    read = learned.read(made["files"]["model"])
    assert isinstance(read, learned.Linear)
    assert (read.family, read.link, read.classes) == ("binomial", "logit", ("no", "yes"))
    assert [column.name for column in read.columns] == list(CANCER[0].columns)
    assert read.coefficients == tuple(logit.coef_[0])
    for model in (linear_model.LinearRegression(), linear_model.Ridge(), linear_model.Lasso(alpha=0.01)):
        made = converted(script, model.fit(*DIABETES), tmp_path)
        read = learned.read(made["files"]["model"])
        assert isinstance(read, learned.Linear)
        assert (read.family, read.intercept) == ("gaussian", model.intercept_)


def test_what_is_no_such_document_needs_skl2onnx(script: Any, tmp_path: Path) -> None:
    model = linear_model.LogisticRegression(max_iter=500).fit(*IRIS)
    assert converted(script, model, tmp_path)["needs"] == "skl2onnx"


def test_what_is_not_converted_says_why(script: Any, tmp_path: Path) -> None:
    categorical = ensemble.HistGradientBoostingRegressor(max_iter=3, categorical_features=[1])
    started = ensemble.GradientBoostingRegressor(init=linear_model.Ridge(), n_estimators=3)
    refused = {
        "categories of the column": categorical.fit(*DIABETES),
        "starts from an estimator": started.fit(*DIABETES),
        "no model of scikit-learn": {"a": 1},
    }
    for said, model in refused.items():
        with pytest.raises(Exception, match=said) as error:
            converted(script, model, tmp_path)
        assert error.value.refusal  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="not fitted"):
        converted(script, linear_model.Ridge(), tmp_path)


def test_a_sample_of_one_s_own_is_what_is_compared(script: Any, tmp_path: Path) -> None:
    from mesatee import tensors

    model = linear_model.Ridge().fit(*DIABETES)
    path = tmp_path / "rows.csv"
    pd.DataFrame(DIABETES[0][:5]).to_csv(path, index=False)
    made = converted(script, model, tmp_path, sample=str(path))
    assert np.allclose(tensors.read(made["files"]["sample"])["rows"], DIABETES[0][:5])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(Exception, match="rows of 10 numbers"):
        converted(script, model, tmp_path, sample=str(path))


def test_a_document_is_strict_json(script: Any, tmp_path: Path) -> None:
    made = converted(script, TREES["forest, missing"](), tmp_path)
    text = made["files"]["model"].decode()
    assert "Infinity" not in text
    assert "NaN" not in text
    assert json.loads(text)["kind"] == "trees"
