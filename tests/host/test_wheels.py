"""Unpacking wheels: what an honest one gives, and what is refused of hostile ones."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest
from tests.support import wheels

from mesatee.errors import DigestMismatch, Malformed, NotFound, TooLarge, Unavailable
from mesatee.host import wheels as w
from mesatee.protocol import environments, limits


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


def install(links: Path, target: Path, *paths: Path) -> dict[str, str]:
    lock = environments.parse_lock(wheels.lock(links, *paths).read_bytes())
    return w.install(lock, links, target)


def test_an_honest_wheel(links: Path, target: Path) -> None:
    made = wheels.wheel(
        links,
        "demo",
        {
            "demo/__init__.py": "A = 1\n",
            "demo-1.0.data/purelib/extra.py": "B = 2\n",
            "demo-1.0.data/scripts/demo": "#!python\n",
            "demo-1.0.data/headers/demo.h": "",
        },
        more=[wheels.entry("demo/_native.so", b"\x7fELF", stat.S_IFREG | 0o755)],
    )
    assert install(links, target, made) == {"demo": wheels.digest(made)}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    info = {f"demo-1.0.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL")}
    assert found == {"demo/__init__.py", "extra.py", "demo/_native.so", *info}
    assert stat.S_IMODE((target / "demo/__init__.py").stat().st_mode) == 0o644
    assert stat.S_IMODE((target / "demo/_native.so").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "name",
    [
        "../outside.py",
        "demo/../../outside.py",
        "/tmp/outside.py",
        "demo\\..\\outside.py",
        "demo-1.0.data/purelib/../../outside.py",
        "demo-1.0.data/purelib//outside.py",
        "demo-1.0.data/purelib/late.pth",
        "late.pth",
        "demo/__pycache__/__init__.cpython-311.pyc",
        "demo/cafe\u0301.py",
        "demo/a\u202egnp.py",
    ],
)
def test_zip_slip_and_names_that_nobody_sees(links: Path, target: Path, name: str) -> None:
    made = wheels.wheel(links, "demo", {"demo/__init__.py": ""}, more=[wheels.entry(name, "import os\n")])
    with pytest.raises(Malformed):
        install(links, target, made)
    assert not list(target.parent.glob("outside*"))
    assert not Path("/tmp/outside.py").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices(links: Path, target: Path, kind: int) -> None:
    odd = wheels.entry("demo/link", "/etc/passwd", kind | 0o777)
    made = wheels.wheel(links, "demo", {"demo/__init__.py": ""}, more=[odd])
    with pytest.raises(Malformed, match="link"):
        install(links, target, made)
    assert not os.path.lexists(target / "demo" / "link")


def test_set_user_id_is_not_kept(links: Path, target: Path) -> None:
    odd = wheels.entry("demo/tool", "", stat.S_IFREG | 0o6777)
    install(links, target, wheels.wheel(links, "demo", {}, more=[odd]))
    assert stat.S_IMODE((target / "demo/tool").stat().st_mode) == 0o755


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["demo/a.py", "DEMO/A.py", "demo-1.0.data/platlib/demo/a.py"])
def test_one_name_twice(links: Path, target: Path, second: str) -> None:
    """Readers of zip files differ in which one they take."""
    made = wheels.wheel(links, "demo", {"demo/a.py": "1"}, more=[wheels.entry(second, "2")])
    with pytest.raises(Malformed, match="twice"):
        install(links, target, made)


def test_a_name_with_nul_is_read_in_two_ways(links: Path, target: Path) -> None:
    made = wheels.wheel(links, "demo", {}, more=[wheels.entry("demo/aX.py.txt", "")])
    made.write_bytes(made.read_bytes().replace(b"demo/aX.py", b"demo/a\0.py"))
    with pytest.raises(Malformed):
        install(links, target, made)


def test_a_file_where_a_folder_is(links: Path, target: Path) -> None:
    made = wheels.wheel(links, "demo", {"demo": "1", "demo/a.py": "2"})
    with pytest.raises(Malformed, match="as a file and as a folder"):
        install(links, target, made)


def test_two_wheels_with_one_file(links: Path, target: Path) -> None:
    one = wheels.wheel(links, "one", {"shared/a.py": "1"})
    two = wheels.wheel(links, "two", {"shared/A.py": "2"})
    with pytest.raises(Malformed, match="which one has"):
        install(links, target, one, two)


def test_a_wheel_that_is_another_package(links: Path, target: Path) -> None:
    for metadata in ("Name: other\nVersion: 1.0\n", "Name: demo\nVersion: 9\n", "", "Version: 1.0\n"):
        made = wheels.wheel(links, "demo", {}, metadata=metadata)
        with pytest.raises(Malformed, match="by its metadata"):
            install(links, target, made)


def test_a_wheel_with_two_descriptions(links: Path, target: Path) -> None:
    made = wheels.wheel(links, "demo", {"other-2.dist-info/METADATA": "Name: other\nVersion: 2\n"})
    with pytest.raises(Malformed, match="2 files METADATA"):
        install(links, target, made)


def test_altered_bytes_and_a_missing_wheel(links: Path, target: Path) -> None:
    made = wheels.wheel(links, "demo", {"demo.py": ""})
    lock = environments.parse_lock(wheels.lock(links, made).read_bytes())
    made.write_bytes(made.read_bytes() + b"\0")
    with pytest.raises(DigestMismatch):
        w.install(lock, links, target)
    made.unlink()
    with pytest.raises(NotFound):
        w.install(lock, links, target)


def test_what_is_no_zip_file(links: Path, target: Path) -> None:
    path = links / "demo-1.0-py3-none-any.whl"
    for content in (b"", b"PK\x03\x04" + bytes(40), b"no zip"):
        path.write_bytes(content)
        with pytest.raises(Malformed, match="no readable zip"):
            install(links, target, path)


def test_a_member_that_was_altered(links: Path, target: Path) -> None:
    made = wheels.wheel(links, "demo", {"demo.py": "x" * 1000})
    data = bytearray(made.read_bytes())
    with zipfile.ZipFile(made) as archive:
        at = archive.getinfo("demo.py").header_offset
    data[at + 40] ^= 0xFF
    made.write_bytes(data)
    with pytest.raises(Malformed, match="no readable zip"):
        install(links, target, made)


def test_more_than_an_environment_may_have(
    links: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheels.wheel(links, "demo", {"demo.py": b"0" * 10_000})
    with zipfile.ZipFile(made) as archive:
        size = sum(item.file_size for item in archive.infolist())
        count = len(archive.infolist())
    monkeypatch.setattr(limits, "ENVIRONMENT_BYTES", size - 1)
    with pytest.raises(TooLarge):
        install(links, target, made)
    for path in (target / "demo.py", *target.glob("*/*")):
        path.unlink(missing_ok=True)
    monkeypatch.setattr(limits, "ENVIRONMENT_BYTES", size)
    monkeypatch.setattr(limits, "ENVIRONMENT_FILES", count - 1)
    with pytest.raises(TooLarge):
        install(links, target, made)
    for path in (target / "demo.py", *target.glob("*/*")):
        path.unlink(missing_ok=True)
    monkeypatch.setattr(limits, "ENVIRONMENT_FILES", count)
    install(links, target, made)


def test_pip_takes_wheels_from_a_folder_and_nothing_else(links: Path, tmp_path: Path) -> None:
    """An sdist would run its code when it is built."""
    made = wheels.wheel(links, "demo", {"demo.py": ""})
    lock = environments.parse_lock(wheels.lock(links, made).read_bytes())
    got = tmp_path / "got"
    got.mkdir()
    w.fetch(lock, got, links)
    assert [path.name for path in got.iterdir()] == [made.name]

    sdist = links / "demo-1.0.tar.gz"
    made.rename(sdist)
    with pytest.raises(Unavailable, match="could not be had"):
        w.fetch(
            environments.parse_lock(
                wheels.lock(links, sdist).read_bytes().replace(b"demo==1.0.tar.gz", b"demo==1.0")
            ),
            got,
            links,
        )
    with pytest.raises(NotFound):
        w.fetch(lock, got, tmp_path / "absent")
