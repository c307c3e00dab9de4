"""Proofs in an earlier tree: a party asks for the one that it has verified, so that a busy log is never ahead of it."""

from __future__ import annotations

import pytest
from tests.enclave.gateway.test_log import Bench

from mesatee.errors import Malformed
from mesatee.protocol import merkle


def test_an_entry_is_proven_in_the_tree_that_was_asked_for() -> None:
    bench = Bench()
    bench.add(9)
    for size in range(3, 10):
        proof = bench.log.prove(2, size)
        assert proof.size == size
        leaf = merkle.leaf_hash(proof.entry())
        merkle.verify_inclusion(
            leaf, 2, size, [bytes.fromhex(item) for item in proof.path], bench.log.root(size)
        )
    for index, size in ((2, 2), (2, 10), (9, 9), (-1, 4)):
        with pytest.raises(Malformed):
            bench.log.prove(index, size)
    bench.log.close()
