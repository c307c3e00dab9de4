"""Weights of evidence, against their definition on pandas' bins."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.woe import BINS, woe
from mesatee.errors import Malformed
from mesatee.table import Table


def table(**columns):
    return Table(pa.table(columns))


def weights(groups, hit, smoothing):
    """Label -> rows, events, weight, part; for labels that rows have."""
    counts = pd.DataFrame({"g": groups, "e": hit.astype(int)}).groupby("g", dropna=False, observed=True)["e"]
    table = counts.agg(["size", "sum"])
    events, others = table["sum"] + smoothing, table["size"] - table["sum"] + smoothing
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = events / events.sum(), others / others.sum()
        weight = np.log(first / second)
    return {
        label: (
            int(table["size"][label]),
            int(table["sum"][label]),
            weight[label],
            (first - second)[label] * weight[label],
        )
        for label in table.index
    }


def agrees(rows, theirs, labels):
    filled = [row for row in rows if row["rows"]]
    if [label for label in labels if label in theirs] != [
        label for label, row in zip(labels, rows, strict=True) if row["rows"]
    ]:
        return False
    total = math.fsum(part for *_, part in theirs.values())
    for row, label in zip(filled, (label for label in labels if label in theirs), strict=True):
        count, events, weight, part = theirs[label]
        if (row["rows"], row["events"]) != (count, events):
            return False
        if not close(row["woe"], weight) or not close(row["iv"], part):
            return False
    return all(close(row["information_value"], total) for row in rows)


@pytest.mark.parametrize("smoothing", [0.5, 2.0])
def test_quantiles_of_real_data(smoothing):
    frame = datasets.load_breast_cancer(as_frame=True).frame
    chosen = ["mean radius", "worst texture", "mean concavity"]
    for arguments in everywhere(frame[[*chosen, "target"]], 3):
        found = rows_of(woe(target="target", columns=chosen, smoothing=smoothing, **arguments))
        for name in chosen:
            rows = [row for row in found if row["column"] == name]
            edges = [row["low"] for row in rows[1:]]
            assert edges == pytest.approx(frame[name].quantile(np.arange(1, 10) / 10).tolist(), rel=1e-12)
            bins = pd.cut(frame[name], [-np.inf, *edges, np.inf], right=False, labels=False)
            assert agrees(rows, weights(bins, frame["target"] == 1, smoothing), list(range(10)))


NUMBER = st.none() | st.integers(-3, 6).map(float)
TEXT = st.none() | st.sampled_from(["", "a", "é", "漢"])


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(NUMBER, TEXT, st.none() | st.booleans()), max_size=40),
    st.integers(2, 8),
    st.sampled_from([0.0, 0.5]),
)
def test_edges_and_categories(rows, parties, smoothing):
    frame = pd.DataFrame(rows, columns=["x", "t", "hit"]).astype(
        {"x": float, "t": "string", "hit": "boolean"}
    )
    known = frame[frame["hit"].notna()]
    hit = known["hit"].astype(bool)
    results = []
    for arguments in everywhere(frame, parties):
        found = woe(
            target="hit", columns=["x", "t"], edges={"x": [0, 2.5, 5]}, smoothing=smoothing, **arguments
        )
        results.append(found)
    assert results[0] == results[1] == results[2]
    found = rows_of(results[0])
    if not 0 < hit.sum() < len(hit):
        assert all(row["woe"] is None for row in found)
        return
    numbers = [row for row in found if row["column"] == "x"]
    bins = pd.cut(known["x"], [-np.inf, 0, 2.5, 5, np.inf], right=False, labels=False)
    theirs = weights(bins.fillna(9), hit, smoothing)
    assert agrees(numbers, theirs, [0, 1, 2, 3, *([9] if known["x"].isna().any() else [])])
    texts = [row for row in found if row["column"] == "t"]
    theirs = weights(known["t"].fillna("null"), hit, smoothing)
    assert agrees(texts, theirs, [row["value"] if row["kind"] == "category" else "null" for row in texts])


def test_bins_that_have_one_kind_alone_have_no_weight_without_smoothing(capsys):
    given_ = {"a": table(x=["u", "u", "v"], hit=[1, 0, 1])}
    first, second = rows_of(woe(given_, target="hit", smoothing=0))
    assert first["woe"] == pytest.approx(math.log(0.5 / 1))
    assert (second["woe"], second["iv"], first["information_value"]) == (None, None, None)
    assert "information value of 'x' is null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "event"),
    [([True, False, None], 1), ([1, 0, None], True), (["yes", "no", None], "yes"), ([2.5, 1.0, None], 2.5)],
)
def test_what_an_event_is(values, event):
    found = rows_of(woe({"a": table(x=[1, 1, 1], hit=pa.array(values))}, target="hit", event=event))
    assert [(row["rows"], row["events"], row["woe"]) for row in found] == [(2, 1, 0.0)]


def test_no_event_and_nothing_else_have_no_weights(capsys):
    found = rows_of(woe({"a": table(x=[1, 2], hit=[0, 0])}, target="hit"))
    assert all(row["woe"] is None and row["information_value"] is None for row in found)
    assert "0 of 2 rows are events" in capsys.readouterr().err
    empty = rows_of(woe({"a": table(x=pa.array([], pa.int64()), hit=pa.array([], pa.bool_()))}, target="hit"))
    assert [(row["rows"], row["woe"]) for row in empty] == [(0, None)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bins": 1}, "bins is from 2"),
        ({"bins": BINS + 1}, "bins is from 2"),
        ({"smoothing": -1}, "smoothing is 0 or more"),
        ({"columns": ["x", "hit"]}, "target is no column"),
        ({"edges": {"no": [1]}}, "none of the columns"),
        ({"edges": {"x": []}}, "rising order"),
        ({"edges": {"x": [1, 1]}}, "rising order"),
        ({"edges": {"t": [1]}}, "not numbers"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        woe({"a": table(x=[1, 2], t=["u", "v"], hit=[0, 1])}, target="hit", **arguments)


def test_most_bins_and_edges():
    given_ = {"a": table(x=[1, 2], hit=[0, 1])}
    assert woe(given_, target="hit", edges={"x": list(range(BINS - 1))}).num_rows == BINS
    with pytest.raises(Malformed, match="999 numbers"):
        woe(given_, target="hit", edges={"x": list(range(BINS))})
