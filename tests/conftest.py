"""What all tests share."""

from __future__ import annotations

import pytest

from mesatee.cli import bytecode


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Services of these tests compile what they run once, not each by itself."""
    bytecode.shared = tmp_path_factory.mktemp("bytecode")
