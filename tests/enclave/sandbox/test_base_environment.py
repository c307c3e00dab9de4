"""What the base environment offers to a Python function in the sandbox."""

from __future__ import annotations

import json

import pytest

from mesatee.enclave.sandbox import Limits, OutputSpec

from .conftest import QUICK, Runner

SUM = """
from mesatee.table import Table
def f(people: Table) -> Table:
    import polars as pl
    grouped = people.to_polars().lazy().group_by("sex").agg(pl.col("age").sum()).sort("sex")
    return Table.from_arrow(grouped.collect().to_arrow())
"""
CSV = b"sex,age\nf,30\nm,41\nf,52\n"


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_polars_computes_beside_arrow_with_any_number_of_threads(run_python: Runner, threads: int) -> None:
    limits = Limits(QUICK.seconds, QUICK.cpu_seconds, 2**31, output_bytes=QUICK.output_bytes, threads=threads)
    done = run_python(SUM, {"people": ("csv", CSV)}, {"result": OutputSpec("csv")}, limits)
    assert (done.failure, done.outputs.get("result")) == (None, b'"sex","age"\n"f",82\n"m",41\n'), done.text


def test_all_of_it_is_loaded_before_a_child_is_made(run_python: Runner) -> None:
    """An import in the child would cost each run what the zygote pays once."""
    code = """
import sys
def f() -> dict:
    names = ("duckdb", "numpy", "onnxruntime", "pandas", "polars", "pyarrow", "sklearn")
    return {name: name in sys.modules for name in names}
"""
    done = run_python(code, outputs={"result": OutputSpec("json")})
    assert done.failure is None, done.text
    assert all(json.loads(done.outputs["result"]).values())
