"""What the functions that run neural nets share: the loaded model, and its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mesatee.enclave.functions import _threads
from mesatee.errors import Malformed

if TYPE_CHECKING:
    from mesatee.inference import Model

BATCHES: Final = range(1, 1_000_001)
"""Rows that go through a model together."""
_FIRST_RUNS: Final = 2


@dataclass(slots=True)
class _Ready:
    """The model that this process loaded before it knew what to run it on; None in any that was not told to."""

    model: Model | None = None
    threads: int = 0


_READY: Final = _Ready()


def load_ahead(model: memoryview, arguments: Mapping[str, Any]) -> None:
    """Load the model ahead of the run that this process waits for, which has the same model and arguments."""
    threads = int(arguments["threads"])
    loaded = load(model, threads)
    # The first run finds out how much memory one takes, the second asks the system for it: now nobody waits for that.
    with suppress(Malformed):
        for _ in range(_FIRST_RUNS):
            loaded.give(_zeros(loaded, int(arguments["batch"]) or 1), [item.name for item in loaded.outputs])
    _READY.model, _READY.threads = loaded, threads


def _zeros(model: Model, rows: int) -> dict[str, Any]:
    """Inputs of nothing but zeros, where the model says how large they are beside the first dimension."""
    import numpy as np

    found = {}
    for item in model.inputs:
        shape = list(item.shape or ())
        if shape and shape[0] is None:
            shape[0] = rows
        if item.shape is None or item.dtype == "object" or None in shape:
            raise Malformed("the model does not say how large its inputs are")
        found[item.name] = np.zeros([size or 0 for size in shape], item.dtype)
    return found


def load(model: memoryview | None, threads: int) -> Model:
    """The model, checked and loaded; the one that is ready, if there is one. Raises `Malformed` and the like."""
    from mesatee.inference import Model

    if _READY.model is not None and _READY.threads == threads:
        return _READY.model
    most = _threads.allowed()
    if not 1 <= threads <= most:
        raise Malformed(f"threads is from 1 to {most}, as many as the task allows")
    if model is None:
        raise Malformed("the model is missing")
    return Model(model, threads=threads, quiet=True)


def chosen(model: Model, outputs: list[str]) -> list[str]:
    """The names of the outputs that are wanted: all, if none is named."""
    known = [item.name for item in model.outputs]
    if len(set(outputs)) != len(outputs) or not set(outputs) <= set(known):
        raise Malformed(f"outputs names some of {', '.join(known)}, each once")
    return list(outputs) or known


__all__ = ["BATCHES", "chosen", "load", "load_ahead"]
