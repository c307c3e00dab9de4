"""The table that functions take and return: Arrow inside, pandas, polars and numpy at no copy where they can.

The same class runs on the scientist's own machine and in the sandbox. Arrow is imported with the first table.

>>> table = Table.from_dict({"id": [1, 2, 3], "age": [30, 41, 52]})
>>> table.columns, table.num_rows
(['id', 'age'], 3)
>>> int(table.to_pandas()["age"].max())
52
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Format = Literal["csv", "parquet", "arrow"]
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Any
"""A path, or an object with the buffer protocol (bytes, memoryview, mmap, Arrow buffer)."""

FORMATS: Final[tuple[Format, ...]] = ("csv", "parquet", "arrow")
CSV_ROWS: Final = 8192
"""Rows that are written as CSV at a time: fewer are slower, more take memory and are no faster."""
_IPC_FILE_MAGIC: Final = b"ARROW1"


class Table:
    """Columns of equal length. Immutable."""

    __slots__ = ("_arrow",)

    def __init__(self, arrow: Any) -> None:
        """Wrap a `pyarrow.Table`. Raises `TypeError` for anything else."""
        import pyarrow as pa

        if not isinstance(arrow, pa.Table):
            raise TypeError(f"a pyarrow.Table was expected, not {type(arrow).__name__}")
        self._arrow = arrow

    # -- making one --------------------------------------------------------------------------------

    @classmethod
    def from_csv(cls, source: Source) -> Table:
        """Read CSV with a header row; an empty number is null. Raises `pyarrow.ArrowInvalid`."""
        from pyarrow import csv

        options = csv.ReadOptions(use_threads=threads())
        return cls(csv.read_csv(reader(source), read_options=options))

    @classmethod
    def from_parquet(cls, source: Source) -> Table:
        """Read Parquet. Raises `pyarrow.ArrowInvalid` or `OSError`."""
        from pyarrow import parquet

        # Not `read_table`: that loads the data set library, which looks at paths and starts threads.
        file = parquet.ParquetFile(reader(source), pre_buffer=False)
        return cls(file.read(use_threads=threads()))

    @classmethod
    def from_arrow(cls, source: Any) -> Table:
        """A `pyarrow.Table` or record batch as it is, or Arrow IPC (file or stream), mapped and not copied.

        Every offset of IPC bytes is checked. Raises `pyarrow.ArrowInvalid`.
        """
        import pyarrow as pa

        if isinstance(source, (pa.Table, pa.RecordBatch)):
            return cls.from_arrow_object(source)
        file = reader(source)
        start = file.read(len(_IPC_FILE_MAGIC))
        file.seek(0)
        opened = pa.ipc.open_file(file) if start == _IPC_FILE_MAGIC else pa.ipc.open_stream(file)
        table = opened.read_all()
        # IPC carries raw offsets: wrong ones would make later code read outside of its buffers.
        table.validate(full=True)
        return cls(table)

    @classmethod
    def from_arrow_object(cls, source: Any) -> Table:
        """A `pyarrow.Table` or record batch as it is. Raises `TypeError` for anything else."""
        import pyarrow as pa

        return cls(pa.Table.from_batches([source]) if isinstance(source, pa.RecordBatch) else source)

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Table:
        """The columns of a DataFrame; the index is left out unless it has a name."""
        import pyarrow as pa

        named = any(name is not None for name in frame.index.names)
        return cls(pa.Table.from_pandas(frame, preserve_index=named).replace_schema_metadata(None))

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any]) -> Table:
        """Columns by name: lists, numpy arrays or Arrow arrays."""
        import pyarrow as pa

        return cls(pa.table(dict(columns)))

    @classmethod
    def read(cls, source: Source, format: Format) -> Table:
        """Read one of `FORMATS`. Raises what the format's reader raises; `ValueError` for another format."""
        match format:
            case "csv":
                return cls.from_csv(source)
            case "parquet":
                return cls.from_parquet(source)
            case "arrow":
                return cls.from_arrow(source)
        raise ValueError(f"a table is one of {', '.join(FORMATS)}")

    # -- looking at it -----------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The column names, in order."""
        return list(self._arrow.column_names)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self._arrow.num_rows)

    @property
    def schema(self) -> Any:
        """The `pyarrow.Schema`."""
        return self._arrow.schema

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, column: str) -> Any:
        """One column as `pyarrow.ChunkedArray`. Raises `KeyError`."""
        return self._arrow.column(column)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and bool(self._arrow.equals(other._arrow))

    __hash__ = None  # type: ignore[assignment]  # as for other containers

    def __repr__(self) -> str:
        # No values: a table must not get into a log by its repr.
        return f"<Table of {self.num_rows} rows: {', '.join(self.columns)}>"

    def select(self, columns: Sequence[str]) -> Table:
        """Only these columns, in this order. Raises `KeyError`."""
        return Table(self._arrow.select(list(columns)))

    # -- converting --------------------------------------------------------------------------------

    def to_arrow(self) -> Any:
        """The `pyarrow.Table` itself."""
        return self._arrow

    def to_pandas(self) -> pd.DataFrame:
        """A DataFrame."""
        frame: pd.DataFrame = self._arrow.to_pandas(use_threads=threads())
        return frame

    def to_polars(self) -> Any:
        """A `polars.DataFrame`."""
        import polars

        return polars.from_arrow(self._arrow)

    def to_numpy(self, column: str | None = None) -> np.ndarray[Any, Any]:
        """One column, or all numeric columns as an array of shape (rows, columns)."""
        import numpy as np

        if column is not None:
            return np.asarray(self._arrow.column(column).to_numpy())
        columns = [np.asarray(item.to_numpy()) for item in self._arrow.columns]
        if any(item.dtype.kind not in "biuf" for item in columns):
            raise TypeError("a column is not numeric: select the numeric ones, or name one column")
        return np.column_stack(columns) if columns else np.empty((self.num_rows, 0))

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns by name, as Python values."""
        return dict(self._arrow.to_pydict())

    # -- writing -----------------------------------------------------------------------------------

    def write(self, target: str | os.PathLike[str] | BinaryIO, format: Format) -> None:
        """Write one of `FORMATS` to a path or an open binary file. Raises `OSError`."""
        import pyarrow as pa
        from pyarrow import csv, parquet

        sink = os.fspath(target) if isinstance(target, (str, os.PathLike)) else target
        match format:
            case "csv":
                csv.write_csv(self._arrow, sink, csv.WriteOptions(batch_size=CSV_ROWS))
            case "parquet":
                parquet.write_table(self._arrow, sink)
            case "arrow":
                with pa.ipc.new_file(sink, self._arrow.schema) as writer:
                    writer.write_table(self._arrow)
            case _:
                raise ValueError(f"a table is one of {', '.join(FORMATS)}")


def threads() -> bool:
    """Whether Arrow may start threads: a sandbox may have forbidden it."""
    import pyarrow as pa

    return int(pa.cpu_count()) > 1


def reader(source: Source) -> Any:
    """An Arrow input file of a path, which is mapped, or of bytes."""
    import pyarrow as pa

    if isinstance(source, (str, os.PathLike)):
        return pa.memory_map(os.fspath(source), "r")
    return pa.BufferReader(source if isinstance(source, pa.Buffer) else pa.py_buffer(source))


__all__ = ["FORMATS", "Format", "Source", "Table"]
