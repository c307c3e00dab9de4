"""Azure's trusted hardware identity management (THIM): a machine of Azure's asks for its own certificates.

Spec: Azure documentation, Trusted Hardware Identity Management, "AMD certificates from the metadata service". The
service answers only inside of a virtual machine, at a link-local address, and only about that machine. For Intel,
Azure runs a cache of Intel's service, which `intel` speaks to.
"""

from __future__ import annotations

from typing import Any, Final

from ..attestation.endorsements import Endorsement
from ..errors import InputError, Malformed
from ..protocol import limits
from ..protocol.jsonstrict import parse_object
from .amd import hardware_id
from .contents import certificates, current, first_end
from .service import JSON_TYPES, Service, base_address, within

IMDS: Final = "http://169.254.169.254"
"""The instance metadata service of the machine that asks."""
TEES: Final = ("azure-vtpm", "snp")
"""Classes of evidence that machines of Azure's show with these certificates."""


def fetch(
    service: Service, at: int, *, base: str | None = None, expected: str | None = None
) -> tuple[Endorsement, ...]:
    """The VCEK certificate of this machine and the chain above it, at `at` (Unix seconds).

    With `expected`, the chip id of some evidence in hex, certificates of another chip are refused.
    Raises what `Service.get` raises, `Malformed` and `Expired`.
    """
    where = base_address(base) if base is not None else IMDS
    what = "the VCEK certificate of this machine"
    url = f"{where}/metadata/THIM/amd/certification"
    body = service.get(what, url, types=JSON_TYPES, headers={"Metadata": "true"}).body
    try:
        value = parse_object(body, limit=limits.ENDORSEMENT_BYTES)
    except InputError as error:
        raise within(what, error) from None
    vcek, chain = _pem(what, value, "vcekCert"), _pem(what, value, "certificateChain")
    leaf = certificates(what, vcek)
    end = first_end(certificates(f"the chain above {what}", chain, 2))
    chip = hardware_id(leaf[0])
    if len(leaf) != 1 or not chip:
        raise Malformed(f"{what} names no chip", hint="ask on a confidential machine with AMD SEV-SNP")
    if expected is not None and chip != expected:
        raise Malformed(
            "the evidence is of another chip than this machine's", hint="ask on the machine that made it"
        )
    found: list[Endorsement] = []
    for tee in TEES:
        found.append(Endorsement(tee, chip, "vcek", vcek, at, first_end(leaf)))
        found.append(Endorsement(tee, chip, "ask_ark", chain, at, end))
    return current(found, at)


def _pem(what: str, value: dict[str, Any], name: str) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or not text.isascii():
        raise Malformed(f"the answer about {what} has no {name}", hint="try again later")
    return text.encode("ascii")


__all__ = ["IMDS", "TEES", "fetch"]
