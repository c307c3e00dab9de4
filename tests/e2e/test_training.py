"""Two hospitals' rows train a net for a third party, who then lets it be used and is shown no row."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import Lab

from mesatee.errors import QuotaExceeded
from mesatee.inference import Model
from mesatee.party import Session, data, functions, protected, results, tasks
from mesatee.protocol import wire
from mesatee.protocol.protection import EVERYBODY
from mesatee.table import Table

SCORE = """\
import numpy as np
from mesatee.inference import Model
from mesatee.table import Table


def score(model: bytes, people: Table) -> Table:
    found = Model(model).run(people.to_numpy().astype(np.float32))[0]
    return Table.from_dict({"ill": found[:, 1] > 0.5})
"""
LAYERS = [{"layer": "dense", "units": 8}, {"layer": "relu"}, {"layer": "dense", "units": 2}]


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((count, 2))
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


def put(lab: Lab, owner: Session, text: str | bytes, suffix: str, budget: str | None = None) -> str:
    path = lab.folder / f"{secrets.token_hex(4)}{suffix}"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    asked = protected.make(budget=budget)
    return data.put(owner, data.seal(owner.identity, path), path.stem, protection=asked).digest


def csv(x: np.ndarray, y: np.ndarray | None) -> str:
    lines = [f"{a},{b}" + ("" if y is None else f",{y[n]}") for n, (a, b) in enumerate(x.tolist())]
    return "a,b" + ("" if y is None else ",ill") + "\n" + "\n".join(lines) + "\n"


def agreed(
    lab: Lab,
    owners: tuple[Session, ...],
    function: str,
    inputs: dict[str, str],
    outputs: dict[str, tuple[str, ...]],
    **given: Any,
) -> wire.TaskView:
    posted = tasks.new(
        lab.scientist,
        f"t{secrets.token_hex(4)}",
        function=function,
        inputs=inputs,
        outputs=outputs,
        accept=lab.people.accept,
        environment=lab.people.environment,
        **given,
    )
    for owner in owners:
        tasks.approve(owner, tasks.review(owner, owner.task(posted.digest)))
    return lab.scientist.task(posted.digest)


def test_a_net_is_trained_on_two_parties_rows_and_used_without_its_owner_seeing_any(lab: Lab) -> None:
    ann, ben = lab.people.of("hospital-a"), lab.people.of("hospital-b")
    given = {
        "ann": put(lab, ann, csv(*rows(400, 1)), ".csv"),
        "ben": put(lab, ben, csv(*rows(400, 2)), ".csv"),
    }
    train = functions.put_builtin(lab.scientist, "train_net", f"n{secrets.token_hex(4)}").digest
    asked = {"layers": LAYERS, "target": "ill", "epochs": 40, "learning_rate": 0.01}
    view = agreed(
        lab,
        (ann, ben),
        train,
        given,
        {"model": ("scientist",), "history": ("scientist",)},
        arguments=asked,
    )
    assert lab.run(view).status == "finished"
    model = lab.result(view).outputs["model"].read_bytes()
    x, y = rows(200, 3)
    expected = Model(model).run(x.astype(np.float32))[0][:, 1] > 0.5
    assert (expected == (y == 1)).mean() > 0.9

    # Sealed to its owner, and used on rows that only hospital-a has, for hospital-a alone.
    score_file = lab.folder / "score.py"
    score_file.write_text(SCORE)
    score = functions.put(lab.scientist, score_file, f"s{secrets.token_hex(4)}", entry="score").digest
    used = {"model": put(lab, lab.scientist, model, ".bin"), "people": put(lab, ann, csv(x, None), ".csv")}
    view = agreed(lab, (ann, lab.scientist), score, used, {"result": ("hospital-a",)})
    assert lab.run(view).status == "finished"
    taken = results.take(ann, ann.task(view.digest), lab.folder / "scores")
    found = Table.from_csv(taken.outputs["result"].read_bytes())["ill"].to_numpy()
    assert (found == expected).all()


def test_private_training_is_paid_once_for_one_question_and_gives_one_answer(lab: Lab) -> None:
    """The gateway's seed: asking again does not let anybody average the noise away."""
    ann = lab.people.of("hospital-a")
    people = put(lab, ann, csv(*rows(100, 1)), ".csv", "5:5:0.00005")
    given = {"ann": people}
    train = functions.put_builtin(lab.scientist, "train_net", f"n{secrets.token_hex(4)}").digest
    asked = {
        "layers": LAYERS,
        "target": "ill",
        "epochs": 2,
        "dp": {"clip": 1.0, "rate": 0.1, "delta": 1e-5, "epsilon": 2.0},
    }
    outputs = {"model": ("scientist",), "history": ("scientist",)}
    models = []
    for _ in range(2):
        view = agreed(lab, (ann,), train, given, outputs, arguments=asked, runs=2)
        for _ in range(2):
            assert lab.run(view).status == "finished"
            taken = lab.result(view)
            models.append(taken.outputs["model"].read_bytes())
    history = Table.from_csv(taken.outputs["history"].read_bytes()).to_dict()
    assert 1.9 < history["epsilon"][-1] <= 2
    assert models[0] == models[1]
    assert models[2] == models[3]
    assert models[0] != models[2]
    # Two questions, each asked twice.
    assert taken.receipt.protection is not None
    assert taken.receipt.protection.charges == {people: 2_000_000}
    assert data.find(ann, people).spent == {EVERYBODY: 4_000_000, lab.scientist.identity.id: 4_000_000}
    with pytest.raises(QuotaExceeded, match=r"has 1 of 5 left"):
        lab.run(agreed(lab, (ann,), train, given, outputs, arguments={**asked, "seed": 1}))
