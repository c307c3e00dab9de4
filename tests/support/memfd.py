"""Files in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory(content: bytes = b"") -> Iterator[int]:
    """The descriptor of one that holds `content`, at its beginning."""
    fd = os.memfd_create("test")
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
