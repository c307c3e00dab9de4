"""What a query may say, before any engine reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.enclave.functions._statement import FUNCTIONS, REFUSED, checked
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT 1", False),
        ("select a.b, 'it''s; --', \"into\" from a order by 1", True),
        ("WITH x AS (SELECT a FROM t ORDER BY a LIMIT 3) SELECT * FROM x", False),
        ("SELECT row_number() OVER (PARTITION BY g ORDER BY v) AS n FROM t", False),
        ("SELECT 1 UNION ALL SELECT 2\nORDER\n BY 1;", True),
        ("SELECT 'x' AS order_by FROM t ; ", False),
        ("SELECT x::INT, a||b, a<>b, 1.5e-3, .5, COUNT(*) FROM t WHERE x IN (1, 2) AND NOT (y)", False),
        (
            "SELECT CAST(a AS DECIMAL(38, 0)), CASE WHEN (a) THEN (b) ELSE (c) END FROM (SELECT * FROM t) AS u",
            False,
        ),
        ("SELECT DATE '2020-01-01', percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FROM t", False),
        ("SELECT SUM(v) FILTER (WHERE v > 1) FROM t GROUP BY ROLLUP (g), GROUPING SETS ((a), (b))", False),
    ],
)
def test_queries_that_pass(query, ordered):
    found = checked(query)
    assert found.ordered is ordered
    assert ";" not in found.text.replace("'it''s; --'", "")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "is empty"),
        (" ;", "another beginning|second|is empty"),
        ("(SELECT 1)", "another beginning than"),
        ("FROM t", "another beginning than"),
        ("VALUES (1)", "another beginning than"),
        ("EXPLAIN SELECT 1", "another beginning than"),
        ("1", "another beginning than"),
        ("SELECT 1; SELECT 2", "second statement"),
        ("SELECT 1;; DROP TABLE t", "second statement"),
        ("SELECT 1; -- x", "second statement"),
        ("SELECT 1 -- x", "a comment"),
        ("SELECT /* x */ 1", "a comment"),
        ("SELECT 1 # x", "a comment"),
        ("SELECT * INTO u FROM t", "the word into"),
        ("WITH RECURSIVE t AS (SELECT 1) SELECT * FROM t", "the word recursive"),
        ("WITH x AS (DELETE FROM t) SELECT 1", "the word delete"),
        ("SELECT * FROM (DESCRIBE t) AS u", "the word describe"),
        ("SELECT * FROM t USING SAMPLE 3", "the word sample"),
        ("SELECT * FROM t TABLESAMPLE (3)", "the word tablesample"),
        ("SELECT current_timestamp", "the word current_timestamp"),
        ("SELECT CURRENT_USER", "the word current_user"),
        ("SELECT * FROM read_csv('/etc/passwd')", "function that may not be called: read_csv"),
        ("SELECT * FROM Read_Text ('/etc/passwd')", "function that may not be called"),
        ("SELECT * FROM \"read_csv\"('/etc/passwd')", "function that may not be called"),
        ("SELECT * FROM main.read_csv('/etc/passwd')", "function that may not be called"),
        ("SELECT '/etc/passwd'.read_text()", "function that may not be called"),
        ("SELECT * FROM python_arrow_scan(1, 2, 3)", "function that may not be called"),
        ("SELECT * FROM query('SELECT 1')", "function that may not be called"),
        ("SELECT random()", "function that may not be called"),
        ("SELECT now()", "function that may not be called"),
        ("SELECT getenv('HOME')", "function that may not be called"),
        ("SELECT unnest(x) FROM t", "function that may not be called"),
        ("WITH t(a) AS (SELECT 1) SELECT a FROM t", "function that may not be called"),
        ("SELECT * FROM duckdb_settings", "a table that is no input"),
        ('SELECT * FROM "duckdb_settings"', "a table that is no input"),
        ("SELECT * FROM information_schema.tables", "a table that is no input"),
        ("SELECT * FROM PG_CATALOG.pg_tables", "a table that is no input"),
        ("SELECT * FROM sqlite_master", "a table that is no input"),
        ("SELECT [1, 2]", "a sign that queries do not have"),
        ("SELECT {'a': 1}", "a sign that queries do not have"),
        ("SELECT $1", "a sign that queries do not have"),
        ("SELECT $$x$$", "a sign that queries do not have"),
        ("SELECT ?", "a sign that queries do not have"),
        ("SELECT `a` FROM t", "a sign that queries do not have"),
        ("SELECT @@version", "a sign that queries do not have"),
        ("SELECT 'x", "without its closing quote"),
        ('SELECT "x', "without its closing quote"),
        ("SELECT \0", "a sign that queries do not have"),
        ("SELECT \u00a01", "a sign that queries do not have"),
        ("SELECT é FROM t", "a sign that queries do not have"),
        ("SELECT E'\\'' || '", "has not ended"),
        ("SELECT x'00'", "has not ended"),
        ("SELECT 1a", "has not ended"),
        ("SELECT 'a'b", "has not ended"),
        ("SELECT (1", "lacks a closing bracket"),
        ("SELECT 1)", "not opened"),
    ],
)
def test_queries_that_are_refused(query, said):
    with pytest.raises(Malformed, match=said):
        checked(query)


def test_a_refusal_says_where():
    with pytest.raises(Malformed, match=r"\(line 2, column 14\)"):
        checked("SELECT 1\nFROM read_csv('x')")


@pytest.mark.parametrize("word", sorted(REFUSED))
def test_a_column_whose_name_is_refused_stands_in_quotes(word):
    with pytest.raises(Malformed, match=f"the word {word}"):
        checked(f"SELECT {word.upper()} FROM t")
    assert checked(f'SELECT "{word}" FROM t').text


def test_limits(monkeypatch):
    monkeypatch.setattr(limits, "SQL_CHARS", 12)
    assert checked("SELECT 12345").text
    with pytest.raises(TooLarge, match="13 characters"):
        checked("SELECT 123456")
    monkeypatch.undo()
    monkeypatch.setattr(limits, "SQL_WORDS", 4)
    assert checked("SELECT 1, 2").text
    with pytest.raises(TooLarge, match="over 4 words"):
        checked("SELECT 1, 2,")
    monkeypatch.undo()
    depth = limits.SQL_DEPTH
    assert checked("SELECT " + "(" * depth + "1" + ")" * depth).text
    with pytest.raises(TooLarge, match="open brackets"):
        checked("SELECT " + "(" * (depth + 1) + "1" + ")" * (depth + 1))


TOKENS = [
    "SELECT",
    "WITH",
    "a",
    '"a"',
    "'a'",
    "(",
    ")",
    ";",
    ",",
    "--",
    "/*",
    "*/",
    "1",
    "'",
    '"',
    "\0",
    "é",
    "ORDER",
    "BY",
]


@given(st.text() | st.lists(st.sampled_from([*TOKENS, " "]), max_size=20).map("".join))
def test_any_text_is_a_query_or_one_of_our_errors(text):
    try:
        found = checked(text)
    except InputError:
        return
    assert text.startswith(found.text)
    assert found.text.split()[0].lower().startswith(("select", "with"))


def test_no_function_that_reads_files_or_tells_the_time_is_allowed():
    assert not FUNCTIONS & {
        "now",
        "today",
        "random",
        "uuid",
        "age",
        "glob",
        "query",
        "range",
        "generate_series",
        "hash",
    }
    assert not [
        name
        for name in FUNCTIONS
        if name.startswith(("read_", "current_", "duckdb", "pragma", "parquet", "json"))
    ]
