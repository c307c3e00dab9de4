"""``mesatee model``: what a file says of itself, its card, and a try on this machine."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesatee import tensors
from mesatee.cli import cards, models, trying
from mesatee.cli.main import main
from mesatee.cli.model import _card
from mesatee.errors import InputError, Malformed, NotFound
from mesatee.protocol import learned, limits, onnx_writer
from mesatee.protocol.onnx_writer import FLOAT32, graph, model, node, tensor, value

LINE = learned.write(
    learned.Linear(
        kind="linear",
        version=1,
        columns=(
            learned.Feature(name="age", levels=None, reference=None),
            learned.Feature(name="dose", levels=None, reference=None),
        ),
        family="gaussian",
        link="identity",
        intercept=1.0,
        coefficients=(2.0, -1.0),
        offset=None,
        classes=None,
    )
)
STUMP = json.dumps(
    {
        "kind": "trees",
        "version": 1,
        "from": "hand",
        "features": 2,
        "names": ["age", "dose"],
        "classes": [],
        "outputs": 1,
        "base": [0.0],
        "divisor": 1.0,
        "sums": "float64",
        "values": "float64",
        "link": "identity",
        "scale": 1.0,
        "trees": [
            {
                "output": 0,
                "width": 1,
                "feature": [0, -1, -1],
                "threshold": [30.0, 0.0, 0.0],
                "left": [1, 0, 1],
                "right": [2, 0, 0],
                "missing_right": [0, 0, 0],
                "leaves": [-1.0, 1.0],
            }
        ],
    }
).encode()


def net(*, rows: str | int = "rows", dtype: int = FLOAT32) -> bytes:
    """y = x W, with W of 2 x 3."""
    weights = tensor("w", FLOAT32, (2, 3), np.arange(6, dtype=np.float32).tobytes())
    x, y = value("x", dtype, (rows, 2)), value("y", FLOAT32, (rows, 3))
    return model(graph([node("MatMul", ["x", "w"], ["y"])], [x], [y], [weights]), {"": 17})


def test_a_net_says_what_it_takes() -> None:
    seen = models.look(net())
    assert (seen.kind, seen.size) == ("onnx", len(net()))
    assert [cards.describe(item) for item in seen.inputs] == ["x float32[rows, 2]"]
    assert [cards.describe(item) for item in seen.outputs] == ["y float32[rows, 3]"]
    assert seen.details["operators"] == {"MatMul": 1}
    assert seen.details["parameters"] == 6


def test_documents_say_what_they_take() -> None:
    line, stump = models.look(LINE), models.look(STUMP)
    assert (line.kind, stump.kind) == ("linear", "trees")
    assert line.columns == stump.columns == ("age", "dose")
    assert cards.describe(stump.inputs[0]) == "rows float64[rows, 2]"
    assert stump.details["trees"] == 1


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_files_of_boosted_trees_are_known(library: str, tmp_path: Path) -> None:
    made = pytest.importorskip(library)
    rows = np.random.default_rng(1).standard_normal((60, 3))
    if library == "xgboost":
        trained = made.train({"nthread": 1}, made.DMatrix(rows, rows[:, 0]), 3)
        paths = [tmp_path / "model.json", tmp_path / "model.ubj"]
    else:
        trained = made.train({"verbose": -1, "num_threads": 1}, made.Dataset(rows, rows[:, 0]), 3)
        paths = [tmp_path / "model.txt"]
    for path in paths:
        trained.save_model(path)
        seen = models.look(models.load(path))
        assert (seen.kind, seen.details["features"]) == (library, 3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps([1], protocol=4), "a pickle"),
        (b"PK\x03\x04rest", "an archive"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"", "empty"),
        (net()[:-3], "cut off"),
        (b"\x00" * 100, "none of the format's"),
        (LINE.replace(b'"version":1', b'"version":2'), "another version"),
        (LINE[:-2], "."),
        (STUMP.replace(b"30.0", b'"a"'), "."),
        (b'{"a": 1}', "."),
        (net(dtype=7).replace(b"x", b"\xff", 1), "."),
    ],
)
def test_what_no_function_runs_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        models.look(data)
    assert refused.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        models.load(tmp_path / "no")


# -- cards -----------------------------------------------------------------------------------------


def toml(folder: Path, text: str) -> Path:
    path = folder / "card.toml"
    path.write_text(text)
    return path


def test_a_card_is_made_of_the_file_a_text_and_options(tmp_path: Path) -> None:
    seen = models.look(net())
    path = toml(
        tmp_path, 'licence = "MIT"\nruns = 5\nwarm = 60\ncolumns = ["a", "b"]\n[metrics]\nauc = 0.9\nn = 3\n'
    )
    card = _card(seen, path, None, [], [], None, None)
    assert (card.kind, card.digest, card.licence, card.runs, card.warm) == ("onnx", seen.digest, "MIT", 5, 60)
    assert card.metrics == {"auc": 0.9, "n": 3.0}
    assert card.columns == ("a", "b")
    card = _card(seen, path, "BSD", ["auc=0.8"], ["c", "d"], 7, 0)
    assert (card.licence, card.runs, card.warm, card.columns) == ("BSD", 7, 0, ("c", "d"))
    assert card.metrics == {"auc": 0.8, "n": 3.0}
    assert _card(models.look(LINE), None, "MIT", [], [], None, None).columns == ("age", "dose")


@pytest.mark.parametrize(
    "text",
    [
        "licence = 4",
        'licence = "MIT"\nkind = "onnx"',
        'licence = "MIT"\nruns = true',
        'licence = "MIT"\nruns = 0',
        'licence = "MIT"\nwarm = 1.5',
        'licence = "MIT"\nmetrics = 4',
        'licence = "MIT"\n[metrics]\na = "b"',
        'licence = "MIT"\n[metrics]\na = nan',
        'licence = "MIT"\ncolumns = ["a", 4]',
        "licence =",
        "",
    ],
)
def test_a_text_that_is_no_card_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        _card(models.look(net()), toml(tmp_path, text), None, [], [], None, None)


def test_options_that_are_no_card_are_refused() -> None:
    seen = models.look(net())
    with pytest.raises(InputError, match="licence"):
        _card(seen, None, None, [], [], None, None)
    with pytest.raises(InputError, match="number"):
        _card(seen, None, "MIT", ["auc=good"], [], None, None)


def test_a_card_is_explained_in_words() -> None:
    card = models.card(models.look(LINE), licence="MIT", metrics={"r2": 0.5}, warm=30, runs=9)
    assert cards.explain(card) == [
        f"linear model, sha256 {card.digest}",
        "input rows float64[rows, 2]",
        "output prediction float64[rows]",
        "columns of its rows: age, dose",
        "licence: MIT",
        "metrics: r2 0.5",
        "runs of each caller: 9",
        "a worker may keep it loaded for 30 s after a run",
    ]
    shown = cards.explain(models.card(models.look(net()), licence="\x1b[31mred"))
    assert not any("\x1b" in text for text in shown)


# -- the command -----------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mesatee", "model", *words, "--json"])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


def test_inspect_and_test_say_it_in_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(net())
    code, said = call(capsys, "inspect", str(path))
    assert (code, said["kind"], said["inputs"]) == (
        0,
        "onnx",
        [{"name": "x", "dtype": "float32", "shape": ["rows", 2]}],
    )
    given = tmp_path / "x.npy"
    np.save(given, np.array([[1, 2]], np.float32))
    out = tmp_path / "y.safetensors"
    code, said = call(capsys, "test", str(path), "--data", str(given), "--out", str(out))
    assert (code, said["function"], said["output"]) == (0, "onnx_run", ["y float32[1, 3]: 6, 9, 12"])
    assert said["seconds"] > 0
    assert tensors.read(out.read_bytes())["y"].tolist() == [[6, 9, 12]]
    code, said = call(capsys, "test", str(path), "--out", str(out))
    assert (code, said["error"]["code"]) == (1, "conflict")
    code, said = call(capsys, "inspect", str(tmp_path / "nothing"))
    assert (code, said["error"]["code"]) == (1, "not_found")
    path.write_bytes(pickle.dumps([1], protocol=4))
    code, said = call(capsys, "inspect", str(path))
    assert (code, "mesatee model import" in said["error"]["hint"]) == (1, True)


def test_rows_of_a_table_go_through_the_function_of_the_kind(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("age,dose\n20,1\n40,2\n")
    for data, function, wanted in (
        (LINE, "predict", ["prediction", "40.0", "79.0"]),
        (STUMP, "gbdt_predict", ["prediction", "-1.0", "1.0"]),
    ):
        made = trying.run(models.look(data), data, rows, 4, {})
        assert made.function == function
        assert [text.strip('"').removesuffix(".0") for text in made.shown()] == [
            text.removesuffix(".0") for text in wanted
        ]


def test_made_up_rows_fit_or_the_model_says_what_it_needs() -> None:
    seen = models.look(STUMP)
    made = trying.run(seen, STUMP, None, 7, {})
    assert len(made.shown()) == 8
    with pytest.raises(InputError, match="made-up rows would not fit"):
        trying.run(models.look(LINE), LINE, None, 4, {})
    huge = net(rows=2**27)
    with pytest.raises(InputError, match="bytes"):
        trying.run(models.look(huge), huge, None, 4, {})


def test_files_that_are_no_input_are_refused(tmp_path: Path) -> None:
    seen = models.look(net())
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([object()], dtype=object))
    with pytest.raises(Malformed, match="no file of numbers"):
        trying.run(seen, net(), path, 4, {})
    with pytest.raises(NotFound):
        trying.run(seen, net(), tmp_path / "no.csv", 4, {})
    other = tmp_path / "x.txt"
    other.write_text("a")
    with pytest.raises(InputError, match="no table"):
        trying.run(seen, net(), other, 4, {})
    with pytest.raises(InputError, match="takes a table"):
        trying.run(models.look(STUMP), STUMP, path, 4, {})


def test_more_inputs_than_a_card_has_are_refused() -> None:
    names = [f"x{number}" for number in range(limits.MODEL_TENSORS + 1)]
    inputs = [value(name, FLOAT32, (1,)) for name in names]
    data = onnx_writer.model(
        graph([node("Sum", names, ["y"])], inputs, [value("y", FLOAT32, (1,))]), {"": 17}
    )
    with pytest.raises(Malformed):
        models.card(models.look(data), licence="MIT")
