"""Imports as a whole: the confined child reads, the sandbox runs, and both are compared."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn import datasets, ensemble, linear_model
from tests.support.caffe import caffemodel, prototxt

from mesatee.cli.convert import comparing, confined, environments, importing
from mesatee.errors import InputError, Malformed, MesateeError, NotFound, TooLarge
from mesatee.protocol.environments import parse_lock

CANCER = datasets.load_breast_cancer(return_X_y=True, as_frame=True)


def run(framework: str, path: Path, home: Path, **wanted: Any) -> importing.Imported:
    return importing.run(framework, path, home, importing.Wanted(**wanted), lambda text: None)


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_a_model_of_scikit_learn_is_imported(kind: str, tmp_path: Path) -> None:
    model = (
        ensemble.RandomForestClassifier(5, random_state=1)
        if kind == "trees"
        else linear_model.LogisticRegression(solver="newton-cholesky")
    )
    path = tmp_path / "model.joblib"
    joblib.dump(model.fit(*CANCER), path)
    made = run("sklearn", path, tmp_path)
    assert made.kind == kind
    (deviation,) = made.deviations
    assert deviation.shape == (256, 2)
    assert deviation.relative < 1e-9
    assert {"landlock", "seccomp", "resource_limits"} <= set(made.layers)
    assert made.versions["scikit-learn"]


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm"])
def test_a_model_of_boosted_trees_is_taken_as_it_is(framework: str, tmp_path: Path) -> None:
    library = pytest.importorskip(framework)
    path = tmp_path / ("model.json" if framework == "xgboost" else "model.txt")
    if framework == "xgboost":
        settings = {"objective": "binary:logistic", "nthread": 1}
        library.train(settings, library.DMatrix(*CANCER), 5).save_model(path)
    else:
        settings = {"objective": "binary", "num_threads": 1, "verbose": -1}
        library.train(settings, library.Dataset(*CANCER), 5).save_model(path)
    made = run(framework, path, tmp_path)
    assert (made.kind, made.model) == (framework, path.read_bytes())
    assert made.deviations[0].relative < 1e-6
    with pytest.raises(Malformed, match=f"of the kind {framework}, not of"):
        run("lightgbm" if framework == "xgboost" else "xgboost", path, tmp_path)


class Evil:
    """A pickle that calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


ATTEMPTS = """
import os, socket, subprocess, sys
found = []
def attempt(name, call):
    try:
        call()
    except BaseException as error:
        return
    found.append(name)
attempt("reads", lambda: open({secret!r}).read())
attempt("lists", lambda: os.listdir({folder!r}))
attempt("writes", lambda: open({made!r}, "w").close())
attempt("writes beside", lambda: open("/dev/shm/mesatee-made-{port}", "w").close())
attempt("connects", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
attempt("starts", lambda: subprocess.run([sys.executable, "-c", ""], check=True))
attempt("forks", lambda: os.fork() or os._exit(0))
attempt("signals", lambda: os.kill(os.getpid(), 0))
raise RuntimeError("it " + (", ".join(found) or "does nothing"))
"""


def test_code_in_a_pickle_reaches_nothing(tmp_path: Path) -> None:
    """It runs, for a pickle is code, and neither reads nor writes a file of ours, nor connects, nor starts anything."""
    secret, made, path = tmp_path / "secret", tmp_path / "made", tmp_path / "model.pkl"
    secret.write_text("canary")
    secret.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = ATTEMPTS.format(secret=str(secret), folder=str(tmp_path), made=str(made), port=port)
        # Outside of the child all of it works.
        free = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
        said = "it reads, lists, writes, writes beside, connects, starts, forks, signals"
        assert free.stderr.strip().endswith(said)
        server.accept()[0].close()
        made.unlink()
        Path(f"/dev/shm/mesatee-made-{port}").unlink()
        path.write_bytes(pickle.dumps(Evil(exec, code)))
        with pytest.raises(Malformed, match="RuntimeError: it does nothing"):
            run("sklearn", path, tmp_path)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not made.exists()
    assert not Path(f"/dev/shm/mesatee-made-{port}").exists()


@pytest.mark.parametrize("framework", ["tensorflow", "keras", "pytorch", "xgboost", "lightgbm"])
def test_a_pickle_in_disguise_is_refused_before_anything_is_built(framework: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol=4))
    with pytest.raises(Malformed, match="is a pickle, which is code") as refused:
        run(framework, path, tmp_path)
    assert refused.value.hint
    assert not (tmp_path / environments.FOLDER).exists()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no converter for theano"):
        run("theano", tmp_path, tmp_path)
    with pytest.raises(NotFound, match="there is no"):
        run("sklearn", tmp_path / "nothing", tmp_path)
    with pytest.raises(NotFound, match=r"0 files \.prototxt"):
        run("caffe", tmp_path, tmp_path)
    (tmp_path / "net.prototxt").write_text(prototxt((1, 2), ("ReLU", "")))
    with pytest.raises(NotFound, match="no weights") as refused:
        run("caffe", tmp_path / "net.prototxt", tmp_path)
    assert "--weights" in (refused.value.hint or "")
    (tmp_path / "it.keras").write_bytes(b"PK")
    with pytest.raises(NotFound, match="no folder"):
        run("keras", tmp_path / "it.keras", tmp_path, packages=tmp_path / "no")


def test_a_caffe_net_that_is_no_text_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(caffemodel({"a": [np.ones(2)]}) + b"\xff")
    with pytest.raises(Malformed, match="no text"):
        run("caffe", weights, tmp_path, weights=weights)


def test_links_out_of_a_model_s_folder_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "saved_model.pb").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a link to somewhere else"):
        confined.convert("mesatee_sklearn", "tensorflow", folder, [])


def test_a_model_with_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MODEL_FILES", 2)
    for number in range(2):
        (tmp_path / f"{number}").write_bytes(b"")
    target = tmp_path.parent / "copy"
    target.mkdir()
    confined._copy_folder(tmp_path, target / "one", [10, 2])
    (tmp_path / "2").write_bytes(b"")
    with pytest.raises(TooLarge):
        confined._copy_folder(tmp_path, target / "two", [10, 2])


def test_a_converter_that_dies_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Evil(os._exit, 3)))
    with pytest.raises(MesateeError, match="ended with code 3 and said nothing"):
        run("sklearn", path, tmp_path)


# -- the comparison --------------------------------------------------------------------------------


def test_a_deviation_is_relative_to_the_largest_value() -> None:
    wanted = {"y": np.array([[100.0, -1e-3]])}
    (found,) = comparing.compare(wanted, {"other": np.array([[100.0, 4e-3]])})
    assert found.absolute == pytest.approx(5e-3)
    assert found.relative == pytest.approx(5e-5)
    with pytest.raises(Malformed, match=r"deviates by 0\.0002"):
        comparing.compare(wanted, {"y": np.array([[100.02, -1e-3]])})
    comparing.compare(wanted, {"y": np.array([[100.02, -1e-3]])}, tolerance=1e-3)
    comparing.compare({"y": np.zeros(3)}, {"y": np.zeros(3)})
    with pytest.raises(Malformed, match="deviates"):
        comparing.compare({"y": np.zeros(3)}, {"y": np.full(3, 1e-6)})


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ({"y": np.zeros(3)}, {"y": np.zeros(4)}, "has the shape"),
        ({"y": np.array([np.nan])}, {"y": np.array([1.0])}, "no number where"),
        ({"y": np.array([1.0])}, {"y": np.array([np.inf])}, "no number where"),
        ({"y": np.array([np.inf])}, {"y": np.array([-np.inf])}, "no number where"),
        ({"y": np.array([1])}, {"y": np.array([2])}, "deviates"),
        ({"x": np.zeros(1), "y": np.zeros(1)}, {"x": np.zeros(1), "z": np.zeros(1)}, "not the same: y, z"),
        ({}, {}, "there is none"),
    ],
)
def test_what_is_not_the_same_is_refused(wanted: Any, found: Any, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        comparing.compare(wanted, found)


def test_missing_values_in_the_same_places_are_the_same() -> None:
    value = np.array([1.0, np.nan, np.inf])
    assert comparing.compare({"y": value}, {"y": value.copy()})[0].relative == 0


# -- the environments ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["caffe", "pytorch", "sklearn", "tensorflow"])
def test_each_lock_pins_every_package_by_hash(name: str) -> None:
    lock = parse_lock((environments.LOCKS / f"{name}.lock").read_bytes())
    assert all(item.hashes for item in lock)
    assert {item.name for item in lock} >= {"numpy"}


def test_a_lock_that_is_none_of_ours_builds_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        environments.packages(tmp_path, "../theano")
    assert not (tmp_path / environments.FOLDER).exists()
