"""Counts by two columns, against pandas."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.datasets import load_gbsg2
from tests.support.shared_tables import close, everywhere, rows_of

from mesatee.enclave.functions import _contingency
from mesatee.enclave.functions.crosstab import SHARES, crosstab
from mesatee.errors import Malformed
from mesatee.table import Table

TEXT = st.none() | st.sampled_from(["", "a", "B", "é", "漢"])
NUMBER = st.none() | st.integers(-2, 3)
NORMALIZE = {"all": "all", "row": "index", "column": "columns"}


def table(**columns):
    return Table(pa.table(columns))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(TEXT, NUMBER), max_size=30), st.integers(2, 8), st.sampled_from(SHARES))
def test_it_is_what_pandas_says(rows, parties, share):
    frame = pd.DataFrame(rows, columns=["t", "n"]).astype({"t": "string", "n": "Int64"})
    theirs = pd.crosstab(frame["t"], frame["n"])
    shares = (
        pd.crosstab(frame["t"], frame["n"], normalize=NORMALIZE[share])
        if share != "none" and len(theirs)
        else None
    )
    values = [(t, n) for t in sorted(theirs.index, key=str.encode) for n in sorted(theirs.columns)]
    for arguments in everywhere(frame, parties):
        found = rows_of(crosstab(row="t", column="n", share=share, **arguments))
        assert [(row["row"], row["column"]) for row in found] == values
        for row in found:
            assert row["rows"] == theirs.loc[row["row"], row["column"]]
            assert shares is None or close(row["share"], shares.loc[row["row"], row["column"]])


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(TEXT, NUMBER), max_size=30))
def test_nulls_may_count_as_a_value(rows):
    frame = pd.DataFrame(rows, columns=["t", "n"]).astype({"t": "string", "n": "Int64"})
    for arguments in everywhere(frame, 2):
        found = rows_of(crosstab(row="t", column="n", nulls=True, **arguments))
        assert {(row["row"], row["column"]): row["rows"] for row in found if row["rows"]} == {
            pair: rows.count(pair) for pair in rows
        }
        assert [row["row"] for row in found] == sorted(
            (row["row"] for row in found), key=lambda text: (text is None, (text or "").encode())
        )


def test_real_data_by_party():
    frame = load_gbsg2()
    tables = {"north": frame[:300], "south": frame[300:]}
    inputs = {name: Table.from_pandas(part) for name, part in tables.items()}
    found = rows_of(crosstab(inputs, row="input", column="tgrade"))
    assert [(row["row"], row["column"], row["rows"]) for row in found] == [
        (name, grade, int((part["tgrade"] == grade).sum()))
        for name, part in tables.items()
        for grade in ("I", "II", "III")
    ]


def test_rows_with_nulls_are_counted_in_diagnostics(capsys):
    found = crosstab({"a": table(x=["u", None, "v"], y=[None, 1, 2])}, row="x", column="y")
    assert found.to_dict() == {"row": ["v"], "column": [2], "rows": [1]}
    assert "1 rows used, 2 left out because of nulls" in capsys.readouterr().err


def test_what_is_refused():
    one = {"a": table(x=list(range(400)), y=list(range(400)))}
    with pytest.raises(Malformed, match="different columns"):
        crosstab(one, row="x", column="x")
    with pytest.raises(Malformed, match="share is one of"):
        crosstab(one, row="x", column="y", share="both")
    with pytest.raises(Malformed, match="over 100000 cells"):
        crosstab(one, row="x", column="y")
    most = {"a": table(x=[n % 250 for n in range(1000)], y=[n % 400 for n in range(1000)])}
    assert crosstab(most, row="x", column="y").num_rows == _contingency.CELLS
