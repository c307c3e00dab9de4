"""A scratch file for built-in functions whose inputs are larger than the memory that a run may use.

The supervisor opens it, the child gets the descriptor, and the function seals what it writes there: the file has no
name, and its key is in the child's memory alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.enclave.sandbox.protocol import Format, Job

FOLDER: Final = Path("/var/tmp")  # noqa: S108  # where a file without a name lies; /tmp is memory on many machines
_MEMORY_TIMES: Final[Mapping[Format, int]] = MappingProxyType({"csv": 8, "arrow": 8, "parquet": 24})
"""How many times as much memory as an input has bytes its matching in memory takes, at most."""


def needed(job: Job, sizes: Mapping[str, int]) -> bool:
    """Whether this job is one that spills, and its inputs (of these bytes) would not fit into its memory.

    What is matched by a hash join, or tells of single rows, stays in memory.
    """
    if job.executor != "builtin" or job.entry != "psi":
        return False
    if job.args.get("leakage", "oblivious") != "oblivious" or job.args.get("mode") == "bitmap":
        return False
    times = (_MEMORY_TIMES.get(job.inputs[name], 0) * size for name, size in sizes.items())
    return sum(times) > job.limits.memory_bytes


def open_in(folder: Path) -> int | None:
    """A file without a name in `folder`; None where there can be none. The caller owns the descriptor."""
    with suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return None


__all__ = ["FOLDER", "needed", "open_in"]
