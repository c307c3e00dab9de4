from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesatee.errors import Malformed, MesateeError, NotFound, TooLarge, UnsupportedVersion
from mesatee.party import config, read_service_file, write_service_file

GOOD: dict[str, Any] = {
    "url": "https://127.0.0.1:8443",
    "trust": "trust.toml",
    "environment": "ee" * 32,
    "workers": ["aa" * 32],
    "tees": ["software"],
    "level": 2,
}


def test_it_is_read_as_written(tmp_path: Path) -> None:
    path = write_service_file(tmp_path / "home", **GOOD)
    assert path.stat().st_mode & 0o777 == 0o600
    found = read_service_file(tmp_path / "home")
    assert found is not None
    assert found.url == GOOD["url"]
    assert found.trust == tmp_path / "home" / "trust.toml"
    assert (found.environment, found.workers, found.tees, found.level) == (
        "ee" * 32,
        ("aa" * 32,),
        ("software",),
        2,
    )


def test_level_one_measures_nothing(tmp_path: Path) -> None:
    write_service_file(tmp_path, **(GOOD | {"workers": ["none"], "tees": ["none"], "level": 1}))
    assert read_service_file(tmp_path) is not None


def test_none_is_none(tmp_path: Path) -> None:
    assert read_service_file(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://a:1"},
        {"trust": ""},
        {"environment": "EE" * 32},
        {"workers": []},
        {"workers": ["x"]},
        {"tees": []},
        {"tees": ["tea"]},
        {"level": 0},
        {"level": 6},
        {"level": True},
    ],
)
def test_wrong_values_are_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        write_service_file(tmp_path, **(GOOD | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "version = 2", "version = true", "version = 1", "x", "version = 1\nversion = 1", "\x00"]
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "service.toml").write_text(text)
    with pytest.raises((Malformed, UnsupportedVersion)):
        read_service_file(tmp_path)


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = write_service_file(tmp_path, **GOOD)
    path.write_text(path.read_text() + "verify = false\n")
    with pytest.raises(Malformed):
        read_service_file(tmp_path)


def test_its_size_is_bounded(tmp_path: Path) -> None:
    path = write_service_file(tmp_path, **GOOD)
    text = path.read_text() + "#"
    path.write_text(text + "x" * (config.SERVICE_FILE_BYTES - len(text)))
    assert read_service_file(tmp_path) is not None
    path.write_text(text + "x" * (config.SERVICE_FILE_BYTES - len(text) + 1))
    with pytest.raises(TooLarge):
        read_service_file(tmp_path)


def test_no_trust_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        config.read_trust(tmp_path / "none.toml")
    with pytest.raises(MesateeError):
        config.read_trust(tmp_path)


def test_home(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("MESATEE_HOME", str(tmp_path))
    assert config.default_home() == tmp_path
    monkeypatch.delenv("MESATEE_HOME")
    assert config.default_home().parts[-3:] == (".local", "share", "mesatee")
