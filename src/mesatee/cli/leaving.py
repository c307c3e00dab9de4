"""Options that say what may leave of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

MinGroup = Annotated[
    int | None,
    typer.Option(help="What may leave: rows of an output that stand for at least so many rows [any]."),
]
MaxRows = Annotated[
    int | None, typer.Option(help="What may leave: tables of at most so many rows [any number].")
]
LetOut = Annotated[
    list[str] | None,
    typer.Option("--let-out", help="What may leave: a column of an output; may be repeated [all]."),
]
Digits = Annotated[
    int | None,
    typer.Option(help="What may leave: numbers with a fraction, with so many significant digits [all]."),
]
Multiple = Annotated[
    int | None, typer.Option(help="What may leave: whole numbers, as the nearest multiple of this [exactly].")
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="What may leave: differentially private answers alone, of this epsilon for each party in all, or "
        "EACH:TOTAL with one for all parties together; EACH:TOTAL:DELTA lets nets be trained, too [no such limit].",
    ),
]

__all__ = ["BudgetOption", "Digits", "LetOut", "MaxRows", "MinGroup", "Multiple"]
