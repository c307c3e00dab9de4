"""The thread that rings when a module's time is over: once, and never when the module has ended before."""

from __future__ import annotations

import threading

import pytest

from mesatee.enclave.sandbox.executors.deadline import STACK_BYTES, Deadline, Late

LONG = 3_600.0
PATIENCE = 60.0
"""A ring that does not come fails a test by this."""


class Bell:
    """Counts how often it was rung."""

    def __init__(self) -> None:
        self.rings = 0
        self.rung = threading.Event()

    def __call__(self) -> None:
        self.rings += 1
        self.rung.set()


def deadlines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "deadline"]


def test_it_rings_once_when_the_time_is_over():
    bell = Bell()
    with Deadline(0.001, bell) as deadline:
        assert bell.rung.wait(PATIENCE)
        assert deadline.over()
        with pytest.raises(Late):
            deadline.check()
    assert bell.rings == 1


def test_who_ends_in_time_hears_nothing_and_leaves_no_thread():
    bell = Bell()
    with Deadline(LONG, bell) as deadline:
        assert len(deadlines()) == 1
        assert not deadline.over()
        deadline.check()
    assert deadlines() == []
    assert bell.rings == 0


def test_nothing_rings_after_the_end():
    """A ring that comes late would end the next run of the same engine."""
    for _ in range(200):
        bell = Bell()
        with Deadline(1e-5, bell):
            pass
        heard = bell.rings
        assert deadlines() == []
        assert bell.rings == heard


def test_without_a_deadline_there_is_no_thread_and_no_end():
    with Deadline(None, Bell()) as deadline:
        assert deadlines() == []
        assert not deadline.over()
        deadline.check()


def test_the_thread_takes_little_memory_and_others_as_much_as_before(monkeypatch):
    sizes: list[int] = []
    start = threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda self: sizes.append(threading.stack_size()) or start(self)
    )
    before = threading.stack_size()
    with Deadline(LONG, Bell()):
        pass
    assert sizes == [STACK_BYTES]
    assert threading.stack_size() == before


def test_no_module_runs_without_the_thread_that_would_end_it(monkeypatch):
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = threading.stack_size()
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(MemoryError, match="ends the module in time"), Deadline(LONG, Bell()):
        pytest.fail("it ran")
    assert threading.stack_size() == before
