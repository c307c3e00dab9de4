from __future__ import annotations

from pathlib import Path

import pytest

from mesatee import _core
from mesatee.enclave.platform.sealing import PLATFORM_KEY, SEALED_KEY_BYTES, Sealing
from mesatee.errors import Corrupt, KeyRefused, Malformed, MesateeError, NotFound, TooLarge, TrustError

ONE, TWO, HERE, THERE = "01" * 32, "02" * 32, "0a" * 32, "0b" * 32


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    return Sealing(tmp_path, ONE, HERE)


def test_round_trip(sealing: Sealing, tmp_path: Path) -> None:
    log, wrap = _core.SigningKey.generate(), _core.HpkeKey.generate()
    assert not sealing.has("log")
    sealing.seal_signing_key("log", log)
    sealing.seal_hpke_key("wrap", wrap)
    again = Sealing(tmp_path, ONE, HERE)
    assert again.has("log")
    assert again.unseal_signing_key("log").public == log.public
    assert again.unseal_hpke_key("wrap").public == wrap.public
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.sealed", PLATFORM_KEY, "wrap.sealed"]
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_another_measurement_does_not_open_it_until_it_is_resealed(sealing: Sealing, tmp_path: Path) -> None:
    key = _core.SigningKey.generate()
    sealing.seal_signing_key("log", key)
    updated = Sealing(tmp_path, TWO, HERE)
    with pytest.raises(KeyRefused, match=ONE):
        updated.unseal_signing_key("log")
    # The line in front of the sealed bytes only serves the message: rewriting it opens nothing.
    path = tmp_path / "log.sealed"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(ONE.encode(), TWO.encode()))
    with pytest.raises((Corrupt, TrustError)):
        updated.unseal_signing_key("log")
    path.write_bytes(raw)
    sealing.reseal("log", updated)
    assert updated.unseal_signing_key("log").public == key.public
    with pytest.raises(KeyRefused):
        sealing.unseal_signing_key("log")


def test_another_installation_name_kind_or_platform_key(sealing: Sealing, tmp_path: Path) -> None:
    sealing.seal_signing_key("log", _core.SigningKey.generate())
    with pytest.raises((Corrupt, TrustError)):
        Sealing(tmp_path, ONE, THERE).unseal_signing_key("log")
    (tmp_path / "other.sealed").write_bytes((tmp_path / "log.sealed").read_bytes())
    with pytest.raises((Corrupt, TrustError)):
        sealing.unseal_signing_key("other")
    with pytest.raises(KeyRefused, match="kind"):
        sealing.unseal_hpke_key("log")
    (tmp_path / PLATFORM_KEY).unlink()
    with pytest.raises((Corrupt, TrustError)):
        Sealing(tmp_path, ONE, HERE).unseal_signing_key("log")


def test_each_flipped_byte_is_refused(sealing: Sealing, tmp_path: Path) -> None:
    sealing.seal_signing_key("log", _core.SigningKey.generate())
    path = tmp_path / "log.sealed"
    raw = path.read_bytes()
    for index in range(len(raw)):
        path.write_bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
        with pytest.raises(MesateeError):
            sealing.unseal_signing_key("log")


def test_derived_secrets_follow_the_binding(sealing: Sealing, tmp_path: Path) -> None:
    sealed = sealing.secret("bodies").seal(b"body", b"")
    assert Sealing(tmp_path, ONE, HERE).secret("bodies").open(sealed, b"") == b"body"
    for other in (sealing.secret("tickets"), Sealing(tmp_path, TWO, HERE).secret("bodies")):
        with pytest.raises(Corrupt):
            other.open(sealed, b"")


def test_refused(sealing: Sealing, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        sealing.unseal_signing_key("absent")
    for name in ("", "../x", "A", "x" * 65, "x/y", "."):
        with pytest.raises(Malformed):
            sealing.has(name)
    (tmp_path / "log.sealed").write_bytes(b"nonsense")
    with pytest.raises(Malformed):
        sealing.unseal_signing_key("log")
    (tmp_path / "log.sealed").write_bytes(bytes(SEALED_KEY_BYTES + 1))
    with pytest.raises(TooLarge):
        sealing.unseal_signing_key("log")
    with pytest.raises(Malformed):
        Sealing(tmp_path, "xyz", HERE)
