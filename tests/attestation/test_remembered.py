"""What is remembered counts from when it was made until it ends, and is bounded."""

from __future__ import annotations

import threading

import pytest

from mesatee.attestation.remembered import Remembered


def test_it_counts_from_when_it_was_made_until_it_ends() -> None:
    memory: Remembered[str] = Remembered(4)
    memory.put("key", "value", 100, 110)
    assert [memory.get("key", at) for at in (99, 100, 109, 110)] == [None, "value", "value", None]
    assert memory.get("other", 100) is None
    memory.put("key", "newer", 110, 120)
    assert (memory.get("key", 109), memory.get("key", 110)) == (None, "newer")
    assert len(memory) == 1


def test_what_is_over_when_it_is_made_never_counts() -> None:
    memory: Remembered[str] = Remembered(4)
    memory.put("key", "value", 100, 100)
    assert memory.get("key", 100) is None


@pytest.mark.parametrize("size", [1, 3])
def test_the_oldest_use_is_forgotten_first(size: int) -> None:
    memory: Remembered[int] = Remembered(size)
    for key in range(size):
        memory.put(key, key, 0, 10)
    assert memory.get(0, 1) == 0
    memory.put("new", 9, 0, 10)
    assert len(memory) == size
    assert memory.get("new", 1) == 9
    assert (memory.get(0, 1) is None) is (size == 1)
    if size > 1:
        assert memory.get(1, 1) is None


def test_threads_may_share_it() -> None:
    memory: Remembered[int] = Remembered(8)

    def work() -> None:
        for number in range(500):
            memory.put(number % 16, number, 0, 10)
            found = memory.get(number % 16, 1)
            assert found is None or found % 16 == number % 16

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory) == 8
