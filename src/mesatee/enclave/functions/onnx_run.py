"""Runs a model in ONNX format on tensors from a file: images, audio, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mesatee import tensors as files
from mesatee.enclave.functions._onnx import BATCHES, chosen, load, load_ahead
from mesatee.errors import Malformed, TooLarge

if TYPE_CHECKING:
    from mesatee.inference import Model, Tensor

STEPS: Final = 1_000_000
"""Of a model with a state: a day of sound in pieces of 0.1 seconds."""


def onnx_run(
    model: memoryview,
    tensors: memoryview,
    *,
    outputs: list[str] = [],  # noqa: B006  a contract shows its defaults, and nothing changes this one
    batch: int = 0,
    state: dict[str, str] = {},  # noqa: B006  as above
    threads: int = 1,
) -> bytes:
    """Run an ONNX model on the tensors of a file, and give its outputs as such a file.

    Files are in the safetensors format (``mesatee.tensors``, or the package safetensors); their tensors are named like
    the model's inputs, and those of the output like its outputs. An input that has a default in the model may be left
    out. Types are the model's, but for what fits: float64 for float32, int32 for int64.

    With a `batch` above 0 the tensors are cut along their first dimension, which they have in common, and so many rows
    go through the model together (1 to 1,000,000): for files that hold more than memory allows at once.

    `state` is for models that carry something from one piece of a sequence to the next: it maps outputs to the inputs
    that get them in the next step. A tensor with one dimension more than the model's input has one step after the
    other along its first dimension; one with as many is the same in each step. The first step's state is the tensor of
    its name, or zeros. Outputs get a first dimension for steps; those named by `state` are the last step's.

    `outputs` names those that are wanted (all that are tensors, if none is named; text has no place in the file).
    `threads` is from 1 to what the task allows; another number may round in another way. Models are checked as by
    `onnx_predict`. Needs the extra ``ml`` on the worker.

    Reveals to the output's receivers what the model says of the tensors: see `onnx_predict`. Reveals to the receivers
    of `diagnostics` why a model or file was refused: names of inputs and outputs and shapes, and no value.
    """
    if batch and batch not in BATCHES:
        raise Malformed(f"batch is 0, or from {BATCHES[0]} to {BATCHES[-1]} rows")
    if batch and state:
        raise Malformed("a model with a state goes through its steps one by one: leave batch out")
    loaded = load(model, threads)
    wanted = chosen(loaded, outputs)
    given = files.read(tensors)
    unknown = set(given) - {item.name for item in loaded.inputs}
    if unknown:
        raise Malformed(
            f"the file has tensors that are no inputs: {', '.join(i.name for i in loaded.inputs)} are"
        )
    found = (
        _steps(loaded, given, wanted, state)
        if state
        else _batches(loaded, _all(loaded, given), wanted, batch)
    )
    return files.write(found)


def _all(model: Model, given: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = [item.name for item in model.inputs if item.name not in given]
    if missing:
        raise Malformed(f"the file has no tensor for the inputs {', '.join(missing)}")
    return given


def _batches(model: Model, given: Mapping[str, Any], wanted: list[str], batch: int) -> dict[str, Any]:
    import numpy as np

    if not batch:
        return dict(zip(wanted, model.give(given, wanted), strict=True))
    counts = {len(array) if array.ndim else -1 for array in given.values()}
    if len(counts) != 1 or min(counts) < 1:
        raise Malformed("tensors that go through in batches have one number of rows, and one at least")
    (count,) = counts
    pieces = []
    for start in range(0, count, batch):
        here = min(batch, count - start)
        found = model.give({name: array[start : start + batch] for name, array in given.items()}, wanted)
        if any(array.ndim == 0 or len(array) != here for array in found):
            raise Malformed("an output is not one for each row: name others, or leave batch out")
        pieces.append(found)
    return {
        name: np.concatenate(parts) for name, parts in zip(wanted, zip(*pieces, strict=True), strict=True)
    }


def _steps(
    model: Model, given: Mapping[str, Any], wanted: list[str], state: Mapping[str, str]
) -> dict[str, Any]:
    import numpy as np

    inputs = {item.name: item for item in model.inputs}
    if not set(state) <= {item.name for item in model.outputs} or not set(state.values()) <= set(inputs):
        raise Malformed("state maps outputs of the model to inputs")
    if len(set(state.values())) != len(state):
        raise Malformed("state maps two outputs to one input")
    carried = {name: given[name] if name in given else _zeros(inputs[name]) for name in state.values()}
    moving = {
        name: array
        for name, array in given.items()
        if name not in carried and array.ndim == _rank(inputs[name]) + 1
    }
    fixed = {name: array for name, array in given.items() if name not in carried and name not in moving}
    _all(model, {**carried, **moving, **fixed})
    counts = {len(array) for array in moving.values()}
    if len(counts) != 1:
        raise Malformed("tensors with steps have one number of steps, and there is one such tensor at least")
    (count,) = counts
    if not 1 <= count <= STEPS:
        raise TooLarge(f"there are {count} steps: 1 to {STEPS} are run")
    asked = [*wanted, *(name for name in state if name not in wanted)]
    kept: dict[str, list[Any]] = {name: [] for name in wanted if name not in state}
    last: dict[str, Any] = {}
    for step in range(count):
        now = {name: array[step] for name, array in moving.items()}
        last = dict(zip(asked, model.give({**fixed, **now, **carried}, asked), strict=True))
        carried = {into: last[name] for name, into in state.items()}
        for name, parts in kept.items():
            parts.append(last[name])
    try:
        return {name: np.stack(kept[name]) if name in kept else last[name] for name in wanted}
    except ValueError:
        raise Malformed("an output has another shape in each step: name others") from None


def _rank(item: Tensor) -> int:
    if item.shape is None:
        raise Malformed(f"the model does not say how many dimensions its {item.name} has")
    return len(item.shape)


def _zeros(item: Tensor) -> Any:
    import numpy as np

    if item.shape is None or None in item.shape:
        raise Malformed(
            f"the file has no tensor {item.name}, whose size the model leaves open: give the first state"
        )
    return np.zeros([size or 0 for size in item.shape], item.dtype)


__all__ = ["STEPS", "load_ahead", "onnx_run"]
