"""What the converters of this folder share. Runs in the confined child, with a framework's packages and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 17
"""The ONNX opset that converters aim at: every operator of the usual nets, and read by every runtime of today."""
BATCH = 2
"""Length of a first dimension that may be any, in a sample that is made up."""
LENGTH = 8
"""The same of other dimensions."""
SEED = 20_240_229
_FORMAT = {
    "bool": "BOOL",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}


class Refused(Exception):
    """The model is none that is converted; `hint` says what to do next."""

    refusal = True

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def samples(
    inputs: Sequence[tuple[str, str, Sequence[int | None] | None]], job: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Arrays for inputs of (name, dtype, shape): those that were given, or made up by a fixed seed.

    Raises `Refused` where the shape does not say how many dimensions there are, and nobody else does.
    """
    given = _given(job.get("sample"), [name for name, _, _ in inputs])
    shapes: Mapping[str, Sequence[int]] = job.get("shapes") or {}
    unknown = sorted(set(shapes) - {name for name, _, _ in inputs})
    if unknown:
        known = ", ".join(name for name, _, _ in inputs)
        raise Refused(f"the model has no input {unknown[0]}; it has {known}")
    random = np.random.default_rng(SEED)
    made = {}
    for name, dtype, shape in inputs:
        if name in given:
            made[name] = np.asarray(given[name], dtype=dtype)
            continue
        if name in shapes:
            shape = list(shapes[name])
        if shape is None:
            raise Refused(
                f"the input {name} does not say how many dimensions it has",
                f"say it by --shape {name}=1,3,224,224, or give arrays by --sample FILE.npz",
            )
        fixed = [
            (BATCH if place == 0 else LENGTH) if size is None or size < 0 else size
            for place, size in enumerate(shape)
        ]
        made[name] = _made_up(random, dtype, fixed)
    return made


def _made_up(random: np.random.Generator, dtype: str, shape: list[int]) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if kind in "iu":
        # Small, because such an input mostly is an index into a table.
        return random.integers(0, 3, shape).astype(dtype)
    if kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    raise Refused(f"a sample of type {dtype} cannot be made up", "give one by --sample FILE.npz")


def _given(path: str | None, names: Sequence[str]) -> dict[str, np.ndarray]:
    if path is None:
        return {}
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        if len(names) != 1:
            raise Refused(f"the model has {len(names)} inputs", "give them by name in one --sample FILE.npz")
        return {names[0]: np.load(path, allow_pickle=False)}
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        strange = sorted(set(found) - set(names))
        if strange:
            raise Refused(f"the sample has the array {strange[0]}, the model's inputs are {', '.join(names)}")
        return found
    if suffix == ".csv" and len(names) == 1:
        return {names[0]: np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)}
    raise Refused("a sample is an .npy or .npz file, or .csv with a line of names for a model of one input")


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file of arrays: a header in JSON, then their bytes."""
    header: dict[str, Any] = {}
    data = []
    at = 0
    for name, array in arrays.items():
        dtype = _FORMAT.get(array.dtype.name)
        if dtype is None:
            raise Refused(
                f"the model has {name} of the type {array.dtype.name}, which no other runtime takes"
            )
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def answer(
    model: bytes,
    sample: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What a converter gives back. `expected` is what the original framework made of `sample`."""
    return {
        "versions": dict(versions),
        "files": {"model": model, "sample": packed(sample), "expected": packed(expected)},
    }
