"""A monitor in memory for each test, and one live service for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.gateway import Case, World, make_case
from tests.support.live import Client, Flow, Live, LiveMember, running

from mesatee._core import SigningKey
from mesatee.enclave.worker.client import GatewayClient


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def case(world: World) -> Case:
    """A task of two owners that nobody has approved yet."""
    return make_case(world)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from running(tmp_path_factory.mktemp("live"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Live]:
    """A live service for one test, which may break it."""
    yield from running(tmp_path)


@pytest.fixture(scope="module")
def members(live: Live) -> tuple[LiveMember, LiveMember, LiveMember]:
    return live.member("left"), live.member("right"), live.member("scientist")


@pytest.fixture
def stranger(live: Live) -> Iterator[Client]:
    client = live.client(SigningKey.generate())
    yield client
    client.close()


@pytest.fixture(scope="module")
def worker(live: Live) -> GatewayClient:
    return live.worker()


@pytest.fixture
def as_worker(worker: GatewayClient) -> Client:
    """A raw client with the worker's identity."""
    client = Client.__new__(Client)
    client.http = worker._http
    return client


@pytest.fixture
def flow(live: Live, members: tuple[LiveMember, ...], worker: GatewayClient) -> Flow:
    return Flow(live, members, worker)
