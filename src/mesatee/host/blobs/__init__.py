"""The store of sealed files, in a folder.

>>> import hashlib, tempfile
>>> from pathlib import Path
>>> folder = tempfile.TemporaryDirectory()
>>> blobs = LocalBlobs(Path(folder.name, "blobs"))
>>> digest = hashlib.sha256(b"sealed").hexdigest()
>>> blobs.put(digest, [b"sea", b"led"], 6)
>>> b"".join(blobs.get(digest, start=1))
b'ealed'
>>> folder.cleanup()
"""

from mesatee.host.blobs.local import LocalBlobs

__all__ = ["LocalBlobs"]
