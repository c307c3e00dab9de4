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


LIGHT_OBJECTIVES = (
    "regression",
    "regression_l1",
    "huber",
    "poisson",
    "gamma",
    "tweedie",
    "binary",
    "multiclass",
    "multiclassova",
    "cross_entropy",
    "cross_entropy_lambda",
    "lambdarank",
)


def lightgbm(seed: int) -> Case:
    """A model of LightGBM; rows are float64, and float32 for every other seed."""
    import lightgbm as lgb

    rng = np.random.default_rng(seed)
    objective = LIGHT_OBJECTIVES[seed % len(LIGHT_OBJECTIVES)]
    size, features = int(rng.integers(60, 600)), int(rng.integers(1, 12))
    dtype = np.float32 if seed % 2 else np.float64
    rows = values(rng, size, features, dtype)
    rows[rng.random(rows.shape) < 0.1] = 0
    categories = []
    if seed % 3 == 0:
        categories = list(range(0, features, 2))
        for number in categories:
            count = int(rng.choice([2, 5, 40, 700]))
            gaps = np.isnan(rows[:, number])
            rows[:, number] = np.where(gaps, np.nan, rng.integers(0, count, size))
    known = np.nan_to_num(rows[:, 0]).astype(float) + rng.normal(size=size)
    label = (known > np.median(known)).astype(float)
    options: dict[str, Any] = {
        "objective": objective,
        "num_leaves": int(rng.choice([2, 7, 31, 400])),
        "max_depth": int(rng.choice([-1, 3, 8])),
        "max_bin": int(rng.choice([15, 255, 2000])),
        "min_data_in_leaf": int(rng.choice([1, 20])),
        "min_data_per_group": 1,
        "cat_smooth": 1.0,
        "use_missing": bool(rng.random() < 0.8),
        "zero_as_missing": bool(rng.random() < 0.3),
        "verbosity": -1,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
    }
    if objective.startswith("multi"):
        options["num_class"] = 4
        label = np.arange(size) % 4
    if objective in ("regression", "regression_l1", "huber", "poisson", "gamma", "tweedie"):
        label = np.exp(0.3 * np.clip(known, -3, 3))
    if objective == "regression":
        options["reg_sqrt"] = bool(rng.random() < 0.5)
    if objective == "binary":
        options["sigmoid"] = float(rng.choice([1.0, 0.7]))
    if rng.random() < 0.2:
        options |= {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
    elif rng.random() < 0.2:
        options |= {"boosting": "dart"}
    group = [size // 3, size - size // 3] if objective == "lambdarank" else None
    data = lgb.Dataset(rows, label, group=group, categorical_feature=categories)
    booster = lgb.train(options, data, int(rng.integers(1, 40)))
    asked = values(rng, 300, features, dtype)
    for number in categories:
        asked[:, number] = np.where(
            rng.random(300) < 0.1, np.nan, rng.choice([-1, -0.5, 0.5, *range(50), 699, 2.0**24], 300)
        )
    numbers = [number for number in range(features) if number not in categories]
    asked[:30, numbers] = rows[rng.integers(0, size, 30)][:, numbers]
    asked[:, numbers] = infinite(rng, asked[:, numbers])
    margin = booster.predict(asked, raw_score=True, num_threads=1)
    response = booster.predict(asked, num_threads=1)
    return Case(booster.model_to_string().encode(), asked, margin, response, f"{seed} {options}")


ESTIMATORS = (
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreesClassifier",
    "RandomForestClassifier",
    "RandomForestRegressor",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor",
    "HistGradientBoostingClassifier",
    "HistGradientBoostingRegressor",
)


def sklearn(seed: int) -> Case:
    """A model of scikit-learn, converted; rows have no infinite values, which it refuses."""
    from sklearn import ensemble, tree

    from mesatee.trees import from_sklearn

    rng = np.random.default_rng(seed)
    name = ESTIMATORS[seed % len(ESTIMATORS)]
    size, features = int(rng.integers(30, 400)), int(rng.integers(1, 10))
    rows = values(rng, size, features, np.float64)
    asked = values(rng, 300, features, np.float64)
    options: dict[str, Any] = {"random_state": seed}
    if name.startswith("Hist"):
        options |= {"max_iter": int(rng.integers(1, 20)), "min_samples_leaf": 2, "early_stopping": False}
        if rng.random() < 0.5:
            options["categorical_features"] = list(range(0, features, 2))
            for number in options["categorical_features"]:
                for some in (rows, asked):
                    gaps = np.isnan(some[:, number])
                    some[:, number] = np.where(gaps, np.nan, rng.integers(0, 40, len(some)) * 3)
        if name.endswith("Regressor"):
            options["loss"] = str(rng.choice(["squared_error", "absolute_error", "poisson", "gamma"]))
    elif name.startswith(("Gradient", "Random", "Extra")):
        options |= {"n_estimators": int(rng.integers(1, 20)), "max_depth": int(rng.choice([2, 5, 12]))}
    if name.startswith("Gradient"):
        # It takes no missing values.
        rows, asked = np.nan_to_num(rows), np.nan_to_num(asked)
        if rng.random() < 0.3:
            options["init"] = "zero"
    known = np.nan_to_num(rows[:, 0]) + rng.normal(size=size)
    if name.endswith("Classifier"):
        label = (known > np.median(known)).astype(int)
        if rng.random() < 0.5:
            label = np.arange(size) % 4
        elif name.startswith("Gradient"):
            options["loss"] = str(rng.choice(["log_loss", "exponential"]))
    else:
        label = np.exp(0.1 * np.clip(known, -3, 3))
        if name in ("DecisionTreeRegressor", "RandomForestRegressor") and rng.random() < 0.5:
            label = np.stack([label, -label], 1)
    made = getattr(ensemble, name, None) or getattr(tree, name)
    estimator = made(**options).fit(rows, label)
    asked[:30] = rows[rng.integers(0, size, 30)]
    if not name.endswith("Classifier"):
        response = estimator.predict(asked)
    else:
        response = estimator.predict_proba(asked)
        boosted = name.startswith(("Gradient", "Hist"))
        response = response[:, 1] if boosted and response.shape[1] == 2 else response
    return Case(from_sklearn(estimator), asked, None, response, f"{seed} {name} {options}")
