"""Intel's collateral for a DCAP quote, in whatever shape it travels.

A verifier needs TCB info and QE identity (each signed by Intel), the certificates of their signer and of the
platform's, and two revocation lists. They come as one JSON object of strings, as the answers of a provisioning
service, as a dump of ``sgx_ql_qve_collateral_t`` (Intel SGX ECDSA Quote Library Reference), as Open Enclave's
``oe_endorsements_t``, or as loose files in PEM, DER, hex or base64. So everything is recognised by its content
and put into one pool. That is safe, for nothing here is believed: the verifier asks of each piece who signed it.

What is signed is kept byte for byte.

>>> gather({"x": b'{"tcbInfo": {"version": 3}, "signature": "00"}'}).tcb_infos[0].text
b'{"version": 3}'
"""

from __future__ import annotations

import binascii
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeVar

from mesatee import _core
from mesatee.attestation import foreign
from mesatee.attestation.chains import read_certificate, read_crl
from mesatee.attestation.detect import INTEL_QE_VENDOR
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import BOM, parse_foreign

_DUMP: Final = struct.Struct("<II14Q")
_DUMP_VERSIONS: Final = (1, 3, 4)
_DUMP_LABELS: Final = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_OE: Final = struct.Struct("<IIII")
_OE_LABELS: Final = (
    "version",
    "tcb_info",
    "tcb_info_issuer_chain",
    "pck_crl",
    "root_ca_crl",
    "pck_crl_issuer_chain",
    "qe_identity",
    "qe_identity_issuer_chain",
    "creation_time",
)
_STATEMENTS: Final = "statements of one kind"
_TCB_INFO: Final = frozenset({"tcbinfo"})
_IDENTITY: Final = frozenset({"enclaveidentity", "qeidentity"})
_SIGNER_LABEL: Final = re.compile(r"tcb|ident")
_COMMENTS: Final = re.compile(rb"(?:#[^\n]*+(?:\n|\Z))++")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_PUNCTUATION: Final = re.compile(r"[^a-z0-9]+")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed JSON value: the very bytes, and the signature, r || s on P-256."""

    text: bytes
    signature: bytes


@dataclass(slots=True)
class Collateral:
    """The pool of what was found; nothing of it is verified. Filled by `gather` alone."""

    tcb_infos: list[Signed] = field(default_factory=list)
    identities: list[Signed] = field(default_factory=list)
    certificates: list[_core.X509] = field(default_factory=list)
    crls: list[bytes] = field(default_factory=list)
    """DER."""
    signer_chain: bool = False
    """Certificates came along that were said to be those of the signer of TCB info or QE identity."""
    notes: list[str] = field(default_factory=list)
    """What could not be read."""

    def note(self, text: str) -> None:
        """Remember `text`, once, and not without a bound."""
        if text not in self.notes and len(self.notes) < limits.CASE_FILES:
            self.notes.append(text)

    def add(self, part: Collateral) -> None:
        """Take over what `part` has, each piece once. Raises `TooLarge`: a piece that is left out might be the one
        that speaks against a platform.
        """
        for item in part.tcb_infos:
            _put(self.tcb_infos, item, limits.COLLATERAL_STATEMENTS, "TCB infos")
        for item in part.identities:
            _put(self.identities, item, limits.COLLATERAL_STATEMENTS, "identities of quoting enclaves")
        for crl in part.crls:
            _put(self.crls, crl, limits.CRLS, "revocation lists")
        for certificate in part.certificates:
            self.add_certificate(certificate)
        self.signer_chain |= part.signer_chain
        for text in part.notes:
            self.note(text)

    def add_certificate(self, certificate: _core.X509) -> None:
        """Put it into the pool, once. Raises `TooLarge`."""
        if all(certificate.der != other.der for other in self.certificates):
            _put(self.certificates, certificate, limits.COLLATERAL_CERTIFICATES, "certificates")


Item = TypeVar("Item", Signed, bytes, _core.X509)


def _put(into: list[Item], item: Item, limit: int, what: str) -> None:
    if item in into:
        return
    if len(into) == limit:
        raise TooLarge(
            f"there are more than {limit} {what} in the collateral, of which none may be left out",
            hint="keep only what is about this platform",
        )
    into.append(item)


def gather(files: Mapping[str, bytes]) -> Collateral:
    """Find the collateral in `files` (role -> bytes). Files that are something else are passed over.

    Raises `TooLarge` for more pieces than the pool holds. What cannot be read is in `notes`.
    """
    found = Collateral()
    for role, data in files.items():
        if len(data) > limits.COLLATERAL_BYTES:
            found.note(f"{_short(role)} is too large for collateral")
        else:
            found.add(_taken_apart(role, data))
    return found


@lru_cache(maxsize=limits.COLLATERAL_CACHED)
def _taken_apart(role: str, data: bytes) -> Collateral:
    """What one file has, which serves all machines of a kind. The value is shared: nobody may change it."""
    found = Collateral()
    _add(found, role, data, limits.WRAPPINGS)
    return found


def forget() -> None:
    """Take all files apart anew from now on."""
    _taken_apart.cache_clear()
    _pem_certificates.cache_clear()


def _add(found: Collateral, label: str, data: bytes, depth: int) -> None:
    """Recognise `data` by its content. `label` is the name that it came under, `depth` the wrappings to undo."""
    if depth < 0:
        return
    if len(data) > limits.COLLATERAL_BYTES:
        found.note(f"{_short(label)} is too large for collateral")
        return
    if data[12:28] == INTEL_QE_VENDOR:
        return  # the quote itself, in a text around it
    data = strip_comments(data)
    text = data.removeprefix(BOM).strip(b"\0 \r\n\t")
    if text[:1] in (b"{", b"["):
        _add_json(found, label, text, depth)
    elif b"-----BEGIN" in text:
        _add_pem(found, label, text)
    elif text[:1] == b'"':
        _add_string(found, label, text, depth)
    elif (blobs := _dump(data) or _open_enclave(data)) is not None:
        for name, blob in blobs:
            _add(found, name, blob, depth - 1)
    elif data[:2] in (b"\x30\x81", b"\x30\x82", b"\x30\x83"):
        _add_der(found, label, data)
    elif (inner := foreign.plain(text)) is not None:
        _add(found, label, inner, depth - 1)


def strip_comments(data: bytes) -> bytes:
    """Without the lines of comment that Open Enclave's test files begin with."""
    # In one step and without backtracking: line by line would copy the rest as often as there are lines.
    found = _COMMENTS.match(data)
    return data[found.end() :] if found else data


def _short(label: str) -> str:
    return label[: limits.NAME_CHARS]


# -- certificates and lists ---------------------------------------------------------------------------


def _add_pem(found: Collateral, label: str, text: bytes) -> None:
    if b"-----BEGIN%20" in text:
        # The provisioning service's headers carry chains percent-encoded.
        text = _PERCENT.sub(lambda found: binascii.unhexlify(found[1]), text)
    # Texts that were quoted once too often.
    text = text.replace(b"\\n", b"\n")
    for der in foreign.pem_crls(text):
        _add_value(found, label, der)
    try:
        certificates = _pem_certificates(text)
    except InputError as error:
        found.note(f"the certificates in {_short(label)}: {error.message}")
        found.signer_chain |= bool(_SIGNER_LABEL.search(label.lower()))
        return
    for der in certificates:
        _add_certificate(found, label, der)


@lru_cache(maxsize=limits.COLLATERAL_CACHED)
def _pem_certificates(text: bytes) -> list[bytes]:
    """Once for the same text: the two statements of a bundle have the same signer."""
    return _core.pem_certificates(text)


def _add_der(found: Collateral, label: str, data: bytes) -> None:
    """Certificates and lists in DER, one after the other; Open Enclave ends even DER with a NUL."""
    for _ in range(limits.CHAIN_CERTIFICATES):
        count = data[1] & 0x7F if len(data) > 1 else 0
        size = 2 + count + int.from_bytes(data[2 : 2 + count])
        _add_value(found, label, data[:size])
        data = data[size:]
        if not data.strip(b"\0\r\n"):
            return
    found.note(f"more than {limits.CHAIN_CERTIFICATES} values of DER in {_short(label)}")


def _add_value(found: Collateral, label: str, data: bytes) -> None:
    try:
        read_crl(data)
    except InputError:
        _add_certificate(found, label, data)
    else:
        _put(found.crls, data, limits.CRLS, "revocation lists")


def _add_certificate(found: Collateral, label: str, der: bytes) -> None:
    found.signer_chain |= bool(_SIGNER_LABEL.search(label.lower()))
    try:
        certificate = read_certificate(der)
    except InputError as error:
        found.note(
            f"what {_short(label)} holds is neither a certificate nor a revocation list: {error.message}"
        )
        return
    found.add_certificate(certificate)


# -- binary containers --------------------------------------------------------------------------------


def _dump(data: bytes) -> list[tuple[str, bytes]] | None:
    """The blobs of ``sgx_ql_qve_collateral_t`` behind their pointers, which mean nothing outside of the
    process that wrote them. None for anything else.
    """
    if len(data) < _DUMP.size:
        return None
    version, tee, *pairs = _DUMP.unpack_from(data)
    # The major version is the lower half (3.1 is written 0x00010003).
    if version & 0xFFFF not in _DUMP_VERSIONS or tee not in (0, 0x81):
        return None
    position, blobs = _DUMP.size, []
    for label, size in zip(_DUMP_LABELS, pairs[1::2], strict=True):
        if size > len(data) - position:
            return None
        blobs.append((label, data[position : position + size]))
        position += size
    return blobs


def _open_enclave(data: bytes) -> list[tuple[str, bytes]] | None:
    """The items of ``oe_endorsements_t``: version 1, type 2 (SGX ECDSA), size, count, offsets, items. None for
    anything else.
    """
    count = len(_OE_LABELS)
    if len(data) < _OE.size + 4 * count or _OE.unpack_from(data) != (1, 2, len(data) - _OE.size, count):
        return None
    # The size counts the table of offsets; the offsets count from its end.
    offsets = struct.unpack_from(f"<{count}I", data, _OE.size)
    items = data[_OE.size + 4 * count :]
    if list(offsets) != sorted(offsets) or offsets[-1] > len(items):
        return None
    bounds = zip(_OE_LABELS, offsets, (*offsets[1:], len(items)), strict=True)
    return [
        (label, items[start:end])
        for label, start, end in bounds
        if label.endswith(("info", "identity", "chain", "crl"))
    ]


# -- JSON -----------------------------------------------------------------------------------------------


def _add_json(found: Collateral, label: str, data: bytes, depth: int) -> None:
    try:
        # The strict parser bounds depth and size and refuses keys that stand twice; only then is the text cut.
        value = parse_foreign(data, limit=limits.COLLATERAL_BYTES)
        text = data.decode()
    except (InputError, ValueError):
        found.note(f"{_short(label)} is not JSON")
        return
    _walk(found, label, value, text, depth, limits.COLLATERAL_DEPTH)


def _add_string(found: Collateral, label: str, data: bytes, depth: int) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(value, str):
        _add(found, label, value.encode("utf-8", "replace"), depth - 1)


def _walk(found: Collateral, label: str, value: Any, text: str, depth: int, levels: int) -> None:
    """Look through the JSON value `value`, whose `text` was parsed strictly before, `levels` deep."""
    if levels == 0:
        found.note(f"{_short(label)} nests too deeply to be searched")
    elif isinstance(value, str):
        if len(value) >= limits.DETECT_CHARS:
            _add(found, label, value.encode("utf-8", "replace"), depth - 1)
    elif isinstance(value, list):
        if (data := foreign.byte_array(value)) is not None:
            _add(found, label, data, depth - 1)
            return
        for item, raw in zip(value[: limits.DETECT_LEAVES], _items(text), strict=False):
            _walk(found, label, item, raw, depth, levels - 1)
    elif isinstance(value, dict) and any(map(_is_worth_a_look, value.values())):
        # Texts are cut out only where a statement could stand in one: most bundles are objects of strings.
        nested = any(isinstance(item, dict | list) for item in value.values())
        raws = _members(text) if nested else {}
        members = {_plain(key): (key, item) for key, item in value.items()}
        for name, (key, item) in members.items():
            raw = raws.get(key, "")
            # Bundles name what they lack, too.
            if item == "" or item is None:
                continue
            into = found.tcb_infos if name in _TCB_INFO else found.identities if name in _IDENTITY else None
            signature = members.get(f"{name}signature", members.get("signature"))
            if into is not None and signature is not None:
                _add_signed(into, item if isinstance(item, str) else raw, signature[1])
            elif not name.endswith("signature"):
                _walk(found, key, item, raw, depth, levels - 1)
        if "tcblevels" in members:
            found.note(f"{_short(label)} has TCB levels, and no signature")


def _is_worth_a_look(value: Any) -> bool:
    """Short strings hold no certificate, list or statement, and event logs have thousands of them."""
    return isinstance(value, dict | list) or (isinstance(value, str) and len(value) >= limits.DETECT_CHARS)


def _add_signed(into: list[Signed], body: str, signature: Any) -> None:
    item = Signed(body.encode("utf-8", "replace"), _signature(signature))
    _put(into, item, limits.COLLATERAL_STATEMENTS, _STATEMENTS)
    # Tools that print JSON prettily put spaces into it, which Intel's statements have none of.
    if "\n" not in body and '": ' not in body:
        return
    try:
        compact = json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return
    _put(into, Signed(compact, item.signature), limits.COLLATERAL_STATEMENTS, _STATEMENTS)


def _signature(value: Any) -> bytes:
    """64 bytes from hex, base64 or an array; anything else becomes a signature that does not verify."""
    if isinstance(value, str):
        return foreign.plain(value.encode("utf-8", "replace")) or b""
    return foreign.byte_array(value) or b"" if isinstance(value, list) else b""


def _plain(name: str) -> str:
    return _PUNCTUATION.sub("", name.lower())


def _members(text: str) -> dict[str, str]:
    """Names and texts of an object's members."""
    found: dict[str, str] = {}
    position = _skip(text, 1)
    try:
        while text[position] != "}":
            key, position = _DECODER.raw_decode(text, position)
            start = _skip(text, _skip(text, position) + 1)  # past the colon
            _, end = _DECODER.raw_decode(text, start)
            found[str(key)] = text[start:end]
            position = _next(text, end)
    except (ValueError, IndexError):
        raise Malformed("a JSON object cannot be taken apart") from None
    return found


def _items(text: str) -> list[str]:
    """Texts of an array's items."""
    found: list[str] = []
    position = _skip(text, 1)
    try:
        while text[position] != "]":
            _, end = _DECODER.raw_decode(text, position)
            found.append(text[position:end])
            position = _next(text, end)
    except (ValueError, IndexError):
        raise Malformed("a JSON array cannot be taken apart") from None
    return found


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _next(text: str, position: int) -> int:
    position = _skip(text, position)
    return _skip(text, position + 1) if text[position] == "," else position


__all__ = ["Collateral", "Signed", "forget", "gather", "strip_comments"]
