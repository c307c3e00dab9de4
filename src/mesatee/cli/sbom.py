"""The inventory as a software bill of materials: CycloneDX 1.6 in JSON.

It lists the native libraries of every process, the Python distributions that MesaTEE needs, and, where the
source tree's Cargo.lock is at hand, the Rust crates that are linked into the core.
"""

from __future__ import annotations

import hashlib
import re
import time
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

CORE_CRATE: Final = "mesatee-bindings"
"""The crate whose dependencies end up in `mesatee._core`."""
LOCK_FILE: Final = "Cargo.lock"


def document(processes: Sequence[Mapping[str, Any]], at: int | None = None) -> dict[str, Any]:
    """The SBOM of an inventory's ``processes``; `at` is the time that it carries, in Unix seconds."""
    components = [*python_components(), *rust_components(), *native_components(processes)]
    now = int(time.time()) if at is None else at
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "component": _component("application", "mesatee", metadata.version("mesatee"), "mesatee"),
        },
        "components": components,
    }


def _component(kind: str, name: str, version: str | None, ref: str, **more: Any) -> dict[str, Any]:
    found = {"type": kind, "bom-ref": ref, "name": name, **more}
    if version:
        found["version"] = version
    return found


def python_components() -> list[dict[str, Any]]:
    """MesaTEE's installed dependencies, direct and indirect, without those of development."""
    waiting, seen = ["mesatee"], set[str]()
    found = []
    while waiting:
        name = waiting.pop()
        for requirement in metadata.requires(name) or ():
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            # An extra is asked for by name, never by itself.
            if match is None or "extra ==" in requirement:
                continue
            wanted = re.sub(r"[-_.]+", "-", match[0]).lower()
            if wanted in seen:
                continue
            seen.add(wanted)
            try:
                version = metadata.version(wanted)
            except metadata.PackageNotFoundError:
                # For another system or Python version.
                continue
            purl = f"pkg:pypi/{wanted}@{version}"
            found.append(_component("library", wanted, version, purl, purl=purl))
            waiting.append(wanted)
    return sorted(found, key=lambda item: str(item["name"]))


def lock_file() -> Path | None:
    """Cargo.lock of the source tree that this package runs from, if it is one."""
    path = Path(__file__).resolve().parents[3] / LOCK_FILE
    return path if path.is_file() else None


def rust_components() -> list[dict[str, Any]]:
    """The crates that the core is linked from; empty without a source tree."""
    path = lock_file()
    if path is None:
        return []
    packages = tomllib.loads(path.read_text(encoding="utf-8"))["package"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for item in packages:
        by_name.setdefault(item["name"], []).append(item)
    waiting, seen = [(CORE_CRATE, by_name[CORE_CRATE][0]["version"])], set[tuple[str, str]]()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        item = next(item for item in by_name[key[0]] if item["version"] == key[1])
        for dependency in item.get("dependencies", ()):
            # "name", or "name version" where there are several.
            name, _, version = dependency.partition(" ")
            waiting.append((name, version.split(" ")[0] or by_name[name][0]["version"]))
    return [_crate(item) for item in packages if (item["name"], item["version"]) in seen]


def _crate(item: Mapping[str, Any]) -> dict[str, Any]:
    purl = f"pkg:cargo/{item['name']}@{item['version']}"
    found = _component("library", item["name"], item["version"], purl, purl=purl)
    if "checksum" in item:
        # The digest of the crate's archive, as the lock file pins it.
        found["hashes"] = [{"alg": "SHA-256", "content": item["checksum"]}]
    return found


def native_components(processes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One component for each file that any process maps, with the processes in its properties."""
    files: dict[str, dict[str, Any]] = {}
    for process in processes:
        for library in process["libraries"]:
            file = library["file"]
            if file not in files:
                files[file] = _native(library)
            properties = files[file]["properties"]
            properties.append({"name": f"mesatee:process:{process['role']}", "value": library["reason"]})
    return [files[file] for file in sorted(files)]


def _native(library: Mapping[str, Any]) -> dict[str, Any]:
    file = library["file"]
    found = _component("file", Path(file).name, library["version"], f"file:{file}")
    found["properties"] = [
        {"name": "mesatee:path", "value": file},
        {"name": "mesatee:origin", "value": library["origin"]},
        {"name": "mesatee:package", "value": library["package"] or ""},
        {"name": "mesatee:language", "value": library["language"]},
    ]
    digest = _digest(Path(file))
    if digest:
        found["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return found


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        # Areas of the kernel, and files that were replaced while they are mapped.
        return None


__all__ = ["document", "lock_file", "native_components", "python_components", "rust_components"]
