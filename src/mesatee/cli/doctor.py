"""`mesatee doctor`: what this machine offers, which level it can prove, and what to do about what is missing.

Every line is a probe that was made now. It fails only for what the service cannot do without; a warning says
what is weaker, and a next step.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import typer

from .. import _core
from ..attestation.appraisal import LEVELS
from ..attestation.tee import software
from ..enclave.platform import environments as built
from ..enclave.platform.detect import Candidate, detect
from ..enclave.platform.measure import measure
from ..errors import MesateeError
from ..protocol import limits
from ..protocol.environments import FOLDER
from .attesters import best, usable

Status = Literal["pass", "info", "warn", "fail"]

PYTHON: Final = (3, 11)
SANDBOX_NEEDED: Final = frozenset({"no_new_privs", "resource_limits", "seccomp"})
"""Layers without which no function is run."""
PROTECTIONS: Final = ("not-dumpable", "no-core-file", "memory-locked")
DISK_NEEDED: Final = 64 * limits.MIB
DISK_WANTED: Final = limits.GIB
PROBE_SECONDS: Final = 30.0
NO_FILE: Final = "No such file or directory (ENOENT)"
"""How the kernel says that a device is not there."""
SOFTWARE_LEVEL: Final = 2
"""What a service proves anywhere, and what `mesatee up` proves unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    """One probe: what was found, and what to do if that is not good."""

    topic: str
    name: str
    status: Status
    found: str
    next_step: str = ""


# -- level ------------------------------------------------------------------------------------------


def level(found: Sequence[Candidate]) -> tuple[int, str]:
    """The highest level that this machine proves to others, and why that one."""
    try:
        mine = measure(())
    except (MesateeError, OSError) as error:
        return 1, f"this installation cannot be measured: {error}"
    first = best(found)
    if first is not None:
        return first.level, f"{first.interface}: {first.reason}"
    return SOFTWARE_LEVEL, f"this code and interpreter have the measurement {mine.digest}"


def interfaces(found: Sequence[Candidate]) -> list[Check]:
    """One line for each interface of hardware attestation."""
    return [Check("level", item.interface, "info", _state(item), _next(item)) for item in found]


def _state(item: Candidate) -> str:
    if not item.present:
        return f"not here, it could prove level {item.level} ({item.tee}): {_reason(item)}"
    if not usable(item):
        return f"here, but this version judges no evidence of class {item.tee}: {item.reason}"
    return f"here, for level {item.level} ({item.tee}): {item.reason}"


def _next(item: Candidate) -> str:
    if not usable(item):
        return ""
    if item.simulated:
        return f"for a trial: `mesatee up --attester {item.tee}`, whose trust file says that it is simulated"
    return f"`mesatee up --attester {item.tee}` uses it"


def why_not_higher(found: Sequence[Candidate]) -> list[str]:
    """Why the machine proves no more than it does, level by level."""
    reasons = []
    for number in range(level(found)[0] + 1, max(LEVELS) + 1):
        # Several interfaces may be missing for one and the same reason: it is said once.
        by_reason: dict[str, list[str]] = {}
        for item in found:
            if item.level == number:
                by_reason.setdefault(_why_not(item), []).append(item.interface)
        said = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        reasons.append(f"level {number} ({LEVELS[number]}): {'; '.join(said) or 'nothing here can prove it'}")
    return reasons


def _why_not(item: Candidate) -> str:
    if item.present and not usable(item):
        return f"this version judges no evidence of class {item.tee}"
    return _reason(item)


def _reason(item: Candidate) -> str:
    """Without the interface's name, which stands beside it, and in words where the kernel's are."""
    return item.reason.removeprefix(f"{item.interface}: ").replace(NO_FILE, "there is no such file")


def identity(home: Path) -> Check:
    """The installation key, whose fingerprint owners pin."""
    path = home / "service" / "installation.key"
    if not path.exists():
        return Check("level", "installation key", "pass", "none yet: `mesatee up` makes it")
    try:
        fingerprint = software.fingerprint(_core.SigningKey.load(str(path)).public)
    except MesateeError as error:
        return Check("level", "installation key", "fail", error.message, error.hint)
    return Check("level", "installation key", "pass", f"fingerprint {fingerprint}")


# -- isolation --------------------------------------------------------------------------------------


def sandbox() -> list[Check]:
    """One line for each layer that the kernel may offer."""
    found = []
    for name, said in sorted(_core.sandbox_layers().items()):
        if said == "yes":
            found.append(Check("sandbox", name, "pass", "yes"))
        elif name in SANDBOX_NEEDED:
            found.append(
                Check("sandbox", name, "fail", said, "functions cannot be run without it: use another kernel")
            )
        else:
            found.append(
                Check(
                    "sandbox",
                    name,
                    "warn",
                    said,
                    "functions run with the other layers; see SECURITY.md for what each stops",
                )
            )
    return found


def protection() -> list[Check]:
    """Measures that keep the secrets of a process in it, tried in a process of their own."""
    code = "from mesatee._core import protect_process; print(*protect_process())"
    command = [sys.executable, "-I", "-B", "-c", code]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
        active = set(ended.stdout.split())
    except subprocess.TimeoutExpired:
        active = set()
    found = []
    for name in PROTECTIONS:
        if name in active:
            found.append(Check("process", name, "pass", "active"))
        elif name == "memory-locked":
            found.append(
                Check(
                    "process",
                    name,
                    "warn",
                    "keys are locked page by page, the rest of a trusted process may be swapped out",
                    "raise the limit: `ulimit -l unlimited`, or LimitMEMLOCK=infinity of the service's unit",
                )
            )
        else:
            found.append(
                Check("process", name, "warn", "the kernel refuses it", "use another kernel or container")
            )
    return found


def memory_lock() -> Check:
    """RLIMIT_MEMLOCK: keys need a few pages, a whole process needs no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Check("process", "memlock limit", "pass", "none")
    said = f"{soft // limits.KIB} KiB"
    if soft < limits.MIB:
        return Check(
            "process", "memlock limit", "warn", said, "keys may be refused a locked page: `ulimit -l 65536`"
        )
    return Check("process", "memlock limit", "pass", f"{said}: enough for keys")


def swap() -> Check:
    """Whether memory can reach a disk."""
    try:
        areas = Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    except OSError:
        areas = []
    if not areas:
        return Check("process", "swap", "pass", "none")
    return Check(
        "process", "swap", "warn", f"{len(areas)} areas", "turn it off, encrypt it, or lock memory (above)"
    )


# -- the rest ---------------------------------------------------------------------------------------


def clock(now: float, newest: float) -> Check:
    """The clock is not before the newest file of this installation: log time never goes back."""
    said = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now))
    if now < newest - limits.CLOCK_SKEW_SECONDS:
        return Check(
            "machine", "clock", "fail", f"{said}, before this software was installed", "set the clock"
        )
    if Path("/run/systemd/timesync/synchronized").exists():
        return Check("machine", "clock", "pass", f"{said}, kept by a time service")
    return Check("machine", "clock", "pass", f"{said}; at most {limits.CLOCK_SKEW_SECONDS} s off for peers")


def disk(home: Path) -> Check:
    """Space where the service keeps log and blobs."""
    folder = home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / limits.GIB:.1f} GiB free for {home}"
    if free < DISK_NEEDED:
        return Check("machine", "disk", "fail", said, "free some space, or choose another --home")
    if free < DISK_WANTED:
        return Check("machine", "disk", "warn", said, "sealed data and the log grow: free some space")
    return Check("machine", "disk", "pass", said)


def home_folder(home: Path) -> Check:
    """Others must not look into the folder of keys."""
    if not home.exists():
        return Check("machine", "home", "pass", f"{home} is not there yet: the first command makes it")
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        return Check("machine", "home", "warn", f"{home} has mode {mode:04o}", f"chmod 700 {home}")
    return Check("machine", "home", "pass", f"{home}, mode {mode:04o}")


def service(home: Path) -> Check:
    """Whether an embedded service holds the lock of this home."""
    path = home / "service" / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Check("service", "embedded service", "pass", "none was founded here: `mesatee up` starts one")
    except OSError as error:
        return Check("service", "embedded service", "warn", f"{path}: {error.strerror}", "ask as its owner")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return Check("service", "embedded service", "pass", "runs")
    finally:
        os.close(fd)
    return Check("service", "embedded service", "pass", "was founded, does not run: `mesatee up` starts it")


def environments(home: Path) -> list[Check]:
    """What Python functions may import beside the base. Not measured here: `mesatee env list --check` does."""
    folder = home / FOLDER
    found = []
    for name in built.names(folder):
        try:
            manifest = built.manifest(folder / name)
        except MesateeError as error:
            found.append(
                Check(
                    "functions",
                    name,
                    "warn",
                    error.message,
                    f"`mesatee env remove {name}`, and build it anew",
                )
            )
        else:
            found.append(
                Check(
                    "functions", name, "pass", f"{len(manifest.packages)} packages, digest {manifest.digest}"
                )
            )
    return found or [
        Check("functions", "environments", "pass", "the base alone: `mesatee env build` makes others")
    ]


def versions() -> list[Check]:
    """Interpreter, packages and core."""
    found: list[Check] = []
    python = platform.python_version()
    if sys.version_info[:2] >= PYTHON:
        found.append(Check("installation", "python", "pass", f"{platform.python_implementation()} {python}"))
    else:
        wanted = ".".join(map(str, PYTHON))
        found.append(Check("installation", "python", "fail", python, f"use Python {wanted} or newer"))
    core = Path(str(_core.__file__))
    found.append(Check("installation", "mesatee", "pass", metadata.version("mesatee")))
    built = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(core.stat().st_mtime))
    found.append(Check("installation", "rust core", "pass", f"{core.name}, built {built}"))
    for name in ("cedarpy", "pydantic-core", "cbor2", "numpy", "pandas", "polars", "pyarrow", "scikit-learn"):
        try:
            found.append(Check("installation", name, "pass", metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(
                Check("installation", name, "fail", "not installed", "install MesaTEE's dependencies")
            )
    return found


def examine(home: Path, found: Sequence[Candidate] | None = None) -> list[Check]:
    """All probes; `found` are the interfaces of attestation, by default those of this machine."""
    system = os.uname()
    candidates = detect() if found is None else found
    proven, why = level(candidates)
    core = Path(str(_core.__file__))
    return [
        *versions(),
        Check("machine", "kernel", "pass", f"{system.sysname} {system.release} {system.machine}"),
        clock(time.time(), core.stat().st_mtime),
        disk(home),
        home_folder(home),
        Check(
            "level", "this machine", "pass" if proven >= SOFTWARE_LEVEL else "fail", f"level {proven}: {why}"
        ),
        identity(home),
        *interfaces(candidates),
        *sandbox(),
        *protection(),
        memory_lock(),
        swap(),
        *environments(home),
        service(home),
    ]


def as_dict(checks: Iterable[Check], found: Sequence[Candidate]) -> dict[str, Any]:
    """The JSON form."""
    checks = list(checks)
    proven, why = level(found)
    return {
        "version": metadata.version("mesatee"),
        "level": {
            "proven": proven,
            "name": LEVELS[proven],
            "why": why,
            "why_not_higher": why_not_higher(found),
        },
        "ok": not any(item.status == "fail" for item in checks),
        "checks": [asdict(item) for item in checks],
    }


def lines(checks: Iterable[Check], candidates: Sequence[Candidate]) -> list[str]:
    """The answer for people."""
    found, topic = [], ""
    for item in checks:
        if item.topic != topic:
            topic = item.topic
            found.append(f"{topic}:")
        found.append(f"  {item.status:<4}  {item.name}: {item.found}")
        if item.next_step:
            found.append(f"        -> {item.next_step}")
    proven, _ = level(candidates)
    found.append(f"This machine can prove level {proven} ({LEVELS[proven]}).")
    if proven > SOFTWARE_LEVEL:
        found.append(f"`mesatee up` proves level {SOFTWARE_LEVEL} unless you add `--attester auto`.")
    if reasons := why_not_higher(candidates):
        found.append("Not higher, because:")
        found.extend(f"  {reason}" for reason in reasons)
    return found


def run(home: Path, as_json: bool, out: Callable[[str], object] = sys.stdout.write, tpm: str = "") -> None:
    """`mesatee doctor`: exits with 1 only if something is missing that the service cannot do without.

    `tpm`: where the TPM is, as in `detect`.
    """
    found = detect(tpm=tpm)
    checks = examine(home, found)
    out((json.dumps(as_dict(checks, found)) if as_json else "\n".join(lines(checks, found))) + "\n")
    if any(item.status == "fail" for item in checks):
        raise typer.Exit(1)


__all__ = [
    "SOFTWARE_LEVEL",
    "Check",
    "as_dict",
    "examine",
    "interfaces",
    "level",
    "lines",
    "run",
    "why_not_higher",
]
