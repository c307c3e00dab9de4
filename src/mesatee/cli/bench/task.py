"""A task: from invoking an echo function to the verified result on the owner's disk, and where the time goes.

The service is the embedded one, the client the SDK. A run takes everything that any run takes: a signed run
statement in the log, a ticket through the host's queue, key release to the attested worker, the input
fetched and opened, a fresh sandbox, the output sealed and stored, the receipt checked, counter-signed and
logged, a signed request for the result, a logged release, the receipt bundle verified offline, the output
fetched, opened and written. There is no peer that does the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...enclave.sandbox.protocol import Job, OutputSpec
from ...enclave.sandbox.supervisor import Supervisor, sealed_memfd
from ...errors import NotFound, ReceiptInvalid
from ...party import data, functions, results, tasks
from ...party.config import read_service_file, read_trust
from ...party.identity import Identity
from ...party.session import Session
from ...protocol import statements, wire
from ...protocol.digests import sha256
from .. import up
from .rows import Row, Say, compare

RUNS, QUICK_RUNS = 60, 6
CLIENTS: Final = 8
RUNS_EACH, QUICK_RUNS_EACH = 8, 2
"""Runs of each of the clients."""
DATA: Final = b"id,value\n" + b"".join(b"%d,%d\n" % (row, row * row) for row in range(500))
RUN_SECONDS: Final = 120.0
"""After this a run of the bench has failed."""
MS: Final = 1_000.0
PARTS: Final = {
    "run statement": "signed, decided, durable in the log, answered",
    "queue and key release": "until the client sees `running`: ticket, policies, grant logged, keys wrapped",
    "worker": "until the client sees `finished`: fetch, open, sandbox, seal, store, receipt in the log",
    "result": "release in the log, bundle verified offline, output fetched, opened and written",
}


@dataclass(slots=True)
class Client:
    """One party with a dataset, a task on it, and as many runs as it may need."""

    session: Session
    task: str
    folder: Path

    @classmethod
    def join(cls, home: Path, name: str, runs: int, stack: contextlib.ExitStack) -> Client:
        """Make an identity, seal and register data, propose the task and approve it."""
        service = read_service_file(home)
        if service is None:
            raise NotFound("the bench's service wrote no service file")
        identity = Identity.create(home, name)
        session = stack.enter_context(Session(service.url, identity, read_trust(service.trust)))
        folder = home / f"bench-{name}"
        folder.mkdir(mode=0o700)
        data.put(session, data.seal(identity, DATA, folder / "data.csv.age", format="csv"), f"data-{name}")
        functions.put_builtin(session, "echo", f"echo-{name}")
        accept = statements.Accept(
            min_level=service.level, tees=service.tees, workers=service.workers, allow_simulated=False
        )
        posted = tasks.new(
            session,
            f"task-{name}",
            function=f"echo-{name}",
            inputs={"data": f"data-{name}"},
            outputs={"result": [name]},
            accept=accept,
            environment=service.environment,
            runs=runs,
        )
        tasks.approve(session, tasks.review(session, session.task(posted.digest)))
        return cls(session, posted.digest, folder)

    def run(self) -> list[float]:
        """Invoke once and take the result home; the seconds at which each of `PARTS` was over."""
        start = time.perf_counter()
        view = self.session.task(self.task)
        posted = tasks.run(self.session, view)
        marks = {"logged": time.perf_counter()}

        def changed(found: wire.RunView) -> None:
            marks.setdefault(found.status, time.perf_counter())

        tasks.watch(
            self.session,
            self.task,
            posted.digest,
            seconds=RUN_SECONDS,
            changed=changed,
        )
        ended = time.perf_counter()
        found = results.take(
            self.session, self.session.task(self.task), self.folder / secrets.token_hex(8), posted.digest
        )
        if sha256(found.outputs["result"].read_bytes()) != sha256(DATA):
            raise ReceiptInvalid("the echo function gave back something else")
        # A run that had ended when it was first looked at was never seen running.
        running = marks.get("running", ended)
        return [moment - start for moment in (marks["logged"], running, ended, time.perf_counter())]


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench task``."""
    runs, each = (QUICK_RUNS, QUICK_RUNS_EACH) if quick else (RUNS, RUNS_EACH)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(up.running(home, say=say))
        say("registering parties, data and tasks")
        clients = [Client.join(home, f"client{n}", runs + each + 1, stack) for n in range(CLIENTS)]
        first = clients[0]
        first.run()
        say(f"{runs} runs, one after another")
        marks = [first.run() for _ in range(runs)]
        say(f"{each} runs each of {CLIENTS} clients at once")
        rate = _rate(clients, each)
    say("the sandbox by itself")
    return _rows(marks, rate, each, _sandbox(runs))


def _rate(clients: list[Client], each: int) -> float:
    """Runs a second."""

    def work(client: Client) -> None:
        for _ in range(each):
            client.run()

    start = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(work, client) for client in clients]:
            done.result()
    return each * len(clients) / (time.perf_counter() - start)


def _sandbox(runs: int) -> list[float]:
    """Milliseconds of a run of echo on the same data, with nothing around it."""
    job = Job("builtin", "echo", inputs={"data": "csv"}, outputs={"result": OutputSpec("csv")})
    samples = []
    with Supervisor() as supervisor, contextlib.ExitStack() as stack:
        fd = sealed_memfd("data", DATA)
        stack.callback(os.close, fd)
        supervisor.run(job, {"data": fd}).close()
        for _ in range(runs):
            start = time.perf_counter()
            supervisor.run(job, {"data": fd}).close()
            samples.append((time.perf_counter() - start) * MS)
    return samples


def _rows(marks: list[list[float]], rate: float, each: int, sandbox: list[float]) -> tuple[Row, ...]:
    whole = [mark[-1] * MS for mark in marks]
    rows = [
        compare(
            "invoke to verified result, p50",
            "ms",
            whole,
            note=f"echo on {len(DATA)} bytes of CSV, one run after another; no peer does the same",
        ),
        Row(
            "invoke to verified result, p95",
            "ms",
            statistics.quantiles(whole, n=20, method="inclusive")[-1],
            n=len(whole),
            note="of the same samples",
        ),
        Row(
            f"tasks a second with {CLIENTS} clients",
            "1/s",
            rate,
            n=each * CLIENTS,
            note="each run verified by its client; one worker; all clients are threads of one Python process",
        ),
    ]
    for index, (part, what) in enumerate(PARTS.items()):
        before = [mark[index - 1] if index else 0.0 for mark in marks]
        samples = [(mark[index] - start) * MS for mark, start in zip(marks, before, strict=True)]
        rows.append(compare(f"part: {part}", "ms", samples, note=what))
    rows.append(
        compare(
            "part of it: sandbox",
            "ms",
            sandbox,
            note="within `worker`, measured apart with nothing around it",
        )
    )
    return tuple(rows)


__all__ = ["measure"]
