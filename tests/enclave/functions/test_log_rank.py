"""Log-rank tests, against lifelines and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import datasets
from lifelines.statistics import multivariate_logrank_test
from statsmodels.duration.survfunc import survdiff
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions.log_rank import WEIGHTS, log_rank
from mesatee.errors import Malformed
from mesatee.table import Table

SETS = {
    "two treatments": (datasets.load_gbsg2, "time", "cens", "horTh"),
    "three grades": (datasets.load_gbsg2, "time", "cens", "tgrade"),
    "weeks with ties": (datasets.load_rossi, "week", "arrest", "prio"),
    "one early": (datasets.load_waltons, "T", "E", "group"),
}


def table(**columns):
    return Table(pa.table(columns))


def theirs_of(times, groups, events, weights, p=0.0, q=0.0):
    named = {} if weights == "log-rank" else {"weightings": weights}
    if weights == "fleming-harrington":
        named |= {"p": p, "q": q}
    return multivariate_logrank_test(times, groups, events, **named)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_real_data(name, weights):
    load, duration, event, group = SETS[name]
    frame = load()[[duration, event, group]]
    p, q = 0.5, 1.5
    theirs = theirs_of(frame[duration], frame[group], frame[event], weights, p, q)
    for arguments in everywhere(frame, 3):
        asked = {"duration": duration, "event": event, "group": group, **arguments}
        (row,) = rows_of(log_rank(weights=weights, p=p, q=q, **asked))
        assert (row["groups"], row["degrees"]) == (frame[group].nunique(), frame[group].nunique() - 1)
        assert row["rows"] == frame[group].value_counts().min()
        assert close(row["statistic"], theirs.test_statistic, 1e-8)
        assert close(row["p_value"], theirs.p_value, 1e-8)
        assert close(row["log_p_value"], math.log(theirs.p_value), 1e-8)


@pytest.mark.parametrize(
    ("weights", "other"), [("log-rank", None), ("wilcoxon", "gb"), ("tarone-ware", "tw")]
)
def test_statsmodels_agrees(weights, other):
    frame = datasets.load_gbsg2()
    statistic, p_value = survdiff(frame["time"], frame["cens"], frame["tgrade"], weight_type=other)
    given_ = {"a": Table.from_pandas(frame)}
    (row,) = rows_of(log_rank(given_, duration="time", event="cens", group="tgrade", weights=weights))
    assert close(row["statistic"], statistic)
    assert close(row["p_value"], p_value)


def test_observed_and_expected_of_groups():
    frame = datasets.load_gbsg2()
    rows = rows_of(
        log_rank(
            {"a": Table.from_pandas(frame)}, duration="time", event="cens", group="tgrade", table="groups"
        )
    )
    assert [row["group"] for row in rows] == ["I", "II", "III"]
    for row in rows:
        mine = frame[frame["tgrade"] == row["group"]]
        expected = 0.0
        for time in sorted(set(frame.loc[frame["cens"] == 1, "time"])):
            d, n = ((frame["time"] == time) & (frame["cens"] == 1)).sum(), (frame["time"] >= time).sum()
            expected += d * (mine["time"] >= time).sum() / n
        assert (row["rows"], row["observed"]) == (len(mine), mine["cens"].sum())
        assert row["expected"] == pytest.approx(expected, rel=1e-12)
    assert sum(row["expected"] for row in rows) == pytest.approx(frame["cens"].sum())


TIME = st.none() | st.integers(1, 6).map(float) | st.floats(0.1, 9).map(lambda x: round(x, 1))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(TIME, st.none() | st.booleans(), st.none() | st.sampled_from("aé漢")), max_size=40),
    st.integers(2, 8),
    st.sampled_from(WEIGHTS),
)
def test_it_is_what_lifelines_says(rows, parties, weights):
    frame = pd.DataFrame(rows, columns=["t", "e", "g"]).astype({"t": float, "e": "boolean", "g": "string"})
    results = [
        log_rank(duration="t", event="e", group="g", weights=weights, **arguments)
        for arguments in everywhere(frame, parties)
    ]
    assert results[0] == results[1] == results[2]
    (row,) = rows_of(results[0])
    whole = frame.dropna()
    events = whole["e"].astype(int).to_numpy()
    # Groups of which nobody is at risk with somebody else when something happens are another test.
    mixed = all(
        any(
            (whole["t"][whole["g"] == group] >= time).any()
            and (whole["t"][whole["g"] != group] >= time).any()
            for time in whole["t"][events == 1]
        )
        for group in set(whole["g"])
    )
    if whole["g"].nunique() < 2 or not mixed:
        assert row["statistic"] is None or row["degrees"] < whole["g"].nunique()
        return
    if row["statistic"] is not None:
        theirs = theirs_of(whole["t"].to_numpy(), whole["g"].to_numpy(dtype=object), events, weights, 1.0)
        assert close(row["statistic"], theirs.test_statistic, 1e-7, 1e-9)
        assert row["degrees"] == whole["g"].nunique() - 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"t": [1, 2], "e": [1, 1], "g": ["a", "a"]}, "fewer than two groups"),
        ({"t": [1, 2], "e": [0, 0], "g": ["a", "b"]}, "fewer than two groups"),
        ({"t": [1, 2, 9, 9], "e": [1, 1, 0, 0], "g": ["a", "a", "a", "a"]}, "fewer than two groups"),
        ({"t": [2, 2], "e": [1, 1], "g": ["a", "b"]}, "no times at which"),
        ({"t": [], "e": [], "g": []}, "fewer than two groups"),
    ],
)
def test_what_is_undefined_is_null_and_said(columns, said, capsys):
    arrays = {
        name: pa.array(values, {"t": pa.float64(), "e": pa.int8(), "g": pa.string()}[name])
        for name, values in columns.items()
    }
    (row,) = rows_of(log_rank({"a": table(**arrays)}, duration="t", event="e", group="g"))
    assert (row["statistic"], row["degrees"], row["p_value"], row["log_p_value"]) == (None, None, None, None)
    assert said in capsys.readouterr().err


def test_a_group_that_is_never_at_risk_is_left_out(capsys):
    with_it = {"a": table(t=[1, 3, 4, 5, 6, 0], e=[1, 1, 1, 0, 1, 0], g=list("ababac"))}
    without = {"a": table(t=[1, 3, 4, 5, 6], e=[1, 1, 1, 0, 1], g=list("ababa"))}
    (row,), (other,) = (
        rows_of(log_rank(given_, duration="t", event="e", group="g")) for given_ in (with_it, without)
    )
    assert (row["statistic"], row["degrees"], row["groups"]) == (other["statistic"], 1, 3)
    assert "left out of the test" in capsys.readouterr().err


def test_a_p_value_too_small_for_a_number():
    size = 4000
    times = np.r_[np.arange(1, size + 1), np.arange(size + 1, 2 * size + 1)]
    given_ = {"a": table(t=times, g=["a"] * size + ["b"] * size)}
    (row,) = rows_of(log_rank(given_, duration="t", group="g"))
    assert row["p_value"] == 0.0
    assert row["log_p_value"] < -1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weights": "mine"}, "weights is one of"),
        ({"table": "all"}, "table is one of"),
        ({"p": -1.0}, "p and q are 0 or more"),
        ({"event": "t"}, "other than 0, 1"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(Malformed, match=said):
        log_rank({"a": table(t=[1, 2, 3], g=[1, 1, 2])}, duration="t", group="g", **arguments)
