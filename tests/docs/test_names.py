"""The project speaks of itself alone: no file names a registry's host or a path of somebody's machine."""

from __future__ import annotations

import re
from pathlib import Path

# Written in pieces, so that this file does not name them either.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("crates", "io"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("golang", "org"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("anaconda", "org"),
    )
]
FOLDERS = ["/" + name + "/" for name in ("work", "root", "Users", "workspace")]
HOME = re.compile(r"/" + r"home/[a-z]")
LOCK_SOURCE = re.compile(r'^source = "registry\+https://[^"]*"$', re.M)
"""How Cargo writes "the default registry", whatever mirror it used: its format has no other way."""


def offences(text: str) -> list[str]:
    found = [item for item in (*HOSTS, *FOLDERS) if item in text]
    return found + HOME.findall(text)


def test_no_registry_host_and_no_path_of_a_machine(root: Path, tracked: list[Path]):
    assert len(tracked) > 100
    found = {}
    for path in tracked:
        data = path.read_bytes()
        if b"\0" in data:
            continue
        text = data.decode("utf-8", "replace")
        if path.name == "Cargo.lock":
            text = LOCK_SOURCE.sub("", text)
        if items := offences(text):
            found[str(path.relative_to(root))] = items
    assert found == {}


def test_offences_are_found():
    assert offences("see https://" + HOSTS[0] + "/x and " + FOLDERS[0] + "main") == [HOSTS[0], FOLDERS[0]]
    assert offences("/" + "home/a/b")
    assert offences("/v1/service, ~/.local/share/mesatee") == []
