"""Intel SGX enclaves, by DCAP quotes of version 3 (and 4 and 5, where the body is an enclave's report).

Spec: Intel SGX ECDSA Quote Library Reference (DCAP), appendix A; Intel SDM volume 3D, section 39.15 for the
report. Verification is in `dcap_verify`, TCB levels in `dcap_tcb`.

What the verdict does not prove: an enclave is protected from the system around it, and says nothing of that
system. Hence level 4; level 5 asks for evidence of the outer system too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mesatee.attestation.corpus import CorpusPolicy
from mesatee.attestation.tee import dcap, dcap_quote, dcap_verify
from mesatee.attestation.verdict import Verdict
from mesatee.errors import Malformed

NAME: Final = "sgx"


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """The verdict on a case (role -> bytes) at `at` (Unix seconds).

    Raises `Malformed`, `TooLarge` or `UnsupportedVersion` if there is no quote of SGX in it.
    """
    return _appraise(dcap.open_case(files), at, policy, dcap_verify.ANCHORS)


def appraise(
    quote: bytes,
    collateral: Mapping[str, bytes],
    at: int | None,
    policy: CorpusPolicy,
    *,
    anchors: Sequence[bytes] = dcap_verify.ANCHORS,
) -> Verdict:
    """The verdict on one quote, for formats that carry it. What binds it is for the caller to check: the claim
    ``report_data`` has it in hex, and `Verdict.binding` speaks of nonces in `collateral` only.

    `collateral`: any name -> bytes in any shape that `dcap_collateral` knows; empty if there is none. `anchors`:
    root certificates or their SHA-256. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    return _appraise(dcap.Case(quote, (), collateral, False), at, policy, anchors)


def _appraise(case: dcap.Case, at: int | None, policy: CorpusPolicy, anchors: Sequence[bytes]) -> Verdict:
    # Parse.
    quote = dcap.parse(case.quote, dcap_quote.TEE_SGX)
    if isinstance(quote, Verdict):
        return quote
    body = quote.body
    if not isinstance(body, dcap_quote.EnclaveReport):
        raise Malformed("the quote is not that of an enclave")
    # Validate; `dcap.appraise` verifies.
    values = dcap.Values(
        debug=("the enclave runs in debug mode: its memory can be read",) if body.debug else (),
        objections=(),
        measurement=body.mrenclave.hex(),
        claims={
            "tee": NAME,
            "debug": body.debug,
            "measurement.code": body.mrenclave.hex(),
            "measurement.signer": body.mrsigner.hex(),
            "sgx.attributes": body.attributes.hex(),
            "sgx.isvprodid": body.isvprodid,
            "sgx.isvsvn": body.isvsvn,
            "sgx.miscselect": body.miscselect,
        },
    )
    return dcap.appraise(case, quote, at, policy, values, anchors=anchors)


__all__ = ["NAME", "appraise", "check"]
