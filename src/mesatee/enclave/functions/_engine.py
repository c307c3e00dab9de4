"""DuckDB with nothing but tables: in the thread of the caller, without files, extensions, or settings to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from mesatee.enclave.functions._order import plain
from mesatee.errors import Malformed, TooLarge, Unavailable
from mesatee.protocol import limits

_CONFIG: Final = {
    # Threads would add up floating point in another order each time, and the sandbox allows few.
    "threads": 1,
    "async_threads": 0,
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # A name that is no table is not looked up among Python's variables.
    "python_enable_replacements": False,
    "temp_directory": "",
}
_LAST_SETTINGS: Final = ("SET TimeZone = 'UTC'", "SET lock_configuration = true")
_SHOWN: Final = 300
"""Of a message about the text of a query, in characters."""
_PREFIX: Final = 40
"""In this many characters a failure that is text says its kind."""
_POOL_SHARE: Final = 0.5
"""Of the memory that is left to the run, for the engine; the result stands beside it."""
_BATCH_ROWS: Final = 65_536
"""Rows that are taken from the engine at once."""
_ABOUT_THE_TEXT: Final = ("ParserException", "BinderException", "CatalogException", "SyntaxException")
"""Failures whose message shows names and types, for no row has been looked at."""
_SAID: Final = {
    "ConversionException": "a value cannot be cast to the type that is asked for",
    "OutOfRangeException": "a number is out of the range of its type: cast before you compute",
    "InvalidInputException": "a function does not take one of its values",
    "InvalidTypeException": "a type is not supported there",
    "NotImplementedException": "the engine has no such thing",
    "PermissionException": "it asks for something beside its inputs",
}
"""What may be said of other failures: their own messages show values."""


def run(tables: dict[str, Any], query: str) -> Any:
    """The result of a query, which `_statement.checked` has passed, as a `pyarrow.Table`.

    Raises `Malformed` for a query that the engine refuses or that fails, `TooLarge` for a result of over
    `limits.JOIN_ROWS` rows, `MemoryError`, and `Unavailable` if the engine is not installed.
    """
    import pyarrow as pa

    try:
        import duckdb
    except ImportError:
        raise Unavailable(
            "sql needs the package duckdb", hint="pip install 'mesatee[sql]' where functions run"
        ) from None
    batches, rows = [], 0
    with _failing(duckdb), _connected(duckdb, tables) as connection:
        statements = connection.extract_statements(query)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise Malformed("the query is not one SELECT")
        reader = connection.sql(statements[0]).to_arrow_reader(_BATCH_ROWS)
        for batch in reader:
            rows += batch.num_rows
            if rows > limits.JOIN_ROWS:
                raise TooLarge(f"the result has over {limits.JOIN_ROWS} rows", hint="select fewer rows")
            batches.append(batch)
        found = pa.Table.from_batches(batches, reader.schema).replace_schema_metadata(None)
    return pa.Table.from_arrays([plain(column) for column in found.columns], names=found.column_names)


@contextlib.contextmanager
def _connected(duckdb: Any, tables: dict[str, Any]) -> Iterator[Any]:
    """A database in memory that has these tables, and can get nothing else."""
    left = _memory_left()
    config = _CONFIG if left is None else _CONFIG | {"memory_limit": f"{int(left * _POOL_SHARE)}B"}
    with duckdb.connect(":memory:", config=config) as connection:
        for setting in _LAST_SETTINGS:
            connection.execute(setting)
        for name, table in tables.items():
            connection.register(name, table)
        yield connection


def _memory_left() -> int | None:
    """Address space that the run has left, in bytes, to a quarter; None if there is no limit."""
    import mmap
    import resource

    left = resource.getrlimit(resource.RLIMIT_AS)[0]
    if left == resource.RLIM_INFINITY:
        return None
    # What is in use already is told by files only, and a child has none: so try what can be had.
    while left > mmap.PAGESIZE:
        try:
            mmap.mmap(-1, left).close()
        except OSError:
            left -= left // 4
        else:
            break
    return left


@contextlib.contextmanager
def _failing(duckdb: Any) -> Iterator[None]:
    """The engine's failures as ours, without values of the tables."""
    import pyarrow as pa

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise MemoryError from None
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # What fails after the first rows comes through Arrow, as text.
        text = str(error)
        if "Out of Memory Error" in text:
            raise MemoryError from None
        of_text = (
            name for name in _SAID if name.removesuffix("Exception") in text.replace(" ", "")[:_PREFIX]
        )
        kind = type(error).__name__ if isinstance(error, duckdb.Error) else next(of_text, "")
        if kind in _ABOUT_THE_TEXT:
            said = " ".join(text.split())
            raise Malformed(f"the query was refused: {said[:_SHOWN]}") from None
        said = _SAID.get(kind, "the engine failed")
        raise Malformed(f"the query failed while it ran: {said}") from None


__all__ = ["run"]
