from __future__ import annotations

from pathlib import Path

import pytest

from mesatee.errors import Conflict, InputError, NotFound, TooLarge
from mesatee.party import files


def test_a_failure_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write(path, b"old")
    with pytest.raises(RuntimeError), files.replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_exclusive_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(Conflict), files.replacing(path, exclusive=True) as file:  # noqa: PT012
        file.write(b"mine")
        path.write_bytes(b"made meanwhile")
    assert path.read_bytes() == b"made meanwhile"
    with pytest.raises(Conflict):
        files.write(path, b"x", exclusive=True)
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_files_are_private(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_reading_is_bounded(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"12345")
    assert files.read(tmp_path / "a", 5, "file") == b"12345"
    with pytest.raises(TooLarge):
        files.read(tmp_path / "a", 4, "file")
    with pytest.raises(NotFound):
        files.read(tmp_path / "b", 4, "file")
    with pytest.raises(InputError):
        files.read(tmp_path, 4, "file")
    with pytest.raises(InputError):
        files.write(tmp_path / "none" / "a", b"")
