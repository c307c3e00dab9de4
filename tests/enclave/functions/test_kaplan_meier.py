"""Survival curves, against lifelines and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter, datasets
from lifelines.utils import median_survival_times
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions import _survival
from mesatee.enclave.functions.kaplan_meier import TIMES, kaplan_meier
from mesatee.errors import Malformed
from mesatee.table import Table

SETS = {
    "gbsg2": (datasets.load_gbsg2, "time", "cens", "horTh"),
    "rossi": (datasets.load_rossi, "week", "arrest", "fin"),
    "waltons": (datasets.load_waltons, "T", "E", "group"),
}


def table(**columns):
    return Table(pa.table(columns))


def agrees(rows, fitted):
    """Every row of one group is what lifelines says at that time."""
    events = fitted.event_table
    for row in rows:
        time = row["time"]
        survival = fitted.survival_function_.iloc[:, 0][time]
        low, high = fitted.confidence_interval_.loc[time]
        inside = 1e-12 < survival < 1
        fine = (
            close(row["survival"], survival)
            and (row["rows"], row["events"], row["censored"])
            == tuple(events.loc[time, ["at_risk", "observed", "censored"]])
            and close(row["low"], low if inside else None)
            and close(row["high"], high if inside else None)
        )
        if not fine:
            return False
    times = [time for time in events.index if events.loc[time, "removed"]]
    return [row["time"] for row in rows] == times


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_real_data(name, confidence):
    load, duration, event, group = SETS[name]
    frame = load()[[duration, event, group]]
    asked = {"duration": duration, "event": event, "group": group, "confidence": confidence}
    results = [
        [kaplan_meier(table=table_, **asked, **arguments) for table_ in ("curve", "median")]
        for arguments in everywhere(frame, 3)
    ]
    assert results[0] == results[1] == results[2]
    curve, medians = map(rows_of, results[0])
    assert [row["group"] for row in medians] == sorted(frame[group].unique())
    for median in medians:
        mine = frame[frame[group] == median["group"]]
        fitted = KaplanMeierFitter(alpha=1 - confidence).fit(mine[duration], mine[event])
        assert agrees([row for row in curve if row["group"] == median["group"]], fitted)
        assert median["rows"] == len(mine)
        assert (median["events"], median["events"] + median["censored"]) == (mine[event].sum(), len(mine))
        assert close(median["median"], fitted.median_survival_time_)
        low, high = median_survival_times(fitted.confidence_interval_).iloc[0]
        assert close(median["low"], low)
        assert close(median["high"], high)


def test_standard_errors_are_greenwoods():
    frame = datasets.load_waltons()
    for row in rows_of(kaplan_meier({"a": Table.from_pandas(frame)}, duration="T", event="E")):
        before = frame[frame["T"] <= row["time"]]
        total = Fraction(0)
        survival = Fraction(1)
        for time in sorted(set(before["T"])):
            d, n = int(((frame["T"] == time) & (frame["E"] == 1)).sum()), int((frame["T"] >= time).sum())
            survival *= 1 - Fraction(d, n)
            total = total + Fraction(d, n * (n - d)) if d < n else None
        if total is not None:
            assert row["std_error"] == pytest.approx(float(survival) * float(total) ** 0.5, rel=1e-12)


TIME = st.none() | st.integers(0, 6).map(float) | st.floats(0, 9).map(lambda x: round(x, 1))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(TIME, st.none() | st.booleans(), st.none() | st.sampled_from("aé漢")), max_size=40),
    st.integers(2, 8),
)
def test_it_is_the_product_of_exact_fractions(rows, parties):
    frame = pd.DataFrame(rows, columns=["t", "e", "g"]).astype({"t": float, "e": "boolean", "g": "string"})
    asked = {"duration": "t", "event": "e", "group": "g"}
    results = []
    for arguments in everywhere(frame, parties):
        results.append(
            (kaplan_meier(**asked, **arguments), kaplan_meier(**asked, table="median", **arguments))
        )
    assert results[0] == results[1] == results[2]
    curve, medians = map(rows_of, results[0])
    whole = [row for row in rows if None not in row]
    position = iter(curve)
    for group, median in zip(sorted({row[2] for row in whole}), medians, strict=True):
        mine = [row for row in whole if row[2] == group]
        survival, half = Fraction(1), None
        for time in sorted({row[0] for row in mine}):
            row = next(position)
            n, d = sum(item[0] >= time for item in mine), sum(item[0] == time and item[1] for item in mine)
            survival *= 1 - Fraction(d, n)
            assert (row["group"], row["time"], row["rows"], row["events"]) == (group, time, n, d)
            assert row["survival"] == pytest.approx(float(survival), rel=1e-12, abs=0)
            assert (row["low"] is None) == (survival in (0, 1))
            half = time if half is None and survival <= Fraction(1, 2) else half
        assert median["median"] == half
        assert median["low"] is None or half is None or median["low"] <= half
    assert next(position, None) is None


def test_at_times_that_are_named():
    given_ = {"a": table(t=[1, 2, 2, 4, 5], e=[1, 1, 0, 0, 0])}
    found = rows_of(kaplan_meier(given_, duration="t", event="e", times=[6, 0, 2, 3]))
    assert [(row["time"], row["rows"], row["events"], row["censored"]) for row in found] == [
        (0, 5, 0, 0),
        (2, 4, 2, 1),
        (3, 2, 0, 0),
        (6, 0, 0, 2),
    ]
    assert [row["survival"] for row in found] == [1.0, pytest.approx(0.6), pytest.approx(0.6), None]
    assert [row["std_error"] is None for row in found] == [False, False, False, True]
    # Where nobody is left, survival stays 0.
    (last,) = rows_of(kaplan_meier({"a": table(t=[1, 2])}, duration="t", times=[9]))
    assert (last["survival"], last["low"], last["std_error"]) == (0.0, None, None)


def test_without_events_and_groups_all_have_the_event():
    found = rows_of(kaplan_meier({"a": table(t=[2, 1, 4, 3])}, duration="t"))
    assert [row["survival"] for row in found] == pytest.approx([0.75, 0.5, 0.25, 0])
    assert "group" not in found[0]
    # Two steps of which rounding could make a little more than a half.
    (median,) = rows_of(kaplan_meier({"a": table(t=[2, 1, 4, 3])}, duration="t", table="median"))
    assert median["median"] == 2


def test_a_median_that_is_not_reached_is_null_and_said(capsys):
    (row,) = rows_of(
        kaplan_meier({"a": table(t=[1, 2, 3], e=[1, 0, 0])}, duration="t", event="e", table="median")
    )
    assert (row["rows"], row["median"], row["high"]) == (3, None, None)
    assert "median of group 1 of 1 is null" in capsys.readouterr().err


def test_nobody():
    empty = {"a": table(t=pa.array([], pa.float64()), g=pa.array([None], pa.string()).slice(1))}
    for table_ in ("curve", "median"):
        assert kaplan_meier(empty, duration="t", group="g", table=table_).num_rows == 0
        assert kaplan_meier(empty, duration="t", table=table_).num_rows == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"duration": "t", "table": "all"}, "table is one of"),
        ({"duration": "t", "confidence": 1.0}, "confidence lies between"),
        ({"duration": "t", "times": [-1]}, "from 0 on"),
        ({"duration": "t", "times": [1, 1]}, "different ones"),
        ({"duration": "t", "times": list(range(TIMES + 1))}, "at most"),
        ({"duration": "t", "times": [1], "table": "median"}, "are for table=curve"),
        ({"duration": "below"}, "durations below 0"),
        ({"duration": "t", "event": "t"}, "other than 0, 1"),
        ({"duration": "t", "group": "many"}, f"limit is {_survival.GROUPS}"),
    ],
)
def test_what_is_refused(arguments, said):
    size = _survival.GROUPS + 1
    given_ = {"a": table(t=np.arange(size), below=np.arange(size) - 1, many=np.arange(size))}
    with pytest.raises(Malformed, match=said):
        kaplan_meier(given_, **arguments)


def test_most_groups_and_times():
    size = _survival.GROUPS
    given_ = {"a": table(t=np.arange(size), many=np.arange(size))}
    assert kaplan_meier(given_, duration="t", group="many").num_rows == size
    assert kaplan_meier(given_, duration="t", times=list(range(TIMES))).num_rows == TIMES
