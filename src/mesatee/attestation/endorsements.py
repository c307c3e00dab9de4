"""What others say of machines: certificates, revocation lists, TCB information; and reference values.

A relying party collects endorsements ahead of time, keeps them, and hands them to the verifier, which fetches
nothing. Bytes stay as their issuer sent them, because issuers sign bytes. An endorsement is not trusted for
having been kept: every verifier checks signatures, and the times inside, again.

>>> kept = Endorsements((Endorsement("snp", "", "ask_ark", b"...", fetched=1, expires=None),))
>>> Endorsements.parse(kept.encode()) == kept
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from mesatee.attestation.chains import read_crl
from mesatee.attestation.evidence import PLATFORM_TEES
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.digests import b64decode, b64encode
from mesatee.protocol.jsonstrict import canonical, parse_object

VERSION: Final = 1
INTEL_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
"""A time as Intel's statements have it."""
_CRL_NUMBER: Final = "2.5.29.20"
_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


@dataclass(frozen=True, slots=True)
class Endorsement:
    """One file of one issuer."""

    tee: str
    """Class of the TEE."""
    subject: str
    """Whose: FMSPC of an Intel platform, chip id of an AMD one, in hex; empty for all of the class."""
    role: str
    """As in `bundle.Bundle.files`, e.g. ``vcek`` or ``pck_crl``."""
    data: bytes
    fetched: int
    """When it came, Unix seconds."""
    expires: int | None
    """When its issuer will have a newer one, Unix seconds; None when it does not say."""

    def __post_init__(self) -> None:
        if self.tee not in PLATFORM_TEES:
            raise UnsupportedVersion(f"TEE class {self.tee[:40]!r} of an endorsement is not known")
        if not 1 <= len(self.role) <= limits.NAME_CHARS or not set(self.role) <= _WORD:
            raise Malformed("the role of an endorsement is not of lower-case letters, digits, _, . and -")
        if len(self.subject) > limits.COLUMN_CHARS or not set(self.subject) <= frozenset("0123456789abcdef"):
            raise Malformed("the subject of an endorsement is not lower-case hex")
        if not 1 <= len(self.data) <= limits.ENDORSEMENT_BYTES:
            raise TooLarge(f"an endorsement has 1 to {limits.ENDORSEMENT_BYTES} bytes")
        for name, value in (("fetched", self.fetched), ("expires", self.expires)):
            if value is not None and not 0 <= value < 1 << 53:
                raise Malformed(f"{name} of an endorsement is not a time in Unix seconds")

    @property
    def key(self) -> tuple[str, str, str]:
        """What a newer one replaces."""
        return (self.tee, self.subject, self.role)

    def is_over(self, at: int) -> bool:
        """Whether its issuer has a newer one by `at`."""
        return self.expires is not None and self.expires <= at


@dataclass(frozen=True, slots=True)
class Endorsements:
    """A collection: at most one endorsement for each class, subject and role, and reference values."""

    items: tuple[Endorsement, ...] = ()
    references: tuple[dsse.Envelope, ...] = ()
    """Signed bundles of reference values, see `reference`."""
    digest: str = field(init=False, compare=False, default="")
    """SHA-256 of the collection, hex: an appraisal that was made with another one may differ."""

    def __post_init__(self) -> None:
        if len(self.items) > limits.ENDORSEMENTS or len(self.references) > limits.REFERENCE_BUNDLES:
            raise TooLarge(
                f"a collection has at most {limits.ENDORSEMENTS} endorsements and {limits.REFERENCE_BUNDLES} "
                "bundles of reference values"
            )
        ordered = tuple(sorted(self.items, key=lambda item: item.key))
        if len({item.key for item in ordered}) != len(ordered):
            raise Malformed("a collection has two endorsements for the same class, subject and role")
        object.__setattr__(self, "items", ordered)
        object.__setattr__(self, "digest", hashlib.sha256(self.encode()).hexdigest())

    def lookup(self, tee: str, subject: str) -> dict[str, bytes]:
        """Role -> bytes, for this subject or for all; what is for this subject comes first.

        Also what is over: that the time inside has passed is the verifier's to say.
        """
        found: dict[str, bytes] = {}
        for wanted in ("", subject):
            found |= {
                item.role: item.data for item in self.items if (item.tee, item.subject) == (tee, wanted)
            }
        return found

    def merged(self, others: Iterable[Endorsement]) -> Endorsements:
        """With `others`, each of which replaces an older one of the same key.

        Older is what its issuer says so of; only where issuers say nothing the time counts at which it was fetched,
        for a cache may serve today what the vendor replaced a week ago.
        """
        kept = {item.key: item for item in self.items}
        for item in others:
            before = kept.get(item.key)
            if before is None or _age(before) <= _age(item):
                kept[item.key] = item
        return Endorsements(tuple(kept.values()), self.references)

    def with_reference(self, bundle: dsse.Envelope) -> Endorsements:
        """With one more bundle of reference values. Of bundles with the same payload all signatures are kept that
        verify, each once: nobody's envelope takes another's signature away. Raises `TooLarge`.
        """
        same = [known for known in self.references if known.digest == bundle.digest]
        others = [known for known in self.references if known.digest != bundle.digest]
        kept: dict[str, dsse.Signature] = {}
        for envelope in (*same, bundle):
            for signature in envelope.valid_signatures():
                kept.setdefault(signature.keyid, signature)
        signatures = tuple(kept.values())
        # More signatures than an envelope has room for fill several.
        size = dsse.MAX_SIGNATURES
        parts = [
            dsse.Envelope(bundle.payload, signatures[start : start + size])
            for start in range(0, len(signatures), size)
        ]
        return Endorsements(self.items, (*others, *parts))

    def without_expired(self, at: int) -> Endorsements:
        """Without what is over at `at` (Unix seconds)."""
        return Endorsements(tuple(item for item in self.items if not item.is_over(at)), self.references)

    def encode(self) -> bytes:
        """Canonical JSON, for export."""
        return canonical(
            {
                "version": VERSION,
                "endorsements": [
                    {
                        "tee": item.tee,
                        "subject": item.subject,
                        "role": item.role,
                        "data": b64encode(item.data),
                        "fetched": item.fetched,
                        "expires": item.expires,
                    }
                    for item in self.items
                ],
                "references": [bundle.as_dict() for bundle in self.references],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Endorsements:
        """The inverse of `encode`. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
        value = parse_object(data, limit=limits.ENDORSEMENTS_BYTES)
        if value.get("version") != VERSION:
            raise UnsupportedVersion(f"a collection of endorsements has version {VERSION}")
        if set(value) != {"version", "endorsements", "references"}:
            raise Malformed("a collection has exactly version, endorsements and references")
        items, bundles = value["endorsements"], value["references"]
        if not isinstance(items, list) or not isinstance(bundles, list):
            raise Malformed("endorsements and references of a collection are lists")
        return cls(tuple(map(_item, items)), tuple(map(dsse.from_dict, bundles)))


def _item(value: Any) -> Endorsement:
    kinds: Mapping[str, Any] = {
        "tee": str,
        "subject": str,
        "role": str,
        "data": str,
        "fetched": int,
        "expires": int | None,
    }
    if not isinstance(value, dict) or set(value) != set(kinds):
        raise Malformed("an endorsement has exactly " + ", ".join(kinds))
    for name, kind in kinds.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise Malformed(f"{name} of an endorsement has the wrong type")
    return Endorsement(**{**value, "data": b64decode(value["data"], max_bytes=limits.ENDORSEMENT_BYTES)})


class Issued(NamedTuple):
    """What an issuer itself says of how new something is."""

    order: tuple[int, ...] = ()
    """Greater for what is newer, among things of one kind. Empty if the issuer says nothing, or it cannot be read:
    that never takes the place of what can.
    """
    at: int = 0
    """Unix seconds; 0 if it does not say."""


def _age(item: Endorsement) -> tuple[tuple[int, ...], int]:
    return issued(item.data).order, item.fetched


def issued(data: bytes) -> Issued:
    """Of a revocation list thisUpdate and the CRL number (RFC 5280, sections 5.1.2.4 and 5.2.3); of a statement of
    Intel's ``tcbEvaluationDataNumber`` and ``issueDate``. Nothing is verified.
    """
    try:
        if data[:1] == b"\x30":
            found = read_crl(data)
            _, number = found.extensions.get(_CRL_NUMBER, (False, b"\2\0"))
            return Issued((found.this_update, int.from_bytes(number[2:])), found.this_update)
        for value in parse_object(data, limit=limits.ENDORSEMENT_BYTES).values():
            if isinstance(value, dict) and isinstance(count := value.get("tcbEvaluationDataNumber"), int):
                moment = datetime.strptime(str(value.get("issueDate")), INTEL_TIME).replace(tzinfo=UTC)
                return Issued((count, int(moment.timestamp())), int(moment.timestamp()))
    except (InputError, ValueError):
        pass
    return Issued()


def beside(collected: Mapping[str, bytes], evidence: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files (role -> bytes) that a verifier is to see: what the relying party collected, and the `evidence`.

    Neither replaces the other. What was collected comes first, so that no number of pieces beside the evidence can
    push it out. A piece of the evidence keeps its role, by which some verifiers know it; what was collected under the
    same role goes by another name, for verifiers know collateral by its content.

    >>> beside({"crl": b"ours", "vcek": b"same"}, {"report": b"...", "crl": b"theirs", "vcek": b"same"})
    {'crl.2': b'ours', 'vcek': b'same', 'report': b'...', 'crl': b'theirs'}
    """
    found: dict[str, bytes] = {}
    for role, data in collected.items():
        name = role if evidence.get(role, data) == data else free_name(role, (*collected, *evidence, *found))
        found[name] = data
    return {**found, **evidence}


def free_name(role: str, taken: Collection[str]) -> str:
    """`role`, with a number behind it if it is taken."""
    names = (role, *(f"{role}.{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


NOTHING: Final = Endorsements()
"""No endorsement: evidence has to bring what it needs."""
Source: TypeAlias = Callable[[], Endorsements]
"""Gives the collection that counts now: whoever appraises asks it each time, for endorsements are replaced."""


def nothing() -> Endorsements:
    """The source of no endorsement."""
    return NOTHING


__all__ = [
    "INTEL_TIME",
    "NOTHING",
    "Endorsement",
    "Endorsements",
    "Issued",
    "Source",
    "beside",
    "free_name",
    "issued",
    "nothing",
]
