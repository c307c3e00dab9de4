"""What the tests of learners share: tables as data frames, models as documents, and runs on all ways to cut a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tests.support.shared_tables import everywhere

from mesatee.protocol import learned
from mesatee.table import Table


def table(frame: pd.DataFrame) -> Table:
    return Table(pa.Table.from_pandas(frame, preserve_index=False))


def one(frame: pd.DataFrame) -> dict[str, Table]:
    """As the only party's."""
    return {"only": table(frame)}


def column(found: Table, name: str) -> np.ndarray[Any, Any]:
    """NaN for null."""
    return np.array([np.nan if value is None else value for value in found[name].to_pylist()])


def agree(ours: Any, theirs: Any, relative: float = 1e-8, absolute: float = 1e-9) -> bool:
    """Whether two arrays are the same but for rounding; fails with both of them."""
    np.testing.assert_allclose(
        np.asarray(ours, float), np.asarray(theirs, float), rtol=relative, atol=absolute
    )
    return True


def the_same_everywhere(
    learner: Any, frame: pd.DataFrame, parties: int, cut: int = 0, **arguments: Any
) -> Any:
    """What a learner finds out, having made sure that it does not depend on who has which rows or columns."""
    found = [learner(**arguments, **given) for given in everywhere(frame, parties, cut)]
    for other in found[1:]:
        for name, value in found[0]._asdict().items():
            assert value == getattr(other, name), name
    learned.read(found[0].model)
    return found[0]
