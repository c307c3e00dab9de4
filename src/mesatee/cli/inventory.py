"""`mesatee inventory`: every native library of every process of the service, and whether it may be there.

Read from ``/proc/PID/maps`` of the running embedded service. Where none runs, or its processes may not be
looked into, each role's modules are loaded in a short-lived process instead, and the answer says so.
`native_libraries` holds the allow-list. Only executable memory counts: a mapped data file is no code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import typer

from .. import _core
from ..enclave.sandbox.protocol import SpareKind
from ..errors import Malformed, MesateeError, Unavailable
from ..protocol import limits
from ..protocol.jsonstrict import parse_object
from . import native_libraries, sbom
from .native_libraries import ROLES, Origin, RoleName

MAPS_BYTES: Final = 16 * limits.MIB
"""A maps file, in bytes; the zygote's has 1 MiB."""
INSTANCE_SECONDS: Final = 60.0
KERNEL_AREAS: Final = frozenset({"[vdso]", "[vsyscall]"})
DELETED: Final = " (deleted)"
ONE_THREAD: Final = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
}
"""The zygote refuses to start with a second thread; so does the instance that stands for it."""
_MODULES: Final[Mapping[RoleName, str]] = {
    "gateway": "mesatee.cli.processes",
    "worker": "mesatee.cli.processes",
    "zygote": "mesatee.enclave.sandbox.zygote",
    "wasm_zygote": "mesatee.enclave.sandbox.zygote",
    "host": "mesatee.host.server",
}
_ZYGOTES: Final[Mapping[RoleName, SpareKind]] = {"zygote": "general", "wasm_zygote": "wasm"}


@dataclass(frozen=True, slots=True)
class Library:
    """Executable memory of one process, by file."""

    file: str
    name: str
    origin: Origin
    package: str | None
    version: str | None
    language: str
    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessLibraries:
    """What one process maps.

    `source` is ``running``, or ``instance`` for a short-lived process of the same role.
    """

    role: RoleName
    pid: int | None
    source: Literal["running", "instance"]
    confined: str
    libraries: tuple[Library, ...]

    @property
    def refused(self) -> tuple[Library, ...]:
        """What should not be there."""
        return tuple(item for item in self.libraries if not item.allowed)


# -- processes --------------------------------------------------------------------------------------


def find_processes(home: Path) -> dict[RoleName, int]:
    """The running processes of the embedded service in `home`, by role."""
    service = (home / "service").resolve()
    found: dict[RoleName, int] = {}
    zygotes: list[tuple[RoleName, int, int]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            # It ended while we looked.
            continue
        role = _role(words, service)
        if role is not None and role in _ZYGOTES:
            zygotes.append((role, int(entry.name), parent))
        elif role is not None:
            found[role] = int(entry.name)
    for role, pid, parent in zygotes:
        if parent == found.get("worker"):
            found[role] = pid
    return found


def _role(words: Sequence[str], service: Path) -> RoleName | None:
    """The role that a command line stands for in the service of this folder; every zygote is one for now."""
    if _MODULES["zygote"] in words[:-1]:
        kind = words[words.index(_MODULES["zygote"]) + 1]
        return next((role for role, name in _ZYGOTES.items() if name == kind), None)
    if _MODULES["host"] in words and "--data" in words[:-1]:
        data = Path(words[words.index("--data") + 1])
        return "host" if data.resolve() == service / "host" else None
    if _MODULES["gateway"] in words[:-2]:
        at = words.index(_MODULES["gateway"])
        role, config = words[at + 1], Path(words[at + 2])
        try:
            folder = parse_object(config.read_bytes()[: limits.REQUEST_BYTES]).get("folder")
        except (OSError, MesateeError):
            return None
        if isinstance(folder, str) and Path(folder).resolve() == service:
            return "gateway" if role == "gateway" else "worker" if role == "worker" else None
    return None


def read_maps(pid: int) -> bytes:
    """Raises `Unavailable` for a process that hides its memory, or has ended."""
    try:
        with Path(f"/proc/{pid}/maps").open("rb") as file:
            return file.read(MAPS_BYTES)
    except OSError as error:
        raise Unavailable(
            f"the memory map of process {pid} is not readable: {error.strerror}",
            hint="its memory is hidden from other users: ask as root",
        ) from None


def instance_maps(role: RoleName) -> bytes:
    """The map of a short-lived process that loads what this role loads. Raises `Unavailable`."""
    code = (
        f"import {_MODULES[role]} as role\n"
        + (
            f"role.preload({_ZYGOTES[role]!r})\n"
            if role in _ZYGOTES
            else "import asyncio; asyncio.run(asyncio.sleep(0))\n"
        )
        + "import sys; sys.stdout.write(open('/proc/self/maps').read())"
    )
    environ = dict(ONE_THREAD) if role in _ZYGOTES else None
    command = [sys.executable, "-I", "-B", "-c", code]
    try:
        ended = subprocess.run(
            command, env=environ, capture_output=True, check=False, timeout=INSTANCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"loading what the {role} loads took over {INSTANCE_SECONDS:.0f} s") from None
    if ended.returncode:
        last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Unavailable(f"what the {role} loads cannot be loaded here: {last[:200]}")
    return ended.stdout


def mapped(maps: bytes) -> list[str]:
    """The files whose code a process can run, sorted; areas of the kernel by their names in brackets.

    Executable memory without a file is ``[anonymous]``. Raises `Malformed` for what is no maps file.
    """
    found = set[str]()
    for line in maps.decode("utf-8", "surrogateescape").splitlines():
        parts = line.split(None, 5)
        if len(parts) < 5:
            raise Malformed("the memory map has a line that is none")
        if "x" in parts[1]:
            found.add(parts[5].removesuffix(DELETED) if len(parts) == 6 else "[anonymous]")
    return sorted(found)


# -- files ------------------------------------------------------------------------------------------


@cache
def _package_files() -> dict[str, str]:
    """Native file of an installed distribution -> the distribution's name."""
    found = {}
    for item in metadata.distributions():
        for file in item.files or ():
            if ".so" in file.name:
                found[str(Path(str(item.locate_file(file))).resolve())] = _normal(item.metadata["Name"])
    # An editable installation does not list the core that it builds.
    found[str(Path(str(_core.__file__)).resolve())] = "mesatee"
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _interpreter_files() -> set[str]:
    found = {str(Path(sys.executable).resolve()), str(Path("/proc/self/exe").resolve())}
    library, folder = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    if library and folder:
        found.add(str(Path(folder, library).resolve()))
    return found


def origin_of(file: str) -> tuple[Origin, str, str | None]:
    """Where a file comes from, its name without suffixes, and its distribution if it is of one."""
    if file in KERNEL_AREAS:
        return "kernel", file, None
    if not file.startswith("/") or file.startswith("/memfd:"):
        return "memory", file, None
    path = Path(file)
    name = path.name.partition(".")[0]
    package = _package_files().get(str(path.resolve()))
    if package is not None:
        return "package", name.partition("-")[0], package
    if str(path.resolve()) in _interpreter_files():
        return "interpreter", path.name, None
    for folder in (sysconfig.get_path("platstdlib"), sysconfig.get_path("stdlib")):
        if path.is_relative_to(Path(folder, "lib-dynload")):
            return "stdlib", name, None
    if any(path.is_relative_to(folder) for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")):
        # ld-linux-x86-64.so.2, libcrypto.so.3, libz.so.1.2.13, libm-2.31.so
        return "system", re.sub(r"-\d+\.[\d.]+$", "", path.name.partition(".so")[0]), None
    return "unknown", name, None


def system_versions(files: Iterable[str]) -> dict[str, tuple[str, str]]:
    """File -> package and version of the system's package manager, as far as it knows them."""
    wanted = sorted(files)
    dpkg, query = shutil.which("dpkg"), shutil.which("dpkg-query")
    if not wanted or dpkg is None or query is None:
        return {}
    # On merged systems dpkg knows /usr/lib/x by /lib/x.
    asked = {path: file for file in wanted for path in (file, file.removeprefix("/usr"))}
    said = subprocess.run([dpkg, "-S", *asked], capture_output=True, text=True, check=False).stdout
    owners: dict[str, str] = {}
    for line in said.splitlines():
        package, _, path = line.partition(": ")
        if path in asked:
            owners[asked[path]] = package.split(",")[0].strip()
    names = sorted(set(owners.values()))
    if not names:
        return {}
    form = "-f=${binary:Package} ${Package} ${Version}\n"
    listed = subprocess.run([query, "-W", form, *names], capture_output=True, text=True, check=False).stdout
    versions = {}
    for line in listed.splitlines():
        full, short, version = line.split(" ")
        versions[full] = versions[short] = (short, version)
    return {file: versions[name] for file, name in owners.items() if name in versions}


def describe(role: RoleName, files: Iterable[str]) -> tuple[Library, ...]:
    """One line for each file."""
    placed = {file: origin_of(file) for file in files}
    system = system_versions(file for file, (origin, _, _) in placed.items() if origin == "system")
    found = []
    for file, (origin, name, package) in sorted(placed.items()):
        version: str | None = None
        shown = package
        if origin in ("interpreter", "stdlib"):
            shown, version = "cpython", sys.version.split()[0]
        elif origin == "kernel":
            shown, version = "linux", os.uname().release
        elif package is not None:
            version = metadata.version(package)
        elif file in system:
            shown, version = system[file]
        allowed, reason = native_libraries.judge(role, origin, name, package)
        language = native_libraries.language(origin, name, package)
        found.append(Library(file, name, origin, shown, version, language, allowed, reason))
    return tuple(found)


def take(home: Path) -> tuple[ProcessLibraries, ...]:
    """The inventory, role by role. Raises `Unavailable` if a role can be read in neither way."""
    running = find_processes(home)
    found = []
    for role in ROLES:
        pid = running.get(role)
        source: Literal["running", "instance"] = "instance"
        maps = b""
        if pid is not None:
            try:
                maps, source = read_maps(pid), "running"
            except Unavailable:
                pid = None
        if source == "instance":
            maps = instance_maps(role)
        libraries = describe(role, mapped(maps))
        found.append(ProcessLibraries(role, pid, source, native_libraries.CONFINED[role], libraries))
    return tuple(found)


# -- output -----------------------------------------------------------------------------------------


def as_dict(processes: Sequence[ProcessLibraries]) -> dict[str, Any]:
    """The JSON form."""
    return {
        "version": metadata.version("mesatee"),
        "allowed": not any(item.refused for item in processes),
        "processes": [asdict(item) for item in processes],
    }


def _lines(processes: Sequence[ProcessLibraries]) -> list[str]:
    lines = []
    for item in processes:
        where = (
            f"process {item.pid}" if item.pid else "not running: read from a short-lived process of this role"
        )
        lines.append(f"{item.role} ({where}); confined: {item.confined}")
        for library in item.libraries:
            mark = " " if library.allowed else "!"
            owner = f"{library.package or 'of no package'} {library.version or ''}".strip()
            lines.append(f" {mark} {library.name}  {owner}  [{library.language}]  {library.file}")
            if not library.allowed:
                lines.append(f"     NOT ALLOWED: {library.reason}")
    refused = sum(len(item.refused) for item in processes)
    lines.append(f"{refused} not allowed" if refused else "everything here is allowed")
    return lines


def run(home: Path, as_json: bool, cyclonedx: bool = False) -> None:
    """`mesatee inventory`: exits with 1 if something is mapped that may not be.

    `cyclonedx` prints the same list as a CycloneDX 1.6 SBOM instead.
    """
    processes = take(home)
    if cyclonedx:
        text = json.dumps(sbom.document(as_dict(processes)["processes"]), indent=1)
    elif as_json:
        text = json.dumps(as_dict(processes))
    else:
        text = "\n".join(_lines(processes))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if any(item.refused for item in processes):
        raise typer.Exit(1)


__all__ = [
    "Library",
    "ProcessLibraries",
    "as_dict",
    "describe",
    "find_processes",
    "instance_maps",
    "mapped",
    "origin_of",
    "read_maps",
    "run",
    "take",
]
