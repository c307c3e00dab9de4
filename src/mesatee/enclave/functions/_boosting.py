"""XGBoost and LightGBM by one set of words: parameters, training, and the model's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions import _boosters
from mesatee.errors import Malformed

LIBRARIES: Final = ("xgboost", "lightgbm")
OBJECTIVES: Final = {
    "regression": ("reg:squarederror", "regression"),
    "absolute": ("reg:absoluteerror", "regression_l1"),
    "poisson": ("count:poisson", "poisson"),
    "gamma": ("reg:gamma", "gamma"),
    "binary": ("binary:logistic", "binary"),
    "multiclass": ("multi:softprob", "multiclass"),
    "ranking": ("rank:ndcg", "lambdarank"),
}
"""Our word, XGBoost's, LightGBM's."""
AWKWARD: Final = {"xgboost": "[]<", "lightgbm": ' \t\n\r\v\f",:[]{}='}
"""Characters that the library's format cannot have in a feature's name."""
TREES, DEPTH, LEAVES, BINS = 10_000, 30, 65_536, 65_535
"""The most that can be asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How to train. Raises `Malformed` for what is out of range."""

    library: str
    objective: str
    trees: int
    depth: int
    leaves: int
    learning_rate: float
    l1: float
    l2: float
    least_weight: float
    row_share: float
    column_share: float
    bins: int
    seed: int
    threads: int

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise Malformed(f"library is one of {', '.join(LIBRARIES)}")
        if self.objective not in OBJECTIVES:
            raise Malformed(f"objective is one of {', '.join(OBJECTIVES)}")
        for name, least, most in (
            ("trees", 1, TREES),
            ("depth", 0, DEPTH),
            ("leaves", 0, LEAVES),
            ("bins", 2, BINS),
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 256),
        ):
            if not least <= getattr(self, name) <= most:
                raise Malformed(f"{name} is from {least} to {most}")
        for name in ("l1", "l2", "least_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise Malformed(f"{name} is a number of 0 or more")
        for name in ("learning_rate", "row_share", "column_share"):
            if not 0 < getattr(self, name) <= 1:
                raise Malformed(f"{name} is above 0 and at most 1")
        if self.depth == 0 and self.leaves < 2:
            raise Malformed("depth 0 is no limit, and then leaves is needed: 2 or more")


@dataclass(frozen=True, slots=True)
class Rows:
    """Features in float64 with NaN for what is missing, and for each row its label, weight and group, if there are."""

    features: Any
    names: list[str]
    categorical: list[str]
    label: Any
    weight: Any | None
    groups: Any | None
    """The number of each row's group; rows of a group follow each other."""

    def sizes(self) -> Any:
        """How many rows each group has, in the order of the rows; None without groups."""
        import numpy as np

        return None if self.groups is None else np.unique(self.groups, return_counts=True)[1]


def train(asked: Asked, rows: Rows, classes: list[str]) -> bytes:
    """The model in its library's own format. Raises `Malformed` and `Unavailable`."""
    for name in rows.names:
        if set(name) & set(AWKWARD[asked.library]) or not (name.isascii() or asked.library == "xgboost"):
            raise Malformed(
                f"models of {asked.library} cannot name a feature {name!r}", hint="rename the column"
            )
    if asked.library == "xgboost":
        return _boosters.xgboost(_for_xgboost(asked, classes), rows, asked.trees, classes)
    return _boosters.lightgbm(_for_lightgbm(asked, classes), rows, asked.trees)


def _for_xgboost(asked: Asked, classes: list[str]) -> dict[str, Any]:
    options = {
        "objective": OBJECTIVES[asked.objective][0],
        "tree_method": "hist",
        "max_depth": asked.depth,
        "max_leaves": asked.leaves,
        "grow_policy": "lossguide" if asked.leaves else "depthwise",
        "learning_rate": asked.learning_rate,
        "reg_alpha": asked.l1,
        "reg_lambda": asked.l2,
        "min_child_weight": asked.least_weight,
        "subsample": asked.row_share,
        "colsample_bytree": asked.column_share,
        "max_bin": asked.bins,
        "seed": asked.seed,
        "nthread": asked.threads,
        # Its errors are raised; nothing else that it says is for anybody.
        "verbosity": 0,
    }
    return options | ({"num_class": len(classes)} if asked.objective == "multiclass" else {})


def _for_lightgbm(asked: Asked, classes: list[str]) -> dict[str, Any]:
    options = {
        "objective": OBJECTIVES[asked.objective][1],
        "max_depth": asked.depth or -1,
        "num_leaves": asked.leaves or min(2**asked.depth, LEAVES),
        "learning_rate": asked.learning_rate,
        "lambda_l1": asked.l1,
        "lambda_l2": asked.l2,
        "min_sum_hessian_in_leaf": asked.least_weight,
        "min_data_in_leaf": 1,
        "bagging_fraction": asked.row_share,
        "bagging_freq": int(asked.row_share < 1),
        "feature_fraction": asked.column_share,
        "max_bin": asked.bins,
        "seed": asked.seed,
        "num_threads": asked.threads,
        "deterministic": "true",
        "force_row_wise": "true",
        "verbosity": -1,
    }
    return options | ({"num_class": len(classes)} if asked.objective == "multiclass" else {})


__all__ = ["LIBRARIES", "OBJECTIVES", "Asked", "Rows", "train"]
