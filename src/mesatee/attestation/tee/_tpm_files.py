"""Finds the pieces of TPM evidence in files, through the wrappings that tools put around them.

Pieces are recognised by content; a role's name decides only where bytes look like nothing (nonces, bare
signatures) or claim to be a quote. JSON (trustee's and go-attestation's), go-tpm-tools' protocol buffer, hex,
base64, PEM and TPM2B prefixes are undone. Nothing here is believed: where two pieces that should be one differ,
that is an error.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mesatee import _core
from mesatee.attestation import foreign
from mesatee.attestation.detect import detect
from mesatee.attestation.tee import _protobuf, _tpm_parse
from mesatee.attestation.tee._tpm_parse import GENERATED, Public
from mesatee.attestation.tee.eventlog import HASHES, PCRS
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import BOM

Pcrs = dict[str, dict[int, bytes]]
"""Bank -> index -> value."""

_BANK_OF_SIZE: Final = {size: name for name, size in HASHES.values()}
_QUOTE_NAMES: Final = ("message", "quote", "Quote", "quoted", "attest", "msg")
_SIGNATURE_NAMES: Final = ("signature", "Signature", "raw_sig", "rawSig", "sig")
_NOISE: Final = re.compile(r"tpm|quote|attest(ation)?|message|msg|signature|sig|raw|bin|[^a-z0-9]")
_DEPTH: Final = 8
_TRIPLE: Final = re.compile(rb"[rd]?(/1RDR4AY[A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
"""Keylime's quote: base64 of the message, the signature and the dump of the PCR values."""
_LISTING: Final = 64 * limits.KIB
"""How far into a file `tpm2_pcrread`'s lines are looked for: four banks print 11,000 bytes."""
_SELECTION: Final = 4 + 16 * 8
_DIGESTS: Final = 4 + 8 * 66
_KEY_OIDS: Final = (bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("06072a8648ce3d0201"))
"""rsaEncryption and id-ecPublicKey, near the beginning of a bare SubjectPublicKeyInfo."""
_OTHER_KEY: Final = re.compile(r"(^|[^a-z])(ek|srk)|endorsement|storage")
"""Names of a TPM's keys that sign no quote."""
_ENDORSEMENT_KEY: Final = re.compile(r"(^|[^a-z])ek")
_PUBLIC_AREAS: Final = tuple(map(bytes.fromhex, ("0001000b", "0023000b", "0001000c", "0023000c", "00010004")))
"""How a public area begins: an RSA or ECC key, and the hash of its name."""
_DCAP_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@dataclass(frozen=True, slots=True)
class Key:
    """An attestation key that the case names."""

    spki: bytes
    public: Public | None
    anchor: bool
    """It stands in a file of its own, and not in the evidence: what the case trusts."""


@dataclass(slots=True)
class Quote:
    """A quote with the signatures that may be its."""

    name: str
    message: bytes
    signatures: list[bytes] = field(default_factory=list)
    """Named as its own: every one of them must hold."""
    guesses: list[bytes] = field(default_factory=list)
    """Without a name that fits: one must hold if it has none of its own."""


@dataclass(slots=True)
class Pieces:
    """Everything that was found."""

    quotes: list[Quote] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    """DER."""
    anchors: list[bytes] = field(default_factory=list)
    """Certificates in files that are called roots or anchors, DER."""
    endorsement: list[bytes] = field(default_factory=list)
    """Certificates in files that are called an endorsement key's, DER."""
    endorsement_anchors: list[bytes] = field(default_factory=list)
    """Those among them that are called roots or anchors, DER."""
    endorsement_keys: list[bytes] = field(default_factory=list)
    """SubjectPublicKeyInfo of an endorsement key's public area, DER."""
    eventlogs: list[bytes] = field(default_factory=list)
    pcrs: list[Pcrs] = field(default_factory=list)
    nonces: list[bytes] = field(default_factory=list)
    hcl: list[bytes] = field(default_factory=list)
    td_quotes: list[bytes] = field(default_factory=list)
    others: dict[str, bytes] = field(default_factory=dict)
    signatures: list[tuple[str, bytes]] = field(default_factory=list)

    def add_quote(self, name: str, message: bytes, signatures: Sequence[bytes] = ()) -> None:
        """The same quote in two wrappings is one quote."""
        bare = _tpm_parse.unprefixed(message)
        for quote in self.quotes:
            if quote.message == bare:
                quote.signatures += [one for one in signatures if one not in quote.signatures]
                if len(quote.signatures) > limits.TPM_QUOTES:
                    raise TooLarge(f"a quote has more than {limits.TPM_QUOTES} signatures")
                return
        if len(self.quotes) >= limits.TPM_QUOTES:
            raise TooLarge(f"the evidence has more than {limits.TPM_QUOTES} quotes")
        self.quotes.append(Quote(name, bare, list(signatures)))

    def pair(self) -> None:
        """Give each quote in a file of its own the signatures whose names fit."""
        for quote in self.quotes:
            fitting = [data for name, data in self.signatures if _stem(name) == _stem(quote.name)]
            quote.signatures += [data for data in fitting if data not in quote.signatures]
            quote.guesses = [data for _, data in self.signatures]
        if len(self.quotes) == 1 and not self.quotes[0].signatures and len(self.signatures) == 1:
            self.quotes[0].signatures = self.quotes[0].guesses


def one(pieces: Sequence[bytes], what: str) -> bytes | None:
    """The one piece of a kind; None if there is none. Raises `Malformed` if the case has two that differ."""
    if len(set(pieces)) > 1:
        raise Malformed(f"the case has two {what}s that differ")
    return pieces[0] if pieces else None


def one_set(sets: Sequence[Pcrs]) -> Pcrs:
    """All values of PCRs together. Raises `Malformed` if one has two values."""
    found: Pcrs = {}
    for values in sets:
        for bank, registers in values.items():
            for index, value in registers.items():
                if found.setdefault(bank, {}).setdefault(index, value) != value:
                    raise Malformed(f"the case has two values of {bank} PCR {index}")
    return found


def gather(files: Mapping[str, bytes]) -> Pieces:
    """Sort the files' contents. Raises `Malformed`, `TooLarge`, and what parsing a key raises."""
    pieces = Pieces()
    for role, data in files.items():
        if len(data) > limits.CASE_FILE_BYTES:
            raise TooLarge(f"{role} has more than {limits.CASE_FILE_BYTES} bytes")
        _file(pieces, role, data)
    pieces.pair()
    pieces.certificates = list(dict.fromkeys(pieces.certificates))
    pieces.anchors = list(dict.fromkeys(pieces.anchors))
    return pieces


def _stem(role: str) -> str:
    return _NOISE.sub("", role.lower())


def _file(pieces: Pieces, role: str, data: bytes) -> None:
    low = role.lower()
    if "nonce" in low or "challenge" in low or "qualifying" in low:
        pieces.nonces.append(data)
        return
    current = data.removeprefix(BOM)
    for _ in range(limits.WRAPPINGS):
        if _known(pieces, low, current, apart=True):
            return
        if len(current) > limits.TPM_TEXT_BYTES:
            break
        text = current.strip()
        if text[:1] in (b"{", b"[") or text[:1] == text[-1:] == b'"':
            _json(pieces, low, text)
            return
        inner = _unwrap(text)
        if inner is None:
            break
        current = inner
    if "pcr" in low and (values := _pcr_text(data) or _pcr_dump(data)):
        pieces.pcrs.append(values)
    elif "sig" in low and "quote" not in low.replace("quote_sig", ""):
        pieces.signatures.append((role, data))
    elif _says_quote(low):
        # Called a quote, and not even the TPM's magic number: its parser refuses it by name.
        pieces.add_quote(role, data)
    elif (log := _unnamed_log(data)) is not None:
        pieces.eventlogs.append(log)
    else:
        pieces.others[role] = data


def _says_log(low: str) -> bool:
    return any(
        word in re.sub("[^a-z]", "", low) for word in ("eventlog", "biosmeasurements", "mbmeasurement")
    )


def _unnamed_log(data: bytes) -> bytes | None:
    """A log of SHA-1 events has no magic number; the detector tries whether events follow each other."""
    if len(data) > limits.TPM_TEXT_BYTES:
        return None
    try:
        found = detect(data)
    except InputError:
        return None
    return found.files.get("eventlog") if found.tee == "eventlog" else None


def _says_quote(low: str) -> bool:
    return low in ("quote", "message", "msg", "tpm_quote", "attest") or low.startswith(
        ("quote_", "attest_sha")
    )


def _known(pieces: Pieces, role: str, data: bytes, *, apart: bool) -> bool:
    """Recognise bytes by their content. `apart`: they stand in a file of their own."""
    if data[:4] == b"HCLA":
        pieces.hcl.append(data)
    elif data[:4] == GENERATED or data[2:6] == GENERATED:
        if data[4:6] == b"\x80\x18" or data[6:8] == b"\x80\x18" or _says_quote(role):
            pieces.add_quote(role, data)
    elif data[12:28] == _DCAP_VENDOR:
        pieces.td_quotes.append(data)
    elif (triple := _TRIPLE.fullmatch(data[: limits.PEM_BYTES].strip())) is not None:
        message, signature, values = (_b64(part) or b"" for part in triple.groups())
        pieces.add_quote(role, message, [signature])
        pieces.pcrs.append(_pcr_dump(values))
    elif _is_log(data) or (
        apart and _says_log(role) and data[:1] not in b'{["' and _unwrap(data.strip()) is None
    ):
        pieces.eventlogs.append(data)
    elif data[:1] == b"\x0a" and GENERATED in data:
        _attestation(pieces, data)
    elif (
        apart
        and "sig" in role
        and (len(data) in (256, 384, 512) or data[:2] in (b"\0\x14", b"\0\x16", b"\0\x18"))
    ):
        pieces.signatures.append((role, data))
    else:
        return _key(pieces, role, data, apart=apart)
    return True


def _is_log(data: bytes) -> bool:
    """The head of a crypto-agile log, whose first event is the specification's identification."""
    return data[8:28] == bytes(20) and data[32:47] == b"Spec ID Event03"


# -- keys ------------------------------------------------------------------------------------------


def _key(pieces: Pieces, role: str, data: bytes, *, apart: bool) -> bool:
    if _OTHER_KEY.search(role):
        return _endorsement(pieces, role, data) if apart and _ENDORSEMENT_KEY.search(role) else False
    if data.lstrip()[:10] == b"-----BEGIN":
        if b"-----BEGIN CERTIFICATE" in data:
            _certificates(pieces, role, _core.pem_certificates(data), apart=apart)
            return True
        block = re.search(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----", data)
        if block is None or (spki := _b64(b"".join(block[1].split()))) is None:
            return False
        pieces.keys.append(Key(spki, None, apart))
        return True
    if data[:1] == b"\x30":
        try:
            _certificates(pieces, role, [_core.X509.parse(data, lenient=True).der], apart=apart)
        except InputError:
            if not any(oid in data[:32] for oid in _KEY_OIDS) or len(data) > limits.SPKI_BYTES:
                return False
            pieces.keys.append(Key(data, None, apart))
        return True
    bare = _tpm_parse.unprefixed(data)
    if bare[:4] in _PUBLIC_AREAS:
        public = _tpm_parse.parse_public(bare)
        pieces.keys.append(Key(public.spki, public, apart))
        return True
    return False


def _endorsement(pieces: Pieces, role: str, data: bytes) -> bool:
    """The endorsement key's public area or certificates: they sign no quote, and say which TPM it is."""
    bare = _tpm_parse.unprefixed(data)
    if bare[:4] in _PUBLIC_AREAS:
        try:
            pieces.endorsement_keys.append(_tpm_parse.parse_public(bare).spki)
        except UnsupportedVersion:
            # Of a kind that signs no certificate that we read either.
            return False
        return True
    if b"-----BEGIN CERTIFICATE" in data:
        found = list(_core.pem_certificates(data))
    elif data[:1] == b"\x30":
        try:
            found = [_core.X509.parse(data, lenient=True).der]
        except InputError:
            return False
    else:
        return False
    trusted = any(word in role for word in ("root", "anchor"))
    (pieces.endorsement_anchors if trusted else pieces.endorsement).extend(found)
    if len(pieces.endorsement) + len(pieces.endorsement_anchors) > limits.CHAIN_CERTIFICATES:
        raise TooLarge("the evidence has too many certificates of endorsement keys")
    return True


def _certificates(pieces: Pieces, role: str, found: list[bytes], *, apart: bool) -> None:
    trusted = apart and any(word in role for word in ("root", "anchor"))
    (pieces.anchors if trusted else pieces.certificates).extend(found)
    if len(pieces.anchors) + len(pieces.certificates) > 4 * limits.CHAIN_CERTIFICATES:
        raise TooLarge("the evidence has too many certificates")


# -- wrappings -------------------------------------------------------------------------------------


def _unwrap(text: bytes) -> bytes | None:
    return foreign.plain(text) if 8 <= len(text) <= limits.TPM_TEXT_BYTES else None


def _b64(dense: bytes) -> bytes | None:
    bare = dense.rstrip(b"=")
    if re.fullmatch(rb"[A-Za-z0-9+/_-]+", bare) is None:
        return None
    try:
        return base64.b64decode(bare.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(bare) % 4))
    except ValueError:
        return None


def nonce_forms(data: bytes) -> Iterator[bytes]:
    """What a nonce's file may mean: its bytes, or the text of them; padded to the 64 bytes of report data."""
    forms = [data]
    if (inner := _unwrap(data.strip())) is not None:
        forms.append(inner)
    if re.fullmatch(rb"\s*([0-9A-Fa-f]{2})+\s*", data):
        forms.append(binascii.unhexlify(data.strip()))
    for form in forms:
        yield form
        if form:
            yield form.ljust(64, b"\0")


# -- JSON ------------------------------------------------------------------------------------------


def _inner(value: Any) -> Any:
    """An object or array in a JSON value that is text, or bytes, of JSON; None if there is none."""
    data = value.encode("utf-8", "replace") if isinstance(value, str) else _bytes(value)
    text = foreign.json_in(data) if data is not None else None
    try:
        found = None if text is None else json.loads(text, object_pairs_hook=_unique)
    # Bytes may begin like JSON by chance.
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def _json(pieces: Pieces, role: str, text: bytes) -> None:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Malformed(f"{role} is not JSON") from None
    if "pcr" in role and (values := _pcrs(value)):
        pieces.pcrs.append(values)
        return
    budget = [limits.TPM_JSON_VALUES]
    _visit(pieces, role, value, _DEPTH, budget)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a key stands twice in the evidence's JSON")
    return found


def _visit(pieces: Pieces, role: str, value: Any, depth: int, budget: list[int]) -> None:
    budget[0] -= 1
    if depth == 0 or budget[0] < 0:
        # Long collateral of other makers is no error; what is not found here is not proven.
        return
    low = role.lower()
    if low == "pcrs" and (values := _pcrs(value)):
        pieces.pcrs.append(values)
    elif low == "nonce":
        if isinstance(value, str):
            pieces.nonces.append(value.encode())
    elif isinstance(value, dict):
        _object(pieces, role, value, depth, budget)
    elif (inner := _inner(value)) is not None:
        _visit(pieces, role, inner, depth - 1, budget)
    elif (data := _bytes(value)) is not None:
        if low == "raw" or (_says_log(low) and "canonical" not in low):
            pieces.eventlogs.append(data)
        elif not _known(pieces, low, data, apart=False) and (log := _unnamed_log(data)) is not None:
            pieces.eventlogs.append(log)
    elif isinstance(value, list):
        for item in value:
            _visit(pieces, role, item, depth - 1, budget)


def _object(pieces: Pieces, role: str, value: dict[str, Any], depth: int, budget: list[int]) -> None:
    left = dict(value)
    for name in _QUOTE_NAMES:
        message = _bytes(value.get(name))
        signature = next(
            (data for key in _SIGNATURE_NAMES if (data := _bytes(value.get(key))) is not None), None
        )
        if message is not None and signature is not None:
            pieces.add_quote(role, message, [signature])
            left = {key: item for key, item in left.items() if key not in (name, *_SIGNATURE_NAMES)}
            break
    for key, item in left.items():
        _visit(pieces, key, item, depth - 1, budget)


def _bytes(value: Any) -> bytes | None:
    """Bytes of a JSON value: hex, base64, PEM or an array of numbers."""
    if isinstance(value, str) and len(value) >= 8:
        text = value.encode("utf-8", "replace").strip()
        return text if text.startswith(b"-----BEGIN") or _TRIPLE.fullmatch(text) else _unwrap(text)
    if isinstance(value, list) and value and all(type(n) is int and 0 <= n < 256 for n in value):
        return bytes(value)
    return None


# -- values of PCRs --------------------------------------------------------------------------------


def _pcrs(value: Any) -> Pcrs:
    """From a JSON value: by bank and index, by index, in order, or as go-attestation's list of objects."""
    found: Pcrs = {}
    if isinstance(value, dict) and isinstance(inner := value.get("pcrs", value.get("PCRs")), dict | list):
        return _pcrs(inner)
    if isinstance(value, dict):
        by_index = any(name.isdecimal() for name in value)
        for name, item in value.items():
            if by_index:
                _put(found, int(name) if name.isdecimal() and len(name) <= 2 else -1, _bytes(item))
            elif isinstance(item, dict | list):
                for bank, registers in _pcrs(item).items():
                    found.setdefault(bank, {}).update(registers)
    elif isinstance(value, list):
        for index, item in enumerate(value[: 4 * PCRS]):
            if isinstance(item, dict):
                number = item.get("Index", item.get("index"))
                if type(number) is int:
                    _put(found, number, _bytes(item.get("Digest", item.get("digest"))))
            else:
                _put(found, index, _bytes(item))
    return found


def _put(found: Pcrs, index: int, value: bytes | None) -> None:
    if value is None or len(value) not in _BANK_OF_SIZE or not 0 <= index < PCRS:
        raise Malformed("the value of a PCR is not a digest, or its index is not one")
    found.setdefault(_BANK_OF_SIZE[len(value)], {})[index] = value


def _pcr_text(data: bytes) -> Pcrs:
    """What `tpm2_pcrread` prints: lines of ``index: 0xVALUE``."""
    found: Pcrs = {}
    for line in data[:_LISTING].splitlines():
        if hit := re.fullmatch(rb"\s*(\d{1,2})\s*:\s*(?:0x)?([0-9A-Fa-f]{40,128})\s*", line):
            if len(hit[2]) % 2:
                raise Malformed("the value of a PCR is not a digest")
            _put(found, int(hit[1]), binascii.unhexlify(hit[2]))
    return found


def _pcr_dump(data: bytes) -> Pcrs:
    """What `tpm2_quote --pcr` writes: its C structures as they lie in memory, little-endian.

    TPML_PCR_SELECTION (a count, and 16 of hash, size and 4 bytes of bits), a count, and as many TPML_DIGEST (a count,
    and 8 of size and 64 bytes).
    """
    if not _SELECTION <= len(data) - 4 <= _SELECTION + 4 * PCRS * _DIGESTS:
        return {}
    banks = int.from_bytes(data[:4], "little")
    lists = int.from_bytes(data[_SELECTION : _SELECTION + 4], "little")
    if not 1 <= banks <= limits.EVENT_BANKS or len(data) != _SELECTION + 4 + lists * _DIGESTS:
        return {}
    values: list[bytes] = []
    for start in range(_SELECTION + 4, len(data), _DIGESTS):
        for place in range(min(int.from_bytes(data[start : start + 4], "little"), 8)):
            at = start + 4 + place * 66
            values.append(data[at + 2 : at + 2 + int.from_bytes(data[at : at + 2], "little")])
    found: Pcrs = {}
    rest = iter(values)
    for bank in range(banks):
        bits = int.from_bytes(data[4 + 8 * bank + 3 : 4 + 8 * bank + 7], "little")
        for index in range(PCRS):
            if bits >> index & 1:
                _put(found, index, next(rest, None))
    return found


# -- go-tpm-tools' protocol buffer -----------------------------------------------------------------


def _attestation(pieces: Pieces, data: bytes) -> None:
    """attest.Attestation of go-tpm-tools (proto/attest.proto): keys, quotes, log and certificates."""
    budget = [limits.PROTOBUF_FIELDS]
    for number, value in _protobuf.fields(data, budget):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            public = _tpm_parse.parse_public(value)
            pieces.keys.append(Key(public.spki, public, anchor=False))
        elif number == 2:
            _attested_quote(pieces, value, budget)
        elif number == 3 and value:
            pieces.eventlogs.append(value)
        elif number in (6, 7) and value:
            pieces.certificates.append(value)


def _attested_quote(pieces: Pieces, data: bytes, budget: list[int]) -> None:
    """tpm.Quote: quote, raw_sig, pcrs (a hash and a map of index to value)."""
    values = {number: value for number, value in _protobuf.fields(data, budget) if isinstance(value, bytes)}
    if 1 not in values or 2 not in values:
        raise Malformed("a quote in the attestation lacks its message or its signature")
    pieces.add_quote("attestation", values[1], [values[2]])
    found: Pcrs = {}
    for number, entry in _protobuf.fields(values.get(3, b""), budget):
        if number == 2 and isinstance(entry, bytes):
            pair = dict(_protobuf.fields(entry, budget))
            index, value = pair.get(1, 0), pair.get(2)
            if not isinstance(index, int) or not isinstance(value, bytes):
                raise Malformed("a PCR in the attestation is not an index and a value")
            _put(found, index, value)
    pieces.pcrs.append(found)


__all__ = ["Key", "Pcrs", "Pieces", "Quote", "gather", "nonce_forms", "one", "one_set"]
