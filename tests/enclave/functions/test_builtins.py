"""The built-in functions, called directly; `tests/enclave/sandbox` runs them in children."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave import functions
from mesatee.enclave.functions.echo import echo
from mesatee.enclave.functions.psi import psi
from mesatee.errors import Malformed, NotFound
from mesatee.table import Table


def ids(*values, column="id"):
    return Table.from_dict({column: list(values), "other": ["secret"] * len(values)})


@given(st.binary())
def test_echo_gives_every_byte_back(data):
    assert echo(data) == data


small = st.lists(st.none() | st.integers(-5, 20), max_size=30)


@settings(deadline=None, max_examples=40)
@given(small, small, small)
def test_psi_is_the_intersection_of_sets(a, b, c):
    tables = {
        name: Table(pa.table({"id": pa.array(v, pa.int64())})) for name, v in (("a", a), ("b", b), ("c", c))
    }
    expected = sorted((set(a) & set(b) & set(c)) - {None})
    assert psi(tables, key="id").to_dict() == {"id": expected}
    assert psi(tables, key="id", mode="cardinality").to_dict() == {"cardinality": [len(expected)]}


def test_keys_of_several_columns_named_per_input():
    left = Table.from_dict({"a": [1, 1, 2, None], "b": ["x", "y", "x", "x"]})
    right = Table.from_dict({"p": [1, 2, 2], "q": ["y", "x", None]})
    found = psi({"left": left, "right": right}, key={"left": ["a", "b"], "right": ["p", "q"]})
    assert found.to_dict() == {"a": [1, 2], "b": ["y", "x"]}


def test_the_order_of_inputs_does_not_matter():
    one, two = ids(1, 2), ids(2, 3, column="key")
    key = {"one": "id", "two": "key"}
    assert psi({"two": two, "one": one}, key=key) == psi({"one": one, "two": two}, key=key)


def test_only_key_columns_come_out():
    assert psi({"a": ids(1), "b": ids(1)}, key="id").columns == ["id"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pa.array([1, 2], pa.int8()), pa.array([2], pa.uint64())),
        (pa.array(["1", "2"]), pa.array(["2"], pa.large_string())),
        (pa.array(["1", "2"]).dictionary_encode(), pa.array(["2"], pa.string_view())),
        (
            pa.array([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]),
            pa.array([datetime.date(2020, 1, 2)]),
        ),
    ],
)
def test_one_family_of_types_matches(left, right):
    tables = {"a": Table(pa.table({"k": left})), "b": Table(pa.table({"k": right}))}
    assert psi(tables, key="k").num_rows == 1


def test_a_column_without_values_matches_nothing():
    empty = Table(pa.table({"id": pa.array([None, None])}))
    assert psi({"a": ids(1), "b": empty}, key="id").num_rows == 0


@pytest.mark.parametrize(
    ("tables", "args", "said"),
    [
        ({"a": ids(1)}, {"key": "id"}, "two or more"),
        ({"a": ids(1), "b": ids(1)}, {"key": "no"}, "no columns 'no'"),
        ({"a": ids(1), "b": ids(1)}, {"key": []}, "one or more"),
        ({"a": ids(1), "b": ids(1)}, {"key": ["id", "id"]}, "different columns"),
        ({"a": ids(1), "b": ids(1)}, {"key": {"a": "id"}}, "must name the inputs"),
        ({"a": ids(1), "b": ids(1)}, {"key": {"a": "id", "b": ["id", "other"]}}, "different numbers"),
        ({"a": ids(1), "b": ids("1")}, {"key": "id"}, "different types"),
        ({"a": ids(1.5), "b": ids(1.5)}, {"key": "id"}, "double"),
        (
            {"a": ids(1), "b": Table(pa.table({"id": pa.array([2**63], pa.uint64())}))},
            {"key": "id"},
            "does not fit",
        ),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "mode": "rows"}, "mode is"),
        (
            {
                "a": ids(1),
                "b": Table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])),
            },
            {"key": "id"},
            "2 columns",
        ),
    ],
)
def test_what_psi_refuses(tables, args, said):
    with pytest.raises(Malformed, match=said):
        psi(tables, **args)


def test_counts_are_said_on_stderr_only(capsys):
    psi({"a": ids(1, 1, None), "b": ids(1, 2)}, key="id")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a: 3 rows, 1 with nulls, 1 distinct keys" in err
    assert "1 common keys" in err


def test_the_registry():
    assert functions.names() == ("echo", "psi")
    assert all("Reveals" in functions.find(name).reveals for name in functions.names())
    assert [argument.name for argument in functions.find("psi").signature.arguments] == ["key", "mode"]
    with pytest.raises(NotFound):
        functions.find("exec")
