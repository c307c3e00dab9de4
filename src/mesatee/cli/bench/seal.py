"""Sealing: bytes a second from one memory file into another, against pyrage and the plain age crate.

Ours also computes the SHA-256 of what it writes, which the dataset statement needs; the peers do not. The
crate by itself works between two buffers that are there already, without any file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from ... import _core
from ...errors import Unavailable
from ...protocol import limits
from . import loadgen
from .rows import Row, Say, compare

SIZE: Final = 256 * limits.MIB
ROUNDS, QUICK_ROUNDS = 7, 2
GB: Final = 1e9
PYRAGE, CRATE = "pyrage", "age crate"


class Speeds(NamedTuple):
    """GB of plaintext a second."""

    seal: float
    open: float


def _memory(size: int) -> int:
    """A memory file of `size` random-looking bytes, whose pages are there already."""
    fd = _core.memfd("bench")
    piece = os.urandom(limits.MIB)
    for _ in range(size // len(piece)):
        os.write(fd, piece)
    return fd


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return SIZE / (time.perf_counter() - start) / GB


def ours(source: int, target: int, key: _core.AgeKey) -> Speeds:
    """`source` is sealed into `target` and opened into `source` again; both keep their pages."""
    for fd in (source, target):
        os.lseek(fd, 0, os.SEEK_SET)
    seal = _timed(lambda: _core.age_seal(source, target, [key.recipient]))
    # The peer leaves a header of another length behind.
    os.ftruncate(target, os.lseek(target, 0, os.SEEK_CUR))
    for fd in (source, target):
        os.lseek(fd, 0, os.SEEK_SET)
    return Speeds(seal, _timed(lambda: _core.age_open(target, source, key, SIZE)))


def pyrage(source: int, target: int) -> Speeds:
    """The same, by its calls on files, which are its fastest. Raises `Unavailable` if it is not installed."""
    try:
        import pyrage as peer  # type: ignore[import-untyped]
        from pyrage import x25519
    except ImportError:
        raise Unavailable("pyrage is not installed") from None
    identity = x25519.Identity.generate()
    with (
        open(source, "r+b", buffering=0, closefd=False) as plain,  # by descriptor
        open(target, "r+b", buffering=0, closefd=False) as sealed,  # by descriptor
    ):
        plain.seek(0)
        sealed.seek(0)
        seal = _timed(lambda: peer.encrypt_io(plain, sealed, [identity.to_public()]))
        # Ours leaves a header of another length behind.
        sealed.truncate()
        plain.seek(0)
        sealed.seek(0)
        return Speeds(seal, _timed(lambda: peer.decrypt_io(sealed, plain, [identity])))


def measure(quick: bool, say: Say) -> tuple[Row, ...]:
    """The rows of ``bench seal``."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    missing: dict[str, str] = {}
    runs: dict[str, Callable[[], Speeds]] = {}
    with contextlib.ExitStack() as stack:
        source, target = _memory(SIZE), _memory(SIZE + SIZE // limits.KIB)
        for fd in (source, target):
            stack.callback(os.close, fd)
        key = _core.AgeKey.generate()
        runs["ours"] = lambda: ours(source, target, key)
        try:
            pyrage(source, target)
            runs[PYRAGE] = lambda: pyrage(source, target)
        except Unavailable as error:
            missing[PYRAGE] = error.message
        try:
            program = loadgen.binary(say)
            runs[CRATE] = lambda: _crate(program)
        except Unavailable as error:
            missing[CRATE] = error.message
        found: dict[str, list[Speeds]] = {name: [] for name in runs}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, run in runs.items():
                found[name].append(run())
    return tuple(
        _row(what, index, found, name, missing)
        for index, what in enumerate(("seal", "open"))
        for name in (PYRAGE, CRATE)
    )


def _crate(program: Path) -> Speeds:
    said = loadgen.run(program, "age", SIZE)
    return Speeds(SIZE / said["seal"] / GB, SIZE / said["open"] / GB)


def _row(what: str, index: int, found: dict[str, list[Speeds]], peer: str, missing: dict[str, str]) -> Row:
    note = "from memory file to memory file, " + (
        "with the SHA-256 of the result" if what == "seal" else "with the header's identity"
    )
    if peer in missing:
        note += f"; no peer: {missing[peer]}"
    return compare(
        f"{what} 256 MiB",
        "GB/s",
        [speeds[index] for speeds in found["ours"]],
        [speeds[index] for speeds in found.get(peer, ())],
        peer_name=peer,
        note=note,
    )


__all__ = ["measure"]
