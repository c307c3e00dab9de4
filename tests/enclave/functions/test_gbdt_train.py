"""Training of trees: against the libraries themselves, by rows and by columns, and the same for any order of rows."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from mesatee.enclave.functions.gbdt_predict import gbdt_predict
from mesatee.enclave.functions.gbdt_train import gbdt_train
from mesatee.errors import Malformed, Unavailable
from mesatee.table import Table

xgb = pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")
LIBRARIES = ("xgboost", "lightgbm")


def cancer() -> pd.DataFrame:
    found = datasets.load_breast_cancer(as_frame=True).frame
    found.columns = [name.replace(" ", "_") for name in found.columns]
    found["person"] = range(1000, 1000 + len(found))
    return found


def value(metrics: Table, part: str, metric: str) -> float:
    (found,) = [
        row for row in metrics.to_arrow().to_pylist() if (row["part"], row["metric"]) == (part, metric)
    ]
    return found["value"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_of_three_parties_train_to_the_model_of_all_of_them_together(library: str) -> None:
    frame = cancer()
    names = [name for name in frame.columns if name not in ("person", "target")]
    parts = {"a": names[:10], "b": names[10:20], "c": [*names[20:], "target"]}
    split = {
        party: Table.from_pandas(frame[["person", *columns]].sample(frac=1, random_state=number))
        for number, (party, columns) in enumerate(parts.items())
    }
    options = {
        "label": "target",
        "objective": "binary",
        "library": library,
        "trees": 10,
        "depth": 3,
        "leaves": 8,
    }
    found = gbdt_train(split, how="columns", key="person", **options)
    whole = gbdt_train({"all": Table.from_pandas(frame.drop(columns="person"))}, **options)
    assert found.model == whole.model
    assert value(found.metrics, "train", "accuracy") > 0.97
    rows = Table.from_pandas(frame)
    predicted = gbdt_predict(found.model, rows, output="class", keep=["person", "target"])
    assert predicted.columns == ["person", "target", "prediction"]
    said = np.array([int(item) for item in predicted["prediction"].to_pylist()])
    assert (said == frame["target"]).mean() == pytest.approx(value(found.metrics, "train", "accuracy"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_order_of_rows_and_of_parties_does_not_show(library: str) -> None:
    frame = cancer()
    options = {"label": "target", "objective": "binary", "library": library, "trees": 5, "row_share": 0.5}
    one = gbdt_train({"a": Table.from_pandas(frame[:300]), "b": Table.from_pandas(frame[300:])}, **options)
    turned = frame.sample(frac=1, random_state=1)
    other = gbdt_train({"a": Table.from_pandas(turned[:77]), "b": Table.from_pandas(turned[77:])}, **options)
    assert one.model == other.model
    assert one.metrics == other.metrics
    assert gbdt_train({"a": Table.from_pandas(frame)}, seed=1, **options).model != one.model


def test_the_model_is_the_one_that_xgboost_makes() -> None:
    frame = datasets.load_diabetes(as_frame=True).frame
    found = gbdt_train({"a": Table.from_pandas(frame)}, label="target", trees=20, depth=4, learning_rate=0.1)
    features = frame.drop(columns="target")
    order = np.lexsort([*features.to_numpy().T, frame["target"]])
    data = xgb.DMatrix(features.iloc[order], frame["target"].iloc[order])
    options = {"max_depth": 4, "eta": 0.1, "nthread": 1, "max_bin": 255, "tree_method": "hist"}
    said = xgb.train(options, data, 20).inplace_predict(features)
    predicted = gbdt_predict(found.model, Table.from_pandas(features))["prediction"].to_numpy()
    assert (predicted == said).all()
    assert value(found.metrics, "train", "rmse") == pytest.approx(
        ((said - frame["target"]) ** 2).mean() ** 0.5
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_are_kept_out_for_a_test(library: str) -> None:
    frame = datasets.load_iris(as_frame=True).frame
    frame.columns = [name.replace(" ", "_").replace("(", "").replace(")", "") for name in frame.columns]
    frame["target"] = np.array(["setosa", "versicolor", "virginica"])[frame["target"]]
    frame.loc[3, "target"] = None
    found = gbdt_train(
        {"a": Table.from_pandas(frame)},
        label="target",
        objective="multiclass",
        library=library,
        trees=10,
        test_share=0.2,
    )
    rows = {row["part"]: row["rows"] for row in found.metrics.to_arrow().to_pylist()}
    assert rows == {"train": 119, "test": 30}
    assert value(found.metrics, "test", "accuracy") > 0.8
    predicted = gbdt_predict(found.model, Table.from_pandas(frame), output="class")["prediction"].to_pylist()
    names = ["setosa", "versicolor", "virginica"]
    said = predicted if library == "xgboost" else [names[place] for place in predicted]
    assert np.mean([a == b for a, b in zip(said, frame["target"], strict=True)]) > 0.9


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("objective", ["absolute", "poisson", "gamma", "ranking"])
def test_each_objective_learns(library: str, objective: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 3))
    label = np.clip(np.round(3 + 2 * x[:, 0]), 1, 9)
    frame = pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "c": rng.integers(0, 6, 400), "label": label})
    frame["query"] = rng.choice(["p", "q", "r"], 400)
    frame.loc[:9, "x"] = np.nan
    found = gbdt_train(
        {"a": Table.from_pandas(frame)},
        label="label",
        columns=["x", "y", "c"],
        categorical=["c"],
        weights=None,
        group="query" if objective == "ranking" else None,
        library=library,
        objective=objective,
        trees=30,
    )
    if objective == "ranking":
        assert value(found.metrics, "train", "ndcg") > 0.95
    else:
        assert value(found.metrics, "train", "r2") > 0.8


def table(**more: object) -> Table:
    return Table.from_dict({"x": [1.0, 2.0, 3.0, 4.0], "y": [0, 1, 0, 1], "t": ["a", "b", "a", "b"], **more})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"library": "catboost"}, "library is one of"),
        ({"objective": "survival"}, "objective is one of"),
        ({"trees": 0}, "trees is from 1"),
        ({"depth": 0}, "leaves is needed"),
        ({"learning_rate": 0.0}, "learning_rate is above 0"),
        ({"l2": -1.0}, "l2 is a number"),
        ({"test_share": 1.0}, "test_share"),
        ({"group": "t"}, "objective=ranking alone"),
        ({"objective": "ranking"}, "group names"),
        ({"label": "no"}, "no column 'no'"),
        ({"columns": ["x", "y"]}, "are no features"),
        ({"columns": ["t"]}, "not numbers"),
        ({"categorical": ["t"]}, "which is no feature"),
        ({"categorical": ["half"]}, "no whole numbers"),
        ({"objective": "binary", "label": "x"}, "4 values, not two"),
        ({"objective": "multiclass", "label": "t"}, "fewer than three"),
        ({"objective": "gamma"}, "not above 0"),
        ({"label": "empty"}, "fewer than two rows"),
        ({"weights": "minus"}, "a weight is negative"),
        ({"columns": ["a<b"]}, "cannot name a feature"),
    ],
)
def test_what_cannot_be_trained_is_refused(given: dict, reason: str) -> None:
    more = {
        "half": [0.5, 1, 2, 3],
        "empty": [None, None, None, 1.0],
        "minus": [-1, 1, 1, 1],
        "a<b": [1, 2, 3, 4],
    }
    with pytest.raises(Malformed, match=reason):
        gbdt_train({"a": table(**more)}, **{"label": "y", **given})


def test_without_the_library_it_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="xgboost-cpu") as found:
        gbdt_train({"a": table()}, label="y")
    assert "mesatee[trees]" in (found.value.hint or "")
