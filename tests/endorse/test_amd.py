"""AMD's service: what is asked of each product, and every answer that is not what was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import captured, vendors
from tests.support.vendors import CHIP, DAY, NOW, TURIN_CHIP, TURIN_TCB, Kds, Reply, crl, pem, report, vcek

from mesatee import _core
from mesatee.attestation import subjects
from mesatee.attestation.endorsements import Endorsement
from mesatee.attestation.subjects import AmdPlatform
from mesatee.endorse import Service, amd
from mesatee.errors import Expired, Malformed, NotFound


def platform(**more: Any) -> AmdPlatform:
    found = subjects.find("snp", {"report": report(**more)})
    assert isinstance(found, AmdPlatform)
    return found


def fetch(service: Service, kds: Kds, of: AmdPlatform, **more: Any) -> tuple[Endorsement, ...]:
    return amd.fetch(service, of, "snp", NOW, base=kds.url, **more)


def test_what_is_asked_and_kept(service: Service, kds: Kds):
    items = fetch(service, kds, platform())
    assert kds.asked == [
        f"/vcek/v1/Milan/{CHIP.hex()}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219",
        "/vcek/v1/Milan/cert_chain",
        "/vcek/v1/Milan/crl",
    ]
    assert [(item.role, item.expires) for item in items] == [
        ("vcek", NOW + 1_000 * DAY + 1),
        ("ask_ark", NOW + 1_000 * DAY + 1),
        ("crl", NOW + 400 * DAY),
    ]
    assert {(item.tee, item.subject) for item in items} == {("snp", CHIP.hex())}
    assert [item.data for item in items] == [
        kds.chips["Milan", CHIP.hex()], kds.chains["vcek", "Milan"], kds.crl
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cpu", "product"), [((0x19, 0x11), "Genoa"), ((0x19, 0xA0), "Genoa"), ((0x19, 1), "Milan")]
)
def test_products(service: Service, kds: Kds, cpu: tuple[int, int], product: str):
    fetch(service, kds, platform(cpu=cpu))
    assert kds.asked[1] == f"/vcek/v1/{product}/cert_chain"


def test_turin_has_a_short_id_and_another_level(service: Service, kds: Kds):
    items = fetch(service, kds, platform(version=5, cpu=(0x1A, 2), chip=TURIN_CHIP, tcb=TURIN_TCB))
    assert kds.asked[0].startswith(f"/vcek/v1/Turin/{TURIN_CHIP.hex()}?")
    assert kds.levels == [{"fmcSPL": "1", "blSPL": "2", "teeSPL": "3", "snpSPL": "4", "ucodeSPL": "81"}]
    assert items[0].subject == TURIN_CHIP.hex()


def test_a_providers_key_has_only_a_chain_here(service: Service, kds: Kds):
    items = fetch(service, kds, platform(vlek=True, chip=b""))
    assert kds.asked == ["/vlek/v1/Milan/cert_chain", "/vlek/v1/Milan/crl"]
    assert [(item.subject, item.role) for item in items] == [("", "ask_ark"), ("", "crl")]


def test_reports_that_do_not_name_their_product(service: Service, kds: Kds):
    old = platform(version=2)
    with pytest.raises(Malformed, match="which product") as caught:
        fetch(service, kds, old)
    assert "--product" in caught.value.hint
    assert fetch(service, kds, old, product="Milan")[0].role == "vcek"
    with pytest.raises(Malformed, match="from Milan, not from Genoa"):
        fetch(service, kds, platform(), product="Genoa")


def test_a_chip_that_hides_its_id(service: Service, kds: Kds):
    with pytest.raises(Malformed, match="hides it"):
        fetch(service, kds, platform(chip=b""))
    assert kds.asked == []


def test_an_unknown_chip(service: Service, kds: Kds):
    with pytest.raises(NotFound, match="does not know the VCEK certificate of chip abababab"):
        fetch(service, kds, platform(chip=b"\xab" * 64))


def test_busy_then_well(service: Service, kds: Kds, waits: list[float]):
    kds.fail("cert_chain", Reply(status=429), times=2)
    assert len(fetch(service, kds, platform())) == 3
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize(
    ("where", "reply", "words"),
    [
        ("SPL", Reply(vcek(bytes(64)), "application/octet-stream"), "of another chip"),
        ("SPL", Reply(vcek(b"short"), "application/octet-stream"), "of another chip"),
        ("SPL", Reply(vendors.certificate("a", "a"), "application/octet-stream"), "of another chip"),
        ("SPL", Reply(vcek()[:-9], "application/octet-stream"), "cannot be read"),
        ("SPL", Reply(b"{}", "application/json"), "not as a certificate"),
        ("cert_chain", Reply(pem(vcek()), "application/x-pem-file"), "has 1 certificates, not 2"),
        ("cert_chain", Reply(b"nothing", "application/x-pem-file"), "has 0 certificates"),
        ("crl", Reply(vcek(), "application/octet-stream"), "cannot be read"),
        ("crl", Reply(b"<html>", "text/html"), "not as a certificate"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(
    service: Service, kds: Kds, where: str, reply: Reply, words: str
):
    kds.fail(where, reply)
    with pytest.raises(Malformed, match=words):
        fetch(service, kds, platform())


def test_what_is_over_is_refused(service: Service, kds: Kds):
    kds.crl = crl("ARK-Milan", NOW)
    with pytest.raises(Expired, match="over already: crl"):
        fetch(service, kds, platform())
    kds.chips["Milan", CHIP.hex()] = vendors.certificate(
        "SEV-VCEK", "SEV-Milan", -1, _1_3_6_1_4_1_3704_1_4=CHIP
    )
    with pytest.raises(Expired, match="over already: crl, vcek"):
        fetch(service, kds, platform())


@pytest.mark.parametrize("name", ["microsoft-milan", "microsoft-genoa", "microsoft-turin"])
def test_captured_certificates(service: Service, kds: Kds, name: str):
    at, files = captured.timed("snp", name)
    found = subjects.find("snp", files)
    assert isinstance(found, AmdPlatform)
    assert found.product is not None
    (der,) = _core.pem_certificates(files["vcek"])
    kds.set_captured(found, found.product, der, files["ask_ark"])
    items = amd.fetch(service, found, "snp", at, base=kds.url)
    assert [item.data for item in items[:2]] == [der, files["ask_ark"]]
    assert amd.hardware_id(_core.X509.parse(der)) == found.subject
