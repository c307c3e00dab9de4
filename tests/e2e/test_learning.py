"""Learning through the whole platform, by the command line: three owners of columns, and a scientist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from tests.e2e.test_command_line import Shell

from mesatee.table import Table

OWNERS = ("clinic", "lab", "registry")
PENALTY = 1.0


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("learning") / "home")
    with shell.up():
        for name in (*OWNERS, "ann"):
            shell.json("id", "new", name)
        yield shell


def patients() -> pd.DataFrame:
    frame = load_breast_cancer(as_frame=True).frame
    frame.insert(0, "patient", [f"P{number:04d}" for number in range(len(frame))])
    return frame


def test_breast_cancer_split_by_columns_among_three_owners(shell: Shell) -> None:
    """The coefficients are those of the whole table in one place, to 1e-6."""
    frame = patients()
    names = [name for name in frame if name not in ("patient", "target")]
    random = np.random.default_rng(1)
    for number, owner in enumerate(OWNERS):
        mine = frame[["patient", *names[number::3], *(["target"] if owner == "registry" else [])]]
        mine.iloc[random.permutation(len(mine))].to_csv(shell.place / f"{owner}.csv", index=False)
        shell.json("data", "put", f"{owner}.csv", "--name", "cells", who=owner)
    shell.json("function", "put", "logistic_regression", who="ann")
    inputs = [word for owner in OWNERS for word in ("--input", f"{owner}={owner}/cells")]
    given = ("target=target", "how=columns", "key=patient", f"penalty={PENALTY}")
    arguments = [word for text in given for word in ("--arg", text)]
    outputs = [word for name in ("coefficients", "fit", "model") for word in ("--to", f"{name}=ann")]
    words = ("--function", "logistic_regression", *inputs, *arguments, *outputs)
    shell.json("task", "new", "train", *words, who="ann")
    for owner in OWNERS:
        assert shell.refused("task", "run", "train", who="ann") == "not_approved"
        shell.json("task", "approve", "train", "--yes", who=owner)
    shell.json("task", "run", "train", "--wait", who="ann")
    shell.json("task", "result", "train", "--out", "trained", who="ann")

    table = Table.from_csv((shell.place / "trained" / "coefficients.csv").read_bytes()).to_dict()
    found = dict(zip(table["term"], table["estimate"], strict=True))
    central = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    central.fit(frame[names], frame.target)
    theirs = {"(intercept)": central.intercept_[0], **dict(zip(names, central.coef_[0], strict=True))}
    assert found.keys() == theirs.keys()
    assert max(abs(found[name] - theirs[name]) for name in theirs) < 1e-6
    # Who has no output named for it gets none.
    assert shell.refused("task", "result", "train", "--out", "mine", who="clinic") == "denied"
    assert Path(shell.place / "trained" / "receipt.json").exists()


def test_who_has_the_model_predicts_on_data_of_others(shell: Shell) -> None:
    """The model is its owner's dataset, the rows are another's; each approves, and the rows' owner gets the answer."""
    frame = patients()
    frame[["patient", "mean radius", "worst texture"]].to_csv(shell.place / "rows.csv", index=False)
    (shell.place / "learn.csv").write_text(
        frame[["mean radius", "worst texture", "target"]].to_csv(index=False)
    )
    arguments = ("--arg", "target=target", "--out", "local")
    shell.json("function", "test", "logistic_regression", "--in", "a=learn.csv", *arguments)
    shell.json("data", "put", "local/model.bin", "--name", "model", who="ann")
    shell.json("data", "put", "rows.csv", "--name", "rows", who="clinic")
    shell.json("function", "put", "predict", who="ann")
    inputs = ("--input", "model=ann/model", "--input", "rows=clinic/rows")
    words = ("--function", "predict", *inputs, "--arg", "keep=patient", "--to", "result=clinic")
    shell.json("task", "new", "ask", *words, who="ann")
    shell.json("task", "approve", "ask", "--yes", who="clinic")
    shell.json("task", "approve", "ask", "--yes", who="ann")
    shell.json("task", "run", "ask", "--wait", who="ann")
    shell.json("task", "result", "ask", "--out", "answer", who="clinic")
    found = Table.from_csv((shell.place / "answer" / "result.csv").read_bytes()).to_dict()
    assert found["patient"] == frame.patient.tolist()
    assert np.mean(np.array(found["prediction"]) == frame.target) > 0.9
    assert shell.refused("task", "result", "ask", "--out", "mine", who="ann") == "denied"
