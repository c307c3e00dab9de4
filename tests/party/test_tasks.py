from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesatee import _core
from mesatee.attestation.endorsements import nothing
from mesatee.errors import (
    Conflict,
    DigestMismatch,
    KeyRefused,
    Malformed,
    MesateeError,
    NotFound,
    ReceiptInvalid,
    StateError,
    TaskFailed,
    TooLarge,
)
from mesatee.party import Identity, results, tasks
from mesatee.party.service import check_service
from mesatee.party.session import Posted
from mesatee.protocol import statements, wire, wraps
from mesatee.protocol.digests import b64encode

RESULT = b"id\n2\n"


class Shelf:
    """What `results.take` needs of a session: one released run and the blobs."""

    def __init__(self, vector: Any, who: Identity) -> None:
        self.vector, self.identity, self.trust = vector, who, vector.trust
        self.endorsements = nothing
        self.service = check_service(vector.service.envelope.as_dict(), vector.trust)
        with (
            os.fdopen(os.memfd_create("p"), "w+b") as plain,
            os.fdopen(os.memfd_create("s"), "w+b") as sealed,
        ):
            plain.write(RESULT)
            plain.seek(0)
            self.made = _core.age_seal(plain.fileno(), sealed.fileno(), [])
            sealed.seek(0)
            self.blob = sealed.read()
        self.facts = statements.OutputFacts(sha256=self.made.digest, size=self.made.size, format="csv")
        self.receipt = vector.write_receipt(outputs={"result": self.facts})
        self.bundle = vector.bundle(self.receipt)
        self.wraps = {"result": self.wrap()}
        self.run = self.receipt.run

    def wrap(self, **changes: Any) -> str:
        fields = {
            "origin": self.receipt.origin,
            "run": self.receipt.run,
            "name": "result",
            "blob": self.made.digest,
            "receiver": self.identity.id,
        }
        binding = wraps.result(**(fields | changes))
        return b64encode(self.made.file_key.wrap(self.identity.hpke.public, binding.info, binding.aad))

    def now(self) -> int:
        return int(self.vector.now)

    def post(self, kind: Any, **fields: Any) -> Posted:
        assert kind is statements.CollectStatement
        made = self.vector.author(self.identity.signing).write(kind, **fields)
        return Posted(made, made.digest, 9, wire.ResultReply(wraps=self.wraps, bundle=self.bundle))

    def download(self, blob: str, write: Callable[[bytes], object], limit: int, progress: Any = None) -> int:
        if len(self.blob) > limit:
            raise TooLarge("too large")
        write(self.blob)
        return len(self.blob)

    def view(self, status: Any = "finished", failure: Any = None) -> wire.TaskView:
        run = wire.RunView(
            digest=self.run,
            status=status,
            index=5,
            time=0,
            attempts=1,
            failure=failure,
            ended=6,
            inputs={},
            worker=None,
        )
        return wire.TaskView(
            digest=self.vector.task.digest,
            author=self.vector.task.signer,
            author_name="carol",
            name="join",
            index=4,
            state=status,
            statement=self.vector.task.envelope.as_dict(),
            approvals=(),
            runs=(run,),
            inputs={},
            triggers=(),
            log_size=9,
        )

    def result(self, target: Path, **changes: Any) -> results.Result:
        return results.take(self, self.view(**changes), target)  # type: ignore[arg-type]


@pytest.fixture
def shelf(vector: Any) -> Shelf:
    return Shelf(vector, vector.parties["carol"])


def test_a_result_comes_home_with_its_receipt(shelf: Shelf, tmp_path: Path) -> None:
    found = shelf.result(tmp_path / "out")
    assert found.outputs["result"].read_bytes() == RESULT
    assert sorted(item.name for item in found.folder.iterdir()) == [
        "SHA256SUMS",
        "receipt.json",
        "result.csv",
    ]
    assert found.receipt.task == shelf.vector.task.digest


def test_outputs_are_compared_with_what_was_written(shelf: Shelf, tmp_path: Path) -> None:
    found = shelf.result(tmp_path / "out")
    assert results.compare(found.receipt_file) == ["result.csv"]
    found.outputs["result"].write_bytes(RESULT + b"9")
    with pytest.raises(DigestMismatch, match=r"result\.csv was altered"):
        results.compare(found.receipt_file)
    found.outputs["result"].unlink()
    assert results.compare(found.receipt_file) == []
    sums = found.folder / results.SUMS_FILE
    for damaged in ("x", "0" * 64 + "  ../receipt.json\n", "0" * 64 + "  .x\n"):
        sums.write_text(damaged)
        with pytest.raises(Malformed):
            results.compare(found.receipt_file)
    sums.unlink()
    assert results.compare(found.receipt_file) is None


LIES = (
    "altered blob",
    "no wrap",
    "a wrap too many",
    "wrap for another run",
    "wrap for another receiver",
    "another run",
    "another service",
    "receipt of nothing",
)


@pytest.mark.parametrize("what", LIES)
def test_a_lie_leaves_nothing(shelf: Shelf, tmp_path: Path, what: str) -> None:
    error: tuple[type[MesateeError], ...] = (ReceiptInvalid,)
    match what:
        case "altered blob":
            shelf.blob, error = shelf.blob[:-1] + b"x", (DigestMismatch,)
        case "no wrap":
            shelf.wraps = {}
        case "a wrap too many":
            shelf.wraps["more"] = shelf.wraps["result"]
        case "wrap for another run":
            shelf.wraps["result"], error = shelf.wrap(run="2b" * 32), (KeyRefused,)
        case "wrap for another receiver":
            shelf.wraps["result"], error = shelf.wrap(receiver="2b" * 32), (KeyRefused,)
        case "another run":
            shelf.run = "3c" * 32
        case "another service":
            shelf.service = dataclasses.replace(shelf.service, digest="4d" * 32)
        case "receipt of nothing":
            shelf.bundle = shelf.bundle.model_copy(update={"approvals": {}})
    before = sorted(item.name for item in tmp_path.iterdir())
    with pytest.raises(error):
        shelf.result(tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == before


def test_an_existing_folder_stays(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(Conflict):
        shelf.result(tmp_path / "out")
    with pytest.raises(NotFound):
        shelf.result(tmp_path / "none" / "out")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        shelf.result(tmp_path / "link")


def test_a_failed_run_says_its_code(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match="crashed"):
        shelf.result(tmp_path / "out", status="failed", failure="crashed")


def test_a_task_is_what_its_digest_names(shelf: Shelf) -> None:
    assert tasks.check_statement(shelf.view())[0] == shelf.vector.task.signer
    for change in (
        {"digest": "11" * 32},
        {"author": "11" * 32},
        {"statement": shelf.vector.write_task().envelope.as_dict()},
    ):
        with pytest.raises(KeyRefused):
            tasks.check_statement(shelf.view().model_copy(update=change))


def test_runs_are_chosen(shelf: Shelf) -> None:
    assert tasks.choose_run(shelf.view()).digest == shelf.run
    assert tasks.choose_run(shelf.view(), shelf.run[:8]).digest == shelf.run
    with pytest.raises(NotFound):
        tasks.choose_run(shelf.view(), "ffffff")
    with pytest.raises(NotFound):
        tasks.choose_run(shelf.view().model_copy(update={"runs": ()}))
    with pytest.raises(StateError):
        tasks.cancel(shelf, shelf.view())  # type: ignore[arg-type]
    with pytest.raises(StateError):
        tasks.withdraw(shelf, shelf.view())  # type: ignore[arg-type]
