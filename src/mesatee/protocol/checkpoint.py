"""Checkpoints: the log's signed head (C2SP tlog-checkpoint in a C2SP signed-note, Ed25519).

Two extension lines say the log's time and epoch; witnesses that do not know them still cosign the whole text.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from .._core import verify_ed25519
from ..errors import Malformed, SignatureInvalid, TooLarge
from . import limits
from .digests import b64decode, b64encode
from .envelope import Signer

_ED25519 = b"\x01"
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z")
MAX_SIGNATURE_LINES = 16
"""The log's own signature and cosignatures."""
REMEMBERED = 256
"""Notes that are remembered parsed, and as many verified, in 1 MiB at most: many statements carry the same one."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified or yet unverified head: `text` is what is signed, `note` the whole signed note."""

    origin: str
    size: int
    root: bytes
    time: int
    epoch: int
    note: str

    @property
    def text(self) -> str:
        """The signed part."""
        return body(self.origin, self.size, self.root, self.time, self.epoch)


def check_origin(origin: str) -> str:
    """A log's name: a schema-less URL as tlog-checkpoint advises. Raises `Malformed`."""
    if not _ORIGIN.match(origin):
        raise Malformed("a log origin has 1 to 128 of letters, digits and ._/-")
    return origin


def body(origin: str, size: int, root: bytes, time: int, epoch: int) -> str:
    """The note's text, with its final newline."""
    return f"{origin}\n{size}\n{b64encode(root)}\ntime {time}\nepoch {epoch}\n"


def key_hash(origin: str, public: bytes) -> bytes:
    """signed-note: the first four bytes of SHA-256(name || LF || 0x01 || public key)."""
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + public).digest()[:4]


def verifier_key(origin: str, public: bytes) -> str:
    """The vkey encoding of signed-note, for other tools."""
    return f"{origin}+{key_hash(origin, public).hex()}+{b64encode(_ED25519 + public)}"


def sign(origin: str, size: int, root: bytes, time: int, epoch: int, signer: Signer) -> Checkpoint:
    """Sign a head."""
    text = body(check_origin(origin), size, root, time, epoch)
    signature = b64encode(key_hash(origin, signer.public) + signer.sign(text.encode()))
    return Checkpoint(origin, size, root, time, epoch, f"{text}\n\u2014 {origin} {signature}\n")


@lru_cache(maxsize=REMEMBERED)
def parse(note: str) -> Checkpoint:
    """Parse without verifying. Raises `Malformed` or `TooLarge`."""
    if len(note) > limits.CHECKPOINT_BYTES or len(note.encode("utf-8", "replace")) > limits.CHECKPOINT_BYTES:
        raise TooLarge(f"a checkpoint has at most {limits.CHECKPOINT_BYTES} bytes")
    text, separator, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) != 5 or not signatures.endswith("\n"):
        raise Malformed("a checkpoint has five lines, an empty one and signatures")
    time, epoch = lines[3].removeprefix("time "), lines[4].removeprefix("epoch ")
    if lines[3] == time or lines[4] == epoch or not all(map(_NUMBER.match, (lines[1], time, epoch))):
        raise Malformed("a checkpoint's size, time and epoch are decimal numbers")
    root = b64decode(lines[2], max_bytes=32)
    if len(root) != 32:
        raise Malformed("a root hash has 32 bytes")
    return Checkpoint(check_origin(lines[0]), int(lines[1]), root, int(time), int(epoch), note)


@lru_cache(maxsize=REMEMBERED)
def verify(note: str, origin: str, public: bytes) -> Checkpoint:
    """The checkpoint, if the log `origin` with key `public` signed it.

    Raises `SignatureInvalid`, `Malformed` or `TooLarge`.
    """
    checkpoint = parse(note)
    if checkpoint.origin != origin:
        raise SignatureInvalid(f"the checkpoint is of log {checkpoint.origin}, not of {origin}")
    lines = note.partition("\n\n")[2].rstrip("\n").split("\n")
    if len(lines) > MAX_SIGNATURE_LINES:
        raise TooLarge(f"a checkpoint has at most {MAX_SIGNATURE_LINES} signatures")
    wanted = key_hash(origin, public)
    for line in lines:
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014":
            raise Malformed("a signature line is a dash, a name and base64")
        raw = b64decode(parts[2], max_bytes=128)
        if parts[1] == origin and raw[:4] == wanted:
            # A length other than 64 is refused by the core as malformed.
            verify_ed25519(public, raw[4:], checkpoint.text.encode())
            return checkpoint
    raise SignatureInvalid(f"no signature of the log {origin} on the checkpoint")


__all__ = ["Checkpoint", "body", "check_origin", "key_hash", "parse", "sign", "verifier_key", "verify"]
