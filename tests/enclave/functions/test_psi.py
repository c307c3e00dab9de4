"""Private set intersection, by both of its engines, against Python's sets."""

from __future__ import annotations

import datetime
import decimal
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee._core import KeyRows, oblivious_match, oblivious_sets
from mesatee.enclave.functions import psi as module
from mesatee.enclave.functions.psi import LEAKAGES, MODES, psi
from mesatee.errors import Malformed
from mesatee.table import Table


def ids(*values, column="id"):
    return Table.from_dict({column: list(values), "other": ["secret"] * len(values)})


def tables(kind, *columns):
    return {
        f"p{number}": Table(pa.table({"id": pa.array(values, kind)})) for number, values in enumerate(columns)
    }


@pytest.fixture(params=LEAKAGES)
def engine(request):
    return request.param


QUICK = settings(deadline=None, max_examples=40)
TEXT = st.text(
    st.sampled_from(["a", "b", "A", " ", "\0", "é", "ß", "漢", "\U0001f600", "\u0301"]), max_size=12
)
KINDS = {
    "integers": (pa.int64(), st.integers(-3, 10) | st.sampled_from([-(2**63), 2**63 - 1])),
    "small integers": (pa.int8(), st.integers(-3, 10)),
    "text": (pa.string(), TEXT),
    "bytes": (pa.binary(), st.binary(max_size=9)),
    "booleans": (pa.bool_(), st.booleans()),
    "dates": (pa.date32(), st.dates(datetime.date(1960, 1, 1), datetime.date(1960, 1, 9))),
    "days in milliseconds": (pa.date64(), st.dates(datetime.date(1960, 1, 1), datetime.date(1960, 1, 9))),
    "times": (
        pa.timestamp("us", tz="Europe/Zurich"),
        st.sampled_from(
            [
                # One instant in two zones, and the hour that exists twice.
                datetime.datetime(2024, 10, 27, 1, 30, tzinfo=datetime.UTC),
                datetime.datetime(2024, 10, 27, 0, 30, tzinfo=datetime.UTC),
                datetime.datetime(2024, 10, 27, 3, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
                datetime.datetime(1901, 1, 1, tzinfo=datetime.UTC),
            ]
        ),
    ),
    "numbers": (
        pa.float64(),
        st.sampled_from([0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan, 5e-324, -5e-324]),
    ),
}


def in_utc(value):
    return value.astimezone(datetime.UTC) if isinstance(value, datetime.datetime) else value


def plain(values):
    """The set that a column means."""
    return {
        value + 0.0 if isinstance(value, float) else value
        for value in values
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_algebra_of_sets(name, engine):
    kind, value = KINDS[name]
    column = st.lists(st.none() | value, max_size=30)

    @QUICK
    @given(st.lists(column, min_size=2, max_size=4))
    def check(columns):
        given_ = tables(kind, *columns)
        first, *others = sets = [plain(column) for column in columns]
        common = first.intersection(*others)

        def run(mode):
            found = psi(given_, key="id", mode=mode, leakage=engine).to_dict()
            # Python finds no two times equal of which one stands in an hour that exists twice.
            return {name: [in_utc(value) for value in column] for name, column in found.items()}

        assert run("intersection") == {"id": sorted(common)}
        assert run("difference") == {"id": sorted(first.difference(*others))}
        assert run("cardinality") == {"cardinality": [len(common)]}
        assert run("union") == {"union": [len(set().union(*sets))]}
        assert run("bitmap")["common"] == [bool(plain([v]) & common) for column in columns for v in column]

    check()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | TEXT), max_size=20),
        min_size=2,
        max_size=8,
    )
)
def test_both_engines_agree_on_keys_of_several_columns(columns):
    given_ = {
        f"p{number}": Table(
            pa.table(
                {
                    "n": pa.array([row[0] for row in rows], pa.int32()),
                    "t": pa.array([row[1] for row in rows], pa.string()),
                }
            )
        )
        for number, rows in enumerate(columns)
    }
    for mode in MODES:
        one, two = (psi(given_, key=["n", "t"], mode=mode, leakage=leakage) for leakage in LEAKAGES)
        assert one == two, mode


def test_text_sorts_by_its_bytes_and_zeros_count(engine):
    words = ["a", "a\0", "", "\0", "b" * 100, "b" * 99 + "a"]
    found = psi(tables(pa.string(), words, list(reversed(words))), key="id", leakage=engine)
    assert found.to_dict() == {"id": sorted(words, key=str.encode)}


def test_slices_and_chunks_of_larger_columns(engine):
    chunked = pa.chunked_array([["x", "one", "two"], ["three", "four", None]]).slice(1)
    given_ = {"a": Table(pa.table({"id": chunked})), "b": ids("two", "four", "x")}
    assert psi(given_, key="id", leakage=engine).to_dict() == {"id": ["four", "two"]}


def test_empty_and_disjoint_inputs(engine):
    for left, right in (([], []), ([], [1]), ([1], []), ([1, 2], [3])):
        given_ = tables(pa.int64(), left, right)
        assert psi(given_, key="id", leakage=engine).num_rows == 0
        assert psi(given_, key="id", mode="union", leakage=engine).to_dict() == {"union": [len(left + right)]}
        assert psi(given_, key="id", mode="bitmap", leakage=engine).num_rows == len(left + right)


@pytest.mark.parametrize(
    ("rule", "left", "right", "common"),
    [
        ("trim", [" a ", "\u00a0b", "c"], ["a", "b", "C"], ["a", "b"]),
        ("case", ["Ab", "É", " x"], ["aB", "é", "x"], ["ab", "é"]),
        ("email", [" Ann@Example.ORG"], ["ann@example.org "], ["ann@example.org"]),
        ("phone", ["+41 (44) 123-45"], ["0041 44 12345"], ["+414412345"]),
        (["trim", "case"], [" A"], ["a "], ["a"]),
        ([], [" a"], ["a"], []),
    ],
)
def test_rules_of_normalisation(rule, left, right, common, engine):
    given_ = tables(pa.string(), left, right)
    assert psi(given_, key="id", normalise=rule, leakage=engine).to_dict() == {"id": common}


def test_rules_leave_numbers_alone(engine):
    assert psi(tables(pa.int64(), [1], [1]), key="id", normalise="phone", leakage=engine).num_rows == 1


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
        ({"a": ids([1]), "b": ids([1])}, {"key": "id"}, "list"),
        (
            {"a": ids(decimal.Decimal(1)), "b": ids(decimal.Decimal(1))},
            {"key": "id"},
            "decimal",
        ),
        ({"a": ids(1), "b": ids(1)}, {"key": "id", "leakage": "none"}, "leakage is"),
        ({"a": ids("1"), "b": ids("1")}, {"key": "id", "normalise": "upper"}, "no rule .upper."),
        (
            {"a": ids(1), "b": Table(pa.table({"id": pa.array([2**63], pa.uint64())}))},
            {"key": "id"},
            "do not fit",
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


def test_text_that_is_too_long_for_the_oblivious_engine_says_so():
    given_ = tables(pa.string(), ["x" * 249], ["x" * 249])
    with pytest.raises(Malformed, match="32 words"):
        psi(given_, key="id")
    assert psi(given_, key="id", leakage="access-pattern").num_rows == 1
    assert psi(tables(pa.string(), ["x" * 248], ["x" * 248]), key="id").num_rows == 1


def test_of_an_input_much_larger_than_the_other(engine):
    large = pa.array(range(0, 300_000, 3))
    given_ = {"a": ids(3, 4, 299_997, 300_000), "b": Table(pa.table({"id": large}))}
    assert psi(given_, key="id", leakage=engine).to_dict() == {"id": [3, 299_997]}


# -- the kernels ---------------------------------------------------------------------------------------


def rows(*values):
    return KeyRows(
        [b"".join(value.to_bytes(8, "little", signed=True) for value in values)], bytes([1] * len(values))
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-20, 20), max_size=200), min_size=1, max_size=5), st.booleans())
def test_the_portable_path_gives_what_the_other_gives(columns, only_first):
    parties = [rows(*column) for column in columns]
    found = [
        oblivious_match(parties, only_first=only_first, threads=n, portable=p)
        for n in (1, 2)
        for p in (True, False)
    ]
    assert all(one == found[0] for one in found)
    _, first, *numbers = found[0]
    keys = parties[0].marked(first, portable=True).sorted(portable=True).columns()
    for n, p in ((1, True), (2, False)):
        sets = oblivious_sets(parties, only_first=only_first, threads=n, portable=p)
        assert sets[0].columns() == keys
        assert list(sets[1:]) == numbers
        assert oblivious_sets(parties, only_first=only_first, listed=False, portable=p) == (None, *numbers)
    assert parties[0].sorted(portable=True).columns() == parties[0].sorted(threads=2).columns()


def test_what_the_kernels_refuse():
    with pytest.raises(Malformed, match="differ in width"):
        oblivious_match([rows(1), KeyRows([bytes(8), bytes(8)], b"\1")])
    with pytest.raises(Malformed, match="too many"):
        oblivious_match([rows(1)] * 33)
    for kernel in (oblivious_match, oblivious_sets):
        with pytest.raises(Malformed):
            kernel([])
    with pytest.raises(Malformed, match="differ in width"):
        oblivious_sets([rows(1), KeyRows([(b"", bytes(16), 1)], b"\1")])
    with pytest.raises(Malformed, match="different lengths"):
        rows(1, 2).marked(b"\1")
    with pytest.raises(Malformed, match="different lengths"):
        rows(1).marked(b"\2")
    for wrong in ([bytes(7)], [(b"ab", bytes(8), 1)], []):
        with pytest.raises(Malformed):
            KeyRows(wrong, b"\1")
    with pytest.raises(Malformed, match="offsets"):
        KeyRows([(b"ab", bytes(8) + (3).to_bytes(8, "little"), 1)], b"\1")
    with pytest.raises(Malformed, match="longer"):
        KeyRows([(b"123456789", bytes(8) + (9).to_bytes(8, "little"), 1)], b"\1")
    with pytest.raises(Malformed, match="32 words"):
        KeyRows([(b"", bytes(16), 2**60)], b"\1")


def test_the_default_engine_is_the_oblivious_one(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "oblivious_sets", lambda *a, **k: asked.append(k) or oblivious_sets(*a, **k))
    psi({"a": ids(1), "b": ids(1)}, key="id")
    assert len(asked) == 1
