"""Building environments from locks, offline, with wheels that are made here."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support import wheels
from typer.testing import CliRunner

from mesatee.cli import environments, main
from mesatee.enclave.platform import environments as platform
from mesatee.enclave.platform.measure import environment_digest
from mesatee.errors import Conflict, DigestMismatch, Malformed, NotFound, TooLarge, Unavailable
from mesatee.protocol import environments as said
from mesatee.protocol import limits

BASE = "ba" * 32


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the base takes seconds, and is no matter of these tests."""
    monkeypatch.setattr(environments, "environment_digest", lambda name: BASE)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    folder.mkdir()
    return folder


def demo(links: Path, **files: str) -> Path:
    return wheels.wheel(links, "demo", {"demo/__init__.py": "A = 41\n"} | files)


@pytest.mark.usefixtures("quick")
def test_what_is_built_is_what_a_worker_measures(tmp_path: Path, links: Path) -> None:
    home = tmp_path / "home"
    lock = wheels.lock(links, demo(links))
    made = environments.build(home, "stats", lock, find_links=links)
    assert [(item.name, item.version) for item in made.packages] == [("demo", "1.0")]
    folder = home / said.FOLDER
    assert platform.Environments(folder, BASE).current() == {"stats": made.digest}
    assert environments.resolve(home, "stats") == made.digest
    assert environments.resolve(home, "ab" * 32) == "ab" * 32
    assert [path.name for path in folder.iterdir()] == ["stats"], "nothing is left of the building"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700, "the keys of parties may come to lie there"
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((folder / "stats").stat().st_mode) == 0o755
    # Somebody else, another name, another day: the same digest.
    other = environments.build(tmp_path / "theirs", "other", lock, find_links=links)
    assert other.digest == made.digest


@pytest.mark.usefixtures("quick")
def test_no_code_runs_when_it_is_built(tmp_path: Path, links: Path) -> None:
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')\n"
    made = wheels.wheel(links, "demo", {"demo/__init__.py": code, "setup.py": code, "demo/conftest.py": code})
    environments.build(tmp_path / "home", "stats", wheels.lock(links, made), find_links=links)
    environments.listed(tmp_path / "home", check=True)
    assert not mark.exists()
    # The same code, run, leaves the mark.
    exec(code)
    assert mark.exists()


@pytest.mark.usefixtures("quick")
def test_what_the_base_has_is_not_installed_again(tmp_path: Path, links: Path) -> None:
    version = platform.provided().versions["numpy"]
    lock = wheels.lock(links, demo(links))
    with_base = lock.with_name("with-base.txt")
    with_base.write_text(f"{lock.read_text()}NumPy=={version} --hash=sha256:{'0' * 64}\n")
    made = environments.build(tmp_path / "home", "stats", with_base, find_links=links)
    assert (made.provided, len(made.packages)) == ((f"numpy=={version}",), 1)
    for name in ("numpy", "mesatee", "pydantic"):
        with_base.write_text(f"{lock.read_text()}{name}==0.0.1 --hash=sha256:{'0' * 64}\n")
        with pytest.raises(Conflict, match=name):
            environments.build(tmp_path / "home", "other", with_base, find_links=links)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("sitecustomize.py", "shadow"),
        ("usercustomize/__init__.py", "shadow"),
        ("numpy/__init__.py", "shadow"),
        ("mesatee/enclave/evil.py", "shadow"),
        ("encodings/__init__.py", "shadow"),
        ("evil.pth", ".pth files are refused"),
        ("demo-1.0.data/purelib/evil.pth", ".pth files are refused"),
        ("demo-1.0.data/platlib/numpy/__init__.py", "shadow"),
        ("numpy-99.dist-info/entry_points.txt", "multiple .dist-info"),
        ("../outside.py", "leads out"),
    ],
)
def test_a_malicious_wheel_leaves_nothing_behind(tmp_path: Path, links: Path, file: str, what: str) -> None:
    lock = wheels.lock(links, demo(links, **{file: "raise SystemExit\n"}))
    # What pip sees before us it refuses itself.
    with pytest.raises((Malformed, Unavailable)) as refused:
        environments.build(tmp_path / "home", "stats", lock, find_links=links)
    assert what in refused.value.message
    assert not list((tmp_path / "home" / said.FOLDER).iterdir())


@pytest.mark.usefixtures("quick")
def test_refusals(tmp_path: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    wheel = demo(links)
    lock = wheels.lock(links, wheel)
    for name in ("base", "../out", "a/b", "STATS"):
        with pytest.raises(Malformed):
            environments.build(home, name, lock, find_links=links)
    environments.build(home, "stats", lock, find_links=links)
    with pytest.raises(Conflict, match="there is an environment stats"):
        environments.build(home, "stats", lock, find_links=links)
    # pip compares the hash first; so does the unpacking, whoever put the wheel there.
    lock.write_text(f"demo==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises((DigestMismatch, Unavailable)):
        environments.build(home, "other", lock, find_links=links)
    with pytest.raises(FileNotFoundError):
        environments.build(home, "other", tmp_path / "absent.txt")
    monkeypatch.setattr(limits, "ENVIRONMENTS", 2)
    with pytest.raises(TooLarge):
        environments.build(home, "other", wheels.lock(links, wheel), find_links=links)
    with pytest.raises(NotFound):
        environments.remove(home, "other")
    with pytest.raises(NotFound, match="was built on this machine"):
        environments.resolve(home, "other")


@pytest.mark.usefixtures("quick")
def test_an_environment_that_was_changed_is_named(tmp_path: Path, links: Path) -> None:
    home = tmp_path / "home"
    environments.build(home, "stats", wheels.lock(links, demo(links)), find_links=links)
    (home / said.FOLDER / "stats" / said.PACKAGES / "demo" / "__init__.py").write_text("A = 0\n")
    [plain] = environments.listed(home)
    [checked] = environments.listed(home, check=True)
    assert plain.problem == ""
    assert "demo/__init__.py' is another file" in checked.problem
    environments.remove(home, "stats")
    assert environments.listed(home) == []


def invoke(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(main.app, list(words))
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.usefixtures("quick")
def test_the_verbs(tmp_path: Path, links: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    lock = str(wheels.lock(links, demo(links)))
    made = invoke(*home, "env", "build", "stats", "--lock", lock, "--find-links", str(links), "--json")
    assert made["digest"] == environments.resolve(tmp_path / "home", "stats")
    again = invoke(*home, "env", "build", "stats", "--lock", lock, "--find-links", str(links), "--json")
    assert again["error"]["code"] == "conflict"
    [listed] = invoke(*home, "env", "list", "--check", "--json")["environments"]
    assert (listed["name"], listed["digest"], listed["problem"]) == ("stats", made["digest"], None)
    missing = invoke(*home, "env", "build", "x", "--lock", str(tmp_path / "none"), "--json")
    assert missing["error"]["code"] == "input_error"
    assert invoke(*home, "env", "remove", "stats", "--json") == {"removed": "stats"}
    assert invoke(*home, "env", "list", "--json") == {"environments": []}


@pytest.mark.slow
def test_a_real_package_from_where_pip_finds_it(tmp_path: Path) -> None:
    """With the true digest of the base below."""
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "colorama==0.4.6 --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6\n"
    )
    made = environments.build(tmp_path / "home", "colours", lock)
    assert made.base == environment_digest("base")
    assert environments.listed(tmp_path / "home", check=True)[0].problem == ""
