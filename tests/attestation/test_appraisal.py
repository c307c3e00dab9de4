from __future__ import annotations

import json
from typing import Any

import pytest

from mesatee.attestation import Appraisal, appraise
from mesatee.attestation.appraisal import VECTOR
from mesatee.errors import Malformed

NOW = 1_800_000_000


@pytest.fixture
def appraisal(installation: Any) -> Appraisal:
    return appraise(installation.evidence(), installation.spki, installation.policy(), NOW, "gateway")


def test_json_round_trip(appraisal: Appraisal) -> None:
    assert Appraisal.from_dict(json.loads(json.dumps(appraisal.as_dict()))) == appraisal


def test_ear(appraisal: Appraisal) -> None:
    ear = json.loads(json.dumps(appraisal.as_ear()))
    assert ear["eat_profile"].startswith("tag:")
    assert ear["iat"] == NOW
    assert set(ear["ear.verifier-id"]) == {"build", "developer"}
    submodule = ear["submods"]["gateway"]
    assert submodule["ear.status"] == "warning"
    assert set(submodule["ear.trustworthiness-vector"]) == set(VECTOR)
    assert submodule["ear.trustworthiness-vector"]["hardware"] == 0, "software claims no hardware"
    assert submodule["ear.appraisal-policy-id"] == f"sha256:{appraisal.policy_digest}"
    assert Appraisal.from_dict(submodule["mesatee.appraisal"]) == appraisal


def test_frozen(appraisal: Appraisal) -> None:
    with pytest.raises(AttributeError):
        appraisal.level = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        appraisal.claims["platform.arch"] = "other"  # type: ignore[index]


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"status": "fine"},
        {"signature": "yes"},
        {"level": 6},
        {"level": "2"},
        {"level": True},
        {"role": "party"},
        {"hardware": 0},
        {"service": 1},
        {"reasons": "text"},
        {"reasons": [1]},
        {"claims": []},
        {"claims": {"a": []}},
        {"environments": {"a": 1}},
    ],
)
def test_from_dict_is_strict(appraisal: Appraisal, changes: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        Appraisal.from_dict(appraisal.as_dict() | changes)
    with pytest.raises(Malformed):
        Appraisal.from_dict({})
