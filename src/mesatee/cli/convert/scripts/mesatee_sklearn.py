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
from sklearn import linear_model
from sklearn.exceptions import InconsistentVersionWarning

from mesatee.errors import Malformed
from mesatee.trees import BOOSTED, FORESTS, HISTOGRAMS, from_sklearn

VERSIONS = {"scikit-learn": sklearn.__version__}
ROWS = 256
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
    if exact.__name__ in (*FORESTS, *BOOSTED, *HISTOGRAMS) and exact.__module__.startswith("sklearn."):
        document = _trees(model)
        return _done("trees", document, model, names, _near(document, model, job), job)
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
    one = found.shape[1] == 2 and type(model).__name__ in (*BOOSTED, *HISTOGRAMS)
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


def _near(document: dict[str, Any], model: Any, job: dict[str, Any]) -> np.ndarray:
    """Rows on the thresholds, beside them and between them, and some values that are missing."""
    random, features = np.random.default_rng(SEED), document["features"]
    if job.get("sample"):
        return _given(job, features, random)
    known: list[list[float]] = [[0.0] for _ in range(features)]
    named: dict[int, set[int]] = {}
    for item in document["trees"]:
        for part in item.get("categories", ()):
            # Those that the split names, and one that no split does.
            found = {*part["left"], *part["right"]}
            named.setdefault(item["feature"][part["node"]], set()).update(found, [max(found, default=0) + 1])
        for feature, threshold in zip(item["feature"], item["threshold"], strict=True):
            if feature >= 0 and abs(threshold) < np.finfo(np.float32).max:
                known[feature].append(threshold)
    columns = []
    for feature, values in enumerate(known):
        if feature in named:
            columns.append(random.choice(sorted(named[feature]), ROWS).astype(np.float64))
            continue
        chosen = random.choice(np.asarray(values), ROWS)
        spread = (max(values) - min(values) or 1.0) / 4
        moved = np.where(random.random(ROWS) < 0.5, 0.0, random.standard_normal(ROWS) * spread)
        columns.append(chosen + moved)
    rows = np.stack(columns, axis=1)
    if document["values"] == "float32":
        # As the library rounds them, so that the table holds what it compares.
        rows = rows.astype(np.float32).astype(np.float64)
    if sklearn.utils.get_tags(model).input_tags.allow_nan:
        rows[random.random(rows.shape) < 0.05] = np.nan
    return rows


# -- trees -----------------------------------------------------------------------------------------


def _trees(model: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(from_sklearn(model))
    except Malformed as error:
        raise Refused(error.message, error.hint) from None
    return {**found, "from": f"scikit-learn {sklearn.__version__}"}


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
