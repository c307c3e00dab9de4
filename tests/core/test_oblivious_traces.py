"""Obliviousness: kernels leave one trace on all values of a size.

The portable path runs under valgrind, which shows every instruction and access; valgrind knows no AVX-512, so that
path is stepped through by ptrace, and the addresses of its memory operands are worked out from the registers. In both,
`branch` and `lookup` are planted, and must be found out.
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
KERNELS = ("sort", "places", "compact", "one_word", "sets", "pages", "match", "rows")
PLANTED = ("branch", "lookup")
SEEDS = ("1", "2")


@pytest.fixture(scope="module")
def kernels() -> Path:
    """The program that runs one kernel on the values of a seed."""
    if shutil.which("cargo") is None:
        lacking("it is built from the source tree by cargo")
    done = subprocess.run(
        [
            "cargo",
            "build",
            "--release",
            "--locked",
            "--quiet",
            "-p",
            "mesatee-oblivious",
            "--example",
            "kernels",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "kernels"


# -- AVX-512, by single steps ------------------------------------------------------------------------------


def stepped(kernels: Path, kernel: str, size: int) -> list[str]:
    """The number of steps and the digest of the trace, for each seed."""
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        # Also where everything must run: no package brings it, and the engine that is used here is the portable one.
        pytest.skip("not applicable: this processor has no AVX-512")
    done = subprocess.run(
        [kernels, "step", kernel, "best", str(size), *SEEDS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_steps_are_the_same_whatever_the_values(kernels: Path, kernel: str) -> None:
    found = stepped(kernels, kernel, 512 if kernel in ("sort", "places") else 64)
    assert len(found) == len(SEEDS)
    assert len(set(found)) == 1, found
    assert int(found[0].split()[0]) > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [256, 300, 512, 1024])
@pytest.mark.parametrize("kernel", KERNELS)
def test_single_steps_of_more_elements(kernels: Path, kernel: str, size: int) -> None:
    assert len(set(stepped(kernels, kernel, size))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["sort", "places", "one_word"])
def test_single_steps_of_passes_over_all_of_memory(kernels: Path, kernel: str) -> None:
    assert len(set(stepped(kernels, kernel, 5000))) == 1


@pytest.mark.parametrize("kernel", PLANTED)
def test_a_planted_leak_shows_in_single_steps(kernels: Path, kernel: str) -> None:
    assert len(set(stepped(kernels, kernel, 128))) == len(SEEDS)


# -- the portable path, under valgrind ------------------------------------------------------------------


def accesses(kernels: Path, kernel: str, size: int, seed: str) -> str:
    """Digest of every instruction and access of the kernel."""
    if shutil.which("valgrind") is None:
        lacking("valgrind")
    command = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--log-fd=1"]
    done = subprocess.run(
        [*command, kernels, "run", kernel, "portable", str(size), seed],
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    marker = next(line.split()[1][2:] for line in lines if line.startswith(b"marker "))
    # Valgrind pads addresses to eight digits; what is neither instruction nor access are its own words.
    at = b"I  %s," % marker.rjust(8, b"0")
    trace = [line for line in lines if line.startswith((b"I ", b" L", b" S", b" M"))]
    first, last = (number for number, line in enumerate(trace) if line.startswith(at))
    assert last - first > 1_000
    return hashlib.sha256(b"\n".join(trace[first:last])).hexdigest()


@pytest.mark.parametrize("kernel", KERNELS)
def test_accesses_are_the_same_whatever_the_values(kernels: Path, kernel: str) -> None:
    assert accesses(kernels, kernel, 64, "1") == accesses(kernels, kernel, 64, "2")


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 512, 1024])
@pytest.mark.parametrize("kernel", KERNELS)
def test_accesses_of_more_elements(kernels: Path, kernel: str, size: int) -> None:
    assert len({accesses(kernels, kernel, size, seed) for seed in SEEDS}) == 1


@pytest.mark.parametrize("kernel", PLANTED)
def test_a_planted_leak_shows_in_the_accesses(kernels: Path, kernel: str) -> None:
    assert len({accesses(kernels, kernel, 64, seed) for seed in SEEDS}) == len(SEEDS)


def counted(kernels: Path, kernel: str, seed: str, folder: Path) -> list[str]:
    """How often each line of machine code ran, by callgrind."""
    if shutil.which("valgrind") is None:
        lacking("valgrind")
    out = folder / f"{kernel}.{seed}"
    tool = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}"]
    done = subprocess.run(
        [*tool, kernels, "run", kernel, "portable", "1024", seed],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in out.read_text().splitlines() if not line.startswith(("pid:", "cmd:"))]


@pytest.mark.parametrize("kernel", ["match", "sets", "compact", "one_word"])
def test_every_instruction_runs_as_often(kernels: Path, kernel: str, tmp_path: Path) -> None:
    assert counted(kernels, kernel, "1", tmp_path) == counted(kernels, kernel, "2", tmp_path)


def test_a_planted_branch_shows_in_the_counts(kernels: Path, tmp_path: Path) -> None:
    assert counted(kernels, "branch", "1", tmp_path) != counted(kernels, "branch", "2", tmp_path)
