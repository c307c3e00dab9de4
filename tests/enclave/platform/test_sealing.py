from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesatee import _core
from mesatee.enclave.platform.sealing import PLATFORM_KEY, SEALED_KEYS_BYTES, Sealing
from mesatee.errors import Corrupt, KeyRefused, Malformed, MesateeError, NotFound, TooLarge, TrustError
from mesatee.protocol.jsonstrict import canonical, parse_object

ONE, TWO, HERE, THERE = "01" * 32, "02" * 32, "0a" * 32, "0b" * 32
FACTS = {"service": "a statement", "received": None}


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    return Sealing(tmp_path, ONE, HERE)


def sealed(sealing: Sealing, name: str = "mine", facts: dict[str, Any] | None = None) -> _core.SigningKey:
    """A file with one key of each kind; the Ed25519 one is returned."""
    log = _core.SigningKey.generate()
    keys = {"log": log, "wrap": _core.HpkeKey.generate(), "body": _core.SecretKey.generate()}
    sealing.seal(name, keys, FACTS if facts is None else facts)
    return log


def rewrite(path: Path, change: Any) -> None:
    """Change the JSON of a file of sealed keys."""
    line, _, rest = path.read_bytes().partition(b"\n")
    value = parse_object(rest)
    change(value)
    path.write_bytes(line + b"\n" + canonical(value))


def test_round_trip(sealing: Sealing, tmp_path: Path) -> None:
    log, wrap, body = _core.SigningKey.generate(), _core.HpkeKey.generate(), _core.SecretKey.generate()
    assert not sealing.has("mine")
    sealing.seal("mine", {"log": log, "wrap": wrap, "body": body}, FACTS)
    again = Sealing(tmp_path, ONE, HERE)
    assert again.has("mine")
    assert again.names() == ("mine",)
    found = again.unseal("mine")
    assert found.signing("log").public == log.public
    assert found.hpke("wrap").public == wrap.public
    assert found.secret("body").open(body.seal(b"x", b"y"), b"y") == b"x"
    assert found.facts == FACTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.sealed", PLATFORM_KEY]
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    again.remove("mine")
    again.remove("mine")
    assert again.names() == ()


def test_another_measurement_does_not_open_it_until_it_is_resealed(sealing: Sealing, tmp_path: Path) -> None:
    key = sealed(sealing)
    updated = Sealing(tmp_path, TWO, HERE)
    with pytest.raises(KeyRefused, match=ONE):
        updated.unseal("mine")
    # The line in front of the sealed bytes only serves the message: rewriting it opens nothing.
    path = tmp_path / "mine.sealed"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(ONE.encode(), TWO.encode()))
    with pytest.raises((Corrupt, TrustError)):
        updated.unseal("mine")
    path.write_bytes(raw)
    sealing.reseal("mine", updated)
    assert updated.unseal("mine").signing("log").public == key.public
    assert updated.unseal("mine").facts == FACTS
    with pytest.raises(KeyRefused):
        sealing.unseal("mine")


def test_another_installation_name_kind_or_platform_key(sealing: Sealing, tmp_path: Path) -> None:
    sealed(sealing)
    with pytest.raises((Corrupt, TrustError)):
        Sealing(tmp_path, ONE, THERE).unseal("mine")
    (tmp_path / "other.sealed").write_bytes((tmp_path / "mine.sealed").read_bytes())
    with pytest.raises((Corrupt, TrustError)):
        sealing.unseal("other")
    for wrong in (lambda found: found.hpke("log"), lambda found: found.signing("absent")):
        with pytest.raises(KeyRefused, match="among these"):
            wrong(sealing.unseal("mine"))
    (tmp_path / PLATFORM_KEY).unlink()
    with pytest.raises((Corrupt, TrustError)):
        Sealing(tmp_path, ONE, HERE).unseal("mine")


def test_keys_are_bound_to_their_facts_and_to_each_others_place(sealing: Sealing, tmp_path: Path) -> None:
    path = tmp_path / "mine.sealed"
    sealed(sealing, facts={"service": "another statement", "received": None})
    foreign = parse_object(path.read_bytes().partition(b"\n")[2])["keys"]
    sealed(sealing)
    raw = path.read_bytes()
    for change in (
        lambda value: value["facts"].update(service="another statement"),
        lambda value: value["facts"].update(received={"holders": []}),
        lambda value: value["keys"].update(log=foreign["log"]),
        lambda value: value["keys"].update(more=value["keys"]["log"]),
        lambda value: value["keys"]["log"].update(kind="secret"),
    ):
        path.write_bytes(raw)
        rewrite(path, change)
        with pytest.raises((Corrupt, TrustError)):
            sealing.unseal("mine")


def test_each_flipped_byte_is_refused(sealing: Sealing, tmp_path: Path) -> None:
    sealed(sealing)
    path = tmp_path / "mine.sealed"
    raw = path.read_bytes()
    for index in range(len(raw)):
        path.write_bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
        with pytest.raises(MesateeError):
            sealing.unseal("mine")


def test_refused(sealing: Sealing, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        sealing.unseal("absent")
    for name in ("", "../x", "A", "x" * 65, "x/y", "."):
        with pytest.raises(Malformed):
            sealing.has(name)
    for raw in (b"nonsense", f"mesatee sealed key v1 signing {ONE}\n".encode() + bytes(60)):
        (tmp_path / "log.sealed").write_bytes(raw)
        with pytest.raises(Malformed) as refused:
            sealing.unseal("log")
        assert "found a new service" in str(refused.value.hint)
    (tmp_path / "log.sealed").write_bytes(bytes(SEALED_KEYS_BYTES + 1))
    with pytest.raises(TooLarge):
        sealing.unseal("log")
    with pytest.raises(Malformed):
        Sealing(tmp_path, "xyz", HERE)


def test_the_largest_file_is_read_and_no_larger_one_is_written(sealing: Sealing, tmp_path: Path) -> None:
    sealed(sealing, facts={"text": ""})
    room = SEALED_KEYS_BYTES - (tmp_path / "mine.sealed").stat().st_size
    sealed(sealing, facts={"text": "x" * room})
    assert (tmp_path / "mine.sealed").stat().st_size == SEALED_KEYS_BYTES
    assert sealing.unseal("mine").facts == {"text": "x" * room}
    with pytest.raises(TooLarge):
        sealed(sealing, facts={"text": "x" * (room + 1)})
