"""Starting the confined child that reads somebody's model, and judging what comes back."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ... import _core
from ...enclave.sandbox.zygote import read_paths
from ...errors import InputError, Malformed, NotFound, SandboxFailed, TimedOut, TooLarge
from ...party.http import visible
from ...protocol import limits
from ...protocol.jsonstrict import parse_object

SECONDS: Final = 900
"""Processor time, and time, that one conversion has."""
MEMORY_BYTES: Final = 16 * limits.GIB
"""Memory of the child: a framework, the model several times, and the sample."""
THREADS: Final = 256
"""Frameworks size their pools by the machine, and start them when they are imported."""
MODEL_FILES: Final = 10_000
"""Files in the folder that a model is."""
REPORT_BYTES: Final = 64 * limits.KIB
SCRIPTS: Final = Path(__file__).parent / "scripts"
_SAID_CHARS: Final = 300
_MACHINE: Final = ("/dev/null", "/proc/cpuinfo", "/sys/devices/system/cpu")
"""What frameworks look at when they are imported, beside libraries."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What the child gave: the model, the sample that it ran, and what the original framework made of it."""

    model: bytes = field(repr=False)
    sample: bytes = field(repr=False)
    expected: bytes = field(repr=False)
    said: Mapping[str, Any]


def convert(
    script: str,
    framework: str,
    model: Path,
    packages: Sequence[Path],
    *,
    sample: Path | None = None,
    options: Mapping[str, Any] | None = None,
    beside: Mapping[str, Path] | None = None,
    private_root: bool = True,
) -> Converted:
    """Run one script on one model. `beside` are further files that it reads, by name.

    1. The model is copied to where nobody changes it meanwhile; links and odd files are refused.
    2. The child sees it, its packages and system libraries, and nothing else.
    3. What it gives is taken from memory files of bounded size.

    `private_root`: the child has a root folder of its own where this machine allows that, and in any case Landlock.
    Raises `Malformed` with the converter's own reason, `NotFound`, `TooLarge`, `TimedOut` or `SandboxFailed`.
    """
    with ExitStack() as stack:
        # 1.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesatee-model-")))
        folder.chmod(0o755)
        job: dict[str, Any] = {**(options or {}), "script": script, "from": framework}
        job["model"] = str(_staged(model, folder / "model"))
        if sample is not None:
            job["sample"] = str(_staged(sample, folder / "sample"))
        for name, path in (beside or {}).items():
            job[name] = str(_staged(path, folder / name))
        # 2.
        fds = {name: _core.memfd(name) for name in ("model", "sample", "expected", "report")}
        for fd in fds.values():
            stack.callback(os.close, fd)
        standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
        paths = [str(path.resolve()) for path in packages]
        job["fds"] = fds
        job["path"] = [str(SCRIPTS), *paths, *standard, f"{standard[0]}/lib-dynload"]
        job["read"] = [*read_paths(), *paths, str(SCRIPTS), str(folder), *_MACHINE]
        job |= {"memory": MEMORY_BYTES, "seconds": SECONDS, "threads": THREADS, "private_root": private_root}
        job["file_bytes"] = limits.ONNX_BYTES
        errors = stack.enter_context(tempfile.TemporaryFile())
        code = _run(job, fds, errors)
        # 3.
        return _taken(fds, code, _tail(errors))


def _run(job: Mapping[str, Any], fds: Mapping[str, int], errors: Any) -> int:
    command = [sys.executable, "-I", "-B", "-m", "mesatee.cli.convert.child", json.dumps(job)]
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=tuple(fds.values())
    )
    with child:
        try:
            return child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the conversion took more than {SECONDS} s") from None
        finally:
            child.kill()


def _taken(fds: Mapping[str, int], code: int, tail: str) -> Converted:
    sizes = {name: os.fstat(fd).st_size for name, fd in fds.items()}
    if not sizes["report"]:
        raise SandboxFailed(
            f"the converter ended with code {code} and said nothing{f': {tail}' if tail else ''}",
            hint="is the model whole, and does it fit into memory?",
        )
    if sizes["report"] > REPORT_BYTES:
        raise TooLarge("the converter's report is too long")
    said = parse_object(os.pread(fds["report"], REPORT_BYTES, 0), limit=REPORT_BYTES)
    if "refused" in said:
        hint = said.get("hint")
        raise Malformed(_text(said["refused"]), hint=_text(hint) if hint else None)
    if "failed" in said:
        raise Malformed(
            f"the model does not convert: {_text(said['failed'])}",
            hint="docs/models.md says which models do, and how to export one",
        )
    found = {name: os.pread(fds[name], sizes[name], 0) for name in ("model", "sample", "expected")}
    return Converted(found["model"], found["sample"], found["expected"], said)


def _text(value: object) -> str:
    return visible(str(value))[:_SAID_CHARS]


def _tail(errors: Any) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2_000))
    lines = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return visible(lines[-1])[:_SAID_CHARS] if lines else ""


def _staged(source: Path, target: Path) -> Path:
    """A copy with the source's last name, so that frameworks which look at it do as they do elsewhere."""
    if not source.exists():
        raise NotFound(f"there is no {source}", hint="check the path")
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    copy = target / f"it{source.suffix if source.suffix.isascii() else ''}"
    room = [limits.ONNX_BYTES * 2, MODEL_FILES]
    if source.is_dir():
        _copy_folder(source, copy, room)
    else:
        _copy_file(source, copy, room)
    return copy


def _copy_folder(source: Path, target: Path, room: list[int]) -> None:
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    for item in sorted(source.iterdir()):
        if item.is_dir() and not item.is_symlink():
            room[1] -= 1
            _copy_folder(item, target / item.name, room)
        else:
            _copy_file(item, target / item.name, room)


def _copy_file(source: Path, target: Path, room: list[int]) -> None:
    facts = source.lstat() if source.parent != source else source.stat()
    if stat.S_ISLNK(facts.st_mode):
        facts = source.stat()
        if source.resolve().parent != source.parent.resolve():
            raise InputError(f"{source} is a link to somewhere else", hint="give the model as plain files")
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{source} is no plain file", hint="give the model as plain files")
    room[0] -= facts.st_size
    room[1] -= 1
    if min(room) < 0:
        raise TooLarge(f"the model has over {2 * limits.ONNX_BYTES} bytes or {MODEL_FILES} files")
    shutil.copyfile(source, target)
    target.chmod(0o644)


__all__ = ["MEMORY_BYTES", "SCRIPTS", "SECONDS", "Converted", "convert"]
