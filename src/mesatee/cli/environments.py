"""Building, listing and removing environments: where the host's wheels meet the enclave's measuring.

An environment is a folder ``HOME/environments/NAME`` with the packages, the lock, the listing of files and a manifest.
It is built under a name that no environment has and renamed when it is whole, so a worker never sees half of one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..enclave.platform import environments as platform
from ..enclave.platform.measure import environment_digest
from ..errors import Conflict, Malformed, MesateeError, NotFound, TooLarge
from ..host import wheels
from ..protocol import environments as said
from ..protocol import limits
from ..protocol.digests import is_hex, sha256
from ..protocol.environments import Manifest, Requirement
from ..protocol.jsonstrict import canonical

_NEW: Final = ".new-"
"""Front of a folder that is being built: no environment can have such a name."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One environment of the home folder; `problem` says why a worker would not offer it, if it was asked."""

    manifest: Manifest | None
    name: str
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        facts = self.manifest.model_dump(mode="json") if self.manifest else {}
        return {**facts, "name": self.name, "problem": self.problem or None}


def folder_of(home: Path) -> Path:
    """Where the environments of a home folder lie."""
    return home / said.FOLDER


def build(
    home: Path,
    name: str,
    lock_file: Path,
    *,
    find_links: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Build an environment from a lock, running no code of it.

    1. Read the lock. What the base has in the same version is taken from there; another version is refused.
    2. Download the wheels, compare their hashes, unpack them.
    3. Measure what lies there now, as a worker will.

    Raises `Malformed`, `TooLarge`, `DigestMismatch`, `NotFound`, `Unavailable`, and `Conflict` if there is one of this
    name, or if the lock contradicts the base.
    """
    # 1.
    said.check_name(name)
    lock = said.parse_lock(_read(lock_file))
    text = said.lock_text(lock)
    wanted, provided = _split(lock)
    folder = folder_of(home)
    target = folder / name
    if target.exists() or target.is_symlink():
        raise Conflict(
            f"there is an environment {name}", hint=f"`mesatee env remove {name}`, or another name"
        )
    if len(platform.names(folder)) >= limits.ENVIRONMENTS - 1:
        raise TooLarge(
            f"a worker offers {limits.ENVIRONMENTS - 1} environments beside the base",
            hint="`mesatee env remove NAME`",
        )
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    made = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
    try:
        # 2.
        packages = made / said.PACKAGES
        packages.mkdir()
        with tempfile.TemporaryDirectory(prefix=_NEW, dir=folder) as downloads:
            if wanted:
                say(f"downloading {len(wanted)} wheels" if find_links is None else "taking the wheels")
                wheels.fetch(wanted, Path(downloads), find_links)
            say("unpacking")
            used = wheels.install(wanted, Path(downloads), packages)
        _open_folders(made)
        # 3.
        say("measuring")
        base = environment_digest(said.BASE)
        files = platform.measure_files(packages)
        manifest = Manifest(
            version=1,
            name=name,
            digest=said.digest(base, text, files),
            base=base,
            lock=sha256(text),
            packages=tuple(
                said.LockedPackage(name=item.name, version=item.version, wheel=used[item.name])
                for item in wanted
            ),
            provided=provided,
            files=len(files),
            bytes=sum(item.size for item in files.values()),
        )
        (made / said.LOCK).write_bytes(text)
        (made / said.LISTING).write_bytes(said.listing(files))
        (made / said.MANIFEST).write_bytes(canonical(manifest.model_dump(mode="json")))
        try:
            made.rename(target)
        except OSError:
            raise Conflict(f"there is an environment {name} by now", hint="choose another name") from None
    except BaseException:
        # Also when somebody interrupts it: half an environment stays nowhere.
        shutil.rmtree(made, ignore_errors=True)
        raise
    return manifest


def _split(lock: tuple[Requirement, ...]) -> tuple[list[Requirement], tuple[str, ...]]:
    """What is to be installed, and what the base has already, in that version."""
    versions = platform.provided().versions
    wanted, had = [], []
    for item in lock:
        here = versions.get(item.name)
        if here is None:
            wanted.append(item)
        elif here == item.version and item.name != "mesatee":
            had.append(f"{item.name}=={item.version}")
        else:
            raise Conflict(
                f"the lock asks for {item.name} {item.version}, and the base has {here}",
                hint=f"pin {item.name}=={here}, or leave it out: an environment is layered over the base",
            )
    return wanted, tuple(had)


def _open_folders(root: Path) -> None:
    """A child is nobody: it reads what everybody reads."""
    root.chmod(0o755)
    for folder, names, _ in os.walk(root):
        for name in names:
            Path(folder, name).chmod(0o755)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(limits.LOCK_BYTES + 1)


def listed(home: Path, *, check: bool = False) -> list[Listed]:
    """The environments of a home folder, by name; `check` measures each as a worker does."""
    folder = folder_of(home)
    base = environment_digest(said.BASE) if check and platform.names(folder) else ""
    found = []
    for name in platform.names(folder):
        manifest = None
        try:
            manifest = platform.manifest(folder / name)
            if check:
                platform.check(folder / name, base)
        except MesateeError as error:
            found.append(Listed(manifest, name, error.message))
        else:
            found.append(Listed(manifest, name))
    return found


def remove(home: Path, name: str) -> None:
    """Remove an environment, whole or not. A run that uses it just now gives no result.

    Raises `NotFound` or `Malformed`.
    """
    said.check_name(name)
    folder = folder_of(home)
    if name not in platform.names(folder):
        raise NotFound(f"there is no environment {name}", hint="`mesatee env list` says which there are")
    gone = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
    (folder / name).rename(gone / name)
    shutil.rmtree(gone)


def resolve(home: Path, wanted: str) -> str:
    """The digest that a task names: given as such, or by the name of an environment that was built here.

    Raises `NotFound` or `Malformed`.
    """
    if is_hex(wanted, 32):
        return wanted
    if wanted == said.BASE:
        return environment_digest(said.BASE)
    folder = folder_of(home)
    said.check_name(wanted)
    if wanted not in platform.names(folder):
        raise NotFound(
            f"no environment {wanted} was built on this machine",
            hint="name its digest, or build it from the same lock: `mesatee env build NAME --lock FILE`",
        )
    manifest = platform.manifest(folder / wanted)
    if manifest.name != wanted:
        raise Malformed(f"the manifest of {wanted} is that of another environment")
    return manifest.digest


__all__ = ["Listed", "build", "folder_of", "listed", "remove", "resolve"]
