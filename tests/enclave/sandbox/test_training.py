"""Nets that are trained in real children, and what they have learned."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_digits
from tests.enclave.sandbox.conftest import Result, run_job

from mesatee.enclave.sandbox import Job, Limits, OutputSpec
from mesatee.inference import Model
from mesatee.table import Table

LIMITS = Limits(seconds=120, cpu_seconds=110, memory_bytes=512 * 2**20, output_bytes=2**24, threads=1)
CNN = [
    {"layer": "conv2d", "filters": 16},
    {"layer": "relu"},
    {"layer": "max_pool"},
    {"layer": "conv2d", "filters": 32},
    {"layer": "relu"},
    {"layer": "flatten"},
    {"layer": "dense", "units": 10},
]


def as_bytes(table: Table, format: str = "arrow") -> bytes:
    sink = io.BytesIO()
    table.write(sink, format)  # type: ignore[arg-type]
    return sink.getvalue()


def images(pixels: np.ndarray, digit: np.ndarray) -> Table:
    flat = pixels.reshape(len(pixels), -1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    return Table(pa.table({"pixels": lists, "digit": digit}))


@pytest.fixture(scope="module")
def digits() -> tuple[Table, Table, np.ndarray, np.ndarray]:
    """Two parties' rows to train on, and pixels and digits of a fifth of all to test with."""
    pixels, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digit))
    pixels, digit = pixels[order].astype(np.float32), digit[order]
    test = pixels[1437:].reshape(-1, 1, 8, 8), digit[1437:]
    return images(pixels[:700], digit[:700]), images(pixels[700:1437], digit[700:1437]), *test


@pytest.fixture
def train(supervisor):
    def run(name: str, inputs: dict[str, tuple[str, bytes]], **args: object) -> Result:
        job = Job(
            "builtin",
            name,
            args=args,
            inputs={key: format for key, (format, _) in inputs.items()},
            outputs={"model": OutputSpec("bytes"), "history": OutputSpec("csv")},
            limits=LIMITS,
            attestation=json.dumps({"noise": "5a" * 32}).encode(),
        )
        return run_job(supervisor, job, {key: data for key, (_, data) in inputs.items()})

    return run


def accuracy(model: bytes, x: np.ndarray, y: np.ndarray) -> float:
    return float((Model(model).run(x)[0].argmax(axis=1) == y).mean())


def test_a_small_cnn_reads_97_percent_of_digits_and_goes_on_from_there(train, digits):
    ann, ben, x, y = digits
    parties = {"ann": ("arrow", as_bytes(ann)), "ben": ("arrow", as_bytes(ben))}
    asked = {"target": "digit", "shape": [1, 8, 8], "divide": 16.0, "learning_rate": 0.002, "layers": CNN}
    done = train("train_net", parties, **asked, epochs=12)
    assert done.failure is None, done.text
    assert accuracy(done.outputs["model"], x, y) >= 0.97
    history = Table.from_csv(done.outputs["history"]).to_pandas()
    assert len(history) == 12
    assert history["accuracy"].iloc[-1] > 0.98 > history["accuracy"].iloc[0]
    again = train("train_net", parties, **asked, epochs=12)
    assert again.outputs == done.outputs

    # Only whether a digit is even, with the first filters as they are.
    even = images(np.asarray(ben["pixels"].to_numpy().tolist()), ben["digit"].to_numpy() % 2)
    head = [*CNN[:-1], {"layer": "dense", "units": 2}]
    tuned = train(
        "fine_tune_net",
        {"start": ("bytes", done.outputs["model"]), "rows": ("parquet", as_bytes(even, "parquet"))},
        target="digit",
        layers=head,
        freeze=3,
        epochs=15,
        learning_rate=0.002,
    )
    assert tuned.failure is None, tuned.text
    assert accuracy(tuned.outputs["model"], x, y % 2) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_net_remembers_the_first_of_twelve_symbols(train, kind):
    """Chance is a quarter; what comes after the first symbol is noise."""
    random = np.random.default_rng(5)
    tokens = random.integers(0, 4, (3000, 12))
    table = Table.from_dict({"symbols": tokens.tolist(), "first": tokens[:, 0]})
    test = random.integers(0, 4, (1000, 12))
    layers = [
        {"layer": "embedding", "tokens": 4, "units": 8},
        {"layer": kind, "units": 24},
        {"layer": "dense", "units": 4},
    ]
    done = train(
        "train_net",
        {"rows": ("parquet", as_bytes(table, "parquet"))},
        target="first",
        shape=[12],
        layers=layers,
        epochs=12,
        learning_rate=0.01,
        clip_norm=1.0,
    )
    assert done.failure is None, done.text
    assert accuracy(done.outputs["model"], test, test[:, 0]) >= 0.99


@pytest.mark.slow
def test_an_lstm_learns_parity(train):
    """Whether the number of ones among eight bits is odd: no part of a sequence says anything by itself."""
    random = np.random.default_rng(6)
    bits = random.integers(0, 2, (4000, 8))
    table = Table.from_dict({"bits": bits.tolist(), "odd": bits.sum(axis=1) % 2 == 1})
    layers = [{"layer": "lstm", "units": 16}, {"layer": "dense", "units": 1}]
    done = train(
        "train_net",
        {"rows": ("parquet", as_bytes(table, "parquet"))},
        target="odd",
        shape=[8, 1],
        layers=layers,
        loss="binary",
        epochs=40,
        learning_rate=0.01,
        clip_norm=1.0,
    )
    assert done.failure is None, done.text
    test = np.array([[number >> place & 1 for place in range(8)] for number in range(256)])
    right = (Model(done.outputs["model"]).run(test[:, :, None].astype(np.float32))[0][:, 0] > 0.5) == (
        test.sum(axis=1) % 2 == 1
    )
    assert right.mean() >= 0.99


@pytest.mark.slow
def test_dp_sgd_reads_digits_and_says_what_it_cost(train, digits):
    ann, ben, x, y = digits
    done = train(
        "train_net",
        {"ann": ("arrow", as_bytes(ann)), "ben": ("arrow", as_bytes(ben))},
        target="digit",
        shape=[1, 8, 8],
        divide=16.0,
        layers=CNN,
        learning_rate=0.003,
        epochs=20,
        batch=72,
        dp={"clip": 1.0, "rate": 0.05, "delta": 1e-5, "epsilon": 4.0},
    )
    assert done.failure is None, done.text
    history = Table.from_csv(done.outputs["history"]).to_pandas()
    assert 3.9 < history["epsilon"].iloc[-1] <= 4
    assert history["loss"].isna().all()
    assert accuracy(done.outputs["model"], x, y) >= 0.85


def test_a_net_too_large_for_the_memory_is_out_of_memory(train, digits):
    ann, _, _, _ = digits
    layers = [
        {"layer": "conv2d", "filters": 1024, "kernel": 15},
        {"layer": "flatten"},
        {"layer": "dense", "units": 100},
    ]
    done = train(
        "train_net",
        {"ann": ("arrow", as_bytes(ann))},
        target="digit",
        shape=[1, 8, 8],
        layers=layers,
        epochs=1,
        batch=700,
    )
    assert done.failure == "out_of_memory", (done.failure, done.text)


def test_a_model_of_somebody_else_is_bad_input(train, digits):
    ann, _, _, _ = digits
    done = train(
        "fine_tune_net", {"start": ("bytes", b"\x08\x08"), "rows": ("arrow", as_bytes(ann))}, target="digit"
    )
    assert done.failure == "bad_input"
    assert "start is no model" in done.text
