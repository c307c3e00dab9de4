"""Runs of tasks: those under way as they are, those that have ended packed, for nothing about them changes any more."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from pydantic import TypeAdapter
from pydantic_core import core_schema

from ...errors import StateError
from ...protocol import statements
from ...protocol.jsonstrict import canonical
from ...protocol.model import TableFormat
from .seen import kept_as
from .sharing import shared
from .shelf import KEY, Shelf

RunStatus = Literal["queued", "running", "finished", "failed", "cancelled"]
ENDED: Final[frozenset[str]] = frozenset({"finished", "failed", "cancelled"})
"""States that a run never leaves."""


@dataclass(slots=True)
class Grant:
    """Keys of a run were released to a worker; `fence` is the entry's index."""

    fence: int
    attempt: int
    time: int
    lease: int
    worker: statements.WorkerFacts
    approvals: dict[str, str]
    policies: dict[str, str]
    inputs: dict[str, str] = field(default_factory=dict)
    """Input -> the dataset, or the run whose output it was."""


@dataclass(frozen=True, slots=True)
class Output:
    """A sealed output of a run. The wrap of its key stands in the run's receipt and is read from there."""

    name: str
    sha256: str
    size: int
    format: TableFormat


@dataclass(slots=True)
class Run:
    """One run of a task, the `number`-th from 1. What has ended is a copy: nobody changes it."""

    digest: str
    task: str
    by: str
    index: int
    time: int
    number: int = 1
    status: RunStatus = "queued"
    grants: list[Grant] = field(default_factory=list)
    receipt: int | None = None
    failure: statements.Failure | None = None
    ended: int | None = None
    made: tuple[Output, ...] = ()

    @property
    def outputs(self) -> dict[str, Output]:
        """By name."""
        return {item.name: item for item in self.made}

    @property
    def grant(self) -> Grant | None:
        """The newest grant: only its fence counts."""
        return self.grants[-1] if self.grants else None

    def granted(self) -> Grant:
        """The newest grant. Raises `StateError` if no worker ever got the keys."""
        if not self.grants:
            raise StateError("no worker has run it")
        return self.grants[-1]


@dataclass(slots=True)
class _Ended:
    """Of one task: the rows of its runs that have ended, how many of them got keys, and the newest with each output."""

    rows: array[int] = field(default_factory=lambda: array("I"))
    used: int = 0
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Output -> number of the run, and its row."""


@dataclass(slots=True)
class _Said:
    """What grants say of a worker and of whose yes counted: mostly those of a task's runs say the same."""

    worker: statements.WorkerFacts
    approvals: dict[str, str]
    policies: dict[str, str]
    inputs: dict[str, str]


@dataclass(slots=True)
class _Kept:
    """All runs as a snapshot has them."""

    open: list[Run]
    rows: str
    words: list[str]
    said: list[_Said]


class Runs(Mapping[str, Run]):
    """All runs by digest; in order, those that have ended as they ended, then those under way as they began.

    An ended run takes some 170 bytes: a row of numbers and digests. Texts and what grants say stand in tables, each
    once.
    """

    def __init__(self) -> None:
        self.open: dict[str, Run] = {}
        """Under way, in log order."""
        self.fences: dict[int, str] = {}
        """Fence -> the run under way that was granted it."""
        self.uses: dict[str, int] = {}
        """Dataset or run -> how many inputs of runs it was."""
        self._shelf = Shelf()
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        self._said: list[_Said] = []
        self._said_at: dict[bytes, int] = {}
        self._workers: dict[str, statements.WorkerFacts] = {}
        self._ended: dict[str, _Ended] = {}

    # -- questions --------------------------------------------------------------------------------

    def __getitem__(self, digest: str) -> Run:
        """Raises `KeyError`."""
        found = self.open.get(digest)
        if found is not None:
            return found
        row = self._find(digest)
        if row is None:
            raise KeyError(digest)
        return self._unpack(self._shelf.row(row))

    def _find(self, digest: str) -> int | None:
        try:
            return self._shelf.find(bytes.fromhex(digest))
        except ValueError:
            # Callers also ask for what is no digest at all.
            return None

    def __contains__(self, digest: object) -> bool:
        """Whether there is such a run."""
        return isinstance(digest, str) and (digest in self.open or self._find(digest) is not None)

    def __iter__(self) -> Iterator[str]:
        """The digests."""
        yield from (row[:KEY].hex() for row in self._shelf)
        yield from self.open

    def __len__(self) -> int:
        """How many there are."""
        return len(self._shelf) + len(self.open)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same runs, kept in the same way."""
        return isinstance(other, Runs) and self._kept() == other._kept()

    __hash__ = None  # type: ignore[assignment]

    def open_of(self, task: str) -> list[Run]:
        """Those of a task that are under way, in log order."""
        return [run for run in self.open.values() if run.task == task]

    def count(self, task: str) -> int:
        """How many runs a task had, and has."""
        ended = self._ended.get(task)
        return len(self.open_of(task)) + (len(ended.rows) if ended else 0)

    def spent(self, task: str) -> int:
        """How many of them count: one that ended before any key was released has used nothing."""
        ended = self._ended.get(task)
        return len(self.open_of(task)) + (ended.used if ended else 0)

    def of(self, task: str, most: int | None = None) -> list[Run]:
        """Those of a task, in log order; with `most` so many of the newest."""
        ended = self._ended.get(task)
        rows = ended.rows if ended else array("I")
        found = [self._unpack(self._shelf.row(row)) for row in rows[-most if most else 0 :]]
        found += self.open_of(task)
        found.sort(key=lambda run: run.number)
        return found[-most:] if most else found

    def newest(self, task: str, output: str) -> str | None:
        """The newest run of a task that made this output and finished."""
        ended = self._ended.get(task)
        _, row = ended.newest.get(output, (0, None)) if ended else (0, None)
        return None if row is None else self._shelf.row(row)[:KEY].hex()

    # -- what happens to them ---------------------------------------------------------------------

    def begin(self, digest: str, task: str, by: str, index: int, time: int) -> None:
        """A run that is queued from now on."""
        self.open[digest] = Run(digest, task, by, index, time, self.count(task) + 1)

    def grant(self, run: Run, grant: Grant) -> None:
        """The keys of a run under way were released."""
        self._use(run, -1)
        run.status = "running"
        run.grants.append(grant)
        self.fences[grant.fence] = run.digest
        self._use(run, 1)

    def _use(self, run: Run, by: int) -> None:
        for digest in run.grant.inputs.values() if run.grant else ():
            self.uses[digest] = self.uses.get(digest, 0) + by

    def end(self, run: Run, index: int, status: RunStatus, failure: statements.Failure | None) -> None:
        """A run under way ends."""
        run.status, run.failure, run.ended = status, failure, index
        del self.open[run.digest]
        for grant in run.grants:
            del self.fences[grant.fence]
        self._shelve(run, self._shelf.add(self._pack(run)))

    def _shelve(self, run: Run, row: int) -> None:
        ended = self._ended.setdefault(run.task, _Ended())
        ended.rows.append(row)
        ended.used += bool(run.grants)
        for output in run.made if run.status == "finished" else ():
            ended.newest[output.name] = max(ended.newest.get(output.name, (0, 0)), (run.number, row))

    # -- packing ----------------------------------------------------------------------------------

    def _pack(self, run: Run) -> bytes:
        head = _HEAD.pack(
            bytes.fromhex(run.digest),
            self._word(run.task),
            self._word(run.by),
            run.index,
            run.time,
            run.number,
            _STATUS.index(run.status),
            self._word(run.failure or ""),
            -1 if run.receipt is None else run.receipt,
            -1 if run.ended is None else run.ended,
            len(run.grants),
            len(run.made),
        )
        grants = [
            _GRANT.pack(item.fence, item.attempt, item.time, item.lease, self._saying(item))
            for item in run.grants
        ]
        made = [
            _OUTPUT.pack(
                self._word(item.name), self._word(item.format), item.size, bytes.fromhex(item.sha256)
            )
            for item in run.made
        ]
        return b"".join((head, *grants, *made))

    def _unpack(self, row: bytes) -> Run:
        digest, task, by, index, time, number, status, failure, receipt, ended, grants, _ = _HEAD.unpack_from(
            row
        )
        after = _HEAD.size + grants * _GRANT.size
        texts = self._texts
        made = tuple(
            # Only what was one of them was packed.
            Output(texts[name], sha256.hex(), size, texts[form])
            for name, form, size, sha256 in _OUTPUT.iter_unpack(row[after:])
        )
        return Run(
            digest.hex(),
            texts[task],
            texts[by],
            index,
            time,
            number,
            _STATUS[status],
            [self._grant(*item) for item in _GRANT.iter_unpack(row[_HEAD.size : after])],
            None if receipt < 0 else receipt,
            texts[failure] or None,
            None if ended < 0 else ended,
            made,
        )

    def _grant(self, fence: int, attempt: int, time: int, lease: int, at: int) -> Grant:
        said = self._said[at]
        return Grant(fence, attempt, time, lease, said.worker, said.approvals, said.policies, said.inputs)

    def _word(self, text: str) -> int:
        at = self._words.setdefault(text, len(self._texts))
        if at == len(self._texts):
            self._texts.append(text)
        return at

    def _saying(self, grant: Grant) -> int:
        said = _Said(grant.worker, grant.approvals, grant.policies, grant.inputs)
        at = self._said_at.setdefault(_digest(said), len(self._said))
        if at == len(self._said):
            self._said.append(self._sharing(said))
        return at

    def _sharing(self, said: _Said) -> _Said:
        # The runs of one worker share what is known of it.
        known = self._workers.setdefault(said.worker.certificate, said.worker)
        found: _Said = shared(said)
        found.worker = known if known == found.worker else found.worker
        return found

    # -- snapshots --------------------------------------------------------------------------------

    def _kept(self) -> _Kept:
        return _Kept(list(self.open.values()), b"".join(self._shelf).hex(), self._texts, self._said)

    def _dump(self) -> Any:
        return _ADAPTER.dump_python(self._kept(), mode="json")

    @classmethod
    def _restore(cls, said: Any) -> Runs:
        kept, found = _ADAPTER.validate_python(said), cls()
        for text in kept.words:
            found._word(shared(text))
        for item in kept.said:
            found._said_at[_digest(item)] = len(found._said)
            found._said.append(found._sharing(item))
        for row in _rows(bytes.fromhex(kept.rows)):
            run = found._unpack(row)
            found._shelve(run, found._shelf.add(row))
            found._use(run, 1)
        for run in shared(kept.open):
            found.open[run.digest] = run
            found.fences.update({grant.fence: run.digest for grant in run.grants})
            found._use(run, 1)
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """As `_Kept`."""
        return kept_as(cls._dump, cls._restore)


def _digest(said: _Said) -> bytes:
    worker = said.worker.model_dump(mode="json")
    return hashlib.sha256(canonical([worker, said.approvals, said.policies, said.inputs])).digest()


def _rows(data: bytes) -> Iterator[bytes]:
    """The rows of a heap, by the counts that each has in its head."""
    start = 0
    while start < len(data):
        *_, grants, made = _HEAD.unpack_from(data, start)
        end = start + _HEAD.size + grants * _GRANT.size + made * _OUTPUT.size
        yield data[start:end]
        start = end


_STATUS: Final[tuple[RunStatus, ...]] = get_args(RunStatus)
_HEAD: Final = struct.Struct("<32sIIQQIBIqqBH")
_GRANT: Final = struct.Struct("<QBQII")
_OUTPUT: Final = struct.Struct("<IIQ32s")
_ADAPTER: Final[TypeAdapter[_Kept]] = TypeAdapter(_Kept)

__all__ = ["ENDED", "Grant", "Output", "Run", "RunStatus", "Runs"]
