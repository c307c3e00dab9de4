"""Joins against nested loops, and against pandas and polars."""

from __future__ import annotations

import datetime
import itertools
import math
import random
from decimal import Decimal

import pandas as pd
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee._core import oblivious_match
from mesatee.enclave.functions import _oblivious
from mesatee.enclave.functions.join import LEAKAGES, join
from mesatee.errors import Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.table import Table

QUICK = settings(deadline=None, max_examples=60)
TEXT = st.text(st.sampled_from(["a", "A", " ", "\0", "é", "漢", "\U0001f600", "\u0301"]), max_size=3)


def tables(kind, columns):
    """One input for each column of keys, with a payload that tells its rows apart."""
    return {
        f"p{number}": Table(pa.table({"id": pa.array(values, kind), f"v{number}": list(range(len(values)))}))
        for number, values in enumerate(columns)
    }


def nested_loops(columns, how):
    """The join by its definition, as a multiset of (key, row numbers)."""
    first, *others = columns
    found = []
    for row, key in enumerate(first):
        partners = []
        for other in others:
            same = [number for number, value in enumerate(other) if key is not None and value == key]
            partners.append(same or ([None] if how == "left" else []))
        found += [(key, row, *chosen) for chosen in itertools.product(*partners)]
    return found


def in_order(rows):
    return sorted(rows, key=lambda row: [(value is None, 0 if value is None else value) for value in row])


@pytest.mark.parametrize("how", ["inner", "left"])
@pytest.mark.parametrize(
    ("kind", "value"), [(pa.int16(), st.integers(0, 3)), (pa.string(), TEXT)], ids=["numbers", "text"]
)
def test_it_is_what_nested_loops_give(kind, value, how):
    column = st.lists(st.none() | value, max_size=6)

    @QUICK
    @given(st.lists(column, min_size=2, max_size=4))
    def check(columns):
        found = join(tables(kind, columns), key="id", how=how, many="multiply")
        # Text sorts by its bytes, which is the order of code points.
        assert list(zip(*found.to_dict().values(), strict=True)) == in_order(nested_loops(columns, how))

    check()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.none() | st.integers(0, 9), max_size=12, unique=True), min_size=8, max_size=8),
    st.sampled_from(["inner", "left"]),
)
def test_of_eight_parties(columns, how):
    found = join(tables(pa.int64(), columns), key="id", how=how)
    assert list(zip(*found.to_dict().values(), strict=True)) == in_order(nested_loops(columns, how))


KEYED = st.lists(st.tuples(st.none() | st.integers(0, 2), st.none() | TEXT, st.integers(0, 3)), max_size=15)


@QUICK
@given(KEYED, KEYED, st.sampled_from(["inner", "left"]))
def test_keys_of_two_columns_as_in_polars(left, right, how):
    def made(rows, last):
        kinds = {"n": pa.int64(), "t": pa.string(), last: pa.int64()}
        return pa.table(
            {
                name: pa.array([row[place] for row in rows], kind)
                for place, (name, kind) in enumerate(kinds.items())
            }
        )

    one, two = made(left, "x"), made(right, "y")
    found = join({"a": Table(one), "b": Table(two)}, key=["n", "t"], how=how, many="multiply")
    expected = polars.from_arrow(one).join(polars.from_arrow(two), on=["n", "t"], how=how)
    columns = ["n", "t", "x", "y"]
    assert found.to_dict() == expected.select(columns).sort(columns, nulls_last=True).to_dict(as_series=False)


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(allow_nan=False)), max_size=20),
    st.lists(st.integers(0, 5), max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_as_in_pandas_and_the_order_of_rows_does_not_show(left, right, shuffled: random.Random):
    def run(one, two):
        given_ = {
            "a": Table.from_dict({"k": pa.array([k for k, _ in one], pa.int64()), "x": [x for _, x in one]}),
            "b": Table.from_dict({"k": pa.array(two, pa.int64()), "y": [str(k) for k in two]}),
        }
        return join(given_, key="k")

    found = run(left, right)
    one, two = pd.DataFrame(left, columns=["k", "x"]), pd.DataFrame({"k": right, "y": map(str, right)})
    frame = one.astype({"k": "int64"}).merge(two.astype({"k": "int64"}), on="k", validate="many_to_one")
    assert sorted(zip(*found.to_dict().values(), strict=True)) == sorted(
        frame.itertuples(index=False, name=None)
    )
    shuffled.shuffle(left)
    shuffled.shuffle(right)
    again = run(left, right)
    # Both zeros are equal, and yet the bytes must be the same.
    assert [math.copysign(1, x) for x in again.to_dict()["x"]] == [
        math.copysign(1, x) for x in found.to_dict()["x"]
    ]
    assert again.to_arrow().equals(found.to_arrow())


def ids(*values, column="id", **others):
    return Table.from_dict({column: list(values), **others})


def test_empty_and_disjoint_inputs_keep_their_columns_and_types():
    for left, right in (([], []), ([], [1]), ([1], []), ([1, 2], [3])):
        given_ = tables(pa.int64(), [left, right])
        assert join(given_, key="id").to_dict() == {"id": [], "v0": [], "v1": []}
        kept = join(given_, key="id", how="left")
        assert kept.to_dict() == {"id": left, "v0": list(range(len(left))), "v1": [None] * len(left)}
        assert kept.schema.field("id").type == pa.int64()


def test_nulls_and_nan_never_match():
    nan = float("nan")
    left, right = ids(1.0, nan, None, x=[1, 2, 3]), ids(1.0, nan, None, y=[1, 2, 3])
    assert join({"a": left, "b": right}, key="id").to_dict() == {"id": [1.0], "x": [1], "y": [1]}
    kept = join({"a": left, "b": right}, key="id", how="left").to_dict()
    assert kept == {"id": [1.0, None, None], "x": [1, 2, 3], "y": [1, None, None]}


def test_zeros_are_equal_and_instants_in_two_zones_and_units():
    assert join({"a": ids(0.0), "b": ids(-0.0)}, key="id").num_rows == 1
    here = datetime.datetime(2024, 10, 27, 0, 30, tzinfo=datetime.UTC)
    left = Table(pa.table({"t": pa.array([here], pa.timestamp("s", tz="Europe/Zurich"))}))
    right = Table(pa.table({"t": pa.array([here], pa.timestamp("us", tz="America/New_York"))}))
    found = join({"a": left, "b": right}, key="t")
    assert found.to_dict() == {"t": [here]}
    assert found.schema.field("t").type == pa.timestamp("us", tz="UTC")
    naive = Table(pa.table({"t": pa.array([here.replace(tzinfo=None)], pa.timestamp("us"))}))
    with pytest.raises(Malformed, match="different types"):
        join({"a": left, "b": naive}, key="t")
    old = Table(pa.table({"t": pa.array([2**62], pa.timestamp("s", tz="UTC"))}))
    with pytest.raises(Malformed, match="do not fit"):
        join({"a": old, "b": right}, key="t")


def test_keys_come_out_in_their_normal_form_and_named_as_in_the_first_input():
    left, right = ids(" A@X", "b@x ", x=[1, 2]), ids("B@x", "a@x", column="mail", y=[3, 4])
    found = join({"l": left, "r": right}, key={"l": "id", "r": "mail"}, normalise="email")
    assert found.to_dict() == {"id": ["a@x", "b@x"], "x": [1, 2], "y": [4, 3]}


def test_clashing_names_get_the_name_of_their_input():
    left, right = ids(1, v=["l"], x=[1]), ids(1, v=["r"], y=[2])
    assert join({"a": left, "b": right}, key="id").columns == ["id", "a_v", "x", "b_v", "y"]
    other = Table.from_dict({"k": [1], "id": [7]})
    assert join({"a": left, "b": other}, key={"a": "id", "b": "k"}).to_dict()["b_id"] == [7]
    with pytest.raises(Malformed, match="'a_v'"):
        join({"a": ids(1, v=["l"], a_v=[1]), "b": right}, key="id")


def test_chosen_columns():
    given_ = {"a": ids(1, x=[1], y=[2]), "b": ids(1, x=[3]), "c": ids(1, z=[4])}
    found = join(given_, key="id", columns={"b": ["x"], "a": ["y"]})
    assert found.to_dict() == {"id": [1], "y": [2], "x": [3]}
    assert join(given_, key="id", columns={}).to_dict() == {"id": [1]}
    assert join(given_, key="id", columns={"a": ["id"]}).to_dict() == {"id": [1], "a_id": [1]}


def test_columns_of_any_type_come_through():
    kinds = {
        "dictionary": pa.array(["x", None]).dictionary_encode(),
        "decimal": pa.array([Decimal("1.50"), None]),
        "list": pa.array([[1, 2], None]),
        "struct": pa.array([{"a": 1}, None]),
        "view": pa.array(["y", None], pa.string_view()),
        "half": pa.array([1.5, None], pa.float16()),
        "nothing": pa.array([None, None]),
        "day": pa.array([datetime.date(2020, 1, 1), None]),
    }
    found = join({"a": ids(2, 1, **kinds), "b": ids(2, 1, 3)}, key="id", how="left").to_dict()
    assert found["id"] == [1, 2]
    assert found["decimal"] == [None, Decimal("1.50")]
    assert found["list"] == [None, [1, 2]]
    assert found["dictionary"] == [None, "x"]
    assert found["half"] == [None, 1.5]


def test_rows_of_one_key_sort_by_the_other_columns():
    left = ids(
        1, 1, 1, 1, d=pa.array(["b", "a", None, "a"]).dictionary_encode(), x=[1.5, float("nan"), 0.0, -1.0]
    )
    found = join({"a": left, "b": ids(1)}, key="id").to_dict()
    assert found["d"] == ["a", "a", "b", None]
    assert found["x"][0] == -1.0


def test_keys_may_be_asked_to_stand_once_everywhere():
    one, twice = (
        Table.from_dict({"id": [1, 2], "x": [1, 2]}),
        Table.from_dict({"id": [1, 1, 3], "y": [1, 2, 3]}),
    )
    assert join({"a": one, "b": one.select(["id"])}, key="id", many="unique").num_rows == 2
    for given_ in ({"a": one, "b": twice}, {"a": twice, "b": one}):
        assert join(given_, key="id").num_rows == 2
        with pytest.raises(Malformed, match="several times in an input"):
            join(given_, key="id", many="unique")


def test_keys_that_would_multiply_are_refused_unless_asked_for():
    many, one = ids(1, 1, 2, x=[1, 2, 3]), ids(1, 2, y=[1, 2])
    assert join({"a": many, "b": one}, key="id").num_rows == 3
    assert join({"a": one, "b": many}, key="id").num_rows == 3
    with pytest.raises(Malformed, match="several times in more than one input"):
        join({"a": many, "b": many}, key="id")
    assert join({"a": many, "b": many}, key="id", many="multiply").num_rows == 5
    # What matches nothing multiplies nothing.
    assert join({"a": many, "b": many, "c": ids(2)}, key="id").num_rows == 1
    with pytest.raises(Malformed, match="several times"):
        join({"a": many, "b": many, "c": ids(2)}, key="id", how="left")


@pytest.mark.parametrize("how", ["inner", "left"])
def test_the_number_of_rows_is_bounded(monkeypatch, how):
    given_ = {"a": ids(1, 1, 1, None if how == "left" else 5), "b": ids(1, 1)}
    size = 7 if how == "left" else 6
    monkeypatch.setattr(limits, "JOIN_ROWS", size)
    assert join(given_, key="id", how=how, many="multiply").num_rows == size
    monkeypatch.setattr(limits, "JOIN_ROWS", size - 1)
    with pytest.raises(TooLarge, match=f"over {size - 1} rows"):
        join(given_, key="id", how=how, many="multiply")


def test_a_join_bomb_is_refused_before_its_rows_are_made():
    # 1000 ** 8 rows: no integer of 64 bits holds their number.
    with pytest.raises(TooLarge):
        join({f"p{n}": ids(*[1] * 1000) for n in range(8)}, key="id", many="multiply")


@pytest.mark.parametrize(
    ("inputs", "args", "said"),
    [
        ({"a": ids(1)}, {"key": "id"}, "two or more"),
        ({"a": ids(1), "b": ids(1)}, {"key": "no"}, "no columns 'no'"),
        ({"a": ids(1), "b": ids("1")}, {"key": "id"}, "different types"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "how": "outer"}, "how is one of"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "many": "some"}, "many is one of"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "columns": {"c": []}}, "no input"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "columns": {"a": ["x"]}}, "no columns 'x'"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "columns": {"a": ["id", "id"]}}, "twice"),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "normalise": "upper"}, "no rule"),
    ],
)
def test_what_join_refuses(inputs, args, said):
    with pytest.raises(Malformed, match=said):
        join(inputs, **args)


def test_the_order_in_which_inputs_are_given_does_not_matter():
    one, two = ids(1, 2, x=[1, 2]), ids(2, 3, y=[3, 4])
    assert join({"b": two, "a": one}, key="id", how="left") == join(
        {"a": one, "b": two}, key="id", how="left"
    )


# -- the oblivious engine ------------------------------------------------------------------------------

INSTANT = datetime.datetime(2024, 10, 27, 0, 30, tzinfo=datetime.UTC)
CARRIED = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint64": (pa.uint64(), st.sampled_from([0, 1, 2**63, 2**64 - 1])),
    "half": (pa.float16(), st.sampled_from([0.0, -0.0, 1.5, math.inf])),
    "float": (pa.float32(), st.sampled_from([0.0, -1.5, -math.inf])),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "truth": (pa.bool_(), st.booleans()),
    "text": (pa.string(), TEXT),
    "bytes": (pa.binary(), st.binary(max_size=3)),
    "fixed": (pa.binary(2), st.binary(min_size=2, max_size=2)),
    "decimal": (pa.decimal128(5, 2), st.integers(-99999, 99999).map(lambda cents: Decimal(cents).scaleb(-2))),
    "day": (pa.date32(), st.dates()),
    "days": (pa.date64(), st.dates(datetime.date(1900, 1, 1))),
    "hour": (pa.time32("s"), st.just(datetime.time(1, 2, 3))),
    "time": (pa.time64("us"), st.times()),
    "instant": (pa.timestamp("us", tz="Europe/Zurich"), st.just(INSTANT)),
    "span": (pa.duration("s"), st.just(datetime.timedelta(seconds=-5))),
    "nothing": (pa.null(), st.none()),
}


@pytest.mark.parametrize("name", CARRIED)
def test_the_oblivious_engine_gives_what_the_other_gives(name):
    kind, value = CARRIED[name]
    row = st.tuples(st.none() | st.integers(-9, 9), st.none() | TEXT, st.none() | value)

    @settings(deadline=None, max_examples=12)
    @given(st.lists(st.lists(row, max_size=12, unique_by=lambda row: row[:2]), min_size=2, max_size=4))
    def check(parties):
        inputs = {
            f"p{number}": Table(
                pa.table(
                    {
                        "n": pa.array([row[0] for row in rows], pa.int64()),
                        "t": pa.array([row[1] for row in rows], pa.string()),
                        f"v{number}": pa.array([row[2] for row in rows], kind),
                    }
                )
            )
            for number, rows in enumerate(parties)
        }
        one, two = (join(inputs, key=["n", "t"], leakage=leakage).to_arrow() for leakage in LEAKAGES)
        assert one.schema == two.schema
        assert one.equals(two)

    check()


def test_the_oblivious_engine_is_used_if_it_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        _oblivious, "oblivious_match", lambda *a, **k: asked.append(k) or oblivious_match(*a, **k)
    )
    join({"a": ids(1), "b": ids(1)}, key="id")
    assert asked == []
    join({"a": ids(1), "b": ids(1)}, key="id", leakage="oblivious")
    assert len(asked) == 1


@pytest.mark.parametrize("count", [0, 1, 300_000])
def test_of_few_and_of_many_rows(count):
    left = ids(*range(count), x=list(range(0, -count, -1)))
    right = ids(*range(0, count, 3), y=list(range(0, count, 3)))
    for given_ in ({"a": left, "b": right}, {"a": right, "b": left}):
        one, two = (join(given_, key="id", leakage=leakage) for leakage in LEAKAGES)
        assert one.num_rows == len(range(0, count, 3))
        assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize(
    ("left", "args", "said"),
    [
        (ids(1, 1), {}, "unique in every input"),
        (ids(1, x=["y" * 300]), {}, "32 words"),
        (ids(1, x=[[1]]), {}, "'x' is list"),
        (ids(1), {"how": "left"}, "is inner"),
        (ids(1), {"leakage": "none"}, "leakage is one of"),
    ],
)
def test_what_the_oblivious_engine_refuses(left, args, said):
    for given_ in ({"a": left, "b": ids(1)}, {"a": ids(1), "b": left}):
        with pytest.raises(Malformed, match=said):
            join(given_, **{"key": "id", "leakage": "oblivious"} | args)


def test_counts_are_said_on_stderr_only(capsys):
    join({"a": ids(1, None), "b": ids(1, 2)}, key="id")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a: 2 rows, 1 with nulls in the key" in err
    assert "1 rows come out" in err
