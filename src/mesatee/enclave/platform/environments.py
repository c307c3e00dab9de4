"""Environments that were built beside the base one: measured by the worker before each use.

What an environment's folder says of itself is the host's word. The worker reads every file, computes the digest as
`mesatee.protocol.environments` defines it, and offers what it found; before a run it does so again, and refuses what
differs. It imports nothing of it: that happens in the sandboxed child.

A file is measured and used later. So after the run the worker looks whether any file or folder was touched since: the
kernel keeps that time, and nobody but root can set it back. What root does then goes unnoticed, as with all that level
2 measures; its code is confined like the function's own.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from mesatee.enclave.platform import measure
from mesatee.errors import EnvironmentCorrupt, InputError, Malformed, MesateeError, NotFound, TooLarge
from mesatee.protocol import environments as said
from mesatee.protocol import limits, model
from mesatee.protocol.environments import FileFacts, Manifest

BUILD_HINT: Final = "build it on this machine: `mesatee env build NAME --lock FILE`"
_NEVER: Final = frozenset({"function", "mesatee", "sitecustomize", "usercustomize"})
"""Top-level names beside those of Python and the base: the first is what a function's own source becomes."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment, as it was measured."""

    name: str
    digest: str
    folder: Path
    files: Mapping[str, FileFacts]


@dataclass(frozen=True, slots=True)
class Provided:
    """What lies under every environment, so that none may bring it along."""

    versions: Mapping[str, str]
    """Distribution, by canonical name -> its version."""
    modules: frozenset[str]
    """Top-level names that can be imported, in lower case."""


@cache
def provided() -> Provided:
    """What the base environment, the trusted processes and Python have on this machine. Raises `NotFound`."""
    roots = (*measure.base_roots(), *measure.TCB_ROOTS)
    versions = {name: metadata.version(name) for name in (*measure.closure(roots), "mesatee")}
    modules = {*_NEVER, *sys.stdlib_module_names}
    for name in versions:
        for item in metadata.distribution(name).files or ():
            module = said.module_of(item.as_posix())
            if module is not None and item.parts[0] != "..":
                modules.add(module)
    return Provided(versions, frozenset(module.casefold() for module in modules))


def measure_files(folder: Path) -> dict[str, FileFacts]:
    """Every file below the folder of packages, hashed.

    Raises `Malformed` or `TooLarge` for what no environment has: links, hard links, devices, files that others write
    or that nobody but their owner reads, `.pth` files, byte code, names that shadow the base or look like another.
    """
    found = dict(_walk(folder, ""))
    if len(found) > limits.ENVIRONMENT_FILES:
        raise TooLarge(f"there are more than {limits.ENVIRONMENT_FILES} files")
    if sum(item.st_size for item in found.values()) > limits.ENVIRONMENT_BYTES:
        raise TooLarge(f"the files have more than {limits.ENVIRONMENT_BYTES} bytes")
    below = provided()
    said.check_files(found, below.modules, frozenset(below.versions))
    paths = sorted(found)
    with ThreadPoolExecutor(measure.THREADS) as pool:
        hashed = list(pool.map(_digest, (folder / path for path in paths), chunksize=32))
    return {
        path: FileFacts(stat.S_IMODE(found[path].st_mode), digest, size)
        for path, (digest, size) in zip(paths, hashed, strict=True)
    }


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise NotFound(f"{folder} cannot be read: {error.strerror}") from None
    for entry in entries:
        path = f"{prefix}{entry.name}"
        facts = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_mode & 0o022:
                raise Malformed(f"others may write into the folder {path[:80]!a}")
            yield from _walk(folder / entry.name, f"{path}/")
            continue
        if not stat.S_ISREG(facts.st_mode):
            raise Malformed(f"{path[:80]!a} is a link or a device, not a file")
        if facts.st_nlink != 1:
            raise Malformed(f"{path[:80]!a} has a second name, by which it may be changed")
        if stat.S_IMODE(facts.st_mode) not in said.MODES:
            raise Malformed(f"{path[:80]!a} has the mode {stat.S_IMODE(facts.st_mode):04o}")
        yield path, facts


def _digest(path: Path) -> tuple[str, int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
        raise NotFound(f"a file to be measured cannot be read: {path}: {error.strerror}") from None


def measured(folder: Path, base: str) -> Environment:
    """The environment in this folder (`NAME` with its packages and lock); `base` is the base's digest, hex.

    Raises `NotFound`, `Malformed`, `TooLarge`.
    """
    name = said.check_name(folder.name)
    lock = said.lock_text(said.parse_lock(_read(folder / said.LOCK, limits.LOCK_BYTES)))
    files = measure_files(folder / said.PACKAGES)
    return Environment(name, said.digest(base, lock, files), folder, files)


def manifest(folder: Path) -> Manifest:
    """What was written when it was built. Raises `NotFound`, `Malformed` or `TooLarge`."""
    data = _read(folder / said.MANIFEST, limits.ENVIRONMENT_MANIFEST_BYTES)
    return model.read(Manifest, data, said.MANIFEST, limit=limits.ENVIRONMENT_MANIFEST_BYTES)


def check(folder: Path, base: str) -> Environment:
    """Measure it, and compare with what was found when it was built.

    Raises `EnvironmentCorrupt` naming a file that differs, or the base if it is another one.
    """
    try:
        built = manifest(folder)
        found = measured(folder, base)
        before = _read(folder / said.LISTING, limits.ENVIRONMENT_FILES * limits.KIB)
    except (InputError, NotFound) as error:
        raise EnvironmentCorrupt(f"the environment {folder.name} cannot be used: {error.message}") from None
    if found.digest != built.digest:
        if built.base != base:
            raise EnvironmentCorrupt(
                f"the environment {folder.name} was built over another base environment than this machine has"
            )
        raise EnvironmentCorrupt(
            f"the environment {folder.name} was changed after it was built: {_difference(before, found.files)}"
        )
    return found


def _difference(before: bytes, files: Mapping[str, FileFacts]) -> str:
    built, now = set(before.splitlines()), set(said.listing(files).splitlines())
    lines = sorted(built ^ now, key=lambda line: line.split(b" ", 3)[-1])
    if not lines:
        return "its lock is another one"
    path = lines[0].split(b" ", 3)[-1].decode("utf-8", "replace")
    verb = {(True, False): "is gone", (False, True): "was added"}.get(
        (_has(built, path), _has(now, path)), "is another file"
    )
    return f"{path[:80]!a} {verb}"


def _has(lines: set[bytes], path: str) -> bool:
    ending = f" {path}".encode()
    return any(line.endswith(ending) for line in lines)


def _read(path: Path, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise TooLarge(f"{path.name} has more than {most} bytes")
    return data


def names(folder: Path) -> list[str]:
    """The environments in the home's folder of them, by name; none if there is no such folder."""
    try:
        entries = [entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(entries):
        try:
            found.append(said.check_name(name))
        except Malformed:
            # One that is being built or removed, or none of ours.
            continue
    return found


class Environments:
    """What a worker offers beside the base, by name. Not thread-safe: one thread leases and runs."""

    def __init__(self, folder: Path, base: str) -> None:
        """`folder` holds them and is made if it is not there; `base` is the digest of the base environment, hex."""
        self.folder = folder
        self._base = base
        self._known: dict[str, tuple[tuple[int, ...], Environment | None]] = {}
        self._in_use: tuple[str, dict[str, tuple[int, ...]]] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) != 0o755:
            # A child is nobody, and reads them. The folder above keeps others out.
            folder.chmod(0o755)

    def current(self) -> dict[str, str]:
        """Name -> digest of those that are whole, at most as many as evidence may name. Measures what is new.

        One that cannot be used is left out; `mesatee env list --check` says why.
        """
        here = names(self.folder)
        self._known = {name: known for name, known in self._known.items() if name in here}
        for name in here:
            written = _stamp(self.folder / name / said.MANIFEST)
            if name not in self._known or self._known[name][0] != written:
                self._known[name] = (written, self._look(name))
        whole = {name: found.digest for name, (_, found) in self._known.items() if found is not None}
        return dict(sorted(whole.items())[: limits.ENVIRONMENTS - 1])

    def _look(self, name: str) -> Environment | None:
        try:
            return check(self.folder / name, self._base)
        except MesateeError:
            return None

    def use(self, digest: str) -> str:
        """The name of the environment with this digest, measured now; empty for the base.

        Raises `EnvironmentCorrupt` if it differs from what was offered, after which it is offered no more, and
        `NotFound` if there is none.
        """
        self._in_use = None
        if digest == self._base:
            return ""
        for name, (written, known) in self._known.items():
            if known is not None and known.digest == digest:
                try:
                    # Before the files are read, so that a change in between shows itself afterwards.
                    self._in_use = (name, _stamps(self.folder / name / said.PACKAGES))
                    if check(self.folder / name, self._base).digest != digest:
                        raise EnvironmentCorrupt(f"the environment {name} is another one now")
                except EnvironmentCorrupt:
                    self._known[name] = (written, None)
                    raise
                return name
        raise NotFound(f"this worker has no environment {digest}", hint=BUILD_HINT)

    def confirm(self) -> None:
        """After a run: nothing of the environment of the last `use` was touched. Raises `EnvironmentCorrupt`."""
        if self._in_use is None:
            return
        name, before = self._in_use
        now = _stamps(self.folder / name / said.PACKAGES)
        touched = sorted(path for path in {*before, *now} if before.get(path) != now.get(path))
        if touched:
            raise EnvironmentCorrupt(
                f"the environment {name} was touched while a function ran: {touched[0][:80]!a}"
            )


def _stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """Of every file and folder."""
    found = {".": _stamp(root)}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            found[path.relative_to(root).as_posix()] = _stamp(path)
    return found


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when it is written anew, or replaced, or given another mode or name."""
    try:
        facts = path.lstat()
    except OSError:
        return ()
    return (facts.st_ino, facts.st_ctime_ns, facts.st_mtime_ns, facts.st_size)


__all__ = [
    "BUILD_HINT",
    "Environment",
    "Environments",
    "Provided",
    "check",
    "manifest",
    "measure_files",
    "measured",
    "names",
    "provided",
]
