"""Captured evidence, other programs and layers of the kernel: what tests need that is no part of the project.

Evidence of real machines lies in a folder of its own (`MESATEE_SHARED`, by default beside the project). Where that
folder is not, its tests are skipped, always: a fresh machine has none. Where it is, a case that is missing in it
fails its test, so that a wrong name hides nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mesatee.attestation.corpus import parse_time

FOLDER = Path(os.environ.get("MESATEE_SHARED", "../shared")).resolve() / "evidence"
HERE = FOLDER.is_dir()
REASON = f"captured evidence is no part of the project and not at {FOLDER} (MESATEE_SHARED says where)"
SWTPM = "swtpm, swtpm-tools, tpm2-tools"
"""Debian packages of a software TPM and of the tools that speak to it."""
needed = pytest.mark.skipif(not HERE, reason=REASON)


def need() -> None:
    """Skip the test that is running where there is no captured evidence at all."""
    if not HERE:
        pytest.skip(REASON)


def folders(tee: str) -> list[Path]:
    """Folders of the captured cases of `tee`, or of all with ``*``: some if evidence is here, none if it is not."""
    found = sorted(path.parent for path in FOLDER.glob(f"{tee}/*/meta.json"))
    assert found or not HERE, f"evidence is here, but no case in {FOLDER / tee}"
    return found


def load(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The `meta.json` of a case, and its files by role."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    return meta, {role: (folder / name).read_bytes() for role, name in meta["files"].items()}


def case(tee: str, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """One captured case. Skips the test where there is no evidence; fails where only this case is missing."""
    need()
    return load(FOLDER / tee / name)


def timed(tee: str, name: str) -> tuple[Any, dict[str, bytes]]:
    """Time (Unix seconds; None if the case has none) and files of one captured case, as `case`."""
    meta, files = case(tee, name)
    return parse_time(meta.get("at")), files


def programs(*names: str, packages: str = SWTPM) -> None:
    """Skip unless these programs are installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        lacking(f"not installed: {', '.join(missing)} (Debian packages {packages})")


def layers(active: Iterable[str], *wanted: str) -> None:
    """Skip unless the sandbox has these isolation layers here."""
    missing = set(wanted) - set(active)
    if missing:
        lacking(f"this machine's sandbox lacks {', '.join(sorted(missing))}")


def lacking(reason: str) -> NoReturn:
    """Skip the test that is running; fail instead where everything must run (`MESATEE_REQUIRE_ALL`)."""
    if os.environ.get("MESATEE_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
