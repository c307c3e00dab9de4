"""Options and verbs of mock data: what an owner publishes for it, and making it from a dataset's statement."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError, Malformed
from ..party import data, files, marginals
from ..party import mock as made_up
from ..protocol import limits
from .common import AsJson, emit, line, say, settings, verb

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


MockRows = Annotated[int, typer.Option("--rows", min=1, max=limits.MOCK_ROWS, help="Rows of mock data.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same rows.")]
Missing = Annotated[
    str,
    typer.Option(
        "--missing",
        help="Share of missing values, from 0 to 1, where the owner published none and the schema allows them.",
    ),
]
ROWS = 100


def share(text: str) -> Fraction:
    """A number from 0 to 1, exactly. Raises `Malformed`."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise Malformed(f"a share is a number from 0 to 1, not {text[:32]!r}")
    return value


@verb
def mock(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name, OWNER/NAME or digest.")],
    rows: MockRows = ROWS,
    seed: Seed = 0,
    missing: Missing = "0",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to [NAME.mock.EXTENSION here].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make mock data from a dataset's signed schema and, if its owner published them, noisy marginals.

    No real row is used, nor could it be: you do not have them. Each value is drawn by itself, column by column.
    """
    portion = share(missing)
    with settings(context).session() as session:
        view = data.find(session, dataset)
        said = made_up.statement(session, view)
    made = made_up.make(said, rows, seed, portion)
    target = out or Path(f"{said.name}{made_up.SUFFIX}.{said.format}")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}", hint="make it first")
    with files.replacing(target, exclusive=not force) as file:
        made_up.write(made, said, file)
    value: dict[str, Any] = {
        "mock": True,
        "file": str(target),
        "dataset": view.digest,
        "format": said.format,
        "rows": rows,
        "seed": seed,
        "columns": [item.model_dump(mode="json") for item in said.columns],
        "measured": list(made.measured),
        "epsilon": None if said.marginals is None else said.marginals.epsilon / limits.EPSILON_UNIT,
    }

    def human(console: Console) -> None:
        line(console, f"{target}: {rows} rows of mock data, {said.format}; no row of it is real")
        if made.measured:
            line(console, f"like the data, with noise, one by one: {', '.join(made.measured)}")
        else:
            line(console, "the owner published no marginals: values follow from the columns' types alone")
        for name in made.empty:
            say(f"warning: the column {name} is empty: nothing is made up for its type")

    emit(as_json, value, human)
