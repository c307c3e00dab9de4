"""A connection outlives its appraisal: the gateway makes it again before it counts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.live import Live

from mesatee._core import make_certificate, parse_certificate
from mesatee.enclave.gateway.peer import Peer
from mesatee.errors import EvidenceRefused
from mesatee.protocol import limits


@contextmanager
def later(live: Live, seconds: float) -> Iterator[None]:
    """The gateway's clock is so much later; connections stay open."""
    clock = live.gateway._clock
    live.gateway._clock = lambda: time.time() + seconds
    try:
        yield
    finally:
        live.gateway._clock = clock


def test_a_long_connection_is_appraised_again(live: Live) -> None:
    worker = live.worker()
    worker.service()
    asked: list[int] = []
    real = live.gateway._appraise

    def count(certificate: object) -> Peer:
        asked.append(1)
        return real(certificate)  # type: ignore[arg-type]

    live.gateway._appraise = count  # type: ignore[method-assign]
    try:
        worker.service()
        assert not asked, "the appraisal still counts"
        with later(live, 3_601):
            worker.service()
        assert asked == [1]
        assert len(worker._transport.connections) == 1, "it is the same connection"
    finally:
        del live.gateway._appraise


def test_a_long_connection_whose_evidence_has_expired_is_refused(live: Live) -> None:
    worker = live.worker()
    worker.service()
    with later(live, limits.EVIDENCE_LIFE_SECONDS + 3_601), pytest.raises(EvidenceRefused, match="expired"):
        worker.service()
    worker.service()


def test_an_appraisal_counts_to_its_last_second(live: Live) -> None:
    worker = live.worker()
    worker.service()
    now = int(time.time())
    shown = make_certificate(worker.key, "worker", now - 60, now + 3_600, worker.evidence)
    made = live.gateway._appraise(parse_certificate(shown))
    assert made.appraisal is not None
    young = dataclasses.replace(made, appraisal=dataclasses.replace(made.appraisal, expires=now + 60))
    assert live.gateway.current(young) is young
    old = dataclasses.replace(made, appraisal=dataclasses.replace(made.appraisal, at=now - 60, expires=now))
    found = live.gateway.current(old)
    assert found.appraisal is not None
    assert found.appraisal.expires > now


def test_a_party_has_no_appraisal_to_renew(live: Live) -> None:
    party = Peer("party", "ab" * 32, b"", None)
    with later(live, 10**6):
        assert live.gateway.current(party) is party
