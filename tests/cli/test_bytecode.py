"""Byte code that somebody planted beside the measured sources is not what a trusted process runs."""

from __future__ import annotations

import importlib.util
import marshal
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mesatee
from mesatee.cli import bytecode, up
from mesatee.enclave.platform import bytecode as own
from mesatee.errors import Denied

LOADED = re.compile(r"^# code object from '([^']+)'", re.MULTILINE)
START = "import sys; sys.path.insert(0, sys.argv[1]); import mesatee.cli.processes"
WITHOUT = ["-B"]


def imported(folder: Path, options: list[str]) -> str:
    """What the interpreter says of its imports when it loads the service's processes from `folder`."""
    command = [sys.executable, "-I", "-v", *options, "-c", START, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stderr


def plant(source: Path, marker: Path) -> None:
    """Beside the source: byte code of its date and size that leaves a mark, and then does what the source does."""
    text = f"open({str(marker)!r}, 'w').close()\n" + source.read_text().replace(
        "from __future__ import annotations\n", ""
    )
    found = source.stat()
    head = importlib.util.MAGIC_NUMBER + bytes(4)
    head += int(found.st_mtime).to_bytes(4, "little") + found.st_size.to_bytes(4, "little")
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    flags = 0x1000000  # annotations
    target.write_bytes(head + marshal.dumps(compile(text, str(source), "exec", flags)))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package, and nothing compiled in it."""
    package = Path(mesatee.__file__).parent
    shutil.copytree(
        package, tmp_path / "lib" / "mesatee", ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    for library in package.glob("*.so"):
        (tmp_path / "lib" / "mesatee" / library.name).symlink_to(library)
    return tmp_path / "lib"


def test_a_planted_pyc_is_not_run(installed: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    plant(installed / "mesatee" / "protocol" / "limits.py", marker)
    assert str(installed) in imported(installed, bytecode.options(tmp_path))
    assert not marker.exists()
    # That it would have been: as any other process starts.
    imported(installed, WITHOUT)
    assert marker.exists()


def test_no_byte_code_comes_from_beside_the_sources(installed: Path, tmp_path: Path) -> None:
    prefix = bytecode.options(tmp_path)[1].partition("=")[2]
    first, second = (LOADED.findall(imported(installed, bytecode.options(tmp_path))) for _ in range(2))
    compiled = [name for name in (*first, *second) if name.endswith(".pyc")]
    assert [name for name in compiled if not name.startswith(prefix)] == []
    # The second process has what the first one compiled.
    assert len([name for name in second if name.endswith(".pyc")]) > 200
    assert not list(installed.rglob("*.pyc"))


def test_each_service_has_a_folder_of_its_own_unless_its_launcher_shares_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "shared", None)
    assert bytecode.options(tmp_path) == ["-X", f"pycache_prefix={tmp_path / 'bytecode'}"]
    assert stat.S_IMODE((tmp_path / "bytecode").stat().st_mode) == 0o700
    assert bytecode.options(tmp_path) == bytecode.options(tmp_path)
    assert bytecode.options(tmp_path, writes=False) == [*bytecode.options(tmp_path), "-B"]
    monkeypatch.setattr(bytecode, "shared", tmp_path / "all")
    assert bytecode.options(tmp_path, writes=False) == ["-X", f"pycache_prefix={tmp_path / 'all'}"]


def test_a_process_without_a_cache_of_its_own_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, shared, missing = tmp_path / "private", tmp_path / "shared", tmp_path / "missing"
    private.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o770)
    link = tmp_path / "link"
    link.symlink_to(private)
    monkeypatch.setattr(sys, "pycache_prefix", str(private))
    own.check()
    for wrong in (None, str(shared), str(missing), str(link)):
        monkeypatch.setattr(sys, "pycache_prefix", wrong)
        with pytest.raises(Denied, match="byte code"):
            own.check()


@pytest.mark.e2e
def test_gateway_worker_and_zygote_are_started_so(tmp_path: Path) -> None:
    with up.running(tmp_path / "home") as service:
        option = bytecode.options(service.runtime)[1].encode()
        pids = {name: child.pid for name in ("gateway", "worker") if (child := service.process(name).child)}
        assert len(pids) == 2
        for pid in pids.values():
            assert option in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        below = Path(f"/proc/{pids['worker']}/task/{pids['worker']}/children")
        deadline = time.monotonic() + 60
        while not any(b"zygote" in line(pid) for pid in below.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        zygotes = [line(pid) for pid in below.read_text().split()]
        assert all(option in found.split(b"\0") for found in zygotes if b"zygote" in found)


def line(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
