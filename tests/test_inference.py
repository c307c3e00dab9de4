"""Inference with a real model: content types by Google's magika, whose wheel has it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee import inference
from mesatee.enclave.sandbox import Job, Limits, OutputSpec, Supervisor, sealed_memfd
from mesatee.errors import Malformed, Unavailable
from mesatee.inference import Model, Tensor
from mesatee.protocol.onnx_writer import FLOAT32, INT64, graph, message, node, tensor, value, varint
from mesatee.protocol.onnx_writer import model as model_of

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
    with pytest.raises(Malformed, match=r"empty|none of the format|cut off"):
        Model(data)


def test_what_the_library_does_not_take_is_said_quietly_or_not() -> None:
    secret = small(node("Secret", ["x"], ["y"]))
    with pytest.raises(Malformed, match=r"cannot be loaded.*Secret"):
        Model(secret)
    with pytest.raises(Malformed, match="cannot be loaded: ") as caught:
        Model(secret, quiet=True)
    assert "Secret" not in caught.value.message
    gather = small(node("Gather", ["w", "i"], ["y"]), (WEIGHTS,), (value("i", INT64, ("n",)),))
    model = Model(gather, quiet=True)
    with pytest.raises(Malformed, match="cannot be run") as caught:
        model.run(np.array([77]))
    assert "77" not in caught.value.message


def test_no_memory_is_no_fault_of_the_model() -> None:
    model = Model(small(node("ConstantOfShape", ["x"], ["y"]), (), (value("x", INT64, (1,)),)))
    with pytest.raises(MemoryError):
        model.run(np.array([2**45]))


WEIGHTS = tensor("w", FLOAT32, (3,), np.arange(3, dtype=np.float32).tobytes())


def small(one: bytes, tensors: tuple = (), inputs: tuple = (value("x", FLOAT32, ("n", 3)),)) -> bytes:
    return model_of(graph([one], inputs, [value("y", FLOAT32, ("n",))], tensors), {"": 17})


def with_weights(dtype: int, raw: bytes, count: int, number: int = 9) -> bytes:
    item = message((1, count), (2, dtype), (8, "w"), (number, raw))
    return small(node("Add", ["x", "w"], ["y"]), (item,))


def raw(dtype: str, *values: float) -> bytes:
    return np.array(values, dtype).tobytes()


def half(*values: float) -> bytes:
    """In packed varints, as ONNX's own helper writes them."""
    return b"".join(varint(int(bits)) for bits in np.array(values, np.float16).view(np.uint16))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("dtype", "write", "number"),
    [
        (1, lambda *values: raw("f4", *values), 9),
        (1, lambda *values: raw("f4", *values), 4),
        (10, lambda *values: raw("f2", *values), 9),
        (10, half, 5),
        (11, lambda *values: raw("f8", *values), 9),
        (11, lambda *values: raw("f8", *values), 10),
        (16, lambda *values: raw("u2", *(np.array(values, "f4").view("u4") >> 16)), 9),
    ],
)
def test_weights_are_numbers(dtype: int, write: Callable[..., bytes], number: int) -> None:
    def checked(*values: float) -> None:
        inference.check(with_weights(dtype, write(*values), len(values), number))

    for good in ((0.0, -1.5, 3.0), (0.0, -INF, INF), (-INF,), (-0.0, INF)):
        checked(*good)
    for bad in ((0.0, NAN, 1.0), (NAN,), (1.0, INF), (-INF, 0.0, 1e-4)):
        with pytest.raises(Malformed, match="not a number"):
            checked(*bad)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_any_weights_as_numpy_judges_them(values: list[float]) -> None:
    array = np.array(values, np.float32)
    finite = array[np.isfinite(array)]
    bad = bool(np.isnan(array).any()) or (finite.size < array.size and bool(finite.any()))
    data = with_weights(1, array.tobytes(), array.size)
    if bad:
        with pytest.raises(Malformed):
            inference.check(data)
    else:
        inference.check(data)


@pytest.mark.parametrize(("dtype", "bad"), [(17, 0x7F), (17, 0xFF), (18, 0x80), (19, 0x7D), (20, 0x80)])
def test_eight_bit_weights_are_numbers(dtype: int, bad: int) -> None:
    inference.check(with_weights(dtype, bytes([0, 1, 0x3C]), 3))
    with pytest.raises(Malformed, match="not a number"):
        inference.check(with_weights(dtype, bytes([0, bad]), 2))


def test_a_constant_is_looked_at_too() -> None:
    constant = node("Constant", [], ["w"], {"value": tensor("", FLOAT32, (1,), raw("f4", NAN))})
    data = model_of(
        graph(
            [constant, node("Add", ["x", "w"], ["y"])],
            [value("x", FLOAT32, (1,))],
            [value("y", FLOAT32, (1,))],
        ),
        {"": 17},
    )
    with pytest.raises(Malformed, match="not a number"):
        Model(data)


def test_weights_are_looked_at_piece_by_piece() -> None:
    many = np.zeros(600_000, np.float32)
    many[0], many[-1] = 1, INF
    with pytest.raises(Malformed, match="not a number"):
        inference.check(with_weights(1, many.tobytes(), many.size))


def test_a_model_that_gives_no_tensor() -> None:
    folder = Path(str(metadata.distribution("onnxruntime").locate_file("onnxruntime/datasets")))
    found = Model((folder / "logreg_iris.onnx").read_bytes())
    # The other output is a sequence of maps.
    assert [item.name for item in found.outputs] == ["label"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(inference.importlib, "import_module", absent)
    with pytest.raises(Unavailable, match="onnxruntime"):
        Model(MODEL.read_bytes())
