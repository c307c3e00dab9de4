"""Tables of several parties as one."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest

from mesatee.enclave.functions import _parties
from mesatee.enclave.functions._parties import combine, text_of
from mesatee.errors import Malformed
from mesatee.table import Table


def table(**columns):
    return Table(pa.table(columns))


def test_rows_are_put_below_each_other_in_the_order_of_names():
    data = combine("f", {"b": table(x=[3.0, None], y=[1, 2]), "a": table(x=[1, 2])}, "rows", None)
    assert (data.names, data.rows) == (["x"], 4)
    assert np.array_equal(data.numbers("x"), [1, 2, 3, np.nan], equal_nan=True)
    origin = data.categories("input")
    assert (origin.codes.tolist(), origin.texts) == ([0, 0, 1, 1], ["a", "b"])


def test_a_column_input_of_the_tables_comes_first():
    data = combine("f", {"b": table(input=[3]), "a": table(input=[5])}, "rows", None)
    assert data.numbers("input").tolist() == [5, 3]


def test_columns_are_matched_by_the_key(capsys):
    left = table(id=["c", "a", None, "b"], x=[3, 1, 9, 2], both=[30, 10, 90, 20])
    right = table(who=["b", "c", None, "z"], y=[2.5, 3.5, 9.5, 8.5], both=[21, 31, 91, 81])
    data = combine("f", {"r": right, "l": left}, "columns", {"l": "id", "r": "who"})
    assert data.names == ["x", "l.both", "y", "r.both"]
    assert [data.numbers(name).tolist() for name in data.names] == [[2, 3], [20, 30], [2.5, 3.5], [21, 31]]
    assert capsys.readouterr().err.splitlines() == [
        "f: l: 4 rows",
        "f: r: 4 rows",
        "f: 2 rows have a key that all inputs have",
    ]


def test_keys_of_several_columns_and_many_parties():
    parties = {
        f"p{number}": table(a=[1, 1, 2, None], b=["x", "y", "x", "x"], **{f"v{number}": [1, 2, 3, 4]})
        for number in range(8)
    }
    data = combine("f", parties, "columns", ["a", "b"])
    assert data.rows == 3
    assert [data.numbers(f"v{number}").tolist() for number in range(8)] == [[1, 2, 3]] * 8


@pytest.mark.parametrize(
    ("inputs", "how", "key", "said"),
    [
        ({"a": table(x=[1])}, "beside", None, "how is one of"),
        ({"a": table(x=[1]), "b": table(x=[1])}, "rows", "x", "key is for how=columns"),
        ({"a": table(x=[1]), "b": table(x=[1])}, "columns", None, "needs a key"),
        ({"a": table(x=[1]), "b": table(x=[1])}, "columns", "y", "no columns 'y'"),
        ({"a": table(x=[1, 1]), "b": table(x=[1])}, "columns", "x", "several rows of a"),
        ({"a": table(x=[1]), "b": table(x=["1"])}, "columns", "x", "different types"),
        ({"a": Table(pa.table([[1], [2]], ["x", "x"]))}, "rows", None, "several columns 'x'"),
        (
            {"a": table(k=[1], y=[1], **{"b.y": [1]}), "b": table(k=[1], y=[1])},
            "columns",
            "k",
            "two columns would be named 'b.y'",
        ),
    ],
)
def test_what_does_not_fit_together(inputs, how, key, said):
    with pytest.raises(Malformed, match=said):
        combine("f", inputs, how, key)


def test_numbers_of_all_kinds():
    data = combine(
        "f",
        {
            "a": table(x=pa.array([True, None])),
            "b": table(x=pa.array([2**63], pa.uint64())),
            "c": table(x=[decimal.Decimal("0.5")]),
            "d": table(x=pa.array([7, 7], pa.int8()).dictionary_encode()),
            "e": table(x=pa.nulls(1)),
            "f": table(x=pa.array([], pa.int16())),
        },
        "rows",
        None,
    )
    assert data.is_number("x")
    assert np.array_equal(data.numbers("x"), [1, np.nan, 2.0**63, 0.5, 7, 7, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array(["1"]), "string, not numbers"),
        (pa.array([datetime.date(2020, 1, 1)]), "not numbers"),
        (pa.array([1.0, float("inf")]), "infinite values"),
    ],
)
def test_what_is_no_number(values, said):
    with pytest.raises(Malformed, match=said):
        combine("f", {"a": table(x=values)}, "rows", None).numbers("x")
    with pytest.raises(Malformed, match="not numbers"):
        combine("f", {"a": table(x=values)}, "rows", None).numbers("input")


def test_flags():
    def flags(values):
        return combine("f", {"a": table(x=values)}, "rows", None).flags("x")

    assert np.array_equal(flags([True, False, None]), [1, 0, np.nan], equal_nan=True)
    assert flags([1.0, 0.0]).tolist() == [1, 0]
    with pytest.raises(Malformed, match="other than 0, 1"):
        flags([0, 2])


@pytest.mark.parametrize(
    ("values", "codes", "texts"),
    [
        (pa.array(["b", None, "é", "a", "b"]), [1, -1, 2, 0, 1], ["a", "b", "é"]),
        (pa.array(["b", "", "b"]).dictionary_encode(), [1, 0, 1], ["", "b"]),
        (pa.array([10, 9, None]), [1, 0, -1], ["9", "10"]),
        (pa.array([0.0, -0.0, float("nan"), 2.5, 3.0]), [0, 0, -1, 1, 2], ["0", "2.5", "3"]),
        (pa.array([True, False]), [1, 0], ["false", "true"]),
        (
            pa.array([datetime.date(2020, 2, 1), datetime.date(2020, 1, 1)]),
            [1, 0],
            ["2020-01-01", "2020-02-01"],
        ),
        (pa.nulls(2), [-1, -1], []),
        (pa.array([], pa.string()), [], []),
    ],
)
def test_categories(values, codes, texts):
    found = combine("f", {"a": table(x=values)}, "rows", None).categories("x")
    assert (found.codes.tolist(), found.texts) == (codes, texts)
    assert [found.place(text) for text in texts] == list(range(len(texts)))
    assert found.place("none such") == -1
    assert found.take(found.codes).to_pylist() == [
        None if code < 0 else found.labels[code].as_py() for code in codes
    ]


def test_categories_of_parties_have_one_type():
    def of(**kinds):
        return combine(
            "f", {name: table(x=values) for name, values in kinds.items()}, "rows", None
        ).categories("x")

    assert of(a=[2], b=[1.5], c=pa.nulls(1)).labels.to_pylist() == [1.5, 2.0]
    assert of(a=pa.array([2], pa.int8()), b=pa.array([1], pa.uint32())).labels.to_pylist() == [1, 2]
    assert of(a=pa.array([], pa.string()), b=pa.array(["x"], pa.large_string())).codes.tolist() == [0]
    with pytest.raises(Malformed, match="different types: large_string in a, int64 in b"):
        of(a=["1"], b=[1])
    with pytest.raises(Malformed, match="infinite values"):
        of(a=[1.5], b=[float("-inf")])
    with pytest.raises(Malformed, match="categories are text"):
        of(a=[[1]])
    with pytest.raises(Malformed, match="does not fit int64"):
        of(a=pa.array([2**63], pa.uint64()))


def test_the_same_instant_is_one_category_in_all_zones_and_units():
    noon = datetime.datetime(2024, 10, 27, 12, tzinfo=datetime.UTC)
    zones = [
        table(x=pa.array([noon], pa.timestamp(unit, zone)))
        for unit, zone in (("s", "UTC"), ("ns", "Europe/Zurich"), ("us", "+05:30"))
    ]
    found = combine("f", dict(zip("abc", zones, strict=True)), "rows", None).categories("x")
    assert (found.codes.tolist(), found.texts) == ([0, 0, 0], ["2024-10-27T12:00:00+00:00"])
    local = table(x=pa.array([noon.replace(tzinfo=None)], pa.timestamp("ms")))
    with pytest.raises(Malformed, match="different types"):
        combine("f", {"a": zones[0], "b": local}, "rows", None).categories("x")
    finer = table(x=pa.array([1], pa.timestamp("ns")))
    with pytest.raises(Malformed, match="does not fit"):
        combine("f", {"a": finer}, "rows", None).categories("x")


def test_text_views_and_long_lists_of_chunks():
    views = pa.chunked_array([pa.array(["b", None], pa.string_view()), pa.array(["a"], pa.string_view())])
    other = table(id=[3, 1, 2], x=[1, 2, 3])
    data = combine("f", {"a": table(id=[1, 2, 3], v=views), "b": other}, "columns", "id")
    assert (data.categories("v").codes.tolist(), data.categories("v").texts) == ([1, -1, 0], ["a", "b"])
    assert data.numbers("x").tolist() == [2, 3, 1]


def test_what_cannot_be_picked_from_is_refused():
    odd = table(id=[1], v=pa.array([b"x"], pa.binary_view()))
    data = combine("f", {"a": odd, "b": table(id=[1])}, "columns", "id")
    with pytest.raises(Malformed, match="is binary_view, which cannot be used"):
        list(data.values("v"))


def test_limits():
    most = _parties.CATEGORIES
    data = combine("f", {"a": table(x=list(range(most)), y=list(range(1, most + 1)))}, "rows", None)
    assert len(data.categories("x").labels) == most
    more = combine("f", {"a": table(x=list(range(most + 1)))}, "rows", None)
    assert len(more.categories("x", most=None).labels) == most + 1
    with pytest.raises(Malformed, match=f"over {most}"):
        more.categories("x")
    wide = {f"c{number}": [1] for number in range(_parties.COLUMNS + 1)}
    data = combine("f", {"a": table(**wide)}, "rows", None)
    assert len(data.chosen(list(wide)[1:])) == _parties.COLUMNS
    with pytest.raises(Malformed, match="columns, not 201"):
        data.chosen([])


def test_chosen_columns():
    data = combine("f", {"a": table(x=[1], y=[2])}, "rows", None)
    assert data.chosen([]) == ["x", "y"]
    assert data.chosen("y") == ["y"]
    assert data.chosen(["input"]) == ["input"]
    with pytest.raises(Malformed, match="twice"):
        data.chosen(["x", "x"])
    with pytest.raises(Malformed, match="no column 'z'"):
        data.chosen(["z"])
    with pytest.raises(Malformed, match="takes 2 to"):
        data.chosen(["x"], least=2)


def test_labels_as_text():
    assert [text_of(value) for value in (True, 1, 1.0, 1.5, "x")] == ["true", "1", "1", "1.5", "x"]
    assert text_of(datetime.datetime(2020, 1, 1, 12)) == "2020-01-01T12:00:00"
