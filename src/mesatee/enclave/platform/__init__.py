"""The attesters of this machine, what they measure, and sealing of keys to it; one module per interface.

>>> from mesatee.attestation.evidence import Claims, decode
>>> decode(NoAttester().evidence(Claims.of_key(b"a channel key", "worker"))).tee
'none'
"""

from mesatee.enclave.platform.base import Attester
from mesatee.enclave.platform.measure import Measurement, environment_digest
from mesatee.enclave.platform.none import NoAttester
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester, installation_key

__all__ = [
    "Attester",
    "Measurement",
    "NoAttester",
    "Sealing",
    "SoftwareAttester",
    "environment_digest",
    "installation_key",
]
