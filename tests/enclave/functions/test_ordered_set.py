"""Intersection and join of sorted tables, against Python's sets and dicts."""

from __future__ import annotations

import datetime
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.batches import Batches
from mesatee.enclave.functions.ordered_set_intersect import ordered_set_intersect
from mesatee.enclave.functions.ordered_set_join import ordered_set_join
from mesatee.errors import Malformed

KINDS = {
    "integers": (pa.int64(), st.integers(-9, 9) | st.sampled_from([-(2**63), 2**63 - 1]), None),
    "text": (pa.string(), st.text(st.sampled_from("aAbé漢\U0001f600\0\uffff"), max_size=3), str.encode),
    "bytes": (pa.binary(), st.binary(max_size=2), None),
    "numbers": (pa.float64(), st.sampled_from([0.0, 1.5, -1.5, math.inf, -math.inf, 5e-324]), None),
    "dates": (pa.date32(), st.dates(datetime.date(1960, 1, 1), datetime.date(1960, 1, 9)), None),
    "times": (
        pa.timestamp("ns", tz="Europe/Zurich"),
        st.integers(0, 9).map(lambda hour: datetime.datetime(2024, 10, 27, hour, tzinfo=datetime.UTC)),
        None,
    ),
}


def batches(arrow, size=3):
    """In pieces of `size` rows, an empty one among them."""

    def pieces():
        for at in range(0, arrow.num_rows, size):
            yield arrow.slice(at, size)
            yield arrow.slice(0, 0)

    return Batches(pieces, arrow.schema)


def whole(found):
    return pa.concat_tables([piece.to_arrow() for piece in found])


def side(kind, keys, name="k", size=3, **more):
    return batches(pa.table({name: pa.array(keys, kind), **more}), size)


def numbers(*keys, **args):
    return side(pa.int64(), keys, **args)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("descending", [False, True])
def test_it_is_the_algebra_of_sets(name, descending):
    kind, value, order = KINDS[name]
    keys = st.sets(value, max_size=16).map(lambda found: sorted(found, key=order, reverse=descending))
    args = {"key": "k", "order": "descending" if descending else "ascending"}

    @settings(deadline=None, max_examples=40)
    @given(keys, keys, st.integers(1, 5), st.integers(1, 5))
    def check(left, right, size, other):
        common = set(left) & set(right)
        found = ordered_set_intersect(side(kind, left, size=size), side(kind, right, size=other), **args)
        assert whole(found.left).to_pydict() == {"common": [key in common for key in left]}
        assert whole(found.right).to_pydict() == {"common": [key in common for key in right]}
        joined = ordered_set_join(
            side(kind, left, size=size, v=pa.array(range(len(left)))),
            side(kind, right, size=other, v=pa.array(range(len(right))), w=pa.array([None] * len(right))),
            **args,
        )
        got = whole(joined).to_pydict()
        assert list(got) == ["k", "v", "v_right", "w"]
        expected = [key for key in left if key in common]
        assert len(got["k"]) == len(expected)
        assert [left[at] for at in got["v"]] == [right[at] for at in got["v_right"]] == expected

    check()


@pytest.mark.parametrize("columns", [100_001, 70_000])
def test_of_tables_of_several_batches_that_are_read(columns):
    text = b"k,v\n" + b"".join(b"%d,%d\n" % (key, key % 7) for key in range(0, columns * 3, 3))
    left, right = Batches.read(text, "csv"), numbers(3, 4, 3 * (columns - 1), 3 * columns, size=1)
    assert whole(ordered_set_join(left, right, key="k")).to_pydict() == {
        "k": [3, 3 * (columns - 1)],
        "v": [3, 3 * (columns - 1) % 7],
    }
    assert sum(whole(ordered_set_intersect(left, right, key="k").left)["common"].to_pylist()) == 2


def test_keys_are_named_for_each_side_and_can_be_dropped():
    left, right = numbers(1, 2, name="a", x=pa.array(["p", "q"])), numbers(2, 3, name="b", y=pa.array([5, 6]))
    args = {"key": {"left": "a", "right": "b"}}
    assert whole(ordered_set_join(left, right, **args)).to_pydict() == {"a": [2], "x": ["q"], "y": [5]}
    assert whole(ordered_set_join(left, right, drop=True, **args)).to_pydict() == {"x": ["q"], "y": [5]}


def test_nothing_in_common_still_has_columns():
    joined = whole(ordered_set_join(numbers(), numbers(1), key="k"))
    assert (joined.column_names, joined.num_rows) == (["k"], 0)
    assert whole(ordered_set_intersect(numbers(), numbers(), key="k").left).to_pydict() == {"common": []}


def test_numbers_of_one_family_meet():
    left, right = side(pa.int8(), [1, 2]), side(pa.uint64(), [2, 3])
    assert whole(ordered_set_join(left, right, key="k"))["k"].to_pylist() == [2]


@pytest.mark.parametrize("run", [ordered_set_intersect, ordered_set_join])
@pytest.mark.parametrize(
    ("left", "right", "args", "said"),
    [
        (numbers(1, 3, 2), numbers(1), {}, "row 2 of left is not in order"),
        (numbers(1, 2, 3, 2), numbers(1), {}, "row 3 of left is not in order"),
        (numbers(9), numbers(1, 2, 2), {}, "row 2 of right is that of the row before"),
        (numbers(1, 2, 3, 3), numbers(1), {}, "row 3 of left is that of the row before"),
        (numbers(1, 2), numbers(2, 1), {"order": "descending"}, "row 1 of left"),
        (numbers(1, 2, 3, 4, None), numbers(1), {}, "row 4 of left is missing"),
        (side(pa.null(), [None]), numbers(1), {}, "row 0 of left is missing"),
        (side(pa.float64(), [1.0, math.nan]), numbers(1), {}, "different types"),
        (side(pa.float64(), [1.0, math.nan]), side(pa.float64(), [1.0]), {}, "row 1 of left is missing"),
        (numbers(1), side(pa.string(), ["1"]), {}, "different types"),
        (numbers(1), numbers(1), {"key": "no"}, "no columns 'no'"),
        (numbers(1), numbers(1), {"key": {"left": "k"}}, "must name the inputs"),
        (numbers(1), numbers(1), {"order": "up"}, "order is one of"),
        (side(pa.list_(pa.int64()), [[1]]), numbers(1), {}, "list"),
        # Small letters stand behind capital ones: by bytes, not by a language's rules.
        (side(pa.string(), ["a", "B"]), side(pa.string(), ["a"]), {}, "row 1 of left is not in order"),
    ],
)
def test_what_is_refused_before_anything_comes_out(run, left, right, args, said):
    with pytest.raises(Malformed, match=said):
        run(left, right, **({"key": "k"} | args))


def test_columns_that_a_join_cannot_name():
    twice = batches(pa.Table.from_arrays([pa.array([1])] * 3, names=["k", "v", "v"]))
    left = numbers(1, v=pa.array([1]))
    for one, other, args, said in (
        (left, numbers(1, v=pa.array([1])), {"suffix": ""}, "another suffix"),
        (numbers(1), numbers(1), {"drop": True}, "no column is left"),
        (twice, numbers(1), {}, "left has two columns"),
        (numbers(1), twice, {}, "right has two columns"),
    ):
        with pytest.raises(Malformed, match=said):
            ordered_set_join(one, other, key="k", **args)


def test_the_number_of_common_keys_is_said_on_stderr_only(capsys):
    ordered_set_intersect(numbers(1, 2, 3, 4), numbers(2, 4, 5), key="k")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "ordered_set_intersect: 2 common keys\n")
