"""A table that is too large to hold: it comes, and may be given, piece by piece.

A function that takes `Batches` sees one `Table` after the other, and needs memory for one of them; it may go through
them again. A function that returns `Batches` yields tables (or Arrow tables and record batches) of the same columns::

    def adults(people: Batches, *, age: int = 18) -> Batches:
        for part in people:
            arrow = part.to_arrow()
            yield arrow.filter(pc.greater_equal(arrow["age"], age))

>>> from mesatee.batches import Batches
>>> parts = Batches.read(b"id,age\\n1,30\\n2,41\\n", "csv")
>>> parts.columns, [part.num_rows for part in parts], [part.num_rows for part in parts]
(['id', 'age'], [2], [2])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from mesatee.table import CSV_ROWS, FORMATS, Format, Source, Table, reader, threads

BLOCK_BYTES: Final = 4 * 2**20
"""Of CSV text that becomes one batch; a longer row makes a longer one."""
ROWS: Final = 65_536
"""Of one batch of Parquet and Arrow, at most."""
_IPC_FILE_MAGIC: Final = b"ARROW1"
_QUOTE, _NEWLINE = b'"', b"\n"


class Batches:
    """A table, piece by piece. It can be gone through any number of times."""

    __slots__ = ("_pieces", "_schema")

    def __init__(self, pieces: Callable[[], Iterator[Any]], schema: Any) -> None:
        """`pieces` starts from the first `pyarrow.RecordBatch` or `pyarrow.Table` each time that it is called."""
        self._pieces = pieces
        self._schema = schema

    @classmethod
    def read(cls, source: Source, format: Format) -> Batches:
        """Open one of `FORMATS`, a path or an object with the buffer protocol.

        All of it is read once, so that what is wrong is said now and not to whoever goes through it. Raises what
        the format's reader raises; `ValueError` for another format.
        """
        match format:
            case "csv":
                return _csv(source)
            case "parquet":
                return _checked(*_parquet(source))
            case "arrow":
                return _checked(*_arrow(source))
        raise ValueError(f"a table is one of {', '.join(FORMATS)}")

    @property
    def columns(self) -> list[str]:
        """The column names, in order."""
        return list(self._schema.names)

    @property
    def schema(self) -> Any:
        """The `pyarrow.Schema`: all batches have it."""
        return self._schema

    def __iter__(self) -> Iterator[Table]:
        for piece in self._pieces():
            yield _table(piece)

    def __repr__(self) -> str:
        # No values, as for a table.
        return f"<Batches of {', '.join(self.columns)}>"


class Writer:
    """Writes tables of the same columns one after the other.

    >>> import io
    >>> target = io.BytesIO()
    >>> with Writer(target, "csv") as writer:
    ...     for number in (1, 2):
    ...         writer.write(Table.from_dict({"id": [number]}))
    >>> target.getvalue().split()
    [b'"id"', b'1', b'2']
    """

    def __init__(self, target: BinaryIO, format: Format) -> None:
        """To an open binary file, which stays the caller's. Raises `ValueError` for another format."""
        if format not in FORMATS:
            raise ValueError(f"a table is one of {', '.join(FORMATS)}")
        self._target = target
        self._format = format
        self._schema: Any = None
        self._sink: Any = None

    @property
    def written(self) -> bool:
        """Whether there was any table."""
        return self._sink is not None

    def write(self, piece: Any) -> None:
        """One more: a `Table`, `pyarrow.Table` or `pyarrow.RecordBatch`.

        Raises `TypeError` for anything else, `ValueError` for other columns than those before, and `OSError`.
        """
        arrow = _table(piece).to_arrow()
        if self._sink is None:
            self._schema = arrow.schema
            self._sink = self._open()
        elif not arrow.schema.equals(self._schema):
            raise ValueError(
                f"a batch has the columns {_shown(arrow.schema)}, those before had {_shown(self._schema)}"
            )
        if self._format == "parquet":
            # Each table would be a row group, and their sum has to fit into what describes the file.
            self._sink.write_table(arrow, row_group_size=max(1, arrow.num_rows))
        else:
            self._sink.write_table(arrow)

    def _open(self) -> Any:
        import pyarrow as pa
        from pyarrow import csv, parquet

        match self._format:
            case "csv":
                options = csv.WriteOptions(batch_size=CSV_ROWS)
                return csv.CSVWriter(self._target, self._schema, write_options=options)
            case "parquet":
                return parquet.ParquetWriter(self._target, self._schema)
            case "arrow":
                return pa.ipc.new_file(self._target, self._schema)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # After an error there is nothing to finish, and finishing could hide it behind another one.
        if self._sink is not None and kind is None:
            self._sink.close()


def _table(piece: Any) -> Table:
    return piece if isinstance(piece, Table) else Table.from_arrow_object(piece)


def _shown(schema: Any) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:500]


# -- reading ---------------------------------------------------------------------------------------


def _checked(pieces: Callable[[], Iterator[Any]], schema: Any) -> Batches:
    for _ in pieces():
        pass
    return Batches(pieces, schema)


def _parquet(source: Source) -> tuple[Callable[[], Iterator[Any]], Any]:
    from pyarrow import parquet

    def pieces() -> Iterator[Any]:
        file = parquet.ParquetFile(reader(source), pre_buffer=False)
        return iter(file.iter_batches(batch_size=ROWS, use_threads=threads()))

    return pieces, parquet.ParquetFile(reader(source), pre_buffer=False).schema_arrow


def _arrow(source: Source) -> tuple[Callable[[], Iterator[Any]], Any]:
    import pyarrow as pa

    def opened() -> Any:
        file = reader(source)
        start = file.read(len(_IPC_FILE_MAGIC))
        file.seek(0)
        return pa.ipc.open_file(file) if start == _IPC_FILE_MAGIC else pa.ipc.open_stream(file)

    def pieces() -> Iterator[Any]:
        found = opened()
        count = getattr(found, "num_record_batches", None)
        for batch in (found.get_batch(at) for at in range(count)) if count is not None else found:
            # IPC carries raw offsets: wrong ones would make later code read outside of its buffers.
            batch.validate(full=True)
            for at in range(0, batch.num_rows, ROWS):
                yield batch.slice(at, ROWS)

    return pieces, opened().schema


def _csv(source: Source) -> Batches:
    """1. Each block says what its columns are. 2. What all of them are is what every batch will be."""
    import pyarrow as pa
    from pyarrow import csv

    def parsed(block: bytes, names: list[str] | None, types: dict[str, Any]) -> Any:
        options = csv.ReadOptions(use_threads=threads(), column_names=names, block_size=max(len(block), 1))
        return csv.read_csv(
            pa.BufferReader(block),
            read_options=options,
            convert_options=csv.ConvertOptions(column_types=types),
        )

    # 1.
    found: Any = None
    for block in _blocks(source):
        schema = parsed(block, found.names if found is not None else None, {}).schema
        found = schema if found is None else _merged(found, schema)
    # 2.
    types = {field.name: field.type for field in found}

    def pieces() -> Iterator[Any]:
        names: list[str] | None = None
        for block in _blocks(source):
            yield parsed(block, names, types)
            names = found.names

    return Batches(pieces, found)


def _blocks(source: Source) -> Iterator[bytes]:
    """Whole rows of CSV, at least one piece even of an empty file."""
    file = reader(source)
    rest = b""
    while block := file.read(BLOCK_BYTES):
        rest += block
        cut = _cut(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest or not file.tell():
        yield rest


def _cut(block: bytes) -> int:
    """Behind the last end of a row, 0 if there is none.

    A line may end within quotes, a row does not: the last end of a line with an even number of quotes before it. If
    there is none, a quote stands for itself somewhere, and every line is a row.
    """
    last = end = block.rfind(_NEWLINE)
    odd = block.count(_QUOTE, 0, max(end, 0)) % 2
    while end >= 0:
        if not odd:
            return end + 1
        before = block.rfind(_NEWLINE, 0, end)
        odd ^= block.count(_QUOTE, max(before, 0), end) % 2
        end = before
    return last + 1


def _merged(left: Any, right: Any) -> Any:
    import pyarrow as pa

    if len(left) != len(right):
        raise pa.ArrowInvalid("the rows have different numbers of columns")
    fields = [
        pa.field(one.name, _wider(one.type, other.type)) for one, other in zip(left, right, strict=True)
    ]
    return pa.schema(fields)


def _wider(one: Any, other: Any) -> Any:
    """What holds the values of both: of numbers floating ones, of dates times, else text where they do not fit."""
    import pyarrow as pa

    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    both = {one, other}
    if both == {pa.int64(), pa.float64()}:
        return pa.float64()
    for dates in ({pa.date32(), pa.timestamp("s")}, {pa.date32(), pa.timestamp("ns")}):
        if both == dates:
            return max(both - {pa.date32()}, key=str)
    if both == {pa.timestamp("s"), pa.timestamp("ns")}:
        return pa.timestamp("ns")
    return pa.binary() if pa.binary() in both else pa.string()


__all__ = ["BLOCK_BYTES", "ROWS", "Batches", "Writer"]
