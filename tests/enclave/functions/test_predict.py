"""Predictions, against those of the libraries that trained on the same table."""

from __future__ import annotations

import copy
import datetime
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from tests.support.learners import agree, column, one, table

from mesatee.enclave.functions.glm import glm
from mesatee.enclave.functions.k_means import k_means
from mesatee.enclave.functions.linear_regression import linear_regression
from mesatee.enclave.functions.logistic_regression import logistic_regression
from mesatee.enclave.functions.predict import predict
from mesatee.enclave.functions.svm import svm
from mesatee.errors import InputError, Malformed
from mesatee.protocol import learned
from mesatee.table import Table

AGE = learned.Feature(name="age", levels=None, reference=None)
ARM = learned.Feature(name="arm", levels=("new", "old", "é"), reference="old")


def line(**changes: Any) -> learned.Linear:
    return learned.Linear(
        **{
            "kind": "linear",
            "version": 1,
            "columns": (AGE, ARM),
            "family": "gaussian",
            "link": "identity",
            "intercept": 1.0,
            "coefficients": (2.0, 10.0, 100.0),
            "offset": None,
            "classes": None,
            **changes,
        }
    )


def says(document: learned.Document, rows: Table, **arguments: Any) -> dict[str, list[Any]]:
    return predict(learned.write(document), rows, **arguments).to_dict()


def test_levels_nulls_and_what_the_model_does_not_know(capsys):
    rows = Table.from_dict(
        {
            "id": list("abcdefg"),
            "arm": ["old", "new", "é", None, "other", "new", "new"],
            "age": [1.0, 2.0, 3.0, 4.0, 5.0, None, math.nan],
        }
    )
    found = says(line(), rows, keep="id")
    assert found == {"id": list("abcdefg"), "prediction": [3.0, 15.0, 107.0, None, None, None, None]}
    said = capsys.readouterr().err
    assert "1 rows have a level that the model does not know" in said
    assert "3 of 7 rows have a prediction" in said
    assert "other" not in said


def test_an_offset_and_each_link():
    rows = Table.from_dict({"age": [0.1, 0.2, None], "arm": ["old"] * 3, "e": [0.5, None, 1.0]})
    small = line(coefficients=(2.0, 0.0, 0.0), offset="e", intercept=-1.0)
    eta = -1 + 0.2 + 0.5
    for link, family, mean in (
        ("identity", "gaussian", eta),
        ("log", "poisson", math.exp(eta)),
        ("logit", "binomial", 1 / (1 + math.exp(-eta))),
        ("probit", "binomial", 0.5 * math.erfc(-eta / math.sqrt(2))),
        ("cloglog", "binomial", 1 - math.exp(-math.exp(eta))),
        ("inverse", "gamma", 1 / eta),
        ("inverse_squared", "inverse_gaussian", None),
    ):
        found = says(small.model_copy(update={"link": link, "family": family}), rows)["prediction"]
        assert found[1:] == [None, None]
        assert found[0] is None if mean is None else agree(found[0], mean)


def test_what_is_too_large_has_no_prediction():
    rows = Table.from_dict({"age": [1e300, 2.0], "arm": ["old", "old"]})
    assert says(line(coefficients=(1e300, 0.0, 0.0)), rows)["prediction"] == [None, 2e300]
    poisson = line(link="log", family="poisson", coefficients=(500.0, 0.0, 0.0))
    assert says(poisson, rows)["prediction"] == [None, None]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["text", "integer", "truth", "date", "number"]))
def test_classes_and_levels_of_every_type_come_back(seed, kind):
    """As the training data had them: by way of CSV too, from which a later table comes."""
    random = np.random.default_rng(seed)
    values: list[Any] = {
        "text": ["no", "yé s"],
        "integer": [-3, 10],
        "truth": [False, True],
        "date": [datetime.date(2020, 1, 31), datetime.date(2021, 2, 1)],
        "number": [0.5, 1.5],
    }[kind]
    rows = 60
    picked = random.integers(0, 2, rows)
    frame = pa.table(
        {
            "x": random.normal(size=rows),
            "level": pa.array([values[at] for at in random.integers(0, 2, rows)]),
            "y": pa.array([values[at] for at in picked]),
        }
    )
    trained = logistic_regression(
        {"a": Table(frame)}, target="y", columns=["x", "level"], categorical="level", penalty=1.0
    )
    found = predict(trained.model, Table(frame), probabilities=True)
    expected = [value.isoformat() if kind == "date" else value for value in values]
    assert set(found["prediction"].to_pylist()) <= set(expected)
    assert {type(value) for value in found["prediction"].to_pylist()} <= {type(expected[0])}
    chances = np.column_stack([found[name].to_numpy() for name in found.columns[1:]])
    assert agree(chances.sum(axis=1), np.ones(rows))
    assert found["prediction"].to_pylist() == [expected[int(at)] for at in chances[:, 1] > 0.5]


def test_logistic_regression_says_what_scikit_learn_says():
    frame = datasets.load_breast_cancer(as_frame=True).frame
    names = [name for name in frame if name != "target"]
    trained = logistic_regression(one(frame), target="target", columns=names, penalty=1.0)
    theirs = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-13, max_iter=500)
    theirs.fit(frame[names], frame.target)
    found = predict(trained.model, table(frame), keep=["target"], probabilities=True)
    assert found.columns == ["target", "prediction", "probability.0", "probability.1"]
    assert (column(found, "prediction") == theirs.predict(frame[names])).all()
    chances = np.column_stack([column(found, "probability.0"), column(found, "probability.1")])
    assert agree(chances, theirs.predict_proba(frame[names]), 1e-6, 1e-9)


def test_a_model_of_counts_says_what_statsmodels_says():
    frame = sm.datasets.randhie.load_pandas().data
    names = ["lncoins", "idp", "physlm", "disea"]
    trained = glm(one(frame), target="mdvis", family="poisson", columns=names, offset="lpi")
    theirs = sm.GLM(frame.mdvis, sm.add_constant(frame[names]), sm.families.Poisson(), offset=frame.lpi).fit(
        tol=1e-14
    )
    assert agree(column(predict(trained.model, table(frame)), "prediction"), theirs.fittedvalues, 1e-9)


def test_rows_stay_where_they_are_and_by_themselves():
    """A row's prediction does not depend on the others, and the order of the output is that of the input."""
    frame = datasets.load_diabetes(as_frame=True).frame
    trained = linear_regression(one(frame), target="target")
    whole = predict(trained.model, table(frame))["prediction"].to_pylist()
    assert predict(trained.model, table(frame[::-1]))["prediction"].to_pylist() == whole[::-1]
    assert predict(trained.model, table(frame[7:8]))["prediction"].to_pylist() == whole[7:8]


ROWS = Table.from_dict({"age": [1.0, 2.0], "arm": ["old", "new"], "prediction": [1, 2]})


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        ({"age": [1.0]}, {}, "no column 'arm'"),
        ({"age": ["x"], "arm": ["old"]}, {}, "'age' of rows is .*string, not numbers"),
        ({"age": [math.inf], "arm": ["old"]}, {}, "infinite"),
        ({"age": [1.0], "arm": [[1]]}, {}, "categories are text"),
        (ROWS.to_dict(), {"keep": ["prediction"]}, "'prediction' to keep"),
        (ROWS.to_dict(), {"keep": ["no"]}, "no column 'no' to keep"),
        (ROWS.to_dict(), {"keep": ["age", "age"]}, "twice"),
        (ROWS.to_dict(), {"probabilities": True}, "no probabilities"),
    ],
)
def test_what_is_refused(rows, arguments, said):
    with pytest.raises(Malformed, match=said):
        says(line(), Table.from_dict(rows), **arguments)


def test_without_rows_there_are_no_predictions():
    rows = Table(pa.table({"age": pa.array([], pa.float64()), "arm": pa.array([], pa.string())}))
    for document in (line(), line(family="binomial", link="logit", classes=("a", "b"))):
        assert says(document, rows)["prediction"] == []
    frame = datasets.load_iris(as_frame=True).frame
    none = table(frame[:0])
    for model in (k_means(one(frame), clusters=2).model, svm(one(frame), target="target").model):
        assert predict(model, none)["prediction"].to_pylist() == []


def models() -> list[bytes]:
    """One of each kind, small."""
    frame = datasets.load_iris(as_frame=True).frame[::5]
    frame.columns = ["a", "b", "c", "d", "target"]
    from mesatee.enclave.functions.gaussian_mixture import gaussian_mixture
    from mesatee.enclave.functions.naive_bayes import naive_bayes
    from mesatee.enclave.functions.pca_model import pca_model

    given_: Any = {"inputs": one(frame), "columns": ["a", "b"]}
    return [
        linear_regression(target="c", **given_).model,
        k_means(clusters=2, **given_).model,
        naive_bayes(target="target", **given_).model,
        naive_bayes(target="target", distribution="multinomial", **given_).model,
        naive_bayes(target="target", distribution="categorical", **given_).model,
        svm(target="target", **given_).model,
        svm(target="c", kind="number", kernel="linear", **given_).model,
        gaussian_mixture(components=2, **given_).model,
        pca_model(**given_).model,
    ]


MODELS = models()
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
ODD |= st.sampled_from(["", "a", "svm", "rbf", [], [[]], {}, [0.0], [[0.0, 0.0]], 1e308, -1e308, 5e-324])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found += places(item, (*path, name))
    return found


@pytest.mark.parametrize("model", MODELS, ids=[json.loads(model)["kind"] for model in MODELS])
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_a_model_says_only_our_errors_are_raised(model, data):
    """Any place of the document with any value in it: refused, or used without a number that is none."""
    found = json.loads(model)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(found)))
        inner = found
        for name in path:
            inner = inner[name]
        action = data.draw(st.sampled_from(["set", "set", "drop", "double"]))
        if action == "set":
            inner[last] = copy.deepcopy(data.draw(ODD))
        elif action == "drop":
            del inner[last]
        elif isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
        if not places(found):
            break
    rows = Table.from_dict({"a": [5.0, 1e300, None], "b": [3.0, -1e300, 2.0]})
    try:
        predicted = predict(json.dumps(found).encode(), rows)
    except InputError:
        return
    assert predicted.num_rows == 3
    for name in predicted.columns:
        for value in predicted[name].to_pylist():
            assert not (isinstance(value, float) and not math.isfinite(value))
