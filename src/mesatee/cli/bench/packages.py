"""Peers that come as packages: each has an environment of its own, which is made once, by pip, in the cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...errors import Unavailable
from .rows import Say


def environment(package: str, say: Say) -> Path:
    """The interpreter of the environment that has this package; made if it is not there. Raises `Unavailable`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "mesatee" / "bench" / package.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        say(f"installing {package} into an environment of its own")
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", package],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"{package} cannot be installed: {done.stderr.strip()[-200:]}")
        (folder / "whole").touch()
    return python


__all__ = ["environment"]
