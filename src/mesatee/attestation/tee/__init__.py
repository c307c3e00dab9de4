"""One module per TEE, each with parse -> verify -> validate; `base` says what they must offer.

>>> from mesatee.attestation.tee import none
>>> none.TEE.prove(bytes(64), RoleTrust(), at=0).level
1
"""

from mesatee.attestation.tee.base import Proof, Tee
from mesatee.attestation.trust import RoleTrust

__all__ = ["Proof", "RoleTrust", "Tee"]
