"""Spawning: from the supervisor's `run` to foreign code that can compute with numpy, in full isolation.

*Ready* is the moment at which a Python function of a party has computed something with numpy, by the
monotonic clock that all processes of a machine share; namespaces, Landlock, seccomp and limits are in force
by then. The same with onnxruntime, where the extra `ml` is installed: the function has the module and a
session's options. *Done* is when the supervisor has the outcome; nothing waits for the end of the child then but the
next run. The supervisor keeps one child ready: samples with a pause before them find it, those back to back have to
wait for the end of the last one, and for the next one. The peer is bubblewrap with all namespaces unshared and a bare
interpreter, without numpy and without seccomp filter: ready when its first line has run, done when it has ended.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ...enclave.sandbox.protocol import Job, OutputSpec
from ...enclave.sandbox.supervisor import Supervisor
from ...errors import SandboxFailed, Unavailable
from ...protocol import limits
from ...protocol.jsonstrict import parse_object
from .rows import Goal, Row, Say, compare

SAMPLES, QUICK_SAMPLES = 200, 20
READY_GOAL: Final = Goal("at most 0.3 of the peer", ratio_at_most=0.3)
PEER: Final = "bubblewrap + bare python"
INFERENCE_GOAL: Final = Goal("at most 5 ms and 0.3 of the peer", ours_at_most=5.0, ratio_at_most=0.3)
MS: Final = 1_000.0
PAUSE_SECONDS: Final = 0.1
"""Before a sample that is to find a child ready, beside the peer's own time."""
BURST: Final = 10
"""Runs in a row, of which all but the first count."""

FUNCTION: Final = b"""\
import time
import numpy as np

def ready() -> dict:
    assert np.ones(8).sum() == 8
    return {"at": time.monotonic_ns()}
"""
INFERENCE: Final = b"""\
import time
import numpy as np
import onnxruntime

def ready() -> dict:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    assert np.ones(8).sum() == 8 and "CPUExecutionProvider" in onnxruntime.get_available_providers()
    return {"at": time.monotonic_ns()}
"""
WITH_INFERENCE: Final = "ready with numpy and onnxruntime"
BARE: Final = "import posix, time; posix.write(1, str(time.monotonic_ns()).encode())"


def ours(
    supervisor: Supervisor, job: Job, inputs: Mapping[str, int] = MappingProxyType({})
) -> tuple[float, float, tuple[str, ...]]:
    """Seconds to ready and to done, and the layers that were active."""
    start = time.monotonic_ns()
    with supervisor.run(job, inputs) as outcome:
        done = time.monotonic_ns()
        if outcome.failure is not None:
            raise SandboxFailed(f"the bench's function failed: {outcome.failure}")
        said = outcome.outputs["result"]
        at = parse_object(os.pread(said.fd, min(said.size, limits.KIB), 0))["at"]
    return (at - start) / 1e9, (done - start) / 1e9, tuple(outcome.layers)


def bubblewrap(command: list[str]) -> tuple[float, float]:
    """Seconds to ready and to done. Raises `Unavailable` if it does not work here."""
    start = time.monotonic_ns()
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    done = time.monotonic_ns()
    if ended.returncode or not ended.stdout.isdigit():
        reason = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Unavailable(f"bubblewrap does not work here: {reason[:200]}")
    return (int(ended.stdout) - start) / 1e9, (done - start) / 1e9


def bubblewrap_command() -> list[str]:
    """Raises `Unavailable` if it is not installed."""
    program = shutil.which("bwrap")
    if program is None:
        raise Unavailable("bubblewrap is not installed (Debian's package bubblewrap)")
    # The interpreter itself, because a virtual environment's is a link to it.
    python = str(Path(sys.executable).resolve())
    isolation = [
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ]
    return [program, *isolation, python, "-I", "-S", "-c", BARE]


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench spawn``."""
    samples = QUICK_SAMPLES if quick else SAMPLES
    job = Job("python", "ready", code=FUNCTION, outputs={"result": OutputSpec("json")})
    inference = dataclasses.replace(job, code=INFERENCE) if _has_inference() else None
    missing = ""
    command: list[str] = []
    try:
        command = bubblewrap_command()
        bubblewrap(command)
    except Unavailable as error:
        missing, command = error.message, []
    mine: list[tuple[float, float]] = []
    peer: list[tuple[float, float]] = []
    packed: list[tuple[float, float]] = []
    models: list[float] = []
    layers: tuple[str, ...] = ()
    say("starting the zygote")
    start = time.monotonic()
    # As a worker has it: with a folder of environments, which each child has to be kept out of.
    with tempfile.TemporaryDirectory() as folder, Supervisor(environments=Path(folder)) as supervisor:
        warm = time.monotonic() - start
        ours(supervisor, job)
        for number in range(samples):
            if number % 50 == 0:
                say(f"sample {number + 1} of {samples}")
            time.sleep(PAUSE_SECONDS)
            ready, done, layers = ours(supervisor, job)
            mine.append((ready * MS, done * MS))
            if inference is not None:
                time.sleep(PAUSE_SECONDS)
                models.append(ours(supervisor, inference)[0] * MS)
            if command:
                # Not while the next child is being made, which would slow the peer down.
                time.sleep(PAUSE_SECONDS)
                ready, done = bubblewrap(command)
                peer.append((ready * MS, done * MS))
            if number % BURST == 0:
                for _ in range(BURST):
                    ready, done, _ = ours(supervisor, job)
                    packed.append((ready * MS, done * MS))
                del packed[-BURST]
    return (
        *_rows(mine, peer, packed, layers, warm, missing),
        with_inference(models, [ready for ready, _ in peer]),
    )


def with_inference(mine: list[float], peer: list[float]) -> Row:
    """The row of the extra `ml`, also where it is not installed."""
    if not mine:
        note = "the extra `ml` is not installed: pip install 'mesatee[ml]'"
        return Row(WITH_INFERENCE, "ms", None, peer_name=PEER, goal=INFERENCE_GOAL.text, note=note)
    note = "as `ready with numpy`, and onnxruntime is at hand, which the zygote has loaded; no model is loaded yet"
    return compare(WITH_INFERENCE, "ms", mine, peer, peer_name=PEER, goal=INFERENCE_GOAL, note=note)


def _has_inference() -> bool:
    try:
        metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return False
    return True


def _rows(
    mine: list[tuple[float, float]],
    peer: list[tuple[float, float]],
    packed: list[tuple[float, float]],
    layers: tuple[str, ...],
    warm: float,
    missing: str,
) -> tuple[Row, ...]:
    absent = f"; no peer: {missing}" if missing else ""
    return (
        compare(
            "ready with numpy",
            "ms",
            [ready for ready, _ in mine],
            [ready for ready, _ in peer],
            peer_name=PEER,
            goal=READY_GOAL,
            note=f"from Supervisor.run until numpy was used, {PAUSE_SECONDS:g} s or more after the run before, "
            f"so that the next child is ready; layers: {', '.join(layers)}{absent}",
        ),
        compare(
            "ready with numpy, back to back",
            "ms",
            [ready for ready, _ in packed],
            [ready for ready, _ in peer],
            peer_name=PEER,
            note=f"without a pause, in rows of {BURST}: the run waits until the next child is ready{absent}",
        ),
        compare(
            "done",
            "ms",
            [done for _, done in mine],
            [done for _, done in peer],
            peer_name=PEER,
            note=f"from Supervisor.run to the outcome; the peer until its process has ended{absent}",
        ),
        compare(
            "done, back to back",
            "ms",
            [done for _, done in packed],
            [done for _, done in peer],
            peer_name=PEER,
            note=f"its inverse is the number of runs a second of one supervisor{absent}",
        ),
        compare(
            "start of the zygote",
            "ms",
            [warm * MS],
            note="once for a worker: numpy, pandas, polars, Arrow and scikit-learn are imported",
        ),
    )


__all__ = ["measure"]
