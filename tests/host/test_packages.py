"""The packages' doctests, and that their public names are sorted and complete."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

import mesatee.host
import mesatee.host.blobs
import mesatee.host.queue
import mesatee.host.records


@pytest.mark.parametrize(
    "package",
    [mesatee.host, mesatee.host.blobs, mesatee.host.queue, mesatee.host.records],
    ids=lambda p: p.__name__,
)
def test_package(package: ModuleType) -> None:
    result = doctest.testmod(package)
    assert result.attempted > 0
    assert result.failed == 0
    assert package.__all__ == sorted(package.__all__)
    classes = {name for name, value in vars(package).items() if isinstance(value, type)}
    assert classes == set(package.__all__)
