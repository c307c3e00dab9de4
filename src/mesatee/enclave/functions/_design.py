"""From the tables of parties to the numbers that a learner takes: features, encodings, and rows that are complete.

Rows go into an order of their own values before anything is computed, so that neither the order of rows nor that of
inputs shows in the last digit of any result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from mesatee.enclave.functions._parties import Categories, Combined, combine, text_of
from mesatee.errors import Malformed
from mesatee.protocol import limits
from mesatee.protocol.learned import Feature, Label
from mesatee.table import Table

LARGEST: Final = 1e100
"""Of a feature: squares of larger numbers do not fit, and such numbers are mistakes."""


@dataclass(frozen=True, slots=True)
class Design:
    """Rows that have a value everywhere. `matrix` has shape (rows, features), in the order of `columns` and of their
    levels; `present` is, for each feature, how many rows have this level, or all; `target`, `weights` and `offset`
    have shape (rows,), and are None if not asked for. `classes` are the labels of a target of classes, which `target`
    numbers from 0.
    """

    data: Combined
    columns: tuple[Feature, ...]
    matrix: Any
    target: Any
    classes: tuple[Label, ...] | None
    weights: Any | None
    offset: Any | None
    places: Any
    """For each row its number among those of all inputs."""

    @property
    def rows(self) -> int:
        """Of the matrix."""
        return len(self.matrix)

    @property
    def features(self) -> list[tuple[str, str | None, str | None]]:
        """For each feature its column, level and reference."""
        return [
            (column.name, level, column.reference)
            for column in self.columns
            for level in (column.levels if column.levels is not None else (None,))
            if level is None or level != column.reference
        ]

    @property
    def present(self) -> list[int]:
        """For each feature the rows that have its level; all rows for a number."""
        return [
            self.rows if level is None else int(column.sum())
            for (_, level, _), column in zip(self.features, self.matrix.T, strict=True)
        ]

    def varies(self) -> None:
        """Raises `Malformed`, naming the column, if a feature is constant."""
        if not self.rows:
            return
        same = (self.matrix == self.matrix[0]).all(axis=0)
        for (name, level, _), constant in zip(self.features, same, strict=True):
            if constant:
                what = "is constant" if level is None else "has a level that all rows, or none, have"
                raise Malformed(f"the column {name!r} {what}: leave it out")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an argument asks of the columns. `target` is of ``numbers``, ``flags`` or ``classes``."""

    columns: str | Sequence[str]
    target: str | None = None
    kind: str = "numbers"
    weights: str | None = None
    offset: str | None = None
    categorical: str | Sequence[str] = ()
    reference: Mapping[str, Any] | None = None
    text: bool = True
    """Whether columns of text are taken as categories."""
    whole: bool = False
    """Whether each level has a feature, so that none is the reference."""
    keep: Sequence[str] = ()
    """Columns that are not taken unless they are named."""


def gather(
    function: str, inputs: dict[str, Table], asked: Asked, how: str, key: Any, *, least: int = 1
) -> Design:
    """The rows of all inputs that a learner takes. `least` is how many columns it needs. Raises `Malformed`."""
    data = combine(function, inputs, how, key)
    special = [name for name in (asked.target, asked.weights, asked.offset) if name is not None]
    if len(set(special)) != len(special):
        raise Malformed("target, weights and offset are different columns")
    categorical = [asked.categorical] if isinstance(asked.categorical, str) else list(asked.categorical)
    names = _names(data, asked, special, categorical, least)
    found: dict[str, Any] = {}
    for name in names:
        if name in categorical or (asked.text and not data.is_number(name)):
            found[name] = data.categories(name)
        else:
            found[name] = data.numbers(name)
    target: Any = None
    if asked.target is not None:
        read = {"numbers": data.numbers, "flags": data.flags, "classes": data.categories}[asked.kind]
        target = read(asked.target)
    beside = {name: data.numbers(name) for name in (asked.weights, asked.offset) if name is not None}
    return _complete(data, asked, found, target, beside)


def _names(data: Combined, asked: Asked, special: list[str], categorical: list[str], least: int) -> list[str]:
    for name in special:
        data.source(name)
    aside = {*special, *asked.keep}
    left = [
        name for name in data.names if name not in aside and (data.is_number(name) or name in categorical)
    ]
    if not asked.columns:
        if least and not left:
            raise Malformed("no column of numbers is there beside the target: name others by columns")
        beside = [name for name in data.names if name not in aside and name not in left]
        if beside:
            data.say(f"{len(beside)} columns that are no numbers are not used: name them by columns")
        if not left:
            return []
        return data.chosen(left)
    names = data.chosen(asked.columns, least)
    for name in special:
        if name in names:
            raise Malformed(
                f"the column {name!r} is used twice: as a column, and as target, weights or offset"
            )
    if unknown := [name for name in categorical if name not in names]:
        raise Malformed(f"categorical names {unknown[0]!r}, which is no column of this model")
    return names


def _complete(
    data: Combined, asked: Asked, found: dict[str, Any], target: Any, beside: dict[str, Any]
) -> Design:
    import numpy as np

    columns = [*found.values(), *beside.values(), *([] if target is None else [target])]
    kept = data.complete(*columns) if columns else np.ones(data.rows, bool)
    weights = beside.get(asked.weights) if asked.weights is not None else None
    if weights is not None:
        if (weights[kept] < 0).any():
            raise Malformed("a weight is below 0")
        if nothing := int((weights[kept] == 0).sum()):
            data.say(f"{nothing} rows left out because their weight is 0")
        kept = kept & (weights > 0)
    reference = dict(asked.reference or {})
    encoded = [
        _encoded(data, name, column, kept, reference.pop(name, None), asked.whole)
        for name, column in found.items()
    ]
    if reference:
        raise Malformed(f"reference names {next(iter(reference))!r}, which is no column of categories here")
    width = sum(feature.width for feature, _ in encoded)
    if width > limits.LEARNED_FEATURES:
        raise Malformed(
            f"{width} features, the limit is {limits.LEARNED_FEATURES}: leave columns of many levels out"
        )
    matrix = np.empty((int(kept.sum()), width))
    at = 0
    for feature, block in encoded:
        matrix[:, at : at + feature.width] = block
        at += feature.width
    classes: tuple[Label, ...] | None = None
    if isinstance(target, Categories):
        classes, target = _classes(asked.target or "", target, kept)
    elif target is not None:
        target = target[kept]
    offset = beside.get(asked.offset) if asked.offset is not None else None
    design = Design(
        data,
        tuple(feature for feature, _ in encoded),
        matrix,
        target,
        classes,
        None if weights is None else weights[kept],
        None if offset is None else offset[kept],
        np.flatnonzero(kept),
    )
    return _in_order(design)


def _in_order(design: Design) -> Design:
    import numpy as np

    beside = [item for item in (design.target, design.weights, design.offset) if item is not None]
    # Both zeros are one.
    matrix = design.matrix + 0.0
    keys = [*matrix.T, *beside]
    if any(len(item) and np.abs(item).max() > LARGEST for item in keys):
        raise Malformed(f"numbers above {LARGEST:g} are no use here: scale the columns")
    if not keys:
        return design
    order = _sorted(keys)

    def sorted_(item: Any) -> Any:
        return None if item is None else np.ascontiguousarray(item[order] + 0.0)

    return replace(
        design,
        matrix=np.ascontiguousarray(matrix[order]),
        target=sorted_(design.target),
        weights=sorted_(design.weights),
        offset=sorted_(design.offset),
        places=design.places[order],
    )


def _sorted(keys: list[Any]) -> Any:
    """Row numbers in the order of the first key, of rows that are equal there in that of the second, and so on: as
    `numpy.lexsort`, which sorts all rows by every key.
    """
    import numpy as np

    order = np.argsort(keys[0], kind="stable")
    new = np.zeros(len(order), bool)
    new[:1] = True
    for before, key in pairwise(keys):
        ordered = before[order]
        new[1:] |= ordered[1:] != ordered[:-1]
        # Places where rows stand that are equal to a neighbour so far.
        tied = np.flatnonzero(~new | ~np.append(new[1:], True))
        if not len(tied):
            break
        groups = np.cumsum(new)[tied]
        rows = order[tied]
        order[tied] = rows[np.lexsort([key[rows], groups])]
    return order


def scaling(design: Design, scale: bool) -> tuple[Any, Any, Any]:
    """What is taken away from each feature, by what it is divided then, and the matrix after that. With `scale` these
    are mean and standard deviation (with n); else 0 and 1. Raises `Malformed` for a constant one with `scale`.
    """
    import numpy as np

    width = design.matrix.shape[1]
    if not scale:
        return np.zeros(width), np.ones(width), design.matrix
    design.varies()
    centre, by = design.matrix.mean(axis=0), design.matrix.std(axis=0)
    return centre, by, (design.matrix - centre) / by


def enough(design: Design, least: int, what: str) -> None:
    """Raises `Malformed` if there are fewer rows."""
    if design.rows < least:
        raise Malformed(
            f"{design.rows} rows with a value in every column are too few for {what}: {least} are needed"
        )


def one_thread() -> None:
    """Keep scikit-learn from asking the system how many processors there are: a child may not start a program."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def within(name: str, value: float, most: float, least: float = 1) -> None:
    """Raises `Malformed` unless an argument lies between these."""
    if not least <= value <= most:
        raise Malformed(f"{name} is from {least:g} to {most:g}")


def matrix_of(values: Any) -> tuple[tuple[float, ...], ...]:
    """An array of two dimensions as a document has it."""
    return tuple(tuple(row) for row in values.tolist())


def _encoded(
    data: Combined, name: str, column: Any, kept: Any, reference: Any, whole: bool
) -> tuple[Feature, Any]:
    """A column's feature and its numbers, shape (rows, width)."""
    import numpy as np

    if not isinstance(column, Categories):
        if reference is not None:
            raise Malformed(
                f"reference names {name!r}, which is a column of numbers: name it by categorical too"
            )
        return Feature(name=name, levels=None, reference=None), column[kept][:, None]
    codes = column.codes[kept]
    places = np.unique(codes)
    levels = [column.texts[place] for place in places]
    if any(len(level) > limits.LEARNED_LEVEL_CHARS for level in levels):
        raise Malformed(f"the column {name!r} has texts that are too long for categories")
    if len(set(levels)) != len(levels):
        raise Malformed(f"the column {name!r} has two values that are the same as text")
    if not levels:
        raise Malformed("no row has a value in every column: nothing is left to learn from")
    base: str | None = None
    if not whole:
        if len(levels) == 1:
            raise Malformed(f"the column {name!r} has the same level in all rows: leave it out")
        base = levels[0] if reference is None else text_of(reference)
        if base not in levels:
            raise Malformed(f"the reference of {name!r} is a level that no row has")
        data.say(f"{name!r} has {len(levels)} levels, of which one is the reference")
    shown = [place for place, level in zip(places, levels, strict=True) if level != base]
    block = (codes[:, None] == np.asarray(shown, codes.dtype)[None, :]).astype(np.float64)
    return Feature(name=name, levels=tuple(levels), reference=base), block


def _classes(name: str, target: Categories, kept: Any) -> tuple[tuple[Label, ...], Any]:
    """The labels that rows have, in order, and the number of each row's one."""
    import numpy as np

    places, numbers = np.unique(target.codes[kept], return_inverse=True)
    labels = target.labels.take(places).to_pylist()
    labels = [label if isinstance(label, bool | int | float | str) else text_of(label) for label in labels]
    if any(isinstance(label, str) and len(label) > limits.LEARNED_LEVEL_CHARS for label in labels):
        raise Malformed(f"the column {name!r} has texts that are too long for classes")
    return tuple(labels), numbers.astype(np.float64)


__all__ = [
    "LARGEST",
    "Asked",
    "Design",
    "enough",
    "gather",
    "matrix_of",
    "one_thread",
    "scaling",
    "text_of",
    "within",
]
