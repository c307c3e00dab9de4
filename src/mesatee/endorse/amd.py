"""AMD's key distribution service (KDS), version 1.

Spec: AMD publication 57230, VCEK certificate and KDS interface specification; VLEK certificate definition (58369).
"""

from __future__ import annotations

from typing import Final

from .. import _core
from ..attestation.endorsements import Endorsement
from ..attestation.subjects import CHIP_ID_BYTES, PRODUCTS, AmdPlatform, Product
from ..errors import InputError, Malformed
from .contents import certificates, crl, current, first_end
from .service import BINARY_TYPES, Service, base_address, within

KDS: Final = "https://kdsintf.amd.com"
HWID: Final = "1.3.6.1.4.1.3704.1.4"
"""The extension of a VCEK certificate with the chip's id, raw."""


def fetch(
    service: Service,
    platform: AmdPlatform,
    tee: str,
    at: int,
    *,
    base: str | None = None,
    product: Product | None = None,
) -> tuple[Endorsement, ...]:
    """All that a verifier of reports from `platform` needs, at `at` (Unix seconds), kept for evidence of class `tee`.

    The certificate of the chip's key for the TCB that the report names, the chain above it, and the revocation list.
    A provider's key (VLEK) has a certificate that only the provider gets: it comes with the evidence, and the chain
    above it from here. `product` says which it is where the report does not.

    Raises what `Service.get` raises, `Malformed` for answers that are not what was asked for or when the product is
    not known or the chip hides its id, and `Expired`.
    """
    where = base_address(base) if base is not None else KDS
    chosen = platform.product or product
    if chosen is None:
        raise Malformed(
            "the report does not say which product it is from (those of version 2 do not)",
            hint=f"name it by --product: {', '.join(PRODUCTS)}",
        )
    if product is not None and product != chosen:
        raise Malformed(f"the report is from {chosen}, not from {product}", hint="leave --product out")
    kind = "vlek" if platform.vlek else "vcek"
    found: list[Endorsement] = []
    if not platform.vlek:
        found.append(_vcek(service, platform, chosen, tee, at, where))

    what = f"the certificates above the {kind.upper()} of {chosen}"
    chain = service.get(what, f"{where}/{kind}/v1/{chosen}/cert_chain", types=BINARY_TYPES).body
    end = first_end(certificates(what, chain, 2))
    found.append(Endorsement(tee, platform.subject, "ask_ark", chain, at, end))

    what = f"the revocation list of {chosen}"
    body = service.get(what, f"{where}/{kind}/v1/{chosen}/crl", types=BINARY_TYPES).body
    der, parsed = crl(what, body)
    found.append(Endorsement(tee, platform.subject, "crl", der, at, parsed.next_update))
    return current(found, at)


def _vcek(
    service: Service, platform: AmdPlatform, product: Product, tee: str, at: int, where: str
) -> Endorsement:
    chip = platform.chip_id
    if len(chip) != 2 * CHIP_ID_BYTES[product]:
        raise Malformed(
            f"the report has no chip id of {product}, or the machine hides it",
            hint="let the machine's operator allow it, or take the certificate from the machine itself",
        )
    what = f"the VCEK certificate of chip {chip[:16]}... of {product}"
    levels = {name: str(value) for name, value in platform.tcb.items()}
    url = f"{where}/vcek/v1/{product}/{chip}"
    body = service.get(what, url, types=BINARY_TYPES, parameters=levels).body
    try:
        certificate = _core.X509.parse(body)
    except InputError as error:
        raise within(what, error) from None
    if hardware_id(certificate) != chip:
        raise Malformed(f"{what} is of another chip", hint="check the address; a cache may be mixed up")
    return Endorsement(tee, platform.subject, "vcek", body, at, certificate.not_after + 1)


def hardware_id(certificate: _core.X509) -> str:
    """The chip that a VCEK certificate is for, in lower-case hex; empty if it names none."""
    return certificate.extensions.get(HWID, (False, b""))[1].hex()


__all__ = ["HWID", "KDS", "fetch", "hardware_id"]
