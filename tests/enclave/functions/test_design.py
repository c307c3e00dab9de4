"""From tables to features: encodings, rows that are complete, and their order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.learners import one

from mesatee.enclave.functions._design import LARGEST, Asked, _sorted, gather, scaling
from mesatee.errors import Malformed
from mesatee.protocol import limits


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rows_stand_in_the_order_of_their_values(rows, width, values, seed):
    random = np.random.default_rng(seed)
    keys = [random.integers(0, values, rows).astype(float) for _ in range(width)]
    order = _sorted(keys)
    assert sorted(order.tolist()) == list(range(rows))
    ordered = [tuple(key[at] for key in keys) for at in order]
    assert ordered == sorted(ordered)


def design(frame, **asked):
    return gather("f", one(pd.DataFrame(frame)), Asked(**asked), "rows", None)


FRAME = {
    "x": [3.0, 1.0, 2.0, None],
    "c": ["v", "u", "v", "w"],
    "y": [1, 0, 1, 0],
    "d": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-01", "2020-01-03"]),
}


def test_features_and_what_they_are():
    found = design(FRAME, columns=["x", "c", "d"], target="y", kind="classes")
    assert found.features == [
        ("x", None, None),
        ("c", "v", "u"),
        ("d", "2020-01-02T00:00:00", "2020-01-01T00:00:00"),
    ]
    assert found.matrix.tolist() == [[1, 0, 1], [2, 1, 0], [3, 1, 0]]
    assert (found.target.tolist(), found.classes, found.places.tolist()) == ([0, 1, 1], (0, 1), [1, 2, 0])
    assert found.present == [3, 2, 1]
    whole = design(FRAME, columns=["c"], whole=True)
    assert whole.columns[0].reference is None
    assert whole.matrix.sum(axis=0).tolist() == [1, 2, 1]


def test_scaling_is_by_the_deviation_with_n():
    found = design({"x": [1.0, 2.0, 6.0]}, columns="x")
    centre, by, ready = scaling(found, True)
    assert (centre.tolist(), by.tolist()) == ([3.0], [pytest.approx(np.std([1, 2, 6]))])
    assert ready.ravel().tolist() == pytest.approx([-2 / by[0], -1 / by[0], 3 / by[0]])
    assert [item.tolist() for item in scaling(found, False)[:2]] == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("frame", "asked", "said"),
    [
        ({"x": [LARGEST * 2, 1.0]}, {"columns": "x"}, "scale the columns"),
        ({"c": ["u" * (limits.LEARNED_LEVEL_CHARS + 1), "v"]}, {"columns": "c"}, "too long for categories"),
        (
            {"c": ["1", "2"], "x": [1, 2]},
            {"columns": "c", "reference": {"c": "3"}},
            "a level that no row has",
        ),
        ({"c": [str(n) for n in range(1001)]}, {"columns": "c"}, "over 1000"),
        ({"t": ["u", "v"]}, {"columns": ()}, "no column of numbers"),
    ],
)
def test_what_is_refused(frame, asked, said):
    with pytest.raises(Malformed, match=said):
        design(frame, **asked)


def test_limits_are_where_they_are_said_to_be(monkeypatch):
    assert design({"x": [LARGEST, 1.0], "c": ["u" * limits.LEARNED_LEVEL_CHARS, "v"]}, columns=["x", "c"])
    frame = {f"c{n}": ["u", "v", "w"] for n in range(3)}
    monkeypatch.setattr(limits, "LEARNED_FEATURES", 6)
    assert design(frame, columns=list(frame)).matrix.shape == (3, 6)
    monkeypatch.setattr(limits, "LEARNED_FEATURES", 5)
    with pytest.raises(Malformed, match="6 features, the limit is 5"):
        design(frame, columns=list(frame))
