"""Evidence in, appraisal out: used by everybody who must trust a machine. Pure, no I/O and no clock.

>>> from mesatee.attestation.tee import none
>>> key = b"DER of the channel's public key"
>>> extension = none.build(Claims.of_key(key, "worker").encode())
>>> appraise(extension, key, TrustPolicy(), at=1_700_000_000, role="worker")  # doctest: +ELLIPSIS
Traceback (most recent call last):
mesatee.errors.LevelTooLow: level 1 (none) is below 5 (enclave in an attested system)...
>>> lax = TrustPolicy(worker=RoleTrust(tees=("none",), minimum_level=1, measurements="any"))
>>> appraise(extension, key, lax, at=1_700_000_000, role="worker").status
<Status.NONE: 'none'>
"""

from mesatee.attestation.appraisal import Answer, Appraisal, Status
from mesatee.attestation.evidence import Claims, Evidence, report_data
from mesatee.attestation.trust import GatewayTrust, RoleTrust, TrustPolicy
from mesatee.attestation.verify import AppraisalCache, appraise, examine

__all__ = [
    "Answer",
    "Appraisal",
    "AppraisalCache",
    "Claims",
    "Evidence",
    "GatewayTrust",
    "RoleTrust",
    "Status",
    "TrustPolicy",
    "appraise",
    "examine",
    "report_data",
]
