"""Coverage-guided fuzzing of every parser of hostile bytes: our errors or none, no hang, bounded memory.

``MESATEE_FUZZ_SECONDS`` says for how long each parser (60 by default); ``MESATEE_FUZZ_CORPUS`` names a folder in which
what was found interesting stays for the next time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = int(os.environ.get("MESATEE_FUZZ_SECONDS", "60"))
HANG_SECONDS = 20
"""One input that takes so long is a hang."""
MEMORY_MIB = 2_048
INPUT_BYTES = 128 * 1024
"""Beyond most of the parsers' own limits."""
HARNESS = Path(__file__).with_name("harness.py")
PARSERS = ("envelope", "wire", "age", "tile", "checkpoint", "frames", "child", "certificate", "evidence")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed"),
]


def fuzz(parser: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    kept = os.environ.get("MESATEE_FUZZ_CORPUS")
    corpus = Path(kept) / parser if kept else folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={INPUT_BYTES}"]
    command = [sys.executable, str(HARNESS), parser, *limits, "-print_final_stats=1", *options, str(corpus)]
    # What crashes it is written to where it runs.
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
        errors="replace",
    )


@pytest.mark.parametrize("parser", PARSERS)
def test_nothing_but_our_errors(parser: str, tmp_path: Path) -> None:
    done = fuzz(parser, tmp_path, f"-max_total_time={SECONDS}")
    runs = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    crashes = [path for kind in ("crash", "timeout", "oom", "leak") for path in tmp_path.glob(f"{kind}-*")]
    shown = {path.name: path.read_bytes()[:500] for path in crashes}
    assert done.returncode == 0, f"{shown}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert not crashes
    assert runs
    assert int(runs[1]) > 100
    print(f"\n{parser}: {runs[1]} inputs, {covered[-1]} branches reached")


def test_a_planted_error_is_found(tmp_path: Path) -> None:
    """Control: a parser that raises something else is caught, and its input kept."""
    done = fuzz("planted", tmp_path, "-max_total_time=20", "-runs=200000")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert list(tmp_path.glob("crash-*"))
