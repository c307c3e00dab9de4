"""scikit-learn's models: trees and linear ones as JSON documents of MesaTEE's, all others as ONNX by skl2onnx.

The file is a pickle, which is code: it runs here, in the confined child, and nowhere else.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import joblib
import numpy as np
import sklearn
from mesatee_converting import OPSET, SEED, Refused, answer
from sklearn import ensemble, linear_model, tree
from sklearn.exceptions import InconsistentVersionWarning

VERSIONS = {"scikit-learn": sklearn.__version__}
ROWS = 256
FORESTS = (
    ensemble.RandomForestClassifier,
    ensemble.RandomForestRegressor,
    ensemble.ExtraTreesClassifier,
    ensemble.ExtraTreesRegressor,
)
TREES = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
BOOSTED = (ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor)
HISTOGRAM = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)
LINEAR = (
    linear_model.ElasticNet,
    linear_model.Lasso,
    linear_model.LinearRegression,
    linear_model.Ridge,
    linear_model.LogisticRegression,
)


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """By the class of the model."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", InconsistentVersionWarning)
    try:
        model = joblib.load(job["model"])
    except InconsistentVersionWarning as error:
        raise Refused(
            f"the model was written by scikit-learn {error.original_sklearn_version}, and this is "
            f"{sklearn.__version__}",
            "name the site-packages of the environment that wrote it by --packages",
        ) from None
    if not isinstance(model, sklearn.base.BaseEstimator):
        raise Refused(f"the file holds a {type(model).__name__}, and no model of scikit-learn")
    sklearn.utils.validation.check_is_fitted(model)
    features = int(model.n_features_in_)
    found = getattr(model, "feature_names_in_", None)
    names = [f"f{number}" for number in range(features)] if found is None else [str(name) for name in found]
    exact = type(model)
    if exact in (*TREES, *FORESTS, *BOOSTED, *HISTOGRAM):
        document = _trees(model, exact, names)
        return _done("trees", document, model, names, _near(document, features, job), job)
    if exact in LINEAR and (document := _linear(model, names)) is not None:
        random = np.random.default_rng(SEED)
        return _done("linear", document, model, names, _given(job, features, random), job)
    return _onnx(model, features, job)


def _done(
    kind: str, document: dict[str, Any], model: Any, names: list[str], rows: np.ndarray, job: dict[str, Any]
) -> dict[str, Any]:
    expected = {"prediction": _expected(model, rows)}
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    said = answer(text, {"rows": rows}, expected, VERSIONS)
    return {**said, "kind": kind, "columns": names}


def _expected(model: Any, rows: np.ndarray) -> np.ndarray:
    if hasattr(model, "feature_names_in_"):
        import pandas as pd

        rows = pd.DataFrame(rows, columns=list(model.feature_names_in_))
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(rows), np.float64).reshape(len(rows), -1)
    found = np.asarray(model.predict_proba(rows), np.float64)
    # One sum for two classes: what it says is the probability of the second.
    one = found.shape[1] == 2 and type(model) in (*BOOSTED, *HISTOGRAM)
    return found[:, 1:] if one else found


def _given(job: dict[str, Any], features: int, random: np.random.Generator) -> np.ndarray:
    path = job.get("sample")
    if path is None:
        return random.standard_normal((ROWS, features))
    if path.endswith(".csv"):
        rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    elif path.endswith(".npy"):
        rows = np.load(path, allow_pickle=False)
    else:
        raise Refused("a sample of rows is a .csv with a line of names, or an .npy")
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != features or not len(rows):
        raise Refused(f"the sample is rows of {features} numbers")
    return rows


def _near(document: dict[str, Any], features: int, job: dict[str, Any]) -> np.ndarray:
    """Rows on the thresholds, beside them and between them, and some values that are missing."""
    random = np.random.default_rng(SEED)
    if job.get("sample"):
        return _given(job, features, random)
    known: list[list[float]] = [[0.0] for _ in range(features)]
    for item in document["trees"]:
        for feature, threshold in zip(item["feature"], item["threshold"], strict=True):
            if feature >= 0 and abs(threshold) < np.finfo(np.float32).max:
                known[feature].append(threshold)
    columns = []
    for values in known:
        chosen = random.choice(np.asarray(values), ROWS)
        spread = (max(values) - min(values) or 1.0) / 4
        moved = np.where(random.random(ROWS) < 0.5, 0.0, random.standard_normal(ROWS) * spread)
        columns.append(chosen + moved)
    rows = np.stack(columns, axis=1)
    if document["values"] == "float32":
        # As the library rounds them, so that the table holds what it compares.
        rows = rows.astype(np.float32).astype(np.float64)
    if document.pop("takes_missing"):
        rows[random.random(rows.shape) < 0.05] = np.nan
    return rows


# -- trees -----------------------------------------------------------------------------------------


def _trees(model: Any, exact: type, names: list[str]) -> dict[str, Any]:
    classes = [str(name) for name in getattr(model, "classes_", ())]
    if getattr(model, "n_outputs_", 1) != 1 and classes:
        raise Refused("a classifier of several outputs is not converted", "convert one model for each output")
    document: dict[str, Any] = {
        "kind": "trees",
        "version": 1,
        "from": f"scikit-learn {sklearn.__version__}",
        "features": len(names),
        "names": names if hasattr(model, "feature_names_in_") else [],
        "classes": classes,
        "divisor": 1.0,
        "sums": "float64",
        "values": "float32",
        "scale": 1.0,
    }
    missing = bool(sklearn.utils.get_tags(model).input_tags.allow_nan)
    if exact in (*TREES, *FORESTS):
        grown = [model] if exact in TREES else list(model.estimators_)
        outputs = len(classes) or int(model.n_outputs_)
        document |= {"outputs": outputs, "base": [0.0] * outputs, "divisor": float(len(grown))}
        document["link"] = "probabilities" if classes else "identity"
        document["trees"] = [_grown(item.tree_, 0, bool(classes), 1.0) for item in grown]
        return {**document, "takes_missing": missing}
    if exact in HISTOGRAM:
        return {**document, **_histogram(model, classes), "values": "float64", "takes_missing": missing}
    rate = float(model.learning_rate)
    if model.init_ != "zero" and not type(model.init_).__module__.startswith("sklearn.dummy"):
        raise Refused("the model starts from another model (init), which is not converted")
    outputs = model.estimators_.shape[1]
    base = model._raw_predict_init(np.zeros((1, len(names)), np.float32))[0]
    document |= {"outputs": outputs, "base": [float(value) for value in base], "link": "identity"}
    if classes:
        document["link"] = "sigmoid" if outputs == 1 else "softmax"
        document["scale"] = 2.0 if model.loss == "exponential" else 1.0
        document["classes"] = [] if outputs == 1 else classes
    document["trees"] = [
        _grown(item.tree_, place, False, rate)
        for stage in model.estimators_
        for place, item in enumerate(stage)
    ]
    return {**document, "takes_missing": missing}


def _grown(item: Any, output: int, shares: bool, factor: float) -> dict[str, Any]:
    """One tree; the values of a leaf are shares of the classes, or numbers times `factor`."""
    values = np.asarray(item.value, np.float64)
    flat = values[:, 0, :] if shares else values[:, :, 0]
    if shares:
        whole = flat.sum(axis=1, keepdims=True)
        flat = flat / np.where(whole == 0, 1.0, whole)
    flat = flat * factor
    feature, threshold, left, right, missing, leaves = [], [], [], [], [], []
    for node in range(item.node_count):
        if item.children_left[node] == -1:
            feature.append(-1)
            threshold.append(0.0)
            left.append(len(leaves) // flat.shape[1])
            right.append(0)
            missing.append(0)
            leaves += [float(value) for value in flat[node]]
            continue
        feature.append(int(item.feature[node]))
        # Infinite where a split tells missing values from all others.
        threshold.append(float(min(item.threshold[node], np.finfo(np.float64).max)))
        left.append(int(item.children_left[node]))
        right.append(int(item.children_right[node]))
        missing.append(int(not item.missing_go_to_left[node]))
    return {
        "output": output,
        "width": int(flat.shape[1]),
        "feature": feature,
        "threshold": threshold,
        "left": left,
        "right": right,
        "missing_right": missing,
        "leaves": leaves,
    }


def _histogram(model: Any, classes: list[str]) -> dict[str, Any]:
    if getattr(model, "is_categorical_", None) is not None and any(model.is_categorical_):
        raise Refused(
            "the model has categorical features, which it orders by itself",
            "encode categories as numbers before the model, and train it again",
        )
    trees = []
    for stage in model._predictors:
        for place, item in enumerate(stage):
            nodes = item.nodes
            feature, threshold, left, right, missing, leaves = [], [], [], [], [], []
            for node in nodes:
                if node["is_leaf"]:
                    feature.append(-1)
                    threshold.append(0.0)
                    left.append(len(leaves))
                    right.append(0)
                    missing.append(0)
                    leaves.append(float(node["value"]))
                    continue
                feature.append(int(node["feature_idx"]))
                # Infinite where a split tells missing values from all others.
                threshold.append(float(min(node["num_threshold"], np.finfo(np.float64).max)))
                left.append(int(node["left"]))
                right.append(int(node["right"]))
                missing.append(int(not node["missing_go_to_left"]))
            trees.append(
                {
                    "output": place,
                    "width": 1,
                    "feature": feature,
                    "threshold": threshold,
                    "left": left,
                    "right": right,
                    "missing_right": missing,
                    "leaves": leaves,
                }
            )
    base = [float(value) for value in np.ravel(model._baseline_prediction)]
    link = "identity"
    if classes:
        link = "sigmoid" if len(base) == 1 else "softmax"
    elif model.loss in ("gamma", "poisson"):
        link = "exp"
    return {
        "outputs": len(base),
        "base": base,
        "link": link,
        "classes": [] if len(base) == 1 else classes,
        "trees": trees,
    }


# -- linear ----------------------------------------------------------------------------------------


def _linear(model: Any, names: list[str]) -> dict[str, Any] | None:
    """None for what the document has no place for: several classes or targets."""
    coefficients = np.asarray(model.coef_, np.float64)
    classes = getattr(model, "classes_", None)
    if coefficients.ndim == 2 and coefficients.shape[0] != 1:
        return None
    if classes is not None and len(classes) != 2:
        return None
    return {
        "kind": "linear",
        "version": 1,
        "columns": [{"name": name, "levels": None, "reference": None} for name in names],
        "family": "gaussian" if classes is None else "binomial",
        "link": "identity" if classes is None else "logit",
        "intercept": float(np.ravel(model.intercept_)[0]),
        "coefficients": [float(value) for value in coefficients.ravel()],
        "offset": None,
        "classes": None if classes is None else np.asarray(classes).tolist(),
    }


# -- the others ------------------------------------------------------------------------------------


def _onnx(model: Any, features: int, job: dict[str, Any]) -> dict[str, Any]:
    try:
        import onnx
        import skl2onnx
    except ImportError:
        return {"needs": "skl2onnx", "files": {}}
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    try:
        made = skl2onnx.convert_sklearn(
            model,
            initial_types=[("rows", FloatTensorType([None, features]))],
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": 3},
        )
    except NameError:
        raise Refused(f"a {type(model).__name__} is not converted by skl2onnx either") from None
    except RuntimeError as error:
        raise Refused(f"skl2onnx does not convert the model: {str(error).splitlines()[0][:200]}") from None
    # The same set of operators may stand there several times; the newest is what counts.
    sets = {
        item.domain: max(other.version for other in made.opset_import if other.domain == item.domain)
        for item in made.opset_import
    }
    del made.opset_import[:]
    made.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in sets.items())
    rows = _given(job, features, np.random.default_rng(SEED)).astype(np.float32)
    outputs = [item.name for item in made.graph.output]
    if hasattr(model, "predict_proba"):
        expected = {outputs[-1]: np.asarray(model.predict_proba(rows), np.float32)}
    elif hasattr(model, "predict"):
        found = np.asarray(model.predict(rows))
        if found.dtype.kind not in "fiub":
            raise Refused(
                "the model gives texts, which are compared by nobody", "train it on numbers of classes"
            )
        shape = made.graph.output[0].type.tensor_type.shape.dim
        expected = {outputs[0]: found.reshape(len(rows), -1) if len(shape) == 2 else found}
        if found.dtype.kind == "f":
            expected = {name: value.astype(np.float32) for name, value in expected.items()}
    else:
        expected = {outputs[0]: np.asarray(model.transform(rows), np.float32)}
    versions = {**VERSIONS, "skl2onnx": skl2onnx.__version__, "onnx": onnx.__version__}
    return answer(made.SerializeToString(), {"rows": rows}, expected, versions)
