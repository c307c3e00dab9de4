"""Figures of groups against exact arithmetic, polars and pandas."""

from __future__ import annotations

import datetime
import math
import operator
import random
import statistics
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions.aggregate import GROUP_SIZE, aggregate
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.table import Table

QUICK = settings(deadline=None, max_examples=60)
ALL = ["count", "sum", "mean", "std", "min", "max", "median", "q0.9", "q0.25", "q1", "q0"]
GROUP = st.none() | st.sampled_from(["a", "b", "漢", "é", ""])
NUMBER = st.none() | st.floats(-1e9, 1e9) | st.just(math.nan)
WHOLE = st.none() | st.integers(-(2**40), 2**40)


def one(kind, rows, **others):
    """An input with the columns g and v."""
    columns = {
        "g": pa.array([row[0] for row in rows], pa.string()),
        "v": pa.array([row[1] for row in rows], kind),
    }
    return {"t": Table(pa.table(columns | others))}


def grouped(rows):
    """Group -> all rows, and those values that are there; groups in the order of the output."""
    found = {}
    for group, value in rows:
        found.setdefault(group, []).append(value)
    order = sorted(found, key=lambda group: (group is None, group or ""))
    return {group: found[group] for group in order}


def there(values):
    return [
        value
        for value in values
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]


@pytest.mark.parametrize(
    ("kind", "value"), [(pa.float64(), NUMBER), (pa.int64(), WHOLE)], ids=["floats", "integers"]
)
def test_figures_are_those_of_exact_arithmetic(kind, value):
    @QUICK
    @given(st.lists(st.tuples(GROUP, value), max_size=25))
    def check(rows):
        result = aggregate(one(kind, rows), by="g", measures={"v": ALL}).to_dict()
        groups = grouped(rows)
        assert result["g"] == list(groups)
        assert result["rows"] == [len(values) for values in groups.values()]
        for place, values in enumerate(groups.values()):
            kept = there(values)
            row = {name: column[place] for name, column in result.items()}
            assert row["v_count"] == len(kept)
            if not kept:
                assert all(row[f"v_{figure}"] is None for figure in ALL if figure != "count")
                continue
            total = sum(map(Fraction, kept))
            assert row["v_sum"] == (float(total) if kind == pa.float64() else total)
            assert row["v_mean"] == pytest.approx(float(total / len(kept)), rel=1e-15, abs=1e-300)
            assert (row["v_min"], row["v_max"]) == (min(kept), max(kept))
            for figure, share in (("median", 0.5), ("q0.9", 0.9), ("q0.25", 0.25), ("q1", 1), ("q0", 0)):
                expected = np.quantile(np.array(kept, float), share, method="linear")
                assert row[f"v_{figure}"] == pytest.approx(expected, rel=1e-9, abs=1e-6)
            if len(kept) == 1:
                assert row["v_std"] is None
            else:
                expected = math.sqrt(statistics.variance(map(Fraction, kept)))
                assert row["v_std"] == pytest.approx(expected, rel=1e-6, abs=1e-6)

    check()


@QUICK
@given(
    st.lists(st.tuples(st.none() | st.integers(0, 2), GROUP, WHOLE), max_size=30),
    st.randoms(use_true_random=False),
)
def test_as_in_polars_and_the_order_of_rows_does_not_show(rows, shuffled: random.Random):
    def made():
        return pa.table(
            {
                "n": pa.array([row[0] for row in rows], pa.int8()),
                "g": pa.array([row[1] for row in rows], pa.string()),
                "v": pa.array([row[2] for row in rows], pa.int64()),
            }
        )

    def run(table):
        return aggregate(
            {"t": Table(table)}, by=["n", "g"], measures={"v": ["sum", "count", "min", "max", "median"]}
        )

    v = polars.col("v")
    table = made()
    expected = (
        polars.from_arrow(table)
        .group_by("n", "g")
        .agg(
            polars.len().cast(polars.Int64).alias("rows"),
            # Polars says 0 where there is no value, SQL says null.
            polars.when(v.count() > 0).then(v.sum()).alias("v_sum"),
            v.count().cast(polars.Int64).alias("v_count"),
            v.min().alias("v_min"),
            v.max().alias("v_max"),
            v.median().alias("v_median"),
        )
        .sort("n", "g", nulls_last=True)
    )
    found = run(table)
    assert found.to_dict() == expected.to_dict(as_series=False)
    shuffled.shuffle(rows)
    assert run(made()).to_arrow().equals(found.to_arrow())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9), GROUP), max_size=15),
    st.lists(st.tuples(st.integers(0, 9), st.integers(-9, 9)), max_size=10, unique_by=lambda row: row[0]),
    st.sampled_from(["inner", "left"]),
)
def test_of_a_join_as_in_pandas(left, right, how):
    inputs = {
        "a": Table(
            pa.table(
                {
                    "k": pa.array([k for k, _ in left], pa.int64()),
                    "g": pa.array([g for _, g in left], pa.string()),
                }
            )
        ),
        "b": Table(
            pa.table(
                {
                    "k": pa.array([k for k, _ in right], pa.int64()),
                    "x": pa.array([x for _, x in right], pa.int64()),
                }
            )
        ),
    }
    found = aggregate(inputs, key="k", by="g", how=how, measures={"x": ["sum", "count"]}).to_dict()
    frame = pd.DataFrame(left, columns=["k", "g"]).astype({"k": "int64"})
    frame = frame.merge(pd.DataFrame(right, columns=["k", "x"]).astype({"k": "int64"}), on="k", how=how)
    groups = frame.groupby(frame["g"].fillna("\U0010ffff").astype(str), sort=True)["x"]
    assert found["rows"] == groups.size().tolist()
    assert found["x_count"] == groups.count().tolist()
    sums = groups.sum(min_count=1)
    assert found["x_sum"] == [None if pd.isna(value) else int(value) for value in sums]


@QUICK
@given(
    st.lists(st.tuples(GROUP, st.none() | st.integers(0, 3), st.none() | st.sampled_from("xy")), max_size=25),
    st.booleans(),
)
def test_units_are_counted_once_in_each_group(rows, grouped_by):
    columns = {
        "g": pa.array([row[0] for row in rows], pa.string()),
        "n": pa.array([row[1] for row in rows], pa.int64()),
        "t": pa.array([row[2] for row in rows], pa.string()),
    }
    by = "g" if grouped_by else []
    found = aggregate(
        {"t": Table(pa.table(columns))}, by=by, unit=["n", "t"], measures={"n": "count"}
    ).to_dict()
    groups = grouped([(row[0] if grouped_by else None, row[1:]) for row in rows])
    if not groups and not grouped_by:
        groups = {None: []}
    assert found["rows"] == [len({unit for unit in units if None not in unit}) for units in groups.values()]
    assert found["n_count"] == [sum(n is not None for n, _ in units) for units in groups.values()]


def test_a_person_with_many_rows_is_one():
    people = {"a": Table.from_dict({"id": [1, 2], "g": ["x", "x"]})}
    bills = {"b": Table.from_dict({"id": [1, 1, 1, 9], "cost": [1, 2, 3, 4]})}
    args = {"key": "id", "by": "g", "measures": {"cost": "sum"}}
    assert aggregate(people | bills, **args).to_dict() == {"g": ["x"], "rows": [3], "cost_sum": [6]}
    assert aggregate(people | bills, unit="id", **args).to_dict() == {
        "g": ["x"],
        "rows": [1],
        "cost_sum": [6],
    }


@pytest.mark.parametrize("parties", [2, 5, 8])
def test_of_several_parties(parties):
    inputs = {
        f"p{number}": Table.from_dict({"id": list(range(number, 20)), f"v{number}": [number] * (20 - number)})
        for number in range(parties)
    }
    found = aggregate(inputs, key="id", measures={f"v{number}": "sum" for number in range(parties)}).to_dict()
    left = 20 - parties + 1
    assert found == {"rows": [left]} | {f"v{number}_sum": [left * number] for number in range(parties)}


def test_columns_are_named_as_in_the_join():
    inputs = {
        "a": Table.from_dict({"id": [1, 2], "v": [1, 2], "g": ["x", "y"]}),
        "b": Table.from_dict({"pid": [1, 2], "v": [3, 4]}),
    }
    key = {"a": "id", "b": "pid"}
    found = aggregate(inputs, key=key, by="g", measures={"b_v": "sum", "a_v": "max"}, where=[["id", "<", 2]])
    assert found.to_dict() == {"g": ["x"], "rows": [1], "a_v_max": [1], "b_v_sum": [3]}
    with pytest.raises(Malformed, match="no column 'v'; they have id, a_v, g, b_v"):
        aggregate(inputs, key=key, measures={"v": "sum"})


def test_without_groups_there_is_one_row_also_of_nothing():
    empty = one(pa.int64(), [])
    assert aggregate(empty).to_dict() == {"rows": [0]}
    assert aggregate(empty, measures={"v": ["count", "sum", "q0.5"]}).to_dict() == {
        "rows": [0],
        "v_count": [0],
        "v_sum": [None],
        "v_q0.5": [None],
    }
    assert aggregate(empty, by="g", measures={"v": "mean"}).to_dict() == {"g": [], "rows": [], "v_mean": []}
    assert aggregate(one(pa.int64(), [("a", 1), (None, 2)])).to_dict() == {GROUP_SIZE: [2]}


def test_groups_of_any_type_and_both_zeros_and_nan():
    values = {
        "float": pa.array([0.0, -0.0, math.nan, None]),
        "time": pa.array(
            [datetime.datetime(2024, 10, 27, hour, 30) for hour in (0, 1, 0, 1)],
            pa.timestamp("us", tz="Europe/Zurich"),
        ),
        "decimal": pa.array([Decimal("1.5"), Decimal("1.50"), None, Decimal(2)]),
        "dictionary": pa.array(["b", "a", None, "b"]).dictionary_encode(),
        "truth": pa.array([True, False, None, True]),
        "day": pa.array([datetime.date(2020, 1, day) for day in (2, 1, 2, 2)]),
        "nothing": pa.array([None] * 4),
    }
    sizes = {"float": [2, 2], "time": [2, 2], "decimal": [2, 1, 1], "dictionary": [1, 2, 1]}
    sizes |= {"truth": [1, 2, 1], "day": [1, 3], "nothing": [4]}
    for name, column in values.items():
        found = aggregate({"t": Table(pa.table({"c": column}))}, by="c", measures={"c": ["count"]}).to_dict()
        assert found["rows"] == sizes[name], name
    assert aggregate({"t": Table(pa.table({"c": values["float"]}))}, by="c").to_dict()["c"] == [0.0, None]


def test_least_and_largest_of_text_days_and_truth_values():
    columns = {
        "s": ["b", "a", None],
        "d": [datetime.date(2020, 1, 2), None, datetime.date(2019, 1, 1)],
        "b": [True, None, False],
    }
    found = aggregate(
        {"t": Table.from_dict(columns)}, measures={name: ["min", "max"] for name in columns}
    ).to_dict()
    assert found["s_min"] + found["s_max"] == ["a", "b"]
    assert found["d_min"] + found["d_max"] == [datetime.date(2019, 1, 1), datetime.date(2020, 1, 2)]
    assert found["b_min"] + found["b_max"] == [False, True]


def test_sums_are_exact_and_those_that_do_not_fit_are_refused():
    largest = 2**63 - 1
    fits = one(pa.int64(), [("a", largest), ("a", 1), ("a", -1), ("b", -(2**63))])
    assert aggregate(fits, by="g", measures={"v": "sum"}).to_dict()["v_sum"] == [largest, -(2**63)]
    over = one(pa.int64(), [("a", largest), ("a", 1)])
    with pytest.raises(Malformed, match="does not fit int64"):
        aggregate(over, measures={"v": "sum"})
    assert aggregate(over, measures={"v": "mean"}).to_dict()["v_mean"] == [2.0**62]
    unsigned = one(pa.uint64(), [("a", 2**64 - 2), ("a", 1)])
    assert aggregate(unsigned, measures={"v": "sum"}).to_dict()["v_sum"] == [2**64 - 1]
    with pytest.raises(Malformed, match="does not fit uint64"):
        aggregate(one(pa.uint64(), [("a", 2**64 - 1), ("a", 1)]), measures={"v": "sum"})
    cents = one(pa.decimal128(4, 2), [("a", Decimal("99.99"))] * 101)
    assert aggregate(cents, measures={"v": ["sum", "mean"]}).to_dict() == {
        "rows": [101],
        "v_sum": [Decimal("10098.99")],
        "v_mean": [99.99],
    }
    with pytest.raises(Malformed, match="does not fit decimal"):
        aggregate(one(pa.decimal128(38, 0), [("a", Decimal(10**38 - 1))] * 2), measures={"v": "sum"})


def test_sums_of_floating_point_do_not_depend_on_the_order():
    values = [1e16, 1.0, -1e16, 1e-3] * 50
    expected = math.fsum(values)
    for _ in range(5):
        random.Random(7).shuffle(values)
        found = aggregate(one(pa.float64(), [("a", value) for value in values]), measures={"v": "sum"})
        assert found.to_dict()["v_sum"] == [expected]


def test_infinities_and_sums_that_are_too_large():
    inf = math.inf
    found = aggregate(
        one(pa.float64(), [("a", inf), ("a", 1.0), ("b", inf), ("b", -inf)]),
        by="g",
        measures={"v": ["sum", "min", "max", "std", "median"]},
    ).to_dict()
    assert found["v_sum"][0] == inf
    assert math.isnan(found["v_sum"][1])
    assert math.isnan(found["v_std"][1])
    assert found["v_max"] == [inf, inf]
    assert found["v_min"] == [1.0, -inf]
    assert found["v_median"][0] == inf
    with pytest.raises(Malformed, match="does not fit"):
        aggregate(one(pa.float64(), [("a", 1.7e308), ("a", 1.7e308)]), measures={"v": "sum"})


# -- conditions ----------------------------------------------------------------------------------------

_PLAIN = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@pytest.mark.parametrize(
    ("kind", "value", "against"),
    [
        (
            pa.int8(),
            st.integers(-3, 3) | st.sampled_from([-128, 127]),
            st.integers(-300, 300) | st.floats(-3, 3),
        ),
        (
            pa.uint64(),
            st.sampled_from([0, 1, 2**53 + 1, 2**64 - 1]),
            st.sampled_from([-1, 2**53, 2**53 + 1, 2.0**64]),
        ),
        (
            pa.float64(),
            st.sampled_from([0.0, -0.0, 1.5, -math.inf, math.inf, math.nan]),
            st.sampled_from([0, 1, 1.5]),
        ),
        (pa.string(), st.sampled_from(["a", "B", "", "漢"]), st.sampled_from(["a", "B", "", "漢"])),
        (pa.bool_(), st.booleans(), st.booleans()),
    ],
    ids=["int8", "uint64", "floats", "text", "truth"],
)
def test_conditions_are_those_of_python(kind, value, against):
    @QUICK
    @given(st.lists(st.none() | value, max_size=12), against, st.sampled_from(sorted(_PLAIN)))
    def check(values, limit, said):
        inputs = {"t": Table(pa.table({"v": pa.array(values, kind)}))}

        def left(*condition):
            return aggregate(inputs, where=[["v", *condition]]).to_dict()["rows"][0]

        kept = there(values)
        assert left(said, limit) == sum(_PLAIN[said](one, limit) for one in kept)
        assert left("in", [limit]) == sum(one == limit for one in kept)
        assert left("not in", [limit]) == sum(one != limit for one in kept)
        assert left("is null") == len(values) - len(kept)
        assert left("not null") == len(kept)

    check()


@pytest.mark.parametrize(
    ("column", "condition", "rows"),
    [
        (pa.array([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]), [">", "2020-01-01"], 1),
        (
            pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("us", tz="Europe/Zurich")),
            ["==", "2020-01-01T01:00:00+01:00"],
            1,
        ),
        (pa.array([datetime.datetime(2020, 1, 1)]), ["<=", "2020-01-01"], 1),
        (pa.array([datetime.time(1), datetime.time(2)]), ["<", "01:30:00"], 1),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["<", 2], 1),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["==", "1.5"], 1),
        (pa.array(["x", "y"]).dictionary_encode(), ["==", "x"], 1),
        (pa.array([None, None]), ["==", 1], 0),
        (pa.array([[1], None]), ["not null"], 1),
    ],
)
def test_conditions_on_other_types(column, condition, rows):
    found = aggregate({"t": Table(pa.table({"c": column}))}, where=[["c", *condition]])
    assert found.to_dict() == {"rows": [rows]}


def test_all_conditions_must_hold():
    found = aggregate(
        one(pa.int64(), [("a", 1), ("a", 5), ("b", 5)]), where=[["g", "==", "a"], ["v", ">", 2]]
    )
    assert found.to_dict() == {"rows": [1]}


ONE = one(pa.int64(), [("a", 1)], l=pa.array([[1]]), t=pa.array([datetime.datetime(2020, 1, 1)]))
TWO = {"a": Table.from_dict({"id": [1, 1]}), "b": Table.from_dict({"id": [1, 1]})}


@pytest.mark.parametrize(
    ("inputs", "args", "said"),
    [
        (ONE, {"key": "g"}, "single input has no key"),
        (TWO, {}, "need the key"),
        (TWO, {"key": "id"}, "several times"),
        (TWO, {"key": "id", "how": "cross"}, "how is one of"),
        (ONE, {"by": "x"}, "no columns 'x'"),
        (ONE, {"by": "l"}, "cannot be grouped"),
        (ONE, {"unit": "l"}, "cannot be grouped"),
        (ONE, {"unit": "x"}, "no columns 'x'"),
        (ONE, {"by": ["g", "g"]}, "two columns"),
        (ONE, {"measures": {"v": []}}, "no figure"),
        (ONE, {"measures": {"v": ["sum", "sum"]}}, "two columns"),
        (ONE, {"measures": {"v": "average"}}, "no figure 'average'"),
        (ONE, {"measures": {"v": "q1.5"}}, "no figure 'q1.5'"),
        (ONE, {"measures": {"v": "q"}}, "no figure 'q'"),
        (ONE, {"measures": {"g": "sum"}}, "of numbers"),
        (ONE, {"measures": {"g": "median"}}, "of numbers"),
        (ONE, {"measures": {"t": "mean"}}, "of numbers"),
        (ONE, {"measures": {"l": "max"}}, "count only"),
        (ONE, {"measures": {"x": "sum"}}, "no columns 'x'"),
        (ONE, {"where": [["v", "=", 1]]}, "operators are"),
        (ONE, {"where": [["v"]]}, "a condition is"),
        (ONE, {"where": [["v", "in", 1]]}, "a condition is"),
        (ONE, {"where": [["v", "==", "1"]]}, "another type"),
        (ONE, {"where": [["v", "==", True]]}, "another type"),
        (ONE, {"where": [["g", "<", 1]]}, "another type"),
        (ONE, {"where": [["t", "<", "2020-01-01T00:00:00Z"]]}, "with a zone only if"),
        (ONE, {"where": [["t", "<", "yesterday"]]}, "another type"),
        (ONE, {"where": [["l", "==", 1]]}, "no condition can compare"),
        (ONE, {"where": [["v", "==", None]]}, "another type"),
        ({"t": Table.from_dict({"rows": [1]})}, {"by": "rows"}, "'rows'"),
    ],
)
def test_what_aggregate_refuses(inputs, args, said):
    with pytest.raises(Malformed, match=said):
        aggregate(inputs, **args)


@pytest.mark.parametrize(
    ("constant", "args"),
    [
        ("CONDITIONS", {"where": [["v", "not null"]] * 3}),
        ("CONDITION_VALUES", {"where": [["v", "in", [1, 2, 3]]]}),
        ("MEASURES", {"measures": {"v": ["sum", "min", "max"]}}),
        ("JOIN_ROWS", None),
    ],
)
def test_limits_hold_one_above_and_not_one_below(monkeypatch, constant, args):
    inputs = ONE if args else {"a": Table.from_dict({"id": [1, 1, 1]}), "b": Table.from_dict({"id": [1]})}
    given_ = args or {"key": "id"}
    monkeypatch.setattr(limits, constant, 3)
    aggregate(inputs, **given_)
    monkeypatch.setattr(limits, constant, 2)
    with pytest.raises(TooLarge):
        aggregate(inputs, **given_)


def test_no_value_of_the_data_is_in_a_message():
    secret = "s3cr3t"
    inputs = {"t": Table.from_dict({"g": [secret], "v": [2**62]})}
    for args in ({"measures": {"g": "sum"}}, {"where": [["g", "==", 1]]}, {"by": "x"}):
        with pytest.raises(InputError) as found:
            aggregate(inputs, **args)
        assert secret not in found.value.message


def test_nothing_is_said_on_stderr(capsys):
    aggregate(ONE, by="g", measures={"v": ALL})
    assert capsys.readouterr() == ("", "")
