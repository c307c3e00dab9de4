"""How TPM 2.0 commands and responses look as bytes (TPM 2.0 Library, Part 1 section 18 and Part 2).

A response comes from a device or a simulator that we do not trust to keep to the format: `Reader` never reads
past the end, sizes are bounded, and whatever is wrong raises `Malformed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from mesatee.errors import Malformed, TooLarge

MESSAGE_BYTES: Final = 4096
"""A command or response, in bytes: the kernel's TPM driver has no larger buffer."""
HEADER_BYTES: Final = 10
"""Tag, size and code in front of every command and response."""
NO_SESSIONS: Final = 0x8001
SESSIONS: Final = 0x8002
OWNER: Final = 0x4000_0001
NULL: Final = 0x4000_0007
PASSWORD: Final = 0x4000_0009
ENDORSEMENT: Final = 0x4000_000B
SHA256: Final = 0x000B
NO_ALGORITHM: Final = 0x0010
PCRS: Final = 24
"""Platform configuration registers of a PC client TPM."""
_CONTINUE: Final = 1


class Code(IntEnum):
    """Command codes (Part 2, section 6.5.2)."""

    NV_UNDEFINE = 0x122
    EVICT_CONTROL = 0x120
    NV_DEFINE = 0x12A
    CREATE_PRIMARY = 0x131
    NV_INCREMENT = 0x134
    NV_WRITE = 0x137
    ACTIVATE_CREDENTIAL = 0x147
    CERTIFY_CREATION = 0x14A
    NV_READ = 0x14E
    POLICY_SECRET = 0x151
    CREATE = 0x153
    LOAD = 0x157
    QUOTE = 0x158
    UNSEAL = 0x15E
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    START_AUTH_SESSION = 0x176
    GET_CAPABILITY = 0x17A
    PCR_READ = 0x17E
    POLICY_PCR = 0x17F
    PCR_EXTEND = 0x182


class Rc(IntEnum):
    """Response codes that we tell apart or name, without the number of the parameter (Part 2, section 6.6)."""

    SUCCESS = 0
    ATTRIBUTES = 0x082
    HASH = 0x083
    VALUE = 0x084
    HIERARCHY = 0x085
    HANDLE = 0x08B
    AUTH_FAIL = 0x08E
    SCHEME = 0x092
    SIZE = 0x095
    SYMMETRIC = 0x096
    TAG = 0x097
    INSUFFICIENT = 0x09A
    KEY = 0x09C
    POLICY_FAIL = 0x09D
    INTEGRITY = 0x09F
    TICKET = 0x0A0
    BAD_AUTH = 0x0A2
    INITIALIZE = 0x100
    FAILURE = 0x101
    PCR_CHANGED = 0x128
    COMMAND_CODE = 0x143
    NV_RANGE = 0x146
    NV_LOCKED = 0x148
    NV_AUTHORIZATION = 0x149
    NV_UNINITIALIZED = 0x14A
    NV_DEFINED = 0x14C
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    YIELDED = 0x908
    TESTING = 0x90A
    NV_RATE = 0x920
    LOCKOUT = 0x921
    RETRY = 0x922


AGAIN: Final = frozenset({Rc.YIELDED, Rc.TESTING, Rc.NV_RATE, Rc.RETRY})
"""Not failures: the same command is to be sent again a little later (Part 2, section 6.6.3)."""


def base(code: int) -> int:
    """A response code without the number of the handle, parameter or session that it is about."""
    return code & 0xBF if code & 0x80 else code


def rc_text(code: int) -> str:
    """A response code in words.

    >>> rc_text(0x99D)
    'TPM_RC_POLICY_FAIL (0x99d)'
    """
    try:
        return f"TPM_RC_{Rc(base(code)).name} ({code:#x})"
    except ValueError:
        return f"response code {code:#x}"


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2)


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return value.to_bytes(4)


def sized(content: bytes | bytearray) -> bytearray:
    """A TPM2B: two bytes of size in front."""
    return bytearray(u16(len(content))) + content


def selection(pcrs: Iterable[int], bank: int = SHA256) -> bytes:
    """A TPML_PCR_SELECTION of one bank."""
    bits = 0
    for pcr in pcrs:
        if not 0 <= pcr < PCRS:
            raise Malformed(f"there is no PCR {pcr}")
        bits |= 1 << pcr
    return u32(1) + u16(bank) + b"\x03" + bits.to_bytes(3, "little")


@dataclass(slots=True)
class Reader:
    """Takes a response apart from its front."""

    data: memoryview
    position: int = 0

    @classmethod
    def of(cls, data: bytes | bytearray) -> Reader:
        """Read from the front of `data`."""
        return cls(memoryview(data))

    def _view(self, count: int) -> memoryview:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise Malformed("a TPM structure ends in the middle of a field")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        return bytes(self._view(count))

    def number(self, count: int) -> int:
        """A big-endian number of `count` bytes."""
        return int.from_bytes(self._view(count))

    def sized(self, limit: int = MESSAGE_BYTES) -> bytes:
        """The content of a TPM2B of at most `limit` bytes."""
        count = self.number(2)
        if count > limit:
            raise TooLarge(f"a TPM structure of {count} bytes, the limit is {limit}")
        return self.take(count)

    def secret(self, limit: int) -> bytearray:
        """The content of a TPM2B, in memory that can be wiped."""
        count = self.number(2)
        if count > limit:
            raise TooLarge(f"a TPM structure of {count} bytes, the limit is {limit}")
        return bytearray(self._view(count))

    def inner(self, count: int) -> Reader:
        """A reader of the next `count` bytes alone."""
        return Reader(self._view(count))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self.data) - self.position)

    def done(self) -> None:
        """Raises `Malformed` if anything is left."""
        if self.position != len(self.data):
            raise Malformed("bytes follow a TPM structure")


def command(
    code: Code, handles: Sequence[int], auths: Sequence[int], params: bytes | bytearray = b""
) -> bytearray:
    """A command. Each of `auths` is a session, or `PASSWORD` for the empty password."""
    body = bytearray().join(u32(handle) for handle in handles)
    if auths:
        # Handle, empty nonce, attributes, empty HMAC (Part 1, section 18.6).
        area = b"".join(u32(auth) + u16(0) + bytes([_CONTINUE]) + u16(0) for auth in auths)
        body += u32(len(area)) + area
    size = HEADER_BYTES + len(body) + len(params)
    if size > MESSAGE_BYTES:
        raise TooLarge(f"a TPM command of {size} bytes, the limit is {MESSAGE_BYTES}")
    head = u16(SESSIONS if auths else NO_SESSIONS) + u32(size) + u32(code) + body
    # Of its full size from the start: a buffer that grows leaves a copy of what may be secret where it was before.
    out = bytearray(size)
    out[: len(head)] = head
    out[len(head) :] = params
    return out


@dataclass(frozen=True, slots=True)
class Response:
    """A response's parts."""

    code: int
    handle: int
    """Of the object that was made; 0 if the command makes none."""
    params: Reader


def response(data: bytearray, *, handle: bool, sessions: bool) -> Response:
    """Take a response apart. Raises `Malformed` or `TooLarge`.

    `handle` and `sessions` say what the command has: whether a handle, and authorisations, come back.
    """
    if len(data) > MESSAGE_BYTES:
        raise TooLarge(f"a TPM response of {len(data)} bytes, the limit is {MESSAGE_BYTES}")
    reader = Reader.of(data)
    tag, size, code = reader.number(2), reader.number(4), reader.number(4)
    if size != len(data):
        raise Malformed(f"a TPM response says {size} bytes and has {len(data)}")
    if code != Rc.SUCCESS:
        # A failure carries nothing else (Part 1, section 18.4); a TPM 1.2 answers with its own tag.
        if size != HEADER_BYTES:
            raise Malformed("a failed TPM response has more than its header")
        return Response(code, 0, reader)
    if tag != (SESSIONS if sessions else NO_SESSIONS):
        raise Malformed(f"a TPM response has tag {tag:#x}")
    made = reader.number(4) if handle else 0
    if sessions:
        params = reader.inner(reader.number(4))
        # What follows authorises the response; sessions without a key have nothing to check there.
        reader.rest()
        return Response(code, made, params)
    return Response(code, made, reader)


__all__ = [
    "AGAIN",
    "ENDORSEMENT",
    "HEADER_BYTES",
    "MESSAGE_BYTES",
    "NO_ALGORITHM",
    "NULL",
    "OWNER",
    "PASSWORD",
    "PCRS",
    "SHA256",
    "Code",
    "Rc",
    "Reader",
    "Response",
    "base",
    "command",
    "rc_text",
    "response",
    "selection",
    "sized",
    "u16",
    "u32",
]
