"""Where trusted processes keep byte code: in a folder that was empty when their service started, and nowhere else.

Sources are measured, their compiled forms in ``__pycache__`` are not: whoever plants one with the date and size of its
source has it run in the source's place. So gateway, worker and the zygote compile what they measured, once for each
start of a service; what the gateway has compiled the others find.
"""

from __future__ import annotations

from pathlib import Path

shared: Path | None = None
"""One folder, made by this launcher, for all services that it starts; None if each one compiles for itself."""


def options(runtime: Path, *, writes: bool = True) -> list[str]:
    """The interpreter's options for a trusted process of the service with this folder, which goes with it.

    A worker writes nothing there, and so its zygote does not: a zygote that outlives a killed worker for a moment must
    not write into a folder that is being removed.
    """
    folder = shared or runtime / "bytecode"
    folder.mkdir(mode=0o700, exist_ok=True)
    return ["-X", f"pycache_prefix={folder}", *([] if writes or shared else ["-B"])]


__all__ = ["options", "shared"]
