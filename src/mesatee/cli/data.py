"""``mesatee data``: seal, register, list, open."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console

from ..errors import Malformed
from ..party import data, files, functions, marginals, protected
from ..party import mock as made_up
from ..party.session import Session
from ..protocol import limits, wire
from ..protocol import policy_text as policies
from ..protocol.marginals import Marginals
from ..protocol.model import TableFormat
from . import cards, classes
from .common import AsJson, emit, facts, line, moment, progress, say, settings, short, size, table, verb
from .leaving import BudgetOption, Digits, LetOut, MaxRows, MinGroup, Multiple
from .mock import MockMissing, MockRange, MockValues, mock, mock_plan

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command("mock")(mock)

Format = Annotated[
    str | None, typer.Option("--format", help="csv, parquet, arrow, json or bytes [by extension].")
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        help="A column by which rows are told apart: it must be there, and you are warned of double ones. Nothing "
        "of it is stored; may be repeated.",
    ),
]


def table_format(text: str | None) -> TableFormat | None:
    """Raises `Malformed`."""
    if text is not None and text not in get_args(TableFormat):
        raise Malformed(
            f"there is no format {text[:32]!r}", hint=f"there are {', '.join(get_args(TableFormat))}"
        )
    return cast("TableFormat | None", text)


@app.command("seal")
@verb
def seal(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A CSV, Parquet, Arrow, JSON or other file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to [FILE.age].")] = None,
    format: Format = None,
    key: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Seal a file to your own age key, on this machine. Nothing is sent."""
    identity = settings(context).identity()
    with progress("sealing", file.stat().st_size) as told:
        made = data.seal(identity, file, out, format=table_format(format), keys=key or (), progress=told)
    value = _sealed(made)
    emit(as_json, value, lambda console: _show_sealed(console, made))


def _sealed(made: data.SealedFile) -> dict[str, Any]:
    return {
        "file": str(made.path),
        "sha256": made.digest,
        "size": made.size,
        "format": made.shape.format,
        "rows": made.shape.rows,
        "columns": [item.model_dump(mode="json") for item in made.shape.columns],
        "doubts": list(made.shape.doubts),
    }


def _show_sealed(console: Console, made: data.SealedFile) -> None:
    line(console, f"{made.path}: {made.shape.format}, {size(made.size)}, {short(made.digest)}")
    _show_shape(console, made.shape)


def _show_shape(console: Console, shape: data.Shape) -> None:
    """What everybody sees of it once it is registered."""
    columns = ", ".join(f"{item.name} ({item.type})" for item in shape.columns)
    rows = f"{shape.rows} rows" if shape.rows is not None else ""
    said = "; ".join(filter(None, (f"columns {columns}" if columns else "", rows)))
    if said:
        line(console, f"{said}. Every registered party sees this much of what you register.")
    for doubt in shape.doubts:
        say(f"warning: {doubt}")


@app.command("put")
@verb
def put(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="A file to seal first, or one ending in .age that is sealed already.")
    ],
    name: Annotated[str | None, typer.Option(help="The dataset's name [the file's].")] = None,
    format: Format = None,
    key: Keys = None,
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
        bool,
        typer.Option("--new-version", help="It is the newer version of your dataset of this name."),
    ] = False,
    min_group: MinGroup = None,
    max_rows: MaxRows = None,
    let_out: LetOut = None,
    digits: Digits = None,
    multiple: Multiple = None,
    budget: BudgetOption = None,
    mock_epsilon: Annotated[
        str | None,
        typer.Option(help="Publish noisy counts for mock data, and spend this in all (1 is usual) [none]."),
    ] = None,
    mock_range: MockRange = None,
    mock_values: MockValues = None,
    mock_missing: MockMissing = None,
    as_json: AsJson = False,
) -> None:
    """Seal a file if need be, upload the ciphertext, and register it as a dataset.

    The plaintext never leaves this machine. Without policy options, whatever task you approve by signature
    may use it. What may leave of it can be limited whatever the task; such limits are part of what you sign.
    """
    chosen = settings(context)
    identity = chosen.identity()
    plan = mock_plan(mock_epsilon, mock_range, mock_values, mock_missing)
    protection = protected.make(
        min_group=min_group,
        max_rows=max_rows,
        columns=let_out or (),
        digits=digits,
        multiple=multiple,
        budget=budget,
    )
    name = name or file.name.removesuffix(data.SEALED).split(".")[0]
    with chosen.session() as session:
        text = policy_of(session, policy, min_level, tee or [], only or [], days, approve_automatically)
        with ExitStack() as stack:
            if file.suffix == data.SEALED:
                made = data.sealed_file(
                    identity, file, format=table_format(format), keys=key or (), plan=plan
                )
            else:
                # The ciphertext is only on its way to the service: `data open` brings the file back.
                folder = stack.enter_context(TemporaryDirectory(prefix=".mesatee-", dir=_beside(file)))
                target = Path(folder) / (file.name + data.SEALED)
                with progress("sealing", file.stat().st_size) as told:
                    made = data.seal(
                        identity,
                        file,
                        target,
                        format=table_format(format),
                        keys=key or (),
                        plan=plan,
                        progress=told,
                    )
            with progress("uploading", made.size) as told:
                posted = data.put(
                    session,
                    made,
                    name,
                    policy=text,
                    protection=protection,
                    new_version=new_version,
                    progress=told,
                )
            spent = 0 if plan is None else made_up.spent(session, name)
    value = {"digest": posted.digest, "index": posted.index, "name": name, "policy": text, **_sealed(made)}
    value["file"] = str(file)
    value["protection"] = None if protection is None else protection.model_dump(mode="json")
    value["epsilon_of_all_versions"] = spent / limits.EPSILON_UNIT
    value["marginals"] = (
        None if made.shape.marginals is None else made.shape.marginals.model_dump(mode="json")
    )

    def human(console: Console) -> None:
        line(console, f"{made.shape.format}, {size(made.size)} sealed, {short(made.digest)}")
        _show_shape(console, made.shape)
        if made.shape.marginals is not None:
            for text in marginals.explain(made.shape.marginals, [item.name for item in made.shape.columns]):
                line(console, text)
            line(console, f"all datasets that you named {name} have spent {spent / limits.EPSILON_UNIT:g}")
        if protection is not None:
            line(console, "of it may leave: " + "; ".join(protected.explain(protection)))
        line(console, f"dataset {name} is {posted.digest}, log entry {posted.index}")

    emit(as_json, value, human)


def _beside(file: Path) -> Path | None:
    """The file's own folder, where there is room for its like; the system's for temporary files if not
    writable.
    """
    return file.parent if os.access(file.parent, os.W_OK) else None


def policy_of(
    session: Session,
    path: Path | None,
    min_level: int | None,
    tees: list[str],
    only: list[str],
    days: float | None,
    automatic: bool,
) -> str:
    """The policy that options say, or a file. Raises `Malformed` or `NotFound`."""
    if path is not None:
        if min_level is not None or tees or only or days is not None or automatic:
            raise Malformed("a policy file says everything; leave the other policy options out")
        try:
            text = files.read(path, limits.POLICY_BYTES, "policy file").decode()
        except UnicodeDecodeError:
            raise Malformed(
                f"the policy file {path} is not UTF-8", hint="docs/policy.md has the schema and examples"
            ) from None
        classes.warn(text)
        return text
    classes.check(tees)
    return policies.dataset(
        min_level=min_level,
        tees=tees,
        functions=[functions.find(session, item).digest for item in only],
        not_after=None if days is None else session.now() + round(days * 86_400),
        approve_automatically=automatic,
    )


@app.command("list")
@verb
def list_(
    context: typer.Context,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own.")] = False,
    retired: Annotated[bool, typer.Option("--retired", help="Also those out of use.")] = False,
    as_json: AsJson = False,
) -> None:
    """List datasets: what they hold, never their values."""
    chosen = settings(context)
    with chosen.session() as session:
        me = session.identity.id
        found = [
            item
            for item in session.datasets()
            if (retired or not item.retired) and (not mine or item.owner == me)
        ]
    value = {"datasets": [item.model_dump(mode="json") for item in found]}
    rows = [
        (
            item.name,
            item.owner_name,
            short(item.digest),
            item.format if item.card is None else f"{item.card.kind} model",
            _count(item.rows),
            size(item.size),
            item.uses,
        )
        for item in found
    ]
    columns = ("name", "owner", "digest", "format", "rows", "size", "runs")
    emit(
        as_json,
        value,
        lambda console: table(console, columns, rows, "No dataset yet: `mesatee data put FILE`."),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


@app.command("show")
@verb
def show(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name, OWNER/NAME or digest.")],
    as_json: AsJson = False,
) -> None:
    """Show a dataset: columns, policy, and who used it."""
    with settings(context).session() as session:
        view = data.find(session, dataset)
        uses = data.uses(session, view.digest)
        counted = made_up.statement(session, view).marginals
        names = {item.id: item.keys.name for item in session.parties()}
    value = {**view.model_dump(mode="json"), "used_by": [asdict(item) for item in uses]}
    value["marginals"] = None if counted is None else counted.model_dump(mode="json")
    emit(as_json, value, lambda console: _show(console, view, uses, names, counted))


def in_use(view: wire.DatasetView | wire.FunctionView) -> str:
    """Whether its owner has taken it out of use, in words."""
    if view.retired:
        return "no, retired"
    return "no, disabled for now" if view.suspended else "yes"


def _show(
    console: Console,
    view: wire.DatasetView,
    uses: list[data.Use],
    names: dict[str, str],
    counted: Marginals | None,
) -> None:
    rows: list[tuple[str, object]] = [
        ("name", view.name),
        ("digest", view.digest),
        ("owner", f"{view.owner_name} ({short(view.owner)})"),
        ("format", view.format),
        ("rows", _count(view.rows)),
        ("ciphertext", f"{size(view.size)}, sha256 {view.blob}"),
        ("log entry", view.index),
        ("version", view.version),
        (
            "mock data",
            "from types alone"
            if counted is None
            else f"from types and marginals, epsilon {counted.epsilon / limits.EPSILON_UNIT:g}",
        ),
        ("in use", in_use(view)),
    ]
    facts(console, rows)
    line(console, "")
    table(console, ("column", "type"), [(item["name"], item["type"]) for item in view.columns], "No columns.")
    line(console, "")
    if view.card is not None:
        line(console, "model", "bold")
        for text in cards.explain(view.card):
            line(console, "  " + text)
        line(console, "")
    if view.protection is not None:
        line(console, "what may leave", "bold")
        said = protected.explain(view.protection)
        for text in said + protected.left(view.protection, view.spent, names):
            line(console, "  " + text)
        line(console, "")
    line(console, "policy", "bold")
    for text in view.policy.rstrip("\n").split("\n"):
        line(console, "  " + text)
    line(console, "")
    used = [
        (moment(use.time), use.task_name, names.get(use.by, use.by[:12]), use.status, short(use.run))
        for use in uses
    ]
    table(console, ("used at", "task", "by", "state", "run"), used, "No run that concerns you has used it.")


@app.command("rm")
@verb
def rm(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name or digest of your dataset.")],
    as_json: AsJson = False,
) -> None:
    """Take your dataset out of use: no new run, no key release from now on. The log keeps its history."""
    with settings(context).session() as session:
        posted = data.retire(session, dataset)
    value = {"digest": posted.digest, "index": posted.index}
    emit(
        as_json,
        value,
        lambda console: line(console, f"{dataset} is out of use since log entry {posted.index}"),
    )


@app.command("disable")
@verb
def disable(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name or digest of your dataset.")],
    as_json: AsJson = False,
) -> None:
    """Take your dataset out of use for a while: until you enable it no task names it, and no run begins or gets
    keys. What runs already runs on.
    """
    _suspend(context, dataset, True, as_json)


@app.command("enable")
@verb
def enable(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name or digest of your dataset.")],
    as_json: AsJson = False,
) -> None:
    """Bring your dataset back into use."""
    _suspend(context, dataset, False, as_json)


def _suspend(context: typer.Context, dataset: str, suspended: bool, as_json: bool) -> None:
    with settings(context).session() as session:
        posted = data.suspend(session, dataset, suspended=suspended)
    value = {"digest": posted.digest, "index": posted.index, "suspended": suspended}
    state = "out of use for now" if suspended else "in use again"
    emit(as_json, value, lambda console: line(console, f"{dataset} is {state}, log entry {posted.index}"))


@app.command("open")
@verb
def open_(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Name or digest of your dataset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download your own dataset and open it on this machine."""
    with settings(context).session() as session:
        view = data.find(session, dataset, own=True)
        with progress("downloading", view.size) as told:
            count = data.open_own(session, view.digest, out, replace=force, progress=told)
    value = {"file": str(out), "size": count, "digest": view.digest}
    emit(as_json, value, lambda console: line(console, f"{out}: {size(count)}"))


__all__ = ["app", "in_use", "table_format"]
