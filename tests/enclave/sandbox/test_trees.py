"""Trees in real children."""

from __future__ import annotations

import numpy as np
import pytest

from mesatee.enclave.sandbox import OutputSpec

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
