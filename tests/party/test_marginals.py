"""What an owner publishes of its rows: bins that no row can move, and exactly the promise of differential privacy."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.party import Identity, data, marginals
from mesatee.party.marginals import Plan, edges, histogram, measure
from mesatee.protocol import limits
from mesatee.protocol.marginals import SENSITIVITY
from mesatee.table import Table

VALUES = [None, -5, 0, 4, 9, 50]
SHAPE = {"kind": "whole", "low": 0, "high": 9, "counts": (0, 0)}


def below(seed: int) -> Any:
    return random.Random(seed).randrange


def counts(values: list[Any], shape: dict[str, Any] = SHAPE, type: str = "int64") -> list[int]:
    return histogram(Table.from_dict({"x": pa.array(values, pa.int64())})["x"], type, shape)


def neighbours(rows: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """All pairs of tables of so many rows that differ in one."""
    for table in itertools.product(VALUES, repeat=rows):
        for place, other in itertools.product(range(rows), VALUES):
            yield list(table), [*table[:place], other, *table[place + 1 :]]


def mass(value: int, scale: Fraction) -> float:
    step = math.exp(1 / scale)
    return (step - 1) / (step + 1) * math.exp(-abs(value) / scale)


def cut_mass(value: int, exact: int, rows: int, scale: Fraction) -> float:
    """The probability that a count of `exact` is published as `value`, after it was cut to 0..rows."""
    if 0 < value < rows:
        return mass(value - exact, scale)
    far = exact - value if value == 0 else value - exact
    # All noise at least so far out: a geometric series.
    return mass(far, scale) / (1 - math.exp(-1 / scale))


@pytest.mark.parametrize("epsilon", [100_000, 1_000_000, 3_000_000])
def test_what_neighbouring_tables_publish_is_within_exp_epsilon(epsilon: int) -> None:
    """All tables of two rows, all of their neighbours, all outputs, computed exactly."""
    rows, scale = 2, Fraction(SENSITIVITY * limits.EPSILON_UNIT, epsilon)
    bound = math.exp(epsilon / limits.EPSILON_UNIT) * (1 + 1e-9)
    largest, seen = 0.0, {}
    for one, other in neighbours(rows):
        pair = (tuple(counts(one)), tuple(counts(other)))
        seen[pair] = None
    for first, second in seen:
        for output in itertools.product(range(rows + 1), repeat=len(first)):
            chance = [
                math.prod(cut_mass(o, exact, rows, scale) for o, exact in zip(output, table, strict=True))
                for table in (first, second)
            ]
            largest = max(largest, chance[0] / chance[1])
    assert largest <= bound
    # The promise is used up, so a smaller scale would break it: this test can fail.
    assert largest > math.exp(0.9 * epsilon / limits.EPSILON_UNIT)
    assert math.isclose(sum(cut_mass(o, 1, 2, scale) for o in range(3)), 1)


def test_one_row_moves_a_histogram_by_two_at_most() -> None:
    moved = set()
    for one, other in neighbours(3):
        moved.add(sum(abs(a - b) for a, b in zip(counts(one), counts(other), strict=True)))
    assert moved == {0, SENSITIVITY}


def test_bins_do_not_follow_from_the_data() -> None:
    """Attack: tables with nothing in common, extreme values among them, get the same bins, values and bounds."""
    plan = Plan.parse("1", ranges=["n=0:100:5", "x=0:1"], values=["t=a,b"], missing=["when"])
    tables = [
        Table.from_dict(
            {
                "n": pa.array(numbers, pa.int64()),
                "x": pa.array(reals, pa.float64()),
                "t": texts,
                "when": pa.array([None, None], pa.date32()),
            }
        )
        for numbers, reals, texts in (
            ([1, 2], [0.5, 0.6], ["a", "b"]),
            ([-(2**60), 2**62], [-math.inf, 1e308], ["CANARY-7731", "z" * 5_000]),
            ([None, None], [math.nan, None], [None, "a"]),
        )
    ]
    shapes = []
    for table in tables:
        found = measure(table, plan, below(1)).model_dump(mode="json")
        for item in found["columns"]:
            item["counts"] = len(item["counts"])
            del item["missing"]
        shapes.append(found)
    assert shapes[0] == shapes[1] == shapes[2]
    assert "CANARY" not in str(shapes)


def test_a_range_cannot_be_left_to_the_data() -> None:
    for text in ("age", "age=", "age=auto", "age=min:max", "age=:"):
        with pytest.raises(Malformed):
            measure(Table.from_dict({"age": [1, 2]}), Plan.parse("1", ranges=[text]))


def test_each_kind_is_counted() -> None:
    noon = datetime(2024, 1, 2, 12, tzinfo=UTC)
    table = Table.from_dict(
        {
            "n": [0, 9, 10, -1, None],
            "x": pa.array([0.0, 0.5, 1.0, 7.0, None]),
            "t": ["f", "m", "x", None, "f"],
            "b": [True, False, None, True, True],
            "d": [date(2024, 1, 1), date(2024, 1, 2), None, date(1900, 1, 1), date(2024, 1, 2)],
            "w": pa.array([noon, noon, None, noon, noon], pa.timestamp("us", "UTC")),
            "c": pa.array(["f", "m", "m", None, "f"]).dictionary_encode(),
            "u": pa.array([b"", None, None, b"", b""]),
        }
    )
    plan = Plan.parse(
        "8",
        ranges=["n=0:9:2", "x=0:1:2", "d=2024-01-01:2024-01-02:2", "w=2024-01-01T00:00..2024-01-03T00:00/2"],
        values=["t=f,m", "c=m"],
        missing=["u"],
    )

    exact = {}
    for item in measure(table, plan, below(3)).columns:
        shape = item.model_dump(include={"kind", "low", "high", "values", "counts"})
        exact[item.column] = histogram(table[item.column], str(table.schema.field(item.column).type), shape)
    assert set(exact) == set(table.columns)
    assert exact == {
        "n": [1, 2, 2],
        "x": [1, 1, 3],
        "t": [1, 2, 1, 1],
        "b": [1, 1, 3],
        "d": [1, 2, 2],
        "w": [1, 0, 4],
        "c": [1, 2, 2],
        "u": [2, 3],
    }


def test_epsilon_is_split_evenly_and_noise_has_its_scale() -> None:
    table = Table.from_dict({"a": [1] * 4_000, "b": [1] * 4_000, "ok": [True] * 4_000, "silent": [1] * 4_000})
    plan = Plan.parse("0.9", ranges=["a=0:1000:60", "b=0:1000:60"])
    found = measure(table, plan, below(5))
    assert [(item.column, item.epsilon) for item in found.columns] == [
        ("a", 300_000),
        ("b", 300_000),
        ("ok", 300_000),
    ]
    # Of empty bins half of the noise is cut off at 0; the mean of the rest is that of scale 2 / 0.3.
    tail = [count for item in found.columns[:2] for count in item.counts[1:]]
    scale = 2 / 0.3
    expected = math.exp(-1 / scale) / (1 - math.exp(-2 / scale))
    assert abs(sum(tail) / len(tail) - expected) < 4 * scale / math.sqrt(len(tail))
    words = " ".join(marginals.explain(found, table.columns))
    assert "epsilon 0.9 in all" in words
    assert "nothing was counted of silent" in words


def test_counts_are_cut_to_what_a_table_of_this_length_can_have() -> None:
    table = Table.from_dict({"a": [1]})
    for seed in range(30):
        found = measure(table, Plan.parse("0.000002", ranges=["a=0:9"]), below(seed))
        assert all(0 <= count <= 1 for count in (found.columns[0].missing, *found.columns[0].counts))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranges": ["no=0:1"]}, "no column 'no'"),
        ({"ranges": ["t=0:1"]}, "does not fit the column 't'"),
        ({"values": ["n=1,2"]}, "does not fit the column 'n'"),
        ({"ranges": ["n=1.5:2"]}, "'1.5' is no bound"),
        ({"ranges": ["n=9:0"]}, "ends before it begins"),
        ({"ranges": ["n=0:9:65"]}, "at most 64 bins"),
        ({"ranges": ["n=0:9:0"]}, "at most 64 bins"),
        ({"ranges": [f"n=0:{2**53 + 1}"]}, "beyond"),
        ({"ranges": ["n=0:9"], "missing": ["n"]}, "named twice"),
        ({"values": ["t=a,a"]}, "named once"),
        ({"values": ["t=" + "a" * 65]}, "at most 64 characters"),
        ({}, "no column is named"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, list[str]], words: str) -> None:
    with pytest.raises(Malformed, match=words):
        measure(Table.from_dict({"n": [1], "t": ["a"]}), Plan.parse("1", **options))


@pytest.mark.parametrize("epsilon", ["0", "-1", "10.000001", "nan", "inf", "much", "0.0000001", ""])
def test_an_epsilon_that_is_none_is_refused(epsilon: str) -> None:
    with pytest.raises(Malformed, match="epsilon is"):
        Plan.parse(epsilon, missing=["a"])


def test_the_largest_and_the_smallest_epsilon() -> None:
    assert Plan.parse("10").epsilon == limits.MOCK_EPSILON
    assert Plan.parse("0.000001").epsilon == 1
    with pytest.raises(TooLarge, match="too small to be split"):
        measure(Table.from_dict({"a": [1], "b": [1]}), Plan.parse("0.000001", missing=["a", "b"]))


def test_sealing_counts_and_a_file_without_columns_cannot(alice: Identity, tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("age\n30\n41\n")
    plan = Plan.parse("1", ranges=["age=0:120"])
    made = data.seal(alice, source, plan=plan)
    assert made.shape.marginals is not None
    assert made.shape.marginals.columns[0].column == "age"
    again = data.sealed_file(alice, made.path, plan=plan)
    assert again.shape.marginals is not None
    assert data.seal(alice, source, tmp_path / "plain.age").shape.marginals is None
    with pytest.raises(InputError, match="nothing to count"):
        data.seal(alice, b"[]", tmp_path / "j.age", format="json", plan=plan)


@given(st.integers(-1000, 1000), st.integers(1, 300), st.integers(1, 64))
def test_bins_of_integers_are_equal_and_cover_the_range(low: int, width: int, bins: int) -> None:
    bins = min(bins, width)
    found = edges(low, low + width - 1, bins, whole=True)
    sizes = [int(after - before) for before, after in itertools.pairwise(found)]
    assert (found[0], found[-1], sum(sizes)) == (low, low + width, width)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_bins_of_numbers_are_exactly_equal() -> None:
    assert edges(0.0, 1.0, 3, whole=False) == [0, Fraction(1, 3), Fraction(2, 3), 1]
