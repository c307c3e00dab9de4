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
CLAIM = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=20)
PIN = (
    HEX
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]))
)
TABLES = {
    "pins": st.dictionaries(CLAIM, st.lists(PIN, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3),
    "minimums": st.dictionaries(CLAIM, st.integers(0, 2**32), min_size=1, max_size=3),
}


@st.composite
def roles(draw: st.DrawFn, kind: type[RoleTrust], plain: dict[str, st.SearchStrategy[object]]) -> RoleTrust:
    """Tables only for classes that are accepted."""
    values = {name: draw(values) for name, values in plain.items()}
    for name, table in TABLES.items():
        values[name] = {tee: draw(table) for tee in values["tees"]} if draw(st.booleans()) else {}  # type: ignore[attr-defined]
    return kind(**values)  # type: ignore[arg-type]


GATEWAY = ROLE | {
    "log_origin": st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"\\')),
    "log_key": HEX | st.just(""),
    "service": st.just(ANY) | LISTS,
}


@given(st.builds(TrustPolicy, roles(GatewayTrust, GATEWAY), roles(RoleTrust, ROLE)))
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
        {"allow_migration": True},
        {"tees": ("tdx",), "pins": {"tdx": {"tdx.rtmr1": ("ab",)}}},
        {"tees": ("tdx",), "pins": {"tdx": {"tdx.rtmr1": ("ab", "cd")}}},
        {"tees": ("tdx",), "minimums": {"tdx": {"tcb.evaluation": 17}}},
        {"tees": ("tdx",), "minimums": {"tdx": {"tcb.evaluation": 18}}},
        {"log_origin": "a"},
        {"log_key": "ab" * 32},
        {"service": ANY},
    ):
        seen.add(TrustPolicy(GatewayTrust(**changes)).digest)
    assert len(seen) == 15


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
        "version = 1\n[worker]\npins = []",
        "version = 1\n[worker]\ntees = ['tdx']\npins = { tdx = ['ab'] }",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins]\n'tdx.rtmr1' = ['ab']",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.tdx]\n'tdx.rtmr1' = 'ab'",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.tdx]\n'tdx.rtmr1' = 'any'",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.tdx]\n'tdx.rtmr1' = [1.5]",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.tdx]\n'tdx.rtmr1' = ['\u00e4']",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.tdx]\n'TDX' = ['ab']",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.pins.snp]\n'snp.vmpl' = [0]",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.minimums.tdx]\n'tcb.evaluation' = '17'",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.minimums.tdx]\n'tcb.evaluation' = true",
        "version = 1\n[worker]\ntees = ['tdx']\n[worker.minimums.tdx]\n'tcb.evaluation' = [17]",
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


def pinned(**tables: object) -> RoleTrust:
    return RoleTrust(("tdx", "snp"), 4, ANY, **tables)  # type: ignore[arg-type]


def test_a_pinned_claim_must_be_there_and_have_one_of_the_values() -> None:
    trust = pinned(pins={"tdx": {"tdx.rtmr1": ("aa", "bb"), "tdx.rtmr2": ("cc",)}})
    assert trust.claims_against("tdx", {"tdx.rtmr1": "bb", "tdx.rtmr2": "cc", "other": "x"}) == ()
    [missing] = trust.claims_against("tdx", {"tdx.rtmr1": "aa"})
    assert "does not say tdx.rtmr2" in missing
    [other] = trust.claims_against("tdx", {"tdx.rtmr1": "cc", "tdx.rtmr2": "cc"})
    assert "tdx.rtmr1 is cc" in other
    assert len(trust.claims_against("tdx", {})) == 2
    assert trust.claims_against("snp", {}) == (), "pins are of one class"


def test_a_pinned_truth_value_is_no_number() -> None:
    """In Python `True == 1`: evidence that says the one must not pass for the other."""
    for pin, others in ((0, (False, "0")), (1, (True, "1")), (True, (1, "True")), (False, (0, None))):
        trust = pinned(pins={"snp": {"snp.vmpl": (pin,)}})
        assert trust.claims_against("snp", {"snp.vmpl": pin}) == ()
        for other in others:
            assert trust.claims_against("snp", {"snp.vmpl": other})


def test_a_minimum_is_reached_or_refused() -> None:
    trust = pinned(minimums={"snp": {"snp.tcb.reported.microcode": 115}})
    for value, good in ((115, True), (116, True), (114, False), (None, False), ("115", False), (True, False)):
        assert (trust.claims_against("snp", {"snp.tcb.reported.microcode": value}) == ()) is good
    assert trust.claims_against("snp", {})


def test_limits_of_pins_one_below_and_one_above() -> None:
    def policy(values: int, size: int) -> RoleTrust:
        return pinned(pins={"tdx": {"tdx.rtmr1": ("a" * size,) * values}})

    policy(limits.TRUST_ENTRIES, 1)
    policy(1, limits.PIN_CHARS)
    with pytest.raises(TooLarge):
        policy(limits.TRUST_ENTRIES + 1, 1)
    with pytest.raises(TooLarge):
        policy(0, 1)
    with pytest.raises(Malformed):
        policy(1, limits.PIN_CHARS + 1)
    for count, good in ((limits.TRUST_ENTRIES, True), (limits.TRUST_ENTRIES + 1, False), (0, False)):
        with contextlib.nullcontext() if good else pytest.raises(TooLarge):
            pinned(minimums={"tdx": {f"claim{number}": 1 for number in range(count)}})


def test_a_policy_cannot_be_changed_through_its_tables() -> None:
    tables = {"tdx": {"tdx.rtmr1": ("aa",)}}
    trust = pinned(pins=tables)
    tables["tdx"]["tdx.rtmr1"] = ("bb",)
    assert trust.claims_against("tdx", {"tdx.rtmr1": "bb"})
    with pytest.raises(TypeError):
        trust.pins["tdx"]["tdx.rtmr1"] = ("bb",)  # type: ignore[index]


def test_explain_says_what_is_pinned() -> None:
    trust = pinned(
        pins={"tdx": {"tdx.rtmr1": ("aa", "bb")}, "snp": {"snp.vmpl": (0,), "host_data": ("00",)}},
        minimums={"snp": {"snp.tcb.reported.microcode": 115}, "tdx": {"tcb.evaluation": 17}},
    )
    text = "\n".join(trust.explain("worker"))
    for words in (
        "class tdx must say tdx.rtmr1 = aa or bb (boot loader and kernel)",
        "class snp must say snp.vmpl = 0 (privilege level",
        "snp.tcb.reported.microcode = 115 or a higher number (AMD's firmware: microcode)",
        "tcb.evaluation = 17 or a higher number",
        "must not be one that an agent may move",
    ):
        assert words in text
