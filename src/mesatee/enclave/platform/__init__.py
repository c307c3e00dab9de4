"""The attesters of this machine, what they measure, and sealing of keys to it; one module per interface.

>>> from mesatee.attestation.evidence import Claims, decode
>>> decode(NoAttester().evidence(Claims.of_key(b"a channel key", "worker"))).tee
'none'
"""

from mesatee.enclave.platform.base import Attester
from mesatee.enclave.platform.collect import Collector, CompositeCollector, PlatformAttester
from mesatee.enclave.platform.detect import Candidate, detect
from mesatee.enclave.platform.keys import FileKey, PlatformKey, SgxKey, SnpKey, TpmKey
from mesatee.enclave.platform.measure import Measurement, environment_digest
from mesatee.enclave.platform.none import NoAttester
from mesatee.enclave.platform.sealing import Sealing
from mesatee.enclave.platform.software import SoftwareAttester, installation_key

__all__ = [
    "Attester",
    "Candidate",
    "Collector",
    "CompositeCollector",
    "FileKey",
    "Measurement",
    "NoAttester",
    "PlatformAttester",
    "PlatformKey",
    "Sealing",
    "SgxKey",
    "SnpKey",
    "SoftwareAttester",
    "TpmKey",
    "detect",
    "environment_digest",
    "installation_key",
]
