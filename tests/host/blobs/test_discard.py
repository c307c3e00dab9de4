"""A blob that nobody needs any more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mesatee.errors import Malformed, NotFound
from mesatee.host.blobs.local import LocalBlobs


def test_a_discarded_blob_is_gone_and_may_come_again(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    blobs.discard(digest)
    blobs.put(digest, [data], len(data))
    reading = blobs.get(digest)
    blobs.discard(digest)
    # Who had it open reads on.
    assert b"".join(reading) == data
    with pytest.raises(NotFound):
        blobs.size(digest)
    blobs.discard(digest)
    blobs.put(digest, [data], len(data))
    assert blobs.size(digest) == 1000


@pytest.mark.parametrize("digest", ["", "../lock", "A" * 64, "0" * 63])
def test_only_a_digest_is_a_blob(tmp_path: Path, digest: str) -> None:
    with pytest.raises(Malformed):
        LocalBlobs(tmp_path / "blobs").discard(digest)
