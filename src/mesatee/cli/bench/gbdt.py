"""Predictions of tree ensembles: the engine alone and `gbdt_predict` through the whole platform, against XGBoost.

Models are complete trees of random features, thresholds (255 for each feature, what XGBoost's histograms have) and
leaves, the same each time; rows are float32 with missing values. Ours in this process: from columns to predictions. The
peer is `inplace_predict` of XGBoost on the same rows as one array, in a process of its own that holds model and rows;
`predict` on a matrix would give back what it remembers. Through the platform: from the signed run statement to the
verified and opened result on disk, the model of one owner and the rows of another, sealed and stored before; its run
reads the model too, which the peer has loaded. Margins are checked to be equal to the last bit.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from ... import _core
from ...errors import NotFound, ReceiptInvalid, SandboxFailed, Unavailable
from ...party import data, functions, results, tasks
from ...party.config import read_service_file, read_trust
from ...party.identity import Identity
from ...party.session import Session
from ...protocol import limits, statements
from .. import up
from .packages import environment
from .rows import Goal, Row, Say, compare

XGBOOST: Final = "xgboost-cpu==3.2.0"
ROWS, QUICK_ROWS = 100_000, 5_000
ROUNDS, QUICK_ROUNDS = 9, 2
PLATFORM_ROUNDS: Final = 5
THREADS: Final = (1, 2)
BINS: Final = 255
MISSING: Final = 0.02
RUN_LIMITS: Final = {"seconds": 120, "cpu_seconds": 120, "memory_bytes": 2 * limits.GIB}
ALIKE_GOAL: Final = Goal("at least 1.8 times faster, thread for thread", ratio_at_most=1 / 1.8)
TWO_GOAL: Final = Goal("at least 4 times faster", ratio_at_most=0.25)
PLATFORM_GOAL: Final = Goal("at least 2 times faster", ratio_at_most=0.5)

PEER_SCRIPT: Final = """\
import json, sys, time
import numpy as np
import xgboost
folder, name = sys.argv[1:]
booster = xgboost.Booster()
booster.load_model(f"{folder}/{name}.json")
booster.save_model(f"{folder}/{name}.ubj")
rows = np.load(f"{folder}/{name}.npy")
for line in sys.stdin:
    threads, kind, out = line.split()
    booster.set_param({"nthread": int(threads)})
    begun = time.perf_counter()
    found = booster.inplace_predict(rows, predict_type=kind)
    seconds = time.perf_counter() - begun
    found.astype(np.float32).tofile(out)
    print("RESULT " + json.dumps(seconds), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Size:
    """A model's size."""

    trees: int
    depth: int
    features: int

    def __str__(self) -> str:
        return f"{self.trees}x{self.depth}x{self.features}"


SIZES: Final = (Size(100, 6, 28), Size(500, 8, 50))
QUICK_SIZES: Final = (Size(20, 4, 10), Size(30, 8, 12))
PLATFORM_SIZE: Final = 1
"""The size whose platform row has a goal: the larger one."""


def model(size: Size) -> bytes:
    """XGBoost's JSON of complete trees."""
    import numpy as np

    rng = np.random.default_rng(size.trees)
    cuts = np.sort(rng.normal(size=(size.features, BINS)).astype(np.float32), axis=1)
    inner = (1 << size.depth) - 1
    count = 2 * inner + 1
    ids = np.arange(inner)
    nothing, leaves = [0.0] * count, np.full(inner + 1, -1)
    trees = []
    for number in range(size.trees):
        looked_at = rng.integers(0, size.features, inner)
        values = (rng.normal(size=inner + 1) * 0.1).astype(np.float32)
        conditions = np.concatenate([cuts[looked_at, rng.integers(0, BINS, inner)], values])
        trees.append(
            {
                "base_weights": nothing,
                "categories": [],
                "categories_nodes": [],
                "categories_segments": [],
                "categories_sizes": [],
                "default_left": rng.integers(0, 2, count).tolist(),
                "id": number,
                "left_children": [*(2 * ids + 1).tolist(), *leaves.tolist()],
                "loss_changes": nothing,
                "parents": [2147483647, *((np.arange(1, count) - 1) // 2).tolist()],
                "right_children": [*(2 * ids + 2).tolist(), *leaves.tolist()],
                "split_conditions": conditions.tolist(),
                "split_indices": [*looked_at.tolist(), *([0] * (inner + 1))],
                "split_type": [0] * count,
                "sum_hessian": nothing,
                "tree_param": {
                    "num_deleted": "0",
                    "num_feature": str(size.features),
                    "num_nodes": str(count),
                    "size_leaf_vector": "1",
                },
            }
        )
    booster = {
        "name": "gbtree",
        "model": {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(size.trees)},
            "iteration_indptr": list(range(size.trees + 1)),
            "tree_info": [0] * size.trees,
            "trees": trees,
        },
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": booster,
        "learner_model_param": {
            "base_score": "5E-1",
            "boost_from_average": "1",
            "num_class": "0",
            "num_feature": str(size.features),
            "num_target": "1",
        },
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    return json.dumps({"learner": learner, "version": [3, 2, 0]}).encode()


class Peer:
    """XGBoost in a process of its own, with one model and its rows."""

    def __init__(self, python: Path, folder: Path, name: str, stack: contextlib.ExitStack) -> None:
        self._out = folder / f"{name}.peer"
        self._process = subprocess.Popen(
            [str(python), "-c", PEER_SCRIPT, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            text=True,
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)

    def __call__(self, threads: int, kind: str = "value") -> tuple[float, bytes]:
        """Seconds, and the predictions as float32. Raises `Unavailable`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{threads} {kind} {self._out}\n")
            stdin.flush()
        for line in stdout:
            if line.startswith("RESULT "):
                return float(json.loads(line.removeprefix("RESULT "))), self._out.read_bytes()
        raise Unavailable(f"the peer ended with {self._process.wait()}")


@dataclass(slots=True)
class Job:
    """A model, its rows as columns, and what was measured, in milliseconds."""

    size: Size
    name: str
    file: bytes
    columns: list[Any]
    peer: Peer | None
    ours: dict[int, list[float]] = field(default_factory=lambda: {threads: [] for threads in THREADS})
    theirs: dict[int, list[float]] = field(default_factory=lambda: {threads: [] for threads in THREADS})
    oblivious: list[float] = field(default_factory=list)
    portable: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)
    platform: list[float] = field(default_factory=list)

    @classmethod
    def made(
        cls, size: Size, rows: int, python: Path | None, folder: Path, stack: contextlib.ExitStack
    ) -> Job:
        """With its files in `folder`, and its peer started."""
        import numpy as np
        import pyarrow as pa

        from ...table import Table

        name = str(size)
        rng = np.random.default_rng(rows)
        values = rng.normal(size=(rows, size.features)).astype(np.float32)
        values[rng.random(values.shape) < MISSING] = np.nan
        np.save(folder / f"{name}.npy", values)
        columns = [np.ascontiguousarray(values[:, number]) for number in range(size.features)]
        with (folder / f"{name}.arrow").open("wb") as file:
            names = [f"f{number}" for number in range(size.features)]
            Table(pa.table(dict(zip(names, columns, strict=True)))).write(file, "arrow")
        made = model(size)
        (folder / f"{name}.json").write_bytes(made)
        if python is None:
            return cls(size, name, made, columns, None)
        peer = Peer(python, folder, name, stack)
        # The first answer means that it has written the model as XGBoost itself writes it today.
        peer(1)
        return cls(size, name, (folder / f"{name}.ubj").read_bytes(), columns, peer)

    def turn(self, forest: _core.TreeModel) -> None:
        """One round of the engine and the peer. Raises `SandboxFailed` if they differ."""
        for threads in THREADS:
            self.ours[threads].append(self._ours(forest, threads=threads))
            if self.peer is not None:
                self.theirs[threads].append(self.peer(threads)[0] * 1000)
        self.oblivious.append(self._ours(forest, threads=1, oblivious=True))

    def check(self, forest: _core.TreeModel) -> None:
        """That margins are those of the peer. Raises `SandboxFailed`."""
        if self.peer is None:
            return
        rows = len(self.columns[0])
        said = self.peer(1, "margin")[1]
        for engine in ({}, {"threads": 2}, {"oblivious": True}, {"portable": True}):
            mine = forest.predict(self.columns, rows, output="margin", **engine)
            if struct.pack(f"<{rows}f", *struct.unpack(f"<{rows}d", mine)) != said:
                raise SandboxFailed(f"the predictions of {self.name} are not those of the peer")

    def _ours(self, forest: _core.TreeModel, **options: Any) -> float:
        begun = time.perf_counter()
        forest.predict(self.columns, len(self.columns[0]), **options)
        return (time.perf_counter() - begun) * 1000

    def rows(self, lacking: str, goal: bool) -> list[Row]:
        """The rows of this size."""
        alone = "from columns in memory to predictions in memory; margins are equal to the last bit"
        found = [
            _row(
                f"predict {self.size}, {_threads(ours)}", self.ours[ours], self, peer, goal, lacking or alone
            )
            for ours, peer, goal in ((1, 1, ALIKE_GOAL), (2, 2, ALIKE_GOAL), (2, 1, TWO_GOAL))
        ]
        note = "no access and no branch depends on a value of a row"
        found.append(_row(f"oblivious {self.size}, 1 thread", self.oblivious, self, 1, None, lacking or note))
        note = "without AVX-512"
        found.append(_row(f"portable {self.size}, 1 thread", self.portable, self, 1, None, lacking or note))
        note = "the model alone, from bytes to ready; the peer's is loaded before"
        found.append(compare(f"read {self.size}", "ms", self.reading, note=note))
        note = (
            "sealed in, sealed out, attested, receipt verified, the model read anew; the peer on plain rows"
        )
        found.append(
            _row(
                f"platform {self.size}",
                self.platform,
                self,
                1,
                PLATFORM_GOAL if goal else None,
                lacking or note,
            )
        )
        return found


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


def _row(metric: str, ours: list[float], job: Job, threads: int, goal: Goal | None, note: str) -> Row:
    return compare(
        metric,
        "ms",
        ours,
        job.theirs[threads],
        peer_name=f"XGBoost {_threads(threads)}",
        goal=goal,
        note=note,
    )


@dataclass(slots=True)
class Platform:
    """A model's owner, an owner of rows and a scientist on a service, with one task for each size."""

    folder: Path
    scientist: Session
    tasks: dict[str, str]

    @classmethod
    def found(cls, home: Path, folder: Path, jobs: list[Job], stack: contextlib.ExitStack) -> Platform:
        """Register parties, data and tasks, and approve them."""
        service = read_service_file(home)
        if service is None:
            raise NotFound("the bench's service wrote no service file")
        people: dict[str, Session] = {}
        for name in ("maker", "clinic", "scientist"):
            identity = Identity.create(home, name)
            people[name] = stack.enter_context(Session(service.url, identity, read_trust(service.trust)))
        functions.put_builtin(people["scientist"], "gbdt_predict", "gbdt_predict")
        accept = statements.Accept(
            min_level=service.level, tees=service.tees, workers=service.workers, allow_simulated=False
        )
        made = {}
        for number, job in enumerate(jobs):
            rows = (folder / f"{job.name}.arrow").read_bytes()
            owned: dict[str, tuple[bytes, Literal["arrow", "bytes"]]] = {
                "maker": (job.file, "bytes"),
                "clinic": (rows, "arrow"),
            }
            for name, (content, format) in owned.items():
                sealed = data.seal(
                    people[name].identity, content, folder / f"{name}.{number}.age", format=format
                )
                data.put(people[name], sealed, f"data-{number}")
            posted = tasks.new(
                people["scientist"],
                f"predict-{number}",
                function="gbdt_predict",
                inputs={"model": f"maker/data-{number}", "rows": f"clinic/data-{number}"},
                outputs={"result": ["scientist"]},
                accept=accept,
                environment=service.environment,
                runs=20,
                run_limits=statements.RunLimits(**RUN_LIMITS),
            )
            for name in owned:
                tasks.approve(people[name], tasks.review(people[name], people[name].task(posted.digest)))
            made[job.name] = posted.digest
        return cls(folder, people["scientist"], made)

    def run(self, job: Job) -> float:
        """Milliseconds from invoking to the verified result on disk."""
        begun = time.monotonic()
        task = self.tasks[job.name]
        posted = tasks.run(self.scientist, self.scientist.task(task))
        tasks.watch(self.scientist, task, posted.digest, seconds=600)
        out = self.folder / secrets.token_hex(8)
        found = results.take(self.scientist, self.scientist.task(task), out, posted.digest)
        taken = (time.monotonic() - begun) * 1000
        if found.outputs["result"].read_bytes().count(b"\n") - 1 != len(job.columns[0]):
            raise ReceiptInvalid("the predictions are not as many as the rows")
        return taken


def _python(say: Say) -> Path:
    """An interpreter that has the peer: this one, or one of an environment of its own. Raises `Unavailable`."""
    name, version = XGBOOST.split("==")
    with contextlib.suppress(metadata.PackageNotFoundError):
        if metadata.version(name) == version:
            return Path(sys.executable)
    return environment(XGBOOST, say)


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench gbdt``."""
    count, rounds = (QUICK_ROWS, QUICK_ROUNDS) if quick else (ROWS, ROUNDS)
    lacking, python = "", None
    try:
        python = _python(say)
    except Unavailable as error:
        lacking = error.message
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say("making models and rows")
        sizes = QUICK_SIZES if quick else SIZES
        jobs = [Job.made(size, count, python, folder, stack) for size in sizes]
        home = folder / "home"
        home.mkdir(mode=0o700)
        stack.enter_context(up.running(home, say=say))
        say("registering parties, data and tasks")
        platform = Platform.found(home, folder, jobs, stack)
        for job in jobs:
            begun = time.perf_counter()
            forest = _core.TreeModel(job.file)
            job.reading.append((time.perf_counter() - begun) * 1000)
            job.check(forest)
            platform.run(job)
            for number in range(rounds):
                say(f"{job.size}, round {number + 1} of {rounds}")
                job.turn(forest)
                if number < PLATFORM_ROUNDS:
                    job.platform.append(platform.run(job))
                if number < QUICK_ROUNDS:
                    job.portable.append(job._ours(forest, threads=1, portable=True))
        found = [row for number, job in enumerate(jobs) for row in job.rows(lacking, number == PLATFORM_SIZE)]
    return tuple(found)


__all__ = ["measure"]
