"""Coverage-guided fuzzing of every parser of hostile bytes: our errors or none, no hang, bounded memory.

``MESATEE_FUZZ_SECONDS`` says for how long each parser (60 by default); ``MESATEE_FUZZ_CORPUS`` names a folder in which
what was found interesting stays for the next time.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fuzz.attestation import TARGETS, Target, at_limits, seeds_of
from tests.support import captured

from mesatee.errors import MesateeError

SECONDS = int(os.environ.get("MESATEE_FUZZ_SECONDS", "60"))
HANG_SECONDS = 20
"""One input that takes so long is a hang."""
MEMORY_MIB = 2_048
INPUT_BYTES = 128 * 1024
"""Beyond most of the parsers' own limits."""
HARNESS = Path(__file__).with_name("harness.py")
PARSERS = (
    "envelope",
    "wire",
    "age",
    "tile",
    "checkpoint",
    "frames",
    "child",
    "certificate",
    "evidence",
    "model",
    "onnx",
    "tensors",
    "caffe",
    "trees",
)

CPU_SECONDS = 1.0
"""Longer over one piece of evidence is a hang."""

pytestmark = pytest.mark.slow


def fuzz(
    parser: str, folder: Path, *options: str, size: int = INPUT_BYTES
) -> subprocess.CompletedProcess[str]:
    kept = os.environ.get("MESATEE_FUZZ_CORPUS")
    corpus = Path(kept) / parser if kept else folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={size}"]
    command = [sys.executable, str(HARNESS), parser, *limits, "-print_final_stats=1", *options, str(corpus)]
    # What crashes it is written to where it runs.
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "MESATEE_SHARED": str(captured.FOLDER.parent)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
        errors="replace",
    )


def clean(parser: str, tmp_path: Path, least: int, size: int = INPUT_BYTES) -> None:
    done = fuzz(parser, tmp_path, f"-max_total_time={SECONDS}", size=size)
    runs = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    crashes = [path for kind in ("crash", "timeout", "oom", "leak") for path in tmp_path.glob(f"{kind}-*")]
    shown = {path.name: path.read_bytes()[:500] for path in crashes}
    assert done.returncode == 0, f"{shown}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert not crashes
    assert runs
    assert int(runs[1]) > least
    print(f"\n{parser}: {runs[1]} inputs, {covered[-1]} branches reached")


@pytest.mark.parametrize("parser", PARSERS)
def test_nothing_but_our_errors(parser: str, tmp_path: Path) -> None:
    clean(parser, tmp_path, 100)


@captured.needed
@pytest.mark.parametrize("parser", TARGETS)
def test_nothing_but_our_errors_of_evidence(parser: str, tmp_path: Path) -> None:
    """The harness also counts each input's time."""
    clean(parser, tmp_path, 50, TARGETS[parser].limit + 64)


@captured.needed
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_no_hang_at_the_limits(target: Target) -> None:
    """A fuzzer seldom gets to inputs of megabytes, and its instruments slow them down."""
    seeds = seeds_of(target)
    assert seeds
    for seed in (seeds[0], seeds[-1]):
        for data in at_limits(target, seed):
            start = time.process_time()
            with contextlib.suppress(MesateeError):
                target.parse(data)
            assert time.process_time() - start < CPU_SECONDS, (len(data), data[:20])


def test_a_planted_error_is_found(tmp_path: Path) -> None:
    """Control: a parser that raises something else is caught, and its input kept."""
    done = fuzz("planted", tmp_path, "-max_total_time=20", "-runs=200000")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert list(tmp_path.glob("crash-*"))
