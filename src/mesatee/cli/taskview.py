"""How tasks, runs and receipts are shown to people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console

from ..attestation.appraisal import LEVELS
from ..party import protected, tasks
from ..party.verify import VerifiedReceipt
from ..protocol import statements, wire
from ..protocol.sources import NewestDataset, OutputOf
from .common import facts, line, moment, short, size, table
from .function import show_function

WHICH: Final[Mapping[type, str]] = {str: "dataset ", NewestDataset: "newest ", OutputOf: "output "}


def as_dict(found: tasks.Review) -> dict[str, Any]:
    """A reviewed task as JSON."""
    shown = found.function
    return {
        "digest": found.digest,
        "author": found.author,
        "author_name": found.author_name,
        "task": found.said.model_dump(mode="json"),
        "function": None
        if shown is None
        else {
            "digest": shown.digest,
            "owner": shown.owner,
            "statement": shown.said.model_dump(mode="json"),
            "source": shown.code.decode("utf-8", "replace") if shown.code is not None else None,
        },
        "inputs": [
            {
                "input": item.port,
                "source": item.source
                if isinstance(item.source, str)
                else item.source.model_dump(mode="json"),
                "title": item.title,
                "digest": item.digest,
                "owners": dict(item.owners),
                "statement": item.said.model_dump(mode="json") if item.said else None,
            }
            for item in found.inputs
        ],
        "needed": found.needed,
        "view": found.view.model_dump(mode="json"),
    }


def show_review(console: Console, found: tasks.Review, me: str) -> None:
    """Everything that an approval agrees to."""
    said = found.said
    line(
        console,
        f"task {said.name} by {found.author_name} ({short(found.author)}): {found.view.state}",
        "bold",
    )
    line(console, f"digest {found.digest}")
    line(console, "")
    if found.function is None:
        line(
            console,
            f"function {said.function}: private code of somebody else; its owner has to approve, too",
            "bold",
        )
    else:
        show_function(console, found.function)
    if said.arguments:
        line(console, "arguments: " + json.dumps(said.arguments, sort_keys=True))
    line(console, "")
    rows = [
        (
            item.port,
            WHICH[type(item.source)] + item.title,
            ", ".join(name + (" (YOU)" if who == me else "") for who, name in item.owners.items()) or "?",
            item.said.format if item.said else "-",
            short(item.digest) if item.digest else "not there yet",
        )
        for item in found.inputs
    ]
    table(console, ("reads", "what", "of", "format", "digest"), rows, "It reads no data.")
    for item in found.inputs:
        if item.said is not None and item.said.protection is not None:
            text = "; ".join(protected.explain(item.said.protection))
            line(console, f"of {item.title} may leave: {text}")
    line(console, "")
    receivers = [
        (name, ", ".join(f"{keys.name} ({short(keys.signing)})" for keys in keyed))
        for name, keyed in sorted(said.outputs.items())
    ]
    table(console, ("gives", "to"), receivers, "")
    line(console, "")
    show_conditions(console, said)
    line(console, "")
    show_approvals(console, found.view)
    for run in found.view.runs:
        show_run(console, run)
    for trigger in found.view.triggers:
        when = f"each {trigger.every} s" if trigger.every else "whenever an input is newer"
        line(
            console, f"runs by itself {when}: {trigger.state.replace('_', ' ')}, {trigger.fired} times so far"
        )


def show_conditions(console: Console, said: statements.TaskStatement) -> None:
    """Where, how often and until when."""
    accept = said.accept
    simulated = " simulated hardware too" if accept.allow_simulated else ""
    rows = [
        ("level", f"{accept.min_level} ({LEVELS[accept.min_level]}) or higher"),
        ("TEE classes", ", ".join(accept.tees) + simulated),
        ("workers", ", ".join(accept.workers)),
        ("environment", said.environment),
        ("runs", said.runs),
        ("until", moment(said.expires)),
        ("limits of a run", f"{said.limits.seconds} s, {size(said.limits.memory_bytes)} of memory"),
    ]
    facts(console, rows)


def show_approvals(console: Console, view: wire.TaskView) -> None:
    """Who has to approve, and whether they did, as the gateway says."""
    rows = [
        (item.name, item.state, item.reason, moment(item.expires), item.id or "-") for item in view.approvals
    ]
    table(console, ("approval of", "state", "because it", "until", "id"), rows, "It needs no approval.")


def show_run(console: Console, run: wire.RunView) -> None:
    """One line."""
    failure = f": {run.failure}" if run.failure and run.failure != run.status else ""
    line(console, f"run {short(run.digest)} of {moment(run.time)}: {run.status}{failure}")


def show_receipt(console: Console, receipt: VerifiedReceipt, names: Mapping[str, str] | None = None) -> None:
    """What a verified receipt proves, and what it does not. `names` are those of parties, by id."""

    def who(party: str) -> str:
        return f"{names[party]} ({short(party)})" if names and party in names else short(party)

    rows: list[tuple[str, object]] = [
        ("task", f"{receipt.task_name} ({receipt.task})"),
        ("run", receipt.run),
        ("function", f"{receipt.function_name} ({receipt.function})"),
        ("arguments", json.dumps(dict(receipt.arguments), sort_keys=True)),
    ]
    rows += [
        (f"input {item.name}", f"{item.title} of {', '.join(map(who, item.owners))} ({item.digest})")
        for item in receipt.inputs
    ]
    for given in receipt.approvals:
        how = "by signature" if given.how == "signature" else "by its standing policy"
        by = f"{given.name} ({given.party[:12]})" if given.name else who(given.party)
        rows.append((f"approved by {by}", f"{how}; {given.reason}"))
    for name, output in receipt.outputs.items():
        rows.append((f"output {name}", f"{size(output.size)} to {', '.join(receipt.receivers[name])}"))
    if receipt.protection is not None:
        rows.append(("what was let out", "; ".join(protected.explain(receipt.protection)) or "-"))
        titles = {item.digest: item.title for item in receipt.inputs}
        rows += [
            (f"budget of {titles[digest]}", f"epsilon {protected.epsilon(amount)}, once for this question")
            for digest, amount in receipt.protection.charges.items()
        ]
    simulated = ", SIMULATED" if receipt.simulated else ""
    rows += [
        ("outcome", receipt.failure or "finished"),
        ("worker", f"level {receipt.level} ({LEVELS[receipt.level]}), {receipt.tee}{simulated}"),
        ("its limits", receipt.level_reason),
        ("sandbox", ", ".join(receipt.layers) or "-"),
        (
            "gateway",
            f"level {receipt.gateway_level}, {receipt.gateway_tee}"
            + (", SIMULATED" if receipt.gateway_simulated else ""),
        ),
        ("log", f"{receipt.origin}, entry {receipt.log_index} of {receipt.log_size}"),
        (
            "time",
            f"{moment(receipt.time)} (by the {'parties' if receipt.time_source == 'parties' else 'host'})",
        ),
    ]
    facts(console, rows)


__all__ = ["as_dict", "show_approvals", "show_conditions", "show_receipt", "show_review", "show_run"]
