"""Clusters by density, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_iris, make_moons
from tests.support.learners import one
from tests.support.shared_tables import by_columns, by_rows

from mesatee.enclave.functions import dbscan as module
from mesatee.enclave.functions.dbscan import dbscan
from mesatee.errors import Malformed
from mesatee.table import Table


def agrees(
    found: pd.DataFrame, frame: pd.DataFrame, columns: list[str], distance: float, neighbours: int
) -> None:
    """Cores have the same parts, borders are near a core of theirs, noise is the same."""
    full = frame.dropna()
    theirs = DBSCAN(eps=distance, min_samples=neighbours).fit(full[columns])
    expected = pd.DataFrame({"id": full.id, "label": theirs.labels_})
    expected["core"] = False
    expected.iloc[theirs.core_sample_indices_, 2] = True
    both = found.merge(expected, on="id")
    assert len(both) == len(full)
    assert ((both.role == "core") == both.core).all()
    assert ((both.role == "noise") == (both.label == -1)).all()
    assert (both.cluster.isna() == (both.label == -1)).all()
    cores = both[both.core]
    assert (
        len(cores[["cluster", "label"]].drop_duplicates()) == cores.label.nunique() == cores.cluster.nunique()
    )
    points = full.set_index("id")[columns]
    for _, row in both[both.role == "border"].iterrows():
        mine = points.loc[cores[cores.cluster == row.cluster].id]
        assert (((mine - points.loc[row.id]) ** 2).sum(axis=1) <= distance**2 * (1 + 1e-9)).any()
    assert found[~found.id.isin(full.id)].role.isna().all()
    sizes = found.cluster.value_counts().sort_index()
    assert sizes.index.tolist() == list(range(1, len(sizes) + 1))
    assert sizes.is_monotonic_decreasing


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([1.0, 2.0]), st.integers(1, 6))
def test_it_is_what_scikit_learn_says(seed, parties, distance, neighbours):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": random.integers(0, 12, 60).astype(float),
            "z": random.integers(0, 12, 60).astype(float),
            "id": [f"n{number:02d}" for number in range(60)],
        }
    )
    frame.loc[random.integers(0, 60, 2), "z"] = np.nan
    asked = {"columns": ["x", "z"], "distance": distance, "neighbours": neighbours, "keep": "id"}
    found = dbscan(one(frame), **asked)
    assert found["id"].to_pylist() == sorted(frame.id)
    agrees(found.to_pandas(), frame, ["x", "z"], distance, neighbours)
    assert dbscan(by_rows(frame, parties, seed), **asked) == found
    tables, keys = by_columns(frame, parties, seed)
    beside = dbscan(tables, how="columns", key=keys, **asked).to_pandas()
    assert beside.columns.tolist() == ["person0", "id", "cluster", "role"]
    pd.testing.assert_frame_equal(
        beside.drop(columns="person0").sort_values("id").reset_index(drop=True), found.to_pandas()
    )


def test_two_moons_and_real_data():
    points, which = make_moons(300, noise=0.05, random_state=1)
    frame = pd.DataFrame({"x": points[:, 0], "z": points[:, 1], "id": range(300), "moon": which})
    found = dbscan(one(frame), distance=0.2, columns=["x", "z"], keep=["id", "moon"]).to_pandas()
    assert found.groupby("moon").cluster.nunique().tolist() == [1, 1]
    agrees(found, frame, ["x", "z"], 0.2, 5)
    iris = load_iris(as_frame=True).frame.drop(columns="target").assign(id=range(150))
    found = dbscan(one(iris), distance=0.5, keep="id").to_pandas()
    agrees(found, iris, list(iris.columns[:4]), 0.5, 5)


def test_without_complete_rows_there_are_no_clusters():
    frame = pd.DataFrame({"x": [None, None], "id": [2, 1]}, dtype="float64")
    assert dbscan(one(frame), distance=1.0, columns="x", keep="id").to_dict() == {
        "id": [1, 2],
        "cluster": [None, None],
        "role": [None, None],
    }


X = {"x": [1.0, 2.0], "id": ["u", "v"], "cluster": [1, 2], "l": [[1], [2]]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"keep": []}, "keep names no column"),
        ({"keep": "no"}, "no column 'no'"),
        ({"keep": "input"}, "no column of the tables"),
        ({"keep": ["id", "id"]}, "there already"),
        ({"keep": "cluster"}, "'cluster' to keep"),
        ({"keep": "l"}, "has no order"),
        ({"distance": 0.0}, "distance is from"),
        ({"neighbours": 0}, "neighbours is from"),
        ({"columns": "id", "keep": "x"}, "not numbers"),
    ],
)
def test_what_is_refused(arguments, said):
    given_ = {"a": Table(pa.table(X))}
    with pytest.raises(Malformed, match=said):
        dbscan(given_, **{"distance": 1.0, "columns": "x", "keep": "id", **arguments})


def test_rows_are_limited(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 2)
    assert (
        dbscan(
            one(pd.DataFrame({"x": [1.0, 2.0], "id": [1, 2]})), distance=1.0, neighbours=2, keep="id"
        ).num_rows
        == 2
    )
    monkeypatch.setattr(module, "ROWS", 1)
    with pytest.raises(Malformed, match="2 rows are too many"):
        dbscan(one(pd.DataFrame({"x": [1.0, 2.0], "id": [1, 2]})), distance=1.0, neighbours=1, keep="id")
