"""Model cards: what a model's owner says of a sealed model, so that others can use what they never see.

A model is a dataset whose statement carries a card. The card is part of what its owner signs; a dataset without one is
no model, and its signed form has no such field. Every registered party reads it.

>>> row = Tensor(name="x", dtype="float32", shape=("batch", 4))
>>> card = ModelCard(kind="onnx", digest="ab" * 32, inputs=(row,), outputs=(row,), licence="MIT", metrics={"auc": 0.9})
>>> card.warm, card.runs, describe(card.inputs[0])
(0, None, 'x float32[batch, 4]')
>>> sorted(card.model_dump(mode="json"))
['digest', 'inputs', 'kind', 'licence', 'metrics', 'outputs']
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, StringConstraints, model_validator

from . import limits
from .digests import Hex32, Name
from .jsonstrict import canonical
from .model import Column, Model

ModelKind = Literal["onnx", "xgboost", "lightgbm", "trees", "linear"]
KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
"""Formats of models that built-in functions run. None of them can hold code."""
Dtype = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "string",
]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Extent = Annotated[int, Field(ge=0, le=limits.MODEL_EXTENT)]
Symbol = Annotated[str, StringConstraints(min_length=1, max_length=limits.NAME_CHARS)]
Dimension: TypeAlias = Extent | Symbol
"""A length, or the name of one that is known only when the model runs."""
Shape: TypeAlias = Annotated[tuple[Dimension, ...], Field(max_length=limits.MODEL_RANK)]


class Tensor(Model):
    """An input or output of a model."""

    name: Column
    dtype: Dtype
    shape: Shape


Tensors = Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=limits.MODEL_TENSORS)]


class ModelCard(Model):
    """What an owner says of a model. Nothing in it is checked by a gateway but its form; `mesatee model put` makes it
    of the file itself.
    """

    kind: ModelKind
    digest: Hex32
    """SHA-256 of the plaintext model: whoever has the same file knows by it that it is the same."""
    inputs: Tensors
    outputs: Tensors
    licence: Annotated[str, StringConstraints(min_length=1, max_length=limits.COLUMN_CHARS)]
    """An SPDX expression, or some words."""
    metrics: Annotated[dict[Name, float], Field(max_length=limits.MODEL_METRICS)]
    """How good it is, as its owner measured it: name -> value."""
    columns: Annotated[tuple[Column, ...], Field(max_length=limits.COLUMNS)] = Field(
        default=(), exclude_if=lambda value: not value
    )
    """The columns that a table of rows has for it, in the model's order. Not part of the signed form where it names
    none."""
    warm: Annotated[int, Field(ge=0, le=limits.MODEL_WARM_SECONDS)] = Field(
        default=0, exclude_if=lambda value: not value
    )
    """For how many seconds after a run a worker may keep the loaded model. Not part of the signed form if 0."""
    runs: Annotated[int, Field(ge=1, le=limits.RUNS)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Runs that each caller has with this model, over all tasks; None, and no part of the signed form, for any
    number."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        for group in (self.inputs, self.outputs):
            if len({item.name for item in group}) != len(group):
                raise ValueError("names of inputs and of outputs are unique")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("each column is named once")
        if len(canonical(self.model_dump(mode="json"))) > limits.MODEL_CARD_BYTES:
            raise ValueError(f"a model card has at most {limits.MODEL_CARD_BYTES} bytes")
        return self


def describe(tensor: Tensor) -> str:
    """As a person reads it: name, type and shape."""
    return f"{tensor.name} {tensor.dtype}[{', '.join(map(str, tensor.shape))}]"


__all__ = ["DTYPES", "KINDS", "Dimension", "Dtype", "ModelCard", "ModelKind", "Tensor", "describe"]
