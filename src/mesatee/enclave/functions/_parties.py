"""Tables of several parties as one: rows of the same columns, or columns of the same people.

The functions of statistics ask for columns by name and in the form that they compute with; where a column came from
is this module's concern. No result may depend on the order of rows, so none of this keeps one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mesatee.enclave.functions._keys import distinct, key_columns, prepare
from mesatee.errors import Malformed
from mesatee.table import Table

HOW: Final = ("rows", "columns")
SOURCE: Final = "input"
"""With ``rows``: the column that says which input a row is from, unless the tables have one of this name."""
COLUMNS: Final = 200
"""Columns that one run looks at; pairs of them are 19,900."""
CATEGORIES: Final = 1_000
"""Different values of a column that is taken as categories: more is hardly one."""

_INFINITE: Final = "the column {} has infinite values: make them null, or leave them out"


@dataclass(frozen=True, slots=True)
class Categories:
    """A column as categories: for each row the place of its value in `labels`, or -1 for none; `labels` are sorted."""

    codes: Any
    labels: Any

    @property
    def texts(self) -> list[str]:
        """The labels as arguments name them."""
        return [text_of(label) for label in self.labels.to_pylist()]

    def place(self, value: Any) -> int:
        """Where the label is that an argument names; -1 if no row has it."""
        texts, wanted = self.texts, text_of(value)
        return texts.index(wanted) if wanted in texts else -1

    def take(self, places: Any) -> Any:
        """The labels at these places, as an Arrow array; null for -1."""
        import numpy as np
        import pyarrow as pa

        places = np.asarray(places, np.int64)
        return self.labels.take(pa.array(places, mask=places < 0))


@dataclass(frozen=True, slots=True)
class Combined:
    """All inputs as one table of `rows` rows. `sources` is, for each column, of which inputs and columns it is made."""

    function: str
    rows: int
    sources: dict[str, tuple[tuple[str, str], ...]]
    tables: dict[str, Any]
    picked: dict[str, Any] | None
    origin: bool

    @property
    def names(self) -> list[str]:
        """The columns that the inputs bring, in order."""
        return list(self.sources)

    def chosen(self, columns: str | Sequence[str], least: int = 1) -> list[str]:
        """The columns that an argument names, or all if it names none. Raises `Malformed`."""
        wanted = [columns] if isinstance(columns, str) else list(columns)
        found = wanted or self.names
        if len(set(found)) != len(found):
            raise Malformed("columns names a column twice")
        if not least <= len(found) <= COLUMNS:
            raise Malformed(f"{self.function} takes {least} to {COLUMNS} columns, not {len(found)}")
        for name in found:
            self.source(name)
        return found

    def source(self, name: str) -> tuple[tuple[str, str], ...]:
        """Of which inputs and columns a column is made. Raises `Malformed`."""
        found = self.sources.get(name)
        if found is None:
            if self.origin and name == SOURCE:
                return ()
            raise Malformed(
                f"no column {name!r} in {'every input' if self.picked is None else 'any input'}",
                hint=f"there are {', '.join(map(repr, self.names[:COLUMNS])) or 'none'}",
            )
        return found

    def values(self, name: str) -> Iterator[tuple[str, Any]]:
        """The pieces of a column, each with the name of its input."""
        import pyarrow as pa

        for party, column in self.source(name):
            piece = self.tables[party].column(column)
            kind = piece.type
            try:
                # Before rows are picked: some of these types cannot be picked from, or by few rows only.
                if pa.types.is_dictionary(kind):
                    piece = piece.cast(kind.value_type)
                if _is_text(piece.type):
                    piece = piece.cast(pa.large_string())
                yield party, piece if self.picked is None else piece.take(self.picked[party])
            except pa.ArrowNotImplementedError:
                raise Malformed(f"the column {name!r} of {party} is {kind}, which cannot be used") from None

    def kinds(self, name: str) -> list[Any]:
        """The types of the pieces of a column; those of their values for dictionaries."""
        import pyarrow as pa

        found = [self.tables[party].schema.field(column).type for party, column in self.source(name)]
        return [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in found]

    def is_number(self, name: str) -> bool:
        """Whether a column can be computed with."""
        return bool(self.source(name)) and all(map(_is_number, self.kinds(name)))

    def numbers(self, name: str) -> Any:
        """A column as float64, NaN for what is missing. Raises `Malformed` for text and for infinite values."""
        import numpy as np
        import pyarrow as pa

        pieces = []
        self.source(name)
        for party, piece in self.values(name):
            if not _is_number(piece.type):
                raise Malformed(f"the column {name!r} of {party} is {piece.type}, not numbers")
            if pa.types.is_boolean(piece.type):
                piece = piece.cast(pa.int8())
            pieces.append(np.asarray(piece.cast(pa.float64(), safe=False).to_numpy(), np.float64))
        if not pieces:
            raise Malformed(f"the column {name!r} names inputs: it is text, not numbers")
        found = np.concatenate(pieces)
        if np.isinf(found).any():
            raise Malformed(_INFINITE.format(repr(name)))
        return found

    def flags(self, name: str) -> Any:
        """A column of truth values or of 0 and 1, as float64 with NaN for what is missing. Raises `Malformed`."""
        import numpy as np

        found = self.numbers(name)
        if not (np.isnan(found) | (found == 0) | (found == 1)).all():
            raise Malformed(f"the column {name!r} has values other than 0, 1, true and false")
        return found

    def categories(self, name: str, most: int | None = CATEGORIES) -> Categories:
        """A column as categories. Raises `Malformed` for lists, structs, bytes, infinite values and too many."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        pieces = list(self.values(name)) if self.source(name) else self._origins()
        kinds = {party: _family(name, party, piece.type) for party, piece in pieces}
        kind = _common(name, kinds)
        arrays = []
        for party, piece in pieces:
            try:
                values = piece.cast(kind)
            except pa.ArrowInvalid:
                raise Malformed(f"a value of the column {name!r} of {party} does not fit {kind}") from None
            if pa.types.is_floating(kind):
                if pc.any(pc.is_inf(values)).as_py():
                    raise Malformed(_INFINITE.format(repr(name)))
                # NaN is no value, and both zeros are one.
                values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
                values = pc.if_else(pc.equal(values, 0.0), pa.scalar(0.0, kind), values)
            arrays += values.chunks
        coded = pa.chunked_array(arrays, kind).combine_chunks().dictionary_encode()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.combine_chunks()
        labels = coded.dictionary
        if most is not None and len(labels) > most:
            raise Malformed(f"the column {name!r} has over {most} different values: too many for categories")
        order = pc.sort_indices(labels)
        places = np.empty(len(labels) + 1, np.int64)
        places[order.to_numpy()] = np.arange(len(labels))
        places[-1] = -1
        return Categories(places[coded.indices.fill_null(len(labels)).to_numpy()], labels.take(order))

    def _origins(self) -> list[tuple[str, Any]]:
        import pyarrow as pa

        return [(name, pa.chunked_array([[name] * table.num_rows])) for name, table in self.tables.items()]

    def say(self, text: str) -> None:
        """A line for `diagnostics`."""
        print(f"{self.function}: {text}", file=sys.stderr)

    def complete(self, *columns: Any) -> Any:
        """Which rows have a value in all of these; says how many are left out."""
        import numpy as np

        found = np.ones(self.rows, bool)
        for column in columns:
            found &= column.codes >= 0 if isinstance(column, Categories) else ~np.isnan(column)
        self.say(f"{int(found.sum())} rows used, {int((~found).sum())} left out because of nulls")
        return found


def combine(function: str, inputs: dict[str, Table], how: str, key: Any) -> Combined:
    """The inputs as one, in the order of their names; says to `diagnostics` how many rows that are.

    With ``rows`` a column is there if all inputs have it. With ``columns`` a row is a key that all inputs have; a
    column that several have is named ``input.column``. Raises `Malformed` for unknown `how`, for a `key` that does not
    fit, and for keys that stand twice in an input.
    """
    if how not in HOW:
        raise Malformed(f"how is one of {', '.join(HOW)}")
    inputs = dict(sorted(inputs.items()))
    tables = {name: table.to_arrow() for name, table in inputs.items()}
    for name, table in tables.items():
        twice = [column for column in table.column_names if table.column_names.count(column) > 1]
        if twice:
            raise Malformed(f"the input {name} has several columns {twice[0]!r}")
        print(f"{function}: {name}: {table.num_rows} rows", file=sys.stderr)
    if how == "rows" or (len(inputs) == 1 and key is None):
        if key is not None:
            raise Malformed("key is for how=columns: with how=rows no rows are matched")
        first, *others = tables.values()
        common = [name for name in first.column_names if all(name in table.column_names for table in others)]
        sources = {name: tuple((party, name) for party in tables) for name in common}
        rows = sum(table.num_rows for table in tables.values())
        return Combined(function, rows, sources, tables, None, SOURCE not in sources)
    if key is None:
        raise Malformed("how=columns needs a key: the column or columns that name a person")
    wanted = key_columns(inputs, key)
    picked = _matched(inputs, wanted)
    rows = len(next(iter(picked.values())))
    print(f"{function}: {rows} rows have a key that all inputs have", file=sys.stderr)
    return Combined(function, rows, _beside(tables, wanted), tables, picked, False)


def _beside(tables: dict[str, Any], keys: dict[str, list[str]]) -> dict[str, tuple[tuple[str, str], ...]]:
    """The columns that are no keys, by a name that only one has."""
    places = [
        (party, column)
        for party, table in tables.items()
        for column in table.column_names
        if column not in keys[party]
    ]
    plain = [column for _, column in places]
    names = [column if plain.count(column) == 1 else f"{party}.{column}" for party, column in places]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise Malformed(f"two columns would be named {twice[0]!r}: rename one of them")
    return {name: (place,) for name, place in zip(names, places, strict=True)}


def _matched(inputs: dict[str, Table], wanted: dict[str, list[str]]) -> dict[str, Any]:
    """For each input the numbers of its rows whose keys all have, in the order of the keys."""
    import numpy as np
    import pyarrow as pa

    keys = prepare(inputs, wanted, [])
    names = [f"key{number}" for number in range(len(next(iter(wanted.values()))))]
    tables = []
    for name, item in keys.items():
        columns = dict(zip(names, item.arrays, strict=True))
        rows = pa.table({**columns, f"row {name}": pa.array(np.arange(item.rows))}).drop_null()
        if distinct(item).num_rows != rows.num_rows:
            raise Malformed(f"a key stands in several rows of {name}: there must be one row for each person")
        tables.append(rows)
    found = tables[0]
    for rows in tables[1:]:
        found = found.join(rows, names, join_type="inner", use_threads=False)
    ordered = found.sort_by([(column, "ascending") for column in names])
    return {name: ordered.column(f"row {name}").combine_chunks() for name in keys}


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _family(name: str, party: str, kind: Any) -> Any:
    """One wide type for each kind of category."""
    import pyarrow as pa

    types = pa.types
    if _is_text(kind):
        return pa.large_string()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_date(kind):
        return pa.date32()
    if types.is_timestamp(kind):
        # One unit, and one zone: the same instant is the same value.
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if types.is_boolean(kind) or types.is_null(kind):
        return kind
    raise Malformed(
        f"the column {name!r} of {party} is {kind}: categories are text, numbers, truth values, dates or times"
    )


def _common(name: str, kinds: dict[str, Any]) -> Any:
    import pyarrow as pa

    found = {kind for kind in kinds.values() if not pa.types.is_null(kind)}
    if found == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(found) > 1:
        said = ", ".join(f"{kind} in {party}" for party, kind in kinds.items())
        raise Malformed(f"the column {name!r} has different types: {said}")
    # Without a single value there is no type, and no category either.
    return found.pop() if found else pa.large_string()


def text_of(value: Any) -> str:
    """A label as text, so that arguments can name it: 1 for 1.0, ISO 8601 for dates and times."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


__all__ = ["CATEGORIES", "COLUMNS", "HOW", "SOURCE", "Categories", "Combined", "combine", "text_of"]
