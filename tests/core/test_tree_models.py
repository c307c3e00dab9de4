"""Models that are broken or hostile are refused with the reason, whatever their format."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import forests

from mesatee._core import TreeModel
from mesatee.errors import InputError, Malformed, TooLarge

DEPTH, FEATURES, OUTPUTS = 512, 65_536, 4_096
"""As in rust/trees/src/model.rs."""


def own(**changes: Any) -> dict[str, Any]:
    """A tree of two leaves, in our own format."""
    tree = {
        "output": 0,
        "width": 1,
        "feature": [0, -1, -1],
        "threshold": [0.5, 0.0, 0.0],
        "left": [1, 0, 1],
        "right": [2, 0, 0],
        "missing_right": [0, 0, 0],
        "leaves": [1.0, 2.0],
    }
    tree |= {key: value for key, value in changes.items() if key in tree or key == "categories"}
    model = {
        "kind": "trees",
        "version": 1,
        "from": "test",
        "features": 1,
        "names": [],
        "classes": [],
        "outputs": 1,
        "base": [0.0],
        "divisor": 1.0,
        "sums": "float64",
        "values": "float64",
        "link": "identity",
        "scale": 1.0,
        "trees": [tree],
    }
    return model | {key: value for key, value in changes.items() if key not in tree}


def read(document: Any) -> TreeModel:
    return TreeModel(json.dumps(document).encode())


def predicted(model: TreeModel, *rows: float) -> list[float]:
    return np.frombuffer(model.predict([np.array(rows)], len(rows), output="margin")).tolist()


def test_what_is_whole_is_read() -> None:
    assert predicted(read(own()), 0.5, 0.6, np.nan) == [1, 2, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "another version"),
        ({"kind": "forest"}, "another kind"),
        ({"more": 1}, "unknown"),
        ({"left": [0, 0, 1]}, "node 0 is reached twice"),
        ({"right": [1, 0, 0]}, "node 1 is reached twice"),
        ({"right": [3, 0, 0]}, "a child 3 of 3 nodes"),
        ({"right": [-2, 0, 0]}, "out of range"),
        ({"feature": [1, -1, -1]}, "feature 1 of 1"),
        ({"feature": [-2, -1, -1]}, "out of range"),
        ({"threshold": [float("nan"), 0, 0.0]}, "threshold NaN"),
        ({"leaves": [1.0, float("inf")]}, "a leaf is not finite"),
        ({"leaves": [1.0]}, "no leaf value"),
        ({"left": [1, 0, -1]}, "no leaf value"),
        ({"output": 1}, "output is out of range"),
        ({"width": 0}, "output is out of range"),
        ({"left": [1, 0]}, "one entry for each node"),
        ({"base": []}, "no output"),
        ({"base": [float("nan")]}, "not finite"),
        ({"divisor": 0.0}, "not finite"),
        ({"outputs": 0}, "no output"),
        ({"names": ["a", "b"]}, "1 features and 2 names"),
        ({"link": "cosine"}, "link is unknown"),
        ({"sums": "float16"}, "neither float32"),
        ({"trees": [1]}, "not a list"),
        ({"categories": [{"node": 7, "left": [], "right": [], "other_right": True}]}, "not there"),
        ({"categories": [{"node": 0, "left": [-1], "right": [], "other_right": True}]}, "negative"),
        ({"categories": [{"node": 0, "left": [1], "right": [1], "other_right": True}]}, "not ascending"),
        (
            {"categories": [{"node": 0, "left": [1 << 24], "right": [], "other_right": True}]},
            "ascending, or from",
        ),
    ],
)
def test_what_is_broken_is_refused_with_the_reason(changes: dict, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read(own(**changes))


def chain(depth: int) -> dict[str, Any]:
    """A tree that is `depth` levels deep: each right child is a leaf."""
    ids = range(depth)
    return own(
        feature=[0] * depth + [-1] * (depth + 1),
        threshold=[float(-number) for number in ids] + [0.0] * (depth + 1),
        left=[*range(1, depth), 2 * depth, *range(depth + 1)],
        right=[depth + number for number in ids] + [0] * (depth + 1),
        missing_right=[0] * (2 * depth + 1),
        leaves=[float(number) for number in range(depth + 1)],
    )


def test_one_level_more_than_allowed_is_too_deep() -> None:
    assert predicted(read(chain(DEPTH)), 1.0, -0.5, -1e9) == [0, 1, DEPTH]
    with pytest.raises(TooLarge, match="deeper than 512"):
        read(chain(DEPTH + 1))


def test_one_feature_and_one_output_more_than_allowed_are_too_many() -> None:
    assert read(own(features=FEATURES)).features == FEATURES
    with pytest.raises(TooLarge, match="65537 features"):
        read(own(features=FEATURES + 1))
    assert read(own(outputs=OUTPUTS, base=[0.0] * OUTPUTS)).outputs == OUTPUTS
    with pytest.raises(TooLarge, match="4097 outputs"):
        read(own(outputs=OUTPUTS + 1, base=[0.0] * (OUTPUTS + 1)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither"),
        (b"\x80\x04\x95pickle", "neither"),
        (b"tree\nversion=v2\n", "another version"),
        (b"tree\nversion=v4\n", "num_tree_per_iteration is missing"),
        (b'{"learner": {}, "version": [4, 0, 0]}', "XGBoost 4"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": 01}', "a number is wrong"),
        (b'{"a": [1, "x"]}', "numbers and something else"),
        (b'{"a": ' + b"[" * 100, "nested too deeply"),
        (b'{"a": "\\ud800"}', "no character"),
        (b'{"a": 1} x', "something follows"),
        (b"{L" + struct.pack(">q", -1), "a length is wrong"),
        (b"{L" + struct.pack(">q", 1 << 60), "ends early"),
        (b"{U\x01a[$d#L" + struct.pack(">q", 1 << 62) + b"}", "ends early"),
        (b"{U\x01a" + b"[" * 100, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_model_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        TreeModel(data)


def learner(change: Callable[[dict], None]) -> bytes:
    """A real model of XGBoost with a change."""
    document = json.loads(forests.xgboost(1, "json").model)
    change(document["learner"])
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found["objective"].update(name="multi:unknown"), "is not known"),
        (lambda found: found["gradient_booster"].update(name="gblinear"), "has no trees"),
        (lambda found: found["learner_model_param"].update(base_score="x"), "base_score"),
        (lambda found: found["learner_model_param"].update(num_feature="1"), "looks at feature"),
        (lambda found: found["gradient_booster"]["model"]["tree_info"].pop(), "one entry for each tree"),
        (
            lambda found: found["gradient_booster"]["model"]["trees"][0]["left_children"].pop(),
            "tree 0: its lists",
        ),
        (
            lambda found: found["gradient_booster"]["model"]["trees"][0]["split_conditions"].__setitem__(
                0, "x"
            ),
            "not a list of numbers",
        ),
    ],
)
def test_changed_models_of_xgboost_are_refused(change: Callable[[dict], None], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        TreeModel(learner(change))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"is_linear=0", b"is_linear=1", "linear models"),
        (b"num_leaves=", b"num_leaves=9", "entries, not"),
        (b"end of trees", b"end", "Tree is missing"),
        (b"\n\nend of trees", b"", "stands twice|ends early|is missing"),
        (b"objective=regression", b"objective=riddle", "is not known"),
        (b"left_child=", b"left_child=99999 ", "entries, not"),
        (b"split_feature=", b"split_feature=-", "no number in its range"),
        (b"Tree=0", b"Tree=1", "another one, or missing"),
    ],
)
def test_changed_models_of_lightgbm_are_refused(old: bytes, new: bytes, reason: str) -> None:
    found = forests.lightgbm(12).model
    assert old in found
    with pytest.raises(Malformed, match=reason):
        TreeModel(found.replace(old, new, 1))


MODELS = [
    forests.xgboost(3, "ubj").model,
    forests.xgboost(9, "json").model,
    forests.lightgbm(0).model,
    forests.sklearn(7).model,
    json.dumps(own()).encode(),
]


@settings(max_examples=150, deadline=None)
@given(which=st.sampled_from(range(len(MODELS))), seed=st.integers(0, 2**32), many=st.integers(1, 8))
def test_no_mutation_does_more_than_be_refused(which: int, seed: int, many: int) -> None:
    rng = random.Random(seed)
    data = bytearray(MODELS[which])
    for _ in range(many):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(1, 9)]
            case 2:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 30)]
            case _:
                data[at : at + 1] = rng.choice(
                    [b"-1", b"9999999999", b"NaN", b"0", b"]", b"\xff\xff\xff\xff"]
                )
    try:
        model = TreeModel(bytes(data))
    except InputError:
        return
    if model.features <= 100:
        columns = [np.zeros(3)] * model.features
        for engine in ({}, {"portable": True}):
            assert len(model.predict(columns, 3, **engine)) == 24 * model.outputs
