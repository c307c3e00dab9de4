"""``mesatee model``: what an owner of models does with them, from any framework's file to a sealed dataset."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from ..errors import Conflict, InputError, Malformed
from ..party import data, files, protected
from ..party.http import visible
from ..protocol import limits
from ..protocol.model_card import ModelCard, describe
from . import cards, models
from .common import AsJson, emit, facts, line, pairs, progress, say, settings, short, size, table, verb
from .data import _beside, policy_of
from .leaving import MaxRows

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

CARD_BYTES: Final = 64 * limits.KIB
"""A card in TOML, in bytes."""
CARD_FIELDS: Final = ("columns", "licence", "metrics", "runs", "warm")
OPERATORS_SHOWN: Final = 12
VALUES_SHOWN: Final = 6

File = Annotated[
    Path,
    typer.Argument(
        help="A model: ONNX, XGBoost (JSON, UBJ), LightGBM (text), or a JSON document of trees or of a learner."
    ),
]


@app.command("inspect")
@verb
def inspect(context: typer.Context, file: File, as_json: AsJson = False) -> None:
    """Say what a model file is, and whether a worker would take it. Nothing of it is run, nothing is sent."""
    seen = models.look(models.load(file))
    emit(as_json, {"file": str(file), **seen.as_dict()}, lambda console: _show(console, file, seen))


def _show(console: Console, file: Path, seen: models.Look) -> None:
    rows: list[tuple[str, object]] = [
        ("file", file),
        ("kind", seen.kind),
        ("format", visible(str(seen.details["format"]))),
        ("size", size(seen.size)),
        ("sha256", seen.digest),
    ]
    rows += [("input", visible(describe(item))) for item in seen.inputs]
    rows += [("output", visible(describe(item))) for item in seen.outputs]
    if seen.columns:
        rows.append(("columns", visible(", ".join(seen.columns))))
    for name in ("parameters", "nodes", "trees", "features"):
        if name in seen.details:
            rows.append((name, f"{seen.details[name]:,}"))
    operators = seen.details.get("operators")
    if operators:
        most = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{visible(name)} {count}" for name, count in most[:OPERATORS_SHOWN])
        rest = len(most) - OPERATORS_SHOWN
        rows.append(("operators", f"{shown} and {rest} more kinds" if rest > 0 else shown))
    facts(console, rows)


# -- import ----------------------------------------------------------------------------------------


@app.command("import")
@verb
def import_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A model's file, or folder (SavedModel, Caffe).")],
    framework: Annotated[
        str,
        typer.Option("--from", help="tensorflow, keras, pytorch, sklearn, xgboost, lightgbm or caffe."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the converted model goes.")],
    sample: Annotated[
        Path | None,
        typer.Option(help="Real input to compare on: .npz by name, .npy, or .csv [made up]."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=1,3,224,224: the shape of an input that does not say it; may be repeated."),
    ] = None,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel.")] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", help="A tensor that comes out of a frozen graph; may be repeated."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The weights of a Caffe net.")] = None,
    packages: Annotated[
        Path | None,
        typer.Option(
            help="The site-packages of an environment of your own that has the framework, for this Python "
            "[one is built once, from a lock that comes with MesaTEE]."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="The largest deviation, relative to the largest value.")
    ] = 1e-4,
    as_json: AsJson = False,
) -> None:
    """Convert another framework's model, and compare both on the same input.

    The framework reads the model in a process that is confined as functions are: no network, no file but the model and
    its own packages. What came out is run in the sandbox, and refused if it deviates.
    """
    from .convert import importing

    if out.exists():
        raise Conflict(f"{out} exists already", hint="name a new file by --out")
    wanted = importing.Wanted(
        sample=sample,
        shapes={name: _lengths(name, text) for name, text in pairs(shape or [], "--shape").items()},
        signature=signature,
        outputs=output or (),
        weights=weights,
        packages=packages,
        tolerance=tolerance,
    )
    made = importing.run(framework, source, settings(context).home, wanted, say)
    seen = models.look(made.model)
    with files.replacing(out, exclusive=True) as file:
        file.write(made.model)
    value = {
        "file": str(out),
        "from": framework,
        "versions": dict(made.versions),
        "tolerance": tolerance,
        "deviations": [item.as_dict() for item in made.deviations],
        "layers": list(made.layers),
        **seen.as_dict(),
    }

    def human(console: Console) -> None:
        by = ", ".join(f"{name} {version}" for name, version in made.versions.items())
        line(console, f"{out}: {seen.kind}, {size(seen.size)}, sha256 {short(seen.digest)}")
        rows = [
            (visible(item.output), str(item.shape), f"{item.absolute:.3g}", f"{item.relative:.3g}")
            for item in made.deviations
        ]
        line(console, f"compared with {visible(by)}")
        table(console, ("output", "shape", "largest difference", "of the largest value"), rows, "No output.")
        line(console, f"next: `mesatee model put {out} --licence ...`")

    emit(as_json, value, human)


def _lengths(name: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(item) for item in text.split(","))
    except ValueError:
        found = ()
    if not 1 <= len(found) <= limits.MODEL_RANK or any(
        not 1 <= item <= limits.MODEL_EXTENT for item in found
    ):
        raise InputError(
            f"--shape {name} is whole numbers with commas", hint=f"for example {name}=1,3,224,224"
        )
    return found


# -- test ------------------------------------------------------------------------------------------


@app.command("test")
@verb
def try_out(
    context: typer.Context,
    file: File,
    data: Annotated[
        Path | None,
        typer.Option(help="Rows (CSV, Parquet, Arrow), or tensors by name (.safetensors, .npz) [made up]."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="So many made-up rows.")] = 4,
    arg: Annotated[
        list[str] | None, typer.Option(help="ARGUMENT=VALUE of the function that runs it; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the output to this new file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a model on this machine, in the sandbox that a worker has, by the function that a task would name."""
    from . import trying

    if out is not None and out.exists():
        raise Conflict(f"{out} exists already", hint="name a new file by --out")
    content = models.load(file)
    seen = models.look(content)
    made = trying.run(seen, content, data, rows, pairs(arg or [], "--arg"))
    if out is not None:
        with files.replacing(out, exclusive=True) as target:
            target.write(made.content)
    value = {"file": str(file), "kind": seen.kind, "digest": seen.digest, **made.as_dict()}

    def human(console: Console) -> None:
        line(console, f"{file} by {made.function}, {made.origin}", "bold")
        for text in made.shown():
            line(console, text)
        line(console, f"{made.seconds:.3f} s, {size(made.memory_bytes)} of memory")

    emit(as_json, value, human)


# -- put and list ----------------------------------------------------------------------------------


@app.command("put")
@verb
def put(
    context: typer.Context,
    file: File,
    name: Annotated[str | None, typer.Option(help="The dataset's name [the file's].")] = None,
    card: Annotated[
        Path | None, typer.Option(help="A file in TOML: licence, metrics, columns, runs, warm.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Card: an SPDX expression, or some words.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Card: NAME=NUMBER, how good it is; may be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Card: a column of its rows, in order; may be repeated.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, max=limits.RUNS, help="Card: runs that each caller has [any number].")
    ] = None,
    warm: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=limits.MODEL_WARM_SECONDS,
            help="Card: seconds for which a worker may keep it loaded after a run [0].",
        ),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A file with a Cedar policy.")] = None,
    min_level: Annotated[
        int | None, typer.Option(min=1, max=5, help="Policy: least level of the worker.")
    ] = None,
    tee: Annotated[
        list[str] | None, typer.Option(help="Policy: a TEE class of the worker; may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--function", help="Policy: a function that may use it; may be repeated."),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Policy: usable for this many days.")] = None,
    approve_automatically: Annotated[
        bool, typer.Option(help="Policy: tasks with the functions named need no signature of yours.")
    ] = False,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="It is the newer version of your model of this name.")
    ] = False,
    max_rows: MaxRows = None,
    as_json: AsJson = False,
) -> None:
    """Seal a model, upload the ciphertext, and register it with its card, which every party reads.

    The model never leaves this machine in plaintext, and no receiver of a task's outputs gets it: only what a function
    that you approve makes of it.
    """
    chosen = settings(context)
    identity = chosen.identity()
    seen = models.look(models.load(file))
    said = _card(seen, card, licence, metric or (), column or (), runs, warm)
    protection = protected.make(max_rows=max_rows)
    name = name or file.name.split(".")[0]
    with chosen.session() as session, TemporaryDirectory(prefix=".mesatee-", dir=_beside(file)) as folder:
        text = policy_of(session, policy, min_level, tee or [], only or [], days, approve_automatically)
        with progress("sealing", seen.size) as told:
            sealed = data.seal(
                identity, file, Path(folder) / f"{file.name}{data.SEALED}", format="bytes", progress=told
            )
        with progress("uploading", sealed.size) as told:
            posted = data.put(
                session,
                sealed,
                name,
                policy=text,
                protection=protection,
                card=said,
                new_version=new_version,
                progress=told,
            )
    value = {
        "digest": posted.digest,
        "index": posted.index,
        "name": name,
        "file": str(file),
        "sha256": sealed.digest,
        "size": sealed.size,
        "policy": text,
        "card": said.model_dump(mode="json"),
    }

    def human(console: Console) -> None:
        for text in cards.explain(said):
            line(console, text)
        line(console, "Every registered party reads this card; nobody reads the model.")
        line(console, f"model {name} is dataset {posted.digest}, log entry {posted.index}")

    emit(as_json, value, human)


def _card(
    seen: models.Look,
    file: Path | None,
    licence: str | None,
    metrics: Sequence[str],
    columns: Sequence[str],
    runs: int | None,
    warm: int | None,
) -> ModelCard:
    """Of a file, of options, or of both: an option counts more. Raises `Malformed` or `InputError`."""
    said = {} if file is None else _toml(file)
    measured = dict(said.get("metrics", {}))
    for name, text in pairs(list(metrics), "--metric").items():
        try:
            measured[name] = float(text)
        except ValueError:
            raise InputError(f"--metric {name} is a number", hint="for example auc=0.91") from None
    found = licence if licence is not None else said.get("licence")
    if not isinstance(found, str):
        raise InputError(
            "a card says under which licence the model is", hint="--licence Apache-2.0, or some words"
        )
    return models.card(
        seen,
        licence=found,
        metrics=measured,
        columns=list(columns) or said.get("columns", ()),
        runs=runs if runs is not None else said.get("runs"),
        warm=warm if warm is not None else said.get("warm", 0),
    )


def _toml(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(files.read(file, CARD_BYTES, "card").decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Malformed(
            f"the card {file} is no TOML: {error}", hint="docs/models.md has an example"
        ) from None
    strange = sorted(set(found) - set(CARD_FIELDS))
    if strange:
        raise Malformed(
            f"the card {file} has {strange[0][:64]!r}, which is none of {', '.join(CARD_FIELDS)}",
            hint="kind, inputs and outputs are read from the model itself",
        )
    types = {"columns": list, "licence": str, "metrics": dict, "runs": int, "warm": int}
    for name, value in found.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise Malformed(f"the card's {name} is of another type", hint="docs/models.md has an example")
    if any(
        isinstance(value, bool) or not isinstance(value, int | float)
        for value in found.get("metrics", {}).values()
    ):
        raise Malformed("the card's metrics are numbers by name", hint="docs/models.md has an example")
    return found


@app.command("list")
@verb
def list_(
    context: typer.Context,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own.")] = False,
    retired: Annotated[bool, typer.Option("--retired", help="Also those out of use.")] = False,
    as_json: AsJson = False,
) -> None:
    """List models by their cards. `mesatee data show NAME` says all of one, and who used it."""
    with settings(context).session() as session:
        me = session.identity.id
        found = [
            item
            for item in session.datasets()
            if item.card is not None and (retired or not item.retired) and (not mine or item.owner == me)
        ]
    rows = [
        (
            item.name,
            item.owner_name,
            short(item.digest),
            item.card.kind,
            visible("; ".join(map(describe, item.card.inputs))),
            visible("; ".join(map(describe, item.card.outputs))),
            visible(item.card.licence),
            "any" if item.card.runs is None else item.card.runs,
        )
        for item in found
        if item.card is not None
    ]
    columns = ("name", "owner", "digest", "kind", "inputs", "outputs", "licence", "runs each")
    emit(
        as_json,
        {"models": [item.model_dump(mode="json") for item in found]},
        lambda console: table(
            console, columns, rows, "No model yet: `mesatee model put FILE --licence ...`."
        ),
    )


__all__ = ["app"]
