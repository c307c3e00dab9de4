"""The blob folder itself: leftovers, links, files that change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mesatee.errors import HostFailed
from mesatee.host.blobs.local import LocalBlobs
from mesatee.protocol.limits import BLOB_CHUNK_BYTES

DATA = b"sealed bytes" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_leftovers_are_removed_at_start(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put(DIGEST, [DATA], len(DATA))
    (tmp_path / "blobs" / "tmp" / "leftover").write_bytes(b"half")
    again = LocalBlobs(tmp_path / "blobs")
    assert not list((tmp_path / "blobs" / "tmp").iterdir())
    assert again.size(DIGEST) == len(DATA)


def test_two_levels_of_folders(tmp_path: Path) -> None:
    LocalBlobs(tmp_path / "blobs").put(DIGEST, [DATA], len(DATA))
    path = tmp_path / "blobs" / DIGEST[:2] / DIGEST[2:4] / DIGEST
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    place = tmp_path / "blobs" / DIGEST[:2] / DIGEST[2:4] / DIGEST
    place.parent.mkdir(parents=True)
    if kind == "link":
        (tmp_path / "precious").write_bytes(DATA)
        place.symlink_to(tmp_path / "precious")
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(HostFailed):
        blobs.get(DIGEST)
    with pytest.raises(HostFailed):
        blobs.size(DIGEST)


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    data = os.urandom(3 * BLOB_CHUNK_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(digest, [data], len(data))
    chunks = blobs.get(digest)
    next(chunks)
    os.truncate(tmp_path / "blobs" / digest[:2] / digest[2:4] / digest, BLOB_CHUNK_BYTES + 1)
    with pytest.raises(HostFailed, match="cut"):
        next(chunks)
    assert list(chunks) == []


def test_a_reader_keeps_its_file_while_the_blob_is_put_again(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put(DIGEST, [DATA], len(DATA))
    chunks = blobs.get(DIGEST)
    blobs.put(DIGEST, [DATA], len(DATA))
    assert b"".join(chunks) == DATA


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    blobs.put(DIGEST, [DATA], len(DATA))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(50):
        blobs.get(DIGEST)
        list(blobs.get(DIGEST))
        blobs.size(DIGEST)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HostFailed):
        LocalBlobs(tmp_path / "file")
    with pytest.raises(HostFailed):
        LocalBlobs(tmp_path / "missing" / "blobs")
