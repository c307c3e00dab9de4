"""Wheels made in the test, honest ones and others, and the locks that name them."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

Entry = tuple[zipfile.ZipInfo, bytes]


def entry(name: str, content: str | bytes = b"", mode: int = stat.S_IFREG | 0o644) -> Entry:
    """One member; the type of file stands in `mode`."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info, content.encode() if isinstance(content, str) else content


def wheel(
    folder: Path,
    name: str,
    files: Mapping[str, str | bytes],
    *,
    version: str = "1.0",
    more: Iterable[Entry] = (),
    metadata: str | None = None,
) -> Path:
    """A wheel for any platform with these files; `more` may be any members at all."""
    info = f"{name}-{version}.dist-info"
    said = metadata if metadata is not None else f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    members = [entry(path, content) for path, content in files.items()]
    members += [
        entry(f"{info}/METADATA", said),
        entry(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        *more,
    ]
    record = "".join(f"{item.filename},,\n" for item, _ in members) + f"{info}/RECORD,,\n"
    members.append(entry(f"{info}/RECORD", record))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for item, content in members:
            archive.writestr(item, content)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(made.getvalue())
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock(folder: Path, *paths: Path) -> Path:
    """A lock file that names these wheels."""
    lines = []
    for path in paths:
        name, version, *_ = path.name.split("-")
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest(path)}\n")
    made = folder / "lock.txt"
    made.write_text("".join(lines))
    return made
