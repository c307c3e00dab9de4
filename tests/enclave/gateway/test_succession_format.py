"""Messages and wraps of hand-over and recovery, as they were written once: docs/formats.md."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from mesatee._core import HpkeKey
from mesatee.attestation.evidence import decode
from mesatee.enclave.gateway import succession
from mesatee.enclave.gateway.identity import (
    HANDED,
    Asked,
    ServiceKeys,
    await_shares,
    hand_over_key,
    read_statement,
)
from mesatee.enclave.platform.sealing import Sealing
from mesatee.errors import KeyRefused
from mesatee.protocol import limits, statements, wire
from mesatee.protocol.digests import KEY_WRAP_BYTES, b64decode
from mesatee.protocol.jsonstrict import parse_object
from mesatee.protocol.model import validate
from mesatee.protocol.recovery import SUCCESSOR, RecoveryRequest, RecoveryShare, parse

FROZEN = Path(__file__).parent / "frozen"
SERVICE = read_statement(FROZEN / "service.json", "service")
RECOVERY = read_statement(FROZEN / "recovery.json", "recovery")
REQUEST = parse(RecoveryRequest, (FROZEN / "request.json").read_bytes())
SHARES = [parse(RecoveryShare, (FROZEN / name).read_bytes()) for name in ("share-1.json", "share-2.json")]
SHARE_WRAP_BYTES = 1_120 + 81 + 16


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    """That of the new gateway."""
    return Sealing(tmp_path / "enclave", "ab" * 32, "cd" * 32)


@pytest.fixture
def successor(tmp_path: Path) -> HpkeKey:
    """The key that the new gateway has made already."""
    file = tmp_path / "successor.key"
    shutil.copyfile(FROZEN / "successor.key", file)
    # A key file that others could read would be refused, and version control keeps no modes.
    file.chmod(0o600)
    return HpkeKey.load(str(file))


def check_keys(found: ServiceKeys) -> None:
    said = statements.expect(SERVICE.predicate, statements.ServiceStatement)
    assert found.service == SERVICE
    assert found.log.public.hex() == said.log_key
    assert found.sealing.public == b64decode(said.sealing_key, max_bytes=2_048)


def test_a_frozen_recovery_gives_the_keys(tmp_path: Path, sealing: Sealing, successor: HpkeKey) -> None:
    asked = Asked(request=REQUEST.digest, service=REQUEST.service, expires=REQUEST.expires)
    await_shares(sealing, successor, asked)
    at = REQUEST.expires - 1
    found = succession.recover(tmp_path / "enclave", sealing, SERVICE, RECOVERY, SHARES, at)
    check_keys(found)
    assert found.received is not None
    assert found.received.holders == tuple(sorted(share.holder for share in SHARES))
    assert read_statement(tmp_path / "enclave/recovery.json", "recovery") == RECOVERY


def test_a_frozen_hand_over_gives_the_keys(tmp_path: Path, sealing: Sealing, successor: HpkeKey) -> None:
    sealing.seal("successor", {"key": successor}, {"asked": None})
    assert hand_over_key(sealing).public == successor.public
    reply = validate(wire.HandOverReply, parse_object((FROZEN / "handover.json").read_bytes()), "answer")
    assert set(reply.wraps) == set(HANDED)
    assert {len(b64decode(wrap, max_bytes=2_048)) for wrap in reply.wraps.values()} == {KEY_WRAP_BYTES}
    other = reply.model_copy(update={"index": reply.index + 1})
    with pytest.raises(KeyRefused):
        succession.receive(tmp_path / "enclave", sealing, SERVICE.digest, lambda to: other)
    check_keys(succession.receive(tmp_path / "enclave", sealing, SERVICE.digest, lambda to: reply))


def test_the_frozen_request_vouches_for_its_key() -> None:
    evidence = b64decode(REQUEST.evidence, max_bytes=limits.CERTIFICATE_BYTES)
    key = b64decode(REQUEST.key, max_bytes=2_048)
    assert REQUEST.service == SERVICE.digest
    assert decode(evidence).claims.extra[SUCCESSOR] == hashlib.sha256(key).digest()


def test_frozen_messages_are_written_as_they_were() -> None:
    for name, kind in (("request", RecoveryRequest), ("share-1", RecoveryShare), ("share-2", RecoveryShare)):
        data = (FROZEN / f"{name}.json").read_bytes()
        assert parse(kind, data).to_bytes() == data
    for share in SHARES:
        assert len(b64decode(share.wrap, max_bytes=2_048)) == SHARE_WRAP_BYTES
    for found in (SERVICE, RECOVERY):
        assert found.envelope.to_bytes() == (FROZEN / f"{found.kind}.json").read_bytes()
