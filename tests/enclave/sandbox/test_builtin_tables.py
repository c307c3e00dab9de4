"""The built-in functions on tables in real children."""

from __future__ import annotations

import pytest

from mesatee.enclave.sandbox import Limits, OutputSpec

PEOPLE = ("csv", b"id,town,age\n1,Bern,30\n2,Chur,41\n3,Bern,52\n")
BILLS = ("csv", b"id,cost\n2,5.5\n3,1.25\n3,2.25\n9,1\n")
BOTH = {"people": PEOPLE, "bills": BILLS}
CSV = OutputSpec("csv")


def test_join(run_builtin):
    result = run_builtin("join", BOTH, CSV, key="id", columns={"people": ["town"], "bills": ["cost"]})
    assert result.failure is None, result.text
    assert result.outputs["result"] == b'"id","cost","town"\n2,5.5,"Chur"\n3,1.25,"Bern"\n3,2.25,"Bern"\n'
    assert "bills: 4 rows, 0 with nulls in the key" in result.text


def test_an_oblivious_join(run_builtin):
    rows = b"id,v\n" + b"".join(b"%d,x%d\n" % (number, number) for number in range(70_000))
    inputs = {"a": ("csv", rows), "b": ("csv", b"id,w\n69999,1\n7,2\n70000,3\n")}
    result = run_builtin("join", inputs, CSV, key="id", leakage="oblivious")
    assert result.failure is None, result.text
    assert result.outputs["result"] == b'"id","v","w"\n7,"x7",2\n69999,"x69999",1\n'


def test_aggregate(run_builtin):
    args = {"key": "id", "by": "town", "measures": {"cost": ["sum", "q0.5"]}, "where": [["age", ">", 29]]}
    result = run_builtin("aggregate", BOTH, CSV, **args)
    assert result.failure is None, result.text
    assert (
        result.outputs["result"]
        == b'"town","rows","cost_sum","cost_q0.5"\n"Bern",2,3.5,1.75\n"Chur",1,5.5,5.5\n'
    )
    assert result.text == ""


QUERY = "SELECT town, COUNT(*) AS rows, SUM(cost) AS cost FROM people JOIN bills ON people.id = bills.id GROUP BY town"


def test_sql(run_builtin):
    result = run_builtin("sql", BOTH, CSV, query=QUERY)
    assert result.failure is None, result.text
    assert result.outputs["result"] == b'"town","rows","cost"\n"Bern",2,3.5\n"Chur",1,5.5\n'
    assert result.text == ""


TIGHT = Limits(seconds=60, cpu_seconds=2, memory_bytes=192 * 2**20, output_bytes=2**16)
BOMBS = {
    "time": (
        "SELECT COUNT(*) AS n FROM big a, big b, big c WHERE a.id + b.id < c.id",
        {"out_of_cpu"},
    ),
    "rows": ("SELECT a.id, b.id AS x, c.id AS y FROM big a, big b, big c", {"bad_input", "out_of_memory"}),
    "memory of groups": (
        "SELECT a.id, b.id AS x, COUNT(*) AS n FROM big a, big b, big c GROUP BY a.id, b.id",
        {"out_of_memory"},
    ),
    "memory of a value": (
        "SELECT length(repeat(repeat('x', 1000000), id)) AS n FROM big",
        {"out_of_memory", "crashed"},
    ),
    "output": ("SELECT a.id, b.id AS x FROM big a, big b WHERE a.id < 100", {"output_too_large"}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_queries_without_end_end_with_a_code(run_builtin, name):
    query, failures = BOMBS[name]
    big = ("csv", b"id\n" + b"".join(b"%d\n" % number for number in range(3_000)))
    result = run_builtin("sql", {"big": big}, CSV, TIGHT, query=query)
    assert result.failure in failures, result.text


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow"])
def test_the_same_bytes_twice(run_builtin, format):
    one, two = (run_builtin("join", BOTH, OutputSpec(format), key="id", how="left") for _ in range(2))
    assert one.failure is None, one.text
    assert one.outputs == two.outputs


def test_a_join_bomb_ends_with_a_code(run_builtin):
    rows = ("csv", b"id\n" + b"1\n" * 10_000)
    result = run_builtin("join", {"a": rows, "b": rows}, CSV, key="id", many="multiply")
    assert result.failure == "bad_input"
    assert "rows" in result.text


@pytest.mark.parametrize(
    ("name", "args", "failure"),
    [
        ("join", {"key": "no"}, "bad_input"),
        ("join", {"key": "id", "how": "outer"}, "bad_input"),
        ("join", {"key": 1}, "bad_argument"),
        ("join", {}, "bad_argument"),
        ("sql", {"query": "SELECT nothing FROM people"}, "bad_input"),
        ("sql", {"query": "SELECT CAST(town AS INT) AS x FROM people"}, "bad_input"),
        ("sql", {"query": "COPY people TO '/tmp/x'"}, "bad_input"),
        ("sql", {"query": 1}, "bad_argument"),
        ("aggregate", {}, "bad_input"),
        ("aggregate", {"key": "id", "measures": {"town": "sum"}}, "bad_input"),
        ("aggregate", {"key": "id", "where": [1]}, "bad_argument"),
    ],
)
def test_failures(run_builtin, name, args, failure):
    result = run_builtin(name, BOTH, CSV, **args)
    assert result.failure == failure
    assert "mesatee" in result.text
