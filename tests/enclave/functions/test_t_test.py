"""t-tests, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_gbsg2
from scipy import stats
from sklearn.datasets import load_iris
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions._statistics import ALTERNATIVES
from mesatee.enclave.functions.t_test import t_test
from mesatee.errors import Malformed
from mesatee.table import Table

SAMPLES = {"welch": False, "student": True}


def table(**columns):
    return Table(pa.table(columns))


def agrees(row, theirs, confidence, offset=0.0, relative=1e-9, absolute=1e-12):
    low, high = theirs.confidence_interval(confidence)
    return (
        close(row["statistic"], theirs.statistic, relative, absolute)
        and close(row["degrees"], theirs.df, relative)
        and close(row["p_value"], theirs.pvalue, relative, absolute)
        and close(
            row["log_p_value"], math.log(theirs.pvalue) if theirs.pvalue else math.nan, relative, absolute
        )
        and close(row["low"], low + offset, relative, absolute)
        and close(row["high"], high + offset, relative, absolute)
    )


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_two_groups_of_real_data(kind, alternative):
    frame = load_gbsg2()[["age", "menostat", "horTh"]]
    yes, no = (frame.loc[frame["horTh"] == value, "age"] for value in ("yes", "no"))
    theirs = stats.ttest_ind(yes, no, equal_var=SAMPLES[kind], alternative=alternative)
    for arguments in everywhere(frame, 3):
        found = t_test(
            column="age", group="horTh", groups=["yes", "no"], kind=kind, alternative=alternative,
            confidence=0.9, **arguments
        )  # fmt: skip
        (row,) = rows_of(found)
        assert agrees(row, theirs, 0.9)
        assert (row["rows"], row["rows_first"], row["rows_second"]) == (len(yes), len(yes), len(no))
        assert close(row["mean_first"], yes.mean())
        assert close(row["difference"], yes.mean() - no.mean())
        pooled = math.sqrt(((len(yes) - 1) * yes.var() + (len(no) - 1) * no.var()) / (len(frame) - 2))
        spread = pooled if kind == "student" else math.sqrt((yes.var() + no.var()) / 2)
        assert close(row["effect"], (yes.mean() - no.mean()) / spread)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_pairs_and_one_sample_of_real_data(alternative):
    frame = load_iris(as_frame=True).frame.iloc[:, :2].set_axis(["x", "y"], axis=1)
    pairs = stats.ttest_rel(frame["x"], frame["y"], alternative=alternative)
    one = stats.ttest_1samp(frame["x"], 5.8, alternative=alternative)
    for arguments in everywhere(frame, 2):
        (row,) = rows_of(t_test(column="x", other="y", kind="paired", alternative=alternative, **arguments))
        assert agrees(row, pairs, 0.95)
        assert row["rows"] == row["rows_first"] == row["rows_second"] == 150
        away = frame["x"] - frame["y"]
        assert close(row["effect"], away.mean() / away.std())
        (row,) = rows_of(
            t_test(column="x", kind="one-sample", mean=5.8, alternative=alternative, **arguments)
        )
        assert agrees(row, one, 0.95)
        assert (row["rows"], row["rows_second"], row["mean_second"]) == (150, None, None)
        assert close(row["difference"], frame["x"].mean())


NUMBER = st.none() | st.integers(-1000, 1000).map(lambda n: n / 8)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(NUMBER, NUMBER, st.none() | st.sampled_from(["a", "é"])), max_size=40),
    st.integers(2, 8),
    st.sampled_from(ALTERNATIVES),
)
def test_it_is_what_scipy_says(rows, parties, alternative):
    frame = pd.DataFrame(rows, columns=["x", "y", "g"]).astype({"x": float, "y": float, "g": "string"})
    x, y = frame["x"].dropna(), frame["y"].dropna()
    first, second = (frame.loc[frame["g"].fillna("") == name, "x"].dropna() for name in ("a", "é"))
    both = frame[["x", "y"]].dropna()
    cases = []
    for kind, equal in SAMPLES.items():
        for arguments, one, two in (
            ({"other": "y"}, x, y),
            ({"group": "g", "groups": ["a", "é"]}, first, second),
        ):
            cases.append((kind, arguments, [one, two], lambda one, two, equal=equal: stats.ttest_ind(
                one, two, equal_var=equal, alternative=alternative)))  # fmt: skip
    cases.append(
        (
            "paired",
            {"other": "y"},
            [both["x"], both["y"]],
            lambda *s: stats.ttest_rel(*s, alternative=alternative),
        )
    )
    cases.append(("one-sample", {}, [x], lambda s: stats.ttest_1samp(s, 0, alternative=alternative)))
    for kind, asked, samples, theirs in cases:
        results = [
            t_test(column="x", kind=kind, alternative=alternative, **asked, **arguments)
            for arguments in everywhere(frame, parties)
        ]
        assert results[0] == results[1] == results[2]
        (row,) = rows_of(results[0])
        spreads = [len(sample) > 1 and sample.nunique() > 1 for sample in samples]
        if kind == "paired":
            spreads = [len(both) > 1 and (both["x"] - both["y"]).nunique() > 1]
        if min(len(sample) for sample in samples) < 2 or not any(spreads):
            assert (row["statistic"], row["p_value"], row["low"], row["high"]) == (None, None, None, None)
        else:
            assert agrees(row, theirs(*samples), 0.95, 0.0, 1e-7, 1e-9)


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ({"kind": "one-sample"}, {"x": [1.0]}),
        ({"kind": "one-sample"}, {"x": [0.1, 0.1, 0.1]}),
        ({"kind": "one-sample"}, {"x": pa.array([], pa.float64())}),
        ({"kind": "one-sample"}, {"x": [1e308, -1e308, 1e307]}),
        ({"kind": "paired", "other": "y"}, {"x": [1, 2, 3], "y": [2, 3, 4]}),
        ({"kind": "paired", "other": "y"}, {"x": [1e308, 2.0, 1.0], "y": [-1e308, 1.0, 3.0]}),
        ({"kind": "student", "other": "y"}, {"x": [1, 1], "y": [2, 2]}),
        ({"kind": "welch", "other": "y"}, {"x": [1, 2], "y": [3, None]}),
        ({"kind": "welch", "group": "x", "groups": [1, 7]}, {"x": [1, 1, 2]}),
    ],
)
def test_what_is_undefined_is_null_and_said(asked, values, capsys):
    (row,) = rows_of(t_test({"a": table(**values)}, column="x", **asked))
    assert (row["statistic"], row["p_value"], row["log_p_value"], row["effect"]) == (None, None, None, None)
    assert "the test is undefined" in capsys.readouterr().err


def test_one_constant_sample_of_two_is_enough_spread():
    (row,) = rows_of(t_test({"a": table(x=[1, 1, 1], y=[2, 3, 5])}, column="x", other="y"))
    assert agrees(row, stats.ttest_ind([1, 1, 1], [2, 3, 5], equal_var=False), 0.95)


def test_large_and_small_numbers():
    for scale in (1e150, 1e-150):
        given_ = {"a": table(x=np.array([1, 2, 4]) * scale, y=np.array([2, 3, 7]) * scale)}
        for kind, equal in SAMPLES.items():
            (row,) = rows_of(t_test(given_, column="x", other="y", kind=kind))
            theirs = stats.ttest_ind([1, 2, 4], [2, 3, 7], equal_var=equal)
            assert close(row["statistic"], theirs.statistic)
            assert close(row["p_value"], theirs.pvalue)


def test_a_p_value_too_small_for_a_number():
    x = np.arange(1000) % 2 + 1e6
    (row,) = rows_of(t_test({"a": table(x=x)}, column="x", kind="one-sample"))
    assert row["p_value"] == 0.0
    # log of 2 sf(t) for large t: the tail is c / t^degrees.
    degrees, t = 999, row["statistic"]
    front = math.lgamma(500) - math.lgamma(499.5) - 0.5 * math.log(degrees * math.pi)
    tail = front + (degrees + 1) / 2 * math.log(degrees) - degrees * math.log(t) - math.log(degrees)
    assert row["log_p_value"] == pytest.approx(math.log(2) + tail, rel=1e-6)


def test_two_groups_need_no_names():
    given_ = {"north": table(x=[1.0, 2.0, 4.0]), "south": table(x=[3.0, 5.0])}
    (row,) = rows_of(t_test(given_, column="x", group="input"))
    assert (row["rows"], row["rows_first"], row["rows_second"]) == (2, 3, 2)
    assert agrees(row, stats.ttest_ind([1, 2, 4], [3, 5], equal_var=False), 0.95)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "z"}, "kind is one of"),
        ({"alternative": "more"}, "alternative is one of"),
        ({"confidence": 0.0}, "confidence lies between"),
        ({}, "name either group or other"),
        ({"group": "g", "other": "y"}, "name either group or other"),
        ({"kind": "paired"}, "name other"),
        ({"kind": "paired", "other": "y", "group": "g"}, "name other"),
        ({"kind": "one-sample", "other": "y"}, "leave group and other out"),
        ({"other": "y", "groups": ["a", "b"]}, "name group too"),
        ({"group": "g", "groups": ["a"]}, "names two groups"),
        ({"group": "g", "groups": ["a", "a"]}, "names one twice"),
        ({"group": "g"}, "has 3 groups"),
        ({"other": "x"}, "different columns"),
        ({"other": "g"}, "not numbers"),
    ],
)
def test_what_is_refused(asked, said):
    with pytest.raises(Malformed, match=said):
        t_test({"a": table(x=[1, 2, 3], y=[1, 2, 4], g=["a", "b", "c"])}, column="x", **asked)
