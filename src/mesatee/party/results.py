"""Results: released to one of their receivers, verified, fetched and opened."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import (
    Conflict,
    Denied,
    DigestMismatch,
    Malformed,
    NotFound,
    ReceiptInvalid,
    TaskFailed,
)
from ..protocol import limits, statements, wire, wraps
from ..protocol.digests import WRAP_BYTES, b64decode, is_hex
from ..protocol.jsonstrict import canonical
from . import data, files
from .http import Progress
from .session import Posted, Session
from .tasks import WAIT_SECONDS, check_statement, choose_run
from .verify import VerifiedReceipt, verify_bundle

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


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs that were opened, and the verified receipt."""

    folder: Path
    outputs: Mapping[str, Path]
    receipt_file: Path
    receipt: VerifiedReceipt


def take(
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
    if chosen.status == "failed" and "diagnostics" not in _mine(session, view):
        raise TaskFailed(chosen.failure or "unknown")
    # 1. Release.
    posted = session.post(statements.CollectStatement, run=chosen.digest)
    if posted.result is None:
        raise Malformed("the gateway released no result")
    return _open(session, view, chosen.digest, posted.result, target, {}, progress)


def _mine(session: Session, view: wire.TaskView) -> set[str]:
    """The outputs that the task gives to this party."""
    _, said = check_statement(view)
    me = session.identity.id
    return {name for name, keys in said.outputs.items() if any(item.signing == me for item in keys)}


def _open(
    session: Session,
    view: wire.TaskView,
    run: str,
    released: wire.ResultReply,
    target: Path,
    here: Mapping[str, bytes],
    progress: Progress | None = None,
) -> Result:
    """Steps 2 to 5 of `take`; `here` are sealed outputs by digest that need no fetching."""
    # 2. Receipt.
    receipt = verify_bundle(released.bundle, session.trust, session.now(), session.endorsements())
    if receipt.run != run or receipt.task != view.digest:
        raise ReceiptInvalid("the receipt is of another run")
    if receipt.service != session.service.digest:
        raise ReceiptInvalid("the receipt is of another service")
    # 3. Outputs.
    if set(released.wraps) != _mine(session, view) & set(receipt.outputs):
        raise ReceiptInvalid("the gateway released other outputs than the task gives to this party")
    # 4. and 5. Open.
    making = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    files.private_folder(making)
    try:
        paths = {}
        for name in sorted(released.wraps):
            paths[name] = name + EXTENSIONS[receipt.outputs[name].format]
            sealed = here.get(receipt.outputs[name].sha256)
            _open_output(session, receipt, name, released.wraps[name], making / paths[name], sealed, progress)
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
    session: Session,
    receipt: VerifiedReceipt,
    name: str,
    wrap: str,
    target: Path,
    sealed: bytes | None,
    progress: Progress | None,
) -> None:
    facts = receipt.outputs[name]
    binding = wraps.result(receipt.origin, receipt.run, name, facts.sha256, session.identity.id)
    raw = b64decode(wrap, max_bytes=WRAP_BYTES)
    key = session.identity.hpke.unwrap_file_key(raw, binding.info, binding.aad)
    data.download(session, facts.sha256, facts.size, key, target, here=sealed, progress=progress)


def invoke(
    session: Session, view: wire.TaskView, target: Path, wait: int = WAIT_SECONDS
) -> tuple[Posted, wire.Invoked, Result | None]:
    """Run a task once and take the result home in the same exchange, into the new folder `target`.

    The result is None if the run has not ended within `wait` seconds (`watch` and `take` go on from there), or has
    failed without an output for this party. Raises as `run` and `take`.
    """
    _free(target)
    if not _mine(session, view):
        raise Denied(
            "you receive no output of this task", hint="run it without --out; its receivers take the result"
        )
    posted, reply = session.invoke(view.digest, wait)
    found = None
    if reply.result is not None:
        blobs = {name: b64decode(text, max_bytes=limits.INLINE_BYTES) for name, text in reply.blobs.items()}
        found = _open(session, view, posted.digest, reply.result, target, blobs)
    return posted, reply, found


__all__ = ["EXTENSIONS", "Result", "compare", "invoke", "take"]
