"""What a share holder refuses to answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.succession import Holders

from mesatee._core import SigningKey
from mesatee.errors import KeyRefused, MesateeError, SignatureInvalid
from mesatee.protocol import statements
from mesatee.protocol.digests import b64encode


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


def test_a_set_that_the_service_did_not_sign_is_refused(holders: Holders) -> None:
    assert holders.share(0).holder == holders.ids[0]
    said = statements.expect(holders.recovery.predicate, statements.RecoveryStatement)
    stranger = SigningKey.generate()
    for changes in ({}, {"keys": {"log": b64encode(bytes(60))}}, {"k": 3}):
        forged = statements.sign(said.model_copy(update=changes), stranger)
        with pytest.raises(KeyRefused, match="another service"):
            holders.share(0, recovery=forged)


def test_a_set_with_another_rule_than_the_statement_is_refused(holders: Holders) -> None:
    """Even if the service's own key has signed it."""
    said = statements.expect(holders.recovery.predicate, statements.RecoveryStatement)
    for changes in ({"k": 3}, {"shares": said.shares[:2]}, {"shares": said.shares[::-1]}):
        signed = statements.sign(said.model_copy(update=changes), holders.keys.log)
        with pytest.raises(KeyRefused, match="other holders"):
            holders.share(0, recovery=signed)


def test_a_service_statement_that_the_holder_does_not_trust_is_refused(holders: Holders) -> None:
    """A stranger's service with the same holders, a set of its own, and a machine that the holder trusts."""
    stranger = SigningKey.generate()
    own = holders.keys.said.model_copy(update={"log_key": stranger.public.hex()})
    service = statements.sign(own, stranger)
    said = statements.expect(holders.recovery.predicate, statements.RecoveryStatement)
    recovery = statements.sign(said.model_copy(update={"service": service.digest}), stranger)
    request = holders.request.model_copy(update={"service": service.digest})
    with pytest.raises(MesateeError, match="service"):
        holders.share(0, request, service=service, recovery=recovery)
    with pytest.raises((KeyRefused, SignatureInvalid)):
        statements.verify(statements.sign(holders.keys.said, stranger).envelope, "service")
