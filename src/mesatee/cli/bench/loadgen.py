"""The native load generator of the benches, built from the source tree when it is not there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from ...errors import Malformed, Unavailable
from .rows import Say

CRATE: Final = "mesatee-loadgen"
RUN_SECONDS: Final = 600.0


def source_tree() -> Path | None:
    """The tree that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[4]
    return root if (root / "rust" / "loadgen" / "Cargo.toml").is_file() else None


def binary(say: Say) -> Path:
    """The load generator; cargo makes it, in seconds when nothing changed. Raises `Unavailable` without
    source or cargo."""
    root = source_tree()
    if root is None:
        raise Unavailable("the native load generator is built from the source tree, and this is none")
    found = root / "target" / "release" / CRATE
    cargo = shutil.which("cargo")
    if cargo is None:
        if found.is_file():
            return found
        raise Unavailable("cargo is not installed, which builds the native load generator")
    if not found.is_file():
        say("building the native load generator, which takes a minute or two")
    command = [cargo, "build", "--release", "--locked", "-q", "-p", CRATE]
    built = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if built.returncode:
        raise Unavailable(f"the native load generator does not build: {_reason(built.stderr)}")
    return found


def run(program: Path, *arguments: str | Path | int) -> dict[str, Any]:
    """What one run prints. Raises `Unavailable` with its reason."""
    command = [str(program), *map(str, arguments)]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the load generator did not end within {RUN_SECONDS:.0f} s") from None
    if ended.returncode:
        raise Unavailable(f"the load generator failed: {_reason(ended.stderr)}")
    found = json.loads(ended.stdout)
    if not isinstance(found, dict):
        raise Malformed("the load generator printed something else than an object")
    return found


def _reason(text: bytes) -> str:
    """The first line that says what was wrong: what ends a compiler's output is a backtrace. Else the last line."""
    lines = text.decode("utf-8", "replace").strip().split("\n")
    said = next((item for item in lines if item.lstrip().startswith("error")), lines[-1])
    return said.strip()[:300] or "no reason given"


__all__ = ["CRATE", "binary", "run", "source_tree"]
