"""Intel's provisioning certification service (PCS), or a cache of it (PCCS), version 4.

Spec: Intel SGX and TDX Provisioning Certification Service API, version 4; SGX DCAP Caching Service Design Guide.
No question needs an account: certificates of single platforms, which do, come with the quotes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from ..attestation.endorsements import Endorsement
from ..attestation.subjects import IntelPlatform
from ..errors import InputError, Malformed, NotFound
from ..protocol import limits
from ..protocol.jsonstrict import parse_object
from .contents import HEADER_CHARS, certificates, crl, current, first_end, moment
from .service import BINARY_TYPES, JSON_TYPES, Answer, Service, base_address, within

PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""The PCS has no path for the root's revocation list; the root's certificate names this address."""

IntelTee: TypeAlias = Literal["sgx", "tdx"]
Update: TypeAlias = Literal["standard", "early"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to ask."""

    base: str = PCS
    root_crl: str = ROOT_CRL

    @classmethod
    def of(cls, base: str | None) -> Addresses:
        """Those of a cache with the base address `base`, which has all under one roof. Raises `Malformed`."""
        if base is None:
            return cls()
        found = base_address(base)
        return cls(found, f"{found}/sgx/certification/v4/rootcacrl")


def fetch(
    service: Service,
    platform: IntelPlatform,
    tee: IntelTee,
    at: int,
    *,
    store_as: str | None = None,
    addresses: Addresses | None = None,
    update: Update = "standard",
) -> tuple[Endorsement, ...]:
    """All that a verifier of quotes from `platform` needs, at `at` (Unix seconds).

    TCB info is the platform's; the rest is for all platforms: the identity of the quoting enclave, and the revocation
    lists of the platform's CA and of the root, each with the certificates of its signer. `store_as` is the class of
    evidence that holds the quote, where that is not `tee`. `update`: with ``early`` Intel's newest word, which may
    call a platform out of date before its owner could update it.

    Raises what `Service.get` raises, `Malformed` for answers that are not what was asked for, and `Expired`.
    """
    where, words = addresses or Addresses(), {"update": update}
    # A cache in front of the service may not know the parameter; its default is "standard" everywhere.
    extra = words if update != "standard" else {}
    path = f"{where.base}/{tee}/certification/v4"
    name = store_as or tee

    what = f"TCB information of {tee.upper()} for FMSPC {platform.fmspc}"
    answer = service.get(what, f"{path}/tcb", types=JSON_TYPES, parameters={"fmspc": platform.fmspc, **extra})
    tcb_end = _signed(what, answer.body, "tcbInfo", platform.fmspc)
    found = _pair(
        what, answer, "TCB-Info-Issuer-Chain", (name, platform.fmspc), "tcb_info_response", tcb_end, at
    )

    what = f"the identity of the quoting enclave of {tee.upper()}"
    answer = service.get(what, f"{path}/qe/identity", types=JSON_TYPES, parameters=extra)
    identity_end = _signed(what, answer.body, "enclaveIdentity", None)
    header = "SGX-Enclave-Identity-Issuer-Chain"
    found += _pair(what, answer, header, (name, ""), "qe_identity_response", identity_end, at)

    what = f"the revocation list of Intel's {platform.ca} CA"
    url = f"{where.base}/sgx/certification/v4/pckcrl"
    answer = service.get(what, url, types=BINARY_TYPES, parameters={"ca": platform.ca, "encoding": "der"})
    der, parsed = crl(what, answer.body)
    if platform.ca not in parsed.issuer.lower():
        raise Malformed(f"{what} is of another CA", hint="try again later")
    listed = Answer(der, answer.headers)
    role = f"pck_crl_{platform.ca}"
    found += _pair(what, listed, "SGX-PCK-CRL-Issuer-Chain", (name, ""), role, parsed.next_update, at)

    what = "the revocation list of Intel's root CA"
    der, parsed = crl(what, service.get(what, where.root_crl, types=BINARY_TYPES).body)
    found.append(Endorsement(name, "", "root_ca_crl", der, at, parsed.next_update))
    return current(found, at)


def _signed(what: str, body: bytes, member: str, fmspc: str | None) -> int:
    """When Intel will have a newer one of a signed JSON object, Unix seconds. Raises `Malformed`."""
    try:
        value = parse_object(body, limit=limits.ENDORSEMENT_BYTES)
    except InputError as error:
        raise within(what, error) from None
    inner: Any = value.get(member)
    if not isinstance(inner, dict) or not isinstance(value.get("signature"), str):
        raise Malformed(f"{what} is no {member} with a signature", hint="check the address and its version")
    if fmspc is not None and str(inner.get("fmspc", "")).lower() != fmspc:
        raise Malformed(f"{what} is of another platform", hint="check the address; a cache may be mixed up")
    return moment(what, inner.get("nextUpdate"))


def _pair(
    what: str, answer: Answer, header: str, key: tuple[str, str], role: str, expires: int | None, at: int
) -> list[Endorsement]:
    """An answer and the chain of its signer, which comes URL-encoded in a header."""
    text = answer.headers.get(header.lower())
    if text is None:
        raise Malformed(
            f"{what} came without the header {header}",
            hint="check the address and its version; a proxy may have cut the header",
        )
    if len(text) > HEADER_CHARS:
        raise Malformed(f"the header {header} of {what} is too long", hint="check the address")
    chain = unquote_to_bytes(text)
    if not chain.isascii():
        raise Malformed(f"the header {header} of {what} is not text", hint="check the address")
    end = first_end(certificates(f"the header {header} of {what}", chain, 2))
    tee, subject = key
    chain_role = CHAIN_ROLES.get(role, f"{role}_chain")
    return [
        Endorsement(tee, subject, role, answer.body, at, expires),
        Endorsement(tee, subject, chain_role, chain, at, end),
    ]


CHAIN_ROLES: Final = {"tcb_info_response": "tcb_chain", "qe_identity_response": "qe_identity_chain"}
"""Roles of chains that are not named after what they sign."""


def collateral(items: Iterable[Endorsement], platform: IntelPlatform) -> bytes:
    """What `fetch` found as one JSON object of strings, the form in which quote verifiers exchange it.

    Signed texts stay as they are, to the byte. Raises `NotFound` if something is missing, and `Malformed`.
    """
    of = {item.role: item.data for item in items}
    crl_role = f"pck_crl_{platform.ca}"
    needed = ("tcb_info_response", "tcb_chain", "qe_identity_response", "qe_identity_chain", "root_ca_crl")
    if missing := [role for role in (*needed, crl_role, f"{crl_role}_chain") if role not in of]:
        raise NotFound(f"the collateral has no {', '.join(missing)}", hint="fetch it first")
    tcb, tcb_signature = _parts(of["tcb_info_response"], "tcbInfo")
    identity, identity_signature = _parts(of["qe_identity_response"], "enclaveIdentity")
    value = {
        "pck_crl_issuer_chain": _text(of[f"{crl_role}_chain"]),
        "root_ca_crl": of["root_ca_crl"].hex(),
        "pck_crl": of[crl_role].hex(),
        "tcb_info_issuer_chain": _text(of["tcb_chain"]),
        "tcb_info": tcb,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": _text(of["qe_identity_chain"]),
        "qe_identity": identity,
        "qe_identity_signature": identity_signature,
    }
    return json.dumps(value, ensure_ascii=True).encode()


def _text(chain: bytes) -> str:
    if not chain.isascii():
        raise Malformed("a chain of certificates in the collateral is not text", hint="fetch it again")
    return chain.decode("ascii")


def _parts(body: bytes, member: str) -> tuple[str, str]:
    """The text of a signed member of a JSON object, and its signature. Raises `Malformed`.

    A parsed value written anew could differ from what was signed, so the text is cut out of the answer.
    """
    _signed(f"the {member} of the collateral", body, member, None)
    text, decoder = body.decode(), json.JSONDecoder()
    value = decoder.decode(text)
    position = text.index("{") + 1
    while True:
        position = _skip(text, position, ",")
        name, position = decoder.raw_decode(text, position)
        start = _skip(text, position, ":")
        _, position = decoder.raw_decode(text, start)
        if name == member:
            return text[start:position], str(value["signature"])


def _skip(text: str, position: int, mark: str) -> int:
    while text[position] in mark + " \t\r\n":
        position += 1
    return position


__all__ = ["CHAIN_ROLES", "PCS", "ROOT_CRL", "Addresses", "IntelTee", "Update", "collateral", "fetch"]
