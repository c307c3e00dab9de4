"""What this process runs, as digests of the real files.

- code: the `mesatee` package as installed: every file but caches and type stubs, with the Rust core.
- interpreter: the executable, libpython and the standard library without test, idlelib and build leftovers.
- libraries: the distributions that the trusted processes load (`TCB_ROOTS` and what they require), and what an
  interpreter runs by itself when it starts: `.pth` files and `sitecustomize` of site-packages, whoever put them there.
- environments: the distributions that a worker's sandboxed children load (`ENVIRONMENTS`).

A distribution's tree is walked on disk: its RECORD only says which folders are its own, so a file that
somebody added or altered changes the digest. Nothing is cached on disk. The base environment is several times as large
as all the rest, which is why only a worker measures it.

Limits, stated so that nobody reads more into level 2: files are measured, not memory, so root can change them
between measuring and loading; byte code caches are not measured, so the launcher starts the trusted processes
with a private one that was empty (``-X pycache_prefix``, see `bytecode`), and no planted ``.pyc`` of theirs
is run. What a measured ``.pth`` file adds to the path is not measured: `unmeasured_modules` names what
was loaded from elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeAlias

import mesatee
from mesatee.attestation.tee.software import Components
from mesatee.errors import NotFound
from mesatee.extras import missing
from mesatee.protocol.environments import canonical_name as canonical
from mesatee.protocol.executors import PACKAGES

Tree: TypeAlias = dict[str, Path]
"""Path relative to what is measured, with forward slashes -> file."""

TCB_ROOTS: Final = ("pydantic", "cedarpy", "cbor2", "starlette", "uvicorn", "h11", "httpx", "httpcore")
"""Distributions that gateway and worker import; their requirements follow from their metadata."""
ENVIRONMENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"base": ("numpy", "pandas", "polars", "pyarrow", "scikit-learn")}
)
"""Execution environments that this version offers, by name; each has the executors that are installed, too."""
OPTIONAL: Final = ("duckdb", "lightgbm", "onnxruntime", "xgboost-cpu")
"""Distributions of extras that children load where they are installed; then every environment covers them."""
THREADS: Final = 4
"""Files are hashed by this many threads: hashing releases the interpreter's lock, reading waits for the
disk.
"""
_LABEL: Final = b"mesatee tree v1\0"
_CACHES: Final = frozenset({"__pycache__"})
_STDLIB_LEFT_OUT: Final = _CACHES | {"test", "tests", "idlelib", "site-packages", "dist-packages"}
_START_UP: Final = frozenset({"sitecustomize", "usercustomize"})
_REQUIREMENT: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measurement of this process's trusted computing base."""

    components: Components
    files: int
    """How many files were hashed."""
    size: int
    """Their size in bytes."""

    @property
    def digest(self) -> str:
        """The combined measurement, hex: what trust policies and tasks name."""
        return self.components.measurement

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for ``mesatee measure --json``."""
        return {
            "measurement": self.digest,
            "code": self.components.code,
            "interpreter": self.components.interpreter,
            "libraries": self.components.libraries,
            "environments": dict(self.components.environments),
            "files": self.files,
            "bytes": self.size,
        }

    def explain(self) -> list[str]:
        """Plain-language lines."""
        parts = self.components
        lines = [
            f"measurement  {self.digest}",
            f"  code         {parts.code}  the mesatee package and its Rust core",
            f"  interpreter  {parts.interpreter}  CPython {sys.version.split()[0]} and its standard library",
            f"  libraries    {parts.libraries}  {', '.join(closure(TCB_ROOTS))}",
        ]
        for name, digest in parts.environments.items():
            lines.append(f"  environment  {digest}  {name}: {', '.join(closure(_roots(name)))}")
        lines.append(f"{self.files} files, {self.size / 1e6:.1f} MB were read.")
        return lines


@dataclass(frozen=True, slots=True)
class TreeDigest:
    """The digest of a tree of files."""

    digest: str
    """SHA-256 over the sorted relative paths and the files' digests, hex."""
    files: int
    size: int


def tree_digest(tree: Mapping[str, Path]) -> TreeDigest:
    """Hash every file of the tree. Raises `NotFound` if one cannot be read."""
    names = sorted(tree)
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = list(pool.map(_file_digest, (tree[name] for name in names), chunksize=32))
    whole = hashlib.sha256(_LABEL)
    for name, (digest, _) in zip(names, hashed, strict=True):
        encoded = os.fsencode(name)
        # The length in front keeps a path from running into the digest that follows.
        whole.update(len(encoded).to_bytes(4) + encoded + digest)
    return TreeDigest(whole.hexdigest(), len(names), sum(size for _, size in hashed))


def _file_digest(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), file.tell()
    except OSError as error:
        raise NotFound(f"a file to be measured cannot be read: {path}: {error.strerror}") from None


def _walk(root: Path, left_out: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """All files below `root`, links followed by content, in no order."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def code_tree() -> Tree:
    """The mesatee package."""
    root = Path(mesatee.__file__).resolve().parent
    return {
        name: path
        for name, path in _walk(root, _CACHES)
        if not name.endswith((".pyi", ".pyc")) and path.name != "py.typed"
    }


def interpreter_tree() -> Tree:
    """The executable, libpython where it is shared, and the standard library."""
    tree: Tree = {"bin/python": Path(sys.executable).resolve()}
    library, folder = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library and folder:
        tree[f"lib/{library}"] = Path(folder, library).resolve()
    for label in ("stdlib", "platstdlib"):
        root = Path(sysconfig.get_path(label))
        # `config-3.x-*` holds what one links an interpreter from: nothing that a process loads.
        tree.update(
            (f"stdlib/{name}", path) for name, path in _walk(root, _STDLIB_LEFT_OUT) if _is_loaded(name)
        )
    return tree


def _is_loaded(name: str) -> bool:
    return not name.startswith(("config-", "ensurepip/_bundled/")) and not name.endswith((".pyc", ".a", ".o"))


def closure(roots: Iterable[str]) -> tuple[str, ...]:
    """The installed distributions that `roots` require, with themselves, sorted. Raises `NotFound` if a root
    is missing.

    Requirements of extras are left out. Other markers are not evaluated: what is installed counts, so the
    closure can be too large, never too small.
    """
    found: set[str] = set()
    waiting = [canonical(name) for name in roots]
    required = set(waiting)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            lines = metadata.distribution(name).requires or ()
        except metadata.PackageNotFoundError:
            if name in required:
                raise NotFound(f"distribution {name} is not installed", hint="run `make setup`") from None
            continue
        found.add(name)
        for line in lines:
            match = _REQUIREMENT.match(line)
            if match and not re.search(r"\bextra\b", line.partition(";")[2]):
                waiting.append(canonical(match[1]))
    return tuple(sorted(found))


def distributions_tree(names: Iterable[str]) -> Tree:
    """The files of these distributions, as they lie on disk, under ``name==version/``.

    Of the dist-info folder only the entry points count: they can load code. The rest differs from one
    installer to the next.
    """
    tree: Tree = {}
    for name in names:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise NotFound(f"distribution {name} is not installed", hint="run `make setup`") from None
        prefix = f"{canonical(name)}=={distribution.version}"
        for item in distribution.files or ():
            top = item.parts[0]
            if top == ".." or top in _CACHES:
                continue  # Scripts in bin/, which nobody here starts.
            if top.endswith((".dist-info", ".egg-info")):
                # Whether RECORD lists it or not: a planted one would be obeyed all the same.
                entries = Path(str(distribution.locate_file(top)), "entry_points.txt")
                if entries.exists():
                    tree[f"{prefix}/entry_points.txt"] = entries
            elif len(item.parts) == 1:
                tree[f"{prefix}/{top}"] = Path(str(distribution.locate_file(item)))
            elif f"{prefix}/{top}/" not in tree:
                root = Path(str(distribution.locate_file(top)))
                tree[f"{prefix}/{top}/"] = root
                tree.update(
                    (f"{prefix}/{top}/{below}", file)
                    for below, file in _walk(root, _CACHES)
                    if not below.endswith(".pyc")
                )
    # Folders stood in the tree only to be walked once.
    return {name: path for name, path in tree.items() if not name.endswith("/")}


def start_up_tree() -> Tree:
    """What runs in every interpreter of this installation before any module of ours, under ``site/``.

    No installer's record is asked: a planted file is in none.
    """
    tree: Tree = {}
    for folder in sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}):
        for path in sorted(Path(folder).glob("*")):
            if path.suffix == ".pth" or path.name.partition(".")[0] in _START_UP:
                if path.is_dir():
                    found = _walk(path, _CACHES)
                    tree.update((f"site/{path.name}/{name}", file) for name, file in found)
                else:
                    tree[f"site/{path.name}"] = path
    return tree


def environment_digest(name: str) -> str:
    """The digest of an execution environment, hex. Raises `NotFound` for an unknown name or a missing
    distribution.
    """
    return _environment(name).digest


def _environment(name: str) -> TreeDigest:
    if name not in ENVIRONMENTS:
        raise NotFound(
            f"environment {name!r} is not known", hint=f"known are: {', '.join(sorted(ENVIRONMENTS))}"
        )
    return tree_digest(distributions_tree(closure(_roots(name))))


def _roots(name: str) -> tuple[str, ...]:
    """The distributions of an environment: its own, and those of extras that are installed."""
    extras = [package for executor, package in PACKAGES.items() if missing(executor) is None]
    return (*ENVIRONMENTS[name], *extras, *(package for package in OPTIONAL if _installed(package)))


def base_roots() -> tuple[str, ...]:
    """The distributions of the base environment, without what they require."""
    return _roots("base")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def measure(environments: Sequence[str] = ()) -> Measurement:
    """Measure this process's files, and the named environments if it is a worker. Raises `NotFound`."""
    code = tree_digest(code_tree())
    interpreter = tree_digest(interpreter_tree())
    libraries = tree_digest(distributions_tree(closure(TCB_ROOTS)) | start_up_tree())
    measured = {name: _environment(name) for name in environments}
    everything = (code, interpreter, libraries, *measured.values())
    return Measurement(
        Components(
            code.digest,
            interpreter.digest,
            libraries.digest,
            {name: tree.digest for name, tree in measured.items()},
        ),
        files=sum(tree.files for tree in everything),
        size=sum(tree.size for tree in everything),
    )


def unmeasured_modules(modules: Mapping[str, ModuleType | None] | None = None) -> tuple[str, ...]:
    """Names of loaded modules (default: `sys.modules`) whose file is in none of the trees that `measure`
    reads.

    In a gateway or worker this should be empty; ``__main__`` started from a file of ours is in the code tree.
    """
    trees = (code_tree(), interpreter_tree(), distributions_tree(closure(TCB_ROOTS)), start_up_tree())
    known = {path.resolve() for tree in trees for path in tree.values()}
    found = []
    for name, module in dict(sys.modules if modules is None else modules).items():
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve() not in known:
            found.append(name)
    return tuple(sorted(found))


__all__ = [
    "ENVIRONMENTS",
    "OPTIONAL",
    "TCB_ROOTS",
    "Measurement",
    "TreeDigest",
    "base_roots",
    "canonical",
    "closure",
    "code_tree",
    "distributions_tree",
    "environment_digest",
    "interpreter_tree",
    "measure",
    "start_up_tree",
    "tree_digest",
    "unmeasured_modules",
]
