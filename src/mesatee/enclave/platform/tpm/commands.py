"""The TPM 2.0 commands that we use, one method each (TPM 2.0 Library, Part 3).

Hierarchies, keys and NV indices are used with their empty password, as Linux leaves them. What is secret
(`create_sealed`, `unseal`) travels in buffers that are wiped, but in clear between us and the TPM: whoever taps
the bus of a discrete TPM, or is the hypervisor of a virtual one, reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from mesatee.enclave.platform.kernel import wipe
from mesatee.enclave.platform.tpm.public import Public
from mesatee.enclave.platform.tpm.transport import Transport
from mesatee.enclave.platform.tpm.wire import (
    AGAIN,
    ENDORSEMENT,
    NO_ALGORITHM,
    NULL,
    OWNER,
    PASSWORD,
    SHA256,
    Code,
    Rc,
    Reader,
    Response,
    base,
    command,
    rc_text,
    response,
    selection,
    sized,
    u16,
    u32,
)
from mesatee.errors import KeyRefused, Malformed, NotFound, TooLarge, Unavailable

ATTEMPTS: Final = 6
"""How often a command is sent while the TPM asks to be asked again."""
WAIT_SECONDS: Final = 0.02
"""Before the second attempt; doubled before each further one."""
NV_BYTES: Final = 16 * 1024
"""What is read of one NV index, in bytes: certificates and Azure's report have at most 4 KiB."""
_NV_PIECE: Final = 512
"""One NV read or write, in bytes: every PC client TPM takes as many."""
_SECRET_BYTES: Final = 128
"""What a TPM seals or hides in a credential, in bytes (MAX_SYM_DATA)."""
_POLICY_SESSION: Final = 1
_PROPERTIES: Final = 6
_MANUFACTURER: Final = 0x105
_VENDOR: Final = range(0x106, 0x10A)

# TPMA_NV, Part 2 section 13.4.
NV_OWNER_WRITE: Final = 1 << 1
NV_AUTH_WRITE: Final = 1 << 2
NV_COUNTER: Final = 1 << 4
NV_OWNER_READ: Final = 1 << 17
NV_AUTH_READ: Final = 1 << 18
NV_NO_DA: Final = 1 << 25
NV_WRITTEN: Final = 1 << 29


@dataclass(frozen=True, slots=True)
class Key:
    """A loaded key."""

    handle: int
    public: Public


@dataclass(frozen=True, slots=True)
class NvIndex:
    """What NV_ReadPublic says."""

    index: int
    attributes: int
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote's two parts."""

    attest: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""


@dataclass(frozen=True, slots=True)
class Created:
    """A sealed object, and what proves when it was made. Nothing in it is secret."""

    private: bytes
    """TPM2B_PRIVATE's content: encrypted by the TPM."""
    area: bytes
    """TPMT_PUBLIC, with the policy's digest."""
    creation: bytes
    """TPMS_CREATION_DATA: with the PCRs of that moment."""
    ticket: bytes
    """TPMT_TK_CREATION: the TPM's word for it, which only this TPM can check."""


class Tpm:
    """One connection. Use it in one thread, in a ``with`` block."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __enter__(self) -> Tpm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    # -- one command ---------------------------------------------------------------------------------

    def _try(
        self,
        code: Code,
        handles: Sequence[int] = (),
        params: bytes | bytearray = b"",
        auths: Sequence[int] = (),
        *,
        makes: bool = False,
    ) -> Response:
        """Send and take the answer apart, whatever its code; again while the TPM asks for that."""
        sent = command(code, handles, auths, params)
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(WAIT_SECONDS * (1 << attempt - 1))
                found = response(self._transport.transmit(sent), handle=makes, sessions=bool(auths))
                if found.code not in AGAIN:
                    return found
        finally:
            wipe(sent)
        raise Unavailable(f"the TPM puts {code.name} off: {rc_text(found.code)}")

    def _do(
        self,
        code: Code,
        handles: Sequence[int] = (),
        params: bytes | bytearray = b"",
        auths: Sequence[int] = (),
        *,
        makes: bool = False,
    ) -> Response:
        """As `_try`, and raise for a failure."""
        return _sound(code, self._try(code, handles, params, auths, makes=makes))

    def flush(self, handle: int) -> None:
        """Forget a loaded object or session."""
        self._do(Code.FLUSH_CONTEXT, params=u32(handle))

    @contextlib.contextmanager
    def _loaded(self, handle: int) -> Iterator[int]:
        try:
            yield handle
        except BaseException:
            # The first error is the one to report, be it that the connection is gone.
            with contextlib.suppress(Unavailable, Malformed):
                self.flush(handle)
            raise
        self.flush(handle)

    # -- keys ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def primary(self, hierarchy: int, template: bytes) -> Iterator[Key]:
        """CreatePrimary: the same template gives the same key until the hierarchy is cleared."""
        empty = sized(sized(b"") + sized(b""))
        params = empty + sized(template) + sized(b"") + u32(0)
        made = self._do(Code.CREATE_PRIMARY, [hierarchy], params, [PASSWORD], makes=True)
        with self._loaded(made.handle) as handle:
            yield Key(handle, Public.parse(made.params.sized()))

    def read_public(self, handle: int) -> Public:
        """ReadPublic. Raises `NotFound` if nothing is at this handle."""
        found = self._try(Code.READ_PUBLIC, [handle])
        if base(found.code) == Rc.HANDLE:
            raise NotFound(f"the TPM has no key at {handle:#x}")
        public = Public.parse(_sound(Code.READ_PUBLIC, found).params.sized())
        if found.params.sized(64) != public.name:
            raise Malformed("the TPM's name of a key is not that of its public area")
        return public

    # -- quotes and PCRs -----------------------------------------------------------------------------

    def quote(self, key: int, nonce: bytes, pcrs: Iterable[int], bank: int = SHA256) -> Quoted:
        """Quote with the key's own scheme. A TPM takes a nonce of 2 bytes less than its longest digest."""
        params = sized(nonce) + u16(NO_ALGORITHM) + selection(pcrs, bank)
        found = self._do(Code.QUOTE, [key], params, [PASSWORD]).params
        return Quoted(found.sized(), found.rest())

    def pcr_read(self, pcrs: Iterable[int], bank: int = SHA256) -> dict[int, bytes]:
        """PCR -> value, all of one moment. Raises `NotFound` if the TPM does not keep this bank."""
        for _ in range(ATTEMPTS):
            if (values := self._pcr_read(set(pcrs), bank)) is not None:
                return values
        raise Unavailable("PCRs change faster than they can be read")

    def _pcr_read(self, missing: set[int], bank: int) -> dict[int, bytes] | None:
        values: dict[int, bytes] = {}
        first: int | None = None
        while missing:
            answer = self._try(Code.PCR_READ, params=selection(missing, bank))
            if base(answer.code) == Rc.HASH:
                raise NotFound(f"the TPM does not know PCR banks of algorithm {bank:#x}")
            found = _sound(Code.PCR_READ, answer).params
            counter = found.number(4)
            if first is not None and counter != first:
                return None
            first = counter
            given = sorted(_selected(found, bank) & missing)
            digests = [found.sized(64) for _ in range(found.number(4))]
            if not digests or len(digests) != len(given):
                raise NotFound(f"the TPM keeps no PCR bank of algorithm {bank:#x}")
            values.update(zip(given, digests, strict=True))
            missing -= set(given)
        return dict(sorted(values.items()))

    def pcr_extend(self, pcr: int, digest: bytes, bank: int = SHA256) -> None:
        """PCR_Extend by a digest of the bank's length."""
        self._do(Code.PCR_EXTEND, [pcr], u32(1) + u16(bank) + digest, [PASSWORD])

    # -- sessions and credentials --------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, kind: int) -> Iterator[int]:
        params = sized(os.urandom(16)) + sized(b"") + bytes([kind]) + u16(NO_ALGORITHM) + u16(SHA256)
        made = self._do(Code.START_AUTH_SESSION, [NULL, NULL], params, makes=True)
        with self._loaded(made.handle) as handle:
            yield handle

    def activate_credential(self, ak: int, ek: int, blob: bytes, encrypted: bytes) -> bytes:
        """The secret in a credential that a verifier made for these two keys (Part 1, section 24), by software alone.

        Raises `KeyRefused` if it was made for other keys.
        """
        with self._session(_POLICY_SESSION) as session:
            nothing = sized(b"") + sized(b"") + sized(b"") + u32(0)
            self._do(Code.POLICY_SECRET, [ENDORSEMENT, session], nothing, [PASSWORD])
            params = sized(blob) + sized(encrypted)
            found = self._try(Code.ACTIVATE_CREDENTIAL, [ak, ek], params, [PASSWORD, session])
        if base(found.code) in (Rc.INTEGRITY, Rc.VALUE, Rc.SIZE):
            raise KeyRefused(f"the credential is for other keys of a TPM: {rc_text(found.code)}")
        return _sound(Code.ACTIVATE_CREDENTIAL, found).params.sized(_SECRET_BYTES)

    # -- sealing -------------------------------------------------------------------------------------

    def create_sealed(
        self, parent: int, template: bytes, secret: bytearray, pcrs: Iterable[int], bank: int = SHA256
    ) -> Created:
        """Create a data object; its creation data names these PCRs as they are now. `secret` is wiped."""
        front = u16(4 + len(secret)) + u16(0) + u16(len(secret))
        behind = sized(template) + sized(b"") + selection(pcrs, bank)
        # Of its full size from the start: a buffer that grows leaves a copy where it was before.
        params = bytearray(len(front) + len(secret) + len(behind))
        params[: len(front)] = front
        params[len(front) : -len(behind)] = secret
        params[-len(behind) :] = behind
        wipe(secret)
        try:
            found = self._do(Code.CREATE, [parent], params, [PASSWORD]).params
        finally:
            wipe(params)
        private, area, creation = found.sized(), found.sized(), found.sized()
        found.sized(64)
        return Created(private, area, creation, found.rest())

    def unseal(self, parent: int, made: Created, pcrs: Iterable[int], bank: int = SHA256) -> bytearray:
        """Load and unseal under a session of the PCRs as they are. Raises `KeyRefused` if they are others, or if
        the creation data is not this object's.

        The caller wipes what is returned.
        """
        chosen = tuple(pcrs)
        loaded = self._try(
            Code.LOAD, [parent], sized(made.private) + sized(made.area), [PASSWORD], makes=True
        )
        if base(loaded.code) in (Rc.INTEGRITY, Rc.SIZE, Rc.VALUE):
            raise KeyRefused(f"the sealed object is of another TPM or altered: {rc_text(loaded.code)}")
        with (
            self._loaded(_sound(Code.LOAD, loaded).handle) as item,
            self._session(_POLICY_SESSION) as session,
        ):
            self._certify_creation(item, made)
            self._do(Code.POLICY_PCR, [session], sized(b"") + selection(chosen, bank))
            found = self._try(Code.UNSEAL, [item], auths=[session])
            if base(found.code) in (Rc.POLICY_FAIL, Rc.PCR_CHANGED):
                raise KeyRefused(
                    f"the PCRs are not those to which the key is sealed: {rc_text(found.code)}",
                    hint="another system booted: start the former one, or hand the keys over again",
                )
            body = _sound(Code.UNSEAL, found).params
            secret = body.secret(_SECRET_BYTES)
            # `Reader` looks into the response itself, which must not keep the secret either.
            body.data[:] = bytes(len(body.data))
            return secret

    def _certify_creation(self, item: int, made: Created) -> None:
        """Have the TPM check its ticket. Nobody signs the answer: that it is given at all is what counts."""
        digest = hashlib.sha256(made.creation).digest()
        params = sized(b"") + sized(digest) + u16(NO_ALGORITHM) + made.ticket
        found = self._try(Code.CERTIFY_CREATION, [NULL, item], params, [PASSWORD])
        if base(found.code) in (Rc.TICKET, Rc.SIZE, Rc.VALUE, Rc.TAG, Rc.INSUFFICIENT):
            raise KeyRefused(f"the TPM did not make the sealed object so: {rc_text(found.code)}")
        _sound(Code.CERTIFY_CREATION, found)

    # -- NV ------------------------------------------------------------------------------------------

    def nv_public(self, index: int) -> NvIndex | None:
        """What is defined at the index; None if nothing is."""
        found = self._try(Code.NV_READ_PUBLIC, [index])
        if base(found.code) in (Rc.HANDLE, Rc.VALUE):
            return None
        area = Reader.of(_sound(Code.NV_READ_PUBLIC, found).params.sized())
        said, _, attributes = area.number(4), area.number(2), area.number(4)
        area.sized(64)
        size = area.number(2)
        area.done()
        if said != index:
            raise Malformed("the TPM describes another NV index")
        return NvIndex(index, attributes, size)

    def nv_define(self, index: int, attributes: int, size: int) -> None:
        """Define an index of the owner, with an empty password."""
        area = u32(index) + u16(SHA256) + u32(attributes) + sized(b"") + u16(size)
        self._do(Code.NV_DEFINE, [OWNER], sized(b"") + sized(area), [PASSWORD])

    def nv_undefine(self, index: int) -> None:
        """Remove an index of the owner."""
        self._do(Code.NV_UNDEFINE, [OWNER, index], auths=[PASSWORD])

    def nv_read(self, index: int) -> bytes:
        """All that the index holds. Raises `NotFound`, also if nothing was ever written, and `TooLarge`."""
        found = self.nv_public(index)
        if found is None or not found.attributes & NV_WRITTEN:
            raise NotFound(f"NV index {index:#x} of the TPM is empty")
        if found.size > NV_BYTES:
            raise TooLarge(f"NV index {index:#x} has {found.size} bytes, the limit is {NV_BYTES}")
        by = index if found.attributes & NV_AUTH_READ else OWNER
        content = b""
        while len(content) < found.size:
            count = min(_NV_PIECE, found.size - len(content))
            params = u16(count) + u16(len(content))
            piece = self._do(Code.NV_READ, [by, index], params, [PASSWORD]).params.sized(count)
            if not piece:
                raise Malformed(f"NV index {index:#x} ends before its size")
            content += piece
        return content

    def nv_write(self, index: int, content: bytes) -> None:
        """Write from the front. Raises `NotFound`."""
        found = self.nv_public(index)
        if found is None:
            raise NotFound(f"NV index {index:#x} of the TPM is not defined")
        by = index if found.attributes & NV_AUTH_WRITE else OWNER
        for start in range(0, len(content), _NV_PIECE):
            piece = content[start : start + _NV_PIECE]
            self._do(Code.NV_WRITE, [by, index], sized(piece) + u16(start), [PASSWORD])

    def nv_increment(self, index: int) -> None:
        """One more on a counter."""
        found = self.nv_public(index)
        if found is None:
            raise NotFound(f"NV index {index:#x} of the TPM is not defined")
        by = index if found.attributes & NV_AUTH_WRITE else OWNER
        self._do(Code.NV_INCREMENT, [by, index], auths=[PASSWORD])

    # -- what it is ----------------------------------------------------------------------------------

    def properties(self, first: int, count: int) -> Mapping[int, int]:
        """Fixed and variable properties (GetCapability, TPM_CAP_TPM_PROPERTIES)."""
        params = u32(_PROPERTIES) + u32(first) + u32(count)
        found = self._do(Code.GET_CAPABILITY, params=params).params
        found.take(1)
        if found.number(4) != _PROPERTIES:
            raise Malformed("the TPM answers another capability")
        listed = found.number(4)
        if listed > count:
            raise Malformed("the TPM lists more properties than were asked for")
        return {found.number(4): found.number(4) for _ in range(listed)}

    def vendor(self) -> str:
        """Manufacturer and model as the TPM names itself, e.g. ``IBM SW   TPM``. Nothing vouches for it."""
        found = self.properties(_MANUFACTURER, 1 + len(_VENDOR))
        parts = [found.get(name, 0).to_bytes(4) for name in (_MANUFACTURER, *_VENDOR)]
        maker, model = parts[0], b"".join(parts[1:])
        return " ".join(part.rstrip(b"\0 ").decode("ascii", "replace") for part in (maker, model)).strip()


def _sound(code: Code, found: Response) -> Response:
    if found.code != Rc.SUCCESS:
        raise Unavailable(f"the TPM refused {code.name}: {rc_text(found.code)}")
    return found


def _selected(reader: Reader, bank: int) -> set[int]:
    """The PCRs of one bank in a TPML_PCR_SELECTION."""
    chosen: set[int] = set()
    for _ in range(reader.number(4)):
        hashed, size = reader.number(2), reader.number(1)
        bits = int.from_bytes(reader.take(size), "little")
        if hashed == bank:
            chosen |= {pcr for pcr in range(size * 8) if bits >> pcr & 1}
    return chosen


__all__ = [
    "NV_AUTH_READ",
    "NV_AUTH_WRITE",
    "NV_BYTES",
    "NV_COUNTER",
    "NV_NO_DA",
    "NV_OWNER_READ",
    "NV_OWNER_WRITE",
    "NV_WRITTEN",
    "Created",
    "Key",
    "NvIndex",
    "Quoted",
    "Tpm",
]
