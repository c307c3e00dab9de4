"""Random models of other libraries, and rows for them with missing and infinite values and values at thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

OBJECTIVES = (
    "reg:squarederror",
    "reg:logistic",
    "binary:logistic",
    "binary:logitraw",
    "binary:hinge",
    "count:poisson",
    "reg:gamma",
    "reg:tweedie",
    "reg:absoluteerror",
    "reg:pseudohubererror",
    "survival:cox",
    "multi:softprob",
    "multi:softmax",
    "rank:pairwise",
    "rank:ndcg",
)


@dataclass(frozen=True)
class Case:
    """A model, rows to predict, and what its library says; margins have one row for each row."""

    model: bytes
    rows: Any
    margin: Any
    response: Any
    said: str
    classes: bool = False
    """Whether the response is classes."""


def columns(rows: Any) -> list[Any]:
    """The columns, each contiguous."""
    return [np.ascontiguousarray(rows[:, number]) for number in range(rows.shape[1])]


def values(rng: Any, rows: int, features: int, dtype: Any = np.float32) -> Any:
    """Values with ties, missing ones, zeros of both signs, and tiny and huge ones."""
    found = rng.normal(size=(rows, features)) * 10.0 ** rng.integers(-2, 3, features)
    rounded = rng.random(features) < 0.4
    found[:, rounded] = np.round(found[:, rounded])
    found = found.astype(dtype)
    found[rng.random(found.shape) < rng.choice([0, 0.02, 0.3])] = np.nan
    return found


def infinite(rng: Any, rows: Any) -> Any:
    """The same with infinite values and zeros among them."""
    found = rows.copy()
    for value in (np.inf, -np.inf, 0.0, -0.0, 1e-36, np.finfo(rows.dtype).max):
        found[rng.random(found.shape) < 0.01] = value
    return found


def xgboost(seed: int, form: str = "ubj") -> Case:
    """A model of XGBoost."""
    import xgboost as xgb

    rng = np.random.default_rng(seed)
    objective = OBJECTIVES[seed % len(OBJECTIVES)]
    size, features = int(rng.integers(30, 400)), int(rng.integers(1, 12))
    rows = values(rng, size, features)
    kinds = ["q"] * features
    if seed % 3 == 0:
        for number in range(0, features, 2):
            count = int(rng.choice([2, 5, 40, 700]))
            gaps = np.isnan(rows[:, number])
            rows[:, number] = np.where(gaps, np.nan, rng.integers(0, count, size))
            kinds[number] = "c"
    classes = int(rng.integers(3, 6))
    known = np.nan_to_num(rows[:, 0]) + rng.normal(size=size)
    label = (known > np.median(known)).astype(float)
    options: dict[str, Any] = {
        "objective": objective,
        "max_depth": int(rng.integers(1, 12)),
        "eta": float(rng.choice([0.1, 0.3, 1.0])),
        "min_child_weight": float(rng.choice([0, 1, 5])),
        "lambda": float(rng.choice([0, 1])),
        "max_cat_to_onehot": int(rng.choice([1, 4, 1000])),
        "tree_method": str(rng.choice(["hist", "approx"] if "c" in kinds else ["hist", "exact", "approx"])),
        "max_bin": int(rng.choice([16, 256, 1024])),
        "nthread": 1,
        "seed": seed,
    }
    if objective.startswith("multi"):
        options["num_class"] = classes
        label = np.arange(size) % classes
    if objective in ("count:poisson", "reg:gamma", "reg:tweedie", "reg:squarederror", "survival:cox"):
        label = np.exp(0.3 * np.clip(known, -3, 3))
    if objective == "survival:cox":
        # Without it leaves may be infinite, and such models are refused.
        options["lambda"] = 1.0
    if rng.random() < 0.3 and options["tree_method"] == "hist":
        options |= {"grow_policy": "lossguide", "max_leaves": int(rng.integers(2, 400)), "max_depth": 0}
    if rng.random() < 0.2:
        options |= {"booster": "dart", "rate_drop": 0.5}
    if rng.random() < 0.2:
        options |= {"num_parallel_tree": 3, "subsample": 0.5}
    if rng.random() < 0.3 and objective.startswith(("reg:", "binary:")):
        options["base_score"] = 0.3
    if objective == "reg:squarederror" and rng.random() < 0.5:
        label = np.stack([label, -label, known], axis=1)
        whole = "c" not in kinds and options["tree_method"] == "hist" and options.get("booster") != "dart"
        if whole and rng.random() < 0.5:
            options["multi_strategy"] = "multi_output_tree"
    data = xgb.DMatrix(rows, label, feature_types=kinds, enable_categorical=True)
    if objective.startswith("rank"):
        data.set_group([size // 3, size - size // 3])
    booster = xgb.train(options, data, int(rng.integers(1, 40)))
    asked = values(rng, 300, features)
    for number, kind in enumerate(kinds):
        if kind == "c":
            asked[:, number] = np.where(
                rng.random(300) < 0.1, np.nan, rng.choice([-1, 0.5, *range(50), 699, 2.0**24], 300)
            )
    numbers = [number for number, kind in enumerate(kinds) if kind == "q"]
    # Values at the thresholds themselves, which training took from its rows.
    asked[:30, numbers] = rows[rng.integers(0, size, 30)][:, numbers]
    asked[:, numbers] = infinite(rng, asked[:, numbers])
    with np.errstate(all="ignore"):
        margin = booster.inplace_predict(asked, predict_type="margin")
        response = booster.inplace_predict(asked)
    return Case(
        bytes(booster.save_raw(form)),
        asked,
        margin,
        response,
        f"{seed} {options}",
        objective == "multi:softmax",
    )
