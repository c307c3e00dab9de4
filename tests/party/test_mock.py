"""Mock data: of the schema's types, like the marginals, the same for a seed, and no row of it real."""

from __future__ import annotations

import io
from collections import Counter
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mesatee.errors import DigestMismatch, InputError, Malformed, TooLarge
from mesatee.party import Identity, data, mock
from mesatee.party.marginals import Plan
from mesatee.protocol import limits, statements, wire
from mesatee.protocol.jsonstrict import canonical
from mesatee.protocol.marginals import Marginals
from mesatee.protocol.statements import ColumnInfo, DatasetStatement
from mesatee.table import Table

PLAIN = [
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "halffloat", "float", "double", "bool",
    "string", "large_string", "binary", "large_binary", "date32[day]", "date64[ms]", "timestamp[s]", "timestamp[ms]",
    "timestamp[us, tz=UTC]", "timestamp[ns]", "decimal128(10, 2)", "decimal128(1, 1)",
]  # fmt: skip
NUMBERS = {"mechanism": "discrete_laplace", "unit": "row_replaced"}


def columns(*types: str, required: bool = False) -> tuple[ColumnInfo, ...]:
    return tuple(ColumnInfo(name=f"c{n}", type=kind, required=required) for n, kind in enumerate(types))


def said(shape: data.Shape) -> DatasetStatement:
    return DatasetStatement.model_construct(
        name="people", format=shape.format, columns=shape.columns, rows=shape.rows, marginals=shape.marginals
    )


def marginals(**fields: Any) -> Marginals:
    column = {"column": "c0", "epsilon": 1, "missing": 0, **fields}
    return Marginals(**NUMBERS, columns=(column,))


@pytest.mark.parametrize("type", PLAIN)
def test_a_column_has_the_type_of_the_schema(type: str) -> None:
    found = mock.rows(columns(type), None, 50, 1)
    assert str(found.schema.field("c0").type) == type
    assert found["c0"].null_count == 0
    assert len(set(found["c0"].to_pylist())) > 1


def test_types_with_parts_are_empty_and_named() -> None:
    shape = data.Shape("csv", columns("list<item: int64>", "int64", "struct<a: int64>", "time32[s]"), 3)
    made = mock.make(said(shape), 3, 0)
    assert made.empty == ("c0", "c2", "c3")
    assert made.table["c0"].to_pylist() == [None] * 3


def test_the_same_seed_gives_the_same_rows_and_another_others() -> None:
    kinds = columns("int64", "string", "double")
    one = mock.rows(kinds, None, 40, 7)
    assert one == mock.rows(kinds, None, 40, 7)
    assert one != mock.rows(kinds, None, 40, 8)
    # More rows begin with the same ones, and columns of one type are not alike.
    assert mock.rows(kinds, None, 60, 7).to_arrow().slice(0, 40).equals(one.to_arrow())
    twins = mock.rows(columns("int64", "int64"), None, 40, 7)
    assert twins["c0"] != twins["c1"]


def test_known_rows_for_a_seed() -> None:
    """What others computed with the same seed last year is what they get today."""
    found = mock.rows(columns("int64", "string", "date32[day]"), None, 3, 1)
    assert found.to_dict() == {
        "c0": [26, 59, 28],
        "c1": ["mock-72", "mock-95", "mock-71"],
        "c2": [date(2004, 3, 18), date(2017, 3, 8), date(2013, 8, 9)],
    }


def test_values_follow_the_marginals() -> None:
    found = mock.rows(
        columns("int64"), marginals(kind="whole", low=0, high=99, counts=(300, 0, 0, 100)), 2_000, 1
    )
    bins = Counter(value // 25 for value in found["c0"].to_pylist())
    assert set(bins) == {0, 3}
    assert 1_400 < bins[0] < 1_600
    texts = marginals(kind="choice", values=("f", "m"), counts=(50, 50, 100), missing=200)
    counted = Counter(mock.rows(columns("string"), texts, 2_000, 1)["c0"].to_pylist())
    assert 900 < counted[None] < 1_100
    assert 180 < counted["f"] < 320
    assert all(value is None or value in ("f", "m") or value.startswith(mock.PREFIX) for value in counted)
    reals = mock.rows(columns("double"), marginals(kind="real", low=0.5, high=1.5, counts=(0, 5)), 100, 1)
    assert all(1 <= value < 1.5 for value in reals["c0"].to_pylist())
    truths = mock.rows(columns("bool"), marginals(kind="truth", counts=(0, 9)), 100, 1)
    assert set(truths["c0"].to_pylist()) == {True}
    days = mock.rows(columns("date32[day]"), marginals(kind="whole", low=0, high=9, counts=(1,)), 50, 1)
    assert {value.year for value in days["c0"].to_pylist()} == {1970}
    present = mock.rows(columns("binary"), marginals(kind="presence", counts=(0,), missing=1), 1_000, 1)
    assert 400 < present["c0"].null_count < 600


def test_noise_that_left_nothing_leaves_all_bins_alike() -> None:
    found = mock.rows(columns("int64"), marginals(kind="whole", low=0, high=1, counts=(0, 0)), 200, 1)
    assert set(found["c0"].to_pylist()) == {0, 1}


def test_missing_values_where_the_schema_allows_them() -> None:
    half = Fraction(1, 2)
    assert 60 < mock.rows(columns("int64"), None, 200, 1, half)["c0"].null_count < 140
    found = mock.rows(columns("int64", required=True), None, 200, 1, half)
    assert found["c0"].null_count == 0
    assert not found.schema.field("c0").nullable
    lacking = marginals(kind="presence", counts=(1,), missing=99)
    assert mock.rows(columns("int64", required=True), lacking, 200, 1)["c0"].null_count == 0


@pytest.mark.parametrize(
    "type", ["int8", "uint64", "float", "halffloat", "date32[day]", "date64[ms]", "timestamp[ns]"]
)
@pytest.mark.parametrize("low", [-limits.MARGINAL_BOUND, limits.MARGINAL_BOUND - 10])
def test_bounds_that_a_type_cannot_hold_are_no_crash(type: str, low: int) -> None:
    kind = "real" if "float" in type else "whole"
    bound = float if kind == "real" else int
    wide = marginals(kind=kind, low=bound(low), high=bound(low + 10), counts=(1, 1))
    shape = data.Shape("parquet", columns(type), 3, wide)
    made = mock.make(said(shape), 5, 1)
    assert made.table.num_rows == 5


@pytest.mark.parametrize(
    "type",
    ["timestamp[us, tz=Nowhere/None]", "timestamp[xs]", "decimal128(999999999999999999999, 2)", "decimal128(a, b)",
     "decimal128(5, -9999999)", "int65", "uint", "interval", "fixed_size_binary[-1]"],
)  # fmt: skip
def test_an_odd_type_is_our_error_or_an_empty_column(type: str) -> None:
    shape = data.Shape("csv", columns(type), 3)
    try:
        made = mock.make(said(shape), 2, 1)
        mock.write(made, said(shape), io.BytesIO())
    except InputError as error:
        outcome = error.message.partition(":")[0]
    else:
        outcome = f"empty: {made.empty}"
    assert outcome in ("empty: ('c0',)", "no mock data can be made of these columns")


@pytest.mark.parametrize(("count", "fits"), [(0, False), (1, True), (limits.MOCK_ROWS + 1, False)])
def test_the_number_of_rows(count: int, fits: bool) -> None:
    if fits:
        assert mock.rows(columns("int64"), None, count, 1).num_rows == count
    else:
        with pytest.raises(TooLarge, match="1 to 1000000 rows"):
            mock.rows(columns("int64"), None, count, 1)


@pytest.mark.parametrize("share", [Fraction(-1, 9), Fraction(10, 9)])
def test_a_share_that_is_none(share: Fraction) -> None:
    with pytest.raises(Malformed, match="from 0 to 1"):
        mock.rows(columns("int64"), None, 1, 1, share)


def test_without_columns_nothing_can_be_made_up() -> None:
    with pytest.raises(InputError, match="json without columns"):
        mock.make(said(data.Shape("json", (), 3)), 1, 1)


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
def test_a_file_reads_like_the_dataset(format: Any, alice: Identity, tmp_path: Path) -> None:
    source = tmp_path / f"people.{format}"
    Table.from_dict(
        {"id": [1, 2], "name": ["a", "b"], "born": pa.array([date(1990, 1, 1)] * 2), "ok": [True, False]}
    ).write(source, format)
    shape = data.seal(alice, source).shape
    made = mock.make(said(shape), 10, 1)
    target = tmp_path / f"mock.{format}"
    with target.open("wb") as file:
        mock.write(made, said(shape), file)
    read = Table.read(target, format)
    assert [(item.name, str(item.type)) for item in read.schema] == [(c.name, c.type) for c in shape.columns]
    if format != "csv":
        assert read.schema.metadata[b"mesatee"].decode() == mock.LABEL


def test_a_scientist_never_sees_real_rows(alice: Identity, tmp_path: Path) -> None:
    """Canary values of the owner's rows occur neither in what the statement says nor in mock data made from it."""
    source = tmp_path / "patients.csv"
    lines = ["id,name,weight,born,sex"]
    lines += [f"{770_000 + n},CANARY-{n},{61.5 + n / 1024},1957-03-{n + 1:02},canary-sex" for n in range(20)]
    source.write_text("\n".join(lines) + "\n")
    plan = Plan.parse(
        "10", ranges=["id=0:100:4", "weight=0:60:3", "born=2000-01-01:2010-01-01"], values=["sex=f,m"]
    )
    for chosen in (None, plan):
        shape = data.seal(alice, source, tmp_path / f"{chosen is None}.age", plan=chosen).shape
        statement = said(shape)
        public = canonical(
            statement.model_dump(mode="json", include={"columns", "rows", "marginals", "format"})
        )
        made = mock.make(statement, 2_000, 1)
        out = io.BytesIO()
        mock.write(made, statement, out)
        for text in (public.decode(), out.getvalue().decode()):
            assert "CANARY" not in text
            assert "canary" not in text
        # Of the public form only names, types, bounds, named values and counts are left, none of them a row's value.
        assert not [n for n in range(20) if f"{770_000 + n}" in public.decode()]
        assert "1957" not in public.decode()
        real = Table.read(source, "csv")
        for column in ("id", "name", "weight", "born", "sex"):
            assert not set(made.table[column].to_pylist()) & set(real[column].to_pylist()), column
        # Rows are drawn anew: more come out than went in, and of each column by itself.
        assert made.table.num_rows == 2_000


class LyingGateway:
    """Gives the statement of one owner for the dataset of another."""

    def __init__(self, signed: statements.Statement) -> None:
        self._signed = signed

    def statement(self, index: int, kind: str, digest: str) -> statements.Statement:
        return self._signed


def test_a_statement_of_another_owner_is_not_taken(vector: Any) -> None:
    signed = vector.left
    view = wire.DatasetView.model_construct(index=1, digest=signed.digest, owner=signed.signer)
    session: Any = LyingGateway(signed)
    assert mock.statement(session, view) == signed.predicate
    for wrong in (
        (signed, "00" * 32),
        (vector.function, vector.function.signer),
    ):
        session = LyingGateway(wrong[0])
        view = wire.DatasetView.model_construct(index=1, digest=signed.digest, owner=wrong[1])
        with pytest.raises(DigestMismatch, match="not by the owner"):
            mock.statement(session, view)
