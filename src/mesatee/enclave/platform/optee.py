"""OP-TEE: a signed digest of the trusted kernel's memory, by the attestation pseudo TA.

Source: optee_os, lib/libutee/include/pta_attestation.h and core/pta/attestation.c (CFG_ATTESTATION_PTA); Linux,
include/uapi/linux/tee.h. Of its commands the normal world may use two: 0 gives the public key, 3 a SHA-256 of the
trusted kernel's code and constants with an RSASSA-PSS signature over nonce and digest. Both go through shared memory
that the driver maps.

What that proves is little: which trusted kernel runs. The key is made by the device itself at first use and no
manufacturer vouches for it, so a verifier must know it beforehand; Linux and this process are not measured, and any
other process gets the same signature. So no channel takes it; `mesatee attestation verify` says what it proves.

What cannot run here: no OP-TEE is at hand. The calls are tested against a fake of the device that checks them as the
driver does.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesatee.attestation.bundle import Bundle
from mesatee.enclave.platform import spki
from mesatee.enclave.platform.collect import exactly_64
from mesatee.enclave.platform.kernel import Buffer, Kernel, Linux, opened, reported
from mesatee.errors import Malformed, NotFound, Unavailable

DEVICE: Final = Path("dev/tee0")
"""The driver for clients, below the root of the file system."""
PTA: Final = bytes.fromhex("39800861182a47209b672bcd622bc0b5")
"""39800861-182a-4720-9b67-2bcd622bc0b5."""
GET_PUBLIC_KEY: Final = 0
HASH_TEE_MEMORY: Final = 3
VERSION: Final = 0x800C_A400
ALLOCATE: Final = 0xC010_A401
OPEN_SESSION: Final = 0x8010_A402
INVOKE: Final = 0x8010_A403
CLOSE_SESSION: Final = 0x8004_A405
IMPLEMENTATION_OPTEE: Final = 1
ALGORITHM: Final = 0x7041_4930
"""TEE_ALG_RSASSA_PKCS1_PSS_MGF1_SHA256."""
KEY_BYTES: Final = 512
"""An RSA modulus, and a signature, in bytes at most (RSA 4096)."""
DIGEST_BYTES: Final = 32
_PAGE: Final = 4096
_EXPONENT_BYTES: Final = 8
_VALUE_OUT: Final = 2
_MEMORY_IN: Final = 5
_MEMORY_OUT: Final = 6
_PARAMETER: Final = struct.Struct("<QQQQ")
_OPEN: Final = struct.Struct("<16s16sIIIIII")
_INVOKE: Final = struct.Struct("<IIIIII")
_BUFFER: Final = struct.Struct("<QQ")
_SHARED: Final = struct.Struct("<QIi")

Parameter = tuple[int, int, int, int]
"""Attribute, then of memory: offset, size and id of the shared memory; of a value: a, b and c."""


class OpteeCollector:
    """Collects from the attestation pseudo TA."""

    tee: str = "optee"
    level: int = 1
    links: Mapping[str, bytes] = MappingProxyType({})

    def __init__(self, *, root: Path = Path("/"), kernel: Kernel | None = None) -> None:
        """Nothing is opened yet."""
        self._kernel = kernel or Linux()
        self._path = root / DEVICE

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`. The report data is the nonce."""
        nonce = exactly_64(report_data)
        with reported("/dev/tee0"), opened(self._kernel, self._path, os.O_RDWR) as handle:
            version = bytearray(12)
            self._kernel.ioctl(handle, VERSION, version)
            if int.from_bytes(version[:4], "little") != IMPLEMENTATION_OPTEE:
                raise NotFound("/dev/tee0 is of another trusted system than OP-TEE")
            session = _Session(self._kernel, handle)
            try:
                files = session.measure(nonce)
            finally:
                session.close()
        return Bundle(self.tee, files)


class _Session:
    """An open session with the pseudo TA, and one page shared with it."""

    def __init__(self, kernel: Kernel, handle: int) -> None:
        self._kernel, self._handle = kernel, handle
        opening = _OPEN.pack(PTA, bytes(16), 0, 0, 0, 0, 0, 0)
        answer = _OPEN.unpack(self._call(OPEN_SESSION, opening)[: _OPEN.size])
        _refused("a session with OP-TEE's attestation", answer[5])
        self._id = answer[4]

    def _call(self, request: int, content: bytes) -> bytes:
        argument = Buffer(content)
        self._kernel.ioctl(self._handle, request, bytearray(_BUFFER.pack(argument.address, len(argument))))
        return bytes(argument)

    def close(self) -> None:
        self._kernel.ioctl(self._handle, CLOSE_SESSION, bytearray(self._id.to_bytes(4, "little")))

    def measure(self, nonce: bytes) -> dict[str, bytes]:
        shared = bytearray(_SHARED.pack(_PAGE, 0, 0))
        # The call's result is a descriptor of the memory, which lives as long as it or a map of it does.
        descriptor = self._kernel.ioctl(self._handle, ALLOCATE, shared)
        try:
            with self._kernel.map(descriptor, _PAGE) as memory:
                key = _SHARED.unpack(shared)[2]
                return {**self._public_key(memory, key), **self._digest(memory, key, nonce)}
        finally:
            self._kernel.close(descriptor)

    def _invoke(self, command: int, parameters: Sequence[Parameter]) -> list[Parameter]:
        head = _INVOKE.pack(command, self._id, 0, 0, 0, len(parameters))
        sent = head + b"".join(_PARAMETER.pack(*each) for each in parameters)
        answer = self._call(INVOKE, sent)
        _refused(f"command {command} of OP-TEE's attestation", _INVOKE.unpack(answer[: _INVOKE.size])[3])
        return list(_PARAMETER.iter_unpack(answer[_INVOKE.size :]))

    def _public_key(self, memory: mmap.mmap, shared: int) -> dict[str, bytes]:
        found = self._invoke(
            GET_PUBLIC_KEY,
            [
                (_MEMORY_OUT, 0, _EXPONENT_BYTES, shared),
                (_MEMORY_OUT, _EXPONENT_BYTES, KEY_BYTES, shared),
                (_VALUE_OUT, 0, 0, 0),
            ],
        )
        if found[2][1] != ALGORITHM:
            raise Malformed(f"OP-TEE's attestation signs by algorithm {found[2][1]:#x}")
        exponent = _taken(memory, 0, found[0][2], _EXPONENT_BYTES)
        modulus = _taken(memory, _EXPONENT_BYTES, found[1][2], KEY_BYTES)
        return {"public_key": spki.pem("PUBLIC KEY", spki.rsa(modulus, exponent))}

    def _digest(self, memory: mmap.mmap, shared: int, nonce: bytes) -> dict[str, bytes]:
        memory[: len(nonce)] = nonce
        room = DIGEST_BYTES + KEY_BYTES
        found = self._invoke(
            HASH_TEE_MEMORY,
            [(_MEMORY_IN, 0, len(nonce), shared), (_MEMORY_OUT, len(nonce), room, shared)],
        )
        answer = _taken(memory, len(nonce), found[1][2], room)
        if len(answer) <= DIGEST_BYTES:
            raise Malformed("OP-TEE's attestation has no signature")
        return {"digest": answer[:DIGEST_BYTES], "signature": answer[DIGEST_BYTES:], "nonce": nonce}


def _taken(memory: mmap.mmap, start: int, size: int, room: int) -> bytes:
    if not 0 < size <= room:
        raise Malformed(f"OP-TEE's attestation wrote {size} bytes into {room}")
    return bytes(memory[start : start + size])


def _refused(what: str, code: int) -> None:
    if code != 0:
        raise Unavailable(f"{what} was refused: {code:#x}")


__all__ = ["DEVICE", "PTA", "OpteeCollector"]
