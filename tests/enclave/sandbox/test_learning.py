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
