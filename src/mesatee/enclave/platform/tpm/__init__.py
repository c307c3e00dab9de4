"""TPM 2.0: quotes, credentials, sealing to PCRs and counters, in plain Python, without a C library.

>>> from mesatee.enclave.platform.tpm import wire
>>> wire.command(wire.Code.NV_READ_PUBLIC, [0x1C00002], []).hex()
'80010000000e0000016901c00002'
"""

from mesatee.enclave.platform.tpm.commands import Tpm
from mesatee.enclave.platform.tpm.counter import NvCounter
from mesatee.enclave.platform.tpm.public import Public, ak_template, ek_template
from mesatee.enclave.platform.tpm.quoting import TpmCollector
from mesatee.enclave.platform.tpm.sealing import SealedObject, pcr_policy, seal_new, unseal
from mesatee.enclave.platform.tpm.transport import DeviceTransport, SocketTransport, Transport, connect

__all__ = [
    "DeviceTransport",
    "NvCounter",
    "Public",
    "SealedObject",
    "SocketTransport",
    "Tpm",
    "TpmCollector",
    "Transport",
    "ak_template",
    "connect",
    "ek_template",
    "pcr_policy",
    "seal_new",
    "unseal",
]
