"""Endorsements of machines: fetched from the vendors' services, kept in a store, carried offline in bundles.

A verifier fetches nothing. Who wants verdicts on TCB and revocation fetches ahead of time, on a machine with a network,
and hands the collection over.

>>> import tempfile, pathlib
>>> from mesatee.attestation.endorsements import Endorsement
>>> with tempfile.TemporaryDirectory() as folder:
...     store = Store(pathlib.Path(folder) / "here")
...     kept = store.add([Endorsement("snp", "", "ask_ark", b"...", fetched=1, expires=100)])
...     elsewhere = Store(pathlib.Path(folder) / "there")
...     elsewhere.import_(store.export(), at=2) == kept, [item.role for item in elsewhere.drop_expired(100)]
(True, ['ask_ark'])
"""

from __future__ import annotations

from . import amd, azure, intel
from .service import Service
from .store import Current, Store

__all__ = ["Current", "Service", "Store", "amd", "azure", "intel"]
