"""Runs a model of XGBoost or LightGBM by its own library, for comparison: the file is taken as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from mesatee_converting import SEED, Refused, answer

ROWS = 256


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """What the library makes of rows that were given or made up."""
    rows = _rows(job, int(job["features"]))
    if job["from"] == "xgboost":
        import xgboost

        model = xgboost.Booster(params={"nthread": 1}, model_file=job["model"])
        # By place: names are the table's business.
        model.feature_names = None
        found = model.inplace_predict(rows, validate_features=False)
        versions = {"xgboost": xgboost.__version__}
    else:
        import lightgbm

        model = lightgbm.Booster(model_file=job["model"])
        found = model.predict(rows, num_threads=1)
        versions = {"lightgbm": lightgbm.__version__}
    expected = np.asarray(found, np.float64).reshape(len(rows), -1)
    return answer(b"", {"rows": rows}, {"prediction": expected}, versions)


def _rows(job: dict[str, Any], features: int) -> np.ndarray:
    path = job.get("sample")
    if path is None:
        random = np.random.default_rng(SEED)
        # In float32, so that both sides get the same numbers; a twentieth is missing.
        rows = random.standard_normal((ROWS, features)).astype(np.float32).astype(np.float64)
        rows[random.random(rows.shape) < 0.05] = np.nan
        return rows
    if path.endswith(".csv"):
        rows = np.genfromtxt(path, delimiter=",", skip_header=1)
    elif path.endswith(".npy"):
        rows = np.load(path, allow_pickle=False)
    else:
        raise Refused("a sample of rows is a .csv with a line of names, or an .npy")
    rows = np.asarray(rows, np.float64).reshape(-1, features)
    return rows
