"""Output protection of a table, against a plain account of it in Python."""

from __future__ import annotations

import decimal
import io
import math
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions.protect import protect
from mesatee.errors import Malformed
from mesatee.table import FORMATS, Table

REALS = st.floats(allow_nan=False, allow_infinity=False, width=64)


def table(**columns: Any) -> Table:
    return Table.from_dict(columns)


def nearest(value: int, multiple: int) -> int:
    return round(Fraction(value, multiple)) * multiple


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.none() | st.integers(-5, 40), st.none() | REALS, st.none() | st.text(max_size=3)),
        max_size=12,
    ),
    st.integers(2, 12),
    st.integers(1, 15),
    st.integers(2, 9),
)
def test_it_is_what_its_words_say(rows: list[Any], least: int, digits: int, multiple: int) -> None:
    given_ = Table(
        pa.table(
            {
                "rows": pa.array([row[0] for row in rows], pa.int32()),
                "x": pa.array([row[1] for row in rows], pa.float64()),
                "t": pa.array([row[2] for row in rows], pa.string()),
            }
        )
    )
    left = [row for row in rows if row[0] is not None and row[0] >= least]
    found = protect(given_, min_group=least, digits=digits, multiple=multiple).to_dict()
    assert found["rows"] == [nearest(row[0], multiple) for row in left]
    assert found["t"] == [row[2] for row in left]
    for value, (_, before, _) in zip(found["x"], left, strict=True):
        assert value == (None if before is None else float(f"{before:.{digits - 1}e}"))
    # Nothing is left to be done the second time, but for groups that were rounded below the least.
    if all(row[0] is None or row[0] < least or nearest(row[0], multiple) >= least for row in rows):
        again = protect(Table.from_dict(found) if found["rows"] else given_, min_group=least, digits=digits)
        assert not found["rows"] or again.to_dict()["x"] == found["x"]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(2, 10**9))
def test_whole_numbers_never_wrap_around(value: int, multiple: int) -> None:
    wanted = nearest(value, multiple)
    if abs(wanted) >= 2**63:
        with pytest.raises(Malformed, match="too large"):
            protect(Table(pa.table({"x": pa.array([value], pa.int64())})), multiple=multiple)
    else:
        found = protect(Table(pa.table({"x": pa.array([value], pa.int64())})), multiple=multiple)
        assert found.to_dict()["x"] == [wanted]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int16(), pa.uint32(), pa.int64(), pa.uint64()])
def test_all_whole_numbers_are_rounded(kind: Any) -> None:
    found = protect(Table(pa.table({"x": pa.array([0, 7, 8, 12, 13, None], kind)})), multiple=5)
    assert found.to_dict()["x"] == [0, 5, 10, 10, 15, None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.2345, None], pa.float32()),
        ([1.2345, None], pa.float64()),
        ([decimal.Decimal("1.2345"), None], pa.decimal128(9, 4)),
    ],
)
def test_all_fractions_are_shortened(values: list[Any], kind: Any) -> None:
    found = protect(Table(pa.table({"x": pa.array(values, kind)})), digits=3)
    assert found.to_dict()["x"] == [1.23, None]


def test_numbers_that_are_none_stay_so() -> None:
    found = protect(table(x=[math.nan, math.inf, -math.inf, 0.0]), digits=2).to_dict()["x"]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, 0.0]


@pytest.mark.parametrize(
    ("given_", "limits", "said"),
    [
        (table(rows=[1, 2], x=[1, 2]), {"columns": ["rows"]}, "1 columns beside"),
        (table(rows=[1, 2]), {"max_rows": 1}, "more rows than may leave"),
        (table(x=[1, 2]), {"min_group": 2}, "no column rows of whole numbers"),
        (table(rows=["1", "2"]), {"min_group": 2}, "no column rows of whole numbers"),
        (table(rows=[1.0, 2.0]), {"min_group": 2}, "no column rows of whole numbers"),
        (table(x=[[1], [2]]), {"digits": 2}, "no plain one"),
        (table(x=[{"a": 1}]), {"max_rows": 5}, "no plain one"),
        (
            Table(pa.table([pa.array([1]), pa.array([2])], names=["rows", "rows"])),
            {"columns": ["rows"]},
            "have one name",
        ),
        (Table(pa.table({"x": pa.array([2**64 - 1], pa.uint64())})), {"multiple": 2}, "too large"),
    ],
)
def test_what_may_not_leave_is_refused_as_a_whole(given_: Table, limits: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        protect(given_, **limits)


def test_rows_are_counted_after_small_groups_are_gone() -> None:
    found = protect(table(rows=[1, 2, 30, 40]), min_group=10, max_rows=2)
    assert found.to_dict() == {"rows": [30, 40]}


def test_what_is_attached_to_a_table_does_not_leave_with_it() -> None:
    """Metadata of a schema or a column, and values of a dictionary that no row has, are no rows."""
    secret = b"canary-1"
    field = pa.field("x", pa.int64(), metadata={b"note": secret})
    words = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["shown", "canary-1"]))
    arrow = pa.table([pa.array([1]), words], schema=pa.schema([field, pa.field("w", words.type)]))
    found = protect(Table(arrow.replace_schema_metadata({b"pandas": secret})), max_rows=5)
    for kind in FORMATS:
        target = io.BytesIO()
        found.write(target, kind)
        assert secret not in target.getvalue(), kind
    assert found.to_dict() == {"x": [1], "w": ["shown"]}
