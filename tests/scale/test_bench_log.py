"""The log's bench at a small size: the start that it measures is that of a gateway, and its rows are complete."""

from __future__ import annotations

import pytest

from mesatee.cli.bench import log

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_its_rows() -> None:
    said: list[str] = []
    rows = {row.metric: row for row in log.measure(True, said.append)}
    assert said
    assert set(rows) == {
        "start with a snapshot",
        "records under the snapshot compared",
        "start without a snapshot",
        "snapshot taken",
        "inclusion proof with its record",
        "consistency proof",
        "peak memory",
    }
    assert all(row.ours is not None and row.ours > 0 for row in rows.values())
    for row in rows.values():
        print(f"{row.metric}: {row.ours:.4g} {row.unit} ({row.note})")
