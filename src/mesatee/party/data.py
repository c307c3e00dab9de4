"""An owner's data: look at it, seal it, register it, see who used it, open it again.

Everything here runs on the owner's own machine; what leaves it is ciphertext and signed statements.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from .. import _core
from ..errors import Conflict, DigestMismatch, InputError, Malformed, NotFound, TooLarge
from ..protocol import envelope as dsse
from ..protocol import limits, records, statements, wire, wraps
from ..protocol.digests import b64decode, b64encode
from ..protocol.marginals import Marginals
from ..protocol.model import TableFormat
from ..protocol.model_card import ModelCard
from ..protocol.policy_text import DEFAULT_DATASET_POLICY
from ..protocol.protection import Protection
from ..protocol.statements import ColumnInfo
from . import marginals, names
from .files import replacing
from .http import Progress, visible
from .identity import Identity
from .session import Posted, Session

if TYPE_CHECKING:
    from ..table import Table

FORMATS: Final[dict[str, TableFormat]] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".json": "json",
    ".bin": "bytes",
}
"""Formats by file extension."""
OTHER_SIGNS: Final = ";\t|(){}=:"
"""Characters that the name of a lone column has when the file is no CSV with commas."""
SHOWN_CHARS: Final = 40
SEALED: Final = ".age"
"""Extension of sealed files."""
MEMORY_BYTES: Final = 256 * limits.MIB
"""A sealed file up to this size is looked at in memory, a larger one in an unlinked file, in bytes."""
JSON_BYTES: Final = 256 * limits.MIB
"""JSON up to this size is parsed to see that it is JSON, in bytes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the owner's machine sees in a file."""

    format: TableFormat
    columns: tuple[ColumnInfo, ...]
    rows: int | None
    marginals: Marginals | None = None
    """With noise, if a plan asked for them."""
    doubts: tuple[str, ...] = ()
    """What looks like a mistake, in words for the owner. It stops nothing."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A sealed file, ready to be registered."""

    path: Path
    digest: str
    """SHA-256 of the ciphertext, hex."""
    size: int
    """Bytes of ciphertext."""
    file_key: _core.FileKey = field(repr=False)
    shape: Shape


# -- looking at files ------------------------------------------------------------------------------


def format_of(path: Path) -> TableFormat:
    """The format by extension, of ``x.csv`` and ``x.csv.age`` alike. Raises `Malformed`."""
    name = Path(path.stem) if path.suffix == SEALED else path
    found = FORMATS.get(name.suffix.lower())
    if found is None:
        raise Malformed(
            f"no format goes with the extension {visible(name.suffix)!r}",
            hint="name it by --format: csv, parquet, arrow, json or bytes",
        )
    return found


def describe(
    source: BinaryIO, format: TableFormat, keys: Sequence[str] = (), plan: marginals.Plan | None = None
) -> Shape:
    """Format, columns and rows of an open file, and what the `plan` wants counted, with noise.

    `keys` are columns that must be there. Raises what `marginals.measure` raises, `InputError` for an empty or
    unreadable file, columns without a name or with the same one, and missing keys; `TooLarge` for more columns than a
    statement holds.
    """
    size = os.fstat(source.fileno()).st_size
    if size == 0:
        raise InputError("the file is empty")
    if format not in ("csv", "parquet", "arrow"):
        if keys:
            raise InputError(f"a file of format {format} has no columns, so no key column")
        if plan is not None:
            raise InputError(f"a file of format {format} has no columns, so nothing to count for mock data")
        return Shape(format, (), _json_rows(source, size) if format == "json" else None)
    table = _read(source, format)
    found = list(table.schema)
    if len(found) > limits.COLUMNS:
        raise TooLarge(f"the table has {len(found)} columns, the limit is {limits.COLUMNS}")
    seen: set[str] = set()
    for column in found:
        if not 1 <= len(column.name) <= limits.COLUMN_CHARS:
            raise InputError(f"a column's name has 1 to {limits.COLUMN_CHARS} characters")
        if column.name in seen:
            raise InputError(f"two columns have the name {visible(column.name)!r}", hint="rename one of them")
        seen.add(column.name)
    for key in keys:
        if key not in seen:
            listed = ", ".join(visible(name) for name in sorted(seen)[:20])
            raise InputError(f"there is no column {visible(key)!r}", hint=f"there are: {listed}")
    if table.num_rows == 0:
        raise InputError("the table has no rows")
    columns = tuple(
        ColumnInfo(name=item.name, type=str(item.type)[: limits.NAME_CHARS], required=not item.nullable)
        for item in found
    )
    counted = None if plan is None else marginals.measure(table, plan)
    return Shape(format, columns, table.num_rows, counted, tuple(_doubts(table, format, keys)))


def _doubts(table: Table, format: TableFormat, keys: Sequence[str]) -> Iterator[str]:
    """What looks like a mistake: a CSV that is none of commas, keys that do not tell rows apart."""
    import pyarrow as pa

    names = table.columns
    if format == "csv" and len(names) == 1 and set(names[0]) & set(OTHER_SIGNS):
        yield (
            f"the only column is {visible(names[0][:SHOWN_CHARS])!r}: a CSV file here has commas between its columns "
            "and their names in its first line"
        )
    for key in keys:
        try:
            doubled = table.num_rows - len(table[key].unique())
        except pa.ArrowException:
            # A column of lists, say: nobody joins by it.
            continue
        if doubled:
            yield f"{doubled} rows have the same {visible(key)} as another row: a join by it multiplies them"


def _read(source: BinaryIO, format: TableFormat) -> Table:
    import pyarrow as pa

    from ..table import Format, Table

    try:
        # By descriptor, so that a file without a name is read like any other.
        found = Table.read(f"/proc/self/fd/{source.fileno()}", cast(Format, format))
        # Arrow decodes names only when they are asked for: here is where those that are not UTF-8 fail.
        _ = found.columns
        return found
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = visible(str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
        raise InputError(f"the file is not readable as {format}: {reason}") from None


def _json_rows(source: BinaryIO, size: int) -> int | None:
    if size > JSON_BYTES:
        return None
    source.seek(0)
    try:
        value = json.loads(source.read())
    except (ValueError, RecursionError):
        raise InputError("the file is not JSON") from None
    return len(value) if isinstance(value, list) else None


# -- sealing ---------------------------------------------------------------------------------------


def seal(
    identity: Identity,
    source: Path | bytes | Table,
    target: Path | None = None,
    *,
    format: TableFormat | None = None,
    keys: Sequence[str] = (),
    plan: marginals.Plan | None = None,
    progress: Progress | None = None,
) -> SealedFile:
    """Seal data to the identity's own age key.

    `source` is a file, bytes (of `format`) or a table; `target` defaults to the source's name with ``.age``.
    An existing target is never replaced. Raises what `describe` raises, `NotFound`, and `Conflict` if the
    target exists.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            try:
                opened: BinaryIO = stack.enter_context(source.open("rb"))
            except OSError as error:
                raise NotFound(f"cannot read {source}: {error.strerror}", hint="check the path") from None
            target = target or source.with_name(source.name + SEALED)
            format = format or format_of(source)
        else:
            opened, format = _in_memory(stack, source, format)
            if target is None:
                raise Malformed("data that is no file needs a target to be sealed into")
        shape = describe(opened, format, keys, plan)
        opened.seek(0)
        with replacing(target, exclusive=True) as file:
            sealed = _core.age_seal(opened.fileno(), file.fileno(), [identity.age.recipient], progress)
        return SealedFile(target, sealed.digest, sealed.size, sealed.file_key, shape)


def _in_memory(
    stack: ExitStack, source: bytes | Table, format: TableFormat | None
) -> tuple[BinaryIO, TableFormat]:
    file = stack.enter_context(os.fdopen(os.memfd_create("mesatee-source", os.MFD_CLOEXEC), "w+b"))
    if isinstance(source, bytes):
        if format is None:
            raise Malformed("bytes need a format", hint="csv, parquet, arrow, json or bytes")
        file.write(source)
    else:
        format = format or "parquet"
        if format not in ("csv", "parquet", "arrow"):
            raise Malformed("a table is sealed as csv, parquet or arrow")
        source.write(cast(BinaryIO, file), format)
    file.flush()
    return cast(BinaryIO, file), format


def sealed_file(
    identity: Identity,
    path: Path,
    *,
    format: TableFormat | None = None,
    keys: Sequence[str] = (),
    plan: marginals.Plan | None = None,
) -> SealedFile:
    """A file that any age tool has sealed to this identity's recipient; it is opened once to see what it
    holds.

    Raises `SealedDataCorrupt`, `KeyRefused` (sealed to somebody else), `Malformed`, and what `describe`
    raises.
    """
    format = format or format_of(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", hint="check the path") from None
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        file.seek(0)
        key = _core.age_file_key(file.fileno(), identity.age)
        file.seek(0)
        with _scratch(size, path.parent) as plain:
            _core.age_open(file.fileno(), plain.fileno(), key, limits.BLOB_BYTES)
            shape = describe(plain, format, keys, plan)
    return SealedFile(path, digest, size, key, shape)


def _scratch(size: int, folder: Path) -> BinaryIO:
    """A file without a name: in memory, or on the owner's own disk if it is large."""
    if size <= MEMORY_BYTES:
        return cast(BinaryIO, os.fdopen(os.memfd_create("mesatee-plain", os.MFD_CLOEXEC), "w+b"))
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))


# -- the service -----------------------------------------------------------------------------------


def put(
    session: Session,
    sealed: SealedFile,
    name: str,
    *,
    policy: str = DEFAULT_DATASET_POLICY,
    protection: Protection | None = None,
    card: ModelCard | None = None,
    new_version: bool = False,
    progress: Progress | None = None,
) -> Posted:
    """Upload a sealed file and register it as a dataset.

    The file key goes to the service's sealing key alone, bound to owner, ciphertext and log; the session has
    verified whose that is. `protection` says what may leave of it (`protected.make`), a `card` that it is a model. A
    `new_version` is what tasks read from now on that name the newest dataset of this name.
    Raises `Conflict` if the owner has a dataset of this name in use otherwise, and `NotFound` if there is none to have
    a new version of.
    """
    names.check_name(name, "a dataset")
    names.check_version(session.datasets(), session.identity.id, name, "dataset", new_version)
    with sealed.path.open("rb") as file:
        session.upload(sealed.digest, file, sealed.size, progress)
    return session.post(
        statements.DatasetStatement,
        name=name,
        blob=statements.BlobRef(sha256=sealed.digest, size=sealed.size),
        format=sealed.shape.format,
        columns=sealed.shape.columns,
        rows=sealed.shape.rows,
        policy=policy,
        marginals=sealed.shape.marginals,
        protection=protection,
        card=card,
        wrap=wrap_for_service(session, sealed.file_key, sealed.digest),
    )


def wrap_for_service(session: Session, key: _core.FileKey, blob: str) -> str:
    """A file key wrapped to the service, bound to its owner, blob and log (RFC 9180), base64."""
    said = session.service.said
    binding = wraps.upload(said.origin, session.identity.id, blob)
    return b64encode(key.wrap(b64decode(said.sealing_key, max_bytes=2048), binding.info, binding.aad))


def find(session: Session, wanted: str, *, own: bool = False, in_use: bool = False) -> wire.DatasetView:
    """A dataset by name, digest, prefix, or ``OWNER/NAME``. Raises `NotFound`, `Conflict`, and `Denied` for one of
    somebody else where it must be one's `own`.
    """
    items = [item for item in session.datasets() if not (in_use and item.retired)]
    return names.find_owned(items, wanted, "dataset", only=session.identity.id if own else None)


def retire(session: Session, wanted: str) -> Posted:
    """Take one's own dataset out of use: no new run, no new key release."""
    return session.post(
        statements.RetireStatement, target=find(session, wanted, own=True, in_use=True).digest
    )


def suspend(session: Session, wanted: str, *, suspended: bool) -> Posted:
    """Take one's own dataset out of use for a while, or back."""
    target = find(session, wanted, own=True, in_use=True).digest
    return session.post(statements.SuspendStatement, target=target, suspended=suspended)


def download(
    session: Session,
    blob: str,
    size: int,
    key: _core.FileKey | _core.AgeKey,
    target: Path,
    *,
    replace: bool = False,
    here: bytes | None = None,
    progress: Progress | None = None,
) -> int:
    """Fetch a sealed file, unless it is `here` already, check its digest, and open it into `target`; returns the
    plaintext's size.

    `target` appears whole or not at all. Raises `DigestMismatch`, `SealedDataCorrupt` or `Conflict`.
    """
    if target.exists() and not replace:
        raise Conflict(f"{target} exists already", hint="choose another name, or use --force")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}", hint="make it first")
    with tempfile.TemporaryFile(dir=target.parent) as sealed:
        digest = hashlib.sha256()

        def write(piece: bytes) -> None:
            digest.update(piece)
            sealed.write(piece)

        if here is None:
            done = session.download(blob, write, size, progress)
        else:
            write(here)
            done = len(here)
        if digest.hexdigest() != blob or done != size:
            raise DigestMismatch("the stored bytes are not those that the digest names")
        sealed.flush()
        sealed.seek(0)
        with replacing(target, exclusive=not replace) as file:
            return _core.age_open(sealed.fileno(), file.fileno(), key, limits.BLOB_BYTES)


def open_own(
    session: Session, wanted: str, target: Path, *, replace: bool = False, progress: Progress | None = None
) -> int:
    """Download and open one's own dataset; returns its size in bytes."""
    view = find(session, wanted, own=True)
    return download(
        session, view.blob, view.size, session.identity.age, target, replace=replace, progress=progress
    )


@dataclass(frozen=True, slots=True)
class Use:
    """A run that used a dataset. Who asked for it is verified; its state is what the gateway says."""

    task: str
    task_name: str
    by: str
    run: str
    time: int
    index: int
    status: str
    worker: dict[str, Any] | None


def uses(session: Session, dataset: str) -> list[Use]:
    """The runs that used a dataset, oldest first.

    Each run's statement is read from the log with its inclusion proof, and its author's signature is
    verified.
    """
    found = []
    for view in session.tasks():
        task = statements.verify(dsse.from_dict(view.statement), "task")
        said = task.predicate
        if task.digest != view.digest or not isinstance(said, statements.TaskStatement):
            raise DigestMismatch("a task's statement is not the one that its digest names")
        for run in view.runs:
            if dataset not in (*said.inputs.values(), *run.inputs.values()):
                continue
            record = session.record(run.index)
            found.append(
                Use(
                    task.digest,
                    said.name,
                    _began(record, run.digest, task),
                    run.digest,
                    record.time,
                    run.index,
                    run.status,
                    run.worker,
                )
            )
    return sorted(found, key=lambda item: item.index)


def _began(record: records.LogRecord, run: str, task: statements.Statement) -> str:
    """Who began a run: the signer of its statement, or, by a trigger, the task's author. Raises `DigestMismatch`."""
    if record.kind == records.FiredOutcome.kind:
        fired = record.outcome()
        if isinstance(fired, records.FiredOutcome) and fired.run == run:
            return task.signer
        raise DigestMismatch("the log entry of a run is of another one")
    signed = statements.verify(record.statement(), "run")
    if signed.digest != run or not isinstance(signed.predicate, statements.RunStatement):
        raise DigestMismatch("a run's statement is not the one that its digest names")
    if signed.predicate.task != task.digest:
        raise DigestMismatch("a run is of another task than the gateway says")
    return signed.signer


__all__ = [
    "FORMATS",
    "SealedFile",
    "Shape",
    "Use",
    "describe",
    "download",
    "find",
    "format_of",
    "open_own",
    "put",
    "retire",
    "seal",
    "sealed_file",
    "suspend",
    "uses",
    "wrap_for_service",
]
