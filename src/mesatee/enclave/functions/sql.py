"""One SELECT over the inputs, by DuckDB in the sandbox (ADR 18)."""

from __future__ import annotations

from typing import Final

from mesatee.enclave.functions import _engine
from mesatee.enclave.functions._order import ordered
from mesatee.enclave.functions._statement import checked
from mesatee.errors import Malformed
from mesatee.table import Table

GROUP_SIZE: Final = "rows"
"""The column of the result that says of how many rows each of its rows was made, if the query makes one."""


def sql(inputs: dict[str, Table], *, query: str) -> Table:
    """Run one SQL query over tables that are named like the inputs.

    `query` is one SELECT, which may begin with WITH: joins, filters, GROUP BY, HAVING, window functions, set
    operations and subqueries, in the dialect of DuckDB. Other statements, comments, recursive queries, samples,
    lists and table functions are refused, and so is every function that docs/tables.md does not name. Upper and
    lower case do not differ in names. A name that is a word of SQL, or not plain ASCII, stands in double quotes.

    Null is as in SQL. NaN equals itself, and is larger than all numbers. Integers that overflow end the query;
    sums of integers are exact, and have 38 digits. Floating point is added up in the order of the rows, which does
    not depend on the inputs' (below). Times with a zone are instants, and come out in UTC.

    The result is a function of the inputs' rows and not of their order: they are sorted by all columns but
    lists and structs before the query sees them. The result is sorted by its columns, null last, unless the
    outermost query has an ORDER BY. Results of over `JOIN_ROWS` rows are refused (docs/limits.md), and two
    columns of one name: use AS.

    Which rows are touched shows in the accesses to memory of whoever watches the processor. Needs the extra
    ``sql`` where functions run.

    Reveals to the receivers of the output: whatever the query selects, which may be whole rows. Read it before
    you approve a task, as you would read a function. Policies see the sizes of groups only in a column
    ``rows``, that is, if the query has a GROUP BY outermost and selects ``COUNT(*) AS rows``; nothing checks
    that it counts what it says. Reveals to the receivers of `diagnostics`: what the message of a failed run
    says, which names tables, columns and types, and what kind of failure ended the query.
    """
    statement = checked(query)
    given = dict(sorted(inputs.items()))
    _check_names("inputs are", list(given))
    for name, table in given.items():
        _check_names(f"columns of {name} are", table.columns)
    found = _engine.run({name: ordered(table).to_arrow() for name, table in given.items()}, statement.text)
    names = found.column_names
    for name in names:
        if names.count(name) > 1:
            raise Malformed(f"two columns of the result are called {name!r}: name them by AS")
    return Table(found) if statement.ordered else ordered(Table(found))


def _check_names(what: str, names: list[str]) -> None:
    """Raises `Malformed` where a query could not tell two names apart."""
    seen = set()
    for name in names:
        if name.casefold() in seen:
            raise Malformed(f"two {what} called {name!r}, without upper and lower case")
        seen.add(name.casefold())
