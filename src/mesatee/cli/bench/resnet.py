"""ResNet-50 on sealed images: what isolation and sealing cost beside ONNX Runtime in this process.

Ours is what a worker does for a run whose model is warm: open the sealed images into a memory file, have the child that
waits with the model run `onnx_run` on them, take its output and seal it. Before each sample the bench waits until that
child has loaded the model; what this costs has a row of its own. The peer is a session of the same library, threads and
options in this process, which is run on an array that is there, and has been run before. Both give the same numbers,
bit by bit. Neither spins while it waits for work. Samples take turns; the interval is of the ratio of medians, by a
bootstrap of pairs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from ..._core import FileKey, age_seal, memfd, memfd_seal
from ...enclave.sandbox.protocol import Job, Limits, OutputSpec
from ...enclave.sandbox.supervisor import Supervisor, sealed_memfd
from ...enclave.sandbox.warm import Warm
from ...enclave.worker.opening import open_into
from ...errors import SandboxFailed, Unavailable
from ...protocol import limits
from .resnet_graph import IMAGE, resnet50
from .rows import Goal, Row, Say, compare

PAIRS, QUICK_PAIRS = 30, 5
COLD, QUICK_COLD = 5, 2
CASES: Final = ((1, 1), (1, 2), (8, 1), (8, 2))
"""Images of a batch, and threads."""
MEDIAN_AT_MOST: Final = 1.03
BOUND_AT_MOST: Final = 1.08
GOAL: Final = Goal(
    "median at most 3 % slower, upper bound of the 95 % interval at most 8 %", ratio_at_most=MEDIAN_AT_MOST
)
RESAMPLES: Final = 10_000
PEER: Final = "onnxruntime in process"
WARM_SECONDS: Final = 600
LOADING_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 0.05
"""Before a sample of either, so that what ran before has ended."""
MS: Final = 1_000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed file in memory, with its digest and its key."""

    data: bytes
    sha256: str
    key: FileKey


def seal(data: bytes) -> Sealed:
    """As an owner does it."""
    source, target = sealed_memfd("plain", data), memfd("sealed")
    try:
        os.lseek(source, 0, os.SEEK_SET)
        made = age_seal(source, target, [])
        data = os.pread(target, made.size, 0)
        return Sealed(data, hashlib.sha256(data).hexdigest(), made.file_key)
    finally:
        os.close(source)
        os.close(target)


def open_sealed(sealed: Sealed, target: int) -> None:
    """As a worker does it with the pieces that the host hands over."""
    data = sealed.data
    pieces = (data[at : at + limits.BLOB_CHUNK_BYTES] for at in range(0, len(data), limits.BLOB_CHUNK_BYTES))
    open_into(target, pieces, sealed.sha256, len(data), sealed.key)


class Ours:
    """One batch size and number of threads, by the supervisor."""

    def __init__(self, supervisor: Supervisor, model: int, batch: int, threads: int) -> None:
        self._supervisor, self._model = supervisor, model
        self._warm = Warm(f"{batch}-{threads}", WARM_SECONDS)
        self._job = Job(
            "builtin",
            "onnx_run",
            args={"batch": batch, "threads": threads},
            inputs={"model": "bytes", "tensors": "bytes"},
            outputs={"result": OutputSpec("bytes")},
            limits=Limits(threads=threads),
        )

    def ready(self) -> float:
        """Wait for the child that loads the model; milliseconds."""
        start = time.perf_counter()
        if not self._supervisor.shelf.waits(LOADING_SECONDS):
            raise SandboxFailed("the model was not loaded ahead")
        return (time.perf_counter() - start) * MS

    def __call__(self, images: Sealed, warm: bool = True) -> tuple[float, bytes]:
        """Milliseconds from the sealed images to the sealed scores, and the scores."""
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            inputs: dict[str, int] = {}
            claimed = self._supervisor.claim(self._job, self._warm, len(images.data)) if warm else None
            if claimed is not None:
                open_sealed(images, claimed.inputs["tensors"])
            elif warm:
                raise SandboxFailed("no child waited with the model")
            else:
                inputs = {"model": self._model, "tensors": memfd("input")}
                stack.callback(os.close, inputs["tensors"])
                open_sealed(images, inputs["tensors"])
                memfd_seal(inputs["tensors"])
            outcome = stack.enter_context(self._supervisor.run(self._job, inputs, self._warm, claimed))
            if outcome.failure is not None:
                raise SandboxFailed(f"the bench's function failed: {outcome.failure}")
            scores = outcome.outputs["result"]
            out = memfd("sealed")
            stack.callback(os.close, out)
            os.lseek(scores.fd, 0, os.SEEK_SET)
            age_seal(scores.fd, out, [])
            took = (time.perf_counter() - start) * MS
            return took, os.pread(scores.fd, scores.size, 0)


class Peer:
    """The same by a session in this process."""

    def __init__(self, data: bytes, threads: int) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        start = time.perf_counter()
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.loading = (time.perf_counter() - start) * MS

    def __call__(self, images: Any) -> tuple[float, Any]:
        """Milliseconds, and the scores."""
        start = time.perf_counter()
        (scores,) = self._session.run(None, {"data": images})
        return (time.perf_counter() - start) * MS, scores


def interval(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the ratio of medians: pairs are drawn again, with a seed of their own."""
    import numpy as np

    pairs = np.stack((ours, peer))
    chosen = np.random.default_rng(len(ours)).integers(0, len(ours), (RESAMPLES, len(ours)))
    ratios = np.median(pairs[0][chosen], axis=1) / np.median(pairs[1][chosen], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def judged(metric: str, ours: Sequence[float], peer: Sequence[float], note: str) -> Row:
    """A row that is held to both bounds."""
    row = compare(metric, "ms", ours, peer, peer_name=PEER, goal=GOAL, note=note)
    low, high = interval(ours, peer)
    met = bool(row.met) and high <= BOUND_AT_MOST
    return dataclasses.replace(
        row, met=met, note=f"95 % interval of the ratio {low:.3f} to {high:.3f}, {len(ours)} pairs; {note}"
    )


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench resnet``. Raises `Unavailable` without onnxruntime."""
    try:
        importlib.import_module("onnxruntime")
    except ImportError:
        raise Unavailable("the bench needs onnxruntime: pip install 'mesatee[ml]'") from None
    import numpy as np

    from ... import tensors
    from ...inference import check

    say("making the model")
    data = resnet50()
    rows: list[Row] = []
    checks, loads, ready, cold = [], [], [], []
    for _ in range(QUICK_COLD if quick else COLD):
        start = time.perf_counter()
        check(data)
        checks.append((time.perf_counter() - start) * MS)
    with contextlib.ExitStack() as stack:
        model = sealed_memfd("model", data)
        stack.callback(os.close, model)
        supervisor = stack.enter_context(Supervisor())
        for batch, threads in CASES:
            metric = f"latency batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
            say(metric)
            images = np.random.default_rng(batch).standard_normal((batch, *IMAGE), np.float32)
            sealed = seal(tensors.write({"data": images}))
            run, peer = Ours(supervisor, model, batch, threads), Peer(data, threads)
            loads.append(peer.loading)
            peer(images)
            for _ in range((QUICK_COLD if quick else COLD) if (batch, threads) == (1, 1) else 1):
                supervisor.shelf.clear()
                took, _ = run(sealed, warm=False)
                cold.append(took)
                ready.append(run.ready())
            mine, theirs = [], []
            for _ in range(QUICK_PAIRS if quick else PAIRS):
                time.sleep(SETTLE_SECONDS)
                took, scores = run(sealed)
                mine.append(took)
                ready.append(run.ready())
                time.sleep(SETTLE_SECONDS)
                took, wanted = peer(images)
                theirs.append(took)
                if not np.array_equal(tensors.read(scores)["scores"], wanted):
                    raise SandboxFailed("the scores are not those of the peer")
            note = "open the images, run, seal the scores; a child waits with the model, for which the bench waits"
            rows.append(judged(metric, mine, theirs, note))
    size = f"{len(data) / 1e6:.0f} MB"
    rows.append(
        compare(
            "loading ahead",
            "ms",
            ready,
            loads,
            peer_name="a session in process",
            note="from the end of a run until another child has checked and loaded the model and run it once on "
            "zeros; nobody waits for it; the peer loads alone",
        )
    )
    rows.append(
        compare(
            "latency batch 1, 1 thread, cold",
            "ms",
            cold[: QUICK_COLD if quick else COLD],
            note="no child waits: the model is checked and loaded first",
        )
    )
    rows.append(
        compare("check of the model", "ms", checks, note=f"all that is refused is looked for in {size}")
    )
    return tuple(rows)


__all__ = ["CASES", "interval", "judged", "measure", "open_sealed", "seal"]
