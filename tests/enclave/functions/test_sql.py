"""SQL against SQLite, polars and what the standard says."""

from __future__ import annotations

import datetime
import math
import random
import sqlite3
from decimal import Decimal

import duckdb
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesatee.enclave.functions import _engine
from mesatee.enclave.functions._statement import FUNCTIONS
from mesatee.enclave.functions.sql import GROUP_SIZE, sql
from mesatee.errors import InputError, Malformed, TooLarge, Unavailable
from mesatee.protocol import limits
from mesatee.table import Table

QUERIES = [
    "SELECT * FROM a",
    "SELECT DISTINCT g FROM a",
    "SELECT g, COUNT(*) AS rows, COUNT(v) AS c, SUM(v) AS s, MIN(v) AS lo, MAX(v) AS hi FROM a GROUP BY g",
    "SELECT g, SUM(f) AS s, AVG(f) AS m FROM a GROUP BY g HAVING COUNT(*) > 1",
    "SELECT a.g, b.t, a.v FROM a JOIN b ON a.k = b.k",
    "SELECT a.k, b.t FROM a LEFT JOIN b ON a.k = b.k AND b.v > 0",
    "SELECT a.k AS x, b.k AS y FROM a FULL JOIN b ON a.k = b.k",
    "SELECT a.k AS x, b.k AS y FROM a JOIN b ON a.v < b.v",
    "SELECT COUNT(*) AS n FROM a CROSS JOIN b",
    "SELECT b.t, COUNT(DISTINCT a.g) AS n, SUM(a.v * b.v) AS s FROM a, b WHERE a.k = b.k GROUP BY b.t",
    "SELECT g FROM a WHERE k IN (SELECT k FROM b) AND g IS NOT NULL",
    "SELECT g FROM a WHERE k NOT IN (SELECT k FROM b WHERE k IS NOT NULL)",
    "SELECT v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k AND b.v > a.v)",
    "SELECT v FROM a WHERE v > (SELECT AVG(v) FROM a)",
    "SELECT g, (SELECT MAX(b.v) FROM b WHERE b.k = a.k) AS m FROM a",
    "SELECT k FROM a UNION SELECT k FROM b",
    "SELECT k FROM a UNION ALL SELECT k FROM b",
    "SELECT k FROM a INTERSECT SELECT k FROM b",
    "SELECT k FROM a EXCEPT SELECT k FROM b",
    "WITH s AS (SELECT k, SUM(v) AS v FROM b GROUP BY k) SELECT a.g, s.v FROM a JOIN s ON a.k = s.k",
    "SELECT g, v, SUM(v) OVER (PARTITION BY g) AS s, COUNT(*) OVER () AS n FROM a",
    "SELECT v, RANK() OVER (ORDER BY v NULLS LAST) AS r, DENSE_RANK() OVER (ORDER BY v NULLS LAST) AS d FROM a",
    "SELECT CASE WHEN v > 0 THEN 'plus' WHEN v < 0 THEN 'minus' ELSE 'other' END AS x, COUNT(*) AS n FROM a GROUP BY 1",
    "SELECT COALESCE(g, 'none') AS x, UPPER(g) AS u, LENGTH(g) AS l, g || '!' AS y FROM a",
    "SELECT SUM(v) FILTER (WHERE f > 0) AS s, COUNT(*) AS n FROM a",
    "SELECT MIN(g) AS lo, MAX(g) AS hi, SUM(v) AS s FROM a WHERE 1 = 0",
    "SELECT v FROM a ORDER BY v NULLS LAST LIMIT 2",
    "SELECT ABS(v) AS x, v * 2 + 1 AS y, -v AS z FROM a WHERE v BETWEEN -2 AND 2 AND f IS NOT NULL",
]
NUMBER = st.none() | st.integers(-3, 3)
WORD = st.none() | st.sampled_from(["a", "B", "", "z", "aa"])
# Quarters add up exactly, in any order.
QUARTER = st.none() | st.integers(-8, 8).map(lambda value: value / 4)
A = st.lists(st.tuples(NUMBER, WORD, NUMBER, QUARTER), max_size=12)
B = st.lists(st.tuples(NUMBER, WORD, NUMBER), max_size=8)
KINDS = {"k": pa.int64(), "g": pa.string(), "t": pa.string(), "v": pa.int64(), "f": pa.float64()}


def table(names, rows):
    columns = {name: pa.array([row[place] for row in rows], KINDS[name]) for place, name in enumerate(names)}
    return Table(pa.table(columns))


def plain(value):
    return float(value) if isinstance(value, (int, float, Decimal)) else value


def key(row):
    return [(value is None, str(type(value)), 0 if value is None else value) for value in row]


@pytest.mark.parametrize("query", QUERIES)
def test_it_gives_what_sqlite_gives(query):
    with sqlite3.connect(":memory:") as other:
        other.execute("CREATE TABLE a (k INTEGER, g TEXT, v INTEGER, f REAL)")
        other.execute("CREATE TABLE b (k INTEGER, t TEXT, v INTEGER)")

        @settings(deadline=None, max_examples=6)
        @given(A, B)
        def check(a, b):
            other.execute("DELETE FROM a")
            other.execute("DELETE FROM b")
            other.executemany("INSERT INTO a VALUES (?, ?, ?, ?)", a)
            other.executemany("INSERT INTO b VALUES (?, ?, ?)", b)
            expected = [tuple(map(plain, row)) for row in other.execute(query)]
            found = sql({"a": table("kgvf", a), "b": table("ktv", b)}, query=query)
            rows = [tuple(map(plain, row)) for row in zip(*found.to_dict().values(), strict=True)]
            assert sorted(rows, key=key) == sorted(expected, key=key)

        check()


@settings(deadline=None, max_examples=15)
@given(A, st.sampled_from(QUERIES), B, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_show(a, query, b, shuffled: random.Random):
    def run():
        return sql({"a": table("kgvf", a), "b": table("ktv", b)}, query=query).to_arrow()

    found = run()
    shuffled.shuffle(a)
    shuffled.shuffle(b)
    assert run().equals(found)


def test_order_by_is_kept_and_ties_are_the_same_each_time():
    rows = [{"v": value % 3, "w": value} for value in range(100)]
    expected = None
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        given_ = {"t": Table(pa.Table.from_pylist(rows))}
        found = sql(given_, query="SELECT v, w FROM t ORDER BY v DESC").to_dict()
        assert found["v"] == sorted(found["v"], reverse=True)
        first = sql(given_, query="SELECT v, w FROM t ORDER BY v LIMIT 3").to_dict()
        assert expected in (None, (found, first))
        expected = (found, first)
    assert sql(given_, query="SELECT w FROM t").to_dict()["w"] == list(range(100))


def test_floating_point_is_added_up_in_one_order():
    values = [1e16, 1.0, -1e16, 0.1] * 100
    found = set()
    for seed in range(3):
        random.Random(seed).shuffle(values)
        found.add(
            sql({"t": Table.from_dict({"x": values})}, query="SELECT SUM(x) AS s FROM t").to_dict()["s"][0]
        )
    assert len(found) == 1


def test_types():
    here = datetime.datetime(2024, 10, 27, 0, 30, tzinfo=datetime.UTC)
    given_ = {
        "t": Table(
            pa.table(
                {
                    "day": [datetime.date(2024, 2, 29), None],
                    "zone": pa.array([here, None], pa.timestamp("us", tz="Europe/Zurich")),
                    "naive": pa.array([here.replace(tzinfo=None), None], pa.timestamp("ms")),
                    "money": pa.array([Decimal("0.10"), Decimal("0.20")]),
                    "text": pa.array(["漢\U0001f600", None], pa.large_string()),
                    "code": pa.array(["x", None]).dictionary_encode(),
                    "view": pa.array(["y", None], pa.string_view()),
                    "flag": [True, None],
                    "big": pa.array([2**64 - 1, None], pa.uint64()),
                    "raw": [b"\0\1", None],
                    "small": pa.array([1, None], pa.int8()),
                }
            )
        )
    }
    found = sql(given_, query="SELECT * FROM t WHERE day = DATE '2024-02-29'").to_dict()
    assert found["zone"] == [here]
    assert found["text"] == ["漢\U0001f600"]
    assert (found["code"], found["view"], found["raw"]) == (["x"], ["y"], [b"\0\1"])
    query = """
        SELECT SUM(money) AS money, SUM(big) AS big, MAX(naive) + INTERVAL 1 DAY AS later,
            date_trunc('month', MAX(day)) AS month, extract(hour FROM MAX(zone)) AS hour, COUNT(flag) AS flags
        FROM t
    """
    assert sql(given_, query=query).to_dict() == {
        "money": [Decimal("0.30")],
        "big": [Decimal(2**64 - 1)],
        "later": [datetime.datetime(2024, 10, 28, 0, 30)],
        "month": [datetime.datetime(2024, 2, 1)],
        "hour": [0],
        "flags": [1],
    }
    # One instant, said in another zone.
    query = "SELECT COUNT(*) AS n FROM t WHERE zone = TIMESTAMPTZ '2024-10-27 02:30:00+02:00'"
    assert sql(given_, query=query).to_dict() == {"n": [1]}


@settings(deadline=None, max_examples=12)
@given(st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=1, max_size=30))
def test_figures_as_in_polars(values):
    given_ = {"t": Table(pa.table({"x": pa.array(values, pa.float64())}))}
    query = "SELECT MEDIAN(x) AS m, QUANTILE_CONT(x, 0.9) AS q, STDDEV(x) AS s, AVG(x) AS a FROM t"
    found = {name: column[0] for name, column in sql(given_, query=query).to_dict().items()}
    series = polars.Series(values, dtype=polars.Float64)
    expected = {
        "m": series.median(),
        "q": series.quantile(0.9, interpolation="linear"),
        "s": series.std(),
        "a": series.mean(),
    }
    for name, value in expected.items():
        assert (
            (found[name] is None)
            if value is None
            else found[name] == pytest.approx(value, rel=1e-6, abs=1e-6)
        ), name


def test_nan_and_both_zeros():
    given_ = {"t": Table(pa.table({"x": [0.0, -0.0, math.nan, -math.nan, 1.0, None]}))}
    found = sql(given_, query="SELECT x, COUNT(*) AS rows FROM t GROUP BY x").to_dict()
    assert found["rows"] == [2, 1, 2, 1]
    assert sql(given_, query="SELECT MAX(x) AS m FROM t").to_dict()["m"][0] != 0
    assert math.isnan(sql(given_, query="SELECT MAX(x) AS m FROM t").to_dict()["m"][0])


def test_integers_do_not_wrap():
    given_ = {"t": Table.from_dict({"x": [2**63 - 1, 1]})}
    assert sql(given_, query="SELECT SUM(x) AS s FROM t").to_dict() == {"s": [Decimal(2**63)]}
    with pytest.raises(Malformed, match="out of the range"):
        sql(given_, query="SELECT x + 1 AS y FROM t")


def test_names_and_the_column_that_says_how_large_groups_are():
    given_ = {"People": Table.from_dict({"Town": ["b", "a", "b"], "order": [1, 2, 3]})}
    query = 'SELECT town, COUNT(*) AS rows, SUM("order") AS s FROM people GROUP BY TOWN'
    found = sql(given_, query=query)
    assert GROUP_SIZE in found.columns
    assert found.to_dict() == {"Town": ["a", "b"], "rows": [1, 2], "s": [2, 4]}


def test_empty_inputs_and_results_keep_their_types():
    given_ = {"t": Table(pa.table({"x": pa.array([], pa.int64()), "s": pa.array([], pa.string())}))}
    found = sql(given_, query="SELECT x, s FROM t")
    assert found.num_rows == 0
    assert found.schema.types == [pa.int64(), pa.string()]


def test_lists_come_through_though_they_do_not_sort():
    given_ = {"t": Table.from_dict({"l": [[2], [1]], "x": [2, 1]})}
    assert sql(given_, query="SELECT x, l FROM t").to_dict() == {"x": [1, 2], "l": [[1], [2]]}


ONE = {"t": Table.from_dict({"x": [1, 2], "s": ["s3cr3t", "2"]})}


@pytest.mark.parametrize(
    ("inputs", "query", "said"),
    [
        (ONE, "SELECT nothing FROM t", "refused: .*nothing"),
        (ONE, "SELECT x FROM u", "refused: .*u"),
        (ONE, "SELECT x FROM t WHERE", "refused: .*yntax"),
        (ONE, "SELECT SUM(s) AS y FROM t", "refused: .*sum"),
        (ONE, "SELECT CAST(s AS INT) AS y FROM t", "failed while it ran: a value cannot be cast"),
        (ONE, "SELECT x FROM t WHERE s = 1", "failed while it ran: a value cannot be cast"),
        (ONE, "SELECT x, x FROM t", "called 'x'"),
        (ONE, "SELECT * FROM 'data.csv'", "something beside its inputs"),
        (ONE, 'SELECT * FROM "/etc/passwd"', "refused: .*does not exist"),
        (ONE, "SELECT * FROM t PIVOT", "refused"),
        (ONE, "SELECT * FROM ONE", "refused: .*does not exist"),
        (ONE | {"T": ONE["t"]}, "SELECT 1", "two inputs are called"),
        ({"t": Table.from_dict({"x": [1], "X": [1]})}, "SELECT 1", "two columns of t are called"),
        (
            {"t": Table(pa.Table.from_arrays([pa.array([1])] * 2, names=["x", "x"]))},
            "SELECT 1",
            "two columns of t",
        ),
    ],
)
def test_what_sql_refuses(inputs, query, said):
    with pytest.raises(Malformed, match=said):
        sql(inputs, query=query)


def test_no_value_of_the_data_is_in_a_message():
    # Far down, where the first rows of the result are through already.
    rows = {"s": ["1"] * 200_000 + ["s3cr3t"], "x": list(range(200_001))}
    for given_ in (ONE, {"t": Table.from_dict(rows)}):
        for query in (
            "SELECT CAST(s AS INT) AS y FROM t",
            "SELECT x * 9223372036854775807 AS y FROM t ORDER BY x",
        ):
            with pytest.raises(InputError) as found:
                sql(given_, query=query)
            assert "s3cr3t" not in found.value.message
            assert "9223372036854775807" not in found.value.message


def test_the_number_of_rows_is_bounded(monkeypatch):
    given_ = {"t": Table.from_dict({"x": [1, 2, 3]})}
    monkeypatch.setattr(limits, "JOIN_ROWS", 9)
    assert sql(given_, query="SELECT a.x, b.x AS y FROM t a, t b").num_rows == 9
    monkeypatch.setattr(limits, "JOIN_ROWS", 8)
    with pytest.raises(TooLarge, match="over 8 rows"):
        sql(given_, query="SELECT a.x, b.x AS y FROM t a, t b")


# -- the engine by itself, without the check of the text in front ----------------------------------------

ATTACKS = [
    "COPY t TO 'out.csv'",
    "CREATE TABLE u AS SELECT 1",
    "INSERT INTO t VALUES (1, 'x')",
    "ATTACH 'other.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 8",
    "SET enable_external_access = true",
    "PRAGMA version",
    "CALL pragma_version()",
    "EXPLAIN SELECT 1",
    "EXPORT DATABASE 'folder'",
    "SELECT 1; SELECT 2",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM variable_of_python",
]


@pytest.mark.parametrize("query", ATTACKS)
def test_the_engine_refuses_by_itself(query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variable_of_python = pa.table({"x": [1]})
    with pytest.raises(Malformed):
        _engine.run({"t": ONE["t"].to_arrow()}, query)
    assert variable_of_python.num_rows == 1
    assert list(tmp_path.iterdir()) == []


def test_the_controls_of_these_attacks_work_outside(tmp_path):
    """Else a typing error would pass for a refusal."""
    (tmp_path / "data.csv").write_text("x\n1\n", encoding="utf-8")
    variable_of_python = pa.table({"x": [1]})
    with duckdb.connect() as free:
        for query in (f"SELECT * FROM '{tmp_path}/data.csv'", "SELECT * FROM variable_of_python"):
            assert free.sql(query).fetchall() == [(1,)]
        free.execute(f"COPY (SELECT 1) TO '{tmp_path}/out.csv'")
    assert (tmp_path / "out.csv").exists()
    assert variable_of_python.num_rows == 1


def test_what_is_allowed_is_what_the_engine_calls_the_same_each_time():
    """A release of the engine that makes one of these functions volatile, or a table function, shows here."""
    query = "SELECT lower(function_name), function_type, stability FROM duckdb_functions()"
    with duckdb.connect() as free:
        found = [row for row in free.execute(query).fetchall() if row[0] in FUNCTIONS]
    assert {kind for _, kind, _ in found} <= {"scalar", "aggregate", "window", "macro", "table"}
    # The table function makes rows of its own arguments.
    assert {name for name, kind, _ in found if kind == "table"} <= {"repeat"}
    assert not [name for name, _, stability in found if stability == "VOLATILE"]
    # Syntax, not functions.
    assert FUNCTIONS - {name for name, _, _ in found} == {
        "coalesce",
        "grouping",
        "ifnull",
        "percentile_cont",
        "percentile_disc",
    }


def test_without_the_engine_it_says_which_package_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(Unavailable, match="duckdb") as found:
        sql(ONE, query="SELECT 1 AS x")
    assert "mesatee[sql]" in found.value.hint
