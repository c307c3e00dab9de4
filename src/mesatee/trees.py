"""scikit-learn's trees as JSON of the kind `trees` (docs/trees.md), on the owner's machine: no pickle leaves it.

Imports nothing but the standard library and the errors: the confined child that reads pickles has no more.

>>> from sklearn.tree import DecisionTreeRegressor
>>> import json
>>> found = json.loads(from_sklearn(DecisionTreeRegressor().fit([[0.0], [1.0]], [5.0, 7.0])))
>>> found["trees"][0]["threshold"][0], found["trees"][0]["leaves"]
(0.5, [5.0, 7.0])
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mesatee.errors import Malformed

FORESTS: Final = (
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreeClassifier",
    "ExtraTreeRegressor",
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "RandomForestClassifier",
    "RandomForestRegressor",
)
BOOSTED: Final = ("GradientBoostingClassifier", "GradientBoostingRegressor")
HISTOGRAMS: Final = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
LINKS: Final = {
    "IdentityLink": ("identity", 1.0),
    "LogLink": ("exp", 1.0),
    "LogitLink": ("sigmoid", 1.0),
    "HalfLogitLink": ("sigmoid", 2.0),
    "MultinomialLogit": ("softmax", 1.0),
}
CATEGORIES: Final = 1 << 24
"""Categories are whole numbers from 0 to this."""


def from_sklearn(estimator: Any) -> bytes:
    """The JSON of a fitted estimator of `FORESTS`, `BOOSTED` or `HISTOGRAMS`.

    Raises `Malformed` for another one, one that is not fitted, several targets of classes, a starting estimator of the
    user's own, and categories that are no whole numbers.
    """
    kind = type(estimator).__name__
    if kind not in (*FORESTS, *BOOSTED, *HISTOGRAMS):
        raise Malformed(
            f"{kind} is no estimator of trees that can be converted",
            hint=f"there are {', '.join((*FORESTS, *BOOSTED, *HISTOGRAMS))}",
        )
    if not hasattr(estimator, "n_features_in_"):
        raise Malformed(f"the {kind} is not fitted")
    made = (
        _forest(estimator)
        if kind in FORESTS
        else _boosted(estimator)
        if kind in BOOSTED
        else _hist(estimator)
    )
    classes = getattr(estimator, "classes_", None)
    document = {
        "kind": "trees",
        "version": 1,
        "from": f"scikit-learn {kind}",
        "features": int(estimator.n_features_in_),
        "names": [str(name) for name in getattr(estimator, "feature_names_in_", ())],
        "classes": [] if classes is None else [str(value) for value in classes.tolist()],
        "sums": "float64",
        **made,
    }
    return json.dumps(document).encode()


def _tree(
    tree: Any, values: Iterable[Sequence[float]], output: int, width: int, categories: Sequence[Any] = ()
) -> dict[str, Any]:
    """A tree by its lists; `values` has those of each leaf in the order of the nodes."""
    feature, left, right = (list(map(int, part)) for part in (tree["feature"], tree["left"], tree["right"]))
    leaf = 0
    for at, child in enumerate(left):
        if child == -1:
            feature[at], left[at], right[at] = -1, leaf, 0
            leaf += 1
    made: dict[str, Any] = {
        "output": output,
        "width": width,
        "feature": feature,
        # Infinite where a split tells missing values from all others.
        "threshold": [min(float(value), sys.float_info.max) for value in tree["threshold"]],
        "left": left,
        "right": right,
        "missing_right": [int(not value) for value in tree["missing_left"]],
        "leaves": [float(value) for part in values for value in part],
    }
    if categories:
        made["categories"] = list(categories)
    return made


def _lists(tree: Any) -> dict[str, Any]:
    return {
        "feature": tree.feature.tolist(),
        "threshold": tree.threshold.tolist(),
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "missing_left": tree.missing_go_to_left.tolist(),
    }


def _leaves(tree: Any) -> Any:
    return tree.value[tree.children_left == -1]


def _forest(estimator: Any) -> dict[str, Any]:
    members = getattr(estimator, "estimators_", [estimator])
    classifies = hasattr(estimator, "classes_")
    if classifies and estimator.n_outputs_ > 1:
        raise Malformed("several targets of classes in one model: train one for each")
    width = int(estimator.n_classes_) if classifies else int(estimator.n_outputs_)
    trees = []
    for member in members:
        values = _leaves(member.tree_)
        values = values[:, 0, :width] if classifies else values[:, :, 0]
        trees.append(_tree(_lists(member.tree_), values.tolist(), 0, width))
    return {
        "outputs": width,
        "base": [0.0] * width,
        "divisor": float(len(members)),
        "values": "float32",
        "link": "probabilities" if classifies else "identity",
        "scale": 1.0,
        "trees": trees,
    }


def _link(loss: Any) -> dict[str, Any]:
    name = type(loss.link).__name__
    if name not in LINKS:
        raise Malformed(f"the loss {type(loss).__name__} has a link that is not known")
    link, scale = LINKS[name]
    return {"link": link, "scale": scale}


def _boosted(estimator: Any) -> dict[str, Any]:
    import numpy as np

    if estimator.init not in (None, "zero"):
        raise Malformed("the model starts from an estimator of its own (init), which is no tree")
    stages = estimator.estimators_
    outputs = stages.shape[1]
    nothing = np.zeros((1, estimator.n_features_in_), np.float32)
    trees = [
        _tree(
            _lists(member.tree_),
            (estimator.learning_rate * _leaves(member.tree_)[:, 0, :]).tolist(),
            number,
            1,
        )
        for stage in stages
        for number, member in enumerate(stage)
    ]
    return {
        "outputs": outputs,
        "base": [float(value) for value in estimator._raw_predict_init(nothing).ravel()],
        "divisor": 1.0,
        "values": "float32",
        "trees": trees,
        **_link(estimator._loss),
    }


def _hist(estimator: Any) -> dict[str, Any]:
    columns, known = _encoded(estimator)
    trees = []
    for stage in estimator._predictors:
        for number, predictor in enumerate(stage):
            nodes, sets = predictor.nodes, []
            leaf = nodes["is_leaf"].astype(bool)
            for at in ((nodes["is_categorical"] != 0) & ~leaf).nonzero()[0].tolist():
                node = nodes[at]
                words = predictor.raw_left_cat_bitsets[int(node["bitset_idx"])]
                goes = [bool(int(words[place >> 5]) >> (place & 31) & 1) for place in range(256)]
                values = known[int(node["feature_idx"])]
                sets.append(
                    {
                        "node": at,
                        "left": [value for place, value in values if goes[place]],
                        "right": [value for place, value in values if not goes[place]],
                        "other_right": not node["missing_go_to_left"],
                    }
                )
            tree = {
                "feature": [columns[int(place)] for place in nodes["feature_idx"]],
                "threshold": nodes["num_threshold"].tolist(),
                "left": [-1 if ends else int(child) for ends, child in zip(leaf, nodes["left"], strict=True)],
                "right": nodes["right"].tolist(),
                "missing_left": nodes["missing_go_to_left"].tolist(),
            }
            trees.append(_tree(tree, [[value] for value in nodes["value"][leaf]], number, 1, sets))
    base = [float(value) for value in estimator._baseline_prediction.ravel()]
    return {
        "outputs": len(base),
        "base": base,
        "divisor": 1.0,
        "values": "float64",
        "trees": trees,
        **_link(estimator._loss),
    }


def _encoded(estimator: Any) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
    """Which column each of the trees' features is, and for categories their numbers in the trees and their values."""
    count = int(estimator.n_features_in_)
    given = estimator.is_categorical_
    if estimator._preprocessor is None or given is None:
        return list(range(count)), {}
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    first = [place for place in range(count) if given[place]]
    columns = first + [place for place in range(count) if not given[place]]
    known: dict[int, list[tuple[int, int]]] = {}
    for place, values in enumerate(encoder.categories_):
        known[place] = []
        for number, value in enumerate(values.tolist()):
            if value != value:
                continue
            if isinstance(value, str) or value != int(value) or not 0 <= value < CATEGORIES:
                raise Malformed(
                    f"categories of the column {first[place]} are no whole numbers from 0 to {CATEGORIES}",
                    hint="encode them as numbers before training",
                )
            known[place].append((number, int(value)))
    return columns, known


__all__ = ["BOOSTED", "CATEGORIES", "FORESTS", "HISTOGRAMS", "LINKS", "from_sklearn"]
