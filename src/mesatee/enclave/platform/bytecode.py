"""Whether this process runs what was measured: byte code of a cache of its own, none that lay beside the sources."""

from __future__ import annotations

import os
import stat
import sys

from mesatee.errors import Denied


def check() -> None:
    """This process was started with a byte code cache that nobody but its user can write into.

    That the folder was empty before the first process of this launcher is the launcher's part.
    Raises `Denied`.
    """
    prefix = sys.pycache_prefix
    hint = "start it by `mesatee up`, or with `python -I -X pycache_prefix=FOLDER`, a new folder of mode 0700"
    if prefix is None:
        raise Denied("the process would run byte code that is not measured", hint=hint)
    try:
        found = os.lstat(prefix)
    except OSError:
        raise Denied("the folder for byte code is not there", hint=hint) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise Denied("others can write into the folder for byte code", hint=hint)


__all__ = ["check"]
