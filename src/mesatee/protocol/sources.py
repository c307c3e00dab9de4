"""What a task may name as an input: one dataset for good, whatever an owner calls by a name, or another task's output.

The last two need not exist when the task is written: which dataset or run it was then stands in grant and receipt.
"""

from __future__ import annotations

from typing import TypeAlias

from .digests import Hex32, Name, sha256
from .jsonstrict import canonical
from .model import Model


class NewestDataset(Model):
    """The newest dataset in use that `owner` registered under this name, at the time of key release."""

    owner: Hex32
    dataset: Name


class OutputOf(Model):
    """The output of the newest finished run of a task. All of its receivers own it, and have to approve."""

    task: Hex32
    output: Name


Source: TypeAlias = Hex32 | NewestDataset | OutputOf
"""A dataset by its digest, or one of the above."""


def about(source: Source) -> str:
    """SHA-256 that stands for the source in a task's subject, hex."""
    match source:
        case OutputOf():
            return source.task
        case NewestDataset():
            return sha256(canonical(source.model_dump(mode="json")))
    return source


__all__ = ["NewestDataset", "OutputOf", "Source", "about"]
