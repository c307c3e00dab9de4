"""Model cards in words, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ..party.http import visible
from ..protocol.model_card import ModelCard, describe

COLUMNS_SHOWN = 20
"""Columns of a table of rows that are named to a person; all of them stand in the JSON."""


def explain(card: ModelCard) -> list[str]:
    """A line for each thing that a card says."""
    said = [f"{card.kind} model, sha256 {card.digest}"]
    said += [f"input {visible(describe(item))}" for item in card.inputs]
    said += [f"output {visible(describe(item))}" for item in card.outputs]
    if card.columns:
        said.append(f"columns of its rows: {_some(card.columns)}")
    said.append(f"licence: {visible(card.licence)}")
    if card.metrics:
        said.append("metrics: " + ", ".join(f"{name} {value:g}" for name, value in card.metrics.items()))
    said.append("runs of each caller: " + ("any number" if card.runs is None else str(card.runs)))
    if card.warm:
        said.append(f"a worker may keep it loaded for {card.warm} s after a run")
    return said


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(visible(name) for name in names[:COLUMNS_SHOWN])
    rest = len(names) - COLUMNS_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


__all__ = ["explain"]
