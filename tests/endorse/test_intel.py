"""Intel's service and its caches: what is asked, what is kept, and every answer that is not what was asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from tests.support import captured, vendors
from tests.support.vendors import DAY, FMSPC, NOW, Pcs, Reply, crl, pem

from mesatee.attestation.endorsements import Endorsement, Endorsements
from mesatee.attestation.subjects import IntelPlatform
from mesatee.endorse import Service, intel
from mesatee.errors import Expired, Malformed, MesateeError, NotFound, TooLarge, Unavailable

PLATFORM = IntelPlatform(FMSPC, "processor")


def fetch(service: Service, pcs: Pcs, tee: Any = "sgx", **more: Any) -> tuple[Endorsement, ...]:
    where = intel.Addresses.of(pcs.url)
    if not pcs.cache:
        where = dataclasses.replace(where, root_crl=pcs.root_url)
    return intel.fetch(service, more.pop("platform", PLATFORM), tee, NOW, addresses=where, **more)


def test_what_is_asked_and_kept(service: Service, pcs: Pcs):
    items = fetch(service, pcs, "tdx")
    assert pcs.asked == [
        f"/tdx/certification/v4/tcb?fmspc={FMSPC}",
        "/tdx/certification/v4/qe/identity",
        "/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        "/IntelSGXRootCA.der",
    ]
    assert [(item.subject, item.role, item.expires) for item in items] == [
        (FMSPC, "tcb_info_response", NOW + 20 * DAY),
        (FMSPC, "tcb_chain", NOW + 1_000 * DAY + 1),
        ("", "qe_identity_response", NOW + 25 * DAY),
        ("", "qe_identity_chain", NOW + 1_000 * DAY + 1),
        ("", "pck_crl_processor", NOW + 30 * DAY),
        ("", "pck_crl_processor_chain", NOW + 1_000 * DAY + 1),
        ("", "root_ca_crl", NOW + 300 * DAY),
    ]
    assert {item.tee for item in items} == {"tdx"}
    of = {item.role: item.data for item in items}
    # Bytes are as they came: issuers sign bytes.
    assert of["tcb_info_response"] == pcs.tcb["tdx", FMSPC]
    assert of["tcb_chain"] == of["qe_identity_chain"] == pcs.signers
    assert (of["pck_crl_processor"], of["pck_crl_processor_chain"]) == pcs.crls["processor"]
    assert of["root_ca_crl"] == pcs.root_crl


def test_platforms_do_not_displace_each_other(service: Service, pcs: Pcs):
    pcs.set_tcb("sgx", "00606a000000")
    kept = Endorsements().merged(fetch(service, pcs))
    kept = kept.merged(fetch(service, pcs, platform=IntelPlatform("00606a000000", "platform")))
    for platform in (PLATFORM, IntelPlatform("00606a000000", "platform")):
        found = kept.lookup("sgx", platform.subject)
        assert found["tcb_info_response"] == pcs.tcb["sgx", platform.fmspc]
        assert found[f"pck_crl_{platform.ca}"] == pcs.crls[platform.ca][0]


def test_options(service: Service, pcs: Pcs):
    items = fetch(service, pcs, "tdx", store_as="azure-vtpm", update="early")
    assert {item.tee for item in items} == {"azure-vtpm"}
    assert pcs.asked[0] == f"/tdx/certification/v4/tcb?fmspc={FMSPC}&update=early"
    assert pcs.asked[1] == "/tdx/certification/v4/qe/identity?update=early"


def test_a_cache_has_all_under_one_roof_and_hex(service: Service):
    with (cache := Pcs(cache=True)).running():
        of = {item.role: item.data for item in fetch(service, cache)}
    assert of["root_ca_crl"] == cache.root_crl
    assert cache.asked[-1] == "/sgx/certification/v4/rootcacrl"


def test_a_list_in_pem(service: Service, pcs: Pcs):
    der, signers = pcs.crls["processor"]
    armoured = Reply(pem(der, what="X509 CRL"), "application/x-pem-file")
    armoured.headers["sgx-pck-crl-issuer-chain"] = quote(signers.decode())
    pcs.fail("pckcrl", armoured)
    assert {item.role: item.data for item in fetch(service, pcs)}["pck_crl_processor"] == der


def test_the_vendors_addresses_are_the_default():
    assert intel.Addresses.of(None) == intel.Addresses(intel.PCS, intel.ROOT_CRL)
    with pytest.raises(Malformed):
        intel.Addresses.of("http://pccs.example")


def test_an_unknown_platform(service: Service, pcs: Pcs):
    with pytest.raises(NotFound, match="does not know TCB information of SGX for FMSPC 0000000000ff"):
        fetch(service, pcs, platform=IntelPlatform("0000000000ff", "platform"))


def test_busy_then_well(service: Service, pcs: Pcs, waits: list[float]):
    for where in ("tcb", "identity", "pckcrl", "RootCA"):
        pcs.fail(where, Reply(status=429, headers={"Retry-After": "3"}))
    assert len(fetch(service, pcs)) == 7
    assert waits == [3.0] * 4


def test_what_is_over_is_refused(service: Service, pcs: Pcs):
    for change in (
        lambda: pcs.set_tcb("sgx", end=NOW),
        lambda: pcs.set_identity("sgx", end=NOW - 1),
        lambda: pcs.crls.update(processor=(crl("Intel SGX PCK Processor CA", NOW), pcs.crls["processor"][1])),
        lambda: setattr(pcs, "root_crl", crl("Root", NOW - DAY)),
    ):
        change()
        with pytest.raises(Expired, match="over already") as caught:
            fetch(service, pcs)
        assert "clock" in caught.value.hint
    assert all(
        role in caught.value.message
        for role in ("tcb_info_response", "qe_identity_response", "pck_crl_processor", "root_ca_crl")
    )


def header(pcs: Pcs, value: str | None, body: bytes | None = None) -> Reply:
    reply = Reply(body or pcs.tcb["sgx", FMSPC])
    if value is not None:
        reply.headers["TCB-Info-Issuer-Chain"] = value
    return reply


SIGNED = f'{{"tcbInfo":%s,"signature":"{"ab" * 64}"}}'


@pytest.mark.parametrize(
    ("where", "reply", "words"),
    [
        ("tcb", lambda pcs: header(pcs, None), "without the header TCB-Info-Issuer-Chain"),
        ("tcb", lambda pcs: header(pcs, ""), "has 0 certificates"),
        ("tcb", lambda pcs: header(pcs, "%00%ff"), "is not text"),
        ("tcb", lambda pcs: header(pcs, quote(pem(b"0\0").decode())), "cannot be read"),
        ("tcb", lambda pcs: header(pcs, quote(pem(vendors.vcek()).decode())), "has 1 certificates"),
        ("tcb", lambda pcs: header(pcs, "x" * 20_000), "too long"),
        ("tcb", lambda pcs: Reply(b"<html>", "text/html"), "not as application/json"),
        ("tcb", lambda pcs: Reply(b"{"), "cannot be read"),
        ("tcb", lambda pcs: Reply(b'{"a":1,"a":2}'), "cannot be read"),
        ("tcb", lambda pcs: Reply(b"[]"), "cannot be read"),
        ("tcb", lambda pcs: Reply(b"{}"), "no tcbInfo with a signature"),
        ("tcb", lambda pcs: Reply(b'{"tcbInfo":{"fmspc":"00a067110000"}}'), "no tcbInfo with a signature"),
        ("tcb", lambda pcs: Reply((SIGNED % '{"fmspc":"00606A000000"}').encode()), "of another platform"),
        ("tcb", lambda pcs: Reply((SIGNED % '{"fmspc":7}').encode()), "of another platform"),
        ("tcb", lambda pcs: Reply((SIGNED % f'{{"fmspc":"{FMSPC}"}}').encode()), "does not say when"),
        (
            "tcb",
            lambda pcs: Reply((SIGNED % f'{{"fmspc":"{FMSPC}","nextUpdate":"soon"}}').encode()),
            "does not say when",
        ),
        ("identity", lambda pcs: Reply(pcs.tcb["sgx", FMSPC]), "no enclaveIdentity with a signature"),
        ("pckcrl", lambda pcs: Reply(b"0\0", "application/pkix-crl"), "cannot be read"),
        ("pckcrl", lambda pcs: Reply(b"no list", "application/pkix-crl"), "no revocation list"),
        ("pckcrl", lambda pcs: Reply(b"\xff\xfe", "application/pkix-crl"), "no revocation list"),
        (
            "pckcrl",
            lambda pcs: Reply(pcs.crls["processor"][0][:-9], "application/pkix-crl"),
            "cannot be read",
        ),
        ("pckcrl", lambda pcs: Reply(pcs.crls["platform"][0], "application/pkix-crl"), "of another CA"),
        ("pckcrl", lambda pcs: Reply(pcs.crls["processor"][0], "application/pkix-crl"), "without the header"),
        ("RootCA", lambda pcs: Reply(vendors.vcek(), "application/pkix-cert"), "cannot be read"),
        ("RootCA", lambda pcs: Reply(b"<html>", "text/html"), "not as a certificate or revocation list"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(
    service: Service, pcs: Pcs, where: str, reply: Callable[[Pcs], Reply], words: str
):
    pcs.fail(where, reply(pcs))
    with pytest.raises(Malformed, match=words):
        fetch(service, pcs)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ((Reply(status=500),), Unavailable),
        ((Reply(status=302, headers={"Location": "/elsewhere"}),), Malformed),
        ((b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",), Unavailable),
        ((b"garbage",), Unavailable),
        ((Reply(b" " * (1 << 20) + b"{}"),), TooLarge),
    ],
)
def test_failures_of_the_service(
    service: Service, pcs: Pcs, script: tuple[Any, ...], error: type[MesateeError]
):
    pcs.fail("identity", *script)
    with pytest.raises(error):
        fetch(service, pcs)


# -- one JSON object --------------------------------------------------------------------------------


def test_collateral_keeps_signed_texts_to_the_byte(service: Service, pcs: Pcs):
    items = fetch(service, pcs)
    value = json.loads(intel.collateral(items, PLATFORM))
    body = pcs.tcb["sgx", FMSPC].decode()
    # The server writes spaces in places where no library would.
    assert '" :"' in value["tcb_info"]
    assert value["tcb_info"] == body.partition('"tcbInfo": ')[2].partition(" ,")[0]
    assert value["tcb_info_signature"] == "ab" * 64
    assert value["qe_identity_signature"] == "cd" * 64
    assert bytes.fromhex(value["root_ca_crl"]) == pcs.root_crl
    assert value["tcb_info_issuer_chain"].encode() == pcs.signers


def test_collateral_of_what_is_not_there_or_no_collateral(service: Service, pcs: Pcs):
    items = fetch(service, pcs)
    with pytest.raises(NotFound, match="pck_crl_platform"):
        intel.collateral(items, IntelPlatform(FMSPC, "platform"))
    for role in ("tcb_info_response", "tcb_chain"):
        bad = [dataclasses.replace(item, data=b"\xff") if item.role == role else item for item in items]
        with pytest.raises(Malformed):
            intel.collateral(bad, PLATFORM)


@pytest.mark.parametrize(("tee", "name"), [("sgx", "phala-sgx-00a067110000"), ("tdx", "phala-tdx-v4-b0c06f")])
def test_captured_collateral_comes_back_as_it_was(service: Service, pcs: Pcs, tee: Any, name: str):
    from mesatee.attestation import subjects

    at, files = captured.timed(tee, name)
    platform = subjects.find(tee, files)
    assert isinstance(platform, IntelPlatform)
    whole = json.loads(files["collateral"])
    pcs.set_captured(tee, platform.fmspc, platform.ca, whole)
    where = intel.Addresses(pcs.url, pcs.root_url)
    items = intel.fetch(service, platform, tee, at, addresses=where)
    assert json.loads(intel.collateral(items, platform)) == whole
    with pytest.raises(Expired):
        intel.fetch(service, platform, tee, NOW, addresses=where)
