"""The core's own tests, which need no Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.captured import lacking

ROOT = Path(__file__).parents[2]


def test_the_tests_of_all_crates_pass() -> None:
    if shutil.which("cargo") is None:
        lacking("the core is built from the source tree by cargo")
    # The bindings need an interpreter, and Python's tests are theirs.
    command = ["cargo", "test", "--release", "--locked", "--workspace", "--exclude", "mesatee-bindings"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5_000:]
    passed = sum(map(int, re.findall(r"test result: ok\. (\d+) passed", done.stdout)))
    assert passed > 80
