"""The import contracts of pyproject.toml hold, and a planted breach of each of them is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def lint(root: Path, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--config", str(root / "pyproject.toml")],
        env={**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold(root: Path):
    done = lint(root, root / "src")
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


PLANTED = {
    "places": ("party/config.py", "from mesatee.host import server"),
    "data-only": ("protocol/wire.py", "from mesatee.table import Table"),
    "sans-io": ("enclave/gateway/rules.py", "import time"),
    "child": ("enclave/functions/echo.py", "from mesatee.enclave.gateway import state"),
    "native": ("enclave/worker/run.py", "def f():\n    import numpy"),
    "pickle": ("host/connection.py", "import pickle"),
    "permits": ("enclave/gateway/views.py", "from .permit import Mint"),
}


def test_every_contract_has_a_planted_breach(root: Path):
    configured = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {item["id"] for item in configured} == set(PLANTED)


@pytest.mark.parametrize("contract", sorted(PLANTED))
def test_a_planted_breach_is_found(root: Path, tmp_path: Path, contract: str):
    configured = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    name = next(item["name"] for item in configured if item["id"] == contract)
    shutil.copytree(
        root / "src" / "mesatee", tmp_path / "mesatee", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    where, what = PLANTED[contract]
    path = tmp_path / "mesatee" / where
    path.write_text(path.read_text("utf-8") + f"\n\n{what}\n", "utf-8")
    done = lint(root, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{name} BROKEN" in " ".join(done.stdout.split())
