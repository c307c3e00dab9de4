"""Trees in real children."""

from __future__ import annotations

import numpy as np
import pytest

from mesatee._core import TreeModel
from mesatee.enclave.sandbox import Limits, OutputSpec

xgb = pytest.importorskip("xgboost")
NAMES = ["age", "dose", "weight"]
ROWS = np.random.default_rng(8).normal(size=(200, 3)).astype(np.float32)


def test_a_child_predicts_what_xgboost_predicts(run_builtin):
    data = xgb.DMatrix(ROWS, ROWS[:, 0] > ROWS[:, 1], feature_names=NAMES)
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, data, 5)
    model = bytes(booster.save_raw("ubj"))
    csv = ",".join(NAMES) + "\n" + "".join(",".join(map(repr, map(float, row))) + "\n" for row in ROWS)
    result = run_builtin(
        "gbdt_predict",
        {"model": ("bytes", model), "rows": ("csv", csv.encode())},
        OutputSpec("csv"),
        output="margin",
        threads=2,
    )
    assert result.failure is None, result.text
    found = [float(line) for line in result.outputs["result"].decode().split("\n")[1:-1]]
    assert np.float32(found).tolist() == booster.inplace_predict(ROWS, predict_type="margin").tolist()
    assert "5 trees, 3 features, 1 outputs; 200 rows" in result.text


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_child_trains(run_builtin, library):
    """The libraries are loaded in the child, after it has closed itself in."""
    rows = "x,y,label\n" + "".join(f"{x!r},{y!r},{int(x > y)}\n" for x, y, _ in ROWS.astype(float).tolist())
    result = run_builtin(
        "gbdt_train",
        {"a": ("csv", rows.encode())},
        {"model": OutputSpec("bytes"), "metrics": OutputSpec("csv")},
        Limits(seconds=60, threads=1),
        label="label",
        objective="binary",
        library=library,
        trees=3,
    )
    assert result.failure is None, result.text
    assert b'"train","accuracy"' in result.outputs["metrics"]
    assert TreeModel(result.outputs["model"]).kind.startswith(library)
