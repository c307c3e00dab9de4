"""Files and rows one behind the other."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions.concat import SEPARATOR_BYTES, concat
from mesatee.enclave.functions.concat_rows import concat_rows
from mesatee.errors import Malformed
from mesatee.table import Table

NAMES = st.sampled_from([f"p{number}" for number in range(9)])
QUICK = settings(deadline=None, max_examples=60)


@given(st.dictionaries(NAMES, st.binary(max_size=20), min_size=1, max_size=8), st.text(max_size=3))
def test_bytes_by_the_order_of_names(inputs, separator):
    between = separator.encode()
    expected = b""
    for position, (_, data) in enumerate(sorted(inputs.items())):
        expected += (between if position else b"") + data
    assert concat(inputs, separator=separator) == expected
    assert concat(dict(reversed(inputs.items())), separator=separator) == expected


def test_the_separator_is_bounded():
    assert concat({"a": b"1", "b": b"2"}, separator="é" * (SEPARATOR_BYTES // 2))
    with pytest.raises(Malformed, match="1026 bytes"):
        concat({"a": b"1"}, separator="é" * (SEPARATOR_BYTES // 2 + 1))
    with pytest.raises(Malformed, match="surrogates"):
        concat({"a": b"1"}, separator="\ud800")


ROW = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "t": st.none() | st.text(max_size=5),
        "x": st.none() | st.floats(),
    }
)
SCHEMA = pa.schema([("n", pa.int64()), ("t", pa.string()), ("x", pa.float64())])


def same(one, other):
    return one == other or (
        isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    )


@QUICK
@given(st.dictionaries(NAMES, st.lists(ROW, max_size=6), min_size=1, max_size=8))
def test_rows_by_the_order_of_names(rows):
    inputs = {
        # Every other input has its columns in another order.
        name: Table(
            pa.Table.from_pylist(given_, SCHEMA).select(["n", "t", "x"] if index % 2 else ["x", "n", "t"])
        )
        for index, (name, given_) in enumerate(rows.items())
    }
    found = concat_rows(inputs, source="from")
    expected = [{"from": name, **row} for name in sorted(rows) for row in rows[name]]
    first = inputs[min(inputs)].columns
    assert found.columns == ["from", *first]
    got = found.to_arrow().to_pylist()
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert all(same(one[name], other[name]) for name in other)
    assert concat_rows(inputs).columns == first
    assert concat_rows(inputs).num_rows == len(expected)


@pytest.mark.parametrize(
    ("left", "right", "kind"),
    [
        (pa.array([1], pa.int8()), pa.array([2**40]), pa.int64()),
        (pa.array([1]), pa.array([1.5]), pa.float64()),
        (pa.array([None]), pa.array(["x"]), pa.string()),
        (pa.array(["x"]), pa.array(["y"], pa.large_string()), pa.large_string()),
    ],
)
def test_types_that_hold_both(left, right, kind):
    found = concat_rows({"a": Table(pa.table({"c": left})), "b": Table(pa.table({"c": right}))})
    assert found.schema.field("c").type == kind
    assert found["c"].to_pylist() == left.to_pylist() + right.to_pylist()


def column(*values, name="c"):
    return Table.from_dict({name: list(values)})


@pytest.mark.parametrize(
    ("inputs", "args", "said"),
    [
        ({"a": column(1), "b": column("x")}, {}, "'c' .a: int64, b: string."),
        ({"a": column(1), "b": column(1, name="d")}, {}, "b lacks 'c'"),
        ({"a": column(1), "b": Table.from_dict({"c": [1], "d": [2]})}, {}, "b has 'd'"),
        ({"a": column(2**53 + 1), "b": column(0.5)}, {}, "no type holds"),
        ({"a": column(1)}, {"source": "c"}, "no input has"),
        ({"a": column(1)}, {"source": ""}, "no input has"),
        ({"a": Table(pa.Table.from_arrays([pa.array([1])] * 2, names=["c", "c"]))}, {}, "two columns"),
    ],
)
def test_what_is_refused(inputs, args, said):
    with pytest.raises(Malformed, match=said) as caught:
        concat_rows(inputs, **args)
    assert str(2**53 + 1) not in str(caught.value)
