"""``mesatee task``: propose, understand, agree, run, take home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import InputError, Malformed
from ..party import config, functions, results, tasks
from ..party.session import Session
from ..protocol import limits, statements, wire
from ..protocol.model import validate
from . import classes, taskview
from .common import (
    AsJson,
    Settings,
    emit,
    line,
    moment,
    pairs,
    progress,
    say,
    settings,
    short,
    size,
    table,
    typed,
    verb,
)
from .common import out as console_out
from .function import named

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Task = Annotated[str, typer.Argument(help="Name, AUTHOR/NAME or digest of the task.")]
Run = Annotated[
    str | None, typer.Option("--run", help="Which run, by the first digits of its digest [the newest].")
]


@app.command("new")
@verb
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What you call it.")],
    function: Annotated[
        str, typer.Option("--function", "-f", help="The function to run: NAME or OWNER/NAME.")
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="INPUT=[OWNER/]DATASET, INPUT=newest:[OWNER/]DATASET or INPUT=output:TASK/OUTPUT; may be repeated.",
        ),
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="ARGUMENT=VALUE, as JSON or text; repeatable.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="OUTPUT=PARTY[,PARTY...]: who receives it; may be repeated."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=limits.RUNS, help="How often it may run.")] = 1,
    days: Annotated[float, typer.Option(help="For how many days.")] = 7.0,
    min_level: Annotated[
        int | None, typer.Option(min=1, max=5, help="Least level of the worker [service or trust file].")
    ] = None,
    tee: Annotated[
        list[str] | None, typer.Option(help="Accepted TEE class; may be repeated [trust file].")
    ] = None,
    worker: Annotated[
        list[str] | None, typer.Option(help="Accepted measurement; repeatable [service file].")
    ] = None,
    allow_simulated: Annotated[bool, typer.Option(help="Accept workers in simulated hardware.")] = False,
    environment: Annotated[
        str | None,
        typer.Option(
            help="Digest, or name of one built here by `mesatee env` [the function's, else the base]."
        ),
    ] = None,
    seconds: Annotated[
        int, typer.Option(min=1, max=limits.RUN_SECONDS, help="Limit of one run's time.")
    ] = 600,
    memory_mib: Annotated[
        int, typer.Option(min=64, max=1024 * 1024, help="Limit of one run's memory, in MiB.")
    ] = 2048,
    output_mib: Annotated[
        int,
        typer.Option(min=1, max=limits.BLOB_BYTES // limits.MIB, help="Limit of one output's size, in MiB."),
    ] = 256,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of one run.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Propose a task. It runs when everybody whose data or result it is has approved it.

    The output `diagnostics` (messages and errors of the function) exists only if you name who receives it.
    """
    chosen = settings(context)
    receivers = {
        port: [item for item in names.split(",") if item] for port, names in pairs(to or [], "--to").items()
    }
    bounds = _checked(
        statements.RunLimits,
        seconds=seconds,
        cpu_seconds=min(seconds * max(threads, 1), limits.RUN_SECONDS),
        memory_bytes=memory_mib * limits.MIB,
        output_bytes=output_mib * limits.MIB,
        threads=threads,
    )
    accept = _accept(chosen, min_level, tee or [], worker or [], allow_simulated)
    with chosen.session() as session:
        posted = tasks.new(
            session,
            name,
            function=function,
            inputs=pairs(input or [], "--input"),
            outputs=receivers,
            arguments=_arguments(session, function, pairs(arg or [], "--arg")),
            accept=accept,
            environment=_environment(chosen, session, function, environment),
            runs=runs,
            days=days,
            run_limits=bounds,
        )
        view = session.task(posted.digest)
    value = {"digest": posted.digest, "index": posted.index, "task": view.model_dump(mode="json")}

    def human(console: Console) -> None:
        line(console, f"task {name} is {posted.digest}, log entry {posted.index}")
        taskview.show_approvals(console, view)

    emit(as_json, value, human)


def _checked(kind: type[statements.RunLimits], **fields: int) -> statements.RunLimits:
    return validate(kind, fields, "limits")


def _accept(
    chosen: Settings, level: int | None, tees: list[str], workers: list[str], simulated: bool
) -> statements.Accept:
    """From options; else from the service file; else from the worker part of the trust file."""
    classes.check(tees)
    for item in workers:
        if not config.MEASUREMENT.match(item):
            raise Malformed(
                "--worker is a measurement: 64 to 128 hex digits",
                hint="`mesatee measure` prints that of its own installation",
            )
    trust, service = chosen.trust().worker, chosen.service_file()
    if tees and not workers and service is not None and not set(tees) & set(service.tees):
        raise Malformed(
            f"no worker can be both: the measurements of the service file are of class {' or '.join(service.tees)}, "
            f"and the task accepts {' or '.join(tees)}",
            hint="name the workers of that class, too: --worker MEASUREMENT",
        )
    pinned = list(trust.measurements) if trust.measurements != "any" else []
    value = {
        "min_level": level if level is not None else (service.level if service else trust.minimum_level),
        "tees": tees or list(service.tees if service else trust.tees),
        "workers": workers or list(service.workers if service else pinned),
        "allow_simulated": simulated or trust.allow_simulated,
    }
    if not value["workers"] or not value["tees"]:
        raise Malformed(
            "nothing says which workers the task accepts",
            hint="name them by --worker and --tee, or in the trust file",
        )
    return validate(statements.Accept, value, "accepted workers")


def _environment(chosen: Settings, session: Session, function: str, wanted: str | None) -> str:
    """The one that is named, else the one that the function asks for, else the service's base."""
    found = named(chosen, wanted) or functions.find(session, function, in_use=True).environment
    if found is not None:
        return found
    service = chosen.service_file()
    if service is None:
        raise Malformed(
            "nothing says in which environment the task runs", hint="name its digest by --environment"
        )
    return service.environment


def _arguments(session: Session, function: str, given: dict[str, str]) -> dict[str, Any]:
    """Text for arguments of type str; for all others JSON."""
    if not given:
        return {}
    types = {str(item.get("name")): item.get("type") for item in functions.find(session, function).arguments}
    return typed(types, given)


@app.command("list")
@verb
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tasks that concern you, and what they wait for."""
    with settings(context).session() as session:
        found, me = session.tasks(), session.identity.id
    value = {"tasks": [item.model_dump(mode="json") for item in found]}
    rows = [
        (item.name, short(item.digest), item.author_name, item.state, len(item.runs), _waits(item, me))
        for item in found
    ]
    columns = ("name", "digest", "by", "state", "runs", "waits for")
    emit(as_json, value, lambda console: table(console, columns, rows, "No task concerns you yet."))


def _waits(view: wire.TaskView, me: str) -> str:
    missing = [item for item in view.approvals if item.state not in ("approved", "automatic")]
    return ", ".join("YOU" if item.party == me else item.name for item in missing) or "-"


@app.command("show")
@verb
def show(context: typer.Context, task: Task, as_json: AsJson = False) -> None:
    """Show all that an approval of a task would agree to, verified from signed statements."""
    with settings(context).session() as session:
        found = tasks.review(session, tasks.find(session, task))
        me = session.identity.id
    emit(as_json, taskview.as_dict(found), lambda console: taskview.show_review(console, found, me))


@app.command("approve")
@verb
def approve(
    context: typer.Context,
    task: Task,
    days: Annotated[
        float | None, typer.Option(help="Approve for this many days [as long as the task lives].")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Agree to a task by signature: to exactly this code, data, receivers and limits, and nothing else."""
    with settings(context).session() as session:
        found = tasks.review(session, tasks.find(session, task))
        tasks.check_approvable(session, found)
        if not as_json:
            taskview.show_review(console_out(), found, session.identity.id)
        if not yes:
            _ask("Sign this approval?", task)
        posted = tasks.approve(session, found, days)
    said = posted.statement.predicate.model_dump(mode="json")
    value = {"digest": posted.digest, "index": posted.index}
    value |= {key: said[key] for key in ("task", "id", "expires")}

    def human(console: Console) -> None:
        text = f"approved, until {moment(said['expires'])}; id {said['id']}, log entry {posted.index}"
        line(console, text, "bold")

    emit(as_json, value, human)


def _ask(question: str, task: str) -> None:
    """Nothing is signed without a yes. Raises `InputError` if nobody can be asked or the answer is another."""
    if not sys.stdin.isatty():
        raise InputError(
            "nobody was there to ask, so nothing was signed",
            hint=f"look at `mesatee task show {task}`, then give --yes",
        )
    if not typer.confirm(question, err=True):
        raise InputError("you did not say yes, so nothing was signed", hint="`--yes` does not ask")


@app.command("withdraw")
@verb
def withdraw(context: typer.Context, task: Task, as_json: AsJson = False) -> None:
    """Take all your approvals of a task back. A run under way stops, and no result of it is released."""
    with settings(context).session() as session:
        view = tasks.find(session, task)
        back = sum(item.in_force for item in view.approvals if item.party == session.identity.id)
        posted = tasks.withdraw(session, view)
    value = {"digest": posted.digest, "index": posted.index, "approvals": back}

    def human(console: Console) -> None:
        count = "your approval is" if back == 1 else f"all {back} approvals of yours are"
        line(console, f"{count} withdrawn since log entry {posted.index}")

    emit(as_json, value, human)


@app.command("run")
@verb
def run(
    context: typer.Context,
    task: Task,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Wait, and take your outputs home into this new folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run your task once. Everybody asked must have approved."""
    found: results.Result | None = None
    with settings(context).session() as session:
        view = tasks.find(session, task, own=True)
        if out is not None:
            # In most cases one exchange brings the result; a long run is followed to its end.
            posted, _, found = results.invoke(session, view, out)
        else:
            posted = tasks.run(session, view)
        ended = None
        if wait or out is not None:
            ended = _follow(session, view.digest, posted.digest, None, quiet=as_json)
        if out is not None and found is None and ended is not None and ended.status == "finished":
            found = results.take(session, session.task(view.digest), out, posted.digest)
    value: dict[str, Any] = {"digest": posted.digest, "index": posted.index, "task": view.digest}
    if ended is not None:
        value["run"] = ended.model_dump(mode="json")
    if found is not None:
        value["outputs"] = {name: str(path) for name, path in found.outputs.items()}
        value["receipt_file"] = str(found.receipt_file)

    def human(console: Console) -> None:
        line(console, f"run {posted.digest}, log entry {posted.index}")
        if found is not None:
            _show_outputs(console, found)

    emit(as_json, value, human)
    if ended is not None and ended.status != "finished":
        raise typer.Exit(1)


@app.command("trigger")
@verb
def trigger(
    context: typer.Context,
    task: Task,
    every: Annotated[
        int | None,
        typer.Option(
            min=limits.TRIGGER_SECONDS,
            max=limits.APPROVAL_SECONDS,
            help="Run it each so many seconds [whenever an input is newer].",
        ),
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="For this many days [as long as the task lives].")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop all triggers of the task.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the service run your task by itself: on a schedule, or whenever one of its inputs is newer.

    Each run counts as one of the task's runs, and needs the same approvals as one that you begin.
    """
    with settings(context).session() as session:
        view = tasks.find(session, task, own=True)
        made = tasks.stop_triggers(session, view) if stop else [tasks.trigger(session, view, every, days)]
    value = {"triggers": [{"digest": item.digest, "index": item.index} for item in made], "stopped": stop}
    text = (
        f"{len(made)} trigger(s) stopped" if stop else f"trigger {made[0].digest}, log entry {made[0].index}"
    )
    emit(as_json, value, lambda console: line(console, text))


def _show_outputs(console: Console, found: results.Result) -> None:
    for name, path in found.outputs.items():
        line(console, f"{name}: {path} ({size(path.stat().st_size)})")
    line(console, f"receipt: {found.receipt_file} (check it again by `mesatee verify`)")


@app.command("watch")
@verb
def watch(
    context: typer.Context,
    task: Task,
    run: Run = None,
    seconds: Annotated[float | None, typer.Option(help="Give up after this time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a run until it has ended. Exit code 1 if it did not finish."""
    with settings(context).session() as session:
        view = tasks.find(session, task)
        ended = _follow(session, view.digest, run, seconds, quiet=as_json)
    emit(as_json, {"run": ended.model_dump(mode="json")}, lambda console: taskview.show_run(console, ended))
    if ended.status != "finished":
        raise typer.Exit(1)


def _follow(
    session: Session, task: str, run: str | None, seconds: float | None, *, quiet: bool
) -> wire.RunView:
    def changed(now: wire.RunView) -> None:
        if not quiet:
            again = f", attempt {now.attempts}" if now.attempts > 1 else ""
            say(f"{short(now.digest)} is {now.status}{again}")

    return tasks.watch(session, task, run, seconds=seconds, changed=changed)


@app.command("cancel")
@verb
def cancel(context: typer.Context, task: Task, run: Run = None, as_json: AsJson = False) -> None:
    """Stop a run, or all runs of the task that have not ended."""
    with settings(context).session() as session:
        posted = tasks.cancel(session, tasks.find(session, task), run)
    value = {"cancelled": [{"digest": item.digest, "index": item.index} for item in posted]}
    emit(as_json, value, lambda console: line(console, f"{len(posted)} run(s) cancelled"))


@app.command("result")
@verb
def result(
    context: typer.Context,
    task: Task,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for outputs and receipt.")],
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Take your outputs of a run home: verify the receipt, download, open."""
    with settings(context).session() as session, progress("downloading", None) as told:
        found = results.take(session, tasks.find(session, task), out, run, told)
        names = {item.id: item.keys.name for item in session.parties()}
    value = {
        "folder": str(found.folder),
        "outputs": {name: str(path) for name, path in found.outputs.items()},
        "receipt_file": str(found.receipt_file),
        "receipt": found.receipt.as_dict(),
    }

    def human(console: Console) -> None:
        _show_outputs(console, found)
        taskview.show_receipt(console, found.receipt, names)

    emit(as_json, value, human)
    if found.receipt.failure is not None:
        raise typer.Exit(1)


__all__ = ["app"]
