"""The table, as scientists use it on their own machine."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.table import FORMATS, Table

TABLE = Table.from_dict({"id": [1, 2, None], "x": [0.5, 1.5, 2.5], "name": ["a", None, "c"]})


@pytest.mark.parametrize("format", FORMATS)
def test_to_a_file_and_back(tmp_path, format):
    TABLE.write(tmp_path / "t", format)
    found = Table.read(tmp_path / "t", format)
    assert found.columns == TABLE.columns
    assert found.to_dict()["x"] == [0.5, 1.5, 2.5]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text('abc,"\n é', min_size=1)), min_size=1),
    st.sampled_from(FORMATS),
)
def test_any_rows_come_back(rows, format):
    table = Table.from_dict({"n": [row[0] for row in rows], "t": ["x" + row[1] for row in rows]})
    sink = io.BytesIO()
    table.write(sink, format)
    if format == "csv" and any("\n" in row[1] for row in rows):
        return  # a line break within a field is not read without being asked for
    assert Table.read(sink.getvalue(), format).to_dict() == table.to_dict()


def test_streams_of_arrow_are_read_too():
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE.to_arrow())
    assert Table.from_arrow(sink.getvalue()) == TABLE


def test_wrong_offsets_in_arrow_are_found():
    sink = io.BytesIO()
    Table.from_dict({"s": ["aaaa", "bbbb"]}).write(sink, "arrow")
    raw = sink.getvalue()
    offsets = np.array([0, 4, 8], dtype=np.int32).tobytes()
    assert raw.count(offsets) == 1
    with pytest.raises(pa.ArrowInvalid):
        Table.from_arrow(raw.replace(offsets, np.array([0, 4, 2**30], dtype=np.int32).tobytes()))


def test_conversions():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    table = Table.from_pandas(frame)
    assert table.to_numpy().tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert table.to_numpy("a").tolist() == [1, 2]
    pd.testing.assert_frame_equal(table.to_pandas(), frame)
    assert Table.from_arrow(table.to_arrow()) == table
    assert table.select(["b"]).columns == ["b"]
    with pytest.raises(TypeError):
        TABLE.to_numpy()
    with pytest.raises(TypeError):
        Table(frame)


def test_numbers_are_not_copied():
    arrow = pa.table({"x": pa.array(np.arange(1000))})
    address = arrow.column("x").chunk(0).buffers()[1].address
    assert Table(arrow).to_numpy("x").__array_interface__["data"][0] == address


def test_the_repr_shows_no_values():
    assert repr(Table.from_dict({"secret": ["value"]})) == "<Table of 1 rows: secret>"


def test_other_formats_are_refused():
    with pytest.raises(ValueError):
        Table.read(b"", "excel")
    with pytest.raises(ValueError):
        TABLE.write(io.BytesIO(), "excel")
