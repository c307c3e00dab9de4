"""Runs the main job, the refusals and the offline check, and says how each went."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Denied, MesateeError
from ...party import functions, results, tasks, verify_bundle
from ...protocol import statements, wire
from ...protocol.jsonstrict import parse_object
from ...protocol.model import validate
from .. import up
from . import refusals, stage
from .train import train

PEOPLE = ("hospital-a", "hospital-b", "scientist", "stranger")


@dataclass(slots=True)
class Report:
    """What happened, for people as it goes and for machines at the end."""

    as_json: bool
    steps: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    ok: bool = True
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A line for people."""
        where = sys.stderr if self.as_json else sys.stdout
        print(f"[{time.monotonic() - self.started:5.1f} s] {text}", file=where, flush=True)

    def check(self, what: str, holds: bool) -> None:
        """A step that must hold."""
        self.steps.append({"step": what, "ok": holds})
        self.ok &= holds
        self.say(f"{'ok     ' if holds else 'WRONG  '} {what}")

    def refusal(self, item: refusals.Refusal, scene: refusals.Scene) -> None:
        """Try something forbidden."""
        got, why = "nothing", "it was not refused"
        try:
            item.attempt(scene)
        except MesateeError as error:
            got, why = error.code, error.message
            holds = type(error) is item.expected
        else:
            holds = False
        self.refused.append({"what": item.title, "code": got, "why": why, "ok": holds})
        self.ok &= holds
        self.say(f"{'refused' if holds else 'WRONG  '} {item.title}: {why} ({got})")


def run(*, as_json: bool, keep: Path | None = None) -> int:
    """Run the demo; returns the exit status, which is 0 only if everything was as it should be.

    It uses a new folder, which it removes, or `keep`, which must not exist and stays.
    """
    report = Report(as_json)
    home = keep or Path(tempfile.mkdtemp(prefix="mesatee-demo-"))
    try:
        _play(report, home)
    finally:
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)
    report.say("everything was as it should be" if report.ok else "SOMETHING WAS NOT AS IT SHOULD BE")
    if as_json:
        print(
            json.dumps(
                {key: value for key, value in asdict(report).items() if key not in ("as_json", "started")}
            )
        )
    return 0 if report.ok else 1


def _play(report: Report, home: Path) -> None:
    with ExitStack() as stack:
        service = up.start(home, say=report.say)
        stack.callback(service.stop)
        report.say(
            f"a service at {service.url}, level 2 (software trust): it is signed by this machine's own key, so whoever "
            "operates this machine is trusted; the path is the same at every level"
        )
        scene = _prepare(report, stack, home, service)
        _intersect(report, scene)
        bundle = _train(report, scene, home)
        refusals.keep_copy(home)
        for item in refusals.ONLINE:
            report.refusal(item, scene)
    report.say("the service is stopped; now its host tampers with what it stores")
    for item in refusals.OFFLINE:
        report.refusal(item, scene)
    _check_offline(report, scene, bundle)


def _prepare(report: Report, stack: ExitStack, home: Path, service: up.Service) -> refusals.Scene:
    people = stage.enter(stack, home, PEOPLE)
    tables = stage.tables()
    report.say(
        f"hospital A knows {len(tables.a)} patients, hospital B {len(tables.b)}; "
        f"scikit-learn's breast cancer data, split by columns"
    )
    digest_a, sealed_a = stage.seal_and_put(people.of("hospital-a"), tables.a, "measurements-a", home)
    digest_b, _ = stage.seal_and_put(people.of("hospital-b"), tables.b, "measurements-b", home)
    first = tables.a[stage.KEY].iloc[0].encode()
    report.check(
        "both tables are sealed on their owners' machines; the host got ciphertext",
        first not in sealed_a.read_bytes(),
    )
    scientist = people.of("scientist")
    psi = functions.put_builtin(scientist, "psi").digest
    code = functions.put(scientist, Path(__file__).parent / "train.py", "train", entry="train").digest
    report.facts["common_patients"] = tables.common
    return refusals.Scene(people, service, digest_a, digest_b, sealed_a, code, psi)


def _intersect(report: Report, scene: refusals.Scene) -> None:
    """The hospitals learn which patients they share; the scientist proposes it and learns nothing."""
    people = scene.stage
    scientist, hospital = people.of("scientist"), people.of("hospital-a")
    posted = tasks.new(
        scientist,
        "shared-patients",
        function=scene.psi,
        inputs={"a": scene.dataset_a, "b": scene.dataset_b},
        outputs={"result": ("hospital-a", "hospital-b")},
        accept=people.accept,
        environment=people.environment,
        arguments={"key": stage.KEY},
    )
    view = scientist.task(posted.digest)
    refusals.both_approve(scene, view)
    refusals.run(scene, view)
    result = results.take(hospital, hospital.task(view.digest), people.home / "shared")
    rows = len(result.outputs["result"].read_text().splitlines()) - 1
    report.check(
        f"intersection of ids: {rows} patients are known to both", rows == report.facts["common_patients"]
    )
    try:
        scientist.post(statements.CollectStatement, run=result.receipt.run)
        opened = True
    except Denied:
        opened = False
    report.check("only the two hospitals can open it", not opened)


def _train(report: Report, scene: refusals.Scene, home: Path) -> wire.Bundle:
    """The scientist trains on rows that she never sees."""
    scientist = scene.stage.of("scientist")
    view = refusals.propose(scene, "train-model")
    refusals.both_approve(scene, view)
    refusals.run(scene, view)
    result = results.take(scientist, scientist.task(view.digest), home / "model")
    got = json.loads(result.outputs["result"].read_text())
    hospital = scene.stage.of("hospital-a")
    try:
        hospital.post(statements.CollectStatement, run=result.receipt.run)
        opened = True
    except Denied:
        opened = False
    report.check("only the scientist can open the result", not opened)
    report.facts.update(got)
    report.check(
        f"accuracy {got['accuracy']:.2%} on {got['tested_on']} patients that the training never saw "
        f"({got['rows']} joined rows, {got['features']} features; guessing gives {got['majority_class']:.2%})",
        got == _centrally() and got["accuracy"] > got["majority_class"],
    )
    receipt = result.receipt
    report.facts["layers"] = list(receipt.layers)
    report.say(
        f"it ran at level {receipt.level} ({receipt.tee}), in a child behind: {', '.join(receipt.layers)}"
    )
    return validate(wire.Bundle, parse_object(result.receipt_file.read_bytes(), limit=1 << 22), "receipt")


def _centrally() -> dict[str, Any]:
    """The same function on the plaintext in this process: what the sealed run must reproduce."""
    from ...table import Table

    tables = stage.tables()
    return train(Table.from_pandas(tables.a), Table.from_pandas(tables.b), key=stage.KEY, label=stage.LABEL)


def _check_offline(report: Report, scene: refusals.Scene, bundle: wire.Bundle) -> None:
    """No service runs any more: the receipt proves itself."""
    verified = verify_bundle(bundle, scene.stage.trust, int(time.time()))
    approved = ", ".join(sorted(str(item.name) for item in verified.approvals))
    report.check(
        f"the receipt verifies offline: log entry {verified.log_index} of {verified.log_size}, approved by {approved}, "
        f"time from {verified.time_source}",
        verified.failure is None and len(verified.approvals) == 2,
    )
    forged = bundle.model_copy(update={"checkpoint": bundle.checkpoint.replace("epoch 1", "epoch 2")})
    try:
        verify_bundle(forged, scene.stage.trust, int(time.time()))
        held = False
    except MesateeError:
        held = True
    report.check("and a changed one does not", held)


__all__ = ["run"]
