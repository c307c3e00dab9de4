from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesatee import _core
from mesatee.errors import Corrupt, ForkDetected, KeyRefused, Malformed
from mesatee.party.memory import CheckpointMemory
from mesatee.protocol import checkpoint as cp

ORIGIN = "log.example/one"


@pytest.fixture
def key() -> _core.SigningKey:
    return _core.SigningKey.generate()


def head(key: Any, size: int, fill: int = 0, time: int = 0) -> cp.Checkpoint:
    return cp.sign(ORIGIN, size, bytes([fill or size % 256]) * 32, time, 1, key)


def test_nothing_is_known_of_a_new_log(tmp_path: Path, key: Any) -> None:
    assert CheckpointMemory(tmp_path, ORIGIN).load(key.public) is None


def test_it_remembers_across_objects(tmp_path: Path, key: Any) -> None:
    CheckpointMemory(tmp_path, ORIGIN).remember(head(key, 5), key.public)
    found = CheckpointMemory(tmp_path, ORIGIN).load(key.public)
    assert found == head(key, 5)
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_each_log_has_its_own(tmp_path: Path, key: Any) -> None:
    CheckpointMemory(tmp_path, ORIGIN).remember(head(key, 5), key.public)
    assert CheckpointMemory(tmp_path, "log.example/two").load(key.public) is None


def test_the_larger_one_stays(tmp_path: Path, key: Any) -> None:
    memory = CheckpointMemory(tmp_path, ORIGIN)
    memory.remember(head(key, 9), key.public)
    assert memory.remember(head(key, 5), key.public).size == 9
    assert memory.load(key.public) == head(key, 9)


def test_two_roots_of_one_size_are_a_fork(tmp_path: Path, key: Any) -> None:
    memory = CheckpointMemory(tmp_path, ORIGIN)
    memory.remember(head(key, 5), key.public)
    with pytest.raises(ForkDetected):
        memory.remember(head(key, 5, fill=77), key.public)


def test_another_key_is_refused(tmp_path: Path, key: Any) -> None:
    memory = CheckpointMemory(tmp_path, ORIGIN)
    memory.remember(head(key, 5), key.public)
    with pytest.raises(KeyRefused, match="another key"):
        memory.load(_core.SigningKey.generate().public)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"garbage", b'{"version":1}', b"\xff" * 100, b"[" * 5000]
)
def test_a_damaged_memory_is_an_error_and_stays(tmp_path: Path, key: Any, data: bytes) -> None:
    memory = CheckpointMemory(tmp_path, ORIGIN)
    memory.remember(head(key, 5), key.public)
    (file,) = (tmp_path / "checkpoints").iterdir()
    file.write_bytes(data)
    with pytest.raises(Corrupt, match="altered"):
        memory.load(key.public)
    with pytest.raises(Corrupt):
        memory.remember(head(key, 6), key.public)
    assert file.read_bytes() == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_any_altered_byte_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    key = _core.SigningKey.generate()
    memory = CheckpointMemory(tmp_path, "log.example/flip")
    for file in (tmp_path / "checkpoints").glob("*"):
        file.unlink()
    memory.remember(cp.sign("log.example/flip", 5, bytes(32), 0, 1, key), key.public)
    (file,) = (tmp_path / "checkpoints").iterdir()
    raw = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    with pytest.raises((Corrupt, KeyRefused)):
        memory.load(key.public)


def test_a_bad_origin(tmp_path: Path) -> None:
    with pytest.raises(Malformed):
        CheckpointMemory(tmp_path, "../x")
