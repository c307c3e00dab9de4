"""To whom a worker listens, and for whom it works."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
from tests.support.gateway import make_keys
from tests.support.live import Live, running

from mesatee.attestation.trust import TrustPolicy
from mesatee.enclave.worker.client import GatewayClient
from mesatee.errors import EvidenceRefused, KeyRefused


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from running(tmp_path_factory.mktemp("service"))


def client(live: Live, service: tuple[str, ...] | Literal["any"]) -> GatewayClient:
    """A worker with the trust policy that a launcher wrote for it."""
    trust = TrustPolicy(gateway=replace(live.trust.gateway, service=service))
    attester = live.worker_attester
    return GatewayClient("127.0.0.1", live.gateway.port, attester, trust, lambda: attester.environments)


@pytest.mark.parametrize("service", ["any", (), ("0a" * 32, "0b" * 32)])
def test_a_worker_serves_exactly_one_service(live: Live, service: tuple[str, ...] | Literal["any"]) -> None:
    with pytest.raises(EvidenceRefused, match="exactly one service"):
        client(live, service)


def test_its_evidence_names_the_service(live: Live) -> None:
    with_evidence = client(live, (live.keys.service.digest,))
    assert with_evidence.service().digest == live.keys.service.digest
    assert bytes.fromhex(live.keys.service.digest) in with_evidence.evidence


def test_a_gateway_of_another_service_is_refused(live: Live) -> None:
    with pytest.raises(EvidenceRefused, match="service statement"):
        client(live, ("0a" * 32,)).service()


def test_outputs_go_to_the_service_that_released_the_keys(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's own gateway lies in its evidence, and answers with a statement whose sealing key is its own."""
    worker = client(live, (live.keys.service.digest,))
    monkeypatch.setattr(live.gateway, "_keys", replace(live.keys, service=make_keys().service))
    with pytest.raises(KeyRefused, match="another service"):
        worker.service()
