"""Environments by their contents: locks, paths and the digest that a task names.

A *lock* is a requirements file as pip reads it, of which only one form of line is taken: ``NAME==VERSION`` with one or
more ``--hash=sha256:HEX``. So it says which bytes are installed, and nothing else: not where they come from, no code
that is run to build them.

The digest of an environment covers what a function may import: the base environment under it, the lock, and each file
by its path, mode and hash. Its name and the machine that built it do not count, so that everybody who builds it from
the same lock over the same base gets the same digest::

    SHA-256("mesatee environment v1\\0" || canonical JSON of {"base", "files", "lock"})

where ``lock`` is the SHA-256 of the lock in its canonical text and ``files`` that of the listing: a line
``MODE SHA256 SIZE PATH`` for each file, sorted by path.

>>> lock = parse_lock(b"demo==1.0 --hash=sha256:" + b"0" * 64)
>>> lock[0].name, lock[0].version
('demo', '1.0')
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from ..errors import Malformed, TooLarge
from . import limits
from .digests import Hex32, is_hex, sha256
from .jsonstrict import canonical
from .model import Model

BASE: Final = "base"
"""The environment that every worker has, under all others."""
FOLDER: Final = "environments"
"""Where they are kept, in the home folder."""
PACKAGES: Final = "packages"
MANIFEST: Final = "manifest.json"
LISTING: Final = "files.txt"
LOCK: Final = "lock.txt"
"""What an environment's folder holds: its files, and what was found when it was built."""
MODES: Final = (0o644, 0o755)
"""Of files: everybody reads them, since a child is nobody, and only their owner writes them."""

_LABEL: Final = b"mesatee environment v1\0"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_DISTRIBUTION: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ENTRY: Final = re.compile(
    rf"(?P<name>{_DISTRIBUTION})(?:\[[A-Za-z0-9._, -]*\])?\s*==\s*(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)"
)
_HASH: Final = re.compile(r"--hash=([a-z0-9]+):(\S+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One package of a lock: its canonical name (PEP 503), version, and the SHA-256 of each wheel that may serve."""

    name: str
    version: str
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of an environment: permission bits, SHA-256 in hex, size in bytes."""

    mode: int
    sha256: str
    size: int


class LockedPackage(Model):
    """What was installed for one line of the lock."""

    name: str
    version: str
    wheel: Hex32
    """SHA-256 of the wheel."""


class Manifest(Model):
    """What an environment's folder says of itself. Nobody relies on it: a worker measures."""

    version: Literal[1]
    name: Annotated[str, Field(max_length=limits.NAME_CHARS)]
    digest: Hex32
    base: Hex32
    lock: Hex32
    packages: Annotated[tuple[LockedPackage, ...], Field(max_length=limits.LOCK_PACKAGES)]
    provided: Annotated[tuple[str, ...], Field(max_length=limits.LOCK_PACKAGES)]
    """Packages of the lock that the base has, in that version: they are not installed again."""
    files: Annotated[int, Field(ge=0, le=limits.ENVIRONMENT_FILES)]
    bytes: Annotated[int, Field(ge=0, le=limits.ENVIRONMENT_BYTES)]


def check_name(name: str) -> str:
    """The name of an environment that one builds. Raises `Malformed`, since it becomes the name of a folder."""
    if len(name) > limits.NAME_CHARS or not _NAME.fullmatch(name):
        raise Malformed(
            f"{name[: limits.NAME_CHARS]!r} is no name of an environment",
            hint="use lower-case letters, digits and single hyphens, with a letter in front",
        )
    if name == BASE:
        raise Malformed(f"the environment {BASE} comes with MesaTEE", hint="choose another name")
    return name


def canonical_name(name: str) -> str:
    """A distribution's normalised name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


# -- locks -----------------------------------------------------------------------------------------


def parse_lock(data: bytes) -> tuple[Requirement, ...]:
    """The packages of a lock file, by name. Raises `Malformed` with the number of the line, or `TooLarge`."""
    if len(data) > limits.LOCK_BYTES:
        raise TooLarge(f"the lock has {len(data)} bytes, the limit is {limits.LOCK_BYTES}")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("the lock is not ASCII text") from None
    found: dict[str, Requirement] = {}
    for number, line in _logical_lines(text):
        entry = _requirement(line, number)
        if entry.name in found:
            raise Malformed(f"line {number} of the lock names {entry.name} for the second time")
        found[entry.name] = entry
    if not found:
        raise Malformed("the lock names no package")
    if len(found) > limits.LOCK_PACKAGES:
        raise TooLarge(f"the lock names {len(found)} packages, the limit is {limits.LOCK_PACKAGES}")
    return tuple(found[name] for name in sorted(found))


def _logical_lines(text: str) -> Iterable[tuple[int, str]]:
    """Lines without comments, joined where they end in a backslash, with the number of the first."""
    start, parts = 0, list[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        start = start or number
        goes_on = line.endswith("\\")
        parts.append(line.removesuffix("\\").strip())
        if not goes_on:
            whole = " ".join(part for part in parts if part)
            if whole:
                yield start, whole
            start, parts = 0, []
    whole = " ".join(part for part in parts if part)
    if whole:
        yield start, whole


def _requirement(line: str, number: int) -> Requirement:
    """One logical line. What is refused is said by what it is, since pip takes much more."""
    where = f"line {number} of the lock"
    if line.startswith("-"):
        raise Malformed(
            f"{where} is the option {line.split()[0][:40]}: a lock names packages only",
            hint="leave options out; where wheels come from is pip's configuration, or --find-links DIR",
        )
    if "://" in line or " @ " in line or line.startswith((".", "/")):
        raise Malformed(
            f"{where} names a place instead of a version",
            hint="name a release: NAME==VERSION --hash=sha256:...",
        )
    said, *options = re.split(r"\s+(?=--)", line)
    if ";" in said:
        raise Malformed(
            f"{where} has a marker: a lock is for one interpreter on one platform",
            hint="leave the line out, or the marker",
        )
    match = _ENTRY.fullmatch(said.strip())
    if match is None or "*" in said:
        raise Malformed(
            f"{where} does not pin one version", hint="write NAME==VERSION, as `pip-compile` or `uv` do"
        )
    hashes = []
    for option in options:
        given = _HASH.fullmatch(option.strip())
        if given is None:
            raise Malformed(f"{where} has an option that is no --hash=sha256:HEX")
        if given[1] != "sha256" or not is_hex(given[2], 32):
            raise Malformed(f"{where} has a hash that is no SHA-256 in lower-case hex")
        hashes.append(given[2])
    if not hashes:
        raise Malformed(
            f"{where} has no hash: nothing would say which bytes {match['name'][:64]} is",
            hint="make the lock by `uv pip compile --generate-hashes`",
        )
    return Requirement(canonical_name(match["name"]), match["version"], tuple(sorted(set(hashes))))


def lock_text(lock: Iterable[Requirement]) -> bytes:
    """The one form of a lock: sorted, a line for each package, without comments."""
    lines = [
        f"{item.name}=={item.version} {' '.join(f'--hash=sha256:{digest}' for digest in item.hashes)}\n"
        for item in sorted(lock, key=lambda item: item.name)
    ]
    return "".join(lines).encode()


# -- files -----------------------------------------------------------------------------------------


def check_path(path: str) -> str:
    """A path within an environment, with forward slashes. Raises `Malformed` for one that could leave it, that
    another one could be taken for, or that would be code which nobody calls.
    """
    shown = ascii(path[:80])
    if not path or len(path.encode("utf-8", "surrogatepass")) > limits.ENVIRONMENT_PATH_BYTES:
        raise Malformed(f"a path has 1 to {limits.ENVIRONMENT_PATH_BYTES} bytes, not so {shown}")
    if not path.isprintable() or "\\" in path or ":" in path:
        raise Malformed(f"the path {shown} has a character that no path may have")
    if unicodedata.normalize("NFC", path) != path:
        raise Malformed(f"the path {shown} is not in Unicode's form NFC, so that another looks like it")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise Malformed(f"the path {shown} leads out of the environment, or is written oddly")
    if parts[0].lower().endswith(".pth"):
        raise Malformed(f"{shown} would be run by each interpreter that starts: .pth files are refused")
    if "__pycache__" in parts or path.endswith((".pyc", ".pyo")):
        raise Malformed(f"{shown} is byte code, which nobody can read: it is refused")
    return path


def module_of(path: str) -> str | None:
    """The top-level name that a file makes importable; None for what lies beside the packages.

    >>> module_of("pkg/a.py"), module_of("mod.py"), module_of("_x.cpython-311-x86_64-linux-gnu.so")
    ('pkg', 'mod', '_x')
    """
    top, slash, _ = path.partition("/")
    if slash:
        return None if top.endswith((".dist-info", ".libs")) else top
    return top.partition(".")[0] if top.endswith((".py", ".so")) else None


def distribution_of(path: str) -> str | None:
    """The canonical name of the distribution whose metadata folder this path lies in."""
    top, slash, _ = path.partition("/")
    if not slash or not top.lower().endswith((".dist-info", ".egg-info")):
        return None
    return canonical_name(top.rpartition(".")[0].partition("-")[0])


def check_files(paths: Iterable[str], modules: frozenset[str], distributions: frozenset[str]) -> None:
    """Refuse files that would stand for something else: `modules` are the top-level names and `distributions` the
    canonical names that the base, MesaTEE and the interpreter have. Raises `Malformed`.
    """
    folded: dict[str, str] = {}
    for path in paths:
        check_path(path)
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            raise Malformed(f"{path[:80]!a} and {other[:80]!a} differ in case only")
        module = module_of(path)
        if module is not None and module.casefold() in modules:
            raise Malformed(
                f"{path[:80]!a} would shadow {module!r}, which the base, MesaTEE or Python has",
                hint="leave that package out of the lock",
            )
        distribution = distribution_of(path)
        if distribution is not None and distribution in distributions:
            raise Malformed(f"{path[:80]!a} would pass for the base's {distribution}")


def listing(files: Mapping[str, FileFacts]) -> bytes:
    """A line for each file, sorted by the bytes of its path."""
    lines = [
        f"{item.mode:04o} {item.sha256} {item.size} {path}\n".encode()
        for path, item in sorted(files.items(), key=lambda pair: pair[0].encode())
    ]
    return b"".join(lines)


def digest(base: str, lock: bytes, files: Mapping[str, FileFacts]) -> str:
    """The digest of an environment, hex. `base`: the digest of the base environment; `lock`: its canonical text."""
    facts = {"base": base, "files": sha256(listing(files)), "lock": sha256(lock)}
    return sha256(_LABEL + canonical(facts))


__all__ = [
    "BASE",
    "FOLDER",
    "LISTING",
    "LOCK",
    "MANIFEST",
    "MODES",
    "PACKAGES",
    "FileFacts",
    "LockedPackage",
    "Manifest",
    "Requirement",
    "canonical_name",
    "check_files",
    "check_name",
    "check_path",
    "digest",
    "distribution_of",
    "listing",
    "lock_text",
    "module_of",
    "parse_lock",
]
