"""A sealed model through the whole platform: its owner never sees the rows, and nobody else the model."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import Lab

from mesatee.cli.main import main
from mesatee.errors import QuotaExceeded
from mesatee.party import functions, tasks
from mesatee.protocol.model_card import describe
from mesatee.protocol.onnx_writer import FLOAT32, graph, model, node, tensor, value
from mesatee.table import Table

WEIGHTS = np.array([[1, 0.5], [-2, 0.25]], np.float32)


def net() -> bytes:
    w = tensor("w", FLOAT32, WEIGHTS.shape, WEIGHTS.tobytes())
    x, y = value("x", FLOAT32, ("rows", 2)), value("y", FLOAT32, ("rows", 2))
    return model(graph([node("MatMul", ["x", "w"], ["y"])], [x], [y], [w]), {"": 17})


def call(lab: Lab, who: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    home = str(lab.people.home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mesatee", "--home", home, "-i", who, *words, "--json"])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == 0, capsys.readouterr()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_model_is_put_listed_run_and_its_quota_kept(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"net{secrets.token_hex(4)}"
    path = lab.folder / f"{name}.onnx"
    path.write_bytes(net())
    card = lab.folder / "card.toml"
    card.write_text('licence = "Apache-2.0"\nruns = 1\n[metrics]\nauc = 0.75\n')
    posted = call(lab, "hospital-a", capsys, "model", "put", str(path), "--card", str(card))
    assert not list(lab.folder.glob("*.age")), "the ciphertext was only on its way"
    listed = call(lab, "scientist", capsys, "model", "list")["models"]
    (mine,) = [item for item in listed if item["digest"] == posted["digest"]]
    assert mine["card"] == posted["card"]
    shown = call(lab, "scientist", capsys, "data", "show", f"hospital-a/{name}")
    assert shown["card"]["metrics"] == {"auc": 0.75}
    view = next(item for item in lab.scientist.datasets() if item.digest == posted["digest"])
    assert view.card is not None
    assert [describe(item) for item in view.card.inputs] == ["x float32[rows, 2]"]

    rows = lab.table("a,b\n1,2\n3,4\n")
    task = f"t{secrets.token_hex(4)}"
    made = tasks.new(
        lab.scientist,
        task,
        function=functions.put_builtin(lab.scientist, "onnx_predict", task).digest,
        inputs={"model": posted["digest"], "rows": rows},
        outputs={"result": ("scientist",)},
        accept=lab.people.accept,
        environment=lab.people.environment,
        runs=5,
    )
    tasks.approve(lab.owner, tasks.review(lab.owner, lab.owner.task(made.digest)))
    first = lab.scientist.task(made.digest)
    assert lab.run(first).status == "finished"
    found = Table.from_csv(lab.result(first).outputs["result"].read_bytes()).to_pandas().to_numpy()
    assert np.allclose(found, np.array([[1, 2], [3, 4]]) @ WEIGHTS)
    with pytest.raises(QuotaExceeded, match="all 1 runs that the owner of model"):
        lab.run(first)
