from __future__ import annotations

import contextlib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesatee.attestation import trust
from mesatee.attestation.trust import ANY, GatewayTrust, RoleTrust, TrustPolicy
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
LISTS = st.lists(HEX, max_size=3).map(tuple)
ROLE = {
    "tees": st.lists(st.sampled_from(trust.TEES), unique=True).map(tuple),
    "minimum_level": st.integers(1, 5),
    "measurements": st.just(ANY) | LISTS,
    "installation_keys": LISTS,
    "allow_simulated": st.booleans(),
    "max_age_seconds": st.integers(1, limits.APPRAISAL_AGE_SECONDS),
}
GATEWAY = ROLE | {
    "log_origin": st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\')),
    "log_key": HEX | st.just(""),
    "service": st.just(ANY) | LISTS,
}


@given(st.builds(TrustPolicy, st.builds(GatewayTrust, **GATEWAY), st.builds(RoleTrust, **ROLE)))
def test_toml_round_trip(policy: TrustPolicy) -> None:
    again = TrustPolicy.from_toml(policy.to_toml())
    assert again == policy
    assert again.digest == policy.digest
    assert policy.explain()


def test_every_field_has_its_toml_type() -> None:
    for kind in (RoleTrust, GatewayTrust):
        assert list(trust._kinds(kind)) == [item.name for item in fields(kind)]


def test_the_default_names_nothing_and_says_so() -> None:
    policy = TrustPolicy.from_toml("version = 1")
    assert policy == TrustPolicy()
    assert policy.gateway.tees == policy.worker.tees == ()
    assert policy.gateway.minimum_level == 5
    assert policy.explain() == [
        "No gateway is accepted: no TEE class is listed.",
        "No worker is accepted: no TEE class is listed.",
    ]


def test_the_digest_depends_on_every_field() -> None:
    seen = {TrustPolicy().digest}
    for changes in (
        {"tees": ("none",)},
        {"minimum_level": 2},
        {"measurements": ANY},
        {"installation_keys": ("ab" * 32,)},
        {"allow_simulated": True},
        {"max_age_seconds": 5},
        {"log_origin": "a"},
        {"log_key": "ab" * 32},
        {"service": ANY},
    ):
        seen.add(TrustPolicy(GatewayTrust(**changes)).digest)
    assert len(seen) == 10


@pytest.mark.parametrize(
    "text",
    [
        "version = 1\n[gateway]\nunknown = 1",
        "version = 1\nunknown = 1",
        "version = 1\ngateway = 1",
        "version = 1\n[[gateway]]",
        "version = 1\n[worker]\nservice = 'any'",
        "version = 1\n[worker]\nlog_origin = 'a'",
        "version = 1\n[gateway]\ntees = 'software'",
        "version = 1\n[gateway]\ntees = ['sgx2000']",
        "version = 1\n[gateway]\ntees = ['none', 'none']",
        "version = 1\n[gateway]\ntees = [1]",
        "version = 1\n[gateway]\nminimum_level = 0",
        "version = 1\n[gateway]\nminimum_level = 6",
        "version = 1\n[gateway]\nminimum_level = true",
        "version = 1\n[gateway]\nminimum_level = 2.0",
        "version = 1\n[gateway]\nmeasurements = 'all'",
        "version = 1\n[gateway]\nmeasurements = ['any']",
        "version = 1\n[gateway]\nmeasurements = ['AB']",
        "version = 1\n[gateway]\ninstallation_keys = 'any'",
        "version = 1\n[gateway]\nallow_simulated = 1",
        "version = 1\n[gateway]\nmax_age_seconds = 0",
        f"version = 1\n[gateway]\nmax_age_seconds = {limits.APPRAISAL_AGE_SECONDS + 1}",
        "version = 1\n[gateway]\nlog_key = 'ab'",
        "version = 1\n[gateway]\nlog_origin = 'a b'",
        "version = 1\nversion = 1",
        "version = 1\n[gateway",
        "version = 1\nx = " + "[" * 5_000,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Malformed):
        TrustPolicy.from_toml(text)


@pytest.mark.parametrize("text", ["", "version = 2", "version = true", "version = '1'"])
def test_version(text: str) -> None:
    with pytest.raises(UnsupportedVersion):
        TrustPolicy.from_toml(text)


def test_limits_one_below_and_one_above() -> None:
    def listed(count: int) -> str:
        return f"version = 1\n[worker]\nmeasurements = {['ab' * 32] * count}"

    TrustPolicy.from_toml(listed(limits.TRUST_ENTRIES))
    with pytest.raises(TooLarge):
        TrustPolicy.from_toml(listed(limits.TRUST_ENTRIES + 1))
    padding = "#" * (limits.TRUST_POLICY_BYTES - len("version = 1\n"))
    TrustPolicy.from_toml("version = 1\n" + padding)
    with pytest.raises(TooLarge):
        TrustPolicy.from_toml("version = 1\n" + padding + "#")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: "version = 1\n" + text))
def test_hostile_text_raises_only_our_errors(text: bytes | str) -> None:
    with contextlib.suppress(InputError):
        assert TrustPolicy.from_toml(text) == TrustPolicy()


def test_explain_names_the_weak_spots() -> None:
    weak = RoleTrust(("none", "software"), 1, ANY, (), allow_simulated=True)
    text = "\n".join(TrustPolicy(GatewayTrust(**{"service": ANY, "tees": ("none",)}), weak).explain())
    for words in (
        "nobody checks",
        "proves nothing",
        "trusts the operator",
        "protects nothing",
        "without notice",
    ):
        assert words in text
