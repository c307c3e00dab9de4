"""Nobody is shown a state that may still be lost: metadata waits for the log, as everything else does.

Found by killing the launcher while a receipt was being logged: a party had been told that the run was finished, the
commit was lost with the host, and the run was run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tests.support.live import Live

from mesatee.enclave.gateway import api
from mesatee.errors import HostFailed
from mesatee.protocol.doors import Record, Records
from mesatee.protocol.statements import PartyStatement

WAIT_SECONDS = 20


class Held:
    """The host's records, whose next append waits until the test lets it go or fail."""

    def __init__(self, store: Records) -> None:
        self._store = store
        self.came, self.go = threading.Event(), threading.Event()
        self.fails = False

    def append(self, expected: int, records: Sequence[Record], head: bytes) -> None:
        self.came.set()
        assert self.go.wait(WAIT_SECONDS)
        if self.fails:
            raise HostFailed("the host has gone")
        self._store.append(expected, records, head)

    def read(self, start: int, limit: int) -> list[Record]:
        return self._store.read(start, limit)

    def head(self) -> tuple[int, bytes]:
        return self._store.head()


@contextmanager
def held(live: Live) -> Iterator[Held]:
    """Commits wait within the block."""
    store = live.gateway.log._store
    gate = live.gateway.log._store = Held(store)
    try:
        yield gate
    finally:
        gate.go.set()
        live.gateway.log._store = store


def test_every_answer_that_shows_the_state_waits_for_the_log() -> None:
    shown = {handler.__name__ for handler in api.SHOWS_STATE}
    reads = {handler.__name__ for method, path, handler in api.ROUTES if method == "GET"}
    # The others show the durable log only, or nothing of the state.
    assert reads - shown == {"checkpoint", "consistency", "entry", "tile", "get_blob", "describe_api"}


def test_what_is_not_durable_is_not_shown(own: Live) -> None:
    reader = own.member("reader")
    late = own.member("late", register=False)
    with held(own) as gate, ThreadPoolExecutor() as pool:
        posting = pool.submit(late.post, PartyStatement, keys=late.keys)
        assert gate.came.wait(WAIT_SECONDS)
        paths = ("/v1/parties", "/v1/service", "/v1/tasks", "/v1/datasets", "/v1/functions")
        asked = [pool.submit(own.client(reader.signing).call, "GET", path) for path in paths]
        time.sleep(0.5)
        assert not any(item.done() for item in (posting, *asked))
        gate.go.set()
        assert posting.result(WAIT_SECONDS)
        said = [item.result(WAIT_SECONDS) for item in asked]
    assert {item["name"] for item in said[0]["items"]} >= {"reader", "late"}


def test_what_was_lost_was_never_shown(own: Live) -> None:
    reader = own.member("reader")
    late = own.member("late", register=False)
    with held(own) as gate, ThreadPoolExecutor() as pool:
        gate.fails = True
        posting = pool.submit(late.post, PartyStatement, keys=late.keys)
        assert gate.came.wait(WAIT_SECONDS)
        reading = pool.submit(own.client(reader.signing).call, "GET", "/v1/parties")
        time.sleep(0.2)
        gate.go.set()
        with pytest.raises(HostFailed):
            posting.result(WAIT_SECONDS)
        # The reader gets what is durable, also while the host takes nothing, not even a new epoch.
        assert "late" not in {item["name"] for item in reading.result(WAIT_SECONDS)["items"]}
        hello = own.client(reader.signing).call("GET", "/v1/service")
        assert (hello["status"], hello["fresh"]) == ("host_failed", False)
        gate.fails = False
    deadline = time.monotonic() + WAIT_SECONDS
    while own.gateway.log.failed is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    found = reader.client.call("GET", "/v1/parties")["items"]
    assert "late" not in {item["name"] for item in found}
