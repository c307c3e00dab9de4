from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import trees

from mesatee import _core
from mesatee.errors import Expired, ForkDetected, SignatureInvalid
from mesatee.party.memory import CheckpointMemory
from mesatee.party.track import LogTracker
from mesatee.protocol import checkpoint as cp
from mesatee.protocol import limits, merkle

ORIGIN = "log.example/one"
NOW = 1_800_000_000


class Log:
    def __init__(self, size: int) -> None:
        self.key = _core.SigningKey.generate()
        self.tree = merkle.Tree()
        self.grow(size)

    def grow(self, by: int) -> None:
        for _ in range(by):
            self.tree.append(merkle.leaf_hash(secrets.token_bytes(8)))

    def note(self, size: int | None = None, time: int = NOW, epoch: int = 1) -> str:
        size = self.tree.size if size is None else size
        return cp.sign(ORIGIN, size, self.tree.root(size), time, epoch, self.key).note

    def tracker(self, folder: Path) -> LogTracker:
        return LogTracker(ORIGIN, self.key.public, CheckpointMemory(folder, ORIGIN), self.consistency)

    def consistency(self, first: int, second: int) -> list[bytes]:
        return self.tree.consistency(first, second)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.booleans())
def test_a_log_that_only_grows_is_followed(steps: list[int], anew: bool) -> None:
    log = Log(1)
    folder = Path(tempfile.mkdtemp())
    tracker = log.tracker(folder)
    for step in steps:
        log.grow(step)
        assert tracker.observe(log.note(), NOW).size == log.tree.size
        tracker = log.tracker(folder) if anew else tracker


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 20))
def test_a_log_that_was_cut_and_grew_again_is_refused(size: int, cut: int, grown: int) -> None:
    log = Log(size)
    tracker = log.tracker(Path(tempfile.mkdtemp()))
    tracker.observe(log.note(), NOW)
    log.tree = trees.cut(log.tree, max(0, size - cut))
    log.grow(grown)
    with pytest.raises(ForkDetected):
        tracker.observe(log.note(), NOW)
    assert tracker.newest is not None
    assert tracker.newest.size == size


def test_time_is_bounded_both_ways(tmp_path: Path) -> None:
    log = Log(3)
    tracker = log.tracker(tmp_path)
    for off in (-limits.CLOCK_SKEW_SECONDS, limits.CLOCK_SKEW_SECONDS):
        tracker.observe(log.note(time=NOW + off), NOW)
        with pytest.raises(Expired):
            tracker.observe(log.note(time=NOW + off + (1 if off > 0 else -1)), NOW)


def test_another_key_signs_nothing(tmp_path: Path) -> None:
    log, other = Log(3), Log(3)
    with pytest.raises(SignatureInvalid):
        log.tracker(tmp_path).observe(other.note(), NOW)


def test_epochs_never_go_back(tmp_path: Path) -> None:
    log = Log(3)
    tracker = log.tracker(tmp_path)
    tracker.observe(log.note(epoch=2), NOW)
    log.grow(1)
    with pytest.raises(ForkDetected, match="epoch"):
        tracker.observe(log.note(epoch=1), NOW)


@pytest.mark.parametrize("proof", [[], [bytes(32)], [bytes(31)], [bytes(32)] * 70])
def test_a_made_up_proof_is_refused(tmp_path: Path, proof: list[Any]) -> None:
    log = Log(5)
    memory = CheckpointMemory(tmp_path, ORIGIN)
    tracker = LogTracker(ORIGIN, log.key.public, memory, lambda first, second: proof)
    tracker.observe(log.note(), NOW)
    log.grow(4)
    with pytest.raises(ForkDetected):
        tracker.observe(log.note(), NOW)
