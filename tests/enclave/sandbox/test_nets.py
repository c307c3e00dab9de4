"""Models in ONNX format in real children."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tests.support.nets import linear, net, summing

from mesatee import tensors
from mesatee.enclave.sandbox import Limits, OutputSpec
from mesatee.protocol.onnx_writer import FLOAT32, INT64, node, value
from mesatee.table import Table

MATRIX = np.array([[1, 10], [2, 20]], np.float32)
ROWS = b"id,p,q\na,1,2\nb,3,4\n"
BOUNDS = Limits(seconds=60, cpu_seconds=30, memory_bytes=512 * 2**20, output_bytes=2**20, threads=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_table(run_builtin, threads):
    inputs = {"model": ("bytes", linear(MATRIX)), "rows": ("csv", ROWS)}
    result = run_builtin("onnx_predict", inputs, OutputSpec("csv"), BOUNDS, keep=["id"], threads=threads)
    assert result.failure is None, result.text
    assert result.outputs["result"] == b'"id","y_0","y_1"\n"a",5,50\n"b",11,110\n'


def test_tensors_with_a_state(run_builtin):
    pieces = np.arange(8, dtype=np.float32).reshape(4, 2)
    data = tensors.write({"piece": pieces, "factor": np.float32(3)})
    inputs = {"model": ("bytes", summing()), "tensors": ("bytes", data)}
    result = run_builtin("onnx_run", inputs, OutputSpec("bytes"), BOUNDS, state={"after": "before"})
    assert result.failure is None, result.text
    assert np.array_equal(tensors.read(result.outputs["result"])["said"], 3 * pieces.cumsum(axis=0))


@pytest.mark.parametrize(
    ("model", "failure", "said"),
    [
        (b"nothing", "bad_input", "none of the format"),
        (linear(MATRIX)[:-4], "bad_input", ""),
        (linear(np.full((2, 2), np.nan)), "bad_input", "not a number"),
        (net([node("Mine", ["x"], ["y"], domain="own")], [value("x", FLOAT32, (2,))], [value("y", FLOAT32, (2,))]),
         "bad_input", "custom operator"),
        (net([node("ConstantOfShape", ["x"], ["y"])], [value("x", INT64, ("n",))], [value("y", FLOAT32, ("a",))]),
         "out_of_memory", "not enough memory"),
    ],
)  # fmt: skip
def test_what_a_bad_model_is_called(run_builtin, model, failure, said):
    target = io.BytesIO()
    Table.from_dict({"x": np.array([1 << 36])}).write(target, "arrow")
    inputs = {"model": ("bytes", model), "rows": ("arrow", target.getvalue())}
    result = run_builtin("onnx_predict", inputs, OutputSpec("csv"), BOUNDS)
    assert result.failure == failure, result.text
    assert said in result.text


def test_more_threads_than_the_task_allows(run_builtin):
    inputs = {"model": ("bytes", linear(MATRIX)), "rows": ("csv", ROWS)}
    result = run_builtin("onnx_predict", inputs, OutputSpec("csv"), BOUNDS, keep=["id"], threads=3)
    assert result.failure == "bad_input"
    assert "threads is from 1 to 2" in result.text
