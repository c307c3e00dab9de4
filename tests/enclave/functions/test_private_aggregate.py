"""Noisy counts and sums: exact without noise, bounded in what one row can change, and noisy as they say."""

from __future__ import annotations

import datetime
import math
from fractions import Fraction
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions import private_aggregate as module
from mesatee.enclave.functions.private_aggregate import private_aggregate
from mesatee.errors import Malformed
from mesatee.table import Table

SEED = {"noise": "5a" * 32}
CITIES = ("Bern", "Genève", "Zürich")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise: what is left must be exact."""
    monkeypatch.setattr(module, "discrete_laplace", lambda scale, below: 0)


ROW = st.tuples(
    st.none() | st.sampled_from([*CITIES, "Basel"]),
    st.none() | st.integers(-20, 200),
    st.none() | st.floats(-5, 5) | st.just(math.nan),
)
ROWS = st.lists(ROW, max_size=12)


def people(rows: list[Any]) -> Table:
    return Table(
        pa.table(
            {
                "city": pa.array([row[0] for row in rows], pa.string()),
                "age": pa.array([row[1] for row in rows], pa.int16()),
                "score": pa.array([row[2] for row in rows], pa.float64()),
            }
        )
    )


ASKED: dict[str, Any] = {
    "by": "city",
    "groups": list(CITIES),
    "sums": {"age": [0, 100], "score": [-1.0, 2.0]},
    "where": SEED,
}


@pytest.mark.usefixtures("silent")
@settings(deadline=None, max_examples=80)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_without_noise_it_is_what_polars_says(parties: list[Any]) -> None:
    found = private_aggregate(
        {f"p{number}": people(rows) for number, rows in enumerate(parties)}, epsilon=1.0, **ASKED
    ).to_dict()
    frame = pl.concat([pl.from_arrow(people(rows).to_arrow()) for rows in parties])  # type: ignore[type-var]
    wanted = frame.with_columns(
        pl.col("age").cast(pl.Int64).clip(0, 100).fill_null(0),
        pl.col("score").fill_nan(None).clip(-1.0, 2.0).fill_null(0),
    )
    for place, city in enumerate(CITIES):
        here = wanted.filter(pl.col("city") == city)
        assert found["rows"][place] == here.height
        assert found["age_sum"][place] == int(here["age"].sum())
        assert found["score_sum"][place] == pytest.approx(here["score"].sum(), abs=here.height * 3 / 2**20)
        assert found["age_mean"][place] == (here["age"].mean() if here.height else None)
    assert found["city"] == list(CITIES)


@pytest.mark.usefixtures("silent")
@settings(deadline=None, max_examples=80)
@given(ROWS, ROW)
def test_one_row_changes_no_figure_by_more_than_the_noise_covers(rows: list[Any], more: Any) -> None:
    before = private_aggregate({"x": people(rows)}, epsilon=1.0, **ASKED).to_dict()
    after = private_aggregate({"x": people([*rows, more])}, epsilon=1.0, **ASKED).to_dict()
    for name, most in (("rows", 1), ("age_sum", 100), ("score_sum", 2.0)):
        moved = [abs(one - other) for one, other in zip(before[name], after[name], strict=True)]
        # Groups have no row in common: one of them moves, at most.
        assert sum(change > 1e-12 for change in moved) <= 1
        # A bound that is no whole number of steps is moved to the nearest one, and the noise covers that.
        assert max(moved) <= most + 3 / 2**20


def test_noise_has_the_scale_that_was_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Fraction] = []
    monkeypatch.setattr(module, "discrete_laplace", lambda scale, below: drawn.append(scale) or 0)
    private_aggregate({"x": people([("Bern", 1, 1.0)])}, epsilon=0.3, **ASKED)
    counts, ages, scores = drawn[:3], drawn[3:6], drawn[6:9]
    assert counts == [Fraction(1, 1) / Fraction(1, 10)] * 3
    assert ages == [Fraction(100) / Fraction(1, 10)] * 3
    # In steps of a millionth of the range, of which the larger bound has two thirds.
    assert scores == [Fraction(round(2 * 2**20 / 3)) / Fraction(1, 10)] * 3
    assert len(drawn) == 9


def test_the_same_seed_gives_the_same_noise_and_another_one_does_not() -> None:
    def ask(seed: str) -> dict[str, Any]:
        return private_aggregate(
            {"x": people([])}, epsilon=0.01, **{**ASKED, "where": {"noise": seed}}
        ).to_dict()

    assert ask("01" * 32) == ask("01" * 32) != ask("02" * 32)
    free = [
        private_aggregate({"x": people([])}, epsilon=0.01, **{**ASKED, "where": {}}).to_dict() for _ in "ab"
    ]
    assert free[0] != free[1]


def test_noise_is_there_and_symmetric() -> None:
    groups = list(range(2000))
    table = Table(pa.table({"k": pa.array([], pa.int64())}))
    found = private_aggregate({"x": table}, epsilon=1.0, by="k", groups=groups, where=SEED).to_dict()["rows"]
    # Discrete Laplace of scale 1: zero in 0.462 of all draws, and of variance 1.84.
    assert 0.42 < sum(count == 0 for count in found) / len(found) < 0.51
    assert abs(sum(found)) / len(found) < 0.15
    assert 1.5 < sum(count * count for count in found) / len(found) < 2.2


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("kind", "values", "groups"),
    [
        (pa.int8(), [1, 2, 2, None], [2, 1, 300000]),
        (pa.bool_(), [True, False, None, True], [True, False]),
        (pa.date32(), [datetime.date(2024, 1, 1), None], ["2024-01-01", "2024-01-02"]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", "b", None, "a"], ["a", "c"]),
        (pa.float64(), [0.5, 1.0, None], [0.5, 1.0]),
    ],
    ids=["int8", "bool", "date", "dictionary", "float"],
)
def test_groups_of_other_types(kind: Any, values: list[Any], groups: list[Any]) -> None:
    table = Table(pa.table({"k": pa.array(values, kind)}))
    if 300000 in groups:
        with pytest.raises(Malformed, match="do not fit the column"):
            private_aggregate({"x": table}, epsilon=1.0, by="k", groups=groups, where=SEED)
        groups = groups[:2]
    found = private_aggregate({"x": table}, epsilon=1.0, by="k", groups=groups, where=SEED).to_dict()["rows"]
    said = [str(value) if isinstance(value, datetime.date) else value for value in values]
    assert found == [said.count(group) for group in groups]


@pytest.mark.usefixtures("silent")
def test_groups_of_several_columns() -> None:
    table = Table.from_dict({"a": ["x", "x", "y", None], "b": [1, 2, 1, 1]})
    asked = [["y", 1], ["x", 2], ["x", 3]]
    found = private_aggregate({"p": table}, epsilon=1.0, by=["a", "b"], groups=asked, where=SEED).to_dict()
    assert found == {"a": ["y", "x", "x"], "b": [1, 2, 3], "rows": [1, 1, 0]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0.0}, "above 0"),
        ({"epsilon": 1e-6}, "too small to be split over 3"),
        ({"by": ["city", "city"], "groups": [["a", "b"]]}, "different columns"),
        ({"groups": []}, "may not come from the data"),
        ({"by": [], "groups": ["Bern"]}, "names none"),
        ({"groups": ["Bern", "Bern"]}, "asked for twice"),
        ({"groups": [["Bern", "Genève"]]}, "one value for each"),
        ({"groups": [None]}, "one value for each"),
        ({"groups": [{}]}, "one value for each"),
        ({"groups": [str(number) for number in range(10_001)]}, "at most 10000 groups"),
        ({"by": "town"}, "no columns 'town'"),
        ({"sums": {"city": [0, 1]}}, "has no numbers"),
        ({"sums": {"age": [0]}}, "least and its largest"),
        ({"sums": {"age": [1, 1]}}, "below the largest"),
        ({"sums": {"age": [0, math.inf]}}, "least and its largest"),
        ({"sums": {"age": [0, True]}}, "least and its largest"),
        ({"sums": {"wage": [0, 1]}}, "no columns 'wage'"),
        ({"sums": {"score": [1e9, 1e9 + 0.1]}}, "too far from 0"),
    ],
)
def test_what_it_cannot_answer_it_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed, match=said):
        private_aggregate({"x": people([("Bern", 1, 1.0)])}, **{"epsilon": 1.0, **ASKED, **changes})
    with pytest.raises(Malformed, match="one or more inputs"):
        private_aggregate({}, epsilon=1.0, **ASKED)
