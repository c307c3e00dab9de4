"""From an interface's evidence to a certificate's: what every collector offers, and the attester over it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from mesatee.attestation.bundle import Bundle
from mesatee.attestation.evidence import (
    COMPOSITES,
    HEADS,
    TAG_PLATFORM,
    Claims,
    encode,
    part_data,
    report_data,
)
from mesatee.errors import Malformed, TooLarge

REPORT_DATA_BYTES: Final = 64
"""What evidence binds, in bytes: the field of Intel's and AMD's reports."""
_LOGS: Final = ("eventlog", "ccel")
"""Roles of event logs, which are longer on some machines than a certificate may be."""


class Collector(Protocol):
    """Asks one interface of this machine for evidence."""

    @property
    def tee(self) -> str:
        """Class of TEE that its bundles name."""

    @property
    def level(self) -> int:
        """The level that its evidence can prove, 3 to 5."""

    @property
    def links(self) -> Mapping[str, bytes]:
        """Claims that must stand in the evidence so that its parts belong together; usually none."""

    def collect(self, report_data: bytes) -> Bundle:
        """Fresh evidence over 64 bytes. Raises `Unavailable` or `NotFound` if the machine does not give it."""


def exactly_64(report_data: bytes) -> bytes:
    """Raises `Malformed` for another length: a shorter one would be padded differently by each interface."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise Malformed(f"report data has {len(report_data)} bytes, not {REPORT_DATA_BYTES}")
    return report_data


def nonce_of(report_data: bytes) -> bytes:
    """What a TPM's quote carries for this report data: without the second half if that is zero.

    A TPM takes no longer nonce than its longest digest, 32 or 48 bytes on many. Filled up with zeros to 64
    bytes, what the quote carries is the report data again.

    >>> len(nonce_of(b"d" * 32 + bytes(32))), len(nonce_of(b"d" * 64))
    (32, 64)
    """
    half = REPORT_DATA_BYTES // 2
    data = exactly_64(report_data)
    return data if any(data[half:]) else data[:half]


class CompositeCollector:
    """Evidence of several parts of one machine, as `mesatee.attestation.tee.composite` judges it.

    The claims, for which the head vouches, name what the others are known by (`links`, e.g. the name of a TPM's
    attestation key). The others then sign a nonce of the head's very report.
    """

    def __init__(self, head: Collector, *others: Collector) -> None:
        """`head`: the processor's own evidence, over the claims. Raises `Malformed` for parts that no verifier judges
        together.
        """
        self._head = head
        self._others = tuple(sorted(others, key=lambda each: each.tee))
        self.tee = "+".join((head.tee, *(each.tee for each in self._others)))
        if self.tee not in COMPOSITES:
            raise Malformed(
                f"evidence of class {self.tee[:80]!r} would be judged by nobody",
                hint="known are: " + ", ".join(sorted(COMPOSITES)),
            )

    @property
    def parts(self) -> tuple[Collector, ...]:
        """The head, then the others."""
        return (self._head, *self._others)

    @property
    def level(self) -> int:
        """5 for an encrypted machine or enclave together with a TPM, else the head's."""
        return 5 if any(each.tee == "tpm" for each in self._others) else self._head.level

    @property
    def links(self) -> Mapping[str, bytes]:
        """See `Collector.links`."""
        found: dict[str, bytes] = {}
        for each in self.parts:
            found.update(each.links)
        return MappingProxyType(found)

    def collect(self, report_data: bytes) -> Bundle:
        """See `Collector.collect`. A part that fails fails the whole: less would be another class."""
        first = self._head.collect(report_data)
        parts = [first]
        report = first.files[HEADS[first.tee]]
        parts += [each.collect(part_data(each.tee, report_data, report)) for each in self._others]
        files = {f"{part.tee}.{role}": data for part in parts for role, data in part.files.items()}
        return Bundle(self.tee, files)


class PlatformAttester:
    """An `Attester` whose evidence is a collector's bundle."""

    def __init__(
        self, collector: Collector, measurement: str = "", environments: Mapping[str, str] | None = None
    ) -> None:
        """`measurement`: what this machine's evidence is known to say, hex, as the verifier names it.

        `environments`: name -> digest; the claims carry them, and hardware vouches for the claims.
        """
        self._collector = collector
        self._measurement = measurement
        self._environments = MappingProxyType(dict(environments or {}))

    @property
    def tee(self) -> str:
        """See `Attester.tee`."""
        return self._collector.tee

    @property
    def level(self) -> int:
        """See `Attester.level`."""
        return self._collector.level

    @property
    def environments(self) -> Mapping[str, str]:
        """See `Attester.environments`."""
        return self._environments

    @property
    def measurement(self) -> str:
        """See `Attester.measurement`."""
        return self._measurement

    def evidence(self, claims: Claims, at: int | None = None) -> bytes:
        """See `Attester.evidence`. Hardware tells no time, so `at` has no effect."""
        if not claims.cover(self._environments):
            raise Malformed("the claims name other environments than this attester knows")
        if links := self._collector.links:
            if set(links) & set(claims.extra):
                raise Malformed("the claims already name what links the parts of composite evidence")
            claims = dataclasses.replace(claims, extra={**claims.extra, **links})
        encoded = claims.encode()
        bundle = self._collector.collect(report_data(encoded))
        try:
            return encode(TAG_PLATFORM, bundle.encode(), encoded)
        except TooLarge:
            without = {role: data for role, data in bundle.files.items() if not role.endswith(_LOGS)}
            if len(without) in (0, len(bundle.files)):
                raise
        # A machine with a long log still proves its registers; what went into them is then not established.
        return encode(TAG_PLATFORM, Bundle(bundle.tee, without).encode(), encoded)


def digest_of(measured: bytes) -> str:
    """A measurement of any length as the 32 bytes that sealing is bound to, hex."""
    return hashlib.sha256(measured).hexdigest()


__all__ = [
    "REPORT_DATA_BYTES",
    "Collector",
    "CompositeCollector",
    "PlatformAttester",
    "digest_of",
    "exactly_64",
    "nonce_of",
]
