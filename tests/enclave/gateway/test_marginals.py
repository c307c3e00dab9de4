"""The gateway on datasets with marginals: those that fit enter the log, forged ones do not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.gateway import World, seal

from mesatee.errors import Malformed
from mesatee.protocol import envelope as dsse
from mesatee.protocol import statements
from mesatee.protocol.jsonstrict import canonical, parse
from mesatee.protocol.marginals import Marginals

COLUMN = {
    "column": "id",
    "kind": "whole",
    "epsilon": 1_000_000,
    "missing": 0,
    "low": 0,
    "high": 9,
    "counts": (1, 2),
}
SAID: dict[str, Any] = {"mechanism": "discrete_laplace", "unit": "row_replaced", "columns": (COLUMN,)}


def test_a_dataset_with_marginals_is_in_the_log_as_it_was_signed(world: World) -> None:
    (alice,) = world.join("alice")
    fields = alice.dataset(world.desk, seal(b"id\n1\n2\n3\n"), marginals=Marginals(**SAID))
    accepted = world.post(alice, statements.DatasetStatement, **fields)
    found = statements.verify(world.record(accepted.index).statement(), "dataset").predicate
    assert isinstance(found, statements.DatasetStatement)
    assert found.marginals == Marginals(**SAID)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": [1, 4]}, "above the number of rows"),
        ({"edges": [0, 7, 9]}, "edges"),
        ({"column": "salary"}, "columns of the table"),
        ({"epsilon": 10_000_001}, "epsilon"),
        ({"counts": [1] * 65, "high": 10_000}, "at most 64"),
    ],
)
def test_forged_marginals_are_refused(world: World, changes: dict[str, Any], words: str) -> None:
    (alice,) = world.join("alice")
    fields = alice.dataset(world.desk, seal(b"id\n1\n2\n3\n"), marginals=Marginals(**SAID))
    body = parse(alice.write(world.desk, statements.DatasetStatement, **fields).envelope.payload)
    body["predicate"]["marginals"]["columns"][0].update(changes)
    with pytest.raises(Malformed, match=words):
        world.run(world.monitor.submit(alice.peer, dsse.sign(canonical(body), [alice.signing])))
    assert not world.monitor.state.datasets
