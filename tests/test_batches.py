"""Tables piece by piece: the same values as in one, and what is wrong said before anybody goes through them."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee import batches
from mesatee.batches import Batches, Writer
from mesatee.table import FORMATS, Table


@pytest.fixture
def small(monkeypatch):
    """Blocks and batches of a few rows."""
    monkeypatch.setattr(batches, "BLOCK_BYTES", 32)
    monkeypatch.setattr(batches, "ROWS", 4)


def encoded(table: Table, format: str) -> bytes:
    target = io.BytesIO()
    table.write(target, format)
    return target.getvalue()


def whole(found: Batches) -> Table:
    return Table(pa.concat_tables([part.to_arrow() for part in found]))


PEOPLE = Table.from_dict(
    {"id": list(range(50)), "name": [f'n,{number}\n"x"' for number in range(50)], "half": [0.5] * 50}
)


@pytest.mark.parametrize("format", FORMATS)
def test_all_pieces_together_are_the_table_and_any_number_of_times(format, small):
    found = Batches.read(encoded(PEOPLE, format), format)
    assert found.columns == ["id", "name", "half"]
    for _ in range(2):
        parts = list(found)
        assert len(parts) > 5
        assert all(part.schema.equals(found.schema) for part in parts)
    assert whole(found) == PEOPLE


@pytest.mark.parametrize("format", FORMATS)
def test_a_path_is_read_too(format, tmp_path):
    path = tmp_path / "people"
    PEOPLE.write(path, format)
    assert whole(Batches.read(path, format)) == PEOPLE


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["", "7", "-3", "1.5", "true", "2020-01-01", "word", "a\nb", 'q"q']),
            st.integers(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_csv_is_typed_by_all_of_its_rows(rows):
    """A block knows only its own rows; what comes of all of them is what one reading gives, or text."""
    data = encoded(Table.from_dict({"x": [a for a, _ in rows], "y": [b % 10**9 for _, b in rows]}), "csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BLOCK_BYTES", 24)
        found = whole(Batches.read(data, "csv"))
    expected = Table.from_csv(data)
    assert found["y"].to_pylist() == expected["y"].to_pylist()
    if found["x"].type == expected["x"].type:
        assert found["x"].to_pylist() == expected["x"].to_pylist()
    else:
        assert found["x"].type == pa.string()


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [
        ("1", "2.5", pa.float64()),
        ("1", "word", pa.string()),
        ("", "3", pa.int64()),
        ("2020-01-01", "2020-01-01T10:00:00", pa.timestamp("s")),
        ("2020-01-01T10:00:00", "2020-01-01 10:00:00.5", pa.timestamp("ns")),
        ("true", "2.5", pa.string()),
    ],
)
def test_a_column_that_changes_later_on(first, later, kind, small):
    for one, other in ((first, later), (later, first)):
        data = ("x,y\n" + f"{one},1\n" * 20 + f"{other},1\n" * 20).encode()
        found = Batches.read(data, "csv")
        assert found.schema.field("x").type == kind
        assert sum(part.num_rows for part in found) == 40


def test_a_quote_that_stands_for_itself_keeps_no_row_back(small):
    data = b"x,y\n" + b'5" pipe,1\n' + b"word,2\n" * 50
    found = whole(Batches.read(data, "csv"))
    assert found["x"].to_pylist() == ['5" pipe'] + ["word"] * 50


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_broken_late_is_said_at_once(format, small):
    data = encoded(PEOPLE, format)
    broken = {
        "csv": data + b"1,2\n",
        "parquet": data[:4] + bytes(64) + data[68:],
        "arrow": data[: len(data) // 2],
    }[format]
    with pytest.raises((pa.ArrowInvalid, OSError)):
        Batches.read(broken, format)


def test_wrong_offsets_in_arrow_are_found():
    """As for a table: they would be memory outside of the file."""
    raw = bytearray(encoded(Table.from_dict({"x": ["abc", "def"]}), "arrow"))
    at = raw.index((3).to_bytes(4, "little") + (6).to_bytes(4, "little"))
    raw[at : at + 4] = (2**30).to_bytes(4, "little")
    with pytest.raises(pa.ArrowInvalid):
        Batches.read(bytes(raw), "arrow")


def test_without_rows():
    assert [part.num_rows for part in Batches.read(b"a,b\n", "csv")] == [0]
    assert Batches.read(b"a,b\n", "csv").columns == ["a", "b"]
    with pytest.raises(pa.ArrowInvalid):
        Batches.read(b"", "csv")
    assert Batches.read(encoded(PEOPLE.select(["id"]), "arrow"), "arrow").columns == ["id"]


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="csv, parquet, arrow"):
        Batches.read(b"", "bytes")
    with pytest.raises(ValueError, match="csv, parquet, arrow"):
        Writer(io.BytesIO(), "json")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_piece_by_piece_is_one_table(format):
    target = io.BytesIO()
    with Writer(target, format) as writer:
        assert not writer.written
        writer.write(PEOPLE)
        writer.write(PEOPLE.to_arrow())
        writer.write(PEOPLE.to_arrow().to_batches()[0])
        assert writer.written
    read = Table.read(target.getvalue(), format)
    assert read.num_rows == 150
    assert Table(read.to_arrow().slice(100)) == PEOPLE


def test_pieces_of_other_columns_and_other_things_are_refused():
    with Writer(io.BytesIO(), "csv") as writer:
        writer.write(PEOPLE)
        with pytest.raises(ValueError, match="those before had id"):
            writer.write(PEOPLE.select(["id"]))
        with pytest.raises(TypeError, match="a pyarrow"):
            writer.write("text")


def test_the_repr_shows_no_values():
    assert repr(Batches.read(b"id\n4711\n", "csv")) == "<Batches of id>"
