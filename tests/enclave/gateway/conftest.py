"""A monitor in memory for each test, and one live service for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.gateway import Case, Live, World, make_case, running


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
