"""Obliviousness of trees: predictions leave one trace on all rows of a size, as `test_oblivious_traces` shows of sets.

`walk` is a planted leak, and the portable engine that looks leaves up is another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.captured import lacking

ROOT = Path(__file__).parents[2]
KERNELS = ("numbers", "deep", "categories", "double", "classes")
SEEDS = ("1", "2")


@pytest.fixture(scope="module")
def kernels() -> Path:
    """The program that predicts on the rows of a seed."""
    if shutil.which("cargo") is None:
        lacking("it is built from the source tree by cargo")
    command = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "mesatee-trees",
        "--example",
        "kernels",
    ]
    # A folder of its own: the other crate's program has the same name.
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "trees"
    done = subprocess.run(
        [*command, "--target-dir", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / "release" / "examples" / "kernels"


def stepped(kernels: Path, kernel: str, size: int) -> list[str]:
    """The number of steps and the digest of the trace, for each seed."""
    if "avx512_vbmi" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("not applicable: this processor has no AVX-512 VBMI, so the portable engine is used here")
    done = subprocess.run(
        [kernels, "step", kernel, "best", str(size), *SEEDS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "kernel", ["numbers", *(pytest.param(name, marks=pytest.mark.slow) for name in KERNELS[1:])]
)
def test_single_steps_are_the_same_whatever_the_rows(kernels: Path, kernel: str) -> None:
    found = stepped(kernels, kernel, 64)
    assert len(found) == len(SEEDS)
    assert len(set(found)) == 1, found
    assert int(found[0].split()[0]) > 1_000


def test_a_planted_walk_shows_in_single_steps(kernels: Path) -> None:
    assert len(set(stepped(kernels, "walk", 20))) == len(SEEDS)


def accesses(kernels: Path, kernel: str, engine: str, size: int, seed: str) -> str:
    """Digest of every instruction and access of the kernel."""
    if shutil.which("valgrind") is None:
        lacking("valgrind")
    command = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--log-fd=1"]
    digest, marks, marker = hashlib.sha256(), 0, b""
    with subprocess.Popen(
        [*command, kernels, "run", kernel, engine, str(size), seed],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
    ) as process:
        # Millions of lines: none is kept.
        for line in process.stdout or ():
            if line.startswith(b"marker "):
                marker = b"I  %s," % line.split()[1][2:].rjust(8, b"0")
            elif marker and line.startswith(marker):
                marks += 1
            if marks == 1 and line.startswith((b"I ", b" L", b" S", b" M")):
                digest.update(line)
    assert process.returncode == 0
    assert marks == 2
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_accesses_of_the_portable_engine_are_the_same_whatever_the_rows(kernels: Path, kernel: str) -> None:
    assert len({accesses(kernels, kernel, "portable", 64, seed) for seed in SEEDS}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "engine"), [("walk", "portable"), ("numbers", "quick")])
def test_planted_leaks_show_in_the_accesses(kernels: Path, kernel: str, engine: str) -> None:
    assert len({accesses(kernels, kernel, engine, 64, seed) for seed in SEEDS}) == len(SEEDS)


def counted(kernels: Path, kernel: str, engine: str, seed: str, folder: Path) -> list[str]:
    """How often each line of machine code ran, by callgrind, which is quicker."""
    if shutil.which("valgrind") is None:
        lacking("valgrind")
    out = folder / f"{kernel}.{seed}"
    tool = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}"]
    done = subprocess.run(
        [*tool, kernels, "run", kernel, engine, "64", seed],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in out.read_text().splitlines() if not line.startswith(("pid:", "cmd:"))]


def test_every_instruction_of_the_portable_engine_runs_as_often(kernels: Path, tmp_path: Path) -> None:
    one, other = (counted(kernels, "numbers", "portable", seed, tmp_path) for seed in SEEDS)
    assert one == other


def test_a_planted_walk_shows_in_the_counts(kernels: Path, tmp_path: Path) -> None:
    one, other = (counted(kernels, "walk", "portable", seed, tmp_path) for seed in SEEDS)
    assert one != other
