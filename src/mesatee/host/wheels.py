"""Wheels into a folder, without running any of their code.

Where wheels come from is not trusted: their hashes stand in the lock, and are compared here. pip finds and downloads
them by its ordinary configuration; it is given the lock in its canonical form, so that nothing but names, versions and
hashes reaches it. Unpacking follows PEP 427 (the binary distribution format): only ``purelib`` and ``platlib`` of the
data folder are taken, since nobody starts scripts or compiles against headers.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from ..errors import DigestMismatch, Malformed, NotFound, TimedOut, TooLarge, Unavailable
from ..protocol import environments, limits
from ..protocol.environments import Requirement, canonical_name

DOWNLOAD_SECONDS: Final = 1_800
"""For all wheels of one lock, by a slow connection."""
_CHUNK_BYTES: Final = limits.MIB
_DATA: Final = re.compile(r"[^/]+\.data/([^/]*)/(.+)")
_PLAIN: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1


def fetch(lock: Iterable[Requirement], folder: Path, find_links: Path | None = None) -> None:
    """Download the wheels of a lock into a new folder; from `find_links` alone, if it is given.

    Wheels only, no dependencies, nothing that the lock does not hash. Raises `Unavailable` with pip's own reason.
    """
    if find_links is not None and not find_links.is_dir():
        raise NotFound(f"there is no folder {find_links}", hint="give --find-links a folder with wheels")
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as text:
        text.write(environments.lock_text(lock))
        text.flush()
        command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        command += ["download", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
        if find_links is not None:
            # Without the configuration, which may name other places.
            command.insert(4, "--isolated")
            command += ["--no-index", "--find-links", str(find_links.resolve())]
        command += ["--dest", str(folder), "--requirement", text.name]
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise TimedOut("the wheels were not downloaded in time") from None
    if ended.returncode:
        said = [line for line in ended.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
        raise Unavailable(
            f"the wheels could not be had: {(errors or said or ['pip failed'])[0][:300]}",
            hint="each package needs a wheel for this interpreter with a hash of the lock; --find-links DIR "
            "takes wheels from a folder",
        )


def install(lock: Iterable[Requirement], wheels: Path, folder: Path) -> dict[str, str]:
    """Unpack one wheel for each package of the lock; returns the SHA-256 of each, by package.

    1. The wheel is the one whose hash the lock names.
    2. Its metadata says the package and version that the lock says.
    3. Each file is a plain file at a path of its own, which no other wheel has.

    Raises `DigestMismatch`, `Malformed` or `TooLarge`, and `NotFound` if a wheel is not there.
    """
    by_digest = {_digest(path): path for path in sorted(wheels.glob("*.whl"))}
    owners: dict[str, str] = {}
    room = [limits.ENVIRONMENT_FILES, limits.ENVIRONMENT_BYTES]
    found: dict[str, str] = {}
    for item in lock:
        # 1.
        digest = next((each for each in item.hashes if each in by_digest), None)
        if digest is None:
            if any(canonical_name(path.name.partition("-")[0]) == item.name for path in by_digest.values()):
                raise DigestMismatch(f"no wheel of {item.name} has a hash of the lock")
            raise NotFound(f"there is no wheel of {item.name} {item.version}")
        _unpack(by_digest[digest], item, folder, owners, room)
        found[item.name] = digest
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(path: Path, item: Requirement, folder: Path, owners: dict[str, str], room: list[int]) -> None:
    what = f"the wheel {path.name}"
    try:
        with zipfile.ZipFile(path) as wheel:
            _check_metadata(wheel, item, what)
            for info, target in _entries(wheel, what):
                environments.check_path(target)
                if owners.setdefault(target.casefold(), item.name) != item.name:
                    raise Malformed(f"{what} has {target[:80]!a}, which {owners[target.casefold()]} has")
                _extract(wheel, info, folder / target, room, what)
    # What `zipfile` raises for hostile archives; NotImplementedError is its word for a way of packing that it lacks.
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OverflowError) as error:
        raise Malformed(f"{what} is no readable zip file: {error}") from None


def _entries(wheel: zipfile.ZipFile, what: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Files with their places; what is never used is left out."""
    seen: set[str] = set()
    for info in wheel.infolist():
        # As it stands in the file: the library cuts a name at NUL.
        if info.filename != info.orig_filename:
            raise Malformed(f"{what} has the name {info.orig_filename[:80]!a}, which is read in two ways")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _PLAIN:
            raise Malformed(f"{what} has {info.filename[:80]!a} encrypted or compressed in an odd way")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            environments.check_path(info.filename.rstrip("/"))
            continue
        if kind not in (0, stat.S_IFREG):
            raise Malformed(f"{what} has {info.filename[:80]!a}, which is a link or a device")
        environments.check_path(info.filename)
        target = info.filename
        data = _DATA.fullmatch(target)
        if data is not None:
            if data[1] not in ("purelib", "platlib"):
                continue
            target = data[2]
        if target.casefold() in seen:
            raise Malformed(f"{what} has {target[:80]!a} twice")
        seen.add(target.casefold())
        yield info, target


def _check_metadata(wheel: zipfile.ZipFile, item: Requirement, what: str) -> None:
    names = [name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if len(names) != 1:
        raise Malformed(f"{what} has {len(names)} files METADATA, not one")
    with wheel.open(names[0]) as file:
        said = HeaderParser().parsestr(file.read(limits.MIB).decode("utf-8", "replace"), headersonly=True)
    name, version = canonical_name(str(said.get("Name", ""))), str(said.get("Version", "")).strip()
    if (name, version) != (item.name, item.version):
        raise Malformed(
            f"{what} is {name[:64]} {version[:64]} by its metadata, the lock says {item.name} {item.version}"
        )


def _extract(wheel: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, room: list[int], what: str) -> None:
    """One file, counted while it is unpacked: what the archive says of its size is not believed."""
    room[0] -= 1
    executable = bool((info.external_attr >> 16) & stat.S_IXUSR)
    mode = environments.MODES[int(executable)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise Malformed(f"{what} has {info.filename[:80]!a} as a file and as a folder") from None
    with os.fdopen(fd, "wb") as out, wheel.open(info) as source:
        while chunk := source.read(_CHUNK_BYTES):
            room[1] -= len(chunk)
            if min(room) < 0:
                raise TooLarge(
                    f"{what} is too much: an environment has at most {limits.ENVIRONMENT_FILES} files and "
                    f"{limits.ENVIRONMENT_BYTES} bytes"
                )
            out.write(chunk)
        os.fchmod(out.fileno(), mode)


__all__ = ["DOWNLOAD_SECONDS", "fetch", "install"]
