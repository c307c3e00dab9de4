"""The learners in real children: their libraries load there, under the sandbox's limits."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from sklearn import datasets

from mesatee.enclave.sandbox import Job, OutputSpec
from mesatee.protocol import learned
from mesatee.table import Table

from .conftest import QUICK, Result, run_job


def csv(frame: Any) -> bytes:
    text = io.StringIO()
    frame.to_csv(text, index=False)
    return text.getvalue().encode()


def run(supervisor: Any, name: str, inputs: dict[str, bytes], outputs: dict[str, str], **args: Any) -> Result:
    formats = {key: "bytes" if key == "model" else "csv" for key in inputs}
    job = Job(
        "builtin",
        name,
        args=args,
        inputs=formats,
        outputs={key: OutputSpec(format) for key, format in outputs.items()},
        limits=QUICK,
    )
    return run_job(supervisor, job, inputs)


LINEAR = {"coefficients": "csv", "fit": "csv", "model": "bytes"}


@pytest.mark.parametrize(
    ("name", "target", "args"),
    [
        ("linear_regression", "target", {}),
        ("logistic_regression", "high", {"penalty": 1.0}),
        ("glm", "target", {"family": "gamma", "link": "log"}),
    ],
)
def test_linear_models(supervisor: Any, name: str, target: str, args: dict[str, Any]) -> None:
    frame = datasets.load_diabetes(as_frame=True).frame
    frame["high"] = frame.target > 150
    parts = {"a": csv(frame[:200]), "b": csv(frame[200:])}
    columns = ["age", "bmi", "bp"]
    found = run(supervisor, name, parts, LINEAR, target=target, columns=columns, **args)
    assert found.failure is None, found.text
    table = Table.from_csv(found.outputs["coefficients"])
    assert table["term"].to_pylist() == ["(intercept)", *columns]
    document = learned.read(found.outputs["model"])
    assert [document.intercept, *document.coefficients] == table["estimate"].to_pylist()
    assert json.loads(found.outputs["model"])["version"] == 1


def test_separation_is_found_there_too(supervisor: Any) -> None:
    """The linear program that looks for it runs without threads."""
    frame = datasets.load_breast_cancer(as_frame=True).frame
    found = run(supervisor, "logistic_regression", {"a": csv(frame)}, LINEAR, target="target")
    assert found.failure == "bad_input"
    assert "no finite optimum" in found.text


IRIS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "tables", "args", "predicted"),
    [
        ("k_means", ["clusters"], {"clusters": 3, "starts": 3}, ["prediction", "distance"]),
        ("naive_bayes", ["features"], {"target": "kind"}, ["prediction"]),
        ("svm", ["fit"], {"target": "kind"}, ["prediction"]),
        ("svm", ["fit"], {"target": "a", "kind": "number", "kernel": "linear"}, ["prediction"]),
        ("gaussian_mixture", ["components", "fit"], {"components": 3}, ["prediction"]),
        ("pca_model", ["loadings", "variance"], {"components": 2}, ["pc1", "pc2"]),
    ],
)
def test_learning_and_predicting(
    supervisor: Any, name: str, tables: list[str], args: dict[str, Any], predicted: list[str]
) -> None:
    frame = datasets.load_iris(as_frame=True).frame
    frame.columns = [*IRIS, "kind"]
    columns = [column for column in IRIS if column != args.get("target")]
    outputs = {**dict.fromkeys(tables, "csv"), "model": "bytes"}
    runs = [
        run(supervisor, name, {"x": csv(frame[:90]), "y": csv(frame[90:])}, outputs, columns=columns, **args)
        for _ in range(2)
    ]
    found = runs[0]
    assert found.failure is None, found.text
    assert found.outputs == runs[1].outputs
    said = run(
        supervisor,
        "predict",
        {"model": found.outputs["model"], "rows": csv(frame)},
        {"result": "csv"},
        keep=["kind"],
    )
    assert said.failure is None, said.text
    table = Table.from_csv(said.outputs["result"])
    assert table.columns[: len(predicted) + 1] == ["kind", *predicted]
    assert table.num_rows == 150
    assert not any(table[column].null_count for column in table.columns)


def test_functions_of_one_s_own_may_cluster_too(run_python: Any) -> None:
    """In a child scikit-learn could not find whose threads to bound, and KMeans failed."""
    code = (
        "from sklearn.cluster import KMeans\n"
        "def f() -> bytes:\n"
        "    return str(KMeans(2, n_init=1).fit([[0.0], [1.0], [1.5]]).inertia_).encode()\n"
    )
    found = run_python(code)
    assert (found.failure, found.outputs) == (None, {"result": b"0.125"}), found.text


def test_clusters_by_density(supervisor: Any) -> None:
    frame = datasets.load_iris(as_frame=True).frame.drop(columns="target")
    frame["id"] = range(len(frame))
    args = {"distance": 0.5, "keep": "id"}
    found = run(supervisor, "dbscan", {"a": csv(frame)}, {"result": "csv"}, **args)
    assert found.failure is None, found.text
    assert set(Table.from_csv(found.outputs["result"])["role"].to_pylist()) == {"core", "border", "noise"}


@pytest.mark.parametrize("model", [b"", b"\x80\x04N.", b'{"kind":"linear","version":1}', b"PK\x03\x04"])
def test_what_is_no_model_is_bad_input(supervisor: Any, model: bytes) -> None:
    found = run(supervisor, "predict", {"model": model, "rows": b"a\n1\n"}, {"result": "csv"})
    assert found.failure == "bad_input"
