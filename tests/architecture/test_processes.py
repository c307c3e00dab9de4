"""What the trusted processes load: no native library that is not on the list (the first promise)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# `rich` is not among them: httpx imports it for its own command line, and it is plain Python.
FORBIDDEN = {
    "_duckdb",
    "_sqlite3",
    "duckdb",
    "joblib",
    "numpy",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic_monty",
    "scipy",
    "sklearn",
    "sqlite3",
    "typer",
    "wasmtime",
}
NATIVE_ALLOWED = {
    "mesatee": "our Rust core",
    "pydantic_core": "Rust: strict models of what crosses a boundary",
    "cedarpy": "Rust: policy",
    "cbor2": "Rust since version 6: CBOR of evidence",
}
"""Extension modules outside of CPython's own, each with the reason why it may be there."""
SCRIPT = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
native = sorted({
    name.split(".")[0] for name, module in sys.modules.items()
    if str(getattr(module, "__file__", "") or "").endswith(".so")
    and "lib-dynload" not in module.__file__
})
print(json.dumps({"modules": sorted({name.split(".")[0] for name in sys.modules}), "native": native}))
"""


@pytest.mark.parametrize(
    "module",
    [
        "mesatee.enclave.gateway.gateway",
        "mesatee.enclave.worker.worker",
        "mesatee.cli.processes",
        "mesatee.protocol.statements",
        "mesatee.attestation",
    ],
)
def test_a_trusted_process_loads_only_what_is_named(module: str) -> None:
    command = [sys.executable, "-I", "-B", "-c", SCRIPT, module]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert not FORBIDDEN & set(found["modules"])
    native = {name.removeprefix("_") for name in found["native"]}
    assert native <= set(NATIVE_ALLOWED), native - set(NATIVE_ALLOWED)
