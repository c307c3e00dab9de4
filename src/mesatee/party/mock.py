"""Mock data: rows made up from what a dataset's statement says, for trying a function out. No real row is looked at.

Each value is drawn by itself: a column's from its marginal if the owner published one, or else from its type alone, so
nothing that holds between columns in the data holds in mock data. The same statement and seed always give the same
rows. Text is of the form ``mock-12``, or one of the values that the owner named.

>>> from mesatee.protocol.statements import ColumnInfo
>>> columns = (ColumnInfo(name="id", type="int64"), ColumnInfo(name="name", type="string"))
>>> rows(columns, None, 3, seed=1).columns
['id', 'name']
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, cast

from ..errors import DigestMismatch, InputError, Malformed, TooLarge
from ..protocol import limits, wire
from ..protocol import marginals as form
from ..protocol.statements import ColumnInfo, DatasetStatement
from .http import visible
from .marginals import edges
from .session import Session

if TYPE_CHECKING:
    from ..table import Format, Table

LABEL: Final = "mock data by mesatee: no row of it is real"
"""Stands in the metadata of Parquet and Arrow files; CSV has no place for it but the file's name."""
SUFFIX: Final = ".mock"
"""Before the extension of files with mock data."""
PREFIX: Final = "mock-"
"""How texts begin that nobody named."""
SPREAD: Final = 100
"""Of how many values one is drawn where only the type is known: few, so that two tables have keys in common."""
FIRST_DAY: Final = date(2000, 1, 1)
FIRST_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH: Final = date(1970, 1, 1)
_DRAW_BYTES: Final = 16

Draw: TypeAlias = Callable[[Any], Any]
"""A value from a number."""


@dataclass(frozen=True, slots=True)
class Made:
    """Mock data of one dataset."""

    table: Table
    measured: tuple[str, ...]
    """Columns that follow the owner's marginals."""
    empty: tuple[str, ...]
    """Columns of types for which nothing is made up: all of their values are missing."""


def statement(session: Session, view: wire.DatasetView) -> DatasetStatement:
    """What the dataset's owner signed, verified from the log. Raises `DigestMismatch` and as `Session.statement`."""
    found = session.statement(view.index, "dataset", view.digest)
    if not isinstance(found.predicate, DatasetStatement) or found.signer != view.owner:
        raise DigestMismatch("the dataset's statement is not by the owner that the gateway names")
    return found.predicate


def spent(session: Session, name: str) -> int:
    """What the party's own datasets of this name have spent in all, retired ones too, in millionths of epsilon.

    Versions of the same rows add up; whether they are the same rows, only their owner knows.
    """
    total = 0
    for view in session.datasets():
        if view.owner == session.identity.id and view.name == name:
            found = statement(session, view).marginals
            total += 0 if found is None else found.epsilon
    return total


def make(said: DatasetStatement, count: int, seed: int, missing: Fraction = Fraction(0)) -> Made:
    """Mock data from a dataset's statement. Raises `InputError` for one without columns, and as `rows`."""
    if not said.columns:
        raise InputError(
            f"the dataset {said.name} is {said.format} without columns, so nothing can be made up from its statement",
            hint="give a file of your own: `mesatee function test FILE --in NAME=FILE`",
        )
    import pyarrow as pa

    try:
        table = rows(said.columns, said.marginals, count, seed, missing)
    except (pa.ArrowException, OverflowError) as error:
        raise _impossible(error) from None
    measured = () if said.marginals is None else tuple(item.column for item in said.marginals.columns)
    empty = tuple(item.name for item in said.columns if _plain(item.type) is None)
    return Made(table, measured, empty)


def rows(
    columns: Sequence[ColumnInfo],
    marginals: form.Marginals | None,
    count: int,
    seed: int,
    missing: Fraction = Fraction(0),
) -> Table:
    """`count` rows of these columns. `missing` is the share of missing values where none was measured and the schema
    allows them.

    Raises `Malformed` for a share that is none, and `TooLarge` above `limits.MOCK_ROWS`.
    """
    import pyarrow as pa

    from ..table import Table

    if not 1 <= count <= limits.MOCK_ROWS:
        raise TooLarge(f"mock data have 1 to {limits.MOCK_ROWS} rows")
    if not 0 <= missing <= 1:
        raise Malformed("the share of missing values is from 0 to 1")
    known = {} if marginals is None else {item.column: item for item in marginals.columns}
    arrays, fields = [], []
    for place, column in enumerate(columns):
        stream = f"{seed}/{place}/{column.name}".encode("utf-8", "surrogatepass")
        type, draw = _column(column, known.get(column.name), missing)
        values = [draw(_number(stream, row)) for row in range(count)]
        arrays.append(pa.array(values, type))
        fields.append(pa.field(column.name, type, nullable=not (column.required and type != pa.null())))
    return Table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata={"mesatee": LABEL})))


def write(made: Made, said: DatasetStatement, target: BinaryIO) -> None:
    """Write in the dataset's own format. Raises `InputError` if that has no place for a type, and `OSError`."""
    import pyarrow as pa

    try:
        made.table.write(target, cast("Format", said.format))
    except (pa.ArrowException, OverflowError) as error:
        raise _impossible(error) from None


def _impossible(error: Exception) -> InputError:
    """Types in a statement are others' words: what Arrow makes of odd ones is not for us to know before."""
    return InputError(
        f"no mock data can be made of these columns: {visible(str(error))[:200]}",
        hint="ask the owner, or give a file of your own: `mesatee function test FILE --in NAME=FILE`",
    )


def _number(stream: bytes, row: int) -> int:
    """128 bits that follow from seed, column and row alone."""
    return int.from_bytes(hashlib.sha256(b"%s/%d" % (stream, row)).digest()[:_DRAW_BYTES], "big")


def _column(column: ColumnInfo, known: form.Marginal | None, missing: Fraction) -> tuple[Any, Draw]:
    """A column's Arrow type and how its values are drawn."""
    import pyarrow as pa

    plain = _plain(column.type)
    if plain is None:
        return pa.null(), lambda number: None
    type, value, lowest, spread = plain
    if known is None:
        share = Fraction(0) if column.required else missing
        return type, _maybe(
            share.numerator, share.denominator, lambda number: value(lowest + number % spread)
        )
    total = sum(known.counts)
    # Where noise left nothing at all, no bin is likelier than another.
    weights = known.counts if total else (1,) * len(known.counts)
    inside, every = _inside(known, value, lowest, spread), sum(weights)

    def draw(number: int) -> Any:
        rest, left = divmod(number, every)
        for place, weight in enumerate(weights):
            if left < weight:
                return inside(place, rest)
            left -= weight
        return None

    lacking = 0 if column.required else known.missing
    return type, _maybe(lacking, lacking + every, draw)


def _maybe(lacking: int, of: int, draw: Draw) -> Draw:
    """None with probability `lacking` / `of`."""

    def choose(number: int) -> Any:
        rest, side = divmod(number, of)
        return None if side < lacking else draw(rest)

    return choose


def _inside(known: form.Marginal, value: Draw, lowest: int, spread: int) -> Callable[[int, int], Any]:
    """A value of a bin, by the bin's place and a number."""
    match known:
        case form.WholeMarginal():
            borders = edges(known.low, known.high, len(known.counts), whole=True)
            return lambda place, number: value(
                int(borders[place]) + number % int(borders[place + 1] - borders[place])
            )
        case form.RealMarginal():
            marks = [float(edge) for edge in edges(known.low, known.high, len(known.counts), whole=False)]
            # A millionth of a bin is fine enough for trying things out.
            return lambda place, number: value(
                marks[place] + (marks[place + 1] - marks[place]) * (number % 1_000_000) / 1_000_000
            )
        case form.ChoiceMarginal():
            named = known.values
            return lambda place, number: named[place] if place < len(named) else f"{PREFIX}{number % SPREAD}"
        case form.TruthMarginal():
            return lambda place, _: place == 1
        case form.PresenceMarginal():
            return lambda _, number: value(lowest + number % spread)


def _plain(type: str) -> tuple[Any, Draw, int, int] | None:
    """Of an Arrow type by its name: the type, a value from an integer, the first integer and how many there are.

    Bounds of marginals are such integers, too: of dates days, of times seconds since 1970. None for types that have
    parts, for which nothing is made up.
    """
    import pyarrow as pa

    kind = form.kind_of(type)
    match kind:
        case "truth":
            return pa.bool_(), lambda number: number % 2 == 1, 0, 2
        case "real":
            real = {"halffloat": pa.float16(), "float": pa.float32()}.get(type, pa.float64())
            return real, _half if type == "halffloat" else float, 0, SPREAD
        case "choice":
            # Of a dictionary, the statement does not have the values.
            text = pa.large_string() if type == "large_string" else pa.string()
            return text, lambda number: f"{PREFIX}{number}", 0, SPREAD
    if type.startswith("date"):
        days = (FIRST_DAY - _EPOCH).days
        day = pa.date64() if type.startswith("date64") else pa.date32()
        first, last = (date.min - _EPOCH).days, (date.max - _EPOCH).days
        return day, lambda number: _EPOCH + timedelta(days=min(max(number, first), last)), days, 365 * 20
    if type.startswith("timestamp"):
        return _moments(type)
    if kind == "whole":
        whole = getattr(pa, type, None)
        if whole is None:
            return None
        made = whole()
        bits, signed = made.bit_width, type.startswith("int")
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        # A marginal's bounds may lie beyond what the type holds.
        return made, lambda number: min(max(number, least), most), 0, SPREAD
    if type in ("binary", "large_binary"):
        return getattr(pa, type)(), lambda number: f"{PREFIX}{number}".encode(), 0, SPREAD
    if type.startswith("decimal128(") and type.endswith(")"):
        return _decimals(type)
    return None


def _half(number: float) -> Any:
    import numpy as np

    most = float(np.finfo(np.float16).max)
    return np.float16(min(max(float(number), -most), most))


def _moments(type: str) -> tuple[Any, Draw, int, int] | None:
    import pyarrow as pa

    inside = type.removeprefix("timestamp[").removesuffix("]")
    unit, _, zone = inside.partition(", tz=")
    if unit not in ("s", "ms", "us", "ns"):
        return None
    made = pa.timestamp(unit, zone or None)
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    most = 2**63 // factor - 1
    start = int(FIRST_MOMENT.timestamp())
    return made, lambda number: min(max(number, -most), most) * factor, start, 365 * 20 * 86_400


def _decimals(type: str) -> tuple[Any, Draw, int, int] | None:
    import decimal

    import pyarrow as pa

    digits, _, scale = type.removeprefix("decimal128(").removesuffix(")").partition(", ")
    try:
        if not 0 <= int(scale) <= int(digits):
            return None
        made = pa.decimal128(int(digits), int(scale))
    except (ValueError, TypeError, OverflowError):
        return None
    few = min(SPREAD, 10 ** min(int(digits), 2))
    return made, lambda number: decimal.Decimal(number).scaleb(-int(scale)), 0, few


__all__ = ["LABEL", "PREFIX", "SUFFIX", "Made", "make", "rows", "spent", "statement", "write"]
