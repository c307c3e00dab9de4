"""What a worker measures of an environment, and what it refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mesatee.enclave.platform import environments as e
from mesatee.errors import EnvironmentCorrupt, Malformed, NotFound, TooLarge
from mesatee.protocol import environments as said
from mesatee.protocol import limits
from mesatee.protocol.digests import sha256
from mesatee.protocol.jsonstrict import canonical

BASE = "ba" * 32
LOCK = b"demo==1.0 --hash=sha256:" + b"0" * 64 + b"\n"


def make(folder: Path, name: str = "stats", base: str = BASE, **files: str) -> Path:
    """An environment as the builder leaves it, with one package."""
    made = folder / name
    package = made / said.PACKAGES / "demo"
    package.mkdir(parents=True)
    for path, text in ({"__init__": "A = 1\n"} | files).items():
        (package / f"{path}.py").write_text(text)
        (package / f"{path}.py").chmod(0o644)
    for part in (made, made / said.PACKAGES, package):
        part.chmod(0o755)
    facts = e.measure_files(made / said.PACKAGES)
    manifest = said.Manifest(
        version=1,
        name=name,
        digest=said.digest(base, LOCK, facts),
        base=base,
        lock=sha256(LOCK),
        packages=(said.LockedPackage(name="demo", version="1.0", wheel="0" * 64),),
        provided=(),
        files=len(facts),
        bytes=sum(item.size for item in facts.values()),
    )
    (made / said.LOCK).write_bytes(LOCK)
    (made / said.LISTING).write_bytes(said.listing(facts))
    (made / said.MANIFEST).write_bytes(canonical(manifest.model_dump(mode="json")))
    return made


def test_two_machines_measure_the_same(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two", name="other")
    assert e.check(one, BASE).digest == e.check(two, BASE).digest == e.manifest(one).digest


def test_the_base_below_counts(tmp_path: Path) -> None:
    made = make(tmp_path)
    with pytest.raises(EnvironmentCorrupt, match="another base"):
        e.check(made, "bb" * 32)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file with other bytes": (
        lambda p: (p / "demo/__init__.py").write_text("A = 2\n"),
        "demo/__init__.py' is another file",
    ),
    "a file that is gone": (lambda p: (p / "demo/__init__.py").unlink(), "is gone"),
    "a file that was added": (lambda p: _plain(p / "demo/more.py"), "demo/more.py' was added"),
    "another mode": (lambda p: (p / "demo/__init__.py").chmod(0o755), "is another file"),
    "another lock": (
        lambda p: (p.parent / said.LOCK).write_bytes(LOCK.replace(b"1.0", b"1.1")),
        "its lock is another one",
    ),
    "a file that others write": (lambda p: (p / "demo/__init__.py").chmod(0o666), "has the mode 0666"),
    "a file that only its owner reads": (lambda p: (p / "demo/__init__.py").chmod(0o600), "has the mode"),
    "a set-user-id file": (lambda p: (p / "demo/__init__.py").chmod(0o4755), "has the mode"),
    "a folder that others write": (lambda p: (p / "demo").chmod(0o777), "others may write"),
    "a symbolic link": (lambda p: (p / "demo/link.py").symlink_to("/etc/passwd"), "is a link or a device"),
    "a symbolic link to a folder": (lambda p: (p / "more").symlink_to("/etc"), "is a link or a device"),
    "a hard link": (lambda p: (p.parent / "outside").hardlink_to(p / "demo/__init__.py"), "a second name"),
    "a pipe": (lambda p: os.mkfifo(p / "demo/pipe"), "is a link or a device"),
    "a .pth file": (lambda p: _plain(p / "late.pth"), ".pth files are refused"),
    "byte code": (lambda p: _plain(p / "demo/__pycache__/__init__.cpython-311.pyc"), "byte code"),
    "sitecustomize": (lambda p: _plain(p / "sitecustomize.py"), "shadow"),
    "usercustomize": (lambda p: _plain(p / "usercustomize/__init__.py"), "shadow"),
    "mesatee": (lambda p: _plain(p / "mesatee/__init__.py"), "shadow"),
    "numpy": (lambda p: _plain(p / "numpy/__init__.py"), "shadow"),
    "numpy as a module": (lambda p: _plain(p / "NUMPY.py"), "shadow"),
    "a module of the standard library": (lambda p: _plain(p / "json.py"), "shadow"),
    "the name of the function's module": (lambda p: _plain(p / "function.py"), "shadow"),
    "metadata of numpy": (lambda p: _plain(p / "numpy-9.0.dist-info/METADATA"), "pass for"),
    "names that differ in case": (lambda p: _plain(p / "demo/__INIT__.py"), "case"),
    "a name with a line break": (lambda p: _plain(p / "demo/a\n0644 x 0 b.py"), "character"),
    "a name that is no UTF-8": (lambda p: _plain(p / os.fsdecode(b"demo/\xff.py")), "character"),
    "a name that looks like another": (lambda p: _plain(p / "demo/cafe\u0301.py"), "NFC"),
    "no manifest": (lambda p: (p.parent / said.MANIFEST).unlink(), "cannot be read"),
    "a manifest that is a link": (
        lambda p: (
            (p.parent / said.MANIFEST).rename(p.parent / "x") and (p.parent / said.MANIFEST).symlink_to("x")
        ),
        "cannot be read",
    ),
    "a manifest that is no JSON": (lambda p: (p.parent / said.MANIFEST).write_text("{"), "cannot be used"),
    "no packages": (lambda p: shutil.rmtree(p), "cannot be read"),
}


def _plain(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text("raise SystemExit\n")
    path.chmod(0o644)


@pytest.mark.parametrize("what", CHANGES)
def test_an_environment_that_was_changed_after_it_was_built(tmp_path: Path, what: str) -> None:
    change, message = CHANGES[what]
    made = make(tmp_path)
    environments = e.Environments(tmp_path, BASE)
    digest = environments.current()["stats"]
    assert environments.use(digest) == "stats"
    change(made / said.PACKAGES)
    with pytest.raises(EnvironmentCorrupt) as refused:
        environments.use(digest)
    assert message in refused.value.message
    assert environments.current() == {}, "it is offered no more"
    with pytest.raises(NotFound):
        environments.use(digest)


TOUCHES: dict[str, Callable[[Path], object]] = {
    "a file written and put back": lambda p: _put_back(p / "demo/__init__.py"),
    "a file replaced by its copy": lambda p: (
        shutil.copy2(p / "demo/__init__.py", p / "demo/x"),
        (p / "demo/x").rename(p / "demo/__init__.py"),
    ),
    "a file that came and went": lambda p: (_plain(p / "demo/json.py"), (p / "demo/json.py").unlink()),
    "a package that came and went": lambda p: ((p / "evil").mkdir(), (p / "evil").rmdir()),
    "a folder swapped": lambda p: (
        shutil.copytree(p / "demo", p / "new"),
        (p / "demo").rename(p / "old"),
        (p / "new").rename(p / "demo"),
    ),
}


def _put_back(path: Path) -> None:
    facts, text = path.stat(), path.read_text()
    path.write_text("raise SystemExit\n")
    path.write_text(text)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("what", TOUCHES)
def test_a_change_between_measuring_and_the_end_of_a_run(tmp_path: Path, what: str) -> None:
    """Also if nothing of it can be seen any more."""
    made = make(tmp_path)
    environments = e.Environments(tmp_path, BASE)
    digest = environments.current()["stats"]
    environments.use(digest)
    environments.confirm()
    TOUCHES[what](made / said.PACKAGES)
    with pytest.raises(EnvironmentCorrupt, match="touched while a function ran"):
        environments.confirm()
    # The next run measures anew, and a run in the base has nothing to do with it.
    environments.use(BASE)
    environments.confirm()


def test_a_manifest_cannot_vouch_for_other_files(tmp_path: Path) -> None:
    """Whoever changes files and writes the manifest anew has made another environment, with another digest."""
    made = make(tmp_path)
    environments = e.Environments(tmp_path, BASE)
    digest = environments.current()["stats"]
    shutil.rmtree(made)
    make(tmp_path, more="raise SystemExit")
    with pytest.raises(EnvironmentCorrupt, match="another one now"):
        environments.use(digest)
    shutil.rmtree(made)
    make(tmp_path, more="raise SystemExit")
    assert environments.current()["stats"] != digest


def test_what_is_built_later_is_found_and_what_is_removed_is_gone(tmp_path: Path) -> None:
    environments = e.Environments(tmp_path / "home" / said.FOLDER, BASE)
    assert environments.current() == {}
    assert environments.use(BASE) == ""
    made = make(environments.folder)
    (environments.folder / ".new-x").mkdir()
    (environments.folder / "base").mkdir()
    (environments.folder / "file").write_text("")
    digest = e.manifest(made).digest
    assert environments.current() == {"stats": digest}
    assert environments.use(digest) == "stats"
    with pytest.raises(NotFound, match="no environment") as missing:
        environments.use("ab" * 32)
    assert "mesatee env build" in missing.value.hint
    shutil.rmtree(made)
    assert environments.current() == {}


def test_as_many_as_evidence_may_name(tmp_path: Path) -> None:
    for number in range(limits.ENVIRONMENTS + 1):
        make(tmp_path, name=f"e{number:02}")
    assert len(e.Environments(tmp_path, BASE).current()) == limits.ENVIRONMENTS - 1


def test_more_than_an_environment_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = make(tmp_path, more="B = 1\n") / said.PACKAGES
    monkeypatch.setattr(limits, "ENVIRONMENT_FILES", 2)
    monkeypatch.setattr(limits, "ENVIRONMENT_BYTES", 12)
    assert len(e.measure_files(packages)) == 2
    monkeypatch.setattr(limits, "ENVIRONMENT_BYTES", 11)
    with pytest.raises(TooLarge):
        e.measure_files(packages)
    monkeypatch.setattr(limits, "ENVIRONMENT_FILES", 1)
    with pytest.raises(TooLarge):
        e.measure_files(packages)


def test_what_the_base_has_is_known() -> None:
    found = e.provided()
    assert {"numpy", "polars", "pydantic", "mesatee"} <= set(found.versions)
    assert {"numpy", "sklearn", "pydantic", "mesatee", "json", "function"} <= found.modules
    with pytest.raises(Malformed):
        said.check_files(["sklearn/__init__.py"], found.modules, frozenset(found.versions))
