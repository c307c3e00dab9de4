"""Makes the examples anew: ``python -m tests.enclave.gateway.frozen.make`` in the project's folder.

Only after a change of a format that docs/formats.md tells, with a new version in it: a reader of today must open what
was written yesterday.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.gateway import ORIGIN
from tests.support.succession import Holders

from mesatee.enclave.gateway.identity import HANDED, awaited_shares
from mesatee.protocol import wire, wraps
from mesatee.protocol.digests import b64encode, sha256
from mesatee.protocol.jsonstrict import canonical

HERE = Path(__file__).parent
INDEX = 7


def main() -> None:
    """Write every file beside this one."""
    with tempfile.TemporaryDirectory() as folder:
        made = Holders(Path(folder))
        to, _ = awaited_shares(made.machine.sealing)
        service, successor = made.keys.service, sha256(to.public)
        wrapped = {}
        for name in HANDED:
            binding = wraps.hand_over(ORIGIN, service.digest, INDEX, successor, name)
            wrapped[name] = b64encode(getattr(made.keys, name).wrap_to(to.public, binding.info, binding.aad))
        reply = wire.HandOverReply(index=INDEX, service=service.envelope.as_dict(), wraps=wrapped)
        (HERE / "successor.key").unlink(missing_ok=True)
        to.save(str(HERE / "successor.key"))
        files = {
            "service.json": service.envelope.to_bytes(),
            "recovery.json": made.recovery.envelope.to_bytes(),
            "request.json": made.request.to_bytes(),
            "share-1.json": made.share(0).to_bytes(),
            "share-2.json": made.share(2).to_bytes(),
            "handover.json": canonical(reply.model_dump(mode="json")),
        }
    for name, data in files.items():
        (HERE / name).write_bytes(data)


if __name__ == "__main__":
    main()
