"""Tasks: write one, understand what it asks, agree to it or not, run it, and take its result home."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..attestation.trust import TEES
from ..errors import (
    Conflict,
    Denied,
    DigestMismatch,
    Expired,
    KeyRefused,
    Malformed,
    NotFound,
    QuotaExceeded,
    ReceiptInvalid,
    StateError,
    TaskFailed,
    TimedOut,
)
from ..protocol import envelope as dsse
from ..protocol import limits, statements, wire, wraps
from ..protocol.consent import must_approve
from ..protocol.digests import WRAP_BYTES, b64decode, is_hex
from ..protocol.jsonstrict import canonical
from . import data, files, functions, names
from .http import Progress
from .session import Posted, Session
from .verify import VerifiedReceipt, verify_bundle

DAY_SECONDS: Final = 86_400
WAIT_SECONDS: Final = 20
"""One long poll of `watch`, in seconds."""
ENDED: Final = frozenset({"finished", "failed", "cancelled"})
"""States that a run never leaves."""
ENCRYPTED_LEVEL: Final = 4
REACHES: Final[Mapping[str, int]] = {"none": 1, "software": 2, "tpm": 3, "azure-vtpm": 5}
"""The highest level of a TEE class; of those not here `ENCRYPTED_LEVEL`. See docs/levels.md."""
EXTENSIONS: Final = {
    "csv": ".csv",
    "parquet": ".parquet",
    "arrow": ".arrow",
    "json": ".json",
    "bytes": ".bin",
}
RECEIPT_FILE: Final = "receipt.json"
SUMS_FILE: Final = "SHA256SUMS"
"""Beside the receipt, as ``sha256sum -c`` reads it: what `result` wrote. Nobody has signed it."""
SUMS_BYTES: Final = 64 * limits.KIB
"""It names at most one file for each output."""
AGAIN: Final = "take the result home again: `mesatee task result TASK --out FOLDER`"


def find(session: Session, wanted: str, *, own: bool = False) -> wire.TaskView:
    """A task by name, ``AUTHOR/NAME``, digest or unique prefix. Raises `NotFound`, `Conflict`, and `Denied` for one of
    somebody else where it must be one's `own`.
    """
    return names.find_owned(session.tasks(), wanted, "task", only=session.identity.id if own else None)


def new(
    session: Session,
    name: str,
    *,
    function: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, Sequence[str]],
    accept: statements.Accept,
    environment: str,
    arguments: Mapping[str, Any] | None = None,
    runs: int = 1,
    days: float = 7.0,
    run_limits: statements.RunLimits | None = None,
) -> Posted:
    """Propose a task.

    `inputs` and `outputs` map the function's names to datasets and to names of receiving parties. The full
    keys of receivers come from their own signed statements. `accept` and `environment` say where it may run.
    Raises `NotFound` or `Conflict` for names, `Malformed` for a task that nobody could run, and what the gateway
    objects to.
    """
    names.check_name(name, "a task")
    _check_accept(accept)
    code = functions.find(session, function, in_use=True)
    if not outputs or not all(outputs.values()):
        given = ", ".join([*(str(item["name"]) for item in code.outputs), "diagnostics"])
        raise Malformed(
            "the task gives nobody a result", hint=f"name who gets one: --to OUTPUT=PARTY; outputs: {given}"
        )
    me = session.identity.id
    if any(item.author == me and item.name == name for item in session.tasks()):
        raise Conflict(f"you have a task {name} already", hint="choose another name for the new one")
    parties = session.parties()
    receivers = {
        output: tuple(
            names.find(parties, item, "party", lambda found: found.id, lambda found: found.keys.name).keys
            for item in wanted
        )
        for output, wanted in outputs.items()
    }
    return session.post(
        statements.TaskStatement,
        name=name,
        function=code.digest,
        environment=environment,
        inputs={port: data.find(session, wanted, in_use=True).digest for port, wanted in inputs.items()},
        arguments=dict(arguments or {}),
        outputs=receivers,
        accept=accept,
        limits=run_limits or statements.RunLimits(),
        runs=runs,
        expires=session.now() + round(days * DAY_SECONDS),
    )


def _check_accept(accept: statements.Accept) -> None:
    """Some machine can be what the task accepts: a level that one of the classes reaches, and a class that is known."""
    for tee in accept.tees:
        if tee not in TEES:
            raise Malformed(f"there is no TEE class {tee!r}", hint="known: " + ", ".join(TEES))
    best = max(REACHES.get(tee, ENCRYPTED_LEVEL) for tee in accept.tees)
    if best < accept.min_level:
        raise Malformed(
            f"no worker can be of level {accept.min_level} and of class {' or '.join(accept.tees)}: "
            f"the highest is level {best}",
            hint="lower --min-level, or name a class by --tee that reaches it, and its workers by --worker",
        )


# -- understanding a task --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReviewedInput:
    """A dataset that the task names, verified from the log."""

    port: str
    digest: str
    owner: str
    owner_name: str
    said: statements.DatasetStatement


@dataclass(frozen=True, slots=True)
class Review:
    """What a task asks, verified from signed statements; only `view` is what the gateway says."""

    digest: str
    author: str
    author_name: str
    said: statements.TaskStatement
    function: functions.Shown | None
    """None for a private function of somebody else: nobody but its owner can read it."""
    inputs: tuple[ReviewedInput, ...]
    view: wire.TaskView

    @property
    def needed(self) -> dict[str, str]:
        """Party -> why it has to approve. A private function of somebody else is not counted here."""
        shown = self.function
        owners = {item.port: item.owner for item in self.inputs}
        return must_approve(self.said, owners, (shown.owner, shown.said) if shown else None)


def check_statement(view: wire.TaskView) -> tuple[str, statements.TaskStatement]:
    """A task's author and statement: its digest is recomputed and its signature verified.

    Raises `KeyRefused`, `SignatureInvalid` or `Malformed`.
    """
    statement = statements.verify(dsse.from_dict(view.statement), "task")
    said = statement.predicate
    named = (view.digest, view.author)
    if (statement.digest, statement.signer) != named or not isinstance(said, statements.TaskStatement):
        raise KeyRefused("the task's statement is not the one that its digest names")
    return statement.signer, said


def review(session: Session, view: wire.TaskView) -> Review:
    """Everything that an approval of this task would agree to.

    1. The task's statement has the digest that would be signed, is signed by its author, and stands in the
    log.
    2. It is for the service that this session has verified.
    3. The function's statement has the digest that the task names and stands in the log; public code is the
    code of
       the digest in it.
    4. Each dataset's statement has the digest that the task names and stands in the log.
    5. Every receiver has exactly the keys that it registered by its own signature.

    Raises `TrustError`s, `DigestMismatch`, `LogCorrupt` or `NotFound`.
    """
    # 1. Task.
    author_id, said = check_statement(view)
    session.statement(view.index, "task", view.digest)
    # 2. Service.
    if said.service != session.service.digest or said.origin != session.service.said.origin:
        raise KeyRefused("the task is for another service statement")
    # 3. Function.
    shown = _function(session, said.function)
    # 4. Datasets.
    views = {item.digest: item for item in session.datasets()}
    inputs = tuple(_input(session, views, port, digest) for port, digest in sorted(said.inputs.items()))
    # 5. Receivers.
    known = {item.id: item.keys for item in session.parties()}
    for name, receivers in said.outputs.items():
        for keys in receivers:
            if known.get(keys.signing) != keys:
                raise KeyRefused(f"a receiver of {name} is not registered with exactly the keys in the task")
    author = known.get(author_id)
    return Review(view.digest, author_id, author.name if author else "?", said, shown, inputs, view)


def _function(session: Session, digest: str) -> functions.Shown | None:
    for item in session.functions():
        if item.digest == digest:
            if item.private and item.owner != session.identity.id:
                return None
            return functions.show(session, item)
    raise NotFound(f"the gateway does not show function {digest[:16]}")


def _input(session: Session, views: Mapping[str, wire.DatasetView], port: str, digest: str) -> ReviewedInput:
    if digest not in views:
        raise NotFound(f"the gateway does not show dataset {digest[:16]}")
    view = views[digest]
    statement = session.statement(view.index, "dataset", digest)
    said = statement.predicate
    if not isinstance(said, statements.DatasetStatement) or statement.signer != view.owner:
        raise KeyRefused(f"dataset {digest[:16]} is by another owner than the gateway says")
    return ReviewedInput(port, digest, view.owner, view.owner_name, said)


# -- agreeing and running --------------------------------------------------------------------------


def approve(session: Session, reviewed: Review, days: float | None = None) -> Posted:
    """Sign one's approval of a reviewed task; it ends with the task, or after `days`.

    Raises what `check_approvable` raises.
    """
    check_approvable(session, reviewed)
    now = session.now()
    expires = reviewed.said.expires if days is None else now + round(days * DAY_SECONDS)
    expires = min(expires, now + limits.APPROVAL_SECONDS)
    return session.post(
        statements.ApprovalStatement, task=reviewed.digest, id=secrets.token_hex(16), expires=expires
    )


def check_approvable(session: Session, reviewed: Review) -> None:
    """An approval by this party would say something new.

    Raises `Denied` if the task needs none of it, `Conflict` if one is in force, `Expired` if the task has ended and
    `QuotaExceeded` if its runs are spent.
    """
    me, said, view = session.identity.id, reviewed.said, reviewed.view
    asked = {item.party: item for item in view.approvals}
    if me not in reviewed.needed and me not in asked:
        raise Denied(
            "the task needs no approval of yours", hint="only owners and receivers of joint outputs approve"
        )
    if said.expires <= session.now():
        raise Expired("the task has ended: it cannot run any more", hint="ask its author for a new one")
    # As the gateway counts: a run that ended before any key was released has used nothing.
    spent = sum(1 for item in view.runs if item.attempts or item.status not in ENDED)
    if spent >= said.runs and all(item.status in ENDED for item in view.runs):
        raise QuotaExceeded(
            f"the task has had all of its {said.runs} runs: there is nothing left to approve",
            hint="ask its author for a new one",
        )
    if me in asked and asked[me].state == "approved":
        raise Conflict(
            "you have approved this already", hint=f"`mesatee task withdraw {view.name}` takes it back"
        )


def withdraw(session: Session, view: wire.TaskView) -> Posted:
    """Withdraw one's approvals of a task, all by one statement. A running run stops, and no result of it is released.

    Raises `StateError`.
    """
    for item in view.approvals:
        if item.party == session.identity.id and item.state == "approved" and item.id:
            return session.post(statements.WithdrawalStatement, task=view.digest, id=item.id)
    raise StateError("you have no approval of this task in force", hint="`mesatee task show` lists approvals")


def run(session: Session, view: wire.TaskView) -> Posted:
    """Run a task once; the answer's digest is the run's. Raises `NotApproved`, `PolicyDenied` and others."""
    return session.post(statements.RunStatement, task=view.digest)


def cancel(session: Session, view: wire.TaskView, wanted: str | None = None) -> list[Posted]:
    """Stop a run, or all that have not ended. Raises `StateError` if there is none."""
    open_runs = [item for item in view.runs if item.status not in ENDED]
    if wanted is not None:
        open_runs = [names.find(open_runs, wanted, "run", lambda item: item.digest, lambda item: item.digest)]
    if not open_runs:
        raise StateError("no run of this task is under way", hint="`mesatee task show` lists its runs")
    return [session.post(statements.CancelStatement, run=item.digest) for item in open_runs]


def choose_run(view: wire.TaskView, wanted: str | None = None) -> wire.RunView:
    """The run that starts with `wanted`, or the newest. Raises `NotFound` or `Conflict`."""
    if wanted is not None:
        return names.find(view.runs, wanted, "run", lambda item: item.digest, lambda item: item.digest)
    if not view.runs:
        raise NotFound("the task was never run", hint=f"`mesatee task run {view.name}`")
    return view.runs[-1]


def watch(
    session: Session,
    task: str,
    wanted: str | None = None,
    *,
    seconds: float | None = None,
    changed: Callable[[wire.RunView], None] | None = None,
) -> wire.RunView:
    """Follow a run until it has ended.

    `changed` is told of each new state; raises `TimedOut` after `seconds`.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    view = session.task(task)
    digest = choose_run(view, wanted).digest
    last: tuple[str, int] | None = None
    while True:
        found = next((item for item in view.runs if item.digest == digest), None)
        if found is None:
            raise Malformed("the gateway no longer shows the run")
        if (found.status, found.attempts) != last and changed:
            changed(found)
        last = (found.status, found.attempts)
        if found.status in ENDED:
            return found
        left = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.monotonic())
        if left <= 0:
            raise TimedOut(
                f"the run has not ended within {seconds} s", hint="it goes on; `mesatee task watch` again"
            )
        view = session.task(task, after=view.log_size, wait=max(1, int(left)))


# -- results ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs that were opened, and the verified receipt."""

    folder: Path
    outputs: Mapping[str, Path]
    receipt_file: Path
    receipt: VerifiedReceipt


def result(
    session: Session,
    view: wire.TaskView,
    target: Path,
    wanted: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Fetch one's outputs of a run into the new folder `target`, with the receipt bundle beside them.

    1. Ask for result release by a signed statement.
    2. Verify the receipt bundle offline, with the session's trust policy; it is of this run and task.
    3. The gateway released every output that the task gives to this party, and nothing else.
    4. Fetch each ciphertext and check its digest against the receipt; unwrap its key, which is bound to log,
    run, output,
       blob and receiver; open it.
    5. Only when all is well does `target` appear.

    Raises `ReceiptInvalid`, `TaskFailed` for a failed run without outputs for this party, `Conflict` if
    `target` exists.
    """
    chosen = choose_run(view, wanted)
    _free(target)
    _, said = check_statement(view)
    mine = {
        name
        for name, keys in said.outputs.items()
        if any(item.signing == session.identity.id for item in keys)
    }
    if chosen.status == "failed" and "diagnostics" not in mine:
        raise TaskFailed(chosen.failure or "unknown")
    # 1. Release.
    posted = session.post(statements.CollectStatement, run=chosen.digest)
    if posted.result is None:
        raise Malformed("the gateway released no result")
    released = posted.result
    # 2. Receipt.
    receipt = verify_bundle(released.bundle, session.trust, session.now(), session.endorsements())
    if receipt.run != chosen.digest or receipt.task != view.digest:
        raise ReceiptInvalid("the receipt is of another run")
    if receipt.service != session.service.digest:
        raise ReceiptInvalid("the receipt is of another service")
    # 3. Outputs.
    if set(released.wraps) != mine & set(receipt.outputs):
        raise ReceiptInvalid("the gateway released other outputs than the task gives to this party")
    # 4. and 5. Open.
    making = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    files.private_folder(making)
    try:
        paths = {}
        for name in sorted(released.wraps):
            paths[name] = name + EXTENSIONS[receipt.outputs[name].format]
            _open_output(session, receipt, name, released.wraps[name], making / paths[name], progress)
        bundle_file = RECEIPT_FILE if RECEIPT_FILE not in paths.values() else f"bundle-{RECEIPT_FILE}"
        files.write(making / bundle_file, canonical(released.bundle.model_dump(mode="json")))
        sums = [f"{_digest(making / path)}  {path}\n" for path in paths.values()]
        files.write(making / SUMS_FILE, "".join(sums).encode())
        try:
            making.rename(target)
        except OSError:
            raise Conflict(f"{target} exists already", hint="choose another folder") from None
    except BaseException:
        # Whatever stopped us, nothing half-done stays behind.
        shutil.rmtree(making, ignore_errors=True)
        raise
    with contextlib.suppress(OSError):
        files.sync_folder(target.parent)
    return Result(
        target, {name: target / path for name, path in paths.items()}, target / bundle_file, receipt
    )


def compare(receipt_file: Path) -> list[str] | None:
    """The names of the outputs beside a receipt, which are still those that `result` wrote; None if it kept no sums.

    A receipt names the sealed outputs, so it cannot tell an opened one from an altered one: the sums are a note of this
    machine, and as good as its disk. Raises `DigestMismatch` for an altered output and `Malformed` for a damaged note.
    """
    try:
        note = files.read(receipt_file.with_name(SUMS_FILE), SUMS_BYTES, "note of digests").decode(
            "utf-8", "replace"
        )
    except NotFound:
        return None
    found = []
    for text in note.splitlines():
        digest, _, name = text.partition("  ")
        if not is_hex(digest, 32) or not name or "/" in name or name.startswith("."):
            raise Malformed(f"{receipt_file.with_name(SUMS_FILE)} is damaged", hint=f"remove it, or {AGAIN}")
        path = receipt_file.with_name(name)
        if path.exists() and _digest(path) != digest:
            raise DigestMismatch(
                f"the receipt is valid, but {path} was altered: it is not what `mesatee task result` wrote",
                hint=AGAIN,
            )
        found += [name] if path.exists() else []
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise Conflict(f"{target} exists already", hint="choose another folder by --out")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}", hint="make it first")


def _open_output(
    session: Session, receipt: VerifiedReceipt, name: str, wrap: str, target: Path, progress: Progress | None
) -> None:
    facts = receipt.outputs[name]
    binding = wraps.result(receipt.origin, receipt.run, name, facts.sha256, session.identity.id)
    raw = b64decode(wrap, max_bytes=WRAP_BYTES)
    key = session.identity.hpke.unwrap_file_key(raw, binding.info, binding.aad)
    data.download(session, facts.sha256, facts.size, key, target, progress=progress)


__all__ = [
    "EXTENSIONS",
    "Result",
    "Review",
    "ReviewedInput",
    "approve",
    "cancel",
    "check_approvable",
    "check_statement",
    "choose_run",
    "compare",
    "find",
    "new",
    "result",
    "review",
    "run",
    "watch",
    "withdraw",
]
