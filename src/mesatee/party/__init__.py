"""What runs on an owner's own machine: identity, sealing, sessions with a gateway, and verification.

>>> import tempfile
>>> from pathlib import Path
>>> home = Path(tempfile.mkdtemp())
>>> alice = Identity.create(home, "alice")
>>> alice.keys().name, len(alice.id)
('alice', 64)
>>> sealed = data.seal(alice, b"id,age\\n1,30\\n2,41\\n", home / "people.age", format="csv")
>>> sealed.shape.rows, [column.name for column in sealed.shape.columns]
(2, ['id', 'age'])
"""

from . import data, functions, results, tasks
from .config import ServiceFile, default_home, read_service_file, read_trust, write_service_file
from .identity import Identity
from .session import AsyncSession, Party, Posted, Session
from .verify import VerifiedReceipt, verify_bundle

__all__ = [
    "AsyncSession",
    "Identity",
    "Party",
    "Posted",
    "ServiceFile",
    "Session",
    "VerifiedReceipt",
    "data",
    "default_home",
    "functions",
    "read_service_file",
    "read_trust",
    "results",
    "tasks",
    "verify_bundle",
    "write_service_file",
]
