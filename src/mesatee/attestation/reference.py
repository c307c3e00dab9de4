"""Reference values: bundles of measurements that auditors signed.

A bundle is a DSSE envelope over an in-toto statement; its predicate names measurements of one class of TEE and
when the word ends. A relying party names auditors and how many of them must agree in its trust policy
(`trust.RoleTrust.auditors`), so that no single auditor, and nobody else, decides what may run.

Spec: in-toto attestation framework v1; the predicate is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mesatee.attestation.trust import ANY, TEES, RoleTrust
from mesatee.errors import InputError, Malformed, TooLarge, UnsupportedVersion
from mesatee.protocol import envelope as dsse
from mesatee.protocol import limits
from mesatee.protocol.jsonstrict import canonical, parse_object

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:mesatee:reference-values:1"
_DIGITS: Final = (64, 96, 128)


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """What a bundle says."""

    tee: str
    """Class of the TEE whose measurements these are."""
    measurements: Mapping[str, str]
    """Measurement in hex -> what it is, for people."""
    issued: int
    """Unix seconds."""
    expires: int
    """From then on the bundle counts for nothing, Unix seconds."""

    def payload(self) -> bytes:
        """The in-toto statement that auditors sign. Raises as `parse`."""
        value = {
            "_type": STATEMENT,
            "predicateType": PREDICATE,
            "predicate": {"tee": self.tee, "issued": self.issued, "expires": self.expires},
            "subject": [
                {"name": name, "digest": {"measurement": digest}}
                for digest, name in sorted(self.measurements.items())
            ],
        }
        encoded = canonical(value)
        _read(parse_object(encoded, limit=limits.STATEMENT_BYTES))
        return encoded


def sign(values: ReferenceValues, auditors: Sequence[dsse.Signer]) -> dsse.Envelope:
    """A bundle signed by each of `auditors`; `dsse.Envelope.with_signature` adds another's later."""
    return dsse.sign(values.payload(), auditors)


def parse(bundle: dsse.Envelope) -> ReferenceValues:
    """What the bundle says, whoever signed it. Raises `Malformed`, `TooLarge` or `UnsupportedVersion`."""
    return _read(parse_object(bundle.payload, limit=limits.STATEMENT_BYTES))


def _read(value: Mapping[str, Any]) -> ReferenceValues:
    if set(value) != {"_type", "predicateType", "predicate", "subject"}:
        raise Malformed("reference values have exactly _type, predicateType, predicate and subject")
    if (value["_type"], value["predicateType"]) != (STATEMENT, PREDICATE):
        raise UnsupportedVersion(f"reference values are a {PREDICATE} in a {STATEMENT}")
    said, subject = value["predicate"], value["subject"]
    if not isinstance(said, dict) or set(said) != {"tee", "issued", "expires"}:
        raise Malformed("the predicate of reference values has exactly tee, issued and expires")
    issued, expires = said["issued"], said["expires"]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in (issued, expires)):
        raise Malformed("issued and expires of reference values are Unix seconds")
    if not 0 <= issued < expires <= issued + limits.REFERENCE_LIFE_SECONDS:
        raise Malformed(f"reference values live for 1 to {limits.REFERENCE_LIFE_SECONDS} seconds")
    if not isinstance(said["tee"], str) or said["tee"] not in TEES:
        raise UnsupportedVersion(f"TEE class {str(said['tee'])[:40]!r} of reference values is not known")
    if not isinstance(subject, list) or not subject:
        raise Malformed("reference values name at least one measurement")
    if len(subject) > limits.TRUST_ENTRIES:
        raise TooLarge(f"reference values name more than {limits.TRUST_ENTRIES} measurements")
    found = dict(_subject(item) for item in subject)
    if len(found) != len(subject):
        raise Malformed("reference values name a measurement twice")
    return ReferenceValues(said["tee"], found, issued, expires)


def _subject(item: Any) -> tuple[str, str]:
    match item:
        case {"name": str(name), "digest": {"measurement": str(digest), **others}, **more} if not (
            others or more
        ):
            pass
        case _:
            raise Malformed("a subject of reference values has exactly a name and a digest.measurement")
    if len(digest) not in _DIGITS or any(char not in "0123456789abcdef" for char in digest):
        raise Malformed("a measurement is 64, 96 or 128 lower-case hex digits")
    if not 1 <= len(name) <= limits.NAME_CHARS or not name.isprintable():
        raise Malformed(f"the name of a measurement is 1 to {limits.NAME_CHARS} printable characters")
    return digest, name


def audited(bundles: Sequence[dsse.Envelope], trust: RoleTrust, tee: str, at: int) -> frozenset[str]:
    """The measurements of class `tee` that enough of the policy's auditors signed for, at `at` (Unix seconds).

    Auditors agree on a measurement, not on a bundle: each may have signed another one. A bundle that cannot be read, is
    expired, not yet issued, or of another class counts for nothing, and so does a signature that does not verify.
    Raises `TooLarge` for more bundles than the limit.
    """
    if len(bundles) > limits.REFERENCE_BUNDLES:
        raise TooLarge(f"more than {limits.REFERENCE_BUNDLES} bundles of reference values")
    voices: dict[str, set[str]] = {}
    for bundle, values in _of_class(bundles, tee):
        if not values.issued - limits.CLOCK_SKEW_SECONDS <= at < values.expires:
            continue
        signers = {signature.keyid for signature in bundle.valid_signatures()} & set(trust.auditors)
        for measurement in values.measurements:
            voices.setdefault(measurement, set()).update(signers)
    return frozenset(
        measurement for measurement, signers in voices.items() if len(signers) >= trust.auditors_needed
    )


def of_class(bundles: Sequence[dsse.Envelope], tee: str) -> tuple[dsse.Envelope, ...]:
    """The bundles for class `tee`; one that cannot be read is for none."""
    return tuple(bundle for bundle, _ in _of_class(bundles, tee))


def _of_class(bundles: Sequence[dsse.Envelope], tee: str) -> Iterator[tuple[dsse.Envelope, ReferenceValues]]:
    for bundle in bundles:
        try:
            values = parse(bundle)
        except InputError:
            continue
        if values.tee == tee:
            yield bundle, values


def objection(
    measurement: str, bundles: Sequence[dsse.Envelope], trust: RoleTrust, tee: str, at: int
) -> str | None:
    """None if the policy accepts `measurement`, else the objection in plain language."""
    if trust.measurements == ANY or measurement in trust.measurements:
        return None
    name = measurement or "(none)"
    if not trust.auditors:
        return f"measurement {name} is not one that the policy names"
    if measurement in audited(bundles, trust, tee, at):
        return None
    return (
        f"measurement {name} is not one that the policy names, nor did {trust.auditors_needed} of its "
        f"{len(trust.auditors)} auditors sign for it"
    )


__all__ = ["PREDICATE", "ReferenceValues", "audited", "objection", "of_class", "parse", "sign"]
