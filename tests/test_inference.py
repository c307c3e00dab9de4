"""Inference with a real model: content types by Google's magika, whose wheel has it."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from mesatee import inference
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.errors import Malformed, Unavailable
from mesatee.inference import Model, Tensor

FOLDER = Path(str(metadata.distribution("magika").locate_file("magika/models/standard_v3_3")))
MODEL = FOLDER / "model.onnx"
CONFIG = json.loads((FOLDER / "config.min.json").read_text())
SAMPLES = {
    "python": b"import os\n\n\ndef main() -> None:\n    for name in os.listdir('.'):\n        print(name)\n"
    * 8,
    "html": b"<!doctype html><html><head><title>t</title></head><body><p>text</p></body></html>\n" * 8,
    "csv": b"id,age,sex\n1,30,f\n2,41,m\n3,52,f\n4,33,m\n" * 40,
}
FUNCTION = """
import numpy as np
from mesatee.inference import Model

def f(model: bytes, files: list, *, size: int = 1024, padding: int = 256) -> dict:
    rows = np.full((len(files), 2 * size), padding, dtype=np.int32)
    for row, text in zip(rows, files):
        data = text.encode().strip()
        row[: len(data[:size])] = list(data[:size])
        row[2 * size - len(data[-size:]) :] = list(data[-size:])
    scores = Model(model).run(rows)[0]
    return {"best": scores.argmax(axis=1).tolist(), "scores": scores.tolist()}
"""


def rows() -> np.ndarray:
    size, found = CONFIG["beg_size"], []
    for data in SAMPLES.values():
        text = data.strip()
        row = np.full(2 * size, CONFIG["padding_token"], dtype=np.int32)
        row[: len(text[:size])] = list(text[:size])
        row[2 * size - len(text[-size:]) :] = list(text[-size:])
        found.append(row)
    return np.stack(found)


def in_the_sandbox() -> dict:
    job = Job(
        "python",
        "f",
        code=FUNCTION.encode(),
        inputs={"model": "bytes", "files": "json"},
        outputs={"result": OutputSpec("json")},
        limits=Limits(seconds=60, threads=1),
    )
    files = json.dumps([data.decode() for data in SAMPLES.values()]).encode()
    given = {"model": sealed_memfd("model", MODEL.read_bytes()), "files": sealed_memfd("files", files)}
    try:
        with Supervisor() as supervisor, supervisor.run(job, given) as outcome:
            assert outcome.failure is None, outcome.diagnostics.decode()
            output = outcome.outputs["result"]
            return json.loads(os.pread(output.fd, output.size, 0))
    finally:
        for fd in given.values():
            os.close(fd)


def test_a_real_model_in_the_sandbox_says_what_it_says_outside() -> None:
    """Labels as the model's makers name them; scores bit by bit as ONNX Runtime itself gives them here."""
    import onnxruntime

    said = in_the_sandbox()
    assert [CONFIG["target_labels_space"][best] for best in said["best"]] == list(SAMPLES)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    [plain] = session.run(None, {"bytes": rows()})
    assert np.array_equal(np.array(said["scores"], dtype=np.float32), plain)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(MODEL.read_bytes())


def test_what_a_model_takes_and_gives(model: Model) -> None:
    assert model.inputs == (Tensor("bytes", "int32", (None, 2048)),)
    assert model.outputs == (Tensor("target_label", "float32", (None, 214)),)
    [by_name] = model.run(bytes=rows())
    [by_place] = model.run(rows())
    assert np.array_equal(by_name, by_place)
    [narrow] = model.run(rows().astype(np.int16))
    assert np.array_equal(by_name, narrow), "16 bits fit into 32"


@pytest.mark.parametrize(
    ("arrays", "named", "what"),
    [
        ((), {}, "each once"),
        ((np.zeros((1, 2048), np.int32),) * 2, {}, "each once"),
        ((np.zeros((1, 2048), np.int32),), {"bytes": 1}, "each once"),
        ((), {"other": 1}, "each once"),
        ((np.zeros((1, 2047), np.int32),), {}, "shape"),
        ((np.zeros(2048, np.int32),), {}, "shape"),
        ((np.zeros((1, 2048), np.float32),), {}, "int32"),
        ((np.array([["a"] * 2048]),), {}, "int32"),
    ],
)
def test_arrays_that_are_not_the_models(model: Model, arrays: tuple, named: dict, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        model.run(*arrays, **named)


@pytest.mark.parametrize("data", [b"", b"no model", MODEL.read_bytes()[:100_000], bytes(1000)])
def test_what_is_no_model(data: bytes) -> None:
    with pytest.raises(Malformed, match="cannot be loaded"):
        Model(data)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(inference.importlib, "import_module", absent)
    with pytest.raises(Unavailable, match="onnxruntime"):
        Model(MODEL.read_bytes())
