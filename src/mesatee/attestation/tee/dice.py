"""DICE: certificate chains in which each layer of firmware vouches for the next, as FPGAs and GPUs present them.

Spec: TCG DICE Attestation Architecture 1.1: section 6.1.1 (DiceTcbInfo, 2.23.133.5.4.1), 6.1.2 (MultiTcbInfo,
2.23.133.5.4.5), 6.1.1.1 (flags). Older devices, NVIDIA's among them, put the CompositeDeviceID of Microsoft's RIoT
under the identifier of DiceTcbInfo: ``{version 1, device key, {hash, digest}}``; its first tag tells the two apart.

What a chain proves: which firmware digests the layers measured, if its root is the maker's. Whoever has no root
of that maker learns only that the certificates sign each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mesatee import _core
from mesatee.attestation.appraisal import Answer, Scalar, Status
from mesatee.attestation.chains import verify_chain
from mesatee.attestation.tee import _files
from mesatee.attestation.tee._settle import Answers, settle
from mesatee.attestation.verdict import Verdict
from mesatee.errors import InputError, Malformed, TooLarge
from mesatee.protocol import limits

if TYPE_CHECKING:
    from mesatee.attestation.corpus import CorpusPolicy

LEVEL: Final = 1
"""A device has no level of its own: it adds claims to the machine around it."""
TCB_INFO: Final = "2.23.133.5.4.1"
MULTI_TCB_INFO: Final = "2.23.133.5.4.5"
UEID: Final = "2.23.133.5.4.4"
KNOWN: Final = (TCB_INFO, MULTI_TCB_INFO, UEID)
"""Extensions that may be critical, for they are looked at here. A UEID only names the device."""
_HASHES: Final[Mapping[bytes, tuple[str, int]]] = {
    bytes.fromhex("608648016503040201"): ("sha256", 32),
    bytes.fromhex("608648016503040202"): ("sha384", 48),
    bytes.fromhex("608648016503040203"): ("sha512", 64),
}
_FLAGS: Final = ("notConfigured", "notSecure", "recovery", "debug")
"""Operational flags that speak against a layer, by their bit."""
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_VENDOR, _MODEL, _VERSION, _SVN, _LAYER, _INDEX = 0x80, 0x81, 0x82, 0x83, 0x84, 0x85
_FWIDS, _OPERATIONAL, _VENDOR_INFO, _TYPE = 0xA6, 0x87, 0x88, 0x89


@dataclass(frozen=True, slots=True)
class Fwid:
    """One digest of firmware."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """What one layer says of the next. Empty texts and None where it says nothing."""

    vendor: str = ""
    model: str = ""
    version: str = ""
    svn: int | None = None
    layer: int | None = None
    index: int | None = None
    fwids: tuple[Fwid, ...] = ()
    flags: frozenset[str] = frozenset()
    """Of `_FLAGS`, those that are set."""


# -- DER (X.690) ------------------------------------------------------------------------------------


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of the elements that follow each other in `data`."""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1 : position + 2]
        if not length or tag & 0x1F == 0x1F:
            raise Malformed("a DICE extension is cut short, or has a tag that is not known")
        position += 2
        size = length[0]
        if size > 0x7F:
            octets = size & 0x7F
            size = int.from_bytes(data[position : position + octets])
            position += octets
            if not 1 <= octets <= 3 or size < 0x80:
                raise Malformed("a length in a DICE extension is not DER")
        content = data[position : position + size]
        position += size
        if position > len(data):
            raise Malformed("a DICE extension is cut short")
        yield tag, content


def _sequence(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of the one SEQUENCE that `data` is."""
    found = list(_elements(data))
    if len(found) != 1 or found[0][0] != _SEQUENCE:
        raise Malformed("a DICE extension is not one SEQUENCE")
    return list(_elements(found[0][1]))


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed("a text in a DICE extension is not UTF-8") from None
    if len(text) > limits.CLAIM_CHARS or not text.isprintable():
        raise Malformed(f"a text in a DICE extension is not up to {limits.CLAIM_CHARS} printable characters")
    return text


def _number(data: bytes) -> int:
    value = int.from_bytes(data, signed=True)
    # Beyond 2^53 - 1 it would not survive JSON.
    if not 1 <= len(data) <= 8 or not 0 <= value < 1 << 53:
        raise Malformed("a number in a DICE extension is negative or too large")
    return value


# -- parse ------------------------------------------------------------------------------------------


def parse_tcb_info(value: bytes) -> TcbInfo:
    """DiceTcbInfo or CompositeDeviceID. Raises `Malformed` or `TooLarge`."""
    return _tcb_info(_sequence(value))


def _tcb_info(elements: list[tuple[int, bytes]]) -> TcbInfo:
    if elements and elements[0][0] == _INTEGER:
        return _composite(elements)
    tags = [tag for tag, _ in elements]
    if tags != sorted(set(tags), key=lambda tag: tag & 0x1F) or any(tag & 0xC0 != 0x80 for tag in tags):
        raise Malformed("the fields of a DiceTcbInfo repeat, are out of order or are not tagged")
    fields = dict(elements)

    def number(tag: int) -> int | None:
        return _number(fields[tag]) if tag in fields else None

    return TcbInfo(
        vendor=_text(fields.get(_VENDOR, b"")),
        model=_text(fields.get(_MODEL, b"")),
        version=_text(fields.get(_VERSION, b"")),
        svn=number(_SVN),
        layer=number(_LAYER),
        index=number(_INDEX),
        fwids=_fwids(_elements(fields.get(_FWIDS, b""))),
        flags=_flags(fields[_OPERATIONAL]) if _OPERATIONAL in fields else frozenset(),
    )


def _composite(elements: list[tuple[int, bytes]]) -> TcbInfo:
    match elements:
        case [(0x02, b"\x01"), (0x30, _), (0x30, fwid)]:
            return TcbInfo(fwids=_fwids([(_SEQUENCE, fwid)]))
    raise Malformed("a CompositeDeviceID is not {version 1, device key, firmware id}")


def _fwids(elements: Iterable[tuple[int, bytes]]) -> tuple[Fwid, ...]:
    found: list[Fwid] = []
    for tag, content in elements:
        if len(found) == limits.DICE_FWIDS:
            raise TooLarge(f"a DICE layer has more than {limits.DICE_FWIDS} firmware ids")
        match tag, list(_elements(content)):
            case 0x30, [(0x06, algorithm), (0x04, digest)] if algorithm in _HASHES:
                name, size = _HASHES[algorithm]
                if len(digest) != size:
                    raise Malformed(f"a DICE firmware id of {name} is not {size} bytes")
                found.append(Fwid(name, digest))
            case _:
                raise Malformed("a DICE firmware id is not {SHA-2, digest}")
    return tuple(found)


def _flags(content: bytes) -> frozenset[str]:
    # BIT STRING (X.690 section 8.6): the number of unused bits, then the bits, first one first.
    if not content or content[0] > 7 or len(content) > 5:
        raise Malformed("the flags of a DiceTcbInfo are not a bit string of up to 32 bits")
    bits = content[1] if len(content) > 1 else 0
    return frozenset(name for bit, name in enumerate(_FLAGS) if bits & 0x80 >> bit)


def layers(certificate: _core.X509) -> tuple[TcbInfo, ...]:
    """All that a certificate says of measured firmware. Raises `Malformed` or `TooLarge`."""
    found: list[TcbInfo] = []
    if TCB_INFO in certificate.extensions:
        found.append(parse_tcb_info(certificate.extensions[TCB_INFO][1]))
    if MULTI_TCB_INFO in certificate.extensions:
        for tag, content in _sequence(certificate.extensions[MULTI_TCB_INFO][1]):
            if tag != _SEQUENCE or len(found) == limits.DICE_FWIDS:
                raise Malformed("a MultiTcbInfo is not a list of DiceTcbInfo, or too long")
            found.append(_tcb_info(list(_elements(content))))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Chain:
    """A parsed chain; nothing of it is verified yet."""

    certificates: tuple[bytes, ...]
    """Leaf first."""
    layers: tuple[TcbInfo, ...]
    """From the root down to the leaf."""


def parse(data: bytes) -> Chain:
    """Certificates as PEM or DER, in any order, at least one of which measures. Raises `Malformed` or `TooLarge`."""
    found = _files.leaf_first(_files.certificates(data))
    if not found:
        raise Malformed("a DICE chain has no certificate")
    measured = tuple(layer for der in reversed(found) for layer in layers(_core.X509.parse(der)))
    if not measured:
        raise Malformed("no certificate of the chain has a DICE extension")
    return Chain(tuple(found), measured)


# -- verify and validate ----------------------------------------------------------------------------


def verify(
    chain: Chain, at: int | None, roots: Iterable[bytes] = (), crls: tuple[bytes, ...] = ()
) -> Answers:
    """Answer what is proven at `at` (Unix seconds), under the makers' `roots` (DER, or SHA-256 of it).

    1. The certificates sign each other, up to the last of them.
    2. The chain is valid at `at`, and ends in a root that the policy names. Without any, it is not established.
    """
    answers = Answers()
    named = tuple(roots)
    own = [der for der in chain.certificates if _self_issued(der)]
    # 1. Signatures, under whatever root the chain itself has; its times are the next step's.
    result = verify_chain(chain.certificates, own, None, known=KNOWN)
    if result.chain is Answer.REFUSED:
        answers.signature = Answer.REFUSED
    elif result.path:
        answers.signature = Answer.AFFIRMED
    # 2. Root and times.
    result = verify_chain(chain.certificates, named or own, at, crls, known=KNOWN)
    answers.chain, answers.revocation = result.chain, result.revocation
    answers.reasons += result.reasons
    if not named:
        answers.reasons.append(
            "no root of the device's maker was given: the certificates only sign each other"
        )
        if answers.chain is Answer.AFFIRMED:
            answers.chain = Answer.NOT_ESTABLISHED
    return answers


def _self_issued(der: bytes) -> bool:
    certificate = _core.X509.parse(der)
    return certificate.subject_der == certificate.issuer_der


def validate(chain: Chain) -> tuple[str, ...]:
    """What the corpus policy has against the values: layers that are in debug, unsafe or unfinished."""
    return tuple(
        f"layer {number} of the device says {flag}"
        for number, layer in enumerate(chain.layers)
        for flag in _FLAGS
        if flag in layer.flags
    )


def measurement(chain: Chain) -> str:
    """One measurement over all firmware ids, from the root down, hex: SHA-256 over the digests."""
    digests = b"".join(fwid.digest for layer in chain.layers for fwid in layer.fwids)
    return hashlib.sha256(digests).hexdigest() if digests else ""


def claims(chain: Chain) -> dict[str, Scalar]:
    """The layers' claims, in one vocabulary."""
    found: dict[str, Scalar] = {
        "certificate": hashlib.sha256(chain.certificates[0]).hexdigest(),
        "debug": any("debug" in layer.flags for layer in chain.layers),
    }
    for number, layer in enumerate(chain.layers):
        for name in ("vendor", "model", "version", "svn", "layer", "index"):
            value: Scalar = getattr(layer, name)
            if value not in (None, ""):
                found[f"layer{number}.{name}"] = value
        for index, fwid in enumerate(layer.fwids):
            found[f"layer{number}.fwid{index}"] = f"{fwid.algorithm}:{fwid.digest.hex()}"
    return found


def check(files: Mapping[str, bytes], at: int | None, policy: CorpusPolicy) -> Verdict:
    """Appraise one case: all certificates in its files. The policy names no maker's root, so that no chain is
    affirmed. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`.
    """
    found: list[bytes] = []
    for name in sorted(files, key=lambda role: ("chain" not in role and "cert" not in role, role)):
        try:
            found += _files.certificates(files[name])
        except InputError:
            if "cert" in name or "chain" in name:
                raise
    chain = parse(b"".join(dict.fromkeys(found)))
    return settle(
        verify(chain, at),
        validate(chain),
        level=LEVEL,
        measurement=measurement(chain),
        claims=claims(chain),
        best=Status.NONE,
    )


__all__ = [
    "KNOWN",
    "LEVEL",
    "MULTI_TCB_INFO",
    "TCB_INFO",
    "Chain",
    "Fwid",
    "TcbInfo",
    "check",
    "claims",
    "layers",
    "measurement",
    "parse",
    "parse_tcb_info",
    "validate",
    "verify",
]
