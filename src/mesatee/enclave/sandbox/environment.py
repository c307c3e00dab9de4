"""The job's environment in the child: its packages become importable, and those of others unreadable.

The child was made before its job was known, so it may read the folder of all environments until here.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from mesatee import _core
from mesatee.errors import SandboxFailed
from mesatee.protocol.environments import PACKAGES


def enter(name: str, folder: str | None, readable: Sequence[str]) -> None:
    """Leave `readable` and, of `folder`, the packages of the environment `name` (none if it is empty).

    Comes before seccomp. Raises `SandboxFailed` if there is no such environment.
    """
    if folder is None:
        if name:
            raise SandboxFailed(f"this supervisor has no environments, so not {name}")
        return
    packages = Path(folder, name, PACKAGES)
    chosen = [str(packages)] if name else []
    if name and not os.access(packages, os.R_OK | os.X_OK):
        raise SandboxFailed(f"the child cannot read the environment {name}")
    _core.narrow_sandbox([*readable, *chosen])
    if name:
        # Before what is installed beside MesaTEE and belongs to no environment, after the standard library. It
        # shadows nothing of the base: such an environment is refused before it comes here.
        sys.path.insert(_position(), str(packages))


def _position() -> int:
    installed = {os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    for index, path in enumerate(sys.path):
        if os.path.realpath(path) in installed:
            return index
    return len(sys.path)


__all__ = ["enter"]
