"""Options that say how a function's file is to be read, the same for all verbs that take one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Entry = Annotated[str | None, typer.Option(help="Which function of the file [the only public one].")]
ExecutorName = Annotated[
    str | None,
    typer.Option(help="python, mesapy or wasm [wasm for a module, else python].", metavar="EXECUTOR"),
]
ContractFile = Annotated[
    Path | None,
    typer.Option(
        help="TOML file: inputs, arguments, outputs, fuel and seconds of a module that does not carry them."
    ),
]
OutputNames = Annotated[
    list[str] | None,
    typer.Option(help="Name of an output, if the function returns a dict; may be repeated."),
]
OutputFormats = Annotated[
    list[str] | None,
    typer.Option("--format", help="OUTPUT=csv|parquet|arrow|json|bytes; may be repeated."),
]

__all__ = ["ContractFile", "Entry", "ExecutorName", "OutputFormats", "OutputNames"]
