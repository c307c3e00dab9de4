from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import cbor2
import pytest
from tests.enclave.platform.conftest import SwTpm
from tests.enclave.platform.fakes import ROOT, FakeKernel, TsmFolder

from mesatee.attestation.bundle import Bundle
from mesatee.attestation.evidence import TAG_PLATFORM, Claims, part_data, report_data
from mesatee.enclave.platform import Attester, CompositeCollector, PlatformAttester
from mesatee.enclave.platform.collect import digest_of, nonce_of
from mesatee.enclave.platform.tpm import TpmCollector
from mesatee.enclave.platform.tsm import TsmCollector
from mesatee.errors import Malformed, TooLarge

CLAIMS = Claims.of_key(b"spki", "worker", environments={"base": "0d" * 32})


class Plain:
    """A collector of bytes that it was given."""

    def __init__(
        self, tee: str, level: int, links: Mapping[str, bytes] | None = None, size: int = 10
    ) -> None:
        self.tee, self.level, self.links, self.size = tee, level, links or {}, size

    def collect(self, report_data: bytes) -> Bundle:
        return Bundle(self.tee, {"report": report_data + bytes(self.size)})


def opened(extension: bytes) -> tuple[Bundle, bytes]:
    value = cbor2.loads(extension)
    assert value.tag == TAG_PLATFORM
    body, claims = value.value
    return Bundle.parse(body), claims


def test_evidence_binds_the_claims() -> None:
    made: Attester = PlatformAttester(Plain("snp", 4), "0a" * 32, CLAIMS.environments)
    bundle, claims = opened(made.evidence(CLAIMS))
    assert Claims.parse(claims) == CLAIMS
    assert bundle.files["report"][:64] == report_data(claims)
    assert (made.tee, made.level, made.measurement) == ("snp", 4, "0a" * 32)
    assert dict(made.environments) == dict(CLAIMS.environments)


def test_it_vouches_for_no_other_environments() -> None:
    with pytest.raises(Malformed):
        PlatformAttester(Plain("snp", 4)).evidence(CLAIMS)


def test_evidence_that_no_certificate_carries() -> None:
    with pytest.raises(TooLarge):
        PlatformAttester(Plain("snp", 4, size=50_000), "", CLAIMS.environments).evidence(CLAIMS)


@pytest.mark.parametrize("role", ["eventlog", "ccel", "tpm.eventlog"])
def test_a_log_that_no_certificate_carries_is_left_out(role: str) -> None:
    class Logged(Plain):
        def collect(self, report_data: bytes) -> Bundle:
            return Bundle(self.tee, {"report": report_data, role: bytes(self.size)})

    short, long = (Logged("snp", 4, size=size) for size in (40_000, 50_000))
    kept, _ = opened(PlatformAttester(short, "", CLAIMS.environments).evidence(CLAIMS))
    assert set(kept.files) == {"report", role}
    left, claims = opened(PlatformAttester(long, "", CLAIMS.environments).evidence(CLAIMS))
    assert left.files == {"report": report_data(claims)}


def test_levels_of_composites() -> None:
    assert CompositeCollector(Plain("snp", 4), Plain("tpm", 3)).level == 5
    assert CompositeCollector(Plain("snp", 4), Plain("nvidia-gpu", 4)).level == 4
    three = CompositeCollector(Plain("snp", 4), Plain("tpm", 3), Plain("nvidia-gpu", 4))
    assert (three.tee, three.level) == ("snp+nvidia-gpu+tpm", 5)


@pytest.mark.parametrize(
    "classes", [("snp",), ("snp", "snp"), ("tpm", "snp"), ("snp", "tpm", "tpm"), ("optee", "tpm")]
)
def test_a_composite_that_nobody_judges_is_not_made(classes: tuple[str, ...]) -> None:
    with pytest.raises(Malformed, match="judged by nobody"):
        CompositeCollector(*(Plain(tee, 4) for tee in classes))


def test_a_composite_names_the_tpms_key_in_the_claims(swtpm: SwTpm) -> None:
    kernel = FakeKernel()
    kernel.folders.append(TsmFolder("tdx_guest"))
    tpm = TpmCollector(swtpm.address)
    both = CompositeCollector(TsmCollector(root=ROOT, kernel=kernel), tpm)
    made = PlatformAttester(both, "", CLAIMS.environments)
    bundle, encoded = opened(made.evidence(CLAIMS))
    claims = Claims.parse(encoded)
    assert (bundle.tee, made.level) == ("tdx+tpm", 5)
    assert claims.extra == tpm.links
    assert len(claims.extra["tpm-ak-name"]) == 34  # type: ignore[arg-type]
    assert report_data(encoded) in bundle.files["tdx.quote"]
    signed = part_data("tpm", report_data(encoded), bundle.files["tdx.quote"])
    assert signed[:32] in bundle.files["tpm.quote"]
    assert report_data(encoded)[:32] not in bundle.files["tpm.quote"]
    with pytest.raises(Malformed, match="already"):
        made.evidence(dataclasses.replace(CLAIMS, extra={"tpm-ak-name": b"another"}))


def test_nonces() -> None:
    for data in (b"d" * 32 + bytes(32), b"d" * 64, bytes(63) + b"x", bytes(64)):
        assert nonce_of(data).ljust(64, b"\0") == data
    with pytest.raises(Malformed):
        nonce_of(bytes(32))


def test_digest_of_a_long_measurement() -> None:
    assert len(bytes.fromhex(digest_of(bytes(48)))) == 32
