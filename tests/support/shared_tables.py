"""One data frame as the tables of several parties, by rows and by columns; and what outputs must never hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mesatee.table import Table

KEY = "person"


def by_rows(frame: pd.DataFrame, parties: int, seed: int = 0) -> dict[str, Table]:
    """Every row at one of the parties, in any order."""
    random = np.random.default_rng(seed)
    shuffled = frame.iloc[random.permutation(len(frame))]
    whose = random.integers(0, parties, len(frame))
    # By way of one table, so that a part without rows keeps its types.
    table = pa.Table.from_pandas(shuffled, preserve_index=False)
    return {f"p{number}": Table(table.filter(pa.array(whose == number))) for number in range(parties)}


def by_columns(frame: pd.DataFrame, parties: int, seed: int = 0) -> tuple[dict[str, Table], dict[str, str]]:
    """Every column at one of the parties, with people that only one knows; and the key of each."""
    random = np.random.default_rng(seed)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    ids = pa.array([f"é{number}" for number in range(len(frame))], pa.string())
    found, keys = {}, {}
    for number in range(parties):
        name = f"p{number}"
        mine = table.select(table.column_names[number::parties]).append_column(f"{KEY}{number}", ids)
        if len(frame):
            stranger = mine.slice(0, 1).drop_columns([f"{KEY}{number}"])
            stranger = stranger.append_column(f"{KEY}{number}", pa.array([f"only {name}"]))
            unknown = stranger.set_column(
                stranger.num_columns - 1, f"{KEY}{number}", pa.nulls(1, pa.string())
            )
            mine = pa.concat_tables([mine, stranger, unknown, unknown])
        found[name] = Table(mine.take(random.permutation(mine.num_rows)))
        keys[name] = f"{KEY}{number}"
    return found, keys


def everywhere(frame: pd.DataFrame, parties: int, seed: int = 0) -> list[dict[str, Any]]:
    """The arguments `inputs`, `how` and `key` for one party alone, and for several by rows and by columns."""
    tables, keys = by_columns(frame, parties, seed)
    one = Table(pa.Table.from_pandas(frame, preserve_index=False))
    return [
        {"inputs": {"only": one}},
        {"inputs": by_rows(frame, parties, seed), "how": "rows"},
        {"inputs": tables, "how": "columns", "key": keys},
    ]


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows as dicts; fails for a number that is none."""
    found = table.to_arrow().to_pylist()
    for row in found:
        for name, value in row.items():
            assert not (isinstance(value, float) and not math.isfinite(value)), name
    return found


def close(ours: float | None, theirs: float | None, relative: float = 1e-9, absolute: float = 1e-12) -> bool:
    """Whether two numbers agree; None agrees with what is no number."""
    if ours is None or theirs is None or not math.isfinite(theirs):
        return ours is None and (theirs is None or not math.isfinite(theirs))
    return math.isclose(ours, theirs, rel_tol=relative, abs_tol=absolute)
