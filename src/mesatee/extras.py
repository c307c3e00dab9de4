"""Which executors are installed here, beside those of the base install. Asks by metadata and loads nothing.

>>> missing("python") is None
True
"""

from __future__ import annotations

from importlib import metadata

from mesatee.protocol.executors import PACKAGES


def missing(executor: str) -> str | None:
    """Why this executor is not here, in a sentence; None if it is."""
    package = PACKAGES.get(executor)
    if package is None:
        return None
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"the executor {executor} needs the package {package}: pip install 'mesatee[{executor}]'"
    return None


__all__ = ["missing"]
