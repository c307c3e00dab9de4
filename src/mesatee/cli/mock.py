"""Options and verbs of mock data: what an owner publishes for it, and making it from a dataset's statement."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import Malformed
from ..party import marginals

MockRange = Annotated[
    list[str] | None,
    typer.Option(
        help="COLUMN=LOW:HIGH[:BINS]: count a column of numbers, dates or times in equal bins between bounds that you "
        "name, not the data; may be repeated."
    ),
]
MockValues = Annotated[
    list[str] | None,
    typer.Option(help="COLUMN=VALUE,VALUE: count these values of a column of text; may be repeated."),
]
MockMissing = Annotated[
    list[str] | None, typer.Option(help="COLUMN: count only how many values are missing; may be repeated.")
]


def mock_plan(
    epsilon: str | None,
    ranges: list[str] | None,
    values: list[str] | None,
    missing: list[str] | None,
) -> marginals.Plan | None:
    """What the options ask to be counted; None if nothing. Raises `Malformed` or `TooLarge`."""
    if epsilon is None:
        if ranges or values or missing:
            raise Malformed(
                "what is to be counted for mock data is named, but not what that may cost",
                hint="add --mock-epsilon 1",
            )
        return None
    return marginals.Plan.parse(epsilon, ranges=ranges or (), values=values or (), missing=missing or ())
