"""What a model file is and says of itself: the same strict readers that the built-in functions use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from ..errors import Malformed, MesateeError, NotFound, TooLarge
from ..protocol import learned, limits, onnx
from ..protocol.digests import sha256
from ..protocol.jsonstrict import parse_object
from ..protocol.model import malformed
from ..protocol.model_card import DTYPES, Dimension, ModelCard, ModelKind, Tensor

ANY: Final = "any"
"""A length that a model leaves open without a name for it."""
RANK: Final = "..."
"""Stands for all dimensions, where a model does not say how many there are."""
ROWS: Final = "rows"
PREDICTION: Final = "prediction"
CODE: Final[Mapping[bytes, str]] = {
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"PK\x03\x04": "an archive (of PyTorch, Keras or numpy)",
    b"\x89HDF": "an HDF5 file (of Keras)",
    b"\x1f\x8b": "compressed by gzip",
}
"""How files begin that no function runs, and what they are."""
_TREES: Final = re.compile(rb"\A(?:tree\s|\{[LlIiU$#])")
"""How LightGBM's text and XGBoost's UBJSON begin."""


@dataclass(frozen=True, slots=True)
class Look:
    """A model file: its kind, inputs and outputs, and whatever else its format says."""

    kind: ModelKind
    digest: str
    size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    columns: tuple[str, ...]
    details: Mapping[str, Any]
    """JSON-able: operators and parameters of a net, trees and features of an ensemble, and the like."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "kind": self.kind,
            "digest": self.digest,
            "size": self.size,
            "inputs": [item.model_dump(mode="json") for item in self.inputs],
            "outputs": [item.model_dump(mode="json") for item in self.outputs],
            "columns": list(self.columns),
            **self.details,
        }


def load(path: Path) -> bytes:
    """A model file. Raises `NotFound` or `TooLarge`."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.ONNX_BYTES + 1)
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", hint="check the path") from None
    if len(data) > limits.ONNX_BYTES:
        raise TooLarge(f"{path} has more than {limits.ONNX_BYTES} bytes")
    return data


def look(data: bytes) -> Look:
    """Read a model as strictly as the function does that will run it. Raises `Malformed`, `TooLarge` or
    `UnsupportedVersion` with the reason.
    """
    for front, what in CODE.items():
        if data.startswith(front):
            raise Malformed(
                f"the file is {what}, and no model that a function runs",
                hint="convert it on your machine: `mesatee model import FILE --from FRAMEWORK --out model.onnx`",
            )
    front = data[:64].lstrip()
    if front.startswith(b'{"') or front.startswith(b"{\n") or front.startswith(b"{ "):
        return _document(data)
    if _TREES.match(front):
        return _trees(data)
    return _net(data)


def _net(data: bytes) -> Look:
    read = onnx.read(data)
    opsets = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in sorted(read.opsets.items()))
    details = {
        "format": f"ONNX {read.ir_version}, {opsets}",
        "producer": read.producer,
        "operators": dict(sorted(read.operators.items())),
        "nodes": read.nodes,
        "parameters": read.parameters,
    }
    return Look("onnx", sha256(data), len(data), _ports(read.inputs), _ports(read.outputs), (), details)


def _ports(ports: Sequence[onnx.Port]) -> tuple[Tensor, ...]:
    found = []
    for port in ports:
        dtype = next((name for name in DTYPES if name == port.dtype), None)
        if dtype is None:
            raise Malformed(f"an input or output of the model is a {port.dtype}, and tensors are taken")
        shape: tuple[Dimension, ...] = (RANK,) if port.shape is None else tuple(map(_dimension, port.shape))
        try:
            found.append(Tensor(name=port.name, dtype=dtype, shape=shape))
        except ValidationError as error:
            raise malformed("an input or output of the model", error) from None
    return tuple(found)


def _dimension(size: int | str | None) -> Dimension:
    if isinstance(size, str):
        return size if 1 <= len(size) <= limits.NAME_CHARS else ANY
    return ANY if size is None else size


def _document(data: bytes) -> Look:
    """JSON: of a built-in learner, or trees of whatever library."""
    try:
        found = parse_object(data, limit=limits.LEARNED_BYTES)
    except MesateeError:
        # Too large or too deep for a learner's document, or numbers that only the reader of trees takes.
        return _trees(data)
    if found.get("kind") in learned.KINDS:
        return _learned(data)
    return _trees(data)


def _learned(data: bytes) -> Look:
    read = learned.read(data)
    columns = tuple(item.name for item in read.columns)
    details: dict[str, Any] = {
        "format": f"{read.kind} document, version {read.version}",
        "features": read.width,
    }
    row = Tensor(name=ROWS, dtype="float64", shape=(ROWS, len(columns)))
    made = Tensor(name=PREDICTION, dtype="float64", shape=(ROWS,))
    return Look("linear", sha256(data), len(data), (row,), (made,), columns, details)


def _trees(data: bytes) -> Look:
    from .._core import TreeModel

    read = TreeModel(data)
    said = read.kind.lower()
    kind: ModelKind = (
        "xgboost" if said.startswith("xgboost") else "lightgbm" if said.startswith("lightgbm") else "trees"
    )
    columns = tuple(read.names)
    if len(columns) > limits.COLUMNS or len(set(columns)) != len(columns):
        columns = ()
    details: dict[str, Any] = {
        "format": read.kind,
        "trees": read.trees,
        "features": read.features,
        "classes": list(read.classes),
    }
    width: tuple[Dimension, ...] = () if read.outputs == 1 else (read.outputs,)
    row = Tensor(name=ROWS, dtype="float32" if read.single_values else "float64", shape=(ROWS, read.features))
    made = Tensor(name=PREDICTION, dtype="float32" if read.single_sums else "float64", shape=(ROWS, *width))
    return Look(kind, sha256(data), len(data), (row,), (made,), columns, details)


def card(
    seen: Look,
    *,
    licence: str,
    metrics: Mapping[str, float] | None = None,
    warm: int = 0,
    runs: int | None = None,
    columns: Sequence[str] = (),
) -> ModelCard:
    """The card of a model: what its file says, and what its owner says. Raises `Malformed`."""
    try:
        return ModelCard(
            kind=seen.kind,
            digest=seen.digest,
            inputs=seen.inputs,
            outputs=seen.outputs,
            licence=licence,
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            columns=tuple(columns) or seen.columns,
            warm=warm,
            runs=runs,
        )
    except ValidationError as error:
        raise malformed("the model card", error) from None


__all__ = ["ANY", "PREDICTION", "RANK", "ROWS", "Look", "card", "load", "look"]
