"""Marginals in a dataset statement: one form, bounded, of the table's columns, and no bins of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError
from tests.support.mutate import QUICK, mutated

from mesatee._core import SigningKey
from mesatee.errors import Malformed, MesateeError
from mesatee.protocol import digests, limits, statements
from mesatee.protocol import envelope as dsse
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical, parse
from mesatee.protocol.marginals import Marginals, kind_of

KEY = SigningKey.generate()
TYPES = {"age": "int64", "weight": "double", "sex": "string", "ok": "bool", "notes": "list<item: int64>"}
COLUMNS: list[dict[str, Any]] = [
    {"column": "age", "kind": "whole", "epsilon": 10, "missing": 1, "low": 0, "high": 9, "counts": [1, 2]},
    {"column": "weight", "kind": "real", "epsilon": 10, "missing": 0, "low": 0.5, "high": 9.5, "counts": [3]},
    {
        "column": "sex",
        "kind": "choice",
        "epsilon": 10,
        "missing": 0,
        "values": ["f", "m"],
        "counts": [1, 1, 0],
    },
    {"column": "ok", "kind": "truth", "epsilon": 10, "missing": 0, "counts": [1, 2]},
    {"column": "notes", "kind": "presence", "epsilon": 10, "missing": 0, "counts": [3]},
]


def said(columns: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    fields = {"mechanism": "discrete_laplace", "unit": "row_replaced"}
    return {**fields, "columns": copy.deepcopy(COLUMNS) if columns is None else columns, **changes}


def dataset(marginals: Any, rows: int | None = 3) -> dict[str, Any]:
    """The payload of a dataset statement with these marginals, as a forger can write it."""
    plain = statements.DatasetStatement(
        origin="log.example/a",
        service="0a" * 32,
        time=1,
        nonce="00" * 16,
        checkpoint="x",
        name="d",
        blob=statements.BlobRef(sha256="0b" * 32, size=10),
        format="csv",
        columns=tuple(statements.ColumnInfo(name=name, type=kind) for name, kind in TYPES.items()),
        rows=rows,
        policy="p",
        wrap=b64encode(bytes(digests.WRAP_BYTES)),
    )
    body: dict[str, Any] = parse(statements.payload(plain))
    assert "marginals" not in body["predicate"]
    assert "required" not in body["predicate"]["columns"][0]
    if marginals is not ...:
        body["predicate"]["marginals"] = marginals
    return body


def verify(body: dict[str, Any]) -> statements.DatasetStatement:
    found = statements.verify(dsse.sign(canonical(body), [KEY]), "dataset").predicate
    assert isinstance(found, statements.DatasetStatement)
    return found


def test_without_them_a_statement_keeps_the_digest_that_it_had() -> None:
    body = dataset(...)
    assert verify(body).marginals is None
    assert sha256(canonical(body)) == sha256(statements.payload(verify(body)))
    body["predicate"]["marginals"] = None
    with pytest.raises(Malformed, match="canonical form"):
        verify(body)


def test_a_column_that_need_not_have_values_says_nothing_of_it() -> None:
    body = dataset(...)
    body["predicate"]["columns"][0]["required"] = True
    assert verify(body).columns[0].required
    body["predicate"]["columns"][0]["required"] = False
    with pytest.raises(Malformed, match="canonical form"):
        verify(body)


def test_they_come_back() -> None:
    found = verify(dataset(said())).marginals
    assert found is not None
    assert found.epsilon == 50
    assert found.model_dump(mode="json") == said()


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = said()
    change(made)
    return made


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another mechanism": (said(mechanism="gaussian"), "mechanism"),
    "another unit": (said(unit="party"), "unit"),
    "no column": (said([]), "columns"),
    "bins of its own": (broken(lambda m: m["columns"][0].update(edges=[0, 3, 9])), "edges"),
    "a column that is not there": (
        broken(lambda m: m["columns"][0].update(column="salary")),
        "columns of the table",
    ),
    "a column twice": (said([COLUMNS[0], COLUMNS[0]]), "each once"),
    "another order": (said([COLUMNS[1], COLUMNS[0]]), "in their order"),
    "a kind of another type": (said([{**COLUMNS[0], "column": "sex"}]), "kind whole is of no column"),
    "a count below 0": (
        broken(lambda m: m["columns"][0].update(counts=[-1, 2])),
        "greater than or equal to 0",
    ),
    "a count above the rows": (
        broken(lambda m: m["columns"][0].update(counts=[4, 2])),
        "above the number of rows",
    ),
    "more missing than rows": (
        broken(lambda m: m["columns"][4].update(missing=4)),
        "above the number of rows",
    ),
    "a count that is no integer": (broken(lambda m: m["columns"][0].update(counts=[1.5])), "valid integer"),
    "nothing spent": (broken(lambda m: m["columns"][0].update(epsilon=0)), "epsilon"),
    "more bins than integers": (
        broken(lambda m: m["columns"][0].update(high=0)),
        "at least as many integers",
    ),
    "an upside-down range": (broken(lambda m: m["columns"][1].update(low=9.5)), "low is below high"),
    "a range without an end": (broken(lambda m: m["columns"][1].update(high=1e300)), "high"),
    "a value twice": (broken(lambda m: m["columns"][2].update(values=["f", "f"])), "named once"),
    "a count too few": (broken(lambda m: m["columns"][2].update(counts=[1, 1])), "one count for each value"),
    "three truth values": (broken(lambda m: m["columns"][3].update(counts=[1, 1, 1])), "at most 2"),
    "a long value": (
        broken(lambda m: m["columns"][2].update(values=["f", "m" * (limits.MARGINAL_VALUE_CHARS + 1)])),
        "at most 64 characters",
    ),
    "an unknown kind": (broken(lambda m: m["columns"][0].update(kind="exact")), "kind"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_forged_and_malformed_ones_are_refused(name: str) -> None:
    marginals, words = WRONG[name]
    with pytest.raises(Malformed, match=words):
        verify(dataset(marginals))


def test_a_table_of_unknown_length_has_none() -> None:
    with pytest.raises(Malformed, match="known number of rows"):
        verify(dataset(said(), rows=None))


@pytest.mark.parametrize(("bins", "fits"), [(limits.MARGINAL_BINS, True), (limits.MARGINAL_BINS + 1, False)])
def test_the_most_bins(bins: int, fits: bool) -> None:
    wide = {**COLUMNS[0], "high": 10**6, "counts": [1] * bins}
    if fits:
        assert verify(dataset(said([wide]))).marginals
    else:
        with pytest.raises(Malformed, match="at most 64"):
            verify(dataset(said([wide])))


@pytest.mark.parametrize(("spent", "fits"), [(limits.MOCK_EPSILON, True), (limits.MOCK_EPSILON + 1, False)])
def test_the_most_epsilon_over_all_columns(spent: int, fits: bool) -> None:
    columns = [{**COLUMNS[0], "epsilon": spent - 10}, COLUMNS[1]]
    if fits:
        found = verify(dataset(said(columns))).marginals
        assert found is not None
        assert found.epsilon == limits.MOCK_EPSILON
    else:
        with pytest.raises(Malformed, match="the limit is 10"):
            verify(dataset(said(columns)))


def test_the_most_bytes() -> None:
    values = [
        f"{place:02}" + "v" * (limits.MARGINAL_VALUE_CHARS - 2) for place in range(limits.MARGINAL_BINS)
    ]

    def sized(count: int, last: int) -> dict[str, Any]:
        column = {"kind": "choice", "epsilon": 1, "missing": 0, "values": values, "counts": [0] * 65}
        short = {**column, "values": values[:last], "counts": [0] * (last + 1)}
        parts = [column] * count + [short]
        return said([{"column": f"c{place}", **part} for place, part in enumerate(parts)])

    fit = next(n for n in range(64, 0, -1) if len(canonical(sized(2, n))) <= limits.MARGINALS_BYTES)
    assert Marginals.model_validate_json(canonical(sized(2, fit)))
    with pytest.raises(ValidationError, match="fewer columns or fewer bins"):
        Marginals.model_validate_json(canonical(sized(2, fit + 1)))


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        ("int8", "whole"),
        ("uint64", "whole"),
        ("date32[day]", "whole"),
        ("timestamp[ns]", "whole"),
        ("float", "real"),
        ("halffloat", "real"),
        ("large_string", "choice"),
        ("dictionary<values=string, indices=int32, ordered=0>", "choice"),
        ("bool", "truth"),
        ("decimal128(5, 2)", None),
        ("integer", None),
        ("", None),
    ],
)
def test_which_histogram_a_type_has(type: str, kind: str | None) -> None:
    assert kind_of(type) == kind


@QUICK
@given(mutated(canonical(dataset(said()))))
def test_altered_bytes_are_refused_with_our_errors_or_have_one_form(data: bytes) -> None:
    try:
        found = statements.verify(dsse.sign(data, [KEY]))
    except MesateeError:
        return
    assert statements.payload(found.predicate) == data
