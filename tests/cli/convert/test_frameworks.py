"""Models of TensorFlow, Keras, PyTorch and Caffe, each with its own framework in the environment of its lock.

The environments are built once, beside pytest's own cache: 1.5 GB for TensorFlow, 220 MB for Caffe, 240 MB for
scikit-learn with skl2onnx, and 5.3 GB for PyTorch, whose wheels bring libraries for graphics cards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn import datasets, linear_model, neural_network, pipeline, preprocessing, svm
from tests.support.caffe import caffemodel

from mesatee.cli.convert import environments, importing
from mesatee.errors import Malformed
from mesatee.protocol import onnx

pytestmark = pytest.mark.slow
MAKERS = Path(__file__).parent / "makers"


@pytest.fixture(scope="session")
def home(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    return Path(cache.mkdir("converters"))


def made(name: str, home: Path, folder: Path) -> Path:
    """The folder of models that the framework itself has written."""
    packages = environments.packages(home, name)
    command = [
        sys.executable,
        "-I",
        "-S",
        "-B",
        str(MAKERS / f"{name}_models.py"),
        str(packages),
        str(folder),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tensorflow(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("tensorflow", home, tmp_path_factory.mktemp("tensorflow"))


@pytest.fixture(scope="module")
def pytorch(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("pytorch", home, tmp_path_factory.mktemp("pytorch"))


def run(framework: str, path: Path, home: Path, **wanted: Any) -> importing.Imported:
    return importing.run(framework, path, home, importing.Wanted(**wanted), lambda text: None)


def good(found: importing.Imported) -> None:
    assert found.kind == "onnx"
    assert found.deviations
    assert all(item.relative < importing.comparing.TOLERANCE for item in found.deviations)
    assert {"landlock", "seccomp", "resource_limits"} <= set(found.layers)
    onnx.read(found.model)


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        ("tensorflow", "cnn"),
        ("tensorflow", "lstm"),
        ("tensorflow", "frozen.pb"),
        ("keras", "cnn.keras"),
        ("keras", "lstm.keras"),
        ("keras", "two.keras"),
        ("keras", "cnn.h5"),
    ],
)
def test_models_of_tensorflow_and_keras(tensorflow: Path, home: Path, framework: str, name: str) -> None:
    good(run(framework, tensorflow / name, home))


def test_a_sample_of_one_s_own(tensorflow: Path, home: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.npy"
    np.save(sample, np.random.default_rng(1).random((5, 12, 12, 3), np.float32))
    found = run("keras", tensorflow / "cnn.keras", home, sample=sample)
    good(found)
    assert found.deviations[0].shape == (5, 5)
    with pytest.raises(Malformed, match="deviates"):
        run("keras", tensorflow / "cnn.keras", home, sample=sample, tolerance=0.0)


@pytest.mark.parametrize(
    ("framework", "name", "said"),
    [
        ("tensorflow", "any", "does not say how many dimensions"),
        ("tensorflow", "calls", "calls Python code"),
        ("tensorflow", "cnn.keras", "no frozen graph"),
        ("tensorflow", ".", r"no saved_model\.pb"),
        ("keras", "code.keras", "Lambda layer, which is code"),
        ("keras", "frozen.pb", "does not convert"),
    ],
)
def test_bad_models_of_tensorflow_say_why(
    tensorflow: Path, home: Path, framework: str, name: str, said: str
) -> None:
    with pytest.raises(Malformed, match=said) as refused:
        run(framework, tensorflow / name, home)
    assert refused.value.hint


def test_programs_of_pytorch(pytorch: Path, home: Path) -> None:
    good(run("pytorch", pytorch / "net.pt2", home))
    for name in ("traced.pt", "scripted.pt"):
        with pytest.raises(Malformed, match="does not say how many dimensions") as refused:
            run("pytorch", pytorch / name, home)
        assert "--shape" in (refused.value.hint or "")
        good(run("pytorch", pytorch / name, home, shapes={"x": (2, 3, 8, 8)}))


@pytest.mark.parametrize("name", ["pickled.pt", "state.pt"])
def test_pickles_of_pytorch_are_refused(pytorch: Path, home: Path, name: str) -> None:
    with pytest.raises(Malformed, match=r"pickle \(torch\.save\)") as refused:
        run("pytorch", pytorch / name, home)
    assert "torch.export" in (refused.value.hint or "")


NET = """
name: "net"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 23 dim: 21 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" batch_norm_param { eps: 0.001 } }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" relu_param { negative_slope: 0.1 } }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 } }
layer { name: "pool1" type: "Pooling" bottom: "norm1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "a" type: "Convolution" bottom: "pool1" top: "a"
  convolution_param { num_output: 6 kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 group: 2 bias_term: false } }
layer { name: "b" type: "Convolution" bottom: "pool1" top: "b"
  convolution_param { num_output: 6 kernel_size: 3 dilation: 2 pad: 2 } }
layer { name: "sa" type: "Sigmoid" bottom: "a" top: "sa" }
layer { name: "tb" type: "TanH" bottom: "b" top: "tb" }
layer { name: "sum" type: "Eltwise" bottom: "sa" bottom: "tb" top: "sum" eltwise_param { coeff: 1 coeff: -0.5 } }
layer { name: "mul" type: "Eltwise" bottom: "a" bottom: "b" top: "mul" eltwise_param { operation: PROD } }
layer { name: "cat" type: "Concat" bottom: "sum" bottom: "mul" top: "cat" }
layer { name: "pool2" type: "Pooling" bottom: "cat" top: "pool2"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "flat" type: "Flatten" bottom: "pool2" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 10 } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" dropout_param { dropout_ratio: 0.5 } }
layer { name: "rs" type: "Reshape" bottom: "fc" top: "rs" reshape_param { shape { dim: 0 dim: 2 dim: -1 } } }
layer { name: "prob" type: "Softmax" bottom: "rs" top: "prob" softmax_param { axis: 2 } }
"""


def test_a_caffe_net_does_what_opencv_makes_of_it(home: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(5)

    def some(*shape: int) -> Any:
        return random.standard_normal(shape) * 0.2

    weights = {
        "conv1": [some(8, 3, 3, 3), some(8)],
        "bn1": [some(8), abs(some(8)) + 0.5, np.array([2.0])],
        "scale1": [some(8), some(8)],
        "a": [some(6, 4, 3, 1)],
        "b": [some(6, 8, 3, 3), some(6)],
        "fc": [some(10, 12 * 4 * 4), some(10)],
    }
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(weights))
    found = run("caffe", tmp_path, home)
    good(found)
    assert found.deviations[0].shape == (2, 2, 5)
    assert found.deviations[0].scale < 1, "probabilities that are 0 and 1 compare nothing"


def test_models_of_scikit_learn_that_become_onnx(home: Path, tmp_path: Path) -> None:
    rows, classes = datasets.load_iris(return_X_y=True)
    models = {
        "classes": linear_model.LogisticRegression(max_iter=500).fit(rows, classes),
        "net": neural_network.MLPClassifier((5,), max_iter=50, random_state=1).fit(rows, classes),
        "pipeline": pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVR()).fit(rows, rows[:, 0]),
        "scaler": preprocessing.StandardScaler().fit(rows),
    }
    for name, model in models.items():
        joblib.dump(model, tmp_path / name)
        good(run("sklearn", tmp_path / name, home))
