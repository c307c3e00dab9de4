"""Gateway and worker judge each other with the endorsements that count now, not with those of their start."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.live import Live

from mesatee import _core
from mesatee.attestation import reference
from mesatee.attestation.endorsements import NOTHING, Endorsements
from mesatee.attestation.trust import TrustPolicy
from mesatee.errors import EvidenceRefused, MesateeError


def audited(auditor: _core.SigningKey, *measurements: str) -> Endorsements:
    now = int(time.time())
    said = reference.ReferenceValues("software", dict.fromkeys(measurements, "ours"), now - 10, now + 600)
    return Endorsements(references=(reference.sign(said, [auditor]),))


def test_a_worker_counts_once_the_auditors_word_is_there(tmp_path: Path) -> None:
    auditor = _core.SigningKey.generate()
    kept = [NOTHING]
    live = Live(tmp_path, lambda: kept[0], (auditor.public.hex(),))
    try:
        worker = live.worker()
        with pytest.raises(MesateeError):
            worker.service()
        kept[0] = audited(_core.SigningKey.generate(), live.worker_attester.measurement)
        with pytest.raises(MesateeError):
            live.worker().service()
        kept[0] = audited(auditor, live.worker_attester.measurement)
        assert live.worker().service().digest == live.keys.service.digest
        # Its word taken back, the next connection is refused, cached appraisal or not.
        kept[0] = NOTHING
        with pytest.raises(MesateeError):
            live.worker().service()
    finally:
        live.close()


def test_a_worker_judges_its_gateway_by_them(tmp_path: Path) -> None:
    auditor = _core.SigningKey.generate()
    kept = [NOTHING]
    live = Live(tmp_path, lambda: kept[0])
    try:
        gateway = dataclasses.replace(live.trust.gateway, measurements=(), auditors=(auditor.public.hex(),))
        live.trust = TrustPolicy(gateway)
        ask: Callable[[], object] = lambda: live.worker().service()  # noqa: E731 - twice the same question
        with pytest.raises(EvidenceRefused, match="measurement"):
            ask()
        kept[0] = audited(auditor, live.attester.measurement)
        ask()
    finally:
        live.close()
