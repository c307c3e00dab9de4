"""The vendors' services, running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support import vendors

from mesatee.endorse import Service


@pytest.fixture
def pcs() -> Iterator[vendors.Pcs]:
    with (made := vendors.Pcs()).running():
        yield made


@pytest.fixture
def kds() -> Iterator[vendors.Kds]:
    with (made := vendors.Kds()).running():
        yield made


@pytest.fixture
def thim() -> Iterator[vendors.Thim]:
    with (made := vendors.Thim()).running():
        yield made


@pytest.fixture
def waits() -> list[float]:
    """How long the service waited between attempts, in seconds; nobody waits in truth."""
    return []


@pytest.fixture
def service(waits: list[float]) -> Iterator[Service]:
    with Service("the service", step_seconds=2.0, answer_seconds=4.0, sleep=waits.append) as made:
        yield made


@pytest.fixture
def hasty() -> Iterator[Any]:
    """A service without patience."""
    with Service("the service", step_seconds=0.3, answer_seconds=0.6) as made:
        yield made
