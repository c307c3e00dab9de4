"""Azure's metadata service, which a machine asks about itself."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.vendors import CHIP, DAY, NOW, Reply, Thim, certificate, pem, vcek

from mesatee.endorse import Service, azure
from mesatee.errors import Expired, Malformed, NotFound, Unavailable


def test_what_is_asked_and_kept(service: Service, thim: Thim):
    items = azure.fetch(service, NOW, base=thim.url, expected=CHIP.hex())
    assert thim.asked == ["/metadata/THIM/amd/certification"]
    assert [(item.tee, item.role, item.expires) for item in items] == [
        (tee, role, NOW + 1_000 * DAY + 1) for tee in ("azure-vtpm", "snp") for role in ("vcek", "ask_ark")
    ]
    assert {item.subject for item in items} == {CHIP.hex()}
    assert items[0].data.decode() == thim.value["vcekCert"]
    assert items[1].data.decode() == thim.value["certificateChain"]


def test_evidence_of_another_machine(service: Service, thim: Thim):
    with pytest.raises(Malformed, match="another chip than this machine's"):
        azure.fetch(service, NOW, base=thim.url, expected="ab" * 64)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("vcekCert", None, "no vcekCert"),
        ("vcekCert", 7, "no vcekCert"),
        ("vcekCert", "ä", "no vcekCert"),
        ("vcekCert", "", "has 0 certificates"),
        ("vcekCert", pem(certificate("a", "a")).decode(), "names no chip"),
        ("vcekCert", pem(vcek(), vcek()).decode(), "names no chip"),
        ("certificateChain", [], "no certificateChain"),
        ("certificateChain", pem(vcek()).decode(), "has 1 certificates"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(
    service: Service, thim: Thim, name: str, value: Any, words: str
):
    thim.value[name] = value
    with pytest.raises(Malformed, match=words):
        azure.fetch(service, NOW, base=thim.url)


def test_a_machine_that_is_not_azures(service: Service, thim: Thim):
    thim.fail("THIM", Reply(status=404))
    with pytest.raises(NotFound):
        azure.fetch(service, NOW, base=thim.url)
    thim.fail("THIM", Reply(b"{"))
    with pytest.raises(Malformed, match="cannot be read"):
        azure.fetch(service, NOW, base=thim.url)
    thim.fail("THIM", Reply(status=500))
    with pytest.raises(Unavailable):
        azure.fetch(service, NOW, base=thim.url)


def test_what_is_over_is_refused(service: Service, thim: Thim):
    old = certificate("SEV-VCEK", "SEV-Milan", -1, _1_3_6_1_4_1_3704_1_4=CHIP)
    thim.value["vcekCert"] = pem(old).decode()
    with pytest.raises(Expired, match="vcek"):
        azure.fetch(service, NOW, base=thim.url)


def test_the_header_is_needed(service: Service, thim: Thim):
    """Else the tests above would not show that it is sent."""
    with pytest.raises(Malformed, match="400"):
        service.get("it", f"{thim.url}/metadata/THIM/amd/certification", types=["application/json"])
